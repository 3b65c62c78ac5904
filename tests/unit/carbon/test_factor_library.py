"""The library as it was known on a day: revisions, confidence, families, places."""

from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import InvalidInput, NotFound
from services.carbon.domain.emissions.knowledge import Knowledge
from services.carbon.domain.factors import (
    Absence,
    Choice,
    EmissionFactor,
    Family,
    Level,
    Place,
    Use,
    Why,
    WrongFamily,
    choose,
    grid_region,
)
from services.carbon.domain.factors.library import RevisionTaken, digest_of
from services.carbon.domain.factors.places import Side
from services.carbon.library import load_library, load_shipped

SHIPPED = load_library()


def average(place: Place, year: int, known_on: date) -> Choice | Absence:
    return SHIPPED.choose("grid-average", use=Use.LOCATION_BASED, place=place, year=year, known_on=known_on)


def factor(**changes: object) -> EmissionFactor:
    row = EmissionFactor(
        factor_id="MY-44-2024",
        series="grid-average",
        family=Family.AVERAGE,
        category="electricity",
        region="CN-44",
        data_year=2024,
        value=Decimal("0.43"),
        unit="kgCO2/kWh",
        gas="CO2",
        source="an announcement",
        source_year=2026,
        known_from=date(2026, 11, 21),
        confidence="verified",
        name_en="Guangdong",
        name_zh="广东",
        evidence="announcement.pdf",
        entered_by="zhang",
    )
    return replace(row, **changes)  # type: ignore[arg-type]


class TestKnownOn:
    @pytest.mark.parametrize(
        ("day", "data_year"),
        [
            # The releases of methods 3.4: 2021 in April 2024, 2022 in December 2024, 2023 in December 2025.
            (date(2024, 4, 30), 2021),
            (date(2024, 12, 19), 2021),
            (date(2024, 12, 20), 2022),
            (date(2025, 12, 30), 2022),
            (date(2025, 12, 31), 2023),
        ],
    )
    def test_the_newest_release_of_the_day_stands_in_for_the_current_year(self, day: date, data_year: int) -> None:
        found = average(Place("44"), 2026, day)
        assert isinstance(found, Choice)
        assert (found.factor.data_year, found.provisional) == (data_year, True)

    def test_before_the_first_release_the_answer_says_what_was_still_to_come(self) -> None:
        found = average(Place("44"), 2023, date(2000, 1, 1))
        assert isinstance(found, Absence)
        assert found.why is Why.NOT_KNOWN_YET

    def test_a_correction_holds_from_its_day_and_the_value_before_can_be_asked_again(self) -> None:
        library = SHIPPED.with_rows([factor()])
        corrected = library.with_rows([factor(revision=2, value=Decimal("0.44"), known_from=date(2026, 12, 1))])
        assert corrected.find("MY-44-2024", date(2026, 11, 30)).value == Decimal("0.43")
        assert corrected.find("MY-44-2024", date(2026, 12, 1)).value == Decimal("0.44")
        assert [row.revision for row in corrected.revisions("MY-44-2024")] == [1, 2]

    def test_a_withdrawn_factor_is_no_more_and_was_before(self) -> None:
        library = SHIPPED.with_rows([factor()])
        without = library.with_rows([factor(revision=2, withdrawn=True, known_from=date(2026, 12, 1))])
        assert without.find("MY-44-2024", date(2026, 11, 30)).revision == 1
        with pytest.raises(NotFound):
            without.find("MY-44-2024", date(2026, 12, 1))

    def test_what_is_entered_later_does_not_change_what_was_known(self) -> None:
        before = SHIPPED.digest(date(2026, 11, 20))
        more = SHIPPED.with_rows([factor()])
        assert more.digest(date(2026, 11, 20)) == before
        assert more.digest(date(2026, 11, 21)) != before


