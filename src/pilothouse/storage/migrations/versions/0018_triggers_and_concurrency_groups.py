"""Triggers with their fires, requests with an id, and members of concurrency groups."""

import sqlalchemy as sa
from alembic import op

revision = '0018'
down_revision = '0017'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('concurrency_members',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('project', sa.Text(), nullable=False),
    sa.Column('group_name', sa.Text(), nullable=False),
    sa.Column('run_id', sa.Text(), nullable=False),
    sa.Column('waits_for', sa.Text(), nullable=False),
    sa.Column('since', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    with op.batch_alter_table('concurrency_members', schema=None) as batch_op:
        batch_op.create_index('concurrency_members_by_group', ['project', 'kind', 'group_name'], unique=False)
        batch_op.create_index('concurrency_members_by_run', ['run_id'], unique=False)

    op.create_table('run_requests',
    sa.Column('pipeline_id', sa.Text(), nullable=False),
    sa.Column('caller', sa.Text(), nullable=False),
    sa.Column('request_id', sa.Text(), nullable=False),
    sa.Column('digest', sa.Text(), nullable=False),
    sa.Column('run_id', sa.Text(), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('pipeline_id', 'caller', 'request_id')
    )
    with op.batch_alter_table('run_requests', schema=None) as batch_op:
        batch_op.create_index('run_requests_by_time', ['created_at'], unique=False)

    op.create_table('trigger_fires',
    sa.Column('trigger_id', sa.Text(), nullable=False),
    sa.Column('number', sa.BigInteger(), autoincrement=False, nullable=False),
    sa.Column('at', sa.BigInteger(), nullable=False),
    sa.Column('due_at', sa.BigInteger(), nullable=False),
    sa.Column('cause', sa.Text(), nullable=False),
    sa.Column('run_id', sa.Text(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=False),
    sa.PrimaryKeyConstraint('trigger_id', 'number')
    )
    op.create_table('trigger_position',
    sa.Column('id', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('offset', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_table('triggers',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('pipeline_id', sa.Text(), nullable=False),
    sa.Column('project', sa.Text(), nullable=False),
    sa.Column('position', sa.Integer(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('type', sa.Text(), nullable=False),
    sa.Column('options', sa.Text(), nullable=False),
    sa.Column('enabled', sa.Boolean(), nullable=False),
    sa.Column('by', sa.Text(), nullable=False),
    sa.Column('by_id', sa.Text(), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.Column('next_at', sa.BigInteger(), nullable=False),
    sa.Column('seen', sa.BigInteger(), nullable=False),
    sa.Column('fired', sa.BigInteger(), nullable=False),
    sa.Column('last_at', sa.BigInteger(), nullable=False),
    sa.Column('last_run', sa.Text(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    with op.batch_alter_table('triggers', schema=None) as batch_op:
        batch_op.create_index('triggers_by_pipeline', ['pipeline_id', 'position'], unique=False)
        batch_op.create_index('triggers_by_project', ['project', 'type'], unique=False)
        batch_op.create_index('triggers_due', ['next_at'], unique=False, sqlite_where=sa.text('next_at > 0'), postgresql_where=sa.text('next_at > 0'))

    with op.batch_alter_table('pipeline_specs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('triggers', sa.Text(), server_default='', nullable=False))
