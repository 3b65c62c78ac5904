"""Callbacks as decisions: what is news of what, who wants it, when it is tried again, when an endpoint is given up."""

from datetime import UTC, datetime, timedelta

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.bus import envelope, topics
from libs.common.bus.port import Received
from libs.common.contracts.catalogue import CATALOGUE
from libs.common.contracts.control import CommandAction, CommandState, ControlEvent, OccurrenceState
from libs.common.contracts.delivery import DeliveryState
from libs.common.contracts.examples import EXAMPLES
from libs.common.ids import CommandId, DeviceId, LoadId, OccurrenceId, SiteId
from services.export.callbacks.batches import KINDS
from services.export.callbacks.bodies import body_of
from services.export.callbacks.sources import SOURCES, news_of
from services.export.domain.callbacks import (
    BREAKER_FAILURES,
    FAST_RETRY_S,
    PROBE_CAP_S,
    REFUSALS,
    RETRY_S,
    TYPES,
    EndpointState,
    Health,
    Lane,
    NewsType,
    Outcome,
    Verdict,
    after,
    health_after,
    lane_of_control,
    resource_of_control,
    type_of_control,
    verdict_of,
)

NOW = datetime(2026, 3, 8, 6, 2, 11, tzinfo=UTC)
FAILED, REFUSED, TAKEN = (Outcome(each, 0.1) for each in (Verdict.FAILED, Verdict.REFUSED, Verdict.DELIVERED))


def event(state: CommandState | OccurrenceState, action: CommandAction = CommandAction.CLOSE) -> ControlEvent:
    return ControlEvent(
        site_id=SiteId("s-1"), state=state, at=NOW, reason="", command_id=CommandId("c-1"),
        occurrence_id=OccurrenceId("o-1"), load_id=LoadId("l-1"), action=action,
    )  # fmt: skip


@pytest.mark.parametrize("state", list(CommandState))
def test_a_command_has_a_result_once_nothing_follows(state: CommandState) -> None:
    wanted = NewsType.COMMAND_RESULT if state.is_final else NewsType.COMMAND_PROGRESS
    assert type_of_control(event(state)) is wanted


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        (OccurrenceState.PLANNED, NewsType.OCCURRENCE_PROGRESS),
        (OccurrenceState.SHUT_DOWN, NewsType.OCCURRENCE_PROGRESS),
        (OccurrenceState.AWAKE, NewsType.OCCURRENCE_RESULT),
        (OccurrenceState.SKIPPED, NewsType.OCCURRENCE_RESULT),
        (OccurrenceState.OVERDUE, NewsType.OCCURRENCE_OVERDUE),
    ],
)
def test_an_occurrence_has_a_result_once_it_is_over(state: OccurrenceState, wanted: NewsType) -> None:
    assert type_of_control(event(state)) is wanted


@pytest.mark.parametrize(
    ("state", "action", "lane"),
    [
        (CommandState.FAILED, CommandAction.CLOSE, Lane.FAST),
        (CommandState.EXPIRED, CommandAction.CLOSE, Lane.FAST),
        (CommandState.FAILED, CommandAction.OPEN, Lane.NORMAL),
        (CommandState.SUCCEEDED, CommandAction.CLOSE, Lane.NORMAL),
        (OccurrenceState.OVERDUE, CommandAction.OPEN, Lane.FAST),
        (OccurrenceState.AWAKE, CommandAction.CLOSE, Lane.NORMAL),
    ],
)
def test_failed_and_late_wake_ups_are_urgent(
    state: CommandState | OccurrenceState, action: CommandAction, lane: Lane
) -> None:
    assert lane_of_control(event(state, action)) is lane


def test_a_command_to_a_device_without_load_is_news_of_the_device() -> None:
    of_device = event(CommandState.FAILED).model_copy(update={"load_id": None, "device_id": DeviceId("d-1")})
    assert resource_of_control(of_device) == "device/d-1"
    assert resource_of_control(event(CommandState.FAILED)) == "load/l-1"


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(200, Verdict.DELIVERED), (204, Verdict.DELIVERED), (301, Verdict.REFUSED), (307, Verdict.REFUSED),
     (400, Verdict.REFUSED), (401, Verdict.REFUSED), (408, Verdict.FAILED), (410, Verdict.GONE), (425, Verdict.FAILED),
     (429, Verdict.FAILED), (500, Verdict.FAILED), (503, Verdict.FAILED), (100, Verdict.FAILED)],
)  # fmt: skip
def test_what_a_status_means(status: int, verdict: Verdict) -> None:
    assert verdict_of(status) is verdict


