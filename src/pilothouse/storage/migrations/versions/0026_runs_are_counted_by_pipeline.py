"""Runs are counted by pipeline."""

import sqlalchemy as sa
from alembic import op

revision = '0026'
down_revision = '0025'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('run_counts',
    sa.Column('pipeline_id', sa.Text(), nullable=False),
    sa.Column('total', sa.BigInteger(), nullable=False),
    sa.Column('succeeded', sa.BigInteger(), nullable=False),
    sa.Column('failed', sa.BigInteger(), nullable=False),
    sa.PrimaryKeyConstraint('pipeline_id')
    )
    op.execute(
        "INSERT INTO run_counts (pipeline_id, total, succeeded, failed) "
        "SELECT pipeline_id, count(*), sum(CASE WHEN status = 'succeeded' THEN 1 ELSE 0 END), "
        "sum(CASE WHEN status = 'failed' THEN 1 ELSE 0 END) FROM runs WHERE pipeline_id <> '' GROUP BY pipeline_id"
    )
