"""Whose turn it was to write."""

import sqlalchemy as sa
from alembic import op

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('write_turn',
    sa.Column('id', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('server', sa.Text(), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
