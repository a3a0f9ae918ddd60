"""Runs know the number of their jobs and are counted; blobs know whether a run has used them."""

import sqlalchemy as sa
from alembic import op

revision = '0014'
down_revision = '0013'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('runs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('job_count', sa.Integer(), server_default='0', nullable=False))
        batch_op.create_index('runs_by_pipeline_status', ['pipeline_id', 'status'], unique=False)
        batch_op.create_index(
            'runs_unfinished',
            ['project'],
            unique=False,
            sqlite_where=sa.text('finished_at = 0'),
            postgresql_where=sa.text('finished_at = 0'),
        )

    with op.batch_alter_table('blobs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('used', sa.Boolean(), server_default=sa.true(), nullable=False))
        batch_op.create_index('blobs_by_project', ['project', 'size'], unique=False)
        batch_op.create_index(
            'blobs_unused',
            ['created_by'],
            unique=False,
            sqlite_where=sa.text('NOT used'),
            postgresql_where=sa.text('NOT used'),
        )
