"""The settings that a line of the registry may have of its own, checked."""

from collections.abc import Collection
from zoneinfo import ZoneInfo

from libs.common.contracts.registry import Line
from libs.common.errors import InvalidInput


def one_of(line: Line, name: str, value: object, known: tuple[int, ...] | tuple[str, ...]) -> int | str:
    """Return ``value``, the line's setting of this name, when it is one of those that are known.

    Raises:
        InvalidInput: It is not.
    """
    for one in known:
        if value == one and not isinstance(value, bool):
            return one
    names = ", ".join(map(str, known))
    raise InvalidInput(
        f"line {line.id}: settings.{name}: expected one of {names}, found {value!r}",
        message_zh=f"线路 {line.id}:settings.{name} 应为 {names} 之一,实际为 {value!r}",
    )


def flag(line: Line, name: str, *, default: bool = False) -> bool:
    """Return the line's setting of this name, true or false.

    Raises:
        InvalidInput: It is neither.
    """
    value = (line.settings or {}).get(name, default)
    if not isinstance(value, bool):
        raise InvalidInput(
            f"line {line.id}: settings.{name}: expected true or false, found {value!r}",
            message_zh=f"线路 {line.id}:settings.{name} 应为 true 或 false,实际为 {value!r}",
        )
    return value


def seconds(line: Line, name: str, default: float, *, most: float = 60) -> float:
    """Return the line's setting of this name, a time above 0. [s]

    Raises:
        InvalidInput: It is none, or above ``most``.
    """
    value = (line.settings or {}).get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise InvalidInput(
            f"line {line.id}: settings.{name}: expected seconds above 0, at most {most:g}, found {value!r}",
            message_zh=f"线路 {line.id}:settings.{name} 应为大于 0、不超过 {most:g} 的秒数,实际为 {value!r}",
        )
    return float(value)


def whole(line: Line, name: str, default: int, *, least: int, most: int) -> int:
    """Return the line's setting of this name, a whole number within limits.

    Raises:
        InvalidInput: It is none.
    """
    value = (line.settings or {}).get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidInput(
            f"line {line.id}: settings.{name}: expected a whole number from {least} to {most}, found {value!r}",
            message_zh=f"线路 {line.id}:settings.{name} 应为 {least} 至 {most} 的整数,实际为 {value!r}",
        )
    return value


def words(line: Line, name: str) -> str | None:
    """Return the line's setting of this name, a text; None where it has none.

    Raises:
        InvalidInput: It is none.
    """
    value = (line.settings or {}).get(name)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise InvalidInput(
            f"line {line.id}: settings.{name}: expected text, found {value!r}",
            message_zh=f"线路 {line.id}:settings.{name} 应为文本,实际为 {value!r}",
        )
    return value


def only(line: Line, known: Collection[str]) -> None:
    """Let the line have no other settings than these: a misspelt one would be a default that nobody notices.

    Raises:
        InvalidInput: It has.
    """
    for name in sorted(set(line.settings or {}) - set(known)):
        names = ", ".join(sorted(known))
        raise InvalidInput(
            f"line {line.id}: settings.{name}: there is no such setting; known are {names}",
            message_zh=f"线路 {line.id}:没有 settings.{name} 这一设置;可用的有 {names}",
        )


def zone(line: Line) -> ZoneInfo:
    """Return what the clocks of a line's devices are set to: its setting ``zone``, Beijing time without.

    Raises:
        InvalidInput: There is no such time zone.
    """
    name = str((line.settings or {}).get("zone", "Asia/Shanghai"))
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        raise InvalidInput(
            f"line {line.id}: settings.zone: expected a time zone such as Asia/Shanghai, found {name!r}",
            message_zh=f"线路 {line.id}:settings.zone 应为时区名(如 Asia/Shanghai),实际为 {name!r}",
        ) from None
