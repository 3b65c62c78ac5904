"""Sector averages and quotas of carbon efficiency codes, products with their footprints, and facts below zero."""

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Create the tables."""
    # A loss makes a value added negative; ``value`` is checked to be at least zero since 0009, and stays its size.
    op.execute("alter table node_facts add column negative boolean not null default false")
    op.execute(
        """
        create table efficiency_standards (
            standard_id text not null,
            valid_from date not null,
            version integer not null check (version >= 1),
            valid_to date,
            document jsonb not null,
            recorded_by text not null,
            recorded_at timestamptz not null,
            constraint efficiency_standards_pk primary key (standard_id, valid_from, version),
            constraint efficiency_standards_span check (valid_to is null or valid_to > valid_from)
        )
        """
    )
    op.execute(
        """
        create table products (
            product_id text not null,
            version integer not null check (version >= 1),
            document jsonb not null,
            changed_by text not null,
            changed_at timestamptz not null,
            reason text not null,
            constraint products_pk primary key (product_id, version)
        )
        """
    )
    for table in ("efficiency_standards", "products"):
        op.execute(
            f"""
            create trigger {table}_append_only before update or delete or truncate on {table}
                for each statement execute function refuse_statement_change()
            """
        )
