"""The units' door: addresses that are turned away again and again, as long as they are reported."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        create table knocking_peers (
            peer text not null,
            began_at timestamptz not null,
            last_at timestamptz not null,
            constraint knocking_peers_pk primary key (peer)
        )
        """
    )
