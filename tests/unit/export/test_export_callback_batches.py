"""Batches of callbacks as decisions: what goes into one, what is left out, and what it is called."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.bus import envelope, topics
from libs.common.bus.port import Received
from libs.common.contracts.telemetry import HEARTBEAT_TYPE, Heartbeat, Reading
from libs.common.ids import DeviceId, SiteId
from services.export.callbacks import batches
from services.export.callbacks.batches import MOST_BYTES, MOST_ITEMS, Item, batches_of, item_of
from services.export.domain.callbacks import Lane, NewsType, OwnerChange, owner_change_of

NOW = datetime(2026, 3, 8, 6, 2, 11, tzinfo=UTC)


def reading(device: str = "meter-1", points: Mapping[str, float | None] = MappingProxyType({"power": 1.5})) -> Reading:
    return Reading(
        device_id=DeviceId(device), site_id=SiteId("s-1"), source_time=NOW, received_at=NOW, driver="modbus",
        points=dict(points),
    )  # fmt: skip


def on_bus(payload: Reading | Heartbeat, offset: int = 0, topic: str = topics.READINGS) -> Received:
    message = envelope.message(topic, "k", payload, source="ingest", time=NOW)
    return Received(topic, 3, offset, "k", message.value, message.headers, NOW)


def items(payloads: Sequence[Reading], topic: str = topics.READINGS) -> list[Item]:
    found = [item_of(on_bus(each, offset, topic)) for offset, each in enumerate(payloads)]
    return [each for each in found if each is not None]


def test_a_batch_tells_the_payloads_of_the_topic_as_they_stood_there() -> None:
    told = [reading("meter-1"), reading("meter-2", {"voltage_a": None})]
    (news,) = batches_of(items(told), None)
    assert (news.type, news.resource, news.site_id) == (NewsType.READINGS_BATCH, "readings/s-1", "s-1")
    assert (news.source, news.lane, news.at) == ("ingest", Lane.BULK, NOW)
    said = orjson.loads(news.data)
    assert (said["site_id"], said["count"]) == ("s-1", 2)
    assert said["readings"] == [orjson.loads(each.to_json()) for each in told]


def test_late_reports_are_news_of_their_own() -> None:
    (news,) = batches_of(items([reading()], topics.BACKFILL), None)
    assert (news.type, news.resource) == (NewsType.BACKFILL_BATCH, "backfill/s-1")


@given(st.lists(st.integers(1, 4000), max_size=60), st.integers(1, 7), st.integers(300, 9000))
def test_every_one_is_told_once_in_its_order_within_the_bounds(
    sizes: list[int], most_items: int, most_bytes: int
) -> None:
    told = items([reading(f"meter-{number}", {"x_" + "a" * (size % 60): 1.0}) for number, size in enumerate(sizes)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "MOST_ITEMS", most_items)
        patch.setattr(batches, "MOST_BYTES", most_bytes)
        found = batches_of(told, None)
    said = [orjson.loads(each.data) for each in found]
    assert [one["device_id"] for each in said for one in each["readings"]] == [each.device_id for each in told]
    for each in said:
        assert each["count"] == len(each["readings"]) <= most_items
        assert each["count"] == 1 or sum(len(orjson.dumps(one)) for one in each["readings"]) <= most_bytes
    assert len({each.event_id for each in found}) == len(found)


def test_the_bounds_are_what_the_readme_says() -> None:
    assert (MOST_ITEMS, MOST_BYTES) == (500, 256 * 1024)
    assert [orjson.loads(each.data)["count"] for each in batches_of(items([reading()] * 501), None)] == [500, 1]


class TestPoints:
    def test_nothing_but_the_chosen_points_is_told_and_what_stands_beside_them_follows(self) -> None:
        full = Reading.model_validate(
            {
                **reading(points={"power": 1.5, "voltage_a": None, "current_a": 2.0}).model_dump(),
                "quality": {"current_a": "suspect", "power": "estimated"}, "raw": {"current_a": 2.5},
            }
        )  # fmt: skip
        (news,) = batches_of(items([full]), {"power", "voltage_a"})
        (said,) = orjson.loads(news.data)["readings"]
        # What is missing is null and stays so.
        assert said["points"] == {"power": 1.5, "voltage_a": None}
        assert said["quality"] == {"power": "estimated"}
        assert "raw" not in said
        assert Reading.model_validate(said).device_id == "meter-1"

    def test_a_reading_without_any_is_left_out(self) -> None:
        found = batches_of(items([reading(points={"voltage_a": 1.0}), reading("meter-2")]), {"power"})
        assert [orjson.loads(each.data)["count"] for each in found] == [1]
        assert batches_of(items([reading(points={"voltage_a": 1.0})]), {"power"}) == []


def test_the_same_choice_of_the_same_messages_has_the_same_name() -> None:
    told = items([reading(points={"power": 1.0, "voltage_a": 2.0})])
    (first,), (again,), (other,) = (batches_of(told, points) for points in (None, None, {"power"}))
    assert first.event_id == again.event_id != other.event_id
    # The same words said a second time are another event.
    (later,) = batches_of([item for item in [item_of(on_bus(reading(), 9))] if item], None)
    (earlier,) = batches_of([item for item in [item_of(on_bus(reading(), 8))] if item], None)
    assert later.event_id != earlier.event_id


def test_heartbeats_and_deleted_messages_are_nothing() -> None:
    beat = on_bus(Heartbeat(instance="a", partition=3, received_at=NOW))
    assert ("ce_type", HEARTBEAT_TYPE.encode()) in beat.headers
    assert item_of(beat) is None
    assert item_of(Received(topics.READINGS, 0, 1, "k", None, (), NOW)) is None


@given(
    st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["site_id", "device_id", "points", "x"]), inner, max_size=4)
            ),
            max_leaves=8,
        ).map(orjson.dumps),
    ),
    st.sampled_from(list(batches.KINDS)),
)
def test_what_cannot_be_told_is_named_and_nothing_else_is_raised(value: bytes, topic: str) -> None:
    try:
        item = item_of(Received(topic, 0, 7, "k", value, (), NOW))
    except ValueError as exc:
        assert str(exc).startswith("no event of")  # noqa: PT017 - either way is right, and this is the other one
        return
    assert item is not None
    assert all(orjson.loads(each.data)["count"] == 1 for each in batches_of([item], None))


class TestOwners:
    def test_a_revoked_key_and_a_closed_account_are_told_no_more(self) -> None:
        revoked = owner_change_of("api_key.revoke", "key:a", None)
        assert revoked == OwnerChange("key:a", ended="the API key of its owner was revoked")
        closed = owner_change_of("user.change", "user:li", {"disabled": True, "sites": None})
        assert closed is not None
        assert closed.ended is not None

    @pytest.mark.parametrize(("sites", "limits"), [(None, None), ([], ()), (["s-1"], ("s-1",))])
    def test_who_may_see_less_is_told_less(self, sites: list[str] | None, limits: tuple[str, ...] | None) -> None:
        found = owner_change_of("user.change", "user:li", {"disabled": False, "sites": sites})
        assert found == OwnerChange("user:li", limits=limits)

    def test_other_entries_mean_nothing(self) -> None:
        assert owner_change_of("user.set_password", "user:li", None) is None
        assert owner_change_of("api_key.create", "key:a", {"name": "a"}) is None
        assert owner_change_of("user.change", "user:li", None) is None
        assert owner_change_of("user.change", "user:li", {"disabled": False}) is None
