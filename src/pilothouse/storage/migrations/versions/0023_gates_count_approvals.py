"""Gates count approvals, and name their run, job and step."""

import sqlalchemy as sa
from alembic import op

revision = '0023'
down_revision = '0022'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('gates', schema=None) as batch_op:
        batch_op.add_column(sa.Column('run_name', sa.Text(), server_default='', nullable=False))
        batch_op.add_column(sa.Column('job', sa.Text(), server_default='', nullable=False))
        batch_op.add_column(sa.Column('step', sa.Text(), server_default='', nullable=False))
        batch_op.add_column(sa.Column('needed', sa.Integer(), server_default='1', nullable=False))
        batch_op.add_column(sa.Column('approvals', sa.Text(), server_default='[]', nullable=False))
    _name()


def _name() -> None:
    """Gates that are open now are listed by their names, too."""
    at = (
        "FROM attempts JOIN steps ON steps.id = attempts.step_id JOIN jobs ON jobs.id = steps.job_id"
        " JOIN runs ON runs.id = attempts.run_id WHERE attempts.id = gates.id"
    )
    for column, name in (("run_name", "runs.name"), ("job", "jobs.name"), ("step", "steps.name")):
        op.execute(f"UPDATE gates SET {column} = COALESCE((SELECT {name} {at}), '') WHERE status = 'open'")
