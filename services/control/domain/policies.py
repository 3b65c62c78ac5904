"""Policies of the guards: limits as data, by place and kind, and which of them holds for a load.

A policy belongs to a scope and says some limits. For each limit the most specific policy that says it wins: ``load``
over ``load_kind`` over ``site`` over ``site_class`` over ``site_kind`` over ``region`` (the nearest first) over
``default`` over what the load's kind needs by itself (``kinds``) over the settings. Only the number of loads that are
off in a region is counted for the region that says it, so there all of a load's regions hold together.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from libs.common.contracts.registry import LoadKind, SiteKind, StationClass
from libs.common.errors import InvalidInput
from services.control.domain.guards import Policy
from services.control.domain.kinds import raised
from services.control.domain.loads import LoadInfo

MAX_PATTERNS = 50
MAX_PATTERN_LENGTH = 50


class Scope(StrEnum):
    """What a policy is about; the later ones are the more specific."""

    DEFAULT = "default"
    REGION = "region"
    SITE_KIND = "site_kind"
    SITE_CLASS = "site_class"
    SITE = "site"
    LOAD_KIND = "load_kind"
    LOAD = "load"


EVERYWHERE = "-"
"""Target of the default policy."""

KINDS: Mapping[Scope, frozenset[str]] = {
    Scope.SITE_KIND: frozenset(kind.value for kind in SiteKind),
    Scope.SITE_CLASS: frozenset(one.value for one in StationClass),
    Scope.LOAD_KIND: frozenset(kind.value for kind in LoadKind),
    Scope.DEFAULT: frozenset({EVERYWHERE}),
}
"""Targets of scopes that are no places."""

Value = bool | int | float | tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit that a policy may say."""

    form: Literal["yes_no", "count", "seconds", "patterns"]
    low: float = 0
    high: float = 0
    may_be_none: bool = False
    """None takes the limit away again."""
    only: Scope | None = None


DAY_S = 86400.0
LIMITS: Mapping[str, Limit] = {
    "coverage_layer_stays": Limit("yes_no"),
    "min_on_sector": Limit("count", 0, 1000),
    "min_on_site": Limit("count", 0, 1000),
    "max_off_site": Limit("count", 0, 100_000, may_be_none=True),
    "max_off_region": Limit("count", 0, 10_000_000, only=Scope.REGION),
    "min_off_s": Limit("seconds", 1, DAY_S),
    "min_on_s": Limit("seconds", 0, DAY_S),
    "max_offs_per_day": Limit("count", 0, 1000),
    "stale_after_s": Limit("seconds", 1, DAY_S),
    "max_command_latency_s": Limit("seconds", 1, DAY_S),
    "alarm_level": Limit("count", 0, 4),
    "device_alarm_level": Limit("count", 0, 4),
    "alarm_signals": Limit("patterns"),
    "backup_power_signals": Limit("patterns"),
    "maintenance": Limit("yes_no"),
    "two_persons": Limit("yes_no"),
    "two_persons_above": Limit("count", 0, 20_000),
}
"""Every limit of a policy: fields of ``guards.Policy``."""


class InvalidPolicy(InvalidInput):
    """A policy is refused."""

    code = "invalid_guard_policy"
    title_zh = "闭锁策略有误"


@dataclass(frozen=True, slots=True)
class GuardPolicy:
    """What one policy says."""

    scope: Scope
    target: str
    limits: Mapping[str, Value]

    @property
    def name(self) -> str:
        """Return how people are told of it."""
        return self.scope.value if self.scope is Scope.DEFAULT else f"{self.scope.value}:{self.target}"


@dataclass(frozen=True, slots=True)
class Effective:
    """What holds for a load, and which policy says so."""

    policy: Policy
    said_by: Mapping[str, str]
    """Policy by limit; limits that are not here come from the settings."""