class TestPlaces:
    @pytest.mark.parametrize(
        ("code", "region"),
        [
            ("150100", "CN-North"),
            ("150400", "CN-Northeast"),
            ("150500", "CN-Northeast"),
            ("150700", "CN-Northeast"),
            ("152200", "CN-Northeast"),
            ("152500", "CN-North"),
            ("370100", "CN-North"),
            ("510100", "CN-Southwest"),
            ("540100", None),
            ("150000", None),
        ],
    )
    def test_a_place_draws_from_its_grid(self, code: str, region: str | None) -> None:
        assert grid_region(Place.of_code(code), 2023) == region

    def test_before_the_grids_were_redrawn_sichuan_belonged_to_central_china(self) -> None:
        found = average(Place("51"), 2017, date(2026, 11, 21))
        assert isinstance(found, Choice)
        assert (found.factor.factor_id, found.level, found.years_behind) == ("GRID-CENTRAL-2012", Level.REGION, 5)

    @pytest.mark.parametrize(("side", "expected"), [(Side.WEST, "GRID-NORTH-2012"), (Side.EAST, "GRID-NORTHEAST-2012")])
    def test_the_sides_of_inner_mongolia_fall_back_to_different_grids(self, side: Side, expected: str) -> None:
        found = average(Place("15", side), 2017, date(2026, 11, 21))
        assert isinstance(found, Choice)
        assert (found.factor.factor_id, found.fallback) == (expected, True)

    def test_tibet_takes_the_national_factor_and_says_so(self) -> None:
        found = average(Place("54"), 2023, date(2026, 11, 21))
        assert isinstance(found, Choice)
        assert (found.factor.factor_id, found.fallback, found.level) == ("GRID-CN-AVG-2023", True, Level.COUNTRY)

    def test_a_near_older_factor_comes_before_a_wide_newer_one(self) -> None:
        rows = [row for row in load_shipped() if row.factor_id in ("GRID-44-2021", "GRID-CN-AVG-2023")]
        found = choose(
            rows,
            series="grid-average",
            use=Use.LOCATION_BASED,
            place=Place("44"),
            year=2023,
            known_on=date(2026, 11, 21),
        )
        assert isinstance(found, Choice)
        assert (found.factor.factor_id, found.provisional) == ("GRID-44-2021", True)


class TestConfidence:
    def test_a_doubted_row_is_named_and_not_used(self) -> None:
        found = SHIPPED.choose(
            "FUEL-DIESEL-DENSITY", use=Use.COMBUSTION, place=Place(None), year=2026, known_on=date(2026, 11, 21)
        )
        assert found == Absence("FUEL-DIESEL-DENSITY", Why.NOT_TRUSTED, ("FUEL-DIESEL-DENSITY",))

    def test_a_person_may_enable_it_and_the_choice_says_so(self) -> None:
        found = SHIPPED.choose(
            "FUEL-DIESEL-DENSITY",
            use=Use.COMBUSTION,
            place=Place(None),
            year=2026,
            known_on=date(2026, 11, 21),
            enabled=frozenset({"FUEL-DIESEL-DENSITY"}),
        )
        assert isinstance(found, Choice)
        assert found.enabled

    @pytest.mark.parametrize(
        ("confidence", "trusted"),
        [
            ("verified-1src", True),
            ("verified-2src", True),
            ("derived", True),
            ("definition", True),
            ("source", True),
            ("derived-from-memory", False),
            ("source-doubtful", False),
            ("memory-verify", False),
        ],
    )
    def test_the_gate_knows_every_word_of_the_library(self, confidence: str, trusted: bool) -> None:
        assert factor(confidence=confidence).trusted is trusted
        assert confidence in {row.confidence for row in SHIPPED.rows}

    def test_what_one_statement_enables_is_not_enabled_in_another(self) -> None:
        first = Knowledge(SHIPPED, date(2026, 11, 21), frozenset({"FUEL-DIESEL-DENSITY"}))
        second = replace(first, enabled=frozenset())

        def ask(knowledge: Knowledge) -> Choice | Absence:
            return knowledge.choose("FUEL-DIESEL-DENSITY", use=Use.COMBUSTION, place=Place(None), year=2026)

        assert isinstance(ask(first), Choice)
        assert isinstance(ask(second), Absence)


