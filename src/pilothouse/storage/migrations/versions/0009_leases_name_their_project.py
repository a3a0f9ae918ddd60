"""Leases name their project."""

import sqlalchemy as sa
from alembic import op

revision = '0009'
down_revision = '0008'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('leases', schema=None) as batch_op:
        batch_op.add_column(sa.Column('project', sa.Text(), server_default='', nullable=False))
    # Until now only attempts of steps were leased.
    op.execute(
        "UPDATE leases SET project = COALESCE((SELECT runs.project FROM attempts JOIN runs"
        " ON runs.id = attempts.run_id WHERE attempts.id = leases.id), '')"
    )
