"""ASDUs and time tags of IEC 60870-5, against the library's codec, which is not used for them, and cut everywhere."""

import math
import struct
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hat.drivers.iec60870.encodings import iec104 as others
from hypothesis import assume, given
from hypothesis import strategies as st

from libs.common.contracts.telemetry import Quality
from libs.common.profiles import ObjectType
from services.ingest.drivers.iec60870.asdu import (
    INTERROGATION,
    STATION,
    WIDTHS_104,
    Asdu,
    Cause,
    Information,
    Undecodable,
    Widths,
    command_element,
    decode,
    encode,
    value_of,
)
from services.ingest.drivers.iec60870.times import UnreadableTime, decode_time, encode_time

BEIJING = ZoneInfo("Asia/Shanghai")
NOW = datetime(2026, 3, 1, 4, 0, tzinfo=UTC)

flags = st.booleans()
indications = st.builds(others.IndicationQuality, flags, flags, flags, flags)
measurements = st.builds(others.MeasurementQuality, flags, flags, flags, flags, flags)
counters = st.builds(others.CounterQuality, flags, flags, flags, st.integers(0, 31))
times = st.builds(
    others.Time, st.just(others.TimeSize.SEVEN), st.integers(0, 59_999), st.just(False), st.just(False),
    st.integers(0, 59), st.just(False), st.integers(0, 23), st.integers(1, 7), st.integers(1, 28), st.integers(1, 12),
    st.integers(0, 99),
)  # fmt: skip

SINGLE = st.builds(others.IoElement_M_SP_NA, st.sampled_from(others.SingleValue), indications)
DOUBLE = st.builds(others.IoElement_M_DP_NA, st.sampled_from(others.DoubleValue), indications)
STEP = st.builds(
    others.IoElement_M_ST_NA, st.builds(others.StepPositionValue, st.integers(-64, 63), flags), measurements
)
BITS = st.builds(
    others.IoElement_M_BO_NA, st.builds(others.BitstringValue, st.binary(min_size=4, max_size=4)), measurements
)
NORMALISED = st.builds(
    others.IoElement_M_ME_NA,
    st.integers(-32768, 32767).map(lambda n: others.NormalizedValue(n / 32768)),
    measurements,
)
SCALED = st.builds(others.IoElement_M_ME_NB, st.integers(-32768, 32767).map(others.ScaledValue), measurements)
FLOAT = st.builds(
    others.IoElement_M_ME_NC, st.floats(width=32, allow_nan=False).map(others.FloatingValue), measurements
)
COUNTER = st.builds(others.IoElement_M_IT_NA, st.integers(-(2**31), 2**31 - 1).map(others.BinaryCounterValue), counters)
MONITORED = [
    ("M_SP_NA", "M_SP_TB", SINGLE, ObjectType.SINGLE),
    ("M_DP_NA", "M_DP_TB", DOUBLE, ObjectType.DOUBLE),
    ("M_ST_NA", "M_ST_TB", STEP, ObjectType.STEP),
    ("M_BO_NA", "M_BO_TB", BITS, ObjectType.BITSTRING),
    ("M_ME_NA", "M_ME_TD", NORMALISED, ObjectType.NORMALISED),
    ("M_ME_NB", "M_ME_TE", SCALED, ObjectType.SCALED),
    ("M_ME_NC", "M_ME_TF", FLOAT, ObjectType.FLOAT),
    ("M_IT_NA", "M_IT_TB", COUNTER, ObjectType.COUNTER),
]


def number(element: object) -> float:
    value = element.value  # type: ignore[attr-defined]
    inner = getattr(value, "value", value)
    if isinstance(inner, bytes | memoryview):
        return int.from_bytes(inner, "little")
    return float(inner)


def flag(element: object) -> Quality | None:
    told = element.quality  # type: ignore[attr-defined]
    if told.invalid:
        return Quality.INVALID
    if isinstance(told, others.CounterQuality):
        return Quality.SUSPECT if told.adjusted else None
    if getattr(told, "overflow", False):
        return Quality.INVALID
    if told.not_topical:
        return Quality.STALE
    if told.blocked:
        return Quality.FROZEN
    return Quality.SUBSTITUTED if told.substituted else None


