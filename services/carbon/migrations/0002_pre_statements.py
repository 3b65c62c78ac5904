"""Own factors and certificates by revision, the one inventory that uses each certificate, published statements."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the tables."""
    op.execute(
        """
        create table emission_factors (
            factor_id text not null,
            revision integer not null check (revision >= 1),
            series text not null,
            family text not null,
            category text not null,
            region text not null,
            data_year integer not null,
            value numeric not null check (value >= 0),
            unit text not null,
            gas text not null,
            source text not null,
            source_year integer,
            known_from date not null,
            confidence text not null,
            name_en text not null,
            name_zh text not null,
            withdrawn boolean not null,
            evidence text,
            supplier text,
            entered_by text not null,
            entered_at timestamptz not null,
            constraint emission_factors_pk primary key (factor_id, revision),
            constraint emission_factors_supplier check (family <> 'supplier' or supplier is not null),
            constraint emission_factors_evidence check (evidence is not null or withdrawn)
        )
        """
    )
    # A certificate that is held today is cancelled tomorrow: the registration of it gets another revision.
    op.execute(
        """
        create table certificates (
            number text not null,
            revision integer not null check (revision >= 1),
            kind text not null,
            market text not null,
            vintage integer not null,
            technology text not null,
            beneficiary text not null,
            cancelled_on date,
            sold_with_power boolean not null,
            kwh numeric not null check (kwh > 0),
            evidence text not null,
            entered_by text not null,
            entered_at timestamptz not null,
            constraint certificates_pk primary key (number, revision)
        )
        """
    )
    # One row per certificate: the primary key is what makes double use impossible, whoever writes.
    op.execute(
        """
        create table certificate_uses (
            number text not null,
            revision integer not null,
            inventory_id text not null,
            used_at timestamptz not null,
            used_by text not null,
            constraint certificate_uses_pk primary key (number),
            constraint certificate_uses_certificate
                foreign key (number, revision) references certificates (number, revision)
        )
        """
    )
    op.execute(
        """
        create table published_statements (
            kind text not null,
            statement_id text not null,
            version integer not null check (version >= 1),
            name text not null,
            statement text not null,
            digest text not null,
            table_digest text not null,
            known_on date not null,
            published_at timestamptz not null,
            published_by text not null,
            constraint published_statements_pk primary key (kind, statement_id, version)
        )
        """
    )
    # What was published, and what a factor was said to be, stays: not even a program with a mistake changes it.
    op.execute(
        """
        create function refuse_statement_change() returns trigger language plpgsql as $$
        begin
            raise exception 'rows of % are only ever added: % is refused', tg_table_name, tg_op
                using errcode = 'insufficient_privilege';
        end $$
        """
    )
    for table in ("emission_factors", "certificates", "certificate_uses", "published_statements"):
        op.execute(
            f"""
            create trigger {table}_append_only before update or delete or truncate on {table}
                for each statement execute function refuse_statement_change()
            """
        )
