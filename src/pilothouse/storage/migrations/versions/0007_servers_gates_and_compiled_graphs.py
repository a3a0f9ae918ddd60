"""Several servers on one database; compiled graphs and gates."""

import sqlalchemy as sa
from alembic import op

revision = '0007'
down_revision = '0006'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        'periodic_leases',
        sa.Column('name', sa.Text(), nullable=False),
        sa.Column('server', sa.Text(), nullable=False),
        sa.Column('until', sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint('name'),
    )
    op.create_table(
        'servers',
        sa.Column('id', sa.Text(), nullable=False),
        sa.Column('started_at', sa.BigInteger(), nullable=False),
        sa.Column('renewed_at', sa.BigInteger(), nullable=False),
        sa.Column('version', sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint('id'),
    )
    op.create_table(
        'connections',
        sa.Column('agent_id', sa.Text(), nullable=False),
        sa.Column('channel', sa.Text(), nullable=False),
        sa.Column('id', sa.Text(), nullable=False),
        sa.Column('server', sa.Text(), nullable=False),
        sa.Column('kinds', sa.Text(), nullable=False),
        sa.Column('number', sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint('agent_id', 'channel'),
    )
    op.create_index('ix_connections_server', 'connections', ['server'])
    with op.batch_alter_table('agents', schema=None) as batch_op:
        batch_op.drop_column('connection_id')
    with op.batch_alter_table('leases', schema=None) as batch_op:
        batch_op.add_column(sa.Column('capacity', sa.Text(), server_default='slots', nullable=False))
        batch_op.add_column(sa.Column('stop_reason', sa.Text(), server_default='', nullable=False))
    op.create_table(
        'run_graphs',
        sa.Column('run_id', sa.Text(), nullable=False),
        sa.Column('part', sa.Integer(), autoincrement=False, nullable=False),
        sa.Column('body', sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint('run_id', 'part'),
    )
    with op.batch_alter_table('pipeline_specs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('spec', sa.Text(), server_default='', nullable=False))
        batch_op.add_column(sa.Column('graph', sa.Text(), server_default='', nullable=False))
        batch_op.add_column(sa.Column('names', sa.Text(), server_default='', nullable=False))
