"""What an entity must be besides what its model says, whichever way it comes in: by a file or over the API."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson

from libs.common.contracts.registry import Entity, Line, LineKind
from libs.common.registry.packets import parse_packet, parse_pattern

MAX_ENTITY_BYTES = 16 << 10
"""An entity as JSON; its whole history travels in one message, which a bus takes up to a megabyte. [B]"""

_MOST = (("period_s", 604_800, "s"), ("command_latency_s", 2_592_000, "s"), ("pacing_ms", 60_000, "ms"))
"""Field, largest value that can be meant, unit: what is beyond is a wrong unit, or a line that stands still."""
_NO_HOST = re.compile(r"[\s/?#@]")


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that an entity breaks."""

    field: str
    """Empty where the whole entity is meant."""
    expected: str
    expected_zh: str
    found: str | None = None


def broken_rules(entity: Entity) -> Iterator[Broken]:
    """Yield the rules that an entity breaks."""
    try:
        size = len(orjson.dumps(entity.model_dump(mode="json", exclude_none=True)))
    except (TypeError, ValueError) as exc:  # half a surrogate pair, a number beyond 64 bits
        yield Broken("", "what can be written as JSON", "可写成 JSON 的内容", str(exc))
        return
    if size > MAX_ENTITY_BYTES:
        yield Broken("", f"at most {MAX_ENTITY_BYTES} bytes as JSON", f"JSON 不超过 {MAX_ENTITY_BYTES} 字节", str(size))
    for field, most, unit in _MOST:
        value = getattr(entity, field, None)
        if value is not None and value > most:
            yield Broken(field, f"at most {most} {unit}", f"不大于 {most} {unit} 的数", str(value))
    if isinstance(entity, Line) and entity.kind in (LineKind.TCP, LineKind.RTU_OVER_TCP):
        try:
            split_host_port(entity.endpoint, 502)
        except ValueError:
            yield Broken("endpoint", "host:port", "主机:端口", entity.endpoint)
    if isinstance(entity, Line) and entity.kind is LineKind.DTU:
        yield from _broken_packets(entity)
    if isinstance(entity, Line) and entity.kind in _SCHEMES:
        yield from _broken_url(entity)


_SCHEMES = {LineKind.AEP: ("http", "https"), LineKind.PULL: ("http", "https", "postgresql")}


def _broken_url(line: Line) -> Iterator[Broken]:
    """Yield what is wrong with a URL; one with a password would publish it, and is not shown either."""
    schemes = _SCHEMES[line.kind]
    try:
        parts = urlsplit(line.endpoint)
        right = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
        secret = parts.username is not None or parts.password is not None
    except ValueError:
        right, secret = False, "@" in line.endpoint
    if not right or secret:
        names = ", ".join(f"{name}://…" for name in schemes)
        both = (f"{names} without user and password", f"{names},不含用户名和密码")
        yield Broken("endpoint", *both, None if secret else line.endpoint)


def _broken_packets(line: Line) -> Iterator[Broken]:
    try:
        parse_packet(line.endpoint)
    except ValueError as exc:
        both = ("a registration packet: text, or hex: and bytes", "注册包:文本,或 hex: 加字节")
        yield Broken("endpoint", *both, f"{line.endpoint} ({exc})")
    heartbeat = (line.settings or {}).get("heartbeat")
    if heartbeat is None:
        return
    try:
        parse_pattern(str(heartbeat))
    except ValueError as exc:
        both = ("text or hex: and bytes, ? and one * for any", "文本,或 hex: 加字节,可用 ? 和一个 * 表示任意字节")
        yield Broken("settings.heartbeat", *both, f"{heartbeat} ({exc})")


def split_host_port(text: str, default_port: int | None = None) -> tuple[str, int]:
    """Return host and port of ``host:port`` or ``[v6]:port``, of ``host`` alone where there is a default port.

    Raises:
        ValueError: It is none of these, or the host is no name that can be looked up.
    """
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, ""
    host = host.removeprefix("[").removesuffix("]")
    if not host or _NO_HOST.search(host):
        raise ValueError("no host")
    host.encode("idna")  # an empty label or one that is too long is a UnicodeError, which is a ValueError
    if not port and default_port is not None:
        return host, default_port
    if not (port.isascii() and port.isdigit() and 0 < int(port) <= 65535):
        raise ValueError("no port")
    return host, int(port)
