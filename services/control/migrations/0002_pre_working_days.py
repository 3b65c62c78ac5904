"""Working-day calendars: plans may keep to working days or to days off, and weekends may be worked."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns."""
    op.execute("alter table calendar_days add column worked boolean not null default false")
    op.execute(
        """
        alter table plans
          add column day_class text not null default 'any'
              constraint plans_day_class check (day_class in ('any', 'working_days', 'days_off')),
          add column working_calendar text
        """
    )
