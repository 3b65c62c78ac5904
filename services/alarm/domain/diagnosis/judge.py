"""From evidence to a cause: the first code all of whose evidence is there, most specific first.

Every condition rests on facts that are present, so more facts never take a cause away. That is why asking can stop
as soon as a cause holds before which no other could be found by asking further.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum

from services.alarm.domain.diagnosis.facts import ASKING_ORDER, Evidence, Fact, FactValue, Known, Source

Rests = tuple[Fact, ...]
Condition = Callable[[Evidence, "Limits"], Rests | None]
"""Returns the facts that it rests on, None when it does not hold or nobody can tell."""


class Cause(StrEnum):
    """Keys of the causes; their codes and texts are data."""

    OWN_LISTENER_DOWN = "own_listener_down"
    SITE_POWER_LOSS = "site_power_loss"
    GATEWAY_OFFLINE = "gateway_offline"
    LINE_SILENT = "line_silent"
    DORMANT = "dormant"
    PLATFORM_PUSH_BROKEN = "platform_push_broken"
    SIM_ARREARS = "sim_arrears"
    SIM_SUSPENDED = "sim_suspended"
    SIM_CUT_OFF = "sim_cut_off"
    SIM_NOT_ACTIVE = "sim_not_active"
    SIM_IMEI_MISMATCH = "sim_imei_mismatch"
    SIM_CARD_TYPE = "sim_card_type"
    SIM_TARGET_ADDRESS = "sim_target_address"
    AUTH_FAILED = "auth_failed"
    ADDRESS_CONFLICT = "address_conflict"
    PROTOCOL_MISMATCH = "protocol_mismatch"
    DEVICE_FAULT = "device_fault"
    LOW_BATTERY = "low_battery"
    POOR_SIGNAL = "poor_signal"
    NO_SESSION = "no_session"
    BUS_NO_ANSWER = "bus_no_answer"
    STATE_MISMATCH = "state_mismatch"
    SIM_USAGE_ALARM = "sim_usage_alarm"
    COMMAND_EXPIRED = "command_expired"
    CLOCK_DRIFT = "clock_drift"
    DATA_GAP = "data_gap"
    PLATFORM_UNREACHABLE = "platform_unreachable"
    HEARTBEAT_TIMEOUT = "heartbeat_timeout"


class Certainty(StrEnum):
    """How sure a cause is."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFORMATION = "information"


@dataclass(frozen=True, slots=True)
class Limits:
    """Where evidence begins to count. The figures for signal are habit of the trade, not of a standard."""

    ingest_silent_s: float = 60.0
    """Our listeners beat every second; this is many of them."""
    site_least: float = 2.0
    """So many devices of a site that fell silent together are "several"."""
    push_behind_s: float = 300.0
    usage_warning: float = 0.9
    """Share of the package."""
    impossible_least: float = 3.0
    protocol_least: float = 3.0
    battery_percent: float = 20.0
    rsrp_dbm: float = -110.0
    sinr_db: float = -3.0
    coverage_level: float = 2.0
    skew_s: float = 300.0
    skew_times: float = 2.0
    completeness: float = 0.95
    silent_periods: float = 3.0
    silent_least_s: float = 600.0


@dataclass(frozen=True, slots=True)
class CauseRule:
    """When a cause holds."""

    cause: Cause
    certainty: Certainty
    holds: Condition
    sources: frozenset[Source]
    """Whom to ask before it can be said that it does not hold."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found; ``cause`` is None when nothing holds (yet)."""

    cause: Cause | None
    certainty: Certainty | None
    rests_on: Rests
    also_possible: tuple[Cause, ...]
    explained_by: str | None = None
    """A window or a planned shutdown: nobody is to look for a cause."""


def judge(evidence: Evidence, limits: Limits) -> Verdict:
    """Return the first cause that holds, with the others as possible."""
    explained = evidence.get(Known.EXPLAINED_BY)
    if explained is not None:
        return Verdict(None, None, (explained,), (), str(explained.value))
    found = [(rule, rests) for rule in RULES if (rests := rule.holds(evidence, limits)) is not None]
    if not found:
        return Verdict(None, None, (), ())
    rule, rests = found[0]
    return Verdict(
        rule.cause, rule.certainty, rests, tuple(one.cause for one, _ in found[1:] if one.cause not in GENERIC)
    )


