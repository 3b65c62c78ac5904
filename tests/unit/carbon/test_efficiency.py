"""Carbon efficiency codes by hand, their levels at every limit, and the reasons why there is none."""

from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidFile, InvalidInput
from services.carbon import library
from services.carbon.domain.efficiency import (
    Balance,
    CarbonClass,
    Circumstances,
    Code,
    Deduction,
    Kind,
    Level,
    NoCode,
    Standard,
    StandardsOverlap,
    check_apart,
    class_of,
    code_of,
    deduction,
    level_of,
    yardstick,
)
from services.carbon.domain.levels.facts import Denominator, Fact, FactKind, NoDenominator, summed, tiled

SHIPPED = library.load_standards()
LEVELS, CLASSES = SHIPPED[0].levels, SHIPPED[0].classes
FIRST, LAST = date(2025, 1, 1), date(2025, 12, 31)
SECTOR = Standard(
    standard_id="electronics",
    kind=Kind.INDUSTRY,
    name="Electronics",
    name_zh="电子制造",
    valid_from=FIRST,
    benchmark=1.5,
    source="notice of the city, 2025",
    confidence="verified",
)
OFFICES = replace(SECTOR, standard_id="offices", kind=Kind.BUILDING, benchmark=50.0)
FACTORY = Balance(
    electricity=500_000.0,
    energy_kwh=1_000_000.0,
    media=(("gas_volume_normal", 100_000.0),),
    zero_carbon=Deduction(200_000.0, ("GEC-1",)),
    sinks=Deduction(20_000.0, ("forest",)),
)
WELL_KNOWN = Circumstances(over=True, whole_year=True, unsaid=(), usable_share=1.0)


def code(
    balance: Balance = FACTORY,
    denominator: Denominator | None = None,
    *,
    row: Standard | None = SECTOR,
    kind: Kind = Kind.INDUSTRY,
    **found: object,
) -> Code:
    rows = [replace(row or SECTOR, benchmark=None) if row is None else row]
    return code_of(
        kind=kind,
        balance=balance,
        denominator=denominator or Denominator(400.0, None, "current"),
        against=yardstick(rows, SHIPPED, FIRST, LAST),
        found=replace(WELL_KNOWN, **found),  # type: ignore[arg-type]
    )


def fact(value: float, first: date, end: date, kind: FactKind = FactKind.VALUE_ADDED, **more: str) -> Fact:
    basis = "current" if kind.needs_basis else ""
    return Fact(node="n", kind=kind, first_day=first, end_day=end, value=value, source="book", basis=basis, **more)


def test_the_code_of_a_factory_by_hand() -> None:
    """600 t emitted, 200 MWh of 1,000 MWh green (100 t) and 20 t of sinks off: 480 t over 4 million CNY are 1.2 t per
    10^4 CNY, 0.8 of a sector average of 1.5: level 2, medium carbon."""
    found = code()
    balance = found.balance
    assert (balance.gross, balance.covered, balance.deducted, balance.net) == (600_000.0, 100_000.0, 120_000.0, 480e3)
    assert found.intensity == pytest.approx(1.2, rel=1e-12)
    assert found.ratio == pytest.approx(0.8, rel=1e-12)
    assert (found.level, found.carbon_class, found.reason, found.marks) == (Level.GOOD, CarbonClass.MEDIUM, None, ())
    assert (Level.HIGH.text.chinese, CarbonClass.LOW.text.chinese) == ("高效", "低碳")


def test_levels_and_classes_include_their_upper_ends() -> None:
    """The printed table: K 0.6, 0.8, 1.2, 2.0 and L 0.6, 2.0 belong to the level and class beneath."""
    ratios = [0.0, 0.6, 0.600001, 0.8, 0.800001, 1.2, 1.200001, 2.0, 2.000001, 1e9]
    assert [int(level_of(one, LEVELS)) for one in ratios] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert level_of(0.06 / 0.1, LEVELS) is Level.HIGH  # 0.6 as floats divide
    intensities = [0.6, 0.600001, 2.0, 2.000001]
    assert [class_of(one, CLASSES) for one in intensities] == [
        CarbonClass.LOW, CarbonClass.MEDIUM, CarbonClass.MEDIUM, CarbonClass.HIGH,
    ]  # fmt: skip


def test_a_building_is_held_against_a_quota_per_area() -> None:
    """60 t on 1,000 m2 are 60 kg per m2, 1.2 of a quota of 50: level 3; buildings have no class."""
    balance = Balance(electricity=60_000.0, energy_kwh=100_000.0)
    found = code(balance, Denominator(1000.0, None), row=OFFICES, kind=Kind.BUILDING)
    assert (found.intensity, found.ratio, found.level, found.carbon_class) == (60.0, 1.2, Level.AVERAGE, None)
    part = code(balance, Denominator(1000.0, None), row=OFFICES, kind=Kind.BUILDING, whole_year=False)
    assert (part.level, part.reason) == (None, NoCode.PART_OF_A_YEAR)


