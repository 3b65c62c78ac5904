"""Inventories of any boundary: shares, spans, unknown lines, uncertainty, and statements that stay as they were."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import InvalidInput
from services.carbon.domain.emissions.certificates import Certificate
from services.carbon.domain.emissions.knowledge import Knowledge
from services.carbon.domain.emissions.refrigerants import TopUp
from services.carbon.domain.factors import EmissionFactor, Family, Place, WrongFamily
from services.carbon.domain.figures import Mark
from services.carbon.domain.inventory.boundary import (
    Approach,
    Boundary,
    CountedTwice,
    Exclusion,
    Part,
    Span,
    check_boundary,
)
from services.carbon.domain.inventory.categories import CATEGORIES, IsoCategory, Scope
from services.carbon.domain.inventory.compute import Result, SpansTwoYears, compute
from services.carbon.domain.inventory.publication import NotByUnit, Publication, avoided, publish, restate
from services.carbon.domain.inventory.sources import (
    Activity,
    ElectricityUse,
    Enabled,
    FuelUse,
    GasLoss,
    Inputs,
    Source,
    UnitUse,
)
from services.carbon.domain.inventory.uncertainty import (
    Grade,
    Uncertain,
    combined,
    grade,
    of_total,
    simulate,
)
from services.carbon.library import load_coal, load_library
from tests.unit.carbon.inventory_data import GREEN, OWN, YEAR

LIBRARY = load_library()
COAL = load_coal()
TODAY = date(2026, 11, 21)
NOW = Knowledge(LIBRARY, TODAY)


def civil(year: int, month: int, day: int, hour: int = 0) -> datetime:
    return datetime(year, month, day, hour, tzinfo=CIVIL_ZONE)


def part(node: str, span: Span = YEAR, share: float = 1.0) -> Part:
    return Part(node, span, share, "" if share == 1 else "metered tenant branch")


def boundary(*parts: Part, exclusions: Sequence[Exclusion] = ()) -> Boundary:
    return Boundary("org-1", Approach.OPERATIONAL_CONTROL, parts or (part("site-1"),), exclusions)


def source(
    activity: Activity | None = None, *, line_id: str = "a", node: str = "site-1", span: Span = YEAR, **more: object
) -> Source:
    use = activity or ElectricityUse(imported_kwh=1000.0)
    codes = {"electricity": "electricity", "fuel": "stationary_combustion", "gas_loss": "fugitive", "unit": "waste"}
    fields: dict[str, object] = {"category": codes[use.kind], "place": Place("44"), "origin": "meter"} | more
    return Source(line_id=line_id, node=node, span=span, activity=use, **fields)  # type: ignore[arg-type]


def inventory(*sources: Source, parts: Sequence[Part] = (), **more: object) -> Result:
    inputs = Inputs(boundary=boundary(*parts), sources=sources, **more)  # type: ignore[arg-type]
    return compute(inputs, NOW)


class TestBoundary:
    def check(self, *parts: Part, exclusions: Sequence[Exclusion] = ()) -> None:
        contains = {"room-1": ("site-1", "org-1"), "site-1": ("org-1",)}
        check_boundary(boundary(*parts, exclusions=exclusions), lambda node: contains.get(node, ()))

    def test_a_room_inside_a_site_that_is_in_already_is_refused(self) -> None:
        with pytest.raises(CountedTwice, match="node room-1 is counted 2 times"):
            self.check(part("site-1"), part("room-1"))

    def test_shares_of_a_node_may_add_up_to_the_whole(self) -> None:
        self.check(part("site-1", share=1 / 3), part("site-1", share=1 / 3), part("site-1", share=1 / 3))
        with pytest.raises(CountedTwice, match=r"counted 1\.1 times"):
            self.check(part("site-1", share=0.6), part("room-1", share=0.5))

    def test_one_after_the_other_is_not_twice(self) -> None:
        half = civil(2023, 7, 1)
        self.check(part("site-1", Span(YEAR.start, half)), part("room-1", Span(half, YEAR.end)))

    @pytest.mark.parametrize(
        ("wrong", "expected"),
        [
            (Part("site-1", Span(YEAR.end, YEAR.start)), "expected an end after its start"),
            (Part("site-1", YEAR, 0.0), "share: expected more than 0"),
            (Part("site-1", YEAR, 1.5, "x"), "share: expected more than 0 and at most 1"),
            (Part("site-1", YEAR, 0.5), "expected a reason for its share"),
        ],
    )
    def test_a_wrong_part_is_refused_with_its_reason(self, wrong: Part, expected: str) -> None:
        with pytest.raises(InvalidInput, match=expected):
            self.check(wrong)

    def test_an_exclusion_needs_its_reason(self) -> None:
        with pytest.raises(InvalidInput, match="exclusion commuting: expected a reason"):
            self.check(part("site-1"), exclusions=[Exclusion("commuting", "")])


class TestCategories:
    def test_all_fifteen_categories_of_the_value_chain_have_their_place(self) -> None:
        numbers = [row.number for row in CATEGORIES.values() if row.number is not None]
        assert numbers == list(range(1, 16))
        assert all(row.scope is Scope.VALUE_CHAIN for row in CATEGORIES.values() if row.number)

    def test_scopes_one_and_two_are_the_first_two_iso_categories(self) -> None:
        assert {row.iso for row in CATEGORIES.values() if row.scope is Scope.DIRECT} == {IsoCategory.DIRECT}
        assert {row.iso for row in CATEGORIES.values() if row.scope is Scope.ENERGY} == {IsoCategory.IMPORTED_ENERGY}


class TestCompute:
    def test_an_organisation_is_the_sum_of_its_scopes(self) -> None:
        found = inventory(
            source(ElectricityUse(imported_kwh=10_000.0)),
            source(FuelUse(fuel="DIESEL", amount=100.0, unit="kg"), line_id="b"),
            source(UnitUse(series="CFP-ELEC-CN", amount=500.0, unit="kWh"), line_id="c",
                   category="fuel_and_energy_related"),
        )  # fmt: skip
        one, two, three = (found.by_scope[key].kg_co2e for key in ("1", "2_location", "3"))
        assert (one, two, three) == pytest.approx((309.59, 4419.0, 310.25), rel=1e-4)
        assert found.location.kg_co2e == pytest.approx(sum(part for part in (one, two, three) if part is not None))
        assert found.by_scope["2_market"].kg_co2e == pytest.approx(6096)
        assert list(found.by_iso_category) == [1, 2, 4]
        assert list(found.by_gb_group) == ["fuel_combustion", "outside", "purchased_electricity_and_heat"]
        assert math.fsum(found.by_gas.values()) == pytest.approx(found.location.kg_co2e)

    def test_one_meeting_room_for_two_hours(self) -> None:
        event = Span(civil(2023, 5, 10, 9), civil(2023, 5, 10, 11))
        found = inventory(
            source(ElectricityUse(imported_kwh=6.0), node="room-1", span=event),
            parts=[part("room-1", event)],
        )
        assert found.location.kg_co2e == pytest.approx(6 * 0.4419)
        assert not found.lines[0].marks

    def test_a_monthly_bill_gives_an_event_its_part_of_the_time_and_says_so(self) -> None:
        event = Span(civil(2023, 4, 10), civil(2023, 4, 11))
        april = Span(civil(2023, 4, 1), civil(2023, 5, 1))
        found = inventory(
            source(ElectricityUse(imported_kwh=3000.0), node="room-1", span=april), parts=[part("room-1", event)]
        )
        assert found.imported_kwh == pytest.approx(100)
        assert Mark.APPORTIONED in found.lines[0].marks
        assert found.lines[0].source.estimated_share == 1.0

    def test_a_share_of_a_node_is_a_share_of_its_emission(self) -> None:
        whole = inventory(source()).location.kg_co2e
        some = inventory(source(), parts=[part("site-1", share=0.3)]).location.kg_co2e
        assert whole is not None
        assert some == pytest.approx(0.3 * whole)

    def test_what_is_not_in_the_boundary_is_not_counted(self) -> None:
        found = inventory(source(node="site-2"))
        assert (found.location.kg_co2e, found.location.lines) == (None, 0)
        assert found.outside == ["a"]

    def test_an_unknown_line_is_named_and_the_sum_says_it_is_not_whole(self) -> None:
        found = inventory(source(), source(ElectricityUse(imported_kwh=None), line_id="hole"))
        assert found.location.kg_co2e == pytest.approx(441.9)
        assert (found.location.unknown, found.location.whole) == (("hole",), False)
        assert found.imported_kwh is None

    def test_nothing_known_is_not_zero(self) -> None:
        found = inventory(source(ElectricityUse(imported_kwh=None)))
        assert found.location.kg_co2e is None
        assert found.by_scope["1"].kg_co2e is None

    def test_a_doubted_factor_counts_where_a_person_enabled_it(self) -> None:
        diesel = source(FuelUse(fuel="DIESEL", amount=100.0, unit="L"))
        assert inventory(diesel).location.kg_co2e is None
        enabled = inventory(diesel, enabled=[Enabled("FUEL-DIESEL-DENSITY", "li", "same supplier for years")])
        assert enabled.location.kg_co2e == pytest.approx(84 * 3.0959, rel=1e-4)
        assert Mark.ENABLED_BY_PERSON in enabled.lines[0].marks

    def test_montreal_gases_are_a_memo_item(self) -> None:
        leak = source(GasLoss(gas="R22", loss=TopUp(added=1.0)))
        allowed = [Enabled("GWP-AR6-R22", "li", "checked against the report")]
        outside = inventory(leak, enabled=allowed)
        inside = inventory(leak, enabled=allowed, include_montreal_gases=True)
        assert (outside.location.kg_co2e, outside.memo_montreal.kg_co2e) == (0.0, 1960)
        assert (inside.location.kg_co2e, inside.memo_montreal.kg_co2e) == (1960, 0.0)

    def test_certificates_are_used_up_line_by_line_and_only_in_scope_two(self) -> None:
        green = [certificate(f"GEC-{number}") for number in range(2)]
        found = inventory(
            source(ElectricityUse(imported_kwh=1500.0), category="upstream_leased_assets", line_id="tower"),
            source(ElectricityUse(imported_kwh=600.0), line_id="a"),
            source(ElectricityUse(imported_kwh=3000.0), line_id="b"),
            certificates=green,
        )
        covered = {line.source.line_id: sum(one.kwh for one in line.allocations) for line in found.lines}
        assert covered == {"tower": 0, "a": 600, "b": 1400}
        assert found.covered_kwh == 2000
        assert found.coverage == pytest.approx(2000 / 3600)
        assert found.by_scope["2_market"].kg_co2e == pytest.approx(1600 * 0.6096)
        assert found.by_scope["2_location"].kg_co2e == pytest.approx(3600 * 0.4419)

    def test_a_supplier_without_a_factor_of_its_own_leaves_the_energy_uncovered(self) -> None:
        bought = source(ElectricityUse(imported_kwh=1000.0, supplier="Green Co"))
        assert inventory(bought).market.kg_co2e == pytest.approx(609.6)
        row = replace(
            own_factor(),
            factor_id="SUP-1",
            series="grid-supplier",
            family=Family.SUPPLIER,
            region="CN",
            supplier="Green Co",
            value=Decimal("0.1"),
        )
        inputs = Inputs(boundary=boundary(), sources=[bought])
        found = compute(inputs, Knowledge(LIBRARY.with_rows([row]), TODAY))
        assert found.market.kg_co2e == pytest.approx(100)
        assert found.location.kg_co2e == pytest.approx(441.9)

    def test_certificates_of_another_year_cover_nothing(self) -> None:
        found = inventory(source(), certificates=[replace(certificate("GEC-1"), vintage=2022)])
        assert found.covered_kwh == 0

    def test_a_source_over_two_civil_years_is_refused(self) -> None:
        # 2023-12-31 20:00 UTC is New Year's morning in China.
        two = Span(datetime(2023, 12, 31, 15, tzinfo=UTC), datetime(2023, 12, 31, 20, tzinfo=UTC))
        with pytest.raises(SpansTwoYears, match="found 2023 to 2024"):
            inventory(source(span=two), parts=[part("site-1", two)])

    def test_a_source_that_its_category_cannot_be_of_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match="fuel can be of scope 1, 3, found category electricity"):
            inventory(source(FuelUse(fuel="DIESEL", amount=1.0, unit="kg"), category="electricity"))

    def test_a_doubled_line_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match="line a: expected a new id"):
            inventory(source(), source())

    def test_avoided_emissions_reduce_no_inventory(self) -> None:
        green = source(UnitUse(series="WASTE-RECYCLE-SOURCE-003", amount=1000.0, unit="kg"), place=Place("51"))
        with pytest.raises(WrongFamily):
            inventory(green)
        statement = avoided([green], NOW)
        # Source 003: 1000 kg x 2.06 = 2060 kg.
        assert statement.total.kg_co2e == pytest.approx(2060)
        with pytest.raises(NotByUnit):
            avoided([source()], NOW)

    @given(
        amounts=st.lists(st.floats(0, 1e7), min_size=1, max_size=8),
        order=st.randoms(use_true_random=False),
    )
    def test_totals_do_not_know_the_order_of_lines(self, amounts: list[float], order: random.Random) -> None:
        sources = [source(ElectricityUse(imported_kwh=kwh), line_id=str(i)) for i, kwh in enumerate(amounts)]
        shuffled = list(sources)
        order.shuffle(shuffled)
        assert inventory(*sources).location == inventory(*shuffled).location

    @given(cut=st.integers(1, 364), kwh=st.floats(0, 1e7))
    def test_a_boundary_cut_in_two_is_still_the_whole(self, cut: int, kwh: float) -> None:
        middle = YEAR.start + timedelta(days=cut)
        halves = [part("site-1", Span(YEAR.start, middle)), part("site-1", Span(middle, YEAR.end))]
        found = inventory(source(ElectricityUse(imported_kwh=kwh)), parts=halves)
        assert len(found.lines) == 2
        assert found.location.kg_co2e == pytest.approx(kwh * 0.4419, rel=1e-9)


class TestUncertainty:
    def test_a_product_and_a_sum_by_the_rule_of_squares(self) -> None:
        assert combined(0.03, 0.04) == pytest.approx(0.05)
        lines = [Uncertain(100, 0.03, 0.04, "a"), Uncertain(200, 0.06, 0.08, "b")]
        assert of_total(lines) == pytest.approx(math.hypot(100 * 0.05, 200 * 0.10) / 300)

    def test_lines_that_share_a_factor_do_not_average_it_out(self) -> None:
        shared = [Uncertain(100, 0.0, 0.1, "grid") for _ in range(100)]
        apart = [Uncertain(100, 0.0, 0.1, f"grid-{number}") for number in range(100)]
        assert of_total(shared) == pytest.approx(0.1)
        assert of_total(apart) == pytest.approx(0.01)

    @pytest.mark.parametrize(
        ("relative", "expected"),
        [(0.05, Grade.HIGH), (0.051, Grade.GOOD), (0.15, Grade.GOOD), (0.30, Grade.FAIR), (0.31, Grade.POOR)],
    )
    def test_grades_include_their_upper_limit(self, relative: float, expected: Grade) -> None:
        assert grade(relative) is expected

    def test_nothing_has_no_uncertainty(self) -> None:
        assert of_total([]) is None
        assert of_total([Uncertain(0, 0.1, 0.1, "a")]) is None

    def test_a_simulation_can_be_repeated_and_agrees_with_the_formula_where_that_holds(self) -> None:
        lines = [Uncertain(100, 0.03, 0.04, "a"), Uncertain(200, 0.06, 0.08, "b")]
        relative = of_total(lines)
        found = simulate(lines, seed=7)
        assert found == simulate(lines, seed=7)
        assert relative is not None
        assert (found.high - found.low) / 2 / 300 == pytest.approx(relative, rel=0.05)

    def test_a_total_says_what_share_of_it_is_assessed(self) -> None:
        found = inventory(
            source(ElectricityUse(imported_kwh=3000.0), activity_uncertainty=0.02, factor_uncertainty=0.05),
            source(ElectricityUse(imported_kwh=1000.0), line_id="b"),
        )
        assert found.sureness.covered_share == pytest.approx(0.75)
        assert found.sureness.relative == pytest.approx(math.hypot(0.02, 0.05))
        assert found.sureness.grade is Grade.GOOD
        assert found.sureness.simulation is None

    def test_a_width_beyond_the_formula_is_simulated_with_a_seed_that_is_told(self) -> None:
        found = inventory(
            source(ElectricityUse(imported_kwh=1000.0), activity_uncertainty=0.6, factor_uncertainty=0.1)
        ).sureness
        assert found.grade is Grade.POOR
        assert found.simulation is not None
        # A log-normal with an upper bound of 60 % has a lower one of 37.5 %.
        assert found.simulation.high == pytest.approx(441.9 * 1.61, rel=0.03)
        assert found.simulation.low == pytest.approx(441.9 / 1.61, rel=0.03)
        assert (found.simulation.seed, found.simulation.draws) == (32150, 100_000)


def certificate(number: str) -> Certificate:
    return replace(GREEN, number=number)


class TestPublication:
    def publish(self, *sources: Source, known_on: date = date(2025, 6, 30)) -> Publication:
        inputs = Inputs(boundary=boundary(), sources=sources)
        publication, _ = publish(
            inputs,
            LIBRARY,
            inventory_id="inv-1",
            version=1,
            known_on=known_on,
            at=datetime(2025, 7, 1, tzinfo=UTC),
            by="wang",
            software="0.1.0",
            coal=COAL,
        )
        return publication

    def test_a_better_factor_stands_beside_the_frozen_figure(self) -> None:
        # In June 2025 Guangdong's factor of 2022 (0.4403) stood in for 2023, whose own (0.4419) came in December.
        frozen = self.publish(source(ElectricityUse(imported_kwh=10_000.0)))
        found = restate(frozen, LIBRARY, TODAY)
        assert frozen.location.kg_co2e == pytest.approx(4403)
        assert found.result.location.kg_co2e == pytest.approx(4419)
        assert found.difference_kg_co2e == pytest.approx(16)
        assert not found.significant
        (change,) = found.changes
        assert (change.line_id, change.because) == ("a", ("GRID-44-2023",))
        assert change.difference_kg_co2e == pytest.approx(16)
        assert found.table_digest != frozen.table_digest

    def test_on_the_day_of_publication_nothing_differs(self) -> None:
        frozen = self.publish(source())
        found = restate(frozen, LIBRARY, frozen.known_on)
        assert (found.changes, found.market_changes, found.difference_kg_co2e) == ([], [], 0.0)
        assert found.table_digest == frozen.table_digest

    def test_rows_entered_later_do_not_move_what_was_published(self) -> None:
        frozen = self.publish(source())
        more = LIBRARY.with_rows([own_factor()])
        assert restate(frozen, more, frozen.known_on).changes == []
        assert restate(frozen, more, TODAY).changes[0].because == ("MY-44-2023",)

    def test_late_activity_data_are_told_from_better_factors(self) -> None:
        frozen = self.publish(source(ElectricityUse(imported_kwh=1000.0)), known_on=TODAY)
        late = Inputs(boundary=boundary(), sources=[source(ElectricityUse(imported_kwh=1100.0))])
        found = restate(frozen, LIBRARY, TODAY, late)
        assert found.changes[0].because == ("activity",)
        assert found.significant

    def test_a_difference_with_an_unknown_side_is_unknown(self) -> None:
        frozen = self.publish(source(ElectricityUse(imported_kwh=None)))
        late = Inputs(boundary=boundary(), sources=[source(ElectricityUse(imported_kwh=1100.0))])
        found = restate(frozen, LIBRARY, TODAY, late)
        assert found.difference_kg_co2e is None
        assert found.significant is None


def own_factor() -> EmissionFactor:
    return replace(OWN, known_from=date(2026, 10, 1), entered_by="zhang")
