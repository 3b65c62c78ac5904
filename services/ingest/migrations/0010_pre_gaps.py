"""Gaps: of which kind they are, how often the device should have reported, and whether somebody has been told."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.execute(
        """
        alter table gaps
            add column kind text not null default 'silence'
                constraint gaps_kind check (kind in ('silence', 'sequence')),
            add column interval_s double precision not null default 60,
            add column told boolean not null default false
        """
    )
    op.execute("create index gaps_told on gaps (device_id) where told")
