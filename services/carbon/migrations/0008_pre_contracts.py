"""Energy performance contracts and their statements: versions and signatures that nobody can change afterwards."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create the tables."""
    op.execute(
        """
        create table epc_contracts (
            contract_id text not null,
            version integer not null check (version >= 1),
            document jsonb not null,
            changed_by text not null,
            changed_at timestamptz not null,
            constraint epc_contracts_pk primary key (contract_id, version)
        )
        """
    )
    op.execute(
        """
        create table epc_contents (
            statement_id text not null,
            version integer not null check (version >= 1),
            content jsonb not null,
            digest text not null,
            made_by text not null,
            made_at timestamptz not null,
            constraint epc_contents_pk primary key (statement_id, version)
        )
        """
    )
    op.execute(
        """
        create table epc_statements (
            statement_id text not null,
            contract_id text not null,
            first_day date not null,
            end_day date not null,
            supersedes text,
            version integer not null,
            state text not null,
            withdrawn_reason text,
            changed_by text not null,
            changed_at timestamptz not null,
            constraint epc_statements_pk primary key (statement_id),
            constraint epc_statements_content foreign key (statement_id, version) references epc_contents
        )
        """
    )
    op.execute("create index epc_statements_by_contract on epc_statements (contract_id, first_day, statement_id)")
    op.execute(
        """
        create table epc_signatures (
            statement_id text not null,
            party text not null,
            person text not null,
            signed_at timestamptz not null,
            digest text not null,
            constraint epc_signatures_pk primary key (statement_id, party),
            constraint epc_signatures_statement foreign key (statement_id) references epc_statements
        )
        """
    )
    # Whatever a program or a person at the database tries: what both have signed stays as it is.
    op.execute(
        """
        create function epc_refuse() returns trigger language plpgsql as $$
        begin
            raise exception 'a signed statement cannot be changed' using errcode = 'integrity_constraint_violation';
        end
        $$
        """
    )
    op.execute(
        """
        create trigger epc_contents_stay before update or delete on epc_contents
            for each row execute function epc_refuse()
        """
    )
    op.execute(
        """
        create trigger epc_signatures_stay before update or delete on epc_signatures
            for each row execute function epc_refuse()
        """
    )
    op.execute(
        """
        create trigger epc_statements_frozen before update or delete on epc_statements
            for each row when (old.state = 'frozen') execute function epc_refuse()
        """
    )
