"""Sparkplug B: bytes, births, deaths and gaps; and that an alias never means what an older birth said."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.telemetry import Quality, RejectReason
from libs.common.errors import InvalidInput
from libs.common.profiles import ProfileCatalogue, SparkplugControl
from services.ingest.domain.sparkplug import (
    DataType,
    Metric,
    Node,
    Payload,
    Topic,
    Verb,
    parse_topic,
    signed,
    split_address,
    unsigned,
)
from services.ingest.drivers.mqtt_products import Heard
from services.ingest.drivers.port import Address
from services.ingest.drivers.sparkplug import SparkplugNodes
from services.ingest.drivers.sparkplug_codec import NotSparkplug, decode, encode

METER = ProfileCatalogue.load().get("example_sparkplug_meter")
DEVICE = Address("meter-1", "plant/gw/m1", METER)
NOW = datetime(2026, 11, 21, 4, 0, tzinfo=UTC)
MS = int(NOW.timestamp() * 1000)
NBIRTH, DBIRTH = "spBv1.0/plant/NBIRTH/gw", "spBv1.0/plant/DBIRTH/gw/m1"
DDATA, NDEATH, DDEATH = "spBv1.0/plant/DDATA/gw/m1", "spBv1.0/plant/NDEATH/gw", "spBv1.0/plant/DDEATH/gw/m1"


def bd_seq(number: int) -> Metric:
    return Metric(name="bdSeq", datatype=DataType.INT64, value=number)


def volts(value: float | None, **facts: Any) -> Metric:
    return Metric(**{"name": "Voltage/A", "datatype": DataType.FLOAT, "value": value, "time_ms": MS, **facts})


def born(*metrics: Metric, bd: int = 3) -> tuple[SparkplugNodes, list[Heard]]:
    """Nodes of which one and its device are born; the next message has seq 2."""
    nodes = SparkplugNodes([DEVICE])
    heard = [say(nodes, NBIRTH, bd_seq(bd), seq=0), say(nodes, DBIRTH, *(metrics or (volts(230.0, alias=7),)), seq=1)]
    return nodes, heard


def say(nodes: SparkplugNodes, topic: str, *metrics: Metric, seq: int | None = None, at: datetime = NOW) -> Heard:
    heard = nodes.hear(topic, encode(Payload(metrics, time_ms=MS, seq=seq)), at, retained=False)
    assert isinstance(heard, Heard)
    return heard


# bytes


def test_a_payload_byte_by_byte() -> None:
    """Written down by the field numbers of the specification, 6.4.1."""
    data = bytes.fromhex("08 80 01 12 12 0a 02 55 61 10 07 18 80 01 20 09 65 00 00 66 43 28 00 18 02")
    assert decode(data) == Payload(
        (Metric(name="Ua", alias=7, time_ms=128, datatype=9, value=230.0),), time_ms=128, seq=2
    )


METRICS = st.builds(
    Metric,
    name=st.none() | st.text(max_size=10),
    alias=st.none() | st.integers(0, 2**64 - 1),
    time_ms=st.none() | st.integers(0, 2**63),
    datatype=st.sampled_from([DataType.INT64, DataType.UINT64]),
    value=st.none() | st.integers(0, 2**64 - 1) | st.booleans() | st.text(max_size=5) | st.floats(allow_nan=False),
    is_historical=st.booleans(),
)


@given(payload=st.builds(Payload, st.lists(METRICS, max_size=5).map(tuple), st.none() | st.integers(0, 2**64 - 1)))
def test_what_is_encoded_is_decoded(payload: Payload) -> None:
    assert decode(encode(payload)) == payload


@given(data=st.binary(max_size=100))
def test_any_bytes_are_a_payload_or_refused(data: bytes) -> None:
    try:
        decode(data)
    except NotSparkplug:
        return
    SparkplugNodes([DEVICE]).hear(DDATA, data, NOW, retained=False)


@given(value=st.integers(-(2**31), 2**31 - 1))
def test_signs_travel(value: int) -> None:
    assert signed(unsigned(value, DataType.INT32), DataType.INT32) == value


@pytest.mark.parametrize(
    ("value", "datatype", "wire"),
    [
        (-1, DataType.INT8, 0xFFFFFFFF),
        (-2, DataType.INT64, 2**64 - 2),
        (1, DataType.BOOLEAN, True),
        (3, DataType.DOUBLE, 3.0),
    ],
)
def test_numbers_on_the_wire(value: float, datatype: DataType, wire: Any) -> None:
    found = unsigned(value, datatype)
    assert (found, type(found)) == (wire, type(wire))
    assert signed(found, datatype) == value


@pytest.mark.parametrize(("value", "datatype"), [(128, DataType.INT8), (-1, DataType.UINT8), (2**64, DataType.UINT64)])
def test_numbers_that_do_not_fit(value: float, datatype: DataType) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        unsigned(value, datatype)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (DDATA, Topic("plant", Verb.DDATA, "gw", "m1")),
        (NBIRTH, Topic("plant", Verb.NBIRTH, "gw")),
        ("spBv1.0/plant/NDATA/gw/m1", None),
        ("spBv1.0/plant/DDATA/gw", None),
        ("spBv1.0/STATE/host", None),
        ("spAv1.0/plant/NDATA/gw", None),
        ("spBv1.0//NDATA/gw", None),
    ],
)
def test_topics(text: str, found: Topic | None) -> None:
    assert parse_topic(text) == found


@pytest.mark.parametrize("text", [None, "", "a", "a/b/c/d", "a//c", "a/+", "a/b#"])
def test_addresses_that_are_none(text: str | None) -> None:
    assert split_address(text) is None


# births, data, deaths


def test_birth_and_data_by_alias() -> None:
    nodes, (_, birth) = born()
    ((device_id, report),) = birth.reports
    assert (device_id, report.raw, report.source_time) == ("meter-1", {"voltage_a": 230.0}, NOW)
    later = MS + 1500
    heard = say(nodes, DDATA, Metric(alias=7, value=231.5, time_ms=later), seq=2)
    ((_, report),) = heard.reports
    assert (report.raw, report.source_time) == ({"voltage_a": 231.5}, NOW + timedelta(seconds=1.5))
    assert heard.requests == []


def test_values_of_several_times_are_several_reports_and_history_is_not_live() -> None:
    nodes, _ = born()
    heard = say(
        nodes,
        DDATA,
        volts(1.0, time_ms=MS + 2000),
        volts(2.0, time_ms=MS - 60_000, is_historical=True),
        Metric(name="Power/Active", datatype=DataType.INT32, value=unsigned(-5, DataType.INT32), time_ms=MS + 1000),
        volts(None, time_ms=MS + 3000),
        volts(float("nan"), time_ms=MS + 4000, quality=0),
        seq=2,
    )
    found = [(report.archive, report.raw) for _, report in heard.reports]
    assert found[:4] == [
        (True, {"voltage_a": 2.0}), (False, {"active_power_total": -5}), (False, {"voltage_a": 1.0}),
        (False, {"voltage_a": None}),
    ]  # fmt: skip


def test_quality_of_a_metric() -> None:
    nodes = SparkplugNodes([DEVICE])
    heard = nodes.hear(DBIRTH, _with_quality(500), NOW, retained=False)
    assert isinstance(heard, Heard)
    assert heard.reports[0][1].quality == {"voltage_a": Quality.STALE}
    heard = nodes.hear(DBIRTH, _with_quality(192), NOW, retained=False)
    assert isinstance(heard, Heard)
    assert heard.reports[0][1].quality == {}


def _with_quality(quality: int) -> bytes:
    """A DBIRTH of one metric with the property ``Quality``, put together by hand."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    def varint(value: int) -> bytes:
        return bytes([value]) if value < 128 else bytes([value & 127 | 128, value >> 7])

    properties = field(1, b"Quality") + field(2, b"\x08\x03\x18" + varint(quality))
    metric = field(1, b"Voltage/A") + b"\x20\x09" + field(9, properties) + b"\x65\x00\x00\x66\x43"
    return b"\x08\x01" + field(2, metric) + b"\x18\x00"


