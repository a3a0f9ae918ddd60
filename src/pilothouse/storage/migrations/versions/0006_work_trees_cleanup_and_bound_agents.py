"""Work trees, cleanup after a cancel, degraded agents, agents bound to projects."""

import sqlalchemy as sa
from alembic import op

revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        'repository_commits',
        sa.Column('project', sa.Text(), nullable=False),
        sa.Column('repository', sa.Text(), nullable=False),
        sa.Column('commit_sha', sa.Text(), nullable=False),
        sa.Column('depth', sa.Integer(), autoincrement=False, nullable=False),
        sa.Column('packs', sa.Text(), nullable=False),
        sa.Column('used_at', sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint('project', 'repository', 'commit_sha', 'depth'),
    )
    with op.batch_alter_table('runs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('tag', sa.Text(), server_default='', nullable=False))
        batch_op.add_column(sa.Column('cleanup_until', sa.BigInteger(), server_default='0', nullable=False))
        batch_op.add_column(sa.Column('forced', sa.Boolean(), server_default=sa.false(), nullable=False))
    with op.batch_alter_table('jobs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('queue_deadline', sa.BigInteger(), server_default='0', nullable=False))
        batch_op.add_column(sa.Column('cleanup_until', sa.BigInteger(), server_default='0', nullable=False))
        batch_op.add_column(sa.Column('stopping', sa.Text(), server_default='', nullable=False))
    with op.batch_alter_table('agents', schema=None) as batch_op:
        batch_op.add_column(sa.Column('blocked', sa.Integer(), server_default='0', nullable=False))
        batch_op.add_column(sa.Column('problems', sa.Text(), server_default='[]', nullable=False))
        batch_op.add_column(sa.Column('registered_by', sa.Text(), server_default='', nullable=False))
        batch_op.add_column(sa.Column('projects', sa.Text(), nullable=True))
        batch_op.add_column(sa.Column('allowed_labels', sa.Text(), nullable=True))
        batch_op.add_column(sa.Column('ephemeral', sa.Boolean(), server_default=sa.false(), nullable=False))
    with op.batch_alter_table('registration_tokens', schema=None) as batch_op:
        batch_op.add_column(sa.Column('agents', sa.Text(), nullable=True))
        batch_op.add_column(sa.Column('projects', sa.Text(), nullable=True))
        batch_op.add_column(sa.Column('labels', sa.Text(), nullable=True))
    with op.batch_alter_table('pipelines', schema=None) as batch_op:
        batch_op.add_column(sa.Column('repository', sa.Text(), server_default='', nullable=False))
        batch_op.create_index('pipelines_by_repository', ['project', 'repository'], unique=False)
