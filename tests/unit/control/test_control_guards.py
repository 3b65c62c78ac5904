"""Guards of an OFF: each refuses on its own value, says which, and whether waiting helps."""

from dataclasses import replace

import pytest

from services.control.api.guards import LIMITED, PLAIN
from services.control.domain.guards import Facts, off_refusal, off_refusals, on_obstacle, unreleased_trip
from services.control.domain.refusals import WORDS, Refusal
from tests.unit.control.control_builders import NOW, POLICY, facts, later, reading

REFUSALS = [
    ({"obstacle": "never_off"}, "never_off", True),
    ({"obstacle": "no_breaker"}, "no_breaker", True),
    ({"emergency": "w-1"}, "emergency", True),
    ({"isolation_id": "i-1"}, "isolation", True),
    ({"already_off": True}, "already_off", True),
    ({"command_latency_s": 61.0}, "command_latency", True),
    ({"keeps_coverage": True}, "coverage_layer", True),
    ({"emergency_mode": "e-1"}, "emergency_mode", True),
    ({"unreadable": "a policy"}, "guards_unknown", False),
    ({"maintenance": "w-1"}, "maintenance", False),
    ({"alarm": "smoke"}, "active_alarm", False),
    ({"backup_power": "generator"}, "backup_power", False),
    ({"crowding": Refusal("max_off_site", 3, 2, False)}, "max_off_site", False),
    ({"offs_last_day": 12}, "switches_per_day", True),
    ({"last_on_at": later(-299)}, "min_on_time", False),
    ({"clock_problem": "set by +3600 s"}, "clock_not_synchronised", False),
    ({"restart": "r-1"}, "restarting", False),
    ({"reading": None}, "stale_data", False),
    ({"reading": reading(None)}, "stale_data", False),
    ({"reading": reading(1, age_s=301)}, "stale_data", False),
    ({"reading": reading(1, local_lock=True)}, "local_lock", False),
    ({"reading": reading(1, trip_reason=2)}, "protection_trip", False),
]


def test_nothing_forbids_an_ordinary_off() -> None:
    assert off_refusal(later(3600), None, facts(), NOW, POLICY) is None


@pytest.mark.parametrize(("changes", "guard", "is_final"), REFUSALS)
def test_each_guard_refuses_and_says_which(changes: dict[str, object], guard: str, is_final: bool) -> None:
    refusal = off_refusal(later(3600), None, facts(**changes), NOW, POLICY)
    assert refusal is not None
    assert (refusal.guard, refusal.is_final) == (guard, is_final)
    assert refusal.as_evidence()["guard"] == guard
    assert all(words and "{" not in words for words in refusal.words())


def test_every_guard_that_is_listed_has_words_with_value_and_limit() -> None:
    listed = {guard for guard, *_ in (*PLAIN, *LIMITED)}
    assert listed == set(WORDS)
    english, chinese = Refusal("max_off_site", 3, 2, False).words()
    assert ("3" in english, "2" in english, "3" in chinese, "2" in chinese) == (True, True, True, True)


def test_what_waiting_does_not_help_is_said_first() -> None:
    both = facts(maintenance="w-1", keeps_coverage=True)
    assert [one.guard for one in off_refusals(later(3600), None, both, NOW, POLICY)] == [
        "coverage_layer", "maintenance",
    ]  # fmt: skip


def test_policies_switch_guards_off() -> None:
    open_policy = replace(POLICY, coverage_layer_stays=False, maintenance=False)
    assert off_refusal(later(3600), None, facts(keeps_coverage=True, maintenance="w"), NOW, open_policy) is None


@pytest.mark.parametrize("changes", [
    {"reading": reading(1, trip_reason=2), "released_trip": 2}, {"reading": reading(1, trip_reason=10)},
    {"command_latency_s": 60.0}, {"offs_last_day": 11}, {"last_on_at": later(-300)}, {"reading": reading(1, age_s=300)},
])  # fmt: skip
def test_the_limits_themselves_pass(changes: dict[str, object]) -> None:
    assert off_refusal(later(300), None, facts(**changes), NOW, POLICY) is None


def test_every_off_carries_its_end_unless_it_is_an_isolation() -> None:
    refusal = off_refusal(None, None, facts(), NOW, POLICY)
    assert refusal is not None
    assert refusal.guard == "restore_at_missing"
    assert off_refusal(None, "i-1", facts(isolation_id="i-1"), NOW, POLICY) is None


@pytest.mark.parametrize("changes", [
    {"already_off": True}, {"emergency": "w"}, {"offs_last_day": 100}, {"last_on_at": NOW}, {"emergency_mode": "e"},
    {"keeps_coverage": True}, {"maintenance": "w"}, {"alarm": "a"}, {"backup_power": "g"}, {"unreadable": "x"},
    {"crowding": Refusal("coverage_sector", 0, 1, True)},
])  # fmt: skip
def test_what_saves_energy_or_wear_does_not_stop_an_isolation(changes: dict[str, object]) -> None:
    assert off_refusal(None, "i-1", facts(isolation_id="i-1", **changes), NOW, POLICY) is None


@pytest.mark.parametrize("changes", [
    {"obstacle": "never_off"}, {"clock_problem": "x"}, {"reading": None}, {"command_latency_s": 1e4},
    {"restart": "r-1"},
])  # fmt: skip
def test_what_makes_an_off_doubtful_stops_an_isolation_too(changes: dict[str, object]) -> None:
    assert off_refusal(None, "i-1", facts(isolation_id="i-1", **changes), NOW, POLICY) is not None


def test_too_little_left_counts_from_now() -> None:
    assert off_refusal(later(3600), None, facts(), later(3300), POLICY) is None
    refusal = off_refusal(later(3600), None, facts(), later(3301), POLICY)
    assert refusal is not None
    assert (refusal.guard, refusal.value, refusal.limit) == ("too_little_left", 299.0, 300.0)


def test_limits_are_the_policys() -> None:
    strict = replace(POLICY, stale_after_s=10)
    assert off_refusal(later(3600), None, facts(reading=reading(1, age_s=11)), NOW, strict) is not None


def test_an_on_has_no_obstacle_by_itself() -> None:
    assert on_obstacle(Facts()) is None
    assert on_obstacle(facts(reading=reading(0))) is None
    assert on_obstacle(facts(reading=reading(1, local_lock=True, trip_reason=2))) is None


@pytest.mark.parametrize(("trip", "released", "name"), [
    (2, None, "short_circuit"), (2, 1, "short_circuit"), (2, 2, None), (None, None, None), (0, None, None),
    (99, None, None), (10, None, None),
])  # fmt: skip
def test_a_trip_stands_until_somebody_releases_that_trip(
    trip: int | None, released: int | None, name: str | None
) -> None:
    assert unreleased_trip(trip, released) == name
