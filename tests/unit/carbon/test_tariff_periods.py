"""Tariffs as data: every minute in exactly one band, versions that never overlap, special days inside them."""

from collections import Counter
from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from libs.common.errors import InvalidFile
from services.carbon.domain.tariff.grid import NO_RATE, possible_grids, rate_grid
from services.carbon.domain.tariff.periods import Band, DayCalendar, Tariff, build_tariffs
from services.carbon.tariff_file import SHIPPED, read_tariff_rows, shipped_rows
from tests.unit.carbon.tariffs import row, tariff

HOLIDAY = date(2026, 10, 1)
UNKNOWN = DayCalendar()
ORDINARY = DayCalendar(known={kind: [(date(2020, 1, 1), date(2030, 1, 1))] for kind in ("holiday", "hot_day")})
NATIONAL_DAY = DayCalendar(days={"holiday": frozenset({HOLIDAY})}, known=ORDINARY.known)


@pytest.fixture(scope="module")
def shipped() -> dict[tuple[str, str], Tariff]:
    return build_tariffs(shipped_rows(), source=SHIPPED)


def test_every_shipped_tariff_is_read_and_special_days_bring_their_own_class(
    shipped: dict[tuple[str, str], Tariff],
) -> None:
    ids = {version.tariff_id for one in shipped.values() for version in one.versions}
    assert len(ids) == 21
    # Shanghai's deep valley on holidays is for large industry only (notice 2024 no. 28); both pay by the same windows.
    assert not shipped["CN-31", "two_part"].versions[0].specials
    assert len(shipped["CN-31", "two_part_large_industry"].versions[0].specials) == 4


def test_guangdong_by_the_clock(shipped: dict[tuple[str, str], Tariff]) -> None:
    # Guangdong notice 2021 no. 331: peak 10-12 and 14-19, valley 0-8, in July to September sharp 11-12 and 15-17.
    found = rate_grid(
        shipped["CN-44", "industrial_commercial"], first=date(2026, 6, 30), last=date(2026, 7, 2), calendar=ORDINARY
    )
    bands = [found.rates[code].band for code in found.code]
    june, july = Counter(bands[:96]), Counter(bands[96:])
    assert june == {Band.PEAK: 28, Band.FLAT: 36, Band.VALLEY: 32}
    assert july == {Band.SHARP: 12, Band.PEAK: 16, Band.FLAT: 36, Band.VALLEY: 32}
    assert found.rates[found.code[96 + 44]].ratio == Decimal("2.125")  # 1.7 x 1.25, in place of peak


def test_sharp_may_replace_flat(shipped: dict[tuple[str, str], Tariff]) -> None:
    # Beijing, July and August: 16-17 is sharp though 13-16 before it is flat.
    found = rate_grid(shipped["CN-11", "two_part"], first=date(2026, 7, 1), last=date(2026, 7, 2), calendar=UNKNOWN)
    assert [found.rates[found.code[hour * 4]].band for hour in (15, 16, 17)] == [Band.FLAT, Band.SHARP, Band.PEAK]


def test_every_quarter_hour_of_every_shipped_tariff_is_in_one_band_while_it_is_in_force(
    shipped: dict[tuple[str, str], Tariff],
) -> None:
    for one in shipped.values():
        for version in one.versions:
            last = (version.valid_to or version.valid_from + timedelta(days=365)) + timedelta(days=1)
            found = rate_grid(one, first=version.valid_from, last=last, calendar=UNKNOWN)
            assert found.slot_s == 900
            assert found.code.size == (last - version.valid_from).days * 96
            assert (found.code != NO_RATE).all()


def test_a_tariff_that_was_repealed_says_nothing_any_more(shipped: dict[tuple[str, str], Tariff]) -> None:
    found = rate_grid(
        shipped["CN-33", "large_industry"], first=date(2026, 6, 30), last=date(2026, 7, 2), calendar=UNKNOWN
    )
    assert (found.code[:96] != NO_RATE).all()
    assert (found.code[96:] == NO_RATE).all()