@pytest.mark.parametrize(
    ("denominator", "reason"),
    [
        (Denominator(0.0, None, "current"), NoCode.NOT_POSITIVE),
        (Denominator(-3.0, None, "current"), NoCode.NOT_POSITIVE),
        (Denominator(0.009, None, "current"), NoCode.TOO_SMALL),
        (Denominator(None, NoDenominator.NOT_ENTERED), NoCode.NOT_ENTERED),
        (Denominator(None, NoDenominator.MIXED_BASES), NoCode.MIXED_BASES),
        (Denominator(None, NoDenominator.CUT), NoCode.CUT),
        (Denominator(None, NoDenominator.ZERO), NoCode.NOT_POSITIVE),
    ],
)
def test_without_a_positive_value_added_there_is_no_level(denominator: Denominator, reason: NoCode) -> None:
    found = code(denominator=denominator)
    assert (found.intensity, found.carbon_class, found.ratio, found.level) == (None, None, None, None)
    assert found.reason is reason
    assert all(reason.text)


@pytest.mark.parametrize(
    ("balance", "found", "reason"),
    [
        (FACTORY, {"over": False}, NoCode.NOT_OVER),
        (FACTORY, {"unsaid": ("gas_volume",)}, NoCode.MEDIUM_UNSAID),
        (FACTORY, {"usable_share": 0.49}, NoCode.TOO_LITTLE_KNOWN),
        (FACTORY, {"usable_share": None}, NoCode.TOO_LITTLE_KNOWN),
        (replace(FACTORY, electricity=None), {}, NoCode.EMISSION_UNKNOWN),
        (replace(FACTORY, media=(("heat_energy", None),)), {}, NoCode.EMISSION_UNKNOWN),
    ],
)
def test_an_emission_that_is_not_known_gives_no_figure(balance: Balance, found: dict[str, Any], reason: NoCode) -> None:
    one = code(balance, **found)
    assert (one.intensity, one.level, one.reason) == (None, None, reason)


def test_a_figure_of_incomplete_data_is_marked() -> None:
    assert code(usable_share=0.89).marks == ("incomplete",)
    assert code(usable_share=0.9).marks == ()


def test_without_a_trusted_average_there_is_a_class_and_no_level() -> None:
    for row, reason in (
        (None, NoCode.NO_BENCHMARK),
        (replace(SECTOR, valid_to=LAST), NoCode.NO_BENCHMARK),  # ends with the last day
        (replace(SECTOR, confidence="memory-verify"), NoCode.NOT_TRUSTED),
    ):
        found = code(row=row)
        assert (found.level, found.ratio, found.reason) == (None, None, reason)
        assert found.carbon_class is CarbonClass.MEDIUM


def test_the_row_of_the_last_day_counts_with_limits_of_its_own() -> None:
    earlier = replace(SECTOR, valid_to=date(2025, 7, 1), benchmark=3.0)
    later = replace(SECTOR, valid_from=date(2025, 7, 1), levels=(0.1, 0.2, 0.3, 0.9))
    found = yardstick([earlier, later], SHIPPED, FIRST, LAST)
    assert (found.row, found.changed, found.levels, found.classes) == (later, True, (0.1, 0.2, 0.3, 0.9), CLASSES)
    assert yardstick([earlier], SHIPPED, FIRST, date(2025, 6, 30)).row is earlier
    assert yardstick([SHIPPED[0]], SHIPPED, date(2010, 1, 1), date(2010, 12, 31)).levels == LEVELS


def test_more_green_electricity_than_consumption_covers_nothing_more() -> None:
    balance = replace(FACTORY, zero_carbon=Deduction(3_000_000.0), media=(), sinks=Deduction(0.0))
    assert (balance.covered, balance.net, balance.marks) == (500_000.0, 0.0, ["surplus_zero_carbon_electricity"])
    sunk = replace(FACTORY, sinks=Deduction(1e9))
    assert (sunk.net, sunk.marks) == (0.0, ["more_deducted_than_emitted"])
    assert replace(FACTORY, electricity=0.0, energy_kwh=0.0, media=(), sinks=Deduction(0.0)).net == 0.0


