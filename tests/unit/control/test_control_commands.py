"""The life of a command: every rule of an OFF and of an ON, and that no order of events breaks the table."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.contracts.control import CommandAction, CommandState, Priority, Stage
from services.control.domain.commands import (
    IN_FLIGHT,
    TRANSITIONS,
    Change,
    Command,
    Effect,
    Outcome,
    TransitionRefused,
    WireId,
    cancelled,
    group_state,
    on_due,
    on_outcome,
    restored,
    step,
    superseded,
)
from services.control.domain.guards import Facts, Hold
from tests.unit.control.control_builders import NOW, POLICY, facts, later, off, on, outcome, reading

S = CommandState


def sent_off(**changes: object) -> Command:
    return off(**{"state": S.DISPATCHED, "attempt": 1, "sent_at": NOW, "wire_not_after": later(10), **changes})


def sent_on(**changes: object) -> Command:
    return on(**{"state": S.DISPATCHED, "attempt": 1, "sent_at": NOW, "wire_not_after": later(10), **changes})


def test_the_table_names_every_state_of_a_single_command() -> None:
    assert set(TRANSITIONS) == set(S) - {S.PARTIAL}
    for state, following in TRANSITIONS.items():
        assert bool(following) is not state.is_final


def test_what_the_table_does_not_name_is_refused() -> None:
    with pytest.raises(TransitionRefused):
        step(off(state=S.SUCCEEDED), S.DISPATCHED, NOW, "")


class TestOff:
    def test_it_is_sent_with_an_end_to_its_validity(self) -> None:
        change = on_due(off(), facts(), NOW, POLICY)
        assert change.after.state is S.DISPATCHED
        assert change.effects == {Effect.SEND}
        assert change.after.wire_not_after == later(POLICY.accept_timeout_s)

    def test_its_validity_never_exceeds_its_grace(self) -> None:
        change = on_due(off(not_after=later(3)), facts(), NOW, POLICY)
        assert change.after.wire_not_after == later(3)

    def test_it_waits_for_the_watchdog(self) -> None:
        change = on_due(off(), facts(lease_acknowledged=False), NOW, POLICY)
        assert (change.after.state, change.after.reason) == (S.SCHEDULED, "watchdog_unreachable")
        assert not change.effects

    def test_it_waits_for_its_device(self) -> None:
        assert on_due(off(), facts(busy=True), NOW, POLICY).after.reason == "device_busy"

    @pytest.mark.parametrize("late_s", [600.5, 3600])
    def test_a_late_one_is_dropped_with_its_wake_up(self, late_s: float) -> None:
        change = on_due(off(), facts(), later(late_s), POLICY)
        assert change.after.state is S.EXPIRED
        assert change.effects == {Effect.DROP_WAKE_UP}

    def test_one_with_too_little_left_is_dropped(self) -> None:
        change = on_due(off(restore_at=later(299)), facts(), NOW, POLICY)
        assert (change.after.state, change.after.reason) == (S.EXPIRED, "too_little_left")

    def test_a_reason_that_does_not_pass_ends_it(self) -> None:
        change = on_due(off(), facts(obstacle="never_off"), NOW, POLICY)
        assert (change.after.state, change.after.reason) == (S.REJECTED, "never_off")
        assert change.effects == {Effect.DROP_WAKE_UP}

    def test_it_expires_with_what_it_waited_for(self) -> None:
        waiting = on_due(off(), facts(reading=None), NOW, POLICY).after
        assert waiting.reason == "stale_data"
        assert on_due(waiting, facts(reading=None), later(601), POLICY).after.reason == "stale_data"

    def test_proof_is_the_feedback(self) -> None:
        change = on_outcome(sent_off(), outcome(Stage.VERIFIED, breaker=0), NOW, POLICY)
        assert change is not None
        assert change.after.state is S.SUCCEEDED
        assert change.effects == {Effect.LOAD_OFF}

    @pytest.mark.parametrize(("evidence", "reason"), [
        ({"breaker": 1}, "reads_closed"), ({"breaker": 0, "power_kw": 0.3}, "still_draws_power"), ({}, "no_evidence"),
    ])  # fmt: skip
    def test_a_claim_that_the_evidence_contradicts_is_a_failure(self, evidence: dict[str, object], reason: str) -> None:
        change = on_outcome(sent_off(), outcome(Stage.VERIFIED, **evidence), NOW, POLICY)
        assert change is not None
        assert (change.after.state, change.after.reason) == (S.FAILED, reason)
        assert change.effects == {Effect.WAKE_NOW}

    @pytest.mark.parametrize("stage", [Stage.REFUSED, Stage.FAILED])
    def test_whatever_else_comes_of_it_wakes_at_once(self, stage: Stage) -> None:
        change = on_outcome(sent_off(), outcome(stage, reason="x"), NOW, POLICY)
        assert change is not None
        assert change.after.state.is_final
        assert change.effects == {Effect.WAKE_NOW}

    def test_silence_is_unknown_and_not_repeated(self) -> None:
        change = on_due(sent_off(), facts(), later(12), POLICY)
        assert (change.after.state, change.after.reason) == (S.UNKNOWN, "not_accepted")
        assert not change.effects

    def test_unknown_is_resolved_by_reading_open(self) -> None:
        unknown = sent_off(state=S.UNKNOWN, unknown_since=later(12))
        change = on_due(unknown, facts(reading=reading(0, at_s=5)), later(12), POLICY)
        assert (change.after.state, change.after.reason) == (S.SUCCEEDED, "read_open")

    def test_reading_closed_proves_nothing_while_the_sending_is_valid(self) -> None:
        unknown = sent_off(state=S.UNKNOWN, unknown_since=later(5))
        change = on_due(unknown, facts(reading=reading(1, at_s=9)), later(9), POLICY)
        assert change.after.state is S.UNKNOWN
        assert change.effects == {Effect.LOOK}

    def test_read_closed_after_its_validity_it_may_be_sent_once_more(self) -> None:
        unknown = sent_off(state=S.UNKNOWN, unknown_since=later(12))
        again = on_due(unknown, facts(reading=reading(1, at_s=14)), later(14), POLICY).after
        assert (again.state, again.reason) == (S.SCHEDULED, "read_closed")
        second = on_due(again, facts(), later(14), POLICY).after
        assert (second.attempt, second.wire_id) == (2, "off-1.2")
        lost = replace(second, state=S.UNKNOWN, unknown_since=later(30))
        end = on_due(lost, facts(reading=reading(1, at_s=40)), later(40), POLICY)
        assert end.after.state is S.FAILED
        assert end.effects == {Effect.WAKE_NOW}

    def test_when_nobody_can_look_it_is_given_up_and_woken_from(self) -> None:
        unknown = sent_off(state=S.UNKNOWN, unknown_since=NOW)
        change = on_due(unknown, facts(reading=None), later(61), POLICY)
        assert (change.after.state, change.after.reason) == (S.FAILED, "unresolved")
        assert change.effects == {Effect.WAKE_NOW}

    def test_doubt_does_not_last_longer_because_the_clock_was_put_back(self) -> None:
        unknown = sent_off(state=S.UNKNOWN, unknown_since=later(3600), sent_at=later(3590))
        change = on_due(unknown, facts(reading=reading(1, at_s=0)), NOW, POLICY)
        assert (change.after.state, change.effects) == (S.FAILED, frozenset({Effect.WAKE_NOW}))

    def test_one_that_happened_after_all_wakes_again(self) -> None:
        given_up = sent_off(state=S.FAILED, next_at=None)
        change = on_outcome(given_up, outcome(Stage.VERIFIED, breaker=0), NOW, POLICY)
        assert change is not None
        assert change.effects == {Effect.WAKE_NOW}
        assert change.after.state is S.FAILED

    def test_an_answer_to_an_earlier_sending_is_not_one_to_this(self) -> None:
        again = sent_off(attempt=2)
        change = on_outcome(again, outcome(Stage.REFUSED, attempt=1), NOW, POLICY)
        assert change is not None
        assert (change.after, change.is_late, change.effects) == (again, True, frozenset())
        assert on_outcome(again, outcome(Stage.ACCEPTED, attempt=1), NOW, POLICY) is None

    def test_the_answer_that_has_decided_is_no_news_when_it_comes_again(self) -> None:
        answer = outcome(Stage.VERIFIED, breaker=0)
        change = on_outcome(sent_off(), answer, NOW, POLICY)
        assert change is not None
        assert on_outcome(change.after, answer, NOW, POLICY) is None
        late = on_outcome(change.after, outcome(Stage.FAILED, reason="not_followed"), NOW, POLICY)
        assert late is not None
        assert late.is_late

    def test_it_can_be_called_off_before_it_is_sent_and_not_after(self) -> None:
        assert cancelled(off(), "user:a", "", NOW).effects == {Effect.DROP_WAKE_UP}
        with pytest.raises(TransitionRefused):
            cancelled(sent_off(), "user:a", "", NOW)

    def test_an_approval_that_never_comes_ends_it(self) -> None:
        assert on_due(off(state=S.APPROVAL), facts(), NOW, POLICY).after.state is S.EXPIRED


class TestOn:
    def test_it_is_sent_however_late(self) -> None:
        change = on_due(on(), facts(reading=None), later(30 * 86400), POLICY)
        assert change.after.state is S.DISPATCHED
        assert change.effects == {Effect.SEND}

    @pytest.mark.parametrize("fact", [
        {"obstacle": "never_off"}, {"emergency": "w"}, {"clock_problem": "x"}, {"command_latency_s": 1e6},
        {"lease_acknowledged": False}, {"already_off": True}, {"offs_last_day": 1000}, {"last_on_at": NOW},
        {"reading": None}, {"reading": reading(0, age_s=1e6)}, {"reading": reading(None)},
    ])  # fmt: skip
    def test_no_other_guard_blocks_it(self, fact: dict[str, object]) -> None:
        assert on_due(on(), facts(**fact), NOW, POLICY).effects == {Effect.SEND}

    @pytest.mark.parametrize("trip", [0, 9, 10, 11, 12, 13, 99])
    def test_a_trip_that_protects_nothing_does_not_block_it(self, trip: int) -> None:
        assert on_due(on(), facts(reading=reading(0, trip_reason=trip)), NOW, POLICY).effects == {Effect.SEND}

    @pytest.mark.parametrize(("fact", "hold"), [
        ({"isolation_id": "i"}, Hold.ISOLATION),
        ({"reading": reading(0, local_lock=True)}, Hold.LOCAL_LOCK),
        *(({"reading": reading(0, trip_reason=trip)}, Hold.PROTECTION_TRIP) for trip in range(1, 9)),
    ])  # fmt: skip
    def test_two_exceptions_stop_it_and_call_a_person(self, fact: dict[str, object], hold: Hold) -> None:
        change = on_due(on(), facts(**fact), NOW, POLICY)
        assert (change.after.state, change.after.hold) == (S.SCHEDULED, hold)
        assert change.effects == {Effect.CALL_PERSON}
        assert change.is_transition
        again = on_due(change.after, facts(**fact), later(10), POLICY)
        assert not again.effects
        assert not again.is_transition

    def test_it_goes_on_when_the_obstacle_has_gone(self) -> None:
        held = on(hold=Hold.LOCAL_LOCK)
        assert on_due(held, facts(reading=reading(0)), NOW, POLICY).effects == {Effect.SEND}

    def test_a_released_trip_is_none(self) -> None:
        tripped = facts(reading=reading(0, trip_reason=2), released_trip=2)
        assert on_due(on(), tripped, NOW, POLICY).effects == {Effect.SEND}
        other = facts(reading=reading(0, trip_reason=1), released_trip=2)
        assert on_due(on(), other, NOW, POLICY).after.hold is Hold.PROTECTION_TRIP

    def test_while_nobody_can_look_what_was_seen_stands_and_is_looked_at(self) -> None:
        change = on_due(on(hold=Hold.PROTECTION_TRIP), facts(reading=None), NOW, POLICY)
        assert change.after.hold is Hold.PROTECTION_TRIP
        assert change.effects == {Effect.LOOK}

    def test_a_look_that_finds_the_lock_gone_lets_it_go_on(self) -> None:
        held = on(hold=Hold.LOCAL_LOCK, attempt=1, sent_at=NOW)
        seen = outcome(Stage.VERIFIED, is_look=True, breaker=0, local_lock=False)
        change = on_outcome(held, seen, NOW, POLICY)
        assert change is not None
        assert change.after.hold is None
        assert change.after.next_at == NOW

    def test_nothing_to_switch_behind_a_lock_is_success(self) -> None:
        change = on_due(on(), facts(reading=reading(1, local_lock=True)), NOW, POLICY)
        assert (change.after.state, change.effects) == (S.SUCCEEDED, frozenset({Effect.LOAD_ON}))

    def test_it_waits_for_its_device_and_an_emergency_does_not(self) -> None:
        assert on_due(on(), facts(busy=True), NOW, POLICY).after.reason == "device_busy"
        urgent = on(priority=Priority.EMERGENCY)
        assert on_due(urgent, facts(busy=True), NOW, POLICY).effects == {Effect.SEND}

    @pytest.mark.parametrize("stage", [Stage.REFUSED, Stage.FAILED, Stage.VERIFIED])
    def test_it_is_sent_again_until_it_is_proven(self, stage: Stage) -> None:
        change = on_outcome(sent_on(), outcome(stage, breaker=0 if stage is Stage.FAILED else None), NOW, POLICY)
        assert change is not None
        assert change.after.state is S.SCHEDULED
        assert change.after.next_at == later(POLICY.on_retry_first_s)

    def test_pauses_grow_to_a_cap(self) -> None:
        pauses = []
        for attempt in range(1, 12):
            change = on_outcome(sent_on(attempt=attempt), outcome(Stage.FAILED, attempt=attempt), NOW, POLICY)
            assert change is not None
            assert change.after.next_at is not None
            pauses.append((change.after.next_at - NOW).total_seconds())
        assert pauses == [2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60]

    def test_read_closed_after_it_was_sent_is_proof_whoever_closed_it(self) -> None:
        change = on_due(sent_on(), facts(reading=reading(1, at_s=5)), later(12), POLICY)
        assert (change.after.state, change.effects) == (S.SUCCEEDED, frozenset({Effect.LOAD_ON}))
        retried = on(attempt=2, sent_at=NOW)
        assert on_due(retried, facts(reading=reading(1, at_s=5)), later(12), POLICY).after.state is S.SUCCEEDED
        assert on_due(retried, facts(reading=reading(1, at_s=-5)), later(12), POLICY).effects == {Effect.SEND}

    def test_silence_is_answered_by_sending_again(self) -> None:
        change = on_due(sent_on(), facts(), later(12), POLICY)
        assert (change.after.state, change.after.reason) == (S.SCHEDULED, "not_accepted")

    def test_it_waits_in_line_while_others_are_answered_and_not_for_ever(self) -> None:
        waiting = on_due(sent_on(), facts(answers_come=True), later(12), POLICY)
        assert (waiting.after.state, waiting.effects) == (S.DISPATCHED, frozenset())
        assert waiting.after.next_at is not None
        assert waiting.after.next_at > later(12)
        assert on_due(sent_on(), facts(answers_come=True), later(31), POLICY).after.state is S.SCHEDULED
        # A clock that was put back since proves nothing about how long it has waited.
        assert on_due(sent_on(), facts(answers_come=True), later(-1), POLICY).after.state is S.SCHEDULED

    def test_one_that_was_taken_up_waits_for_its_turn_while_others_are_answered_and_not_for_ever(self) -> None:
        accepted = sent_on(state=S.ACCEPTED)
        for at_s in (46, 89):
            waiting = on_due(accepted, facts(answers_come=True), later(at_s), POLICY).after
            assert waiting.state is S.ACCEPTED
            assert waiting.next_at is not None
            assert waiting.next_at > later(at_s)
        assert on_due(accepted, facts(answers_come=True), later(91), POLICY).after.state is S.UNKNOWN
        assert on_due(accepted, facts(answers_come=False), later(46), POLICY).after.state is S.UNKNOWN
        # What its breaker was switched by already is not in line any more.
        verifying = sent_on(state=S.VERIFYING)
        assert on_due(verifying, facts(answers_come=True), later(46), POLICY).after.state is S.UNKNOWN

    def test_what_others_are_answered_says_nothing_of_an_off(self) -> None:
        assert on_due(sent_off(), facts(answers_come=True), later(12), POLICY).after.state is S.UNKNOWN

    def test_accepted_and_then_silent_is_looked_at_first(self) -> None:
        accepted = sent_on(state=S.ACCEPTED)
        unknown = on_due(accepted, facts(), later(60), POLICY).after
        assert unknown.state is S.UNKNOWN
        assert on_due(unknown, facts(reading=reading(1, at_s=60)), later(60), POLICY).after.state is S.SUCCEEDED
        assert on_due(unknown, facts(reading=reading(0, at_s=60)), later(60), POLICY).after.state is S.SCHEDULED
        assert on_due(unknown, facts(reading=None), later(61), POLICY).effects == {Effect.LOOK}
        # However old the doubt is, somebody is asked to look before it is sent again.
        looked_for = on_due(unknown, facts(reading=None), later(70), POLICY)
        assert (looked_for.after.state, looked_for.effects) == (S.UNKNOWN, frozenset({Effect.LOOK}))
        assert on_due(looked_for.after, facts(reading=None), later(72), POLICY).after.state is S.SCHEDULED

    @pytest.mark.parametrize(("seen", "hold"), [
        ({"local_lock": True}, Hold.LOCAL_LOCK), ({"trip_reason": 2}, Hold.PROTECTION_TRIP),
    ])  # fmt: skip
    def test_the_line_may_name_the_exception_too(self, seen: dict[str, object], hold: Hold) -> None:
        change = on_outcome(sent_on(), outcome(Stage.REFUSED, breaker=0, **seen), NOW, POLICY)
        assert change is not None
        assert change.after.hold is hold
        assert change.effects == {Effect.CALL_PERSON}

    def test_proof_of_an_earlier_sending_is_proof(self) -> None:
        waiting = on(state=S.SCHEDULED, attempt=3, sent_at=NOW)
        change = on_outcome(waiting, outcome(Stage.VERIFIED, attempt=1, breaker=1), NOW, POLICY)
        assert change is not None
        assert change.after.state is S.SUCCEEDED

    def test_the_holder_closing_by_itself_is_proof(self) -> None:
        change = restored(on(not_before=later(100)), outcome(Stage.RESTORED, breaker=1), NOW)
        assert change is not None
        assert (change.after.state, change.after.reason) == (S.SUCCEEDED, "restored_by_holder")
        assert restored(on(), outcome(Stage.RESTORED, breaker=0), NOW) is None

    def test_nobody_calls_it_off(self) -> None:
        with pytest.raises(TransitionRefused):
            cancelled(on(), "user:admin", "", NOW)


class TestIds:
    @pytest.mark.parametrize("command", [sent_off(), sent_off(attempt=2), sent_on(attempt=17)])
    def test_each_sending_has_its_own(self, command: Command) -> None:
        assert WireId.parse(command.wire_id) == WireId(command.command_id, command.attempt, False)

    def test_a_look_has_its_own(self) -> None:
        command = sent_off(attempt=2, looks=3)
        assert WireId.parse(command.look_id) == WireId(command.command_id, 2, True)

    @pytest.mark.parametrize("text", ["", "x.y", "x.r", "x.r1", "x.-1", "a.b.2"])
    def test_a_foreign_one_is_not_misread_as_a_look(self, text: str) -> None:
        assert not WireId.parse(text).is_look


@pytest.mark.parametrize(("states", "expected"), [
    ([S.SUCCEEDED, S.SUCCEEDED], S.SUCCEEDED), ([S.SUCCEEDED, S.REJECTED], S.PARTIAL), ([S.REJECTED], S.REJECTED),
    ([S.FAILED, S.REJECTED], S.FAILED), ([S.SCHEDULED, S.SUCCEEDED], S.SCHEDULED),
])  # fmt: skip
def test_the_state_of_a_group(states: list[CommandState], expected: CommandState) -> None:
    assert group_state(states) is expected


# Whatever happens, in whatever order.

stages = st.sampled_from([stage for stage in Stage if stage is not Stage.RESTORED])
outcomes = st.builds(
    outcome, stages, attempt=st.integers(1, 4), is_look=st.booleans(), breaker=st.sampled_from([None, 0, 1]),
    power_kw=st.sampled_from([None, 0.0, 0.3]), local_lock=st.sampled_from([None, False, True]),
    trip_reason=st.sampled_from([None, 0, 2, 9]), evidence=st.just({"answer": "ok"}),
)  # fmt: skip
readings = st.none() | st.builds(
    reading, st.sampled_from([None, 0, 1]), at_s=st.floats(-100, 2000), age_s=st.floats(0, 1000),
    local_lock=st.sampled_from([None, True, False]), trip_reason=st.sampled_from([None, 0, 2, 9]),
)  # fmt: skip
circumstances = st.builds(
    facts, reading=readings, busy=st.booleans(), lease_acknowledged=st.booleans(),
    isolation_id=st.sampled_from([None, "i"]), emergency=st.sampled_from([None, "w"]),
    answers_come=st.booleans(), clock_problem=st.sampled_from([None, "x"]),
    obstacle=st.sampled_from([None, "never_off"]),
)  # fmt: skip
BEGINNINGS = (off(), on(), on(priority=Priority.EMERGENCY), off(isolation_id="i", restore_at=None))
happenings = st.lists(st.tuples(st.floats(0, 60), outcomes | circumstances), max_size=40)


@settings(max_examples=400)
@given(
    st.sampled_from([off(), on(), on(priority=Priority.EMERGENCY), off(isolation_id="i", restore_at=None)]), happenings
)
def test_no_order_of_events_breaks_the_rules(command: Command, story: list[tuple[float, Facts | Outcome]]) -> None:
    now, opened_twice_without_look = NOW, False
    for delay_s, event in story:
        now = now + (later(delay_s) - NOW)
        before = command
        if isinstance(event, Facts):
            if command.state.is_final or command.next_at is None or command.next_at > now:
                continue
            change: Change | None = on_due(command, event, now, POLICY)
        else:
            change = on_outcome(command, event, now, POLICY)
        if change is None:
            continue
        command = change.after
        if command.state is not before.state:
            assert command.state in TRANSITIONS[before.state]
        if change.is_transition:
            assert change.evidence, f"{before.state} to {command.state} rests on nothing"
        if before.state.is_final:
            assert command == before
        # What is not over is looked at again; what is over is not.
        assert (command.next_at is None) == command.state.is_final
        if command.action is CommandAction.OPEN:
            if Effect.SEND in change.effects:
                opened_twice_without_look |= before.attempt > 0 and before.reason != "read_closed"
                assert isinstance(event, Facts)
                assert event.lease_acknowledged
                assert event.clock_problem is None
                assert event.obstacle is None
            if command.state.is_final and command.was_sent and not before.state.is_final:
                expected = Effect.LOAD_OFF if command.state is S.SUCCEEDED else Effect.WAKE_NOW
                assert expected in change.effects
        else:
            assert command.state not in (S.FAILED, S.EXPIRED, S.REJECTED, S.CANCELLED)
            if command.hold is not None and command.hold is not before.hold:
                assert Effect.CALL_PERSON in change.effects
    assert not opened_twice_without_look
    assert command.attempt <= POLICY.off_attempts or command.action is CommandAction.CLOSE


def test_what_is_in_flight_can_be_superseded_when_it_is_an_on() -> None:
    for state in (S.SCHEDULED, *IN_FLIGHT, S.UNKNOWN):
        assert superseded(sent_on(state=state), "other", NOW).after.state is S.SUPERSEDED