def next_question(
    evidence: Evidence, limits: Limits, *, can_ask: Collection[Source], asked: Collection[Source]
) -> Source | None:
    """Return whom to ask next, None when no further answer could change the cause.

    Args:
        evidence: What is known.
        limits: Where evidence begins to count.
        can_ask: The sources that know of the device; a wired meter has no card.
        asked: Those that were asked, whether they could tell or not.
    """
    if Known.EXPLAINED_BY in evidence.facts:
        return None
    open_ = [source for source in ASKING_ORDER if source in can_ask and source not in asked]
    for rule in RULES:
        if rule.holds(evidence, limits) is not None:
            return None
        wanted = [source for source in open_ if source in rule.sources]
        if wanted:
            return wanted[0]
    return None


# Conditions


def when(name: Known, test: Callable[[FactValue, Limits], bool]) -> Condition:
    """Hold when the fact is known and passes the test."""

    def holds(evidence: Evidence, limits: Limits) -> Rests | None:
        fact = evidence.get(name)
        return (fact,) if fact is not None and test(fact.value, limits) else None

    return holds


def is_true(name: Known) -> Condition:
    """Hold when the fact is known and true."""
    return when(name, lambda value, _: value is True)


def is_false(name: Known) -> Condition:
    """Hold when the fact is known and false."""
    return when(name, lambda value, _: value is False)


def is_known(name: Known) -> Condition:
    """Hold when the fact is known."""
    return when(name, lambda value, _: True)


def is_one_of(name: Known, *values: str) -> Condition:
    """Hold when the fact is known and one of these."""
    return when(name, lambda value, _: value in values)


def at_least(name: Known, limit: Callable[[Limits], float]) -> Condition:
    """Hold when the number is known and has reached a limit."""
    return when(name, lambda value, limits: _is_number(value) and float(value) >= limit(limits))


def below(name: Known, limit: Callable[[Limits], float]) -> Condition:
    """Hold when the number is known and lies below a limit."""
    return when(name, lambda value, limits: _is_number(value) and float(value) < limit(limits))


def pair(one: Known, other: Known, test: Callable[[FactValue, FactValue, Limits], bool]) -> Condition:
    """Hold when both facts are known and pass the test together."""

    def holds(evidence: Evidence, limits: Limits) -> Rests | None:
        first, second = evidence.get(one), evidence.get(other)
        if first is None or second is None or not test(first.value, second.value, limits):
            return None
        return (first, second)

    return holds


def all_of(*conditions: Condition) -> Condition:
    """Hold when each holds; rest on what all of them rest on."""

    def holds(evidence: Evidence, limits: Limits) -> Rests | None:
        found: dict[Known, Fact] = {}
        for condition in conditions:
            rests = condition(evidence, limits)
            if rests is None:
                return None
            found.update((fact.name, fact) for fact in rests)
        return tuple(found.values())

    return holds


def any_of(*conditions: Condition) -> Condition:
    """Hold when one holds; rest on what the first of them rests on."""

    def holds(evidence: Evidence, limits: Limits) -> Rests | None:
        return next((rests for one in conditions if (rests := one(evidence, limits)) is not None), None)

    return holds


