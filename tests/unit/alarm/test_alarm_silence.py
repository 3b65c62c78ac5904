"""Devices that are not heard any more, ingest that is not, and what of the two is whose."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.alarm.domain import beats as hearing
from services.alarm.domain.beats import Beat, Beats, Pulse
from services.alarm.domain.engine import Changes, Engine, Judged, Limits, Reports
from services.alarm.domain.model import SECOND_US, Comparison, EndReason, Measure, Need, Rule
from services.alarm.domain.rulebook import RuleBook
from services.alarm.domain.sites import Sites
from tests.unit.alarm.alarm_builders import Bench, Devices, book, reports, rule, seconds, story, target, us

PERIOD, MISSED, DELAY = 10, 3, 20
PATIENCE = PERIOD * MISSED
EXACT = Limits(tick_grace_us=0, scan_every_us=0, flap_count=1000)


def silent(rule_id: str = "silent", *, end_delay_s: float = 0.0, level: int = 3, missed: float = MISSED) -> Rule:
    plain = rule(
        rule_id, comparison=Comparison.ABOVE, points=(), threshold=missed, start_delay_s=float(DELAY),
        end_delay_s=end_delay_s, level=level, needs=[Need.LINK, Need.SUPPLY, Need.LOAD], takes=Need.LINK,
    )  # fmt: skip
    return Rule(
        plain.rule_id, plain.signal, plain.comparison, plain.quantifier, plain.points, plain.unit, plain.device_kinds,
        plain.defaults, needs=plain.needs, takes=plain.takes, measure=Measure.SILENCE,
    )  # fmt: skip


def bench(
    rules: RuleBook | None = None,
    *,
    limits: Limits = EXACT,
    partition_of: Callable[[str], int] | None = None,
    **facts: Any,
) -> Bench:
    one = target(**{"period_s": float(PERIOD)} | facts)
    return Bench(rules or book(silent()), one, limits=limits, partition_of=partition_of)


def empty(*seconds_at: float) -> Reports:
    """Reports of a device that say nothing but that it is there."""
    return reports(("m-1", at_s, {}, frozenset()) for at_s in seconds_at)


def test_a_device_that_missed_its_reports_is_lost_since_the_last_of_them() -> None:
    judge = bench()
    judge.volts(0, 230)
    assert judge.tick(PATIENCE + DELAY - 1) == []
    [begin] = judge.tick(PATIENCE + DELAY)
    assert (begin.phase, begin.rule_id, seconds(begin.began_us), begin.point) == ("begin", "silent", PATIENCE, None)
    assert judge.tick(1000) == []
    [end] = judge.volts(1010, 230)
    assert (seconds(end.ended_us), end.end_reason, end.sequence) == (1010, EndReason.RECOVERED, 2)


def test_a_report_at_the_very_moment_wins() -> None:
    judge = bench()
    judge.volts(0, 230)
    assert judge.volts(PATIENCE + DELAY, 230) == []
    assert judge.tick(PATIENCE + DELAY + PATIENCE + DELAY - 1) == []


def test_a_backlog_tells_of_the_gap_between_two_reports() -> None:
    judge = bench()
    assert story(judge.judge(empty(0.0, 10.0, 200.0, 210.0))) == [
        ("begin", 10 + PATIENCE, None),
        ("end", 10 + PATIENCE, 200),
    ]
    assert judge.tick(211) == []


def test_a_backlog_without_gaps_tells_nothing() -> None:
    judge = bench()
    assert judge.judge(empty(*range(0, 3600, PERIOD))) == []
    assert judge.tick(3600) == []


def test_a_device_that_never_reported_is_waited_for_since_it_is_known() -> None:
    judge = bench()
    judge.engine.expect("m-1", 0)
    assert judge.tick(500) == []
    assert judge.tick(500 + PATIENCE + DELAY - 1) == []
    assert story(judge.tick(500 + PATIENCE + DELAY)) == [("begin", 500 + PATIENCE, None)]
    assert story(judge.volts(1000, 230)) == [("end", 500 + PATIENCE, 1000)]


def test_the_moment_from_which_a_device_is_waited_for_is_kept() -> None:
    judge = bench()
    judge.engine.expect("m-1", 0)
    judge.tick(500)
    kept = [judge.engine.heard(slot) for slot in judge.last.heard]
    assert kept == [("m-1", 0, us(500))]
    after = bench()
    after.engine.load([], [], [], kept)
    assert story(after.tick(500 + PATIENCE + DELAY)) == [("begin", 500 + PATIENCE, None)]


def test_nobody_waits_for_a_device_that_reports_when_it_likes() -> None:
    judge = bench(period_s=None)
    judge.volts(0, 230)
    assert judge.tick(1_000_000) == []


@pytest.mark.parametrize("late", [True, False])
def test_a_report_that_is_not_judged_is_heard_all_the_same(late: bool) -> None:
    judge = bench()
    judge.volts(100, 230)
    judge.report(0 if late else 5000, received_s=140)
    assert [judge.engine.heard(slot)[2] for slot in judge.last.heard] == [us(140)]
    assert judge.tick(100 + PATIENCE + DELAY) == []
    assert story(judge.tick(140 + PATIENCE + DELAY)) == [("begin", 140 + PATIENCE, None)]


def test_the_end_waits_for_its_delay_and_begins_anew_when_the_device_is_silent_again() -> None:
    judge = bench(book(silent(end_delay_s=40.0)))
    judge.volts(0, 230)
    judge.tick(60)
    assert judge.volts(100, 230) == []
    assert judge.state("silent") == "CLEARING"
    assert judge.tick(141) == []
    assert judge.state("silent") == "ACTIVE"
    assert judge.volts(150, 230) == []
    for at in range(160, 190, PERIOD):
        assert judge.volts(at, 230) == []
    assert story(judge.tick(190)) == [("end", PATIENCE, 150)]


def test_rules_of_two_levels_are_raised_one_after_the_other() -> None:
    judge = bench(book(silent("first"), silent("second", level=1, missed=6)))
    judge.volts(0, 230)
    assert [step.rule_id for step in judge.tick(PATIENCE + DELAY)] == ["first"]
    assert [step.rule_id for step in judge.tick(2 * PATIENCE + DELAY)] == ["second"]
    assert sorted(step.rule_id for step in judge.volts(500, 230)) == ["first", "second"]


def test_a_device_that_is_removed_is_not_waited_for() -> None:
    judge = bench()
    judge.volts(0, 230)
    judge.tick(PATIENCE + DELAY)
    judge.directory.removed.add("m-1")
    judge.engine.forget_device("m-1")
    [end] = judge.reconsider()
    assert end.end_reason is EndReason.DEVICE_REMOVED
    assert judge.tick(10_000) == []


@pytest.mark.parametrize(("missed", "told"), [(6, ["end"]), (4, [])])
def test_a_changed_number_of_reports_is_looked_at_again(missed: float, told: list[str]) -> None:
    judge = bench()
    judge.volts(0, 230)
    judge.tick(PATIENCE + DELAY)
    steps = judge.set_book(book(replace(silent(missed=missed), version=2), version=2))
    assert [(step.phase.value, step.end_reason) for step in steps] == [(one, EndReason.RULE_CHANGED) for one in told]
    later = judge.tick(6 * PERIOD + DELAY)
    assert story(later) == ([("begin", 6 * PERIOD, None)] if told else [])


def test_a_silent_gateway_explains_its_silent_devices() -> None:
    directory = Devices(target("m-1", period_s=10.0), target("g-1", period_s=10.0))
    directory.carried_by = {"m-1": frozenset({"g-1"})}
    judge = Bench(book(silent()), directory=directory, limits=EXACT)
    judge.volts(0, 230, device_id="m-1")
    judge.volts(5, 230, device_id="g-1")
    judge.settle(PATIENCE + DELAY)
    steps = judge.settle(5 + PATIENCE + DELAY)
    [gateway] = [step for step in steps if step.device_id == "g-1"]
    [meter] = [step for step in steps if step.device_id == "m-1"]
    assert (meter.phase, meter.inhibited_by) == ("update", f"alarm:{gateway.alarm_id}")


def test_a_dismissed_silence_is_raised_again_only_after_the_device_was_heard() -> None:
    judge = bench()
    judge.volts(0, 230)
    [begin] = judge.tick(PATIENCE + DELAY)
    changes = Changes()
    assert judge.engine.dismiss(begin.alarm_id, changes, actor="user:a", note=None)
    assert judge.tick(1000) == []
    assert judge.volts(1001, 230) == []
    assert story(judge.tick(1001 + PATIENCE + DELAY)) == [("begin", 1001 + PATIENCE, None)]


def test_state_that_was_stored_goes_on() -> None:
    judge = bench()
    judge.volts(0, 230)
    judge.tick(PATIENCE + DELAY)
    episode = judge.engine.episode("m-1", "silent")
    assert episode is not None
    after = bench()
    after.engine.load([Judged("m-1", 0, us(0), us(0))], [("m-1", "silent", episode)], [])
    after.reconsider()
    assert after.tick(500) == []
    assert story(after.volts(600, 230)) == [("end", PATIENCE, 600)]


def test_a_device_whose_site_reports_elsewhere_is_not_waited_for_here() -> None:
    """Its reports come in another partition, maybe to another process."""
    judge = bench(partition_of=lambda site_id: 0 if site_id == "s-1" else 5)
    judge.volts(0, 230)
    judge.directory.targets["m-1"] = target("m-1", site_id="s-2", period_s=float(PERIOD))
    judge.engine.forget_device("m-1")
    assert judge.tick(1000) == []
    judge.report(1000, partition=5)
    assert judge.tick(1000 + PATIENCE + DELAY) == []
    assert story(judge.tick(1000 + PATIENCE + DELAY, partition=5)) == [("begin", 1000 + PATIENCE, None)]


def test_devices_that_nobody_knows_any_more_do_not_stand_in_the_way_of_others() -> None:
    gone = [target(f"gone-{number}") for number in range(3)]
    directory = Devices(*gone, target("m-1", period_s=float(PERIOD)))
    judge = Bench(book(silent()), directory=directory, limits=replace(EXACT, at_once=2))
    for one in gone:
        judge.volts(0, 230, device_id=one.device_id)
        directory.removed.add(one.device_id)
        judge.engine.forget_device(one.device_id)
    judge.engine.expect("m-1", 0)
    for at in range(4):
        judge.tick(at)
    assert story(judge.tick(3 + PATIENCE + DELAY)) == [("begin", PATIENCE, None)]


def test_what_one_batch_looks_at_is_bounded_whatever_the_partitions() -> None:
    directory = Devices(target("m-1", period_s=10.0), target("m-2", period_s=10.0))
    engine = Engine(book=book(silent()), directory=directory, sites=Sites(directory), limits=replace(EXACT, at_once=1))
    for partition, name in enumerate(("m-1", "m-2")):
        engine.expect(name, partition)
    for at in (0, 1):
        for partition in (0, 1):
            engine.tick(partition, us(at), Changes())
    told: list[list[str]] = []
    for at in (100, 101):
        changes = Changes()
        for partition in (0, 1):
            engine.tick(partition, us(at), changes)
        told.append([step.device_id for step in changes.steps])
    assert told == [["m-1"], ["m-2"]]


# Ingest.


def test_reports_are_in_until_the_last_heartbeat_of_the_slowest_process() -> None:
    beats = Beats(gone_us=900, deaf_us=30)
    beats.note(0, "a", 100)
    beats.note(0, "b", 40)
    beats.note(1, "b", 10)
    assert (beats.waited_us(0, 120), beats.waited_us(1, 120), beats.waited_us(2, 120)) == (40, 10, 120)
    assert beats.newest_us() == {"a": (100, True), "b": (40, True)}


def test_a_process_counts_until_another_has_beaten_so_long_without_it() -> None:
    beats = Beats(gone_us=900, deaf_us=30)
    beats.note(0, "a", 40)
    beats.note(0, "b", 40)
    for at in range(41, 941):
        beats.note(0, "a", at)
    assert beats.waited_us(0, 10_000) == 40
    beats.note(0, "a", 941)
    assert beats.waited_us(0, 10_000) == 941
    assert beats.newest_us() == {"a": (941, True), "b": (40, False)}
    assert beats.take_gone(0) == []
    for at in range(942, 40 + 3 * 900 + 2):
        beats.note(0, "a", at)
    assert beats.take_gone(0) == [(0, "b")]
    assert beats.newest_us() == {"a": (2741, True)}


def test_after_an_outage_of_all_nobody_is_gone_because_another_came_back_first() -> None:
    beats = Beats(gone_us=900, deaf_us=30)
    beats.note(0, "a", 0)
    beats.note(0, "b", 0)
    assert beats.note(0, "a", 7200)
    assert beats.waited_us(0, 7200) == 0
    assert beats.note(0, "b", 7230)
    assert beats.waited_us(0, 7230) == 7200


def test_a_new_process_in_the_place_of_a_dead_one_begins_anew_and_one_beside_the_living_does_not() -> None:
    beats = Beats(gone_us=900, deaf_us=30)
    assert not beats.note(0, "a", 0)
    assert not beats.note(0, "b", 20)
    assert beats.note(0, "c", 31)


def test_a_process_that_did_not_beat_did_not_listen() -> None:
    beats = Beats(gone_us=900, deaf_us=30)
    assert not beats.note(0, "a", 100)
    assert not beats.note(0, "a", 130)
    assert beats.note(0, "a", 161)
    assert list(beats.resumed()) == [(0, 161)]
    assert beats.take_news() == {(0, "a"): Pulse(161, 161)}
    assert beats.take_news() == {}
    after = Beats(gone_us=900, deaf_us=30)
    after.load({(0, "a"): Pulse(161, 161)})
    assert list(after.resumed()) == [(0, 161)]


@dataclass(frozen=True)
class Said:
    """A message of ingest as the partition has it: a heartbeat, or a report of a device."""

    at: int
    device: str | None


DEAF = 30


@st.composite
def partitions(draw: st.DrawFn) -> list[Said]:
    """Seconds of a partition: heartbeats every second but in outages, reports of two devices when they like."""
    length = draw(st.integers(50, 400))
    outages: set[int] = set()
    for _ in range(draw(st.integers(0, 2))):
        first = draw(st.integers(1, length))
        outages |= set(range(first, first + draw(st.sampled_from((5, 29, 31, 90, 200)))))
    said: list[Said] = []
    due = {"m-1": draw(st.integers(0, 60)), "m-2": draw(st.integers(0, 60))}
    for second in range(length):
        if second in outages:
            continue
        for device, when in due.items():
            if second >= when:
                said.append(Said(second, device))
                due[device] = second + draw(st.sampled_from((PERIOD, PERIOD, PERIOD, 29, 31, 50, 51, 120)))
        said.append(Said(second, None))
    return said


def slow(said: list[Said]) -> dict[str, list[tuple[str, int, int | None]]]:
    """Every device by itself, message by message."""
    told: dict[str, list[tuple[str, int, int | None]]] = {}
    for device in ("m-1", "m-2"):
        steps = told[device] = []
        heard: int | None = None
        began: int | None = None
        beat: int | None = None
        for one in said:
            if one.device is None:
                if beat is not None and one.at - beat > DEAF and heard is not None:
                    heard = max(heard, one.at)
                beat = one.at
                heard = one.at if heard is None else heard
                if began is None and one.at - heard >= PATIENCE + DELAY:
                    began = heard + PATIENCE
                    steps.append(("begin", began, None))
            elif one.device == device:
                listened = one.at if beat is None or one.at <= beat + DEAF else beat
                if heard is not None and began is None and listened - heard > PATIENCE + DELAY:
                    began = heard + PATIENCE
                    steps.append(("begin", began, None))
                if began is not None:
                    steps.append(("end", began, max(one.at, began)))
                    began = None
                heard = one.at
    return told


def fast(said: list[Said], sizes: list[int]) -> dict[str, list[tuple[str, int, int | None]]]:
    """The engine, in batches of any size, as the worker feeds it."""
    directory = Devices(*(target(name, period_s=float(PERIOD)) for name in ("m-1", "m-2")))
    engine = Engine(book=book(silent()), directory=directory, sites=Sites(directory), limits=EXACT)
    beats = Beats(gone_us=10**15, deaf_us=DEAF * SECOND_US)
    told: dict[str, list[tuple[str, int, int | None]]] = {"m-1": [], "m-2": []}
    for name in told:
        engine.expect(name, 0)
    turn = 0
    while said:
        size = sizes[turn % len(sizes)]
        turn += 1
        batch, said = said[:size], said[size:]
        rows = reports((one.device, float(one.at), {}, frozenset()) for one in batch if one.device is not None)
        marks = [
            Beat(sum(other.device is not None for other in batch[:place]), 0, "ingest-0", us(one.at))
            for place, one in enumerate(batch)
            if one.device is None
        ]
        changes = Changes()
        hearing.judge(engine, beats, rows, marks, changes)
        clock = us(max(one.at for one in batch))
        engine.tick(0, clock, changes, waited_us=beats.waited_us(0, clock))
        for step in changes.steps:
            ended = seconds(step.ended_us)
            told[step.device_id].append(
                (step.phase.value, int(seconds(step.began_us) or 0), None if ended is None else int(ended))
            )
    return told


@settings(max_examples=200, deadline=None)
@given(partitions())
def test_one_message_after_the_other_gives_what_the_slow_program_gives(said: list[Said]) -> None:
    assert fast(said, [1]) == slow(said)


@settings(max_examples=200, deadline=None)
@given(partitions(), st.lists(st.integers(1, 300), min_size=1, max_size=4))
def test_a_backlog_loses_nobody_who_reported(said: list[Said], sizes: list[int]) -> None:
    """Cut as it may be, a device is lost only where the messages have a gap; who never reported is known later."""
    known = [Said(0, "m-1"), Said(0, "m-2"), Said(0, None), *(one for one in said if one.at > 0)]
    assert fast(known, sizes) == slow(known)


def test_a_spooling_process_loses_nobody() -> None:
    """One process keeps its reports back while another beats on: nothing is known of its devices until they come."""
    directory = Devices(target("m-1", period_s=10.0), target("m-2", period_s=10.0))
    engine = Engine(book=book(silent()), directory=directory, sites=Sites(directory), limits=EXACT)
    beats = Beats(gone_us=900 * SECOND_US, deaf_us=DEAF * SECOND_US)
    changes = Changes()

    def take(instance: str, device: str, at: int) -> None:
        rows = reports([(device, float(at), {}, frozenset())])
        hearing.judge(engine, beats, rows, [Beat(1, 0, instance, us(at))], changes)
        clock = max(us(at), engine.clock_us(0))
        engine.tick(0, clock, changes, waited_us=beats.waited_us(0, clock))

    for at in range(0, 20, 10):
        take("spooling", "m-1", at)
        take("live", "m-2", at)
    for at in range(20, 600, 10):
        take("live", "m-2", at)
    for at in range(20, 600, 10):
        take("spooling", "m-1", at)
    assert changes.steps == []
