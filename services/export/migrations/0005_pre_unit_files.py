"""Accounts of units at the file server."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        create table unit_file_accounts (
            unit_key bigint not null,
            username text not null,
            sealed bytea not null,
            uploads boolean not null,
            changed_by text not null,
            changed_at timestamptz not null,
            constraint unit_file_accounts_pk primary key (unit_key),
            constraint unit_file_accounts_unit foreign key (unit_key) references units (key),
            constraint unit_file_accounts_name unique (username)
        )
        """
    )
