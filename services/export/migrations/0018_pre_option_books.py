"""Option templates of a centre's own dictionary (dialect Y), as people have put them here."""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        create table option_books (
            connection_id text not null,
            name text not null,
            version text not null,
            ignores_storage boolean not null,
            options jsonb not null,
            source text not null,
            changed_by text not null,
            changed_at timestamptz not null,
            constraint option_books_pk primary key (connection_id)
        )
        """
    )
