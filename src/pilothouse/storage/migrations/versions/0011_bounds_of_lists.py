"""Runs know the number of their jobs, and are counted by status."""

import sqlalchemy as sa
from alembic import op

revision = '0011'
down_revision = '0010'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('runs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('job_count', sa.Integer(), server_default='0', nullable=False))
        batch_op.create_index('runs_by_pipeline_status', ['pipeline_id', 'status'], unique=False)
