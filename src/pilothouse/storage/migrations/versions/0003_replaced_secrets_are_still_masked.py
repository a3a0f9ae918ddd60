"""Replaced secrets are still masked."""

import sqlalchemy as sa
from alembic import op

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('retired_secrets',
    sa.Column('project', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('value', sa.LargeBinary(), nullable=False),
    sa.Column('retired_at', sa.BigInteger(), nullable=False)
    )
    with op.batch_alter_table('retired_secrets', schema=None) as batch_op:
        batch_op.create_index('retired_secrets_by_name', ['project', 'name', 'retired_at'], unique=False)