class TestFamilies:
    @pytest.mark.parametrize(
        ("factor_id", "family"),
        [
            ("OM-EAST-2019", Family.MARGIN),
            ("CFP-ELEC-CN-2023", Family.FOOTPRINT),
            ("GRID-CN-ETS-2022", Family.TRADING),
            ("GRID-CN-RESIDUAL-2023", Family.RESIDUAL),
            ("GRID-CN-FOSSIL-2023", Family.FOSSIL),
            ("GRID-CN-AVG-2023", Family.AVERAGE),
            ("GRID-44-2023", Family.AVERAGE),
            ("ELEC-SOURCE-0997", Family.REFERENCE),
            ("WASTE-RECYCLE-SOURCE-003", Family.AVOIDED),
            ("TRAVEL-GREEN-SOURCE-003", Family.AVOIDED),
            ("WATER-SOURCE-003", Family.ACTIVITY),
        ],
    )
    def test_a_row_is_of_one_family(self, factor_id: str, family: Family) -> None:
        assert SHIPPED.find(factor_id, date(2026, 11, 21)).family is family

    def test_the_operating_margin_of_east_china_never_serves_an_inventory(self) -> None:
        # 0.7921 for East China is the usual wrong value in inventories; 0.7035 is the average of 2012.
        found = average(Place("31"), 2019, date(2026, 11, 21))
        assert isinstance(found, Choice)
        assert found.factor.value != Decimal("0.7921")
        with pytest.raises(WrongFamily, match="OM-EAST-2019 is of family margin"):
            SHIPPED.find("OM-EAST-2019", date(2026, 11, 21)).require(Use.LOCATION_BASED)

    def test_enabling_a_row_does_not_lift_the_wall_between_families(self) -> None:
        found = SHIPPED.choose(
            "grid-margin",
            use=Use.LOCATION_BASED,
            place=Place("31"),
            year=2023,
            known_on=date(2026, 11, 21),
            enabled=frozenset({"OM-EAST-2019"}),
        )
        assert isinstance(found, Absence)

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"factor_id": "OM-EAST-2024"}, "family: expected margin, which the id names, found average"),
            ({"family": Family.MARGIN}, "series: expected grid-margin, found grid-average"),
        ],
    )
    def test_an_own_factor_cannot_pretend_to_be_of_another_family(
        self, changes: dict[str, object], expected: str
    ) -> None:
        with pytest.raises(InvalidInput, match=expected):
            SHIPPED.with_rows([factor(**changes)])

    def test_a_supplier_needs_evidence_and_only_serves_its_own_customers(self) -> None:
        mine = factor(
            factor_id="SUP-1", series="grid-supplier", family=Family.SUPPLIER, region="CN", supplier="Green Co"
        )
        library = SHIPPED.with_rows([mine])

        def ask(supplier: str | None) -> Choice | Absence:
            return library.choose(
                "grid-supplier",
                use=Use.MARKET_INSTRUMENT,
                place=Place("44"),
                year=2024,
                known_on=date(2026, 11, 21),
                supplier=supplier,
            )

        found = ask("Green Co")
        assert isinstance(found, Choice)
        assert found.level is Level.SUPPLIER
        assert isinstance(ask("Other Co"), Absence)
        assert isinstance(ask(None), Absence)
        with pytest.raises(InvalidInput, match="evidence"):
            SHIPPED.with_rows([replace(mine, evidence=None)])


class TestAppendOnly:
    def test_a_revision_is_never_replaced(self) -> None:
        library = SHIPPED.with_rows([factor()])
        with pytest.raises(RevisionTaken):
            library.with_rows([factor(value=Decimal("0.1"))])

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"revision": 3}, "revision: expected 2"),
            ({"revision": 2, "unit": "kgCO2/MWh"}, "expected series, family, region, year and unit"),
            ({"revision": 2, "known_from": date(2026, 11, 20)}, "known_from: expected 2026-11-21 or later"),
            ({"revision": 2, "value": Decimal(-1)}, "value: expected 0 or more"),
            ({"revision": 2, "evidence": None}, "evidence: expected a document"),
        ],
    )
    def test_a_revision_that_cannot_follow_is_refused_with_its_reason(
        self, changes: dict[str, object], expected: str
    ) -> None:
        library = SHIPPED.with_rows([factor()])
        with pytest.raises(InvalidInput, match=expected):
            library.with_rows([factor(**changes)])

    def test_the_digest_does_not_know_the_order_of_rows(self) -> None:
        rows = load_shipped()
        assert digest_of(rows) == digest_of(reversed(rows))

    @given(index=st.integers(0, len(SHIPPED.rows) - 1), cents=st.integers(1, 999))
    def test_the_digest_changes_with_any_value(self, index: int, cents: int) -> None:
        rows = list(SHIPPED.rows)
        before = digest_of(rows)
        rows[index] = replace(rows[index], value=rows[index].value + Decimal(cents) / 10_000)
        assert digest_of(rows) != before


@given(
    province=st.sampled_from(["11", "15", "31", "44", "50", "51", "54", "65", None]),
    year=st.integers(2005, 2030),
    day=st.dates(date(2010, 1, 1), date(2030, 12, 31)),
)
def test_no_choice_is_of_a_later_year_unknown_then_doubted_or_of_another_family(
    province: str | None, year: int, day: date
) -> None:
    found = average(Place(province), year, day)
    if isinstance(found, Choice):
        assert found.factor.data_year <= year
        assert found.factor.known_from <= day
        assert found.factor.trusted
        assert found.factor.family is Family.AVERAGE
        assert found.provisional == (found.factor.data_year < year)
        assert found.factor.region in ("CN", f"CN-{province}", grid_region(Place(province), found.factor.data_year))


@given(year=st.integers(2005, 2030), days=st.tuples(st.dates(date(2010, 1, 1), date(2030, 1, 1)), st.integers(0, 4000)))
def test_knowing_more_never_makes_the_factor_of_a_level_older(year: int, days: tuple[date, int]) -> None:
    earlier = average(Place("44"), year, days[0])
    later = average(Place("44"), year, date.fromordinal(days[0].toordinal() + days[1]))
    if isinstance(earlier, Choice):
        assert isinstance(later, Choice)
        assert later.level <= earlier.level
        if later.level == earlier.level:
            assert later.factor.data_year >= earlier.factor.data_year
