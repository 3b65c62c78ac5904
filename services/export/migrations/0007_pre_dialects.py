"""Units know how often their centre asks for them, deliveries have a detail beside their text."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table units add column heartbeat_s double precision")
    op.execute("alter table deliveries add column detail text not null default ''")
