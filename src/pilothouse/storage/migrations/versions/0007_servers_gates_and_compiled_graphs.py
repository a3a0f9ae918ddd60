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