def test_a_deduction_counts_where_it_lies_within_the_period() -> None:
    green = FactKind.ZERO_CARBON_ELECTRICITY
    inside = [
        fact(5.0, date(2025, 1, 1), date(2025, 2, 1), green),
        fact(7.0, date(2025, 6, 1), date(2026, 1, 1), green),
    ]
    assert deduction(inside, FIRST, date(2026, 1, 1)) == Deduction(12.0, ("book",))
    over = fact(9.0, date(2025, 12, 1), date(2026, 2, 1), green)
    assert deduction([*inside, over], FIRST, date(2026, 1, 1)) == Deduction(12.0, ("book",), cut=True)
    assert deduction([over], FIRST, date(2025, 12, 1)) == Deduction(0.0)


def test_a_month_of_loss_is_part_of_the_sum_and_no_divisor() -> None:
    half = date(2025, 7, 1)
    good, bad = fact(300.0, FIRST, half), fact(-100.0, half, date(2026, 1, 1))
    assert tiled([good, bad], FIRST, date(2026, 1, 1)) == Denominator(200.0, None, "current")
    assert tiled([bad], half, date(2026, 1, 1)).value == -100.0
    assert summed([bad], half, date(2026, 1, 1)).reason is NoDenominator.ZERO
    with pytest.raises(InvalidInput, match="expected 0 to"):
        fact(-1.0, FIRST, half, FactKind.SINK)


@pytest.mark.parametrize(
    "wrong",
    [
        {"valid_to": FIRST},
        {"benchmark": 0.0},
        {"benchmark": float("nan")},
        {"levels": (0.6, 0.8, 1.2)},
        {"levels": (0.6, 0.6, 1.2, 2.0)},
        {"levels": (0.0, 0.6, 1.2, 2.0)},
        {"classes": (2.0, 0.6)},
        {"kind": Kind.BUILDING, "classes": (0.6, 2.0)},
    ],
)
def test_a_standard_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput) as refused:
        replace(SECTOR, **wrong)  # type: ignore[arg-type]
    assert refused.value.both.chinese


def test_rows_of_one_id_do_not_overlap_and_are_of_one_kind() -> None:
    ended = replace(SECTOR, valid_to=date(2026, 1, 1))
    check_apart(replace(SECTOR, valid_from=date(2026, 1, 1)), [ended])
    check_apart(replace(SECTOR, benchmark=1.4), [SECTOR])  # a correction of just that row
    for new in (replace(SECTOR, valid_from=date(2025, 3, 1)), replace(SECTOR, valid_from=date(2020, 1, 1))):
        with pytest.raises(StandardsOverlap):
            check_apart(new, [ended])
    with pytest.raises(InvalidInput, match="kind"):
        check_apart(replace(OFFICES, standard_id="electronics", valid_from=date(2027, 1, 1)), [ended])


def test_shipped_schemes_have_limits_and_no_average() -> None:
    assert [(one.kind, one.benchmark, one.trusted) for one in SHIPPED] == [
        (Kind.INDUSTRY, None, True), (Kind.BUILDING, None, True),
    ]  # fmt: skip
    assert (LEVELS, CLASSES) == ((0.6, 0.8, 1.2, 2.0), (0.6, 2.0))
    head = "standard_id,kind,name_en,name_zh,valid_from,valid_to,benchmark,levels,classes,source_title,confidence"
    with pytest.raises(InvalidFile) as refused:
        library.parse_standards(f"{head}\nx,factory,X,X,yesterday,,much,0.6;a,,s,verified", source="own.csv")
    assert {one.field for one in refused.value.problems} == {"kind", "valid_from", "benchmark", "levels"}


RATIOS = st.floats(0.0, 1e6)


@given(RATIOS, RATIOS)
def test_a_higher_ratio_is_never_a_better_level(one: float, other: float) -> None:
    low, high = sorted([one, other])
    assert level_of(low, LEVELS) <= level_of(high, LEVELS)
    classes = list(CarbonClass)
    assert classes.index(class_of(low, CLASSES)) <= classes.index(class_of(high, CLASSES))


AMOUNTS = st.floats(0.0, 1e12)


@given(AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS, st.floats(0.01, 1e12))
def test_what_is_taken_off_never_raises_a_code_and_nothing_is_below_zero(
    emitted: float, energy: float, green: float, sinks: float, value_added: float
) -> None:
    bare = Balance(electricity=emitted, energy_kwh=energy)
    less = replace(bare, zero_carbon=Deduction(green), sinks=Deduction(sinks))
    one, other = (code(each, Denominator(value_added, None, "current")) for each in (less, bare))
    assert one.intensity is not None
    assert other.intensity is not None
    assert 0.0 <= one.intensity <= other.intensity
    assert one.level is not None
    assert other.level is not None
    assert one.level <= other.level
