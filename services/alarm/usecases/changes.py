"""What all changes of who is told have in common: who may make them, and what the audit log says of them."""

from dataclasses import dataclass
from datetime import datetime

from libs.common.contracts.audit import AuditEvent
from libs.common.contracts.base import JsonObject
from libs.common.errors import Forbidden
from libs.common.tokens import Principal
from services.alarm.usecases.ports import Directory, actor_of


class NotAllSites(Forbidden):
    """Only who may see all sites says who is told of alarms."""

    code = "not_all_sites"
    title_zh = "仅限可查看全部站点的用户"


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for a change, by which request."""

    who: Principal
    request_id: str | None

    @property
    def name(self) -> str:
        """How the audit log names them."""
        return actor_of(self.who)

    def require_all_sites(self, directory: Directory) -> None:
        """Return when the asker is not limited to some sites.

        Raises:
            NotAllSites: They are.
        """
        if directory.sites_of(self.who) is not None:
            raise NotAllSites(
                "channels and routes concern all sites; you are limited to some",
                message_zh="通知渠道与路由涉及全部站点，您仅可管理部分站点",
            )

    def did(
        self, action: str, subject: str, at: datetime, *, before: JsonObject | None, after: JsonObject | None
    ) -> AuditEvent:
        """Return what the audit log says of a change."""
        return AuditEvent(
            actor=self.name,
            door="api",
            action=action,
            subject=subject,
            at=at,
            before=before,
            after=after,
            request_id=self.request_id,
        )
