"""Artifacts and test reports."""

import sqlalchemy as sa
from alembic import op

revision = '0017'
down_revision = '0016'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('artifacts',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('project', sa.Text(), nullable=False),
    sa.Column('run_id', sa.Text(), nullable=False),
    sa.Column('job', sa.Text(), nullable=False),
    sa.Column('step', sa.Text(), nullable=False),
    sa.Column('step_run_id', sa.Text(), nullable=False),
    sa.Column('agent_id', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('file_name', sa.Text(), nullable=False),
    sa.Column('format', sa.Text(), nullable=False),
    sa.Column('url', sa.Text(), nullable=False),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('size', sa.BigInteger(), nullable=False),
    sa.Column('sha256', sa.Text(), nullable=False),
    sa.Column('files', sa.Integer(), nullable=False),
    sa.Column('unpacked', sa.BigInteger(), nullable=False),
    sa.Column('part_size', sa.Integer(), nullable=False),
    sa.Column('received', sa.BigInteger(), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.Column('ready_at', sa.BigInteger(), nullable=False),
    sa.Column('expire_at', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    with op.batch_alter_table('artifacts', schema=None) as batch_op:
        batch_op.create_index('artifacts_by_expiry', ['expire_at'], unique=False, sqlite_where=sa.text('expire_at > 0'), postgresql_where=sa.text('expire_at > 0'))
        batch_op.create_index('artifacts_by_project', ['project', 'format', 'size'], unique=False)
        batch_op.create_index('artifacts_by_run', ['run_id', 'name'], unique=False)
        batch_op.create_index('artifacts_unfinished', ['state', 'created_at'], unique=False, sqlite_where=sa.text("state <> 'ready'"), postgresql_where=sa.text("state <> 'ready'"))
        batch_op.create_index(batch_op.f('ix_artifacts_step_run_id'), ['step_run_id'], unique=False)

    op.create_table('test_reports',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('run_id', sa.Text(), nullable=False),
    sa.Column('pipeline_id', sa.Text(), nullable=False),
    sa.Column('branch', sa.Text(), nullable=False),
    sa.Column('commit_sha', sa.Text(), nullable=False),
    sa.Column('job', sa.Text(), nullable=False),
    sa.Column('step', sa.Text(), nullable=False),
    sa.Column('step_run_id', sa.Text(), nullable=False),
    sa.Column('attempt', sa.Integer(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('created_at', sa.BigInteger(), nullable=False),
    sa.Column('tests', sa.Integer(), nullable=False),
    sa.Column('passed', sa.Integer(), nullable=False),
    sa.Column('failed', sa.Integer(), nullable=False),
    sa.Column('errors', sa.Integer(), nullable=False),
    sa.Column('skipped', sa.Integer(), nullable=False),
    sa.Column('files', sa.Integer(), nullable=False),
    sa.Column('duration', sa.Float(), nullable=False),
    sa.Column('complete', sa.Boolean(), nullable=False),
    sa.Column('problems', sa.Text(), nullable=False),
    sa.Column('failing', sa.Text(), nullable=False),
    sa.Column('flaky', sa.Text(), nullable=False),
    sa.Column('passed_ids', sa.LargeBinary(), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    with op.batch_alter_table('test_reports', schema=None) as batch_op:
        batch_op.create_index('test_reports_by_branch', ['pipeline_id', 'branch', 'run_id'], unique=False)
        batch_op.create_index('test_reports_by_commit', ['pipeline_id', 'commit_sha', 'run_id'], unique=False)
        batch_op.create_index('test_reports_by_run', ['run_id', 'step_run_id', 'name'], unique=False)