def test_ratios_from_memory_are_not_trusted_and_dates_from_memory_are(
    shipped: dict[tuple[str, str], Tariff],
) -> None:
    assert not shipped["CN-33", "large_industry"].versions[0].trusted  # periods verified, ratios from memory
    assert shipped["CN-11", "two_part"].versions[0].trusted  # only the first day is from memory
    assert shipped["CN-44", "industrial_commercial"].versions[0].trusted


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        pytest.param([row(0, 600), row(660, 1440)], "10:00-11:00", id="a gap of an hour"),
        pytest.param([row(0, 660), row(600, 1440)], "more than one band", id="an hour twice"),
        pytest.param([row(0, 1439)], "23:59-24:00", id="a minute too short"),
        pytest.param([row(0, 1440, months=frozenset(range(1, 12)))], "month 12", id="a month without windows"),
        pytest.param([row(600, 720, day_type="holiday")], "all days", id="special days alone"),
        pytest.param([row(0, 1440, ratio="-1")], "0 or more", id="a negative ratio"),
        pytest.param([row(0, 1440), row(1380, 300, day_type="holiday")], "over midnight", id="over midnight"),
    ],
)
def test_a_day_that_is_not_covered_exactly_once_is_refused(rows: list, said: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InvalidFile) as refused:
        tariff(*rows)
    assert said in refused.value.message
    assert refused.value.message_zh is not None


def test_a_version_of_half_a_year_needs_windows_for_its_months_only() -> None:
    one = tariff(row(0, 1440, months=frozenset(range(1, 7)), valid_to=date(2026, 6, 30)))
    assert one.version_on(date(2026, 6, 30)) is not None
    assert one.version_on(date(2026, 7, 1)) is None


@pytest.mark.parametrize("other_id", ["T-1", "T-2"])
def test_versions_may_not_overlap_within_a_tariff_or_between_two_of_one_class(other_id: str) -> None:
    old = row(0, 1440, valid_to=date(2026, 6, 30))
    new = row(0, 1440, tariff_id=other_id, valid_from=date(2026, 6, 30))
    with pytest.raises(InvalidFile, match="may not overlap"):
        tariff(old, new)
    after = row(0, 1440, tariff_id=other_id, valid_from=date(2026, 7, 1))
    assert [version.valid_from for version in tariff(after, old).versions] == [date(2026, 1, 1), date(2026, 7, 1)]


def test_an_open_version_overlaps_with_all_that_follow() -> None:
    with pytest.raises(InvalidFile, match="open"):
        tariff(row(0, 1440), row(0, 1440, tariff_id="T-2", valid_from=date(2027, 1, 1)))


@settings(max_examples=50)
@given(change=st.dates(date(2026, 1, 2), date(2026, 12, 30)), day=st.dates(date(2026, 1, 1), date(2026, 12, 31)))
def test_the_version_is_that_of_the_day(change: date, day: date) -> None:
    one = tariff(
        row(0, 1440, ratio="1", valid_to=change - timedelta(days=1)),
        row(0, 1440, ratio="2", tariff_id="T-2", valid_from=change),
    )
    found = rate_grid(one, first=day, last=day + timedelta(days=1), calendar=UNKNOWN)
    assert {found.rates[code].tariff_id for code in found.code} == {"T-2" if day >= change else "T-1"}


