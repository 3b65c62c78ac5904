"""What explains an alarm: windows, shelves, other alarms, storms; and what people and flapping do to its life."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.alarm.domain.engine import Changes, Limits
from services.alarm.domain.model import SECOND_US, AlarmStep, EndReason, Need, StepPhase
from services.alarm.domain.sites import Shelf, SiteLimits, Sites, Standing, Storm, Window
from tests.unit.alarm.alarm_builders import Bench, Devices, book, rule, seconds, target, us

DEAD = rule("dead", threshold=50, needs=[Need.LOAD, Need.SUPPLY], takes=Need.SUPPLY)
LOW = rule("low", threshold=160, needs=[Need.LOAD, Need.SUPPLY])
SETTLE_S = 60


def site_of(*names: str, **limits: Any) -> Bench:
    """Meters of a site; the first measures its feed."""
    devices = Devices(*(target(name) for name in names))
    for name in names[1:]:
        devices.supplied_by[name] = [frozenset({names[0]})]
    return Bench(book(DEAD, LOW), directory=devices, site_limits=SiteLimits(**limits))


def told(steps: list[AlarmStep]) -> list[tuple[str, str, str, str | None]]:
    return [(step.device_id, step.rule_id, step.phase.value, step.inhibited_by) for step in steps]


def fail(bench: Bench, name: str, from_s: float, volts: float = 0) -> list[AlarmStep]:
    bench.volts(from_s, volts, device_id=name)
    return bench.volts(from_s + 3, volts, device_id=name)


class TestTopology:
    def test_what_is_behind_a_dead_feed_is_explained_by_it(self) -> None:
        bench = site_of("feed", "m-1")
        [dead, low] = sorted(fail(bench, "feed", 0), key=lambda step: step.rule_id)
        assert (dead.inhibited_by, low.inhibited_by) == (None, None), "the feed itself has nothing above it"
        parent = f"alarm:{dead.alarm_id}"
        assert {step.inhibited_by for step in fail(bench, "m-1", 5)} == {parent}

    def test_an_alarm_that_was_told_before_its_cause_is_marked(self) -> None:
        bench = site_of("feed", "m-1")
        fail(bench, "m-1", 0)
        parent = next(step for step in fail(bench, "feed", 2) if step.rule_id == "dead")
        assert told(bench.settle(6)) == [
            ("m-1", "dead", "update", f"alarm:{parent.alarm_id}"),
            ("m-1", "low", "update", f"alarm:{parent.alarm_id}"),
        ]
        assert bench.settle(7) == [], "once"

    def test_what_outlasts_its_cause_is_told_after_a_while_and_what_does_not_never(self) -> None:
        bench = site_of("feed", "m-1", "m-2")
        fail(bench, "feed", 0)
        fail(bench, "m-1", 1)
        fail(bench, "m-2", 1)
        bench.volts(100, 230, device_id="feed")
        bench.volts(103, 230, device_id="feed")
        bench.volts(104, 230, device_id="m-2")
        assert {step.phase for step in bench.volts(107, 230, device_id="m-2")} == {StepPhase.END}
        bench.volts(150, 0, device_id="m-1")
        assert bench.settle(103 + SETTLE_S - 1) == []
        assert told(bench.settle(103 + SETTLE_S)) == [
            ("m-1", "dead", "update", None),
            ("m-1", "low", "update", None),
        ]

    def test_a_site_with_two_feeds_is_dead_when_both_are(self) -> None:
        devices = Devices(*(target(name) for name in ("feed-1", "feed-2", "m-1")))
        devices.supplied_by["m-1"] = [frozenset({"feed-1", "feed-2"})]
        bench = Bench(book(DEAD, LOW), directory=devices)
        fail(bench, "feed-1", 0)
        assert {step.inhibited_by for step in fail(bench, "m-1", 5)} == {None}
        fail(bench, "feed-2", 10)
        assert all(step.inhibited_by is not None for step in bench.settle(14))
        assert len(bench.last.steps) == 2

    def test_a_gateway_that_is_lost_explains_the_silence_behind_it(self) -> None:
        devices = Devices(target("gateway"), target("m-1"))
        devices.carried_by["m-1"] = frozenset({"gateway", "line:l-1"})
        lost = rule("lost", threshold=50, takes=Need.LINK)
        silent = rule("silent", threshold=50, needs=[Need.LINK])
        bench = Bench(book(lost, silent), directory=devices)
        parent = next(step for step in fail(bench, "gateway", 0) if step.rule_id == "lost")
        found = {step.rule_id: step.inhibited_by for step in fail(bench, "m-1", 5)}
        assert found == {"lost": None, "silent": f"alarm:{parent.alarm_id}"}

    def test_a_line_that_is_down_explains_it_too(self) -> None:
        devices = Devices(target("m-1"))
        devices.carried_by["m-1"] = frozenset({"line:l-1"})
        bench = Bench(book(rule("silent", threshold=50, needs=[Need.LINK])), directory=devices)
        finding = Standing("f-1", 0, "s-1", None, "line_down", 3, us(0), us(0), takes=Need.LINK, subject="l-1")
        bench.sites.rise(finding)
        assert [step.inhibited_by for step in fail(bench, "m-1", 5)] == ["alarm:f-1"]

    def test_after_a_crash_an_explanation_stands_until_things_have_settled(self) -> None:
        first = site_of("feed", "m-1")
        fail(first, "feed", 0)
        fail(first, "m-1", 1)
        second = site_of("feed", "m-1")
        low = first.engine.episode("m-1", "low")
        dead = first.engine.episode("m-1", "dead")
        assert low is not None
        assert dead is not None
        slots = [first.engine.judged(slot) for slot in range(2)]
        second.engine.load(slots, [("m-1", "low", low), ("m-1", "dead", dead)], [])
        second.sites.load(second.engine.standings({0}), [], [], [])
        assert second.settle(10) == [], "the feed came back while nobody looked: wait"
        told_late = sorted(told(second.settle(10 + SETTLE_S)))
        assert told_late == [("m-1", "dead", "update", None), ("m-1", "low", "update", None)]


class TestWindows:
    def window(self, from_s: float, to_s: float, *devices: str) -> Window:
        return Window("w-1", "s-1", frozenset(devices) or None, us(from_s), us(to_s))

    def test_what_is_raised_in_a_window_is_told_after_it(self) -> None:
        bench = Bench(book(rule()))
        bench.sites.put_window(self.window(0, 100))
        assert [step.inhibited_by for step in fail(bench, "m-1", 5)] == ["window:w-1"]
        assert bench.settle(99) == []
        assert told(bench.settle(100)) == [("m-1", "low", "update", None)]

    def test_what_was_told_before_stays_told(self) -> None:
        bench = Bench(book(rule()))
        fail(bench, "m-1", 0)
        bench.sites.put_window(self.window(10, 100))
        assert bench.settle(50) == []

    def test_a_window_of_one_device_covers_no_other(self) -> None:
        bench = Bench(book(rule()), target("m-1"), target("m-2"))
        bench.sites.put_window(self.window(0, 100, "m-1"))
        assert [step.inhibited_by for step in fail(bench, "m-1", 5)] == ["window:w-1"]
        assert [step.inhibited_by for step in fail(bench, "m-2", 5)] == [None]

    def test_a_window_that_is_called_off_or_shortened_ends_now(self) -> None:
        for change in ("call off", "shorten"):
            bench = Bench(book(rule()))
            bench.sites.put_window(self.window(0, 100))
            fail(bench, "m-1", 5)
            bench.settle(10)
            if change == "shorten":
                bench.sites.put_window(self.window(0, 11))
            else:
                bench.sites.remove_window("w-1")
            assert told(bench.settle(12)) == [("m-1", "low", "update", None)], change


class TestShelves:
    def test_a_shelf_holds_what_stands_and_what_the_rule_raises_again(self) -> None:
        bench = Bench(book(rule()))
        [begin] = fail(bench, "m-1", 0)
        bench.sites.put_shelf(Shelf(begin.alarm_id, "s-1", "m-1", "low", us(1000)))
        reason = f"shelf:{begin.alarm_id}"
        assert told(bench.settle(10)) == [("m-1", "low", "update", reason)]
        bench.volts(20, 230)
        assert [step.phase for step in bench.volts(23, 230)] == [StepPhase.END]
        assert [step.inhibited_by for step in fail(bench, "m-1", 30)] == [reason]
        assert told(bench.settle(1000)) == [("m-1", "low", "update", None)]

    def test_what_is_taken_off_is_told(self) -> None:
        bench = Bench(book(rule()))
        [begin] = fail(bench, "m-1", 0)
        bench.sites.put_shelf(Shelf(begin.alarm_id, "s-1", "m-1", "low", us(1000)))
        bench.settle(10)
        bench.sites.remove_shelf("s-1", begin.alarm_id)
        assert told(bench.settle(11)) == [("m-1", "low", "update", None)]


class TestStorms:
    def storming(self, number: int, **limits: Any) -> Bench:
        names = [f"m-{place}" for place in range(number)]
        bench = Bench(book(rule()), *map(target, names), site_limits=SiteLimits(storm_count=5, **limits))
        for name in names[:5]:
            fail(bench, name, 0)
        return bench

    def begin(self, bench: Bench, clock_s: float) -> None:
        bench.tick(clock_s)
        [news] = bench.sites.storms(0, us(clock_s))
        assert (news.begins, news.count) == (True, 5)
        storm = Standing("storm", 0, "s-1", None, "storm", 2, us(clock_s), us(clock_s), finding=True)
        bench.sites.rise(storm)
        bench.sites.put_storm("s-1", Storm("storm", us(clock_s)))

    def test_what_comes_in_a_storm_goes_on_under_it_and_is_told_after_it(self) -> None:
        bench = self.storming(7)
        self.begin(bench, 4)
        assert [step.inhibited_by for step in fail(bench, "m-5", 10)] == ["alarm:storm"]
        assert bench.sites.storms(0, us(100)) == []
        [over] = bench.sites.storms(0, us(4 + 300))
        assert (over.begins, over.count) == (False, 1)
        bench.sites.put_storm("s-1", None)
        assert told(bench.settle(305)) == [("m-5", "low", "update", None)]

    def test_the_worst_level_is_told_in_a_storm_too(self) -> None:
        bench = self.storming(6, storm_told_level=3)
        self.begin(bench, 4)
        assert [step.inhibited_by for step in fail(bench, "m-5", 10)] == [None]

    def test_a_storm_that_goes_on_is_not_over(self) -> None:
        bench = self.storming(9)
        self.begin(bench, 4)
        for place in range(5, 9):
            fail(bench, f"m-{place}", 290)
        assert bench.sites.storms(0, us(305)) == []
        [over] = bench.sites.storms(0, us(600))
        assert over.count == 4

    def test_a_few_alarms_now_and_then_are_no_storm(self) -> None:
        bench = self.storming(5)
        bench.tick(100)
        assert bench.sites.storms(0, us(100)) == []

    def test_what_something_else_explains_makes_no_storm(self) -> None:
        names = [f"m-{place}" for place in range(8)]
        bench = Bench(book(rule()), *map(target, names), site_limits=SiteLimits(storm_count=5))
        bench.sites.put_window(Window("w-1", "s-1", None, us(0), us(1000)))
        for name in names:
            fail(bench, name, 0)
        assert bench.sites.storms(0, us(10)) == []


class TestByHand:
    def dismiss(self, bench: Bench, alarm_id: str) -> bool:
        bench.last = Changes()
        return bench.engine.dismiss(alarm_id, bench.last, actor="user:wang", note="sensor is broken")

    def test_an_alarm_that_a_person_ends_arms_again_only_after_its_condition_was_false(self) -> None:
        bench = Bench(book(rule()))
        [begin] = fail(bench, "m-1", 0)
        assert self.dismiss(bench, begin.alarm_id)
        [end] = bench.last.steps
        assert (end.phase, end.end_reason, end.sequence, end.actor, end.note) == (
            *(StepPhase.END, EndReason.MANUAL, 2, "user:wang"),
            "sensor is broken",
        )
        assert bench.state() == "DISMISSED"
        assert fail(bench, "m-1", 10) == []
        assert bench.tick(2000) == [], "not even after a long silence"
        bench.volts(3000, 230)
        assert bench.state() == "NORMAL"
        [again] = fail(bench, "m-1", 3010)
        assert again.alarm_id != begin.alarm_id

    def test_one_that_is_about_to_end_is_over_and_armed(self) -> None:
        bench = Bench(book(rule()))
        [begin] = fail(bench, "m-1", 0)
        bench.volts(10, 230)
        assert self.dismiss(bench, begin.alarm_id)
        assert bench.state() == "NORMAL"

    def test_what_is_not_active_cannot_be_ended(self) -> None:
        bench = Bench(book(rule()))
        assert not self.dismiss(bench, "nobody")
        [begin] = fail(bench, "m-1", 0)
        assert self.dismiss(bench, begin.alarm_id)
        assert not self.dismiss(bench, begin.alarm_id)

    def test_a_changed_rule_arms_what_it_does_not_hold_for(self) -> None:
        bench = Bench(book(rule()))
        [begin] = fail(bench, "m-1", 0, volts=150)
        self.dismiss(bench, begin.alarm_id)
        assert bench.set_book(book(rule(threshold=140, version=2))) == []
        assert bench.state() == "NORMAL"


class TestFlapping:
    def turns(self, bench: Bench, number: int, from_s: float = 0, every_s: float = 20) -> list[AlarmStep]:
        steps: list[AlarmStep] = []
        for turn in range(number):
            steps += fail(bench, "m-1", from_s + turn * every_s)
            for second in (5, 8):
                steps += bench.volts(from_s + turn * every_s + second, 230)
        return steps

    def test_an_alarm_that_comes_and_goes_is_held_until_it_stays_away(self) -> None:
        bench = Bench(book(rule()), limits=Limits(flap_count=3, flap_within_us=100 * SECOND_US))
        steps = self.turns(bench, 6)
        assert [(step.phase.value, seconds(step.began_us), step.flapping) for step in steps] == [
            *[("begin", 0, False), ("end", 0, False), ("begin", 20, False), ("end", 20, False)],
            ("begin", 40, True),
        ]
        for second in (110, 150, 190):
            assert bench.volts(second, 230) == []
        [end] = bench.volts(206, 230)
        assert (end.phase, seconds(end.ended_us)) == (StepPhase.END, 105)
        assert bench.state() == "NORMAL"

    def test_begins_far_apart_do_not_flap(self) -> None:
        bench = Bench(book(rule()), limits=Limits(flap_count=3, flap_within_us=100 * SECOND_US))
        steps = self.turns(bench, 4, every_s=60)
        assert not any(step.flapping for step in steps)

    def test_a_crash_forgets_no_begin(self) -> None:
        limits = Limits(flap_count=3, flap_within_us=100 * SECOND_US)
        first = Bench(book(rule()), limits=limits)
        begins = [step for step in self.turns(first, 2) if step.phase is StepPhase.BEGIN]
        second = Bench(book(rule()), limits=limits)
        second.engine.load([first.engine.judged(0)], [], [("m-1", "low", step.began_us) for step in begins])
        [begin] = fail(second, "m-1", 40)
        assert begin.flapping


@st.composite
def happenings(draw: st.DrawFn) -> list[tuple[float, str, float]]:
    """Voltages of three meters over time, in order."""
    number = draw(st.integers(1, 40))
    return [
        (float(place * 2), draw(st.sampled_from(("feed", "m-1", "m-2"))), draw(st.sampled_from((0.0, 150.0, 230.0))))
        for place in range(number)
    ]


@settings(max_examples=150, deadline=None)
@given(happenings(), st.floats(0, 80), st.floats(1, 80))
def test_whatever_happens_every_alarm_is_told_in_the_end_or_explained_by_something_that_stands(
    history: list[tuple[float, str, float]], window_s: float, length_s: float
) -> None:
    """And sequences rise by one, nothing ends twice, and what is marked is marked by what was there."""
    bench = site_of("feed", "m-1", "m-2")
    bench.sites.put_window(Window("w-1", "s-1", None, us(window_s), us(window_s + length_s)))
    steps: list[AlarmStep] = []
    for at_s, name, volts in history:
        steps += bench.volts(at_s, volts, device_id=name)
        steps += bench.settle(at_s)
    # An alarm that flaps is held while its condition is false; what it says of its cause is news once it is over.
    end_s = history[-1][0] + 2000
    for at_s in range(int(history[-1][0]), int(end_s), 20):
        steps += bench.settle(at_s)
    lives: dict[str, list[AlarmStep]] = {}
    for step in steps:
        lives.setdefault(step.alarm_id, []).append(step)
    active = {life[-1].alarm_id for life in lives.values() if life[-1].phase is not StepPhase.END}
    for life in lives.values():
        assert [step.sequence for step in life] == list(range(1, len(life) + 1))
        assert [step.phase for step in life].count(StepPhase.BEGIN) == 1
        assert StepPhase.END not in [step.phase for step in life[:-1]]
        reasons = {step.inhibited_by for step in life} - {None, "window:w-1"}
        assert all(str(reason).removeprefix("alarm:") in lives for reason in reasons)
        last = life[-1]
        if last.alarm_id in active and last.inhibited_by is not None:
            assert last.inhibited_by.removeprefix("alarm:") in active


def test_a_partition_that_is_given_up_is_forgotten() -> None:
    devices = Devices(target("m-1"))
    known = Sites(devices)
    known.rise(Standing("a-1", 3, "s-1", "m-1", "low", 3, us(0), us(0)))
    known.rise(Standing("a-2", 4, "s-2", "m-2", "low", 3, us(0), us(0)))
    known.drop([3])
    assert known.find("a-1") is None
    assert known.find("a-2") is not None
    assert list(known.settle(3, us(10))) == []