def test_data_before_a_birth_asks_for_one_once() -> None:
    nodes = SparkplugNodes([DEVICE])
    heard = say(nodes, DDATA, volts(230.0), Metric(alias=7, value=1.0), seq=9)
    ((_, report),) = heard.reports  # what has a name needs no birth
    assert report.raw == {"voltage_a": 230.0}
    ((topic, payload),) = heard.requests
    assert topic == "spBv1.0/plant/NCMD/gw"
    (metric,) = decode(payload).metrics
    assert (metric.name, metric.value) == ("Node Control/Rebirth", True)
    assert say(nodes, DDATA, volts(1.0), seq=10, at=NOW + timedelta(seconds=1)).requests == []
    assert say(nodes, DDATA, volts(1.0), seq=11, at=NOW + timedelta(seconds=6)).requests != []


def test_a_gap_makes_values_stale_and_aliases_meaningless() -> None:
    nodes, _ = born()
    heard = say(nodes, DDATA, Metric(alias=7, value=1.0), seq=5)
    ((device_id, report),) = heard.reports
    assert (device_id, set(report.quality.values()), set(report.raw.values())) == ("meter-1", {Quality.STALE}, {None})
    assert heard.requests
    assert nodes.lasts_s(DEVICE) < 10
    say(nodes, NBIRTH, bd_seq(4), seq=0)
    assert say(nodes, DBIRTH, volts(5.0, alias=8), seq=1).reports[0][1].raw == {"voltage_a": 5.0}
    assert say(nodes, DDATA, Metric(alias=7, value=1.0), seq=2).reports == []
    assert nodes.lasts_s(DEVICE) == float("inf")