def read_limits(scope: Scope, target: str, raw: Mapping[str, object]) -> dict[str, Value]:
    """Check what a policy says and return it.

    Raises:
        InvalidPolicy: A limit is unknown, of the wrong form, out of its range or of another scope.
    """
    if scope in KINDS and target not in KINDS[scope]:
        expected = ", ".join(sorted(KINDS[scope]))
        raise _invalid("target", f"one of {expected}", f"{expected} 之一", target)
    if not raw:
        raise _invalid("limits", f"at least one of {', '.join(LIMITS)}", f"至少一项:{'、'.join(LIMITS)}", raw)
    found: dict[str, Value] = {}
    for name, value in raw.items():
        limit = LIMITS.get(name)
        if limit is None:
            raise _invalid(f"limits.{name}", f"one of {', '.join(LIMITS)}", f"{'、'.join(LIMITS)} 之一", name)
        if limit.only is not None and limit.only is not scope:
            raise _invalid(
                f"limits.{name}", f"only in a policy of a {limit.only}", f"仅可用于 {limit.only} 策略", scope.value
            )
        found[name] = _read(name, limit, value)
    return found


def _read(name: str, limit: Limit, value: object) -> Value:
    if value is None and limit.may_be_none:
        return None
    match limit.form:
        case "yes_no":
            if isinstance(value, bool):
                return value
            raise _invalid(f"limits.{name}", "true or false", "true 或 false", value)
        case "patterns":
            if isinstance(value, list | tuple) and len(value) <= MAX_PATTERNS:
                texts = tuple(value)
                if all(isinstance(text, str) and 0 < len(text) <= MAX_PATTERN_LENGTH for text in texts):
                    return texts
            raise _invalid(
                f"limits.{name}", f"at most {MAX_PATTERNS} texts of 1 to {MAX_PATTERN_LENGTH} characters",
                f"不超过 {MAX_PATTERNS} 个、每个 1 到 {MAX_PATTERN_LENGTH} 个字符的文本", value,
            )  # fmt: skip
        case _:
            whole = limit.form == "count"
            number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
            if number and limit.low <= value <= limit.high:  # type: ignore[operator]
                return value  # type: ignore[return-value]
            form, form_zh = ("a whole number", "整数") if whole else ("a number of seconds", "秒数")
            raise _invalid(
                f"limits.{name}", f"{form} from {limit.low:g} to {limit.high:g}",
                f"{limit.low:g} 到 {limit.high:g} 的{form_zh}", value,
            )  # fmt: skip


def _invalid(field: str, expected: str, expected_zh: str, found: object) -> InvalidPolicy:
    return InvalidPolicy(
        f"{field}: expected {expected}, not {found!r}", message_zh=f"{field} 应为{expected_zh},收到 {found!r}",
        field=field,
    )  # fmt: skip


class Book:
    """All policies, ready to be asked for loads."""

    def __init__(self, policies: Iterable[GuardPolicy], settings: Policy) -> None:
        """Sort policies; ``settings`` is what holds where none says anything."""
        self._by_place = {(one.scope, one.target): one for one in policies}
        self._settings = settings
        self._made: dict[tuple[str, ...], Effective] = {}

    def of(self, load: LoadInfo) -> Effective:
        """Return what holds for a load."""
        places = _places(load) if self._by_place else ()
        found = [one for place in places if (one := self._by_place.get(place)) is not None]
        key = (load.kind, *(one.name for one in found))
        if key not in self._made:
            self._made[key] = _combine(found, *raised(self._settings, load.kind))
        return self._made[key]


def _places(load: LoadInfo) -> Sequence[tuple[Scope, str]]:
    """Return what a load's policies may be about, the most general first."""
    places = [(Scope.DEFAULT, EVERYWHERE)]
    places += [(Scope.REGION, region) for region in reversed(load.region_ids)]
    if load.site_kind is not None:
        places.append((Scope.SITE_KIND, load.site_kind))
    if load.site_class is not None:
        places.append((Scope.SITE_CLASS, load.site_class))
    return [*places, (Scope.SITE, load.site_id), (Scope.LOAD_KIND, load.kind), (Scope.LOAD, load.load_id)]


def _combine(policies: Sequence[GuardPolicy], settings: Policy, said: Mapping[str, str]) -> Effective:
    values: dict[str, object] = {}
    said_by = dict(said)
    in_region: dict[str, int] = dict(settings.max_off_region)
    for policy in policies:
        for name, value in policy.limits.items():
            if name == "max_off_region":
                in_region[policy.target] = int(value)  # type: ignore[arg-type]
                said_by[name] = ", ".join(filter(None, (said_by.get(name), policy.name)))
            else:
                values[name] = value
                said_by[name] = policy.name
    return Effective(replace(settings, max_off_region=in_region, **values), said_by)  # type: ignore[arg-type]
