"""What a run's expressions have made of secrets is kept, encrypted, to be masked."""

import sqlalchemy as sa
from alembic import op

revision = '0011'
down_revision = '0010'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        'derived_secrets',
        sa.Column('run_id', sa.Text(), nullable=False),
        sa.Column('value', sa.LargeBinary(), nullable=False),
        sa.Column('updated_at', sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint('run_id'),
    )
    with op.batch_alter_table('derived_secrets', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_derived_secrets_updated_at'), ['updated_at'], unique=False)
