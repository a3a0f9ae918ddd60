"""Uploads, tenants, changed settings, and projects that were deleted."""

import sqlalchemy as sa
from alembic import op

revision = '0025'
down_revision = '0024'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('deleted_projects',
        sa.Column('id', sa.Text(), nullable=False),
        sa.Column('deleted_at', sa.BigInteger(), nullable=False),
        sa.Column('cleared_at', sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint('id')
    )
    with op.batch_alter_table('deleted_projects', schema=None) as batch_op:
        batch_op.create_index('deleted_projects_waiting', ['deleted_at'], unique=False, sqlite_where=sa.text('cleared_at = 0'), postgresql_where=sa.text('cleared_at = 0'))

    op.create_table('settings',
        sa.Column('name', sa.Text(), nullable=False),
        sa.Column('value', sa.Text(), nullable=False),
        sa.Column('changed_by', sa.Text(), nullable=False),
        sa.Column('changed_at', sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint('name')
    )
    op.create_table('tenants',
        sa.Column('id', sa.Text(), nullable=False),
        sa.Column('name', sa.Text(), nullable=False),
        sa.Column('description', sa.Text(), nullable=False),
        sa.Column('created_at', sa.BigInteger(), nullable=False),
        sa.Column('updated_at', sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint('id'),
        sa.UniqueConstraint('name')
    )
    op.create_table('upload_parts',
        sa.Column('key', sa.Text(), nullable=False),
        sa.Column('upload_id', sa.Text(), nullable=False),
        sa.Column('start', sa.BigInteger(), nullable=False),
        sa.Column('size', sa.BigInteger(), nullable=False),
        sa.Column('created_at', sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint('key')
    )
    with op.batch_alter_table('upload_parts', schema=None) as batch_op:
        batch_op.create_index('upload_parts_by_upload', ['upload_id', 'start'], unique=False)
        batch_op.create_index('upload_parts_unfinished', ['created_at'], unique=False, sqlite_where=sa.text('size = 0'), postgresql_where=sa.text('size = 0'))

    op.create_table('uploads',
        sa.Column('id', sa.Text(), nullable=False),
        sa.Column('project', sa.Text(), nullable=False),
        sa.Column('name', sa.Text(), nullable=False),
        sa.Column('size', sa.BigInteger(), nullable=False),
        sa.Column('received', sa.BigInteger(), nullable=False),
        sa.Column('sha256', sa.Text(), nullable=False),
        sa.Column('state', sa.Text(), nullable=False),
        sa.Column('creator_id', sa.Text(), nullable=False),
        sa.Column('created_by', sa.Text(), nullable=False),
        sa.Column('created_at', sa.BigInteger(), nullable=False),
        sa.Column('ready_at', sa.BigInteger(), nullable=False),
        sa.Column('expire_at', sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint('id')
    )
    with op.batch_alter_table('uploads', schema=None) as batch_op:
        batch_op.create_index('uploads_by_creator', ['project', 'creator_id', 'id'], unique=False)
        batch_op.create_index('uploads_by_project', ['project', 'size'], unique=False)
        batch_op.create_index('uploads_unfinished', ['state', 'expire_at'], unique=False, sqlite_where=sa.text("state <> 'ready'"), postgresql_where=sa.text("state <> 'ready'"))

    with op.batch_alter_table('projects', schema=None) as batch_op:
        batch_op.add_column(sa.Column('tenant_id', sa.Text(), server_default='', nullable=False))
        batch_op.create_index('projects_by_tenant', ['tenant_id'], unique=False)
