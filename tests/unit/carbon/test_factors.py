"""Which factor applies: place before year, and never a later year."""

from datetime import date
from decimal import Decimal

import pytest

from libs.common.contracts.carbon import IntervalFlag
from libs.common.errors import InvalidFile
from services.carbon.domain.factors import Choice, Place, Use, choose
from services.carbon.domain.intervals import Grade
from services.carbon.library import load_shipped, parse


def grid_factor(province: str | None, year: int, known_in: int) -> Choice | None:
    found = choose(
        load_shipped(),
        series="grid-average",
        use=Use.LOCATION_BASED,
        place=Place(province),
        year=year,
        known_on=date(known_in, 12, 31),
    )
    return found if isinstance(found, Choice) else None


def test_guangdong_2023_is_the_published_provincial_factor() -> None:
    # MEE/NBS announcement 2025 No. 47: Guangdong, data year 2023, 0.4419 kgCO2/kWh.
    choice = grid_factor("44", 2023, 2026)
    assert choice is not None
    assert (choice.factor.value, choice.provisional, choice.fallback) == (Decimal("0.4419"), False, False)


def test_a_year_without_factor_takes_the_newest_earlier_one_and_says_so() -> None:
    choice = grid_factor("44", 2026, 2026)
    assert choice is not None
    assert (choice.factor.data_year, choice.provisional) == (2023, True)


def test_a_factor_is_not_known_before_it_is_published() -> None:
    choice = grid_factor("44", 2023, 2024)
    assert choice is not None
    assert choice.factor.data_year == 2022


def test_tibet_has_no_factor_of_its_own_and_falls_back_to_the_country() -> None:
    choice = grid_factor("54", 2023, 2026)
    assert choice is not None
    assert (choice.factor.factor_id, choice.fallback) == ("GRID-CN-AVG-2023", True)


def test_factors_from_memory_are_never_used_by_themselves() -> None:
    choice = grid_factor("44", 2020, 2026)
    assert choice is None or choice.factor.confidence != "memory-verify"


def test_before_any_factor_there_is_none() -> None:
    assert grid_factor(None, 1990, 2026) is None


def test_a_wrong_row_is_named_and_nothing_is_taken() -> None:
    header = (
        "factor_id,category,name_en,name_zh,region,year,value,unit,gas,scope_hint,source_title,source_year,confidence"
    )
    with pytest.raises(InvalidFile) as caught:
        parse(f"{header}\nX,electricity,a,b,CN,2023,abc,kgCO2/kWh,CO2,2,s,2024,verified", source="mine.csv")
    assert "mine.csv:2: value: expected a number, found 'abc'" in str(caught.value)


def test_grades_have_the_names_of_the_contract() -> None:
    assert {grade.flag for grade in Grade} <= {flag.value for flag in IntervalFlag}
