"""The life of an order that sets something inside a device: answers in any order, silence, doubt, time."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.control import CommandAction, CommandState, Stage
from libs.common.ids import CommandId, DeviceId, LineId, SiteId
from services.control.domain.adjusting import (
    ATTEMPTS,
    HOPELESS,
    IN_FLIGHT,
    Adjustment,
    Answer,
    action_of,
    expected_end,
    on_answer,
    on_due,
    superseded,
)
from services.control.domain.commands import WireId

S = CommandState
NOON = datetime(2026, 5, 1, 4, tzinfo=UTC)
ORDER = Adjustment(
    CommandId("a-1"), CommandAction.SET_THRESHOLD, SiteId("s"), DeviceId("d"), LineId("l"), "setting_overvoltage",
    265.0, S.SCHEDULED, NOON, NOON + timedelta(hours=1), NOON, "user:li",
)  # fmt: skip


def sent(one: Adjustment = ORDER, at: datetime = NOON) -> Adjustment:
    step = on_due(one, at, busy=False)
    assert step.send
    return step.after


def answer(
    stage: Stage, found: float | None = None, *, attempt: int = 1, look: bool = False, reason: str = ""
) -> Answer:
    return Answer(WireId(ORDER.adjustment_id, attempt, look), stage, found, NOON, reason)


def after(one: Adjustment, *answers: Answer) -> Adjustment:
    for said in answers:
        step = on_answer(one, said, NOON)
        one = one if step is None else step.after
    return one


def test_what_is_written_and_read_back_is_done() -> None:
    one = sent()
    assert (one.state, one.attempt, one.wire_id) == (S.DISPATCHED, 1, "a-1")
    done = after(one, answer(Stage.ACCEPTED), answer(Stage.EXECUTED), answer(Stage.VERIFIED, 265.0))
    assert (done.state, done.found, done.next_at) == (S.SUCCEEDED, 265.0, None)


def test_verified_with_another_value_is_not_done() -> None:
    one = after(sent(), answer(Stage.VERIFIED, 275.0))
    assert (one.state, one.found, one.reason) == (S.SCHEDULED, 275.0, "not_followed")


def test_a_device_that_does_not_follow_is_asked_some_times_and_then_failed() -> None:
    one = ORDER
    for attempt in range(1, ATTEMPTS + 1):
        one = sent(one, NOON + timedelta(minutes=attempt))
        assert one.wire_id == ("a-1" if attempt == 1 else f"a-1.{attempt}")
        one = after(one, answer(Stage.FAILED, 275.0, attempt=attempt, reason="not_followed"))
    assert (one.state, one.reason, one.found) == (S.FAILED, "not_followed", 275.0)


@pytest.mark.parametrize("reason", sorted(HOPELESS))
def test_a_refusal_that_would_come_again_ends_it(reason: str) -> None:
    assert after(sent(), answer(Stage.REFUSED, reason=reason)).state is S.REJECTED


def test_a_refusal_for_the_moment_is_tried_again_until_its_time_is_over() -> None:
    one = after(sent(), answer(Stage.REFUSED, reason="database_unavailable"))
    assert one.state is S.SCHEDULED
    late = on_due(one, ORDER.not_after + timedelta(seconds=1), busy=False)
    assert (late.after.state, late.after.reason, late.send) == (S.EXPIRED, "database_unavailable", False)


def test_what_nobody_takes_is_sent_again() -> None:
    one = on_due(sent(), NOON + timedelta(seconds=20), busy=False).after
    assert (one.state, one.reason) == (S.SCHEDULED, "not_accepted")
    assert sent(one, NOON + timedelta(seconds=40)).attempt == 2


def test_doubt_is_read_back_before_anything_is_sent_again() -> None:
    one = after(sent(), answer(Stage.ACCEPTED), answer(Stage.UNKNOWN, reason="no_answer"))
    assert one.state is S.UNKNOWN
    step = on_due(one, NOON, busy=False)
    assert (step.look, step.send, step.after.look_id) == (True, False, "a-1.r1-1")
    assert after(step.after, answer(Stage.VERIFIED, 265.0, look=True)).state is S.SUCCEEDED
    again = after(step.after, answer(Stage.VERIFIED, 275.0, look=True))
    assert (again.state, again.reason) == (S.SCHEDULED, "reads_otherwise")
    assert after(step.after, answer(Stage.UNKNOWN, look=True)).state is S.UNKNOWN
    lost = on_due(step.after, ORDER.not_after + timedelta(seconds=1), busy=False).after
    assert (lost.state, lost.reason) == (S.FAILED, "unresolved")


def test_an_answer_to_an_earlier_sending_proves_it_only_when_it_reads_the_value() -> None:
    one = replace(sent(), attempt=2)
    assert on_answer(one, answer(Stage.FAILED, 275.0), NOON) is None
    assert after(one, answer(Stage.VERIFIED, 265.0)).state is S.SUCCEEDED


def test_a_busy_device_is_waited_for() -> None:
    step = on_due(ORDER, NOON, busy=True)
    assert (step.after.state, step.after.reason, step.send) == (S.SCHEDULED, "device_busy", False)


def test_the_action_follows_from_the_point() -> None:
    assert action_of("setting_report_period") is CommandAction.SET_SAMPLING_PERIOD
    assert action_of("setting_leakage") is CommandAction.SET_THRESHOLD
    assert superseded(ORDER).state is S.SUPERSEDED


EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(list(Stage)), st.sampled_from([None, 265.0, 275.0]), st.integers(1, 4), st.booleans(),
            st.sampled_from(["", "expired", "bad_arguments"]),
        ),
        st.integers(1, 2000),
    ),
    max_size=25,
)  # fmt: skip


@given(EVENTS)
def test_whatever_comes_it_ends_once_and_is_looked_at_until_then(events: list[tuple[object, ...] | int]) -> None:
    one, now = ORDER, NOON
    for event in events:
        final = one if one.state.is_final else None
        if isinstance(event, int):
            now += timedelta(seconds=event)
            if one.next_at is not None and one.next_at <= now:
                one = on_due(one, now, busy=False).after
        else:
            stage, found, attempt, look, reason = event
            said = Answer(WireId(ORDER.adjustment_id, attempt, look), stage, found, now, reason)  # type: ignore[arg-type]
            step = on_answer(one, said, now)
            one = one if step is None else step.after
        assert final is None or one == final
        assert (one.next_at is None) is one.state.is_final
        assert one.state not in IN_FLIGHT or one.attempt > 0
    for _ in range(200):
        if one.state.is_final:
            break
        now = max(now, one.next_at or now) + timedelta(seconds=30)
        one = on_due(one, now, busy=False).after
    assert one.state.is_final


CLOCK = replace(ORDER, action=CommandAction.SET_CLOCK, point=None, value=None)
RESTART = replace(CLOCK, action=CommandAction.RESTART)


@pytest.mark.parametrize(
    ("said", "state", "reason"),
    [
        (answer(Stage.VERIFIED, 1.5), S.SUCCEEDED, ""),
        (answer(Stage.VERIFIED, reason="confirmed_only"), S.SUCCEEDED, "confirmed_only"),
        (answer(Stage.VERIFIED, 3600.0), S.SCHEDULED, "not_followed"),
        (answer(Stage.REFUSED, reason="unsupported"), S.REJECTED, "unsupported"),
        (answer(Stage.UNKNOWN, reason="no_answer"), S.UNKNOWN, "no_answer"),
    ],
)
def test_a_clock_is_set_when_it_is_right_or_the_device_says_so(said: Answer, state: CommandState, reason: str) -> None:
    one = after(sent(CLOCK), said)
    assert (one.state, one.reason) == (state, reason)


def test_a_clock_in_doubt_is_read_and_one_that_cannot_be_read_is_set_again() -> None:
    doubtful = on_due(after(sent(CLOCK), answer(Stage.UNKNOWN)), NOON, busy=False)
    assert doubtful.look
    assert after(doubtful.after, answer(Stage.VERIFIED, -2.0, look=True)).state is S.SUCCEEDED
    assert after(doubtful.after, answer(Stage.VERIFIED, -90.0, look=True)).state is S.SCHEDULED
    assert after(doubtful.after, answer(Stage.REFUSED, look=True, reason="unsupported")).reason == "not_readable"
    assert after(doubtful.after, answer(Stage.UNKNOWN, look=True)).state is S.UNKNOWN


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*Stage, None]), st.sampled_from(["", "no_answer", "database_unavailable"]),
            st.floats(0, 400),
        ),
        max_size=12,
    )
)  # fmt: skip
def test_a_restart_that_may_have_happened_is_never_sent_again(
    story: list[tuple[Stage | None, str, float]],
) -> None:
    one, now, may_have_happened = RESTART, NOON, False
    for stage, reason, later_s in story:
        now += timedelta(seconds=later_s)
        if one.state.is_final:
            break
        if stage is None:
            due = on_due(one, now, busy=False)
            assert not (due.send and may_have_happened)
            assert not due.look
            may_have_happened = may_have_happened or due.send
            one = due.after
        else:
            said = on_answer(one, answer(stage, attempt=max(one.attempt, 1), reason=reason), now)
            may_have_happened = may_have_happened and stage is not Stage.REFUSED
            one = one if said is None else said.after
        assert one.state is not S.UNKNOWN


def test_a_restart_is_refused_while_a_load_is_off_also_right_before_it_is_sent() -> None:
    step = on_due(RESTART, NOON, busy=False, load_off=True)
    assert (step.send, step.after.state, step.after.reason) == (False, S.REJECTED, "load_off")
    assert on_due(CLOCK, NOON, busy=False, load_off=True).send


def test_what_nobody_agrees_to_is_over_after_its_time() -> None:
    waiting = replace(ORDER, state=S.APPROVAL)
    assert on_answer(waiting, answer(Stage.VERIFIED, 265.0), NOON) is None
    step = on_due(waiting, NOON, busy=False)
    assert (step.send, step.after.state, step.after.reason) == (False, S.EXPIRED, "not_approved")


def test_a_result_is_expected_until_the_order_is_over() -> None:
    assert expected_end(ORDER) == NOON + timedelta(seconds=100)
    assert expected_end(sent(RESTART)) == NOON + timedelta(seconds=250)
    assert expected_end(replace(ORDER, state=S.APPROVAL)) is None
    assert expected_end(after(sent(), answer(Stage.VERIFIED, 265.0))) is None
