"""Pauses and gates; step runs without rows"""

import sqlalchemy as sa
from alembic import op

revision = '0008'
down_revision = '0007'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('gates',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('run_id', sa.Text(), nullable=False),
    sa.Column('project', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('message', sa.Text(), nullable=False),
    sa.Column('roles', sa.Text(), nullable=False),
    sa.Column('users', sa.Text(), nullable=False),
    sa.Column('child_run', sa.Text(), nullable=False),
    sa.Column('opened_at', sa.BigInteger(), nullable=False),
    sa.Column('deadline', sa.BigInteger(), nullable=False),
    sa.Column('closed_at', sa.BigInteger(), nullable=False),
    sa.Column('decided_by', sa.Text(), nullable=False),
    sa.Column('decided_by_id', sa.Text(), nullable=False),
    sa.Column('comment', sa.Text(), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    with op.batch_alter_table('gates', schema=None) as batch_op:
        batch_op.create_index('gates_by_run', ['run_id', 'id'], unique=False)
        batch_op.create_index('gates_by_status', ['status', 'id'], unique=False)

    with op.batch_alter_table('attempts', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('attempts_by_status'))
        batch_op.create_index('attempts_by_status', ['status', 'queued_at', 'id'], unique=False)

    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('held_at', sa.BigInteger(), server_default='0', nullable=False))

    with op.batch_alter_table('runs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('triggered_by_id', sa.Text(), server_default='', nullable=False))
        batch_op.add_column(sa.Column('parent_gate', sa.Text(), server_default='', nullable=False))
        batch_op.add_column(sa.Column('depth', sa.Integer(), server_default='0', nullable=False))
        batch_op.add_column(sa.Column('paused_at', sa.BigInteger(), server_default='0', nullable=False))
        batch_op.add_column(sa.Column('paused_by', sa.Text(), server_default='', nullable=False))
        batch_op.add_column(sa.Column('unsettled', sa.Boolean(), server_default=sa.false(), nullable=False))
        batch_op.create_index('runs_unsettled', ['id'], unique=False, sqlite_where=sa.text('unsettled'), postgresql_where=sa.text('unsettled'))

    with op.batch_alter_table('steps', schema=None) as batch_op:
        batch_op.add_column(sa.Column('kept', sa.Boolean(), server_default=sa.false(), nullable=False))
        batch_op.add_column(sa.Column('deadline', sa.BigInteger(), server_default='0', nullable=False))
        batch_op.create_index('steps_by_deadline', ['deadline'], unique=False, sqlite_where=sa.text('deadline > 0'), postgresql_where=sa.text('deadline > 0'))

    # What a rerun has kept could be told by its lack of attempts until now.
    op.execute(
        "UPDATE steps SET kept = TRUE WHERE kept_from <> '' AND attempts = 0"
        " AND status IN ('succeeded', 'failed', 'timed_out')"
    )
