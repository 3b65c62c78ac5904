"""The wrong lines of an import, each with its reason."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the table."""
    op.execute(
        """
        create table import_lines (
            import_id text not null,
            line bigint not null,
            reason text not null,
            detail text not null,
            detail_zh text not null,
            constraint import_lines_pk primary key (import_id, line),
            constraint import_lines_import foreign key (import_id) references imports (id)
        )
        """
    )
