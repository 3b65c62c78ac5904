"""What people may set inside rooms: limits of set points by season and kind of site, with their source.

The public-building limits are data: they ship with Wattring (``data/setpoint_rules.csv``), and policies by place take
their place rule by rule: ``device`` over ``site`` over ``site_kind`` over ``region`` (the nearest first) over
``default`` over what ships. A value outside is refused with rule, value, limit and source, or waits for a second
person where the rule says so. It is never changed silently.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import cast
from zoneinfo import ZoneInfo

from libs.common.contracts.registry import SiteKind
from libs.common.errors import InvalidInput
from libs.common.points import POINTS, PointKind


class SetpointScope(StrEnum):
    """What a policy is about; the later ones are the more specific."""

    DEFAULT = "default"
    REGION = "region"
    SITE_KIND = "site_kind"
    SITE = "site"
    DEVICE = "device"


class Effect(StrEnum):
    """What happens to a value outside of a rule."""

    REFUSE = "refuse"
    APPROVE = "approve"
    """A second person has to agree."""


EVERYWHERE = "-"
"""Target of the default policy."""
MAX_RULES = 50
"""Rules of one policy."""


class InvalidSetpointPolicy(InvalidInput):
    """A policy is refused."""

    code = "invalid_setpoint_policy"
    title_zh = "设定值策略有误"


@dataclass(frozen=True, slots=True)
class SetpointRule:
    """Limits of one point, for some kinds of sites, in one part of the year."""

    name: str
    point: str
    low: float | None
    """Least value, in the point's unit."""
    high: float | None
    first_day: tuple[int, int]
    """Month and day on which the season begins."""
    last_day: tuple[int, int]
    """Month and day on which it ends, included; before ``first_day`` it goes over the new year."""
    zone: str
    """Whose calendar counts: IANA name."""
    site_kinds: frozenset[str]
    """Kinds of sites that it holds for; empty: all."""
    effect: Effect
    source: str
    source_zh: str
    said_by: str = "shipped"
    """Which policy says it."""

    def is_in_season(self, now: datetime) -> bool:
        """Return whether the rule holds on the day of ``now``, in its own zone."""
        local = now.astimezone(ZoneInfo(self.zone))
        day = (local.month, local.day)
        if self.first_day <= self.last_day:
            return self.first_day <= day <= self.last_day
        return day >= self.first_day or day <= self.last_day

    def allows(self, value: float) -> bool:
        """Return whether a value is within the limits, both included."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    @property
    def limit(self) -> dict[str, float]:
        """Return the limits that there are."""
        return {name: value for name, value in (("min", self.low), ("max", self.high)) if value is not None}


@dataclass(frozen=True, slots=True)
class SetpointPolicy:
    """What one policy says: rules by name, None where it takes a rule away."""

    scope: SetpointScope
    target: str
    rules: Mapping[str, SetpointRule | None]

    @property
    def name(self) -> str:
        """Return how people are told of it."""
        return self.scope.value if self.scope is SetpointScope.DEFAULT else f"{self.scope.value}:{self.target}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a device is."""

    device_id: str
    site_id: str
    site_kind: str | None
    region_ids: Sequence[str]
    """The site's region and those above it."""


class SetpointBook:
    """All rules, ready to be asked for devices."""

    def __init__(self, shipped: Iterable[SetpointRule], policies: Iterable[SetpointPolicy]) -> None:
        """Sort them."""
        self._shipped = {rule.name: rule for rule in shipped}
        self._by_place = {(one.scope, one.target): one for one in policies}

    def everywhere(self) -> list[SetpointRule]:
        """Return the rules of the default policy over those that ship, for all kinds of sites."""
        policy = self._by_place.get((SetpointScope.DEFAULT, EVERYWHERE))
        found: dict[str, SetpointRule | None] = {**self._shipped, **({} if policy is None else policy.rules)}
        return [rule for rule in found.values() if rule is not None]

    def of(self, place: Place) -> list[SetpointRule]:
        """Return the rules that hold for a device all the year."""
        found: dict[str, SetpointRule | None] = dict(self._shipped)
        for where in _places(place):
            policy = self._by_place.get(where)
            if policy is not None:
                found.update(policy.rules)
        return [
            rule
            for rule in found.values()
            if rule is not None and (not rule.site_kinds or place.site_kind in rule.site_kinds)
        ]

    def broken(self, place: Place, point: str, value: float, now: datetime) -> list[SetpointRule]:
        """Return the rules that a value breaks today, those that refuse it first."""
        return self.broken_at(place, point, value, [now])

    def broken_at(self, place: Place, point: str, value: float, times: Sequence[datetime]) -> list[SetpointRule]:
        """Return the rules that a value breaks at any of these times, those that refuse it first."""
        forbidding = [rule for rule in self.of(place) if rule.point == point and not rule.allows(value)]
        found = [rule for rule in forbidding if any(rule.is_in_season(one) for one in times)]
        return sorted(found, key=lambda rule: (rule.effect is not Effect.REFUSE, rule.name))


