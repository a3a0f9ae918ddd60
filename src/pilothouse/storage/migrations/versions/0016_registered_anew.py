"""What agents had started and pushed before they registered anew."""

import sqlalchemy as sa
from alembic import op

revision = '0016'
down_revision = '0015'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        'ingest_earlier',
        sa.Column('agent_id', sa.Text(), nullable=False),
        sa.Column('rpc', sa.Text(), nullable=False),
        sa.Column('batch_id', sa.Text(), nullable=False),
        sa.Column('at', sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint('agent_id', 'rpc', 'batch_id'),
    )
    with op.batch_alter_table('leases', schema=None) as batch_op:
        batch_op.add_column(sa.Column('claimed', sa.Boolean(), server_default=sa.true(), nullable=False))
