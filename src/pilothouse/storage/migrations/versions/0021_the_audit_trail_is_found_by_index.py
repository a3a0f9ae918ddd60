"""The filters of the audit trail are answered by an index."""

from alembic import op

revision = '0021'
down_revision = '0020'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('audit_records', schema=None) as batch_op:
        batch_op.drop_index('audit_records_by_target')
        batch_op.create_index('audit_records_by_target', ['target', 'at', 'id'], unique=False)
        batch_op.create_index('audit_records_by_action', ['action', 'at', 'id'], unique=False)
        batch_op.create_index('audit_records_by_actor', ['actor', 'at', 'id'], unique=False)
        batch_op.create_index('audit_records_by_actor_id', ['actor_id', 'at', 'id'], unique=False)