@given(data=st.data())
@pytest.mark.parametrize(("plain", "timed", "elements", "type_"), MONITORED, ids=[row[0] for row in MONITORED])
def test_what_another_encoder_writes_is_read(
    plain: str, timed: str, elements: st.SearchStrategy[object], type_: ObjectType, data: st.DataObject
) -> None:
    tagged, in_sequence = data.draw(flags), data.draw(flags)
    address = data.draw(st.integers(0, 0xFFFF))
    first = data.draw(st.integers(0, 0xFFFF00))
    values = data.draw(st.lists(elements, min_size=1, max_size=8))
    cause = others.Cause(others.CauseType.SPONTANEOUS, False, data.draw(flags), data.draw(st.integers(0, 255)))
    if in_sequence and not tagged and len(values) > 1:
        ios = [others.IO(first, values, None)]
    else:
        time = data.draw(times) if tagged else None
        ios = [others.IO(first + i, [value], time) for i, value in enumerate(values)]
    theirs = others.ASDU(getattr(others.AsduType, timed if tagged else plain), cause, address, ios)
    found = decode(bytes(others.Encoder().encode_asdu(theirs)), WIDTHS_104)
    assert found.value_type is type_
    assert (found.cause, found.negative, found.test) == (Cause.SPONTANEOUS, False, cause.is_test)
    assert (found.originator, found.common_address) == (cause.originator_address, address)
    assert [said.address for said in found.objects] == [first + i for i in range(len(values))]
    for said, value in zip(found.objects, values, strict=True):
        read = value_of(found.type_id, said.element)
        # A step of a normalised value is 2^-15; the other codec divides by 32767.
        assert read.raw == pytest.approx(number(value), abs=2**-15 if type_ is ObjectType.NORMALISED else 0, rel=0)
        assert read.quality == (flag(value) if math.isfinite(number(value)) else Quality.INVALID)
        if tagged:
            assert len(said.time) == 7


@given(data=st.binary(max_size=260), common=st.integers(1, 2), cause=st.integers(1, 2), address=st.integers(1, 3))
def test_any_bytes_are_an_asdu_of_their_length_or_none(data: bytes, common: int, cause: int, address: int) -> None:
    widths = Widths(cause, common, address)
    try:
        found = decode(data, widths)
    except Undecodable:
        return
    for said in found.objects:
        if found.value_type is not None:
            value_of(found.type_id, said.element)
    assume(not data[1] & 0x80)
    assert encode(found, widths) == data


@given(cut=st.integers(0, 100), more=st.binary(min_size=1, max_size=3))
def test_cut_and_padded_asdus_have_no_values(cut: int, more: bytes) -> None:
    whole = encode(
        Asdu(13, 20, 47, (Information(1, struct.pack("<fB", 230.5, 0)), Information(2, bytes(5)))), WIDTHS_104
    )
    assert len(decode(whole, WIDTHS_104).objects) == 2
    with pytest.raises(Undecodable):
        decode(whole[: min(cut, len(whole) - 1)], WIDTHS_104)
    with pytest.raises(Undecodable):
        decode(whole + more, WIDTHS_104)


def test_interrogation_is_the_one_of_the_notes() -> None:
    # southbound.md 6.2: what follows the six octets of the APCI.
    asked = Asdu(INTERROGATION, Cause.ACTIVATION, 47, (Information(0, STATION),))
    assert encode(asked, WIDTHS_104).hex(" ") == "64 01 06 00 2f 00 00 00 00 14"


def test_narrow_addresses_of_a_101_line() -> None:
    asked = Asdu(INTERROGATION, Cause.ACTIVATION, 3, (Information(0, STATION),))
    widths = Widths(cause=1, common_address=1, object_address=2)
    assert encode(asked, widths) == bytes.fromhex("640106030000 14")
    assert decode(encode(asked, widths), widths) == asked
    with pytest.raises(ValueError, match="common address 300 does not fit 1 octets"):
        encode(Asdu(INTERROGATION, Cause.ACTIVATION, 300, ()), widths)


def test_types_without_a_meaning_here_are_told_apart() -> None:
    with pytest.raises(Undecodable, match="type 38 is not supported"):
        decode(bytes([38, 1, 3, 0, 1, 0, 1, 0, 0]), WIDTHS_104)


def test_sequence_of_objects_with_times() -> None:
    # As lib60870 answers an interrogation; each object has its time behind it.
    found = decode(bytes.fromhex("1e8214002f00030000007d2b2701150b1a017e2b2701150b1a"), WIDTHS_104)
    assert [(said.address, said.element, said.time[0]) for said in found.objects] == [
        (3, b"\0", 0x7D),
        (4, b"\1", 0x7E),
    ]


