"""Units that wait for a LOGIN or a LOGOUT are found without looking at all the others, at every turn of a sender."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        create index units_waiting on units (connection_id)
         where phase in ('new', 'refused', 'lost', 'leaving') or devices_changed
        """
    )