def _is_number(value: FactValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _share_of(used: FactValue, whole: FactValue, share: float) -> bool:
    return _is_number(used) and _is_number(whole) and float(whole) > 0 and float(used) >= share * float(whole)


def _other_module(session: FactValue, device: FactValue, _: Limits) -> bool:
    """The session names the module with its software version (16 digits), the registry with a check digit (15)."""
    first, second = str(session)[:14], str(device)[:14]
    return len(first) == len(second) == 14 and first != second


def _not_listed(targets: FactValue, ours: FactValue, _: Limits) -> bool:
    listed = {target.strip().lower() for target in str(targets).split(",")}
    return str(ours).lower() not in listed


def _long_silent(silent_s: FactValue, period_s: FactValue, limits: Limits) -> bool:
    if not (_is_number(silent_s) and _is_number(period_s)):
        return False
    return float(silent_s) >= max(limits.silent_periods * float(period_s), limits.silent_least_s)


def _nobody_could_tell(evidence: Evidence, _: Limits) -> Rests | None:
    """Hold when a source that was asked could not tell; the sources themselves are listed beside the facts."""
    silent = evidence.get(Known.SILENT)
    return (silent,) if evidence.unreachable and silent is not None and silent.value is True else None


_SILENT = is_true(Known.SILENT)
_SPEAKS = is_false(Known.SILENT)
_WHOLE_LINE = all_of(
    at_least(Known.LINE_DEVICES, lambda _: 2.0),
    pair(Known.LINE_DEVICES, Known.LINE_SILENT, lambda there, silent, _: there == silent),
)
_STOPPED = is_one_of(Known.CARD_STATE, "5")
_CARD_FINE = all_of(is_one_of(Known.CARD_STATE, "4"), is_false(Known.CARD_CUT_OFF))

_LOCAL = frozenset({Source.LOCAL})
_PLATFORM = frozenset({Source.LOCAL, Source.PLATFORM})
_CARD = frozenset({Source.LOCAL, Source.CARD})
_SESSION = frozenset({Source.LOCAL, Source.CARD, Source.SESSION})

RULES: tuple[CauseRule, ...] = (
    CauseRule(
        Cause.OWN_LISTENER_DOWN,
        Certainty.HIGH,
        at_least(Known.INGEST_SILENT_S, lambda limits: limits.ingest_silent_s),
        _LOCAL,
    ),
    CauseRule(
        Cause.SITE_POWER_LOSS,
        Certainty.HIGH,
        all_of(
            _SILENT,
            at_least(Known.SITE_SILENT, lambda limits: limits.site_least),
            any_of(is_true(Known.MAINS_ALARM), is_true(Known.LAST_VOLTAGE_LOW)),
        ),
        _LOCAL,
    ),
    CauseRule(
        Cause.GATEWAY_OFFLINE,
        Certainty.HIGH,
        all_of(
            _SILENT,
            is_false(Known.GATEWAY_ALIVE),
            pair(Known.GATEWAY_DEVICES, Known.GATEWAY_SILENT, lambda there, silent, _: there == silent),
        ),
        _LOCAL,
    ),
    CauseRule(Cause.LINE_SILENT, Certainty.HIGH, all_of(_SILENT, is_true(Known.GATEWAY_ALIVE), _WHOLE_LINE), _LOCAL),
    CauseRule(
        Cause.DORMANT,
        Certainty.INFORMATION,
        all_of(
            _SILENT,
            any_of(
                is_true(Known.ASLEEP),
                pair(
                    Known.SILENT_FOR_S,
                    Known.SLEEP_PERIOD_S,
                    lambda silent_s, period_s, _: (
                        _is_number(silent_s) and _is_number(period_s) and float(silent_s) <= float(period_s)
                    ),
                ),
                is_true(Known.PLATFORM_ASLEEP),
            ),
        ),
        _PLATFORM,
    ),
    CauseRule(
        Cause.PLATFORM_PUSH_BROKEN,
        Certainty.HIGH,
        all_of(is_true(Known.PLATFORM_ONLINE), at_least(Known.PLATFORM_AHEAD_S, lambda limits: limits.push_behind_s)),
        _PLATFORM,
    ),
    CauseRule(
        Cause.SIM_ARREARS,
        Certainty.HIGH,
        all_of(_STOPPED, when(Known.CARD_OWED, lambda owed, _: _is_number(owed) and float(owed) > 0)),
        _CARD,
    ),
    CauseRule(Cause.SIM_SUSPENDED, Certainty.HIGH, is_one_of(Known.CARD_STATE, "5", "6", "7"), _CARD),
    CauseRule(
        Cause.SIM_CUT_OFF,
        Certainty.HIGH,
        any_of(
            is_true(Known.CARD_CUT_OFF),
            pair(Known.CARD_USED_KB, Known.CARD_QUOTA_KB, lambda used, quota, _: _share_of(used, quota, 1.0)),
        ),
        _CARD,
    ),
    CauseRule(
        Cause.SIM_NOT_ACTIVE,
        Certainty.HIGH,
        any_of(is_one_of(Known.CARD_STATE, "1", "2", "3"), is_false(Known.CARD_REAL_NAMED)),
        _CARD,
    ),
    CauseRule(
        Cause.SIM_IMEI_MISMATCH,
        Certainty.HIGH,
        any_of(
            is_true(Known.CARD_SHARED),
            is_false(Known.CARD_BOUND),
            pair(Known.SESSION_IMEI, Known.DEVICE_IMEI, _other_module),
        ),
        _SESSION,
    ),
    CauseRule(
        Cause.SIM_CARD_TYPE,
        Certainty.MEDIUM,
        any_of(
            pair(Known.CARD_NETWORK, Known.DEVICE_NETWORK, lambda card, device, _: card != device),
            pair(Known.CARD_DIRECTED, Known.DEVICE_DIRECTED, lambda card, device, _: card is not device),
        ),
        _CARD,
    ),
    CauseRule(
        Cause.SIM_TARGET_ADDRESS,
        Certainty.MEDIUM,
        all_of(
            _SILENT,
            is_one_of(Known.SESSION, "start"),
            is_true(Known.CARD_DIRECTED),
            pair(Known.CARD_TARGETS, Known.OUR_ADDRESS, _not_listed),
        ),
        _SESSION,
    ),
    CauseRule(Cause.AUTH_FAILED, Certainty.HIGH, is_true(Known.AUTH_REFUSED), _LOCAL),
    CauseRule(Cause.ADDRESS_CONFLICT, Certainty.HIGH, at_least(Known.SAME_ADDRESS, lambda _: 2.0), _LOCAL),
    CauseRule(
        Cause.PROTOCOL_MISMATCH,
        Certainty.HIGH,
        any_of(
            at_least(Known.PROTOCOL_ERRORS, lambda limits: limits.protocol_least),
            all_of(_SILENT, is_one_of(Known.LAST_FAILURE, "bad_answer", "device_refused")),
        ),
        _LOCAL,
    ),
    CauseRule(
        Cause.DEVICE_FAULT,
        Certainty.HIGH,
        any_of(
            is_known(Known.DEVICE_FAULT),
            at_least(Known.IMPOSSIBLE_READINGS, lambda limits: limits.impossible_least),
        ),
        _LOCAL,
    ),
    CauseRule(
        Cause.LOW_BATTERY,
        Certainty.HIGH,
        any_of(
            below(Known.BATTERY_PERCENT, lambda limits: limits.battery_percent),
            pair(
                Known.BATTERY_V,
                Known.BATTERY_LIMIT_V,
                lambda volts, limit, _: _is_number(volts) and _is_number(limit) and float(volts) < float(limit),
            ),
        ),
        _LOCAL,
    ),
    CauseRule(
        Cause.POOR_SIGNAL,
        Certainty.MEDIUM,
        any_of(
            below(Known.RSRP_DBM, lambda limits: limits.rsrp_dbm),
            below(Known.SINR_DB, lambda limits: limits.sinr_db),
            at_least(Known.COVERAGE_LEVEL, lambda limits: limits.coverage_level),
        ),
        _LOCAL,
    ),
    CauseRule(
        Cause.NO_SESSION,
        Certainty.HIGH,
        all_of(
            _SILENT,
            is_one_of(Known.SESSION, "stop"),
            _CARD_FINE,
            at_least(Known.SITE_ALIVE, lambda _: 1.0),
        ),
        _SESSION,
    ),
    CauseRule(
        Cause.BUS_NO_ANSWER,
        Certainty.HIGH,
        all_of(_SILENT, is_true(Known.GATEWAY_ALIVE), at_least(Known.LINE_ALIVE, lambda _: 1.0)),
        _LOCAL,
    ),
    CauseRule(Cause.STATE_MISMATCH, Certainty.HIGH, is_true(Known.SWITCH_DIFFERS), _LOCAL),
    CauseRule(
        Cause.SIM_USAGE_ALARM,
        Certainty.MEDIUM,
        all_of(
            is_false(Known.CARD_CUT_OFF),
            pair(
                Known.CARD_USED_KB,
                Known.CARD_PACKAGE_KB,
                lambda used, package, limits: _share_of(used, package, limits.usage_warning),
            ),
        ),
        _CARD,
    ),
    CauseRule(
        Cause.COMMAND_EXPIRED,
        Certainty.MEDIUM,
        any_of(
            is_one_of(Known.COMMAND_STATE, "expired", "timeout"),
            is_one_of(Known.PLATFORM_COMMAND_STATE, "EXPIRED", "TIMEOUT"),
        ),
        _PLATFORM,
    ),
    CauseRule(
        Cause.CLOCK_DRIFT,
        Certainty.HIGH,
        all_of(
            _SPEAKS,
            when(Known.CLOCK_SKEW_S, lambda skew, limits: _is_number(skew) and abs(float(skew)) > limits.skew_s),
            at_least(Known.CLOCK_SKEW_TIMES, lambda limits: limits.skew_times),
        ),
        _LOCAL,
    ),
    CauseRule(
        Cause.DATA_GAP,
        Certainty.MEDIUM,
        all_of(_SPEAKS, below(Known.COMPLETENESS, lambda limits: limits.completeness)),
        _LOCAL,
    ),
    CauseRule(
        Cause.PLATFORM_UNREACHABLE,
        Certainty.INFORMATION,
        _nobody_could_tell,
        frozenset(Source),
    ),
    CauseRule(
        Cause.HEARTBEAT_TIMEOUT,
        Certainty.LOW,
        all_of(_SILENT, pair(Known.SILENT_FOR_S, Known.PERIOD_S, _long_silent)),
        frozenset(Source),
    ),
)
"""Most specific first: where two fit, the one that needs more stands before the one that follows from it.

What takes many devices away stands first, then what only a card or a device can have, then what is a consequence of
being silent (an expired command) and what is said when nothing else can be.
"""

GENERIC = frozenset({Cause.HEARTBEAT_TIMEOUT})
"""Says nothing beside a better answer."""
