"""Which evidence is which cause, most specific first."""

from dataclasses import dataclass

from services.alarm.domain.diagnosis.causes import Cause, Certainty, Limits
from services.alarm.domain.diagnosis.conditions import (
    Condition,
    Rests,
    all_of,
    any_of,
    at_least,
    below,
    is_false,
    is_known,
    is_number,
    is_one_of,
    is_true,
    pair,
    when,
)
from services.alarm.domain.diagnosis.facts import Evidence, FactValue, Known, Source
from services.alarm.domain.diagnosis.observed import NOT_LET_IN


@dataclass(frozen=True, slots=True)
class CauseRule:
    """When a cause holds."""

    cause: Cause
    certainty: Certainty
    holds: Condition
    sources: frozenset[Source]
    """Whom to ask before it can be said that it does not hold."""


def _share_of(used: FactValue, whole: FactValue, share: float) -> bool:
    return is_number(used) and is_number(whole) and float(whole) > 0 and float(used) >= share * float(whole)


def _other_module(session: FactValue, device: FactValue, _: Limits) -> bool:
    """The session names the module with its software version (16 digits), the registry with a check digit (15)."""
    first, second = str(session)[:14], str(device)[:14]
    return len(first) == len(second) == 14 and first != second


def _not_listed(targets: FactValue, ours: FactValue, _: Limits) -> bool:
    listed = {target.strip().lower() for target in str(targets).split(",")}
    return str(ours).lower() not in listed


def _long_silent(silent_s: FactValue, period_s: FactValue, limits: Limits) -> bool:
    if not (is_number(silent_s) and is_number(period_s)):
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

_NOT_UNDERSTOOD = (
    "bad_answer",
    "device_refused",
    "protocol_mismatch",
    "unknown_node",
    "undecodable",
    "checksum",
    "unknown_point",
    "wrong_unit",
    "not_a_number",
    "missing_field",
    "no_profile",
)
"""Reasons of ingest's drivers that say: something came, and it was not what the profile leads to expect."""

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
    CauseRule(
        Cause.AUTH_FAILED,
        Certainty.HIGH,
        any_of(is_known(Known.AUTH_REFUSED), all_of(_SILENT, is_one_of(Known.LAST_FAILURE, *NOT_LET_IN))),
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
                        is_number(silent_s) and is_number(period_s) and float(silent_s) <= float(period_s)
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
        all_of(_STOPPED, when(Known.CARD_OWED, lambda owed, _: is_number(owed) and float(owed) > 0)),
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
    CauseRule(
        Cause.ADDRESS_CONFLICT,
        Certainty.HIGH,
        any_of(at_least(Known.SAME_ADDRESS, lambda _: 2.0), is_known(Known.SAME_NUMBER)),
        _LOCAL,
    ),
    CauseRule(
        Cause.PROTOCOL_MISMATCH,
        Certainty.HIGH,
        all_of(_SILENT, is_one_of(Known.LAST_FAILURE, *_NOT_UNDERSTOOD)),
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
                lambda volts, limit, _: is_number(volts) and is_number(limit) and float(volts) < float(limit),
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
            when(Known.CLOCK_SKEW_S, lambda skew, limits: is_number(skew) and abs(float(skew)) > limits.skew_s),
            at_least(Known.CLOCK_SKEW_TIMES, lambda limits: limits.skew_times),
        ),
        _LOCAL,
    ),
    CauseRule(
        Cause.DATA_GAP,
        Certainty.MEDIUM,
        all_of(_SPEAKS, is_known(Known.DATA_GAP)),
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