@settings(max_examples=50)
@given(
    edges=st.sets(st.integers(1, 1439), max_size=8),
    step_min=st.sampled_from([15, 30, 60, 1440]),
)
def test_every_slot_of_any_tariff_has_the_band_of_its_minute(edges: set[int], step_min: int) -> None:
    bounds = [0, *sorted(edges), 1440]
    windows = [(start, end, list(Band)[index % 5]) for index, (start, end) in enumerate(pairwise(bounds))]
    one = tariff(*[row(start, end, band, str(index)) for index, (start, end, band) in enumerate(windows)])
    day = date(2026, 3, 2)
    found = rate_grid(one, first=day, last=day + timedelta(days=1), calendar=UNKNOWN, step_s=step_min * 60)
    per_slot_min, rest = divmod(found.slot_s, 60)
    assert (rest, step_min % per_slot_min, found.code.size) == (0, 0, 1440 // per_slot_min)
    for start, end, band in windows:
        for minute in {start, (start + end) // 2, end - 1}:
            assert found.rates[found.code[minute // per_slot_min]].band is band


def bands_at(one: Tariff, day: date, calendar: DayCalendar, *minutes: int) -> list[Band]:
    found = rate_grid(one, first=day, last=day + timedelta(days=1), calendar=calendar)
    return [found.rates[found.code[minute * 60 // found.slot_s]].band for minute in minutes]


def test_special_days_replace_the_band_inside_their_window_only() -> None:
    one = tariff(row(0, 1440), row(600, 840, Band.DEEP_VALLEY, "0.2", day_type="holiday"))
    assert bands_at(one, HOLIDAY, NATIONAL_DAY, 599, 600, 839, 840) == [
        Band.FLAT, Band.DEEP_VALLEY, Band.DEEP_VALLEY, Band.FLAT,
    ]  # fmt: skip
    assert bands_at(one, HOLIDAY + timedelta(days=1), NATIONAL_DAY, 600) == [Band.FLAT]


def test_a_holiday_outranks_a_hot_day() -> None:
    one = tariff(
        row(0, 1440),
        row(600, 840, Band.DEEP_VALLEY, "0.2", day_type="holiday"),
        row(660, 900, Band.SHARP, "2", day_type="hot_day"),
    )
    both = DayCalendar(days={"holiday": frozenset({HOLIDAY}), "hot_day": frozenset({HOLIDAY})})
    assert bands_at(one, HOLIDAY, both, 700, 870) == [Band.DEEP_VALLEY, Band.SHARP]


def test_a_special_window_begins_with_its_own_notice() -> None:
    one = tariff(
        row(0, 1440, valid_from=date(2023, 1, 1)),
        row(0, 360, Band.DEEP_VALLEY, "0.2", day_type="holiday", valid_from=date(2024, 1, 1)),
    )
    days = DayCalendar(days={"holiday": frozenset({date(2023, 10, 1), date(2024, 10, 1)})})
    assert bands_at(one, date(2023, 10, 1), days, 0) == [Band.FLAT]
    assert bands_at(one, date(2024, 10, 1), days, 0) == [Band.DEEP_VALLEY]


def test_windows_of_one_kind_of_day_may_not_overlap() -> None:
    with pytest.raises(InvalidFile, match="no overlap with the other holiday window"):
        tariff(
            row(0, 1440),
            row(600, 840, Band.DEEP_VALLEY, day_type="holiday"),
            row(800, 900, Band.VALLEY, day_type="holiday"),
        )


def test_days_of_unknown_kind_leave_as_many_grids_as_they_may_turn_out() -> None:
    one = tariff(
        row(0, 1440),
        row(600, 840, Band.DEEP_VALLEY, "0.2", day_type="holiday"),
        row(660, 900, Band.SHARP, "2", day_type="hot_day"),
    )
    span: dict[str, Any] = {"first": HOLIDAY, "last": HOLIDAY + timedelta(days=1)}
    assert len(possible_grids(one, calendar=ORDINARY, **span)) == 1
    assert len(possible_grids(one, calendar=UNKNOWN, **span)) == 4
    assert {rate.day_type for rate in possible_grids(one, calendar=UNKNOWN, **span)[0].rates} == {"all"}


def test_files_are_refused_with_line_and_column() -> None:
    header = "tariff_id,region,customer_class,valid_from,valid_to,months,day_type,"
    header += "start,end,band,price_ratio,ratio_base,source,confidence"
    good = "T,CN-44,ic,2026-01-01,,1;2;3;4;5;6;7;8;9;10;11;12,all,00:00,24:00,flat,1,total,notice,verified-1src"
    assert len(read_tariff_rows(f"{header}\n{good}\n".encode(), "a.csv")) == 1
    bad = good.replace("24:00", "24:01").replace("flat", "level").replace("2026-01-01", "2026-13-01")
    with pytest.raises(InvalidFile) as refused:
        read_tariff_rows(f"{header}\n{good}\n{bad}\n".encode(), "a.csv")
    assert [(one.line, one.field, one.found) for one in refused.value.problems] == [
        (3, "valid_from", "2026-13-01"),
        (3, "end", "24:01"),
        (3, "band", "level"),
    ]
    with pytest.raises(InvalidFile, match="confidence"):
        read_tariff_rows(b"tariff_id\nT\n", "a.csv")
