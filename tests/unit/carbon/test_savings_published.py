"""The published table of a zero-carbon office: as printed, as corrected, and every difference."""

import pytest

from services.carbon.documents.projects import load_published
from services.carbon.domain.savings.projects.claims import Verdict
from services.carbon.domain.savings.projects.measures import Origin, Statement
from services.carbon.domain.savings.projects.published import Comparison, compare
from services.carbon.library import load_shipped


@pytest.fixture(scope="module")
def tables() -> Comparison:
    return compare(load_published())


def printed(tables: Comparison, claim_id: str) -> float:
    return next(one.printed for one in tables.claims if one.claim_id == claim_id)


def test_the_printed_table_is_kept_as_it_stands(tables: Comparison) -> None:
    assert printed(tables, "total") == 233_297.6
    assert printed(tables, "electricity") == 137_767.5
    assert printed(tables, "water") == 3_840.1
    assert printed(tables, "office") == 91_690


def test_all_printed_arithmetic_agrees_but_the_money_for_meeting_paper(tables: Comparison) -> None:
    verdicts = {one.claim_id: one.verdict for one in tables.checks}
    assert [name for name, verdict in verdicts.items() if verdict is Verdict.DIFFERS] == ["meeting_paper_money"]
    assert [name for name, verdict in verdicts.items() if verdict is Verdict.NOT_SHOWN] == ["yearly_money"]


def test_payback_and_offsets_are_those_that_were_printed(tables: Comparison) -> None:
    recomputed = {one.claim_id: one.recomputed for one in tables.checks}
    assert recomputed["payback"] == pytest.approx(223 / 120.5)
    assert round(223 / 120.5, 2) == printed(tables, "payback") == 1.85
    assert recomputed["offset"] == pytest.approx(30_329)
    assert recomputed["tonnes_15"] == pytest.approx(3_499.5)
    assert recomputed["offset_15"] == pytest.approx(454_935)


def test_the_corrected_table_has_the_lamps_as_hours_saved(tables: Comparison) -> None:
    corrected = tables.corrected
    lamps = next(one for one in corrected.outcomes if one.measure_id == "lighting")
    assert lamps.quantity == pytest.approx(129_600)
    assert lamps.emission_kg == pytest.approx(13_348.8)
    assert round(corrected.table_kg, 1) == 175_452.8
    assert printed(tables, "total") - corrected.table_kg == pytest.approx(71_193.6 - 13_348.8, abs=0.05)


def test_waste_and_travel_are_avoided_and_no_electricity(tables: Comparison) -> None:
    by = tables.corrected.by_statement
    assert by[Statement.ELECTRICITY] == pytest.approx(77_862.7, abs=0.05)
    assert by[Statement.WATER] == pytest.approx(3_840.1, abs=0.05)
    assert by[Statement.MATERIALS] == pytest.approx(1_690)
    assert by[Statement.AVOIDED] == pytest.approx(92_060)
    assert sum(by.values()) == pytest.approx(tables.corrected.table_kg)


def test_every_difference_is_listed_with_a_reason_in_both_languages(tables: Comparison) -> None:
    found = {one.claim_id: one for one in tables.differences}
    assert set(found) == {
        "lighting", "electricity", "total", "meeting_paper_money", "yearly_money", "payback", "offset", "tonnes_15",
        "offset_15", "money_15",
    }  # fmt: skip
    assert all(one.reason and one.reason_zh for one in found.values())
    assert found["meeting_paper_money"].corrected == pytest.approx(50_000)
    assert found["electricity"].delta == pytest.approx(-57_844.8 - 2_060, abs=0.05)
    assert found["offset"].corrected == pytest.approx(22_808.9, abs=0.05)
    assert {name for name, one in found.items() if one.corrected is None} == {"yearly_money", "payback", "money_15"}


def test_no_claim_reaches_a_result(tables: Comparison) -> None:
    assert {one.origin for one in tables.corrected.outcomes} == {Origin.FORMULA}
    names = {one.measure_id for one in tables.corrected.outcomes}
    assert not names & {"electricity", "water", "office", "total"}


def test_the_factors_of_the_case_are_those_of_the_library(tables: Comparison) -> None:
    library = {one.factor_id: one for one in load_shipped()}
    for one in tables.corrected.outcomes:
        known = library[one.factor.factor_id]
        assert float(known.value) == one.factor.value
        assert (known.unit, known.confidence) == (one.factor.unit, one.factor.confidence)