def test_count_goes_round() -> None:
    nodes, _ = born()
    for seq in (*range(2, 256), *range(10)):
        assert say(nodes, DDATA, volts(seq), seq=seq).requests == []


def test_death_of_this_birth_and_of_an_older_one() -> None:
    nodes, _ = born(bd=3)
    assert say(nodes, NDEATH, bd_seq(2)).reports == []
    assert nodes.lasts_s(DEVICE) == float("inf")
    heard = say(nodes, NDEATH, bd_seq(3))
    assert [device_id for device_id, _ in heard.reports] == ["meter-1"]
    assert heard.failed == [("meter-1", "sparkplug_death")]
    assert say(nodes, NDEATH, bd_seq(3)).reports == []


def test_death_of_a_device() -> None:
    nodes, _ = born()
    assert set(say(nodes, DDEATH, seq=2).reports[0][1].quality.values()) == {Quality.STALE}
    assert say(nodes, DBIRTH, volts(1.0), seq=3).reports[0][1].raw == {"voltage_a": 1.0}


def test_what_cannot_be_understood() -> None:
    nodes, _ = born()
    heard = nodes.hear(DDATA, b"\xff\xff", NOW, retained=False)
    assert isinstance(heard, Heard)
    assert heard.refused is not None
    assert (heard.refused[0], heard.refused[2]) == (RejectReason.UNDECODABLE, "meter-1")
    heard = say(nodes, DDATA, volts(1.0, time_ms=2**63), seq=2)
    assert heard.refused is not None
    assert heard.refused[0] is RejectReason.UNREADABLE_TIME
    heard = say(nodes, "spBv1.0/plant/DBIRTH/gw/m9", volts(1.0), seq=3)
    assert heard.refused is not None
    assert heard.refused[0] is RejectReason.UNKNOWN_DEVICE
    assert nodes.hear("spBv1.0/other/NDATA/gw", b"", NOW, retained=False) is None


def test_commands() -> None:
    nodes, _ = born()
    opening = METER.controls["breaker_open"]
    order = nodes.command(DEVICE, opening, None, NOW)
    (metric,) = decode(order.payload).metrics
    assert (order.topic, order.at_most_once) == ("spBv1.0/plant/DCMD/gw/m1", True)
    assert (metric.name, metric.datatype, metric.value) == ("Breaker/Close", DataType.BOOLEAN, False)
    with pytest.raises(InvalidInput):
        nodes.command(DEVICE, ProfileCatalogue.load().get("example_mqtt_meter").controls["breaker_open"], None, NOW)
    assert isinstance(opening, SparkplugControl)


STEPS = st.lists(
    st.tuples(
        st.sampled_from([Verb.NBIRTH, Verb.NDEATH, Verb.NDATA, Verb.DBIRTH, Verb.DDATA, Verb.DDEATH]),
        st.none() | st.integers(0, 255),
        st.lists(st.tuples(st.none() | st.sampled_from("ABC"), st.none() | st.integers(0, 3)), max_size=3),
    ),
    max_size=30,
)


@given(steps=STEPS)
def test_an_alias_means_what_the_last_birth_said_or_nothing(steps: list[Any]) -> None:
    node = Node("g/n")
    meant: dict[int, str] = {}
    for verb, seq, pairs in steps:
        topic = Topic("g", verb, "n", "d" if verb.value[0] == "D" else None)
        is_data = verb in (Verb.NDATA, Verb.DDATA)
        metrics = [Metric(name=None if is_data else name, alias=alias, value=1) for name, alias in pairs]
        said = node.hear(topic, Payload(metrics, seq=seq))
        if verb in (Verb.NBIRTH, Verb.NDEATH):
            meant.clear()
        if verb in (Verb.NBIRTH, Verb.DBIRTH):
            meant |= {alias: name for name, alias in pairs if name is not None and alias is not None}
        if is_data:
            for metric in said.metrics:
                assert metric.alias is not None
                assert metric.name == meant[metric.alias]