def words(rule: SetpointRule, value: float) -> tuple[str, str]:
    """Return what is said of a value that breaks a rule, in English and in Chinese."""
    known = POINTS.get(rule.point)
    unit = "" if known is None or known.unit == "1" else f" {known.unit}"
    english = " and ".join(
        f"not {word} {limit:g}{unit}"
        for word, limit in (("below", rule.low), ("above", rule.high))
        if limit is not None
    )
    chinese = "且".join(
        f"{word} {limit:g}{unit}"
        for word, limit in (("不得低于", rule.low), ("不得高于", rule.high))
        if limit is not None
    )
    return (
        f"{rule.point} {value:g}{unit} breaks rule {rule.name}: {english} from {_day(rule.first_day)} to"
        f" {_day(rule.last_day)} ({rule.source}; said by {rule.said_by})",
        f"{rule.point} {value:g}{unit} 违反规则 {rule.name}:{_day(rule.first_day)} 至 {_day(rule.last_day)}"
        f" {chinese}({rule.source_zh};依据:{rule.said_by})",
    )


def read_rule(name: str, raw: Mapping[str, object], said_by: str) -> SetpointRule:
    """Check what is said of a rule and return it.

    Args:
        name: Of the rule.
        raw: ``point``, ``min``, ``max``, ``from`` and ``to`` (``MM-DD``), ``zone``, ``site_kinds``, ``effect``,
            ``source``, ``source_zh``.
        said_by: Which policy says it.

    Raises:
        InvalidSetpointPolicy: A field is unknown, missing or wrong.
    """
    unknown = sorted(set(raw) - _FIELDS)
    if unknown:
        raise _invalid(
            name, unknown[0], f"one of {', '.join(sorted(_FIELDS))}", f"{'、'.join(sorted(_FIELDS))} 之一", ""
        )
    point = raw.get("point")
    if not isinstance(point, str) or POINTS.get(point) is None or POINTS[point].kind is not PointKind.SETTING:
        raise _invalid(name, "point", "a canonical point that can be set", "可设定的标准测点", point)
    low, high = _number(name, "min", raw.get("min")), _number(name, "max", raw.get("max"))
    if (low is None and high is None) or (low is not None and high is not None and low > high):
        raise _invalid(name, "min", "min, max or both, min not above max", "min、max 至少一项,且 min 不大于 max", low)
    zone = raw.get("zone", "Asia/Shanghai")
    try:
        ZoneInfo(cast(str, zone))
    except (ValueError, TypeError, OSError, KeyError):
        raise _invalid(name, "zone", "an IANA time zone", "IANA 时区", zone) from None
    kinds = raw.get("site_kinds", ())
    if not isinstance(kinds, list | tuple) or not all(isinstance(kind, str) and kind in _SITE_KINDS for kind in kinds):
        raise _invalid(
            name, "site_kinds", f"a list of {', '.join(sorted(_SITE_KINDS))}",
            f"{'、'.join(sorted(_SITE_KINDS))} 的列表", kinds,
        )  # fmt: skip
    try:
        effect = Effect(str(raw.get("effect", Effect.REFUSE.value)))
    except ValueError:
        raise _invalid(name, "effect", "refuse or approve", "refuse 或 approve", raw["effect"]) from None
    source = _text(name, "source", raw.get("source"))
    return SetpointRule(
        name=name, point=point, low=low, high=high, first_day=_month_day(name, "from", raw.get("from")),
        last_day=_month_day(name, "to", raw.get("to")), zone=str(zone), site_kinds=frozenset(kinds), effect=effect,
        source=source, source_zh=_text(name, "source_zh", raw.get("source_zh", source)), said_by=said_by,
    )  # fmt: skip


def as_raw(rule: SetpointRule) -> dict[str, object]:
    """Return a rule as ``read_rule`` takes it."""
    return {
        "point": rule.point, **rule.limit, "from": _day(rule.first_day), "to": _day(rule.last_day), "zone": rule.zone,
        "site_kinds": sorted(rule.site_kinds), "effect": rule.effect.value, "source": rule.source,
        "source_zh": rule.source_zh,
    }  # fmt: skip


_FIELDS = {"point", "min", "max", "from", "to", "zone", "site_kinds", "effect", "source", "source_zh"}
_SITE_KINDS = {kind.value for kind in SiteKind}
_LEAP_YEAR = 2024


def _places(place: Place) -> Sequence[tuple[SetpointScope, str]]:
    """Return what a device's policies may be about, the most general first."""
    places = [(SetpointScope.DEFAULT, EVERYWHERE)]
    places += [(SetpointScope.REGION, region) for region in reversed(place.region_ids)]
    if place.site_kind is not None:
        places.append((SetpointScope.SITE_KIND, place.site_kind))
    return [*places, (SetpointScope.SITE, place.site_id), (SetpointScope.DEVICE, place.device_id)]


def _number(name: str, field: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e6 < value < 1e6:
        raise _invalid(name, field, "a number", "数值", value)
    return float(value)


def _text(name: str, field: str, value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 500:
        raise _invalid(name, field, "a text of 1 to 500 characters", "1 到 500 个字符的文本", value)
    return value


def _month_day(name: str, field: str, value: object) -> tuple[int, int]:
    try:
        found = date.fromisoformat(f"{_LEAP_YEAR}-{value}")
    except ValueError:
        raise _invalid(name, field, "a day such as 06-01", "形如 06-01 的日期", value) from None
    return found.month, found.day


def _day(day: tuple[int, int]) -> str:
    return f"{day[0]:02d}-{day[1]:02d}"


def _invalid(name: str, field: str, expected: str, expected_zh: str, found: object) -> InvalidSetpointPolicy:
    where = f"rules.{name}.{field}"
    return InvalidSetpointPolicy(
        f"{where}: expected {expected}, not {found!r}", message_zh=f"{where} 应为{expected_zh},收到 {found!r}",
        field=where,
    )  # fmt: skip
