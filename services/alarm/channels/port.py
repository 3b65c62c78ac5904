"""The port of all channels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from libs.common.contracts.base import JsonObject
from libs.common.errors import Unavailable
from libs.common.redact import HIDDEN
from services.alarm.channels.config import ChannelConfig

HIDDEN_CHARS = 4
"""A shorter value of a stored secret is a word that any text may hold."""
SHOWN = frozenset({"host", "user"})
"""What a stored secret holds besides secrets."""


class NotDelivered(Unavailable):
    """The receiver did not take a message."""

    code = "not_delivered"
    title_zh = "通知未送达"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message as a channel sends it."""

    notification_id: str
    """The same whenever it is sent again; receivers can tell a repetition by it."""
    kind: str
    created_at: datetime
    title: str
    text: str
    language: str
    alarms: Sequence[JsonObject] = ()
    """The first of its alarms, for programs."""
    alarm_count: int = 0


@dataclass(frozen=True, slots=True)
class Credentials:
    """The values of a channel's stored secret."""

    place: str
    values: Mapping[str, str] = field(repr=False, default_factory=dict)

    def get(self, name: str) -> str | None:
        """Return a value, None where there is none."""
        return self.values.get(name) or None

    def require(self, name: str) -> str:
        """Return a value.

        Raises:
            NotDelivered: There is none.
        """
        value = self.get(name)
        if value is None:
            raise NotDelivered(
                f"{self.place}: expected a line {name}=…", message_zh=f"{self.place}：缺少 {name}=… 一行"
            )
        return value

    def hidden(self, text: str) -> str:
        """Return a text without what is secret of the values, for what a receiver says."""
        secrets = (value for name, value in self.values.items() if name not in SHOWN)
        for value in sorted(secrets, key=len, reverse=True):
            if len(value) >= HIDDEN_CHARS:
                text = text.replace(value, HIDDEN)
        return text


class Channel(Protocol):
    """Sends messages to receivers of one kind."""

    async def send(self, config: ChannelConfig, credentials: Credentials, message: Outgoing) -> None:
        """Send a message, and return when the receiver has taken it.

        Raises:
            PlatformError: It did not, for all that we know.
        """


def shortened(text: str, most_bytes: int) -> str:
    """Return a text of at most so many bytes of UTF-8, cut between characters."""
    raw = text.encode()
    if len(raw) <= most_bytes:
        return text
    mark = "…"
    return raw[: most_bytes - len(mark.encode())].decode(errors="ignore") + mark
