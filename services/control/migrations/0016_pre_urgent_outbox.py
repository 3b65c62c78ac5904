"""Commands, and calls of a person, are found in the outbox behind however many events wait to be told."""

from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Index them as the relay asks for them (``libs/common/bus/outbox.py``)."""
    op.execute(
        "create index outbox_urgent on outbox (id)"
        " where topic in ('wattring.control.commands.v1', 'wattring.alarm.conditions.v1')"
    )
