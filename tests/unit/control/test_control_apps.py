"""What an upstream application may order: lists, lengths, times of day, counts, opt-outs."""

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.ids import DeviceId, LineId, LoadId, SiteId
from services.control.api.audit import SIEVE_S, Sieve
from services.control.domain.apps import AppAction, AppJudge, AppLimits, OptOut
from services.control.domain.loads import LoadInfo
from services.control.domain.plans import Window

NOON = datetime(2026, 3, 1, 4, tzinfo=UTC)
"""12:00 in Shanghai."""
LOAD = LoadInfo(
    load_id=LoadId("aau-1"), name="", site_id=SiteId("s-1"), region_ids=("440106", "440100"), tags=("night",),
    device_id=DeviceId("b"), line_id=LineId("l"),
)  # fmt: skip
ALL = AppLimits(actions=frozenset(AppAction), load_ids=frozenset({"aau-1"}))


def at(hours: float) -> datetime:
    return NOON + timedelta(hours=hours)


@pytest.mark.parametrize(("limits", "lists"), [
    (AppLimits(), False),
    (AppLimits(load_ids=frozenset({"aau-1"})), True),
    (AppLimits(load_ids=frozenset({"aau-2"})), False),
    (AppLimits(site_ids=frozenset({"s-1"})), True),
    (AppLimits(tags=frozenset({"night", "x"})), True),
    (AppLimits(tags=frozenset({"day"})), False),
    (AppLimits(region_ids=frozenset({"440100"})), True),
    (AppLimits(region_ids=frozenset({"440000"})), False),
])  # fmt: skip
def test_a_load_is_the_apps_when_one_of_its_lists_has_it(limits: AppLimits, lists: bool) -> None:
    assert limits.lists(LOAD) is lists


@pytest.mark.parametrize(("off_in_h", "on_in_h", "guard"), [
    (11, 18, None),  # 23:00 to 06:00
    (11.5, 12, None),  # within one date
    (12.5, 17, None),  # begins behind midnight
    (10.9, 17, "app_window"),
    (11, 18.1, "app_window"),
    (0, 1, "app_window"),
    (11, 34, "app_longest_off"),
])  # fmt: skip
def test_an_off_lies_within_the_windows_and_is_no_longer_than_allowed(
    off_in_h: float, on_in_h: float, guard: str | None
) -> None:
    limits = replace(ALL, windows=(Window(time(23), time(6)),), longest_off_s=8 * 3600)
    found = limits.span_refusal(at(off_in_h), at(on_in_h))
    assert (None if found is None else found.guard) == guard
    if found is not None:
        assert all(found.words())
        assert "{" not in "".join(found.words())


def test_without_windows_any_time_will_do() -> None:
    assert ALL.span_refusal(at(0), at(23)) is None


def test_counts_and_lists_and_opt_outs_say_no() -> None:
    judge = AppJudge({"key:a": replace(ALL, max_off=1), "key:gone": None})
    assert judge.refusal("key:a", LOAD, at(0), at(1)) is None
    judge.passed("key:a")
    crowded = judge.refusal("key:a", LOAD, at(0), at(1))
    assert crowded is not None
    assert (crowded.guard, crowded.value, crowded.limit) == ("app_max_off", 2, 1)
    gone = judge.standing("key:gone", LOAD, at(0), at(1))
    assert gone is not None
    assert gone.guard == "app_no_limits"
    strange = judge.standing("key:a", replace(LOAD, load_id=LoadId("aau-2")), at(0), at(1))
    assert strange is not None
    assert strange.guard == "app_load"


@pytest.mark.parametrize(("off_in_h", "on_in_h", "opted"), [
    (0, 1, False), (0, 2, False), (1, 2.1, True), (3, 4, True), (0, 9, True), (4, 5, False), (5, 6, False),
])  # fmt: skip
def test_an_off_that_meets_an_opt_out_only_in_part_is_opted_out(off_in_h: float, on_in_h: float, opted: bool) -> None:
    out = OptOut("o", "s-1", at(2), at(4), "", "user:a", at(0))
    for caller in ("key:a", "user:duty"):  # also of an order that a person gives in an app's name
        found = AppJudge({"key:a": ALL}, [out]).refusal(caller, LOAD, at(off_in_h), at(on_in_h))
        assert (found is not None and found.guard == "opted_out") is opted
    ended = AppJudge({"key:a": ALL}, [replace(out, ended_by="user:a", ended_at=at(1))])
    assert ended.refusal("key:a", LOAD, at(off_in_h), at(on_in_h)) is None
    elsewhere = AppJudge({"key:a": ALL}, [replace(out, site_id="s-2")])
    assert elsewhere.refusal("key:a", LOAD, at(off_in_h), at(on_in_h)) is None


TEXTS = st.frozensets(st.text("abc", min_size=1, max_size=3), max_size=3)


@given(
    st.builds(
        AppLimits, actions=st.frozensets(st.sampled_from(AppAction)), load_ids=TEXTS, tags=TEXTS, site_ids=TEXTS,
        region_ids=TEXTS, max_off=st.integers(0, 9), longest_off_s=st.floats(1, 1e5),
        windows=st.lists(st.builds(Window, st.times(), st.times()), max_size=2).map(tuple), plan_approval=st.booleans(),
    )
)  # fmt: skip
def test_limits_are_read_as_they_were_written(limits: AppLimits) -> None:
    assert AppLimits.of_json(limits.as_json()) == limits


def test_a_program_that_runs_wild_does_not_write_the_audit_full() -> None:
    sieve = Sieve()
    assert [sieve.lets(("key:a", False), 10.0, 2) for _ in "abc"] == [True, True, False]
    assert sieve.lets(("key:a", True), 10.0, 1)
    assert sieve.lets(("key:b", False), 10.0, 2)
    assert not sieve.lets(("key:a", False), 10.0 + SIEVE_S - 1, 2)
    assert sieve.lets(("key:a", False), 10.0 + SIEVE_S, 2)
