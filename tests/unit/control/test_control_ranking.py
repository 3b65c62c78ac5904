"""Which loads a plan means, and which of two plans counts."""

from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.ids import DeviceId, LoadId, PlanId, SiteId
from services.control.domain.loads import LoadInfo
from services.control.domain.overlap import Outcome, find_overlap
from services.control.domain.plans import (
    Plan,
    PlanOptions,
    PlanState,
    Schedule,
    Window,
    WindowInstance,
    instances,
    narrowed,
)
from services.control.domain.targets import Groups, NothingMeant, resolve

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)


def load(load_id: str, site: str = "s1", *, device: str = "", tags: tuple[str, ...] = ()) -> LoadInfo:
    return LoadInfo(
        load_id=LoadId(load_id), name=load_id, site_id=SiteId(site), region_ids=("440106", "440100"),
        device_id=DeviceId(device or f"brk-{load_id}"), tags=tags,
    )  # fmt: skip


LOADS = [load("d", "s2", tags=("x",)), load("a", tags=("x", "y")), load("b", device="brk-a"), load("c", "s3")]


class TestTargets:
    @pytest.mark.parametrize(("named", "groups", "meant"), [
        (["z", "y"], Groups(), ("z", "y")),
        ([], Groups(tags=("x",)), ("a", "d")),
        (["d"], Groups(tags=("x",)), ("d", "a")),
        ([], Groups(device_ids=("brk-a",)), ("a", "b")),
        ([], Groups(site_ids=("s1", "s3")), ("a", "b", "c")),
        ([], Groups(region_ids=("440100",), excluded_load_ids=("b", "c")), ("a", "d")),
        (["b"], Groups(site_ids=("s3",), excluded_load_ids=("b",)), ("b", "c")),
        ([], Groups(tags=("y",), site_ids=("s2",)), ("a", "d")),
    ])  # fmt: skip
    def test_what_is_meant(self, named: list[str], groups: Groups, meant: tuple[str, ...]) -> None:
        assert resolve(named, groups, LOADS) == meant

    def test_a_group_without_a_load_is_refused_by_name(self) -> None:
        with pytest.raises(NothingMeant) as refused:
            resolve(["a"], Groups(tags=("x", "misspelt")), LOADS)
        assert refused.value.facts["field"] == "tags"
        assert "misspelt" in refused.value.message
        assert "x," not in refused.value.message


def plan(plan_id: str, *loads: str, rank: int = 50, approved_s: float | None = None) -> Plan:
    return Plan(
        plan_id=PlanId(plan_id), name=plan_id, state=PlanState.APPROVED, load_ids=tuple(map(LoadId, loads)),
        schedule=Schedule(date(2026, 3, 1), date(2026, 3, 3), (Window(time(23), time(6)),), "Asia/Shanghai"),
        calendar_ids=(), created_by="user:a", created_at=BEGAN, options=PlanOptions(rank=rank),
        approved_at=None if approved_s is None else BEGAN + timedelta(seconds=approved_s),
    )  # fmt: skip


def windows(*pairs: tuple[float, float]) -> list[WindowInstance]:
    return [
        WindowInstance(BEGAN.replace(tzinfo=None) + timedelta(hours=first), BEGAN + timedelta(hours=first),
                       BEGAN + timedelta(hours=last))
        for first, last in pairs
    ]  # fmt: skip


class TestOverlap:
    @pytest.mark.parametrize(("rank", "approved_s", "outcome"), [
        (50, None, Outcome.YIELDS), (50, 5, Outcome.PREVAILS), (50, 20, Outcome.YIELDS), (49, None, Outcome.PREVAILS),
        (51, 5, Outcome.YIELDS),
    ])  # fmt: skip
    def test_rank_counts_then_the_approval(self, rank: int, approved_s: float | None, outcome: Outcome) -> None:
        mine, other = plan("p", "a", "b", rank=rank, approved_s=approved_s), plan("q", "b", "c", approved_s=10)
        found = find_overlap(mine, windows((0, 8), (24, 32)), other, windows((6, 9), (40, 44)))
        assert found is not None
        assert (found.outcome, found.load_ids, found.windows) == (outcome, ("b",), 1)
        assert found.first_at == BEGAN + timedelta(hours=6)

    def test_windows_that_follow_each_other_do_not_meet(self) -> None:
        assert find_overlap(plan("p", "a"), windows((0, 8)), plan("q", "a"), windows((8, 9))) is None

    def test_other_loads_do_not_meet(self) -> None:
        assert find_overlap(plan("p", "a"), windows((0, 8)), plan("q", "b"), windows((0, 8))) is None

    @given(*[st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=8)] * 2)
    def test_it_is_what_comparing_all_with_all_finds(
        self, mine: list[tuple[int, int]], others: list[tuple[int, int]]
    ) -> None:
        # Windows of one plan do not overlap each other (``check_schedule``).
        first, second = (windows(*apart(pairs)) for pairs in (mine, others))
        meeting = [w for w in first if any(o.off_at < w.on_at and w.off_at < o.on_at for o in second)]
        found = find_overlap(plan("p", "a"), first, plan("q", "a"), second)
        assert (0 if found is None else found.windows) == len(meeting)


def apart(pairs: list[tuple[int, int]]) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    for start, length in sorted(pairs):
        if not found or start >= found[-1][1]:
            found.append((start, start + length))
    return found


def test_a_narrowed_schedule_has_every_window_that_is_open_in_between() -> None:
    year = Schedule(date(2026, 1, 1), date(2026, 12, 31), (Window(time(23), time(22)),), "America/New_York")
    for first in (datetime(2026, 3, 7, tzinfo=UTC), datetime(2026, 11, 1, 5, tzinfo=UTC)):
        last = first + timedelta(days=3)
        whole = [one for one in instances(year) if one.off_at < last and one.on_at > first]
        part = [one for one in instances(narrowed(year, first, last)) if one.off_at < last and one.on_at > first]
        assert part == whole
        assert len(whole) >= 3