@pytest.mark.parametrize(("lane", "table"), [(Lane.NORMAL, RETRY_S), (Lane.FAST, FAST_RETRY_S)])
def test_the_table_is_followed_to_its_end(lane: Lane, table: tuple[float, ...]) -> None:
    for attempts, wait_s in enumerate(table, start=1):
        for jitter in (0.0, 1.0):
            found = after(attempts, lane, FAILED, jitter=jitter)
            assert found.state is DeliveryState.RETRYING
            assert wait_s <= found.wait_s[lane] <= wait_s * 1.25
    assert after(len(table) + 1, lane, FAILED, jitter=0.5).state is DeliveryState.GIVEN_UP
    assert 3 * 86400 < sum(RETRY_S) < 4 * 86400


def test_a_refusal_is_believed_after_some() -> None:
    assert after(REFUSALS - 1, Lane.NORMAL, REFUSED, jitter=0.0).state is DeliveryState.REFUSED
    assert after(REFUSALS, Lane.NORMAL, REFUSED, jitter=0.0).state is DeliveryState.GIVEN_UP
    assert after(REFUSALS, Lane.NORMAL, TAKEN, jitter=0.0).state is DeliveryState.DELIVERED


@given(
    st.lists(st.sampled_from([FAILED, REFUSED, TAKEN, Outcome(Verdict.FAILED, 0.1, 429, "x", 30.0)]), max_size=40),
    st.floats(0, 1),
)
def test_an_endpoint_fails_since_its_last_success(outcomes: list[Outcome], jitter: float) -> None:
    health = Health(EndpointState.ACTIVE)
    for number, outcome in enumerate(outcomes):
        health = health_after(health, [outcome], NOW + timedelta(seconds=number), jitter=jitter)
    in_a_row = 0
    for outcome in reversed(outcomes):
        if outcome.verdict is Verdict.DELIVERED:
            break
        in_a_row += 1
    assert health.failures == in_a_row
    assert (health.failing_since is None) == (in_a_row == 0)
    last = NOW + timedelta(seconds=max(len(outcomes) - 1, 0))
    if in_a_row >= BREAKER_FAILURES:
        assert health.not_before is not None
        assert last < health.not_before <= last + timedelta(seconds=PROBE_CAP_S * 1.25)
    if in_a_row == 0:
        assert health.not_before is None


def test_what_can_be_chosen_comes_from_one_source_each() -> None:
    told = [each for source in SOURCES.values() for each in source.types] + [kind.type for kind in KINDS.values()]
    assert sorted(told) == sorted(TYPES)


@pytest.mark.parametrize("topic", sorted(SOURCES))
def test_each_source_tells_the_example_of_its_contract_as_one_of_its_types(topic: str) -> None:
    (payload,) = next(each.payloads for each in CATALOGUE if each.name == topic)
    message = envelope.message(topic, "key-1", EXAMPLES[payload], source="test", time=NOW)
    news = news_of(Received(topic, 0, 7, message.key, message.value, message.headers, NOW))
    assert news is not None
    assert news.type in SOURCES[topic].types
    assert news.resource.partition("/")[2]
    assert orjson.loads(news.data).items() <= orjson.loads(message.value or b"").items()


@given(st.binary(max_size=200), st.sampled_from(sorted(SOURCES)))
def test_what_is_no_event_is_named_and_nothing_else_is_raised(value: bytes, topic: str) -> None:
    received = Received(topic, 0, 7, "k", value, (("ce_id", b"a.b"),), NOW)
    with pytest.raises(ValueError, match="no event of"):
        news_of(received)


def test_an_odd_id_gives_way_to_one_that_a_header_can_hold_and_is_the_same_again() -> None:
    value = event(CommandState.FAILED).to_json()
    value = value if isinstance(value, bytes) else str(value).encode()
    found = [
        news_of(Received(topics.CONTROL_EVENTS, 0, 7, "k", value, headers, NOW))
        for headers in [(("ce_id", b"a.b\r\n"),)] * 2 + [()]
    ]
    first, again, without = (one.event_id for one in found if one is not None)
    assert first == again != without
    assert first.startswith("evt_")


def test_a_body_is_a_cloud_event_whose_sequence_sorts_as_text() -> None:
    bodies = [
        orjson.loads(
            body_of(
                event_id="e", ce_type="t", source="control", resource="load/l", site_id="s", at=NOW, sequence=n,
                data=b'{"a":1}', traceparent="00-x",
            )
        )
        for n in (2, 10)
    ]  # fmt: skip
    assert bodies[0]["sequence"] < bodies[1]["sequence"]
    assert int(bodies[1]["sequence"]) == 10
    assert bodies[0]["data"] == {"a": 1}
    assert all(name.isalnum() and name.islower() for name in bodies[0])
