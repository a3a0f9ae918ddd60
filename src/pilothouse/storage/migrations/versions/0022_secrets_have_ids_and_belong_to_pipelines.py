"""Secrets have ids, and may belong to pipelines."""

import sqlalchemy as sa
from alembic import op
from uuid_utils import uuid7

revision = '0022'
down_revision = '0021'
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Not in a batch: indexes and keys follow the new name in both databases.
    op.execute("ALTER TABLE retired_secrets RENAME COLUMN project TO owner")
    op.execute("ALTER TABLE secrets RENAME COLUMN project TO owner")
    with op.batch_alter_table('secrets', schema=None) as batch_op:
        batch_op.add_column(sa.Column('id', sa.Text(), nullable=True))
        batch_op.add_column(sa.Column('project', sa.Text(), nullable=True))
    _fill(op.get_bind())
    with op.batch_alter_table('secrets', schema=None) as batch_op:
        batch_op.alter_column('id', existing_type=sa.Text(), nullable=False)
        batch_op.alter_column('project', existing_type=sa.Text(), nullable=False)
        batch_op.create_index('secrets_by_id', ['id'], unique=True)
        batch_op.create_index('secrets_by_project', ['project', 'name'], unique=False)


def _fill(conn: sa.Connection) -> None:
    c = sa.table('secrets', sa.column('owner'), sa.column('name'), sa.column('id'), sa.column('project')).c
    conn.execute(sa.update(c.owner.table).values(project=c.owner))
    for owner, name in conn.execute(sa.select(c.owner, c.name)).all():
        mine = sa.update(c.owner.table).where(c.owner == owner, c.name == name)
        conn.execute(mine.values(id=str(uuid7())))