@given(raw=st.sampled_from([1, 2]), select=flags, qualifier=st.integers(0, 31), address=st.integers(0, 0xFFFFFF))
def test_commands_are_read_by_another_decoder(raw: int, select: bool, qualifier: int, address: int) -> None:
    type_id, element = command_element(ObjectType.DOUBLE, raw, qualifier=qualifier, select=select)
    ours = Asdu(type_id, Cause.ACTIVATION, 1, (Information(address, element),))
    theirs, rest = others.Encoder().decode_asdu(encode(ours, WIDTHS_104))
    (io,) = theirs.ios
    (said,) = io.elements
    assert (theirs.type, io.address, bytes(rest)) == (others.AsduType.C_DC_NA, address, b"")
    assert (said.value.value, said.select, said.qualifier) == (raw, select, qualifier)


@given(raw=st.floats(-1, 1), select=flags)
def test_set_points_are_read_by_another_decoder(raw: float, select: bool) -> None:
    for type_, value, told in (
        (ObjectType.NORMALISED, raw, others.AsduType.C_SE_NA),
        (ObjectType.SCALED, round(raw * 30000), others.AsduType.C_SE_NB),
        (ObjectType.FLOAT, raw * 1000, others.AsduType.C_SE_NC),
    ):
        type_id, element = command_element(type_, value, qualifier=0, select=select)
        ours = Asdu(type_id, Cause.ACTIVATION, 1, (Information(1, element),))
        theirs, _ = others.Encoder().decode_asdu(encode(ours, WIDTHS_104))
        said = theirs.ios[0].elements[0]
        assert theirs.type == told
        assert said.select is select
        assert math.isclose(said.value.value, value, rel_tol=1e-6, abs_tol=2**-14)


@pytest.mark.parametrize(
    ("type_", "raw"),
    [(ObjectType.SINGLE, 2), (ObjectType.DOUBLE, 0), (ObjectType.NORMALISED, 1.5), (ObjectType.SCALED, 40000)],
)
def test_value_that_does_not_fit_a_command_is_refused(type_: ObjectType, raw: float) -> None:
    with pytest.raises(ValueError, match="cannot be the value"):
        command_element(type_, raw, qualifier=0, select=False)


@given(
    when=st.datetimes(datetime(2000, 1, 2), datetime(2099, 12, 30), timezones=st.just(UTC)),  # noqa: DTZ001 - bounds
    zone=st.sampled_from(["Asia/Shanghai", "UTC", "Europe/Berlin", "Asia/Kolkata"]),
)
def test_time_comes_back_to_the_millisecond(when: datetime, zone: str) -> None:
    octets = encode_time(when, ZoneInfo(zone))
    assert decode_time(octets, ZoneInfo(zone), NOW) == when.replace(microsecond=when.microsecond // 1000 * 1000)


def test_time_is_read_in_the_stations_zone() -> None:
    octets = bytes.fromhex("306d0f0ac2061a")  # 2026-06-02 10:15:27.952, a Saturday by its bits
    assert decode_time(octets, BEIJING, NOW) == datetime(2026, 6, 2, 2, 15, 27, 952_000, tzinfo=UTC)
    assert decode_time(octets, ZoneInfo("UTC"), NOW) == datetime(2026, 6, 2, 10, 15, 27, 952_000, tzinfo=UTC)


def test_summer_time_that_the_zone_does_not_have() -> None:
    octets = bytearray.fromhex("306d0f0ac2061a")
    octets[3] |= 0x80
    assert decode_time(bytes(octets), BEIJING, NOW) == datetime(2026, 6, 2, 1, 15, 27, 952_000, tzinfo=UTC)


def test_invalid_time_is_none_and_an_impossible_one_is_refused() -> None:
    octets = bytearray.fromhex("306d0f0ac2061a")
    octets[2] |= 0x80
    assert decode_time(bytes(octets), BEIJING, NOW) is None
    for at, value in ((1, 0xFF), (2, 63), (3, 25), (4, 31), (5, 13)):
        octets = bytearray.fromhex("306d0f0ac2061a")
        octets[at] = value
        with pytest.raises(UnreadableTime):
            decode_time(bytes(octets), BEIJING, NOW)


@given(octets=st.binary(min_size=7, max_size=7))
def test_any_octets_are_a_time_or_none(octets: bytes) -> None:
    try:
        found = decode_time(octets, BEIJING, NOW)
    except UnreadableTime:
        return
    assert found is None or found.utcoffset() == timedelta(0)


@given(behind_s=st.floats(-1700, 1700), zone=st.sampled_from(["Asia/Shanghai", "Asia/Kolkata"]))
def test_short_time_is_the_nearest_one(behind_s: float, zone: str) -> None:
    told = (NOW - timedelta(seconds=behind_s)).replace(microsecond=0)
    octets = encode_time(told, ZoneInfo(zone))[:3]
    assert decode_time(octets, ZoneInfo(zone), NOW) == told
