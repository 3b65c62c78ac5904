"""Accounts and bills of water, gas, heat and other media, beside those of electricity; all append-only."""

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Create the tables."""
    # Beside those of electricity: a water company's numbers may be the same as the grid company's.
    op.execute(
        """
        create table medium_accounts (
            medium text not null,
            account_number text not null,
            version integer not null check (version >= 1),
            site_id text not null,
            circuit_id text,
            recorded_at timestamptz not null,
            recorded_by text not null,
            constraint medium_accounts_pk primary key (medium, account_number, version)
        )
        """
    )
    op.execute("create index medium_accounts_by_site on medium_accounts (site_id)")
    op.execute(
        """
        create table medium_bills (
            medium text not null,
            account_number text not null,
            number text not null,
            version integer not null check (version >= 1),
            current boolean not null,
            first_day date not null,
            end_day date not null,
            quantity numeric check (quantity >= 0),
            unit text,
            amount_cny numeric not null,
            issued_on date not null,
            recorded_at timestamptz not null,
            recorded_by text not null,
            constraint medium_bills_pk primary key (medium, account_number, number, version),
            constraint medium_bills_span check (end_day > first_day),
            constraint medium_bills_unit check ((quantity is null) = (unit is null))
        )
        """
    )
    op.execute("create index medium_bills_by_day on medium_bills (medium, account_number, first_day) where current")
