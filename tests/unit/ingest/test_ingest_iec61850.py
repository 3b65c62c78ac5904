"""What MMS carries for IEC 61850: names, qualities, times, reports, control by profile."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hat.drivers import mms
from hat.drivers.mms import encoder
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.telemetry import Quality
from libs.common.profiles import ProfileCatalogue
from services.ingest.drivers.iec61850.names import Variable, attribute, beside, controllable, data_set, report_block
from services.ingest.drivers.iec61850.reports import Member, parse, report_id
from services.ingest.drivers.iec61850.subscription import Subscription
from services.ingest.drivers.iec61850.values import entry_time_of, quality_of, raw_of, time_of

NOW = datetime(2026, 11, 21, 5, 0, tzinfo=UTC)
ALL = [True] * 8 + [True, False]
"""OptFlds with everything but segments."""
POWER, STATE = Variable("ied1LD0", "MMXU1$MX$TotW"), Variable("ied1LD0", "CSWI1$ST$Pos$stVal")
MEMBERS = [
    Member(
        POWER,
        mms.StructureTypeDescription(
            [
                ("mag", mms.StructureTypeDescription([("f", mms.BooleanTypeDescription())])),
                ("q", mms.BooleanTypeDescription()),
            ]
        ),
    ),
    Member(STATE, mms.BooleanTypeDescription()),
]
GOOD = [False] * 13


def bits(*true: int, count: int = 13) -> mms.BitStringData:
    return mms.BitStringData([n in true for n in range(count)])


@pytest.mark.parametrize(
    ("reference", "constraint", "value", "quality"),
    [
        ("LD0/MMXU1.TotW.mag.f", "MX", "MMXU1$MX$TotW$mag$f", "MMXU1$MX$TotW$q"),
        ("LD0/MMXU1.PhV.phsA.cVal.mag.f", "MX", "MMXU1$MX$PhV$phsA$cVal$mag$f", "MMXU1$MX$PhV$phsA$q"),
        ("LD0/CSWI1.Pos.stVal", "ST", "CSWI1$ST$Pos$stVal", "CSWI1$ST$Pos$q"),
    ],
)
def test_references_are_names_of_mms(reference: str, constraint: str, value: str, quality: str) -> None:
    found = attribute("ied1", reference, constraint)
    assert found == Variable("ied1LD0", value)
    assert beside(found, "q") == Variable("ied1LD0", quality)


def test_blocks_objects_and_data_sets_have_names() -> None:
    assert report_block("ied1", "LD0/LLN0.BR.b01") == Variable("ied1LD0", "LLN0$BR$b01")
    assert controllable("ied1", "LD0/CSWI1.Pos") == Variable("ied1LD0", "CSWI1$CO$Pos")
    assert data_set("ied1LD0/LLN0$Meas") == Variable("ied1LD0", "LLN0$Meas")
    assert data_set("") is None


@pytest.mark.parametrize(
    ("true", "said"),
    [
        ((), None), ((1,), Quality.INVALID), ((0,), Quality.SUSPECT), ((0, 1), Quality.SUSPECT),
        ((2,), Quality.INVALID), ((6,), Quality.INVALID), ((11,), Quality.INVALID), ((0, 1, 7), Quality.STALE),
        ((12,), Quality.FROZEN), ((10,), Quality.SUBSTITUTED), ((10, 1), Quality.INVALID),
    ],
)  # fmt: skip
def test_quality_is_the_worst_of_its_bits(true: tuple[int, ...], said: Quality | None) -> None:
    assert quality_of(bits(*true)) is said


def test_positions_are_two_bits() -> None:
    found = [raw_of(mms.BitStringData(list(both))) for both in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert found == [0, 1, 2, 3]
    assert raw_of(mms.VisibleStringData("x")) is None


def test_times_of_clocks_that_have_failed_or_follow_nothing_are_none() -> None:
    assert time_of(mms.UtcTimeData(NOW, False, False, False, 10)) == NOW
    assert time_of(mms.UtcTimeData(NOW, False, True, False, 10)) is None
    assert time_of(mms.UtcTimeData(NOW, False, False, True, 10)) is None
    assert time_of(mms.UtcTimeData(datetime.fromtimestamp(0, UTC), False, False, False, None)) is None


def entry_time(at: datetime) -> Any:
    """Return a time of entry as an IED codes it and hat-drivers decodes it."""
    since = at - datetime(1984, 1, 1, tzinfo=UTC)
    ms = since.seconds * 1000 + since.microseconds // 1000
    return encoder._decode_data(("binary-time", ms.to_bytes(4, "big") + since.days.to_bytes(2, "big")))


@given(st.integers(0, 2 * 86_400_000 - 1), st.integers(0, 22 * 3600))
def test_time_of_entry_is_found_within_what_can_be(ms: int, outage_s: int) -> None:
    at = NOW - timedelta(days=1) + timedelta(milliseconds=ms)
    assert entry_time_of(entry_time(at), at - timedelta(seconds=outage_s), at + timedelta(hours=1)) == at
    assert entry_time_of(entry_time(at), at + timedelta(seconds=1), at + timedelta(hours=1)) is None


def test_time_of_entry_that_may_be_of_two_days_is_none() -> None:
    assert entry_time_of(entry_time(NOW), NOW - timedelta(days=5), NOW + timedelta(minutes=1)) is None
    assert entry_time_of(mms.BooleanData(True), NOW, NOW) is None


def report(included: tuple[bool, ...] = (True, True), reason: int = 1, **changes: Any) -> list[Any]:
    values: list[Any] = [
        mms.StructureData([mms.StructureData([mms.FloatingPointData(3.5)]), bits()]),
        mms.BitStringData([True, False]),
    ]
    there = [value for value, is_in in zip(values, included, strict=True) if is_in]
    fields = {
        "id": mms.VisibleStringData("r"), "fields": mms.BitStringData(ALL), "sequence": mms.UnsignedData(7),
        "time": mms.BinaryTimeData(NOW), "set": mms.VisibleStringData("s"), "overflow": mms.BooleanData(False),
        "entry": mms.OctetStringData(b"12345678"), "revision": mms.UnsignedData(1),
        "included": mms.BitStringData(list(included)),
    }  # fmt: skip
    references = [mms.VisibleStringData("x") for _ in there]
    return [*{**fields, **changes}.values(), *references, *there, *(bits(reason, count=6) for _ in there)]


def test_report_is_taken_apart() -> None:
    found = parse(report(), MEMBERS)
    assert (found.sequence, found.entry, found.overflow, found.changed) == (7, b"12345678", False, True)
    assert found.values[POWER.child("mag").child("f")] == mms.FloatingPointData(3.5)
    assert found.values[STATE] == mms.BitStringData([True, False])
    one = parse(report((False, True)), MEMBERS)
    assert set(one.values) == {STATE}
    assert [parse(report(reason=n), MEMBERS).changed for n in (1, 2, 3, 4, 5)] == [True, True, True, False, False]
    assert parse(report(reason=5), MEMBERS).interrogated
    assert report_id(report()) == "r"


@pytest.mark.parametrize("cut", range(1, 15))
def test_report_that_is_cut_is_none(cut: int) -> None:
    with pytest.raises(ValueError, match=r"short|expected|elements"):
        parse(report()[:-cut], MEMBERS)


def test_report_of_another_data_set_is_none() -> None:
    with pytest.raises(ValueError, match="1 entries where the data set has 2"):
        parse([*report()[:8], bits(0, count=1)], MEMBERS)
    with pytest.raises(ValueError, match="more fields"):
        parse([*report(), mms.BooleanData(True)], MEMBERS)
    with pytest.raises(ValueError, match="empty"):
        report_id([])


LEAVES = st.one_of(
    st.booleans().map(mms.BooleanData),
    st.integers(-9, 9).map(mms.IntegerData),
    st.lists(st.booleans(), max_size=14).map(mms.BitStringData),
    st.text(max_size=3).map(mms.VisibleStringData),
)
DATA = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3).map(mms.StructureData), max_leaves=5)


@given(st.lists(DATA, max_size=14))
def test_whatever_comes_is_a_report_or_a_value_error(data: list[Any]) -> None:
    try:
        report_id(data)
        parse(data, MEMBERS)
    except ValueError:
        pass
    for found in data:
        raw_of(found), quality_of(found), time_of(found), entry_time_of(found, NOW, NOW)


def test_gaps_of_numbers_and_overflows_are_losses() -> None:
    subscription = Subscription(POWER, "r", MEMBERS, [])

    def lost(sequence: int, *, overflow: bool = False) -> bool:
        told = report(sequence=mms.UnsignedData(sequence), overflow=mms.BooleanData(overflow))
        return subscription.has_lost(parse(told, MEMBERS))

    assert not lost(254, overflow=True)  # before us
    assert [lost(n) for n in (255, 0, 1, 1, 2, 4, 5)] == [False, False, False, False, False, True, False]
    assert lost(6, overflow=True)


def test_template_takes_its_references_from_the_profile() -> None:
    profile = ProfileCatalogue.load().get("iec61850_breaker_example")
    assert profile.control_blocks == ("LD0/LLN0.RP.urcbMeas01", "LD0/LLN0.BR.brcbState01")
    assert [point.reference for point in profile.iec61850_points()][:2] == [
        "LD0/CSWI1.Pos.stVal",
        "LD0/GGIO1.Ind1.stVal",
    ]
    assert {control.name for control in profile.controls.values()} == {"breaker_open", "breaker_close"}
