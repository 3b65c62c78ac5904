"""Money: tariffs and special days that people enter, prices by month, accounts and bills; all append-only."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the tables."""
    # A version is never changed: a correction has a higher one, and what was known at a time can be asked for.
    op.execute(
        """
        create table tariff_windows (
            tariff_id text not null,
            revision integer not null check (revision >= 1),
            row_no integer not null,
            region text not null,
            customer_class text not null,
            valid_from date not null,
            valid_to date,
            months smallint[] not null,
            day_type text not null,
            start_min smallint not null check (start_min >= 0),
            end_min smallint not null check (end_min <= 1440),
            band text not null,
            ratio numeric not null check (ratio >= 0),
            ratio_base text not null,
            source text not null,
            confidence text not null,
            recorded_at timestamptz not null,
            recorded_by text not null,
            constraint tariff_windows_pk primary key (tariff_id, revision, row_no),
            constraint tariff_windows_order check (start_min < end_min),
            constraint tariff_windows_validity check (valid_to >= valid_from)
        )
        """
    )
    op.execute(
        """
        create table special_day_lists (
            region text not null,
            day_type text not null,
            year smallint not null,
            version integer not null check (version >= 1),
            days date[] not null,
            known_until date not null,
            source text not null,
            recorded_at timestamptz not null,
            recorded_by text not null,
            constraint special_day_lists_pk primary key (region, day_type, year, version)
        )
        """
    )
    op.execute(
        """
        create table energy_prices (
            region text not null,
            customer_class text not null,
            voltage text not null,
            month date not null check (extract(day from month) = 1),
            version integer not null check (version >= 1),
            base_cny_per_kwh numeric not null check (base_cny_per_kwh >= 0),
            fixed_cny_per_kwh numeric not null,
            basic_prices jsonb,
            source text not null,
            recorded_at timestamptz not null,
            recorded_by text not null,
            constraint energy_prices_pk primary key (region, customer_class, voltage, month, version)
        )
        """
    )
    op.execute(
        """
        create table billing_accounts (
            account_number text not null,
            valid_from date not null,
            version integer not null check (version >= 1),
            site_id text not null,
            circuits text[] not null,
            region text not null,
            customer_class text not null,
            voltage text not null,
            transformers jsonb not null,
            contract_kw numeric check (contract_kw > 0),
            basic_mode text,
            recorded_at timestamptz not null,
            recorded_by text not null,
            constraint billing_accounts_pk primary key (account_number, valid_from, version)
        )
        """
    )
    op.execute("create index billing_accounts_by_site on billing_accounts (site_id)")
    op.execute(
        """
        create table bills (
            account_number text not null,
            number text not null,
            version integer not null check (version >= 1),
            current boolean not null,
            first_day date not null,
            end_day date not null,
            energy_kwh numeric not null check (energy_kwh >= 0),
            amount_cny numeric not null,
            energy_by_band jsonb not null,
            parts_cny jsonb not null,
            issued_on date not null,
            recorded_at timestamptz not null,
            recorded_by text not null,
            constraint bills_pk primary key (account_number, number, version),
            constraint bills_span check (end_day > first_day)
        )
        """
    )
    op.execute("create index bills_by_day on bills (account_number, first_day) where current")
