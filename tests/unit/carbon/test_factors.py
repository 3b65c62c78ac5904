"""Which factor applies: place before year, and never a later year."""

from decimal import Decimal

import pytest

from libs.common.contracts.carbon import IntervalFlag
from libs.common.errors import InvalidFile
from services.carbon.domain.factors import choose_grid_factor
from services.carbon.domain.intervals import Grade
from services.carbon.library import load_shipped, parse


def test_guangdong_2023_is_the_published_provincial_factor() -> None:
    # MEE/NBS announcement 2025 No. 47: Guangdong, data year 2023, 0.4419 kgCO2/kWh.
    choice = choose_grid_factor(load_shipped(), province="44", year=2023, known_in=2026)
    assert choice is not None
    assert (choice.factor.value, choice.provisional, choice.fallback) == (Decimal("0.4419"), False, False)


def test_a_year_without_factor_takes_the_newest_earlier_one_and_says_so() -> None:
    choice = choose_grid_factor(load_shipped(), province="44", year=2026, known_in=2026)
    assert choice is not None
    assert (choice.factor.data_year, choice.provisional) == (2023, True)


def test_a_factor_is_not_known_before_it_is_published() -> None:
    choice = choose_grid_factor(load_shipped(), province="44", year=2023, known_in=2024)
    assert choice is not None
    assert choice.factor.data_year == 2022


def test_tibet_has_no_factor_of_its_own_and_falls_back_to_the_country() -> None:
    choice = choose_grid_factor(load_shipped(), province="54", year=2023, known_in=2026)
    assert choice is not None
    assert (choice.factor.factor_id, choice.fallback) == ("GRID-CN-AVG-2023", True)


def test_factors_from_memory_are_never_used_by_themselves() -> None:
    choice = choose_grid_factor(load_shipped(), province="44", year=2020, known_in=2026)
    assert choice is None or choice.factor.confidence != "memory-verify"


def test_before_any_factor_there_is_none() -> None:
    assert choose_grid_factor(load_shipped(), province=None, year=1990, known_in=2026) is None


def test_a_wrong_row_is_named_and_nothing_is_taken() -> None:
    header = (
        "factor_id,category,name_en,name_zh,region,year,value,unit,gas,scope_hint,source_title,source_year,confidence"
    )
    with pytest.raises(InvalidFile) as caught:
        parse(f"{header}\nX,electricity,a,b,CN,2023,abc,kgCO2/kWh,CO2,2,s,2024,verified", source="mine.csv")
    assert "mine.csv:2: value: expected a number, found 'abc'" in str(caught.value)


def test_grades_have_the_names_of_the_contract() -> None:
    assert {grade.flag for grade in Grade} <= {flag.value for flag in IntervalFlag}
