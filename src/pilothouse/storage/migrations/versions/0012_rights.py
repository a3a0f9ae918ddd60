"""Tokens know their last use, audit records the token, and the journal's head whether it is kept outside, too."""

import sqlalchemy as sa
from alembic import op

revision = '0012'
down_revision = '0011'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('audit_records', schema=None) as batch_op:
        batch_op.add_column(sa.Column('token_id', sa.Text(), server_default='', nullable=False))

    with op.batch_alter_table('credentials', schema=None) as batch_op:
        batch_op.add_column(sa.Column('last_used_at', sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column('address', sa.Text(), server_default='', nullable=False))
        batch_op.add_column(sa.Column('user_agent', sa.Text(), server_default='', nullable=False))

    with op.batch_alter_table('journal_head', schema=None) as batch_op:
        batch_op.add_column(
            sa.Column('kept_outside', sa.Boolean(), server_default=sa.false(), nullable=False)
        )

    # Former releases stored whole answers, with the secrets of new tokens in them.
    op.execute('DELETE FROM idempotency_keys')
