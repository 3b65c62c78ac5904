"""Policies of the guards: what they may say, which of them holds, what they count and what they match."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.ids import DeviceId, LoadId, SiteId
from services.control.domain.guards import Policy
from services.control.domain.headcount import Headcount
from services.control.domain.loads import LoadInfo
from services.control.domain.places import (
    ActiveAlarm,
    EmergencyMode,
    MaintenanceWindow,
    backup_power,
    blocking_alarm,
)
from services.control.domain.policies import LIMITS, Book, GuardPolicy, InvalidPolicy, Scope, read_limits
from tests.unit.control.control_builders import NOW, POLICY, later


def load(load_id: str = "a", **changes: object) -> LoadInfo:
    return LoadInfo(
        **{  # type: ignore[arg-type]
            "load_id": LoadId(load_id), "name": load_id, "site_id": SiteId("s"), "region_ids": ("440106", "440100"),
            "device_id": DeviceId(f"brk-{load_id}"), "kind": "aau", "is_radio": True, "sector": "1",
            "site_kind": "base_station", "site_class": "C", **changes,
        }
    )  # fmt: skip


class TestWhichHolds:
    ORDER = (
        (Scope.DEFAULT, "-"), (Scope.REGION, "440100"), (Scope.REGION, "440106"), (Scope.SITE_KIND, "base_station"),
        (Scope.SITE_CLASS, "C"), (Scope.SITE, "s"), (Scope.LOAD_KIND, "aau"), (Scope.LOAD, "a"),
    )  # fmt: skip

    @given(st.sets(st.integers(0, 7), min_size=1))
    def test_the_most_specific_one_that_says_it(self, present: set[int]) -> None:
        policies = [GuardPolicy(*self.ORDER[number], {"min_on_s": float(number)}) for number in present]
        found = Book(policies, POLICY).of(load())
        assert found.policy.min_on_s == max(present)
        scope, target = self.ORDER[max(present)]
        assert found.said_by["min_on_s"] in (scope.value, f"{scope.value}:{target}")

    def test_a_compressor_rests_whatever_the_settings_allow_unless_a_policy_knows_better(self) -> None:
        short = replace(POLICY, min_off_s=60.0, min_on_s=600.0)
        cooler = load(kind="air_conditioner", is_radio=False, sector=None)
        book = Book((), short)
        assert book.of(load()).policy == short
        found = book.of(cooler)
        assert (found.policy.min_off_s, found.policy.min_on_s) == (180.0, 600.0)
        assert found.said_by == {"min_off_s": "kind:air_conditioner"}
        for kind in ("aau", "lighting", "socket", "other"):
            assert Book((), short).of(load(kind=kind)).policy == short
        for scope, target in ((Scope.LOAD_KIND, "air_conditioner"), (Scope.DEFAULT, "-"), (Scope.LOAD, "a")):
            said = Book([GuardPolicy(scope, target, {"min_off_s": 30.0})], short).of(cooler)
            assert said.policy.min_off_s == 30.0
            assert said.said_by["min_off_s"].startswith(scope.value)

    def test_each_limit_for_itself_and_the_rest_from_the_settings(self) -> None:
        book = Book(
            [GuardPolicy(Scope.DEFAULT, "-", {"min_on_s": 60.0, "max_off_site": 2}),
             GuardPolicy(Scope.SITE, "s", {"max_off_site": None})],
            POLICY,
        )  # fmt: skip
        policy = book.of(load()).policy
        assert (policy.min_on_s, policy.max_off_site, policy.max_offs_per_day) == (60.0, None, POLICY.max_offs_per_day)
        elsewhere = book.of(load(site_id=SiteId("other"))).policy
        assert elsewhere.max_off_site == 2

    def test_limits_of_regions_hold_together(self) -> None:
        book = Book(
            [GuardPolicy(Scope.REGION, "440100", {"max_off_region": 10}),
             GuardPolicy(Scope.REGION, "440106", {"max_off_region": 3})],
            POLICY,
        )  # fmt: skip
        found = book.of(load())
        assert found.policy.max_off_region == {"440100": 10, "440106": 3}
        assert found.said_by["max_off_region"] == "region:440100, region:440106"


class TestWhatTheyMaySay:
    def test_every_limit_is_one_of_the_policy(self) -> None:
        assert set(LIMITS) <= set(Policy.__dataclass_fields__)

    @pytest.mark.parametrize(("scope", "target", "limits", "word"), [
        (Scope.DEFAULT, "-", {}, "limits"),
        (Scope.DEFAULT, "everything", {"min_on_s": 1}, "target"),
        (Scope.SITE_KIND, "castle", {"min_on_s": 1}, "target"),
        (Scope.SITE_CLASS, "F", {"min_on_s": 1}, "target"),
        (Scope.LOAD_KIND, "oven", {"min_on_s": 1}, "target"),
        (Scope.SITE, "s", {"min_on": 1}, "limits.min_on"),
        (Scope.SITE, "s", {"min_on_s": -1}, "limits.min_on_s"),
        (Scope.SITE, "s", {"min_on_s": True}, "limits.min_on_s"),
        (Scope.SITE, "s", {"min_on_s": None}, "limits.min_on_s"),
        (Scope.SITE, "s", {"min_on_site": 1.5}, "limits.min_on_site"),
        (Scope.SITE, "s", {"min_on_site": "1"}, "limits.min_on_site"),
        (Scope.SITE, "s", {"stale_after_s": float("nan")}, "limits.stale_after_s"),
        (Scope.SITE, "s", {"stale_after_s": 86401}, "limits.stale_after_s"),
        (Scope.SITE, "s", {"two_persons": 1}, "limits.two_persons"),
        (Scope.SITE, "s", {"alarm_signals": "0?18002*"}, "limits.alarm_signals"),
        (Scope.SITE, "s", {"alarm_signals": [""]}, "limits.alarm_signals"),
        (Scope.SITE, "s", {"alarm_signals": ["x"] * 51}, "limits.alarm_signals"),
        (Scope.SITE, "s", {"max_off_region": 5}, "limits.max_off_region"),
    ])  # fmt: skip
    def test_bad_ones_are_named(self, scope: Scope, target: str, limits: dict[str, object], word: str) -> None:
        with pytest.raises(InvalidPolicy) as refused:
            read_limits(scope, target, limits)
        assert refused.value.message.startswith(f"{word}: expected")
        assert refused.value.message_zh

    def test_good_ones_are_kept(self) -> None:
        said: dict[str, object] = {"max_off_site": None, "alarm_signals": ["0?18*"], "two_persons": True, "min_on_s": 5}
        assert read_limits(Scope.SITE, "s", said) == {**said, "alarm_signals": ("0?18*",)}


class TestHeadcount:
    ALL = tuple(load(name) for name in "abcd")

    def counts(self, *off: str, unseen: tuple[str, ...] = ()) -> Headcount:
        return Headcount(members={"s": self.ALL}, off={"s": set(off)}, unseen=unseen)

    def test_units_that_stay_on(self) -> None:
        policy = replace(POLICY, min_on_sector=2)
        assert self.counts("b").refusal(self.ALL[0], policy) is None
        refusal = self.counts("b", "c").refusal(self.ALL[0], policy)
        assert refusal is not None
        assert (refusal.guard, refusal.value, refusal.limit, refusal.is_final) == ("coverage_sector", 1, 2, False)

    def test_a_sector_that_is_too_small_is_hopeless(self) -> None:
        refusal = self.counts().refusal(self.ALL[0], replace(POLICY, min_on_sector=4))
        assert refusal is not None
        assert refusal.is_final

    def test_other_sectors_and_plain_loads_do_not_cover(self) -> None:
        others = [load("x", sector="2"), load("y", is_radio=False, kind="lighting"), load("z")]
        counts = Headcount(members={"s": [self.ALL[0], *others]})
        assert counts.refusal(self.ALL[0], replace(POLICY, min_on_sector=2)) is not None
        assert counts.refusal(self.ALL[0], replace(POLICY, min_on_site=2)) is None
        assert counts.refusal(others[1], replace(POLICY, min_on_site=9)) is None

    def test_a_unit_that_nobody_has_read_does_not_cover(self) -> None:
        policy = replace(POLICY, min_on_site=3)
        assert self.counts().refusal(self.ALL[0], policy) is None
        assert self.counts(unseen=("b",)).refusal(self.ALL[0], policy) is not None

    def test_off_at_once(self) -> None:
        policy = replace(POLICY, max_off_site=2)
        assert self.counts("b").refusal(self.ALL[0], policy) is None
        refusal = self.counts("b", "c").refusal(self.ALL[0], policy)
        assert refusal is not None
        assert (refusal.guard, refusal.value, refusal.limit) == ("max_off_site", 3, 2)
        assert self.counts("a", "b").refusal(self.ALL[0], policy) is None

    def test_what_passes_counts_at_site_and_regions_once(self) -> None:
        counts = self.counts()
        counts.off_in_region = {"440100": 1}
        policy = replace(POLICY, max_off_region={"440100": 3})
        for one in (self.ALL[0], self.ALL[0], self.ALL[1]):
            assert counts.refusal(one, policy) is None
            counts.add(one)
        refusal = counts.refusal(self.ALL[2], policy)
        assert refusal is not None
        assert (refusal.guard, refusal.value, refusal.limit) == ("max_off_region", 4, 3)
        assert counts.off == {"s": {"a", "b"}}


class TestPlaces:
    @staticmethod
    def alarm(level: int, signal: str = "0s18002001", device: str | None = None) -> ActiveAlarm:
        return ActiveAlarm("al", "s", device, level, signal, NOW)

    @pytest.mark.parametrize(("alarm", "blocks"), [
        ((1,), True), ((2,), False), ((2, "x", "brk-a"), True), ((2, "x", "brk-b"), False), ((3, "x", "brk-a"), False),
        ((4, "0318004001"), True),
    ])  # fmt: skip
    def test_alarms_by_level_device_and_signal(self, alarm: tuple[object, ...], blocks: bool) -> None:
        policy = replace(POLICY, alarm_signals=("0?18004*",))
        found = blocking_alarm([self.alarm(*alarm)], load(), policy)  # type: ignore[arg-type]
        assert (found is not None) == blocks
        assert blocking_alarm([self.alarm(1)], load(site_id=SiteId("other")), policy) is None

    def test_level_zero_is_none(self) -> None:
        assert blocking_alarm([self.alarm(1)], load(), replace(POLICY, alarm_level=0, device_alarm_level=0)) is None

    @pytest.mark.parametrize(("signal", "blocks"), [
        ("0s06005001", True), ("0306005001", True), ("0s16006001", True), ("0s16001001", False), ("x", False),
    ])  # fmt: skip
    def test_battery_and_generator(self, signal: str, blocks: bool) -> None:
        assert (backup_power([self.alarm(4, signal)], load(), POLICY) is not None) == blocks

    def test_windows_are_half_open_and_may_be_of_devices(self) -> None:
        window = MaintenanceWindow("w", "s", None, NOW, later(60))
        assert window.covers(load(), NOW)
        assert not window.covers(load(), later(60))
        assert not window.covers(load(), NOW - timedelta(seconds=1))
        assert not window.covers(load(site_id=SiteId("other")), NOW)
        of_device = replace(window, device_ids=("brk-a",))
        assert of_device.covers(load(), NOW)
        assert not of_device.covers(load("b"), NOW)
        assert replace(window, device_ids=("m",)).covers(load("b", meter_device_id=DeviceId("m")), NOW)

    @pytest.mark.parametrize(("scope", "target", "covers"), [
        ("all", "", True), ("site", "s", True), ("site", "t", False), ("region", "440100", True),
        ("region", "440300", False),
    ])  # fmt: skip
    def test_emergency_mode_of_a_place(self, scope: str, target: str, covers: bool) -> None:
        assert EmergencyMode("e", scope, target, "storm", "user:a", NOW).covers(load()) == covers
