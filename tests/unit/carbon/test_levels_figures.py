"""Worked examples of comparisons, balance, PUE, facts, power factor, imbalance and load rate."""

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.clock import CIVIL_ZONE
from libs.common.contracts.registry import CircuitRole
from libs.common.errors import InvalidInput
from libs.common.ids import CircuitId, DeviceId, SiteId
from services.carbon.domain.levels.balance import (
    Measured,
    Mix,
    NoPue,
    PueCategory,
    PueKind,
    group_pue,
    it_circuits,
    mix,
    pue,
)
from services.carbon.domain.levels.comparison import (
    Against,
    NoChange,
    Span,
    base_of,
    benchmark,
    change,
    leap_day_in,
    spring,
)
from services.carbon.domain.levels.cover import Branch
from services.carbon.domain.levels.electrical import (
    ASSUMED_PF,
    Rating,
    adjustment,
    billed_power_factor,
    current_imbalance,
    imbalance_by_period,
    load_rate,
    power_factor,
    voltage_unbalance,
)
from services.carbon.domain.levels.facts import (
    Fact,
    FactKind,
    FactsOverlap,
    NoDenominator,
    check_apart,
    summed,
    weighted,
)
from services.carbon.domain.levels.periods import Step
from services.carbon.domain.samples import Earliest, Sample
from tests.unit.carbon.levels_data import QUARTER, START


def civil(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=CIVIL_ZONE)


class TestChange:
    """Methods 7."""

    @pytest.mark.parametrize(
        ("value", "base", "relative", "reason"),
        [
            (110.0, 100.0, 0.1, None),
            (50.0, 100.0, -0.5, None),
            (-50.0, -100.0, 0.5, None),
            (5.0, None, None, NoChange.NO_BASE),
            (5.0, 0.0, None, NoChange.ZERO_BASE),
            (-5.0, 10.0, None, NoChange.SIGN_CHANGE),
            (None, 10.0, None, NoChange.UNKNOWN),
        ],
    )
    def test_a_change_is_a_fraction_or_says_why_there_is_none(
        self, value: float | None, base: float | None, relative: float | None, reason: NoChange | None
    ) -> None:
        found = change(value, base)
        assert found.relative == (None if relative is None else pytest.approx(relative))
        assert found.reason is reason

    @pytest.mark.parametrize(
        ("step", "against", "first", "last", "base_first", "base_last"),
        [
            (Step.MONTH, Against.YEAR, "2026-03-01", "2026-04-01", "2025-03-01", "2025-04-01"),
            (Step.MONTH, Against.PERIOD, "2026-03-01", "2026-04-01", "2026-02-01", "2026-03-01"),
            (Step.MONTH, Against.PERIOD, "2026-01-01", "2026-02-01", "2025-12-01", "2026-01-01"),
            (Step.YEAR, Against.PERIOD, "2026-01-01", "2027-01-01", "2025-01-01", "2026-01-01"),
            (Step.WEEK, Against.YEAR, "2026-03-02", "2026-03-09", "2025-03-03", "2025-03-10"),
            (Step.DAY, Against.PERIOD, "2026-03-01", "2026-03-02", "2026-02-28", "2026-03-01"),
            (Step.DAY, Against.YEAR, "2024-02-29", "2024-03-01", "2023-03-01", "2023-03-01"),
        ],
    )
    def test_the_base_is_a_civil_period(
        self, step: Step, against: Against, first: str, last: str, base_first: str, base_last: str
    ) -> None:
        span = Span(civil(first), civil(last))
        current, base = base_of(span, step, against, civil("2030-01-01"))
        assert current == span
        assert base == Span(civil(base_first), civil(base_last))

    def test_a_running_period_is_compared_to_date_with_as_many_days_and_hours(self) -> None:
        now = civil("2026-03-10T06:00")
        current, base = base_of(Span(civil("2026-03-01"), civil("2026-04-01")), Step.MONTH, Against.PERIOD, now)
        assert current.end == now
        assert base == Span(civil("2026-02-01"), civil("2026-02-10T06:00"))
        late = civil("2026-03-31T06:00")
        _, base = base_of(Span(civil("2026-03-01"), civil("2026-04-01")), Step.MONTH, Against.PERIOD, late)
        assert base.end == civil("2026-03-01")

    def test_leap_days_and_spring_festival_are_told(self) -> None:
        assert leap_day_in(Span(civil("2024-02-01"), civil("2024-03-01")))
        assert not leap_day_in(Span(civil("2025-02-01"), civil("2025-03-01")))
        assert not leap_day_in(Span(civil("2024-03-01"), civil("2025-03-01")))
        both = Span(civil("2026-01-01"), civil("2026-03-01"))
        assert spring(Span(civil("2026-02-01"), civil("2026-03-01"))) == both
        assert spring(Span(civil("2026-03-01"), civil("2026-04-01"))) is None
        assert spring(Span(civil("2026-01-01"), civil("2027-01-01"))) is None

    def test_a_benchmark_needs_five_peers_and_interpolates_quartiles(self) -> None:
        assert benchmark(1.0, [2.0, 3.0, 4.0]) is None
        assert benchmark(None, [2.0] * 9) is None
        found = benchmark(4.0, [1.0, 2.0, 3.0, 10.0])
        assert found is not None
        assert (found.peers, found.median, found.lower_quartile, found.upper_quartile) == (5, 3.0, 2.0, 4.0)
        assert found.share_below == 0.75
        assert found.above_median == pytest.approx(1 / 3)

    @given(st.lists(st.floats(0.1, 1e6), min_size=5, max_size=40))
    def test_quartiles_are_those_of_numpy(self, values: list[float]) -> None:
        found = benchmark(values[0], values[1:])
        assert found is not None
        assert [found.lower_quartile, found.median, found.upper_quartile] == pytest.approx(
            np.quantile(values, [0.25, 0.5, 0.75]).tolist(), rel=1e-9
        )


class TestBalance:
    """Methods 5 and 13."""

    def test_self_use_is_what_is_generated_and_does_not_go_out(self) -> None:
        assert mix(100.0, 10.0, 40.0, 5.0) == Mix(
            imported=100.0,
            exported=10.0,
            pv=40.0,
            generator=5.0,
            pv_self_used=30.0,
            consumed=135.0,
            clean_share=30.0 / 135.0,
            self_use_rate=0.75,
        )

    def test_an_unknown_export_leaves_self_use_and_consumption_unknown(self) -> None:
        found = mix(100.0, None, 40.0, 0.0)
        assert (found.pv_self_used, found.consumed, found.clean_share) == (None, None, None)

    IT = CircuitRole.IT_OUTPUT

    def it(self, name: str, *above: str, role: CircuitRole = IT) -> Branch:
        return Branch(
            circuit=CircuitId(name),
            site=SiteId("s"),
            room=None,
            level=3,
            role=role,
            parent=CircuitId(above[0]) if above else None,
            above=tuple(CircuitId(one) for one in above),
        )

    def test_the_category_is_how_deep_it_is_measured(self) -> None:
        tree = [
            self.it("ups-a", "feed"),
            self.it("ups-b", "feed"),
            self.it("pdu-a", "panel", "ups-a", "feed"),
            self.it("rack", "pdu-a", "panel", "ups-a", "feed"),
            self.it("cool", "feed", role=CircuitRole.COOLING),
        ]
        assert it_circuits(tree, PueCategory.BASIC) == ["ups-a", "ups-b"]
        assert it_circuits(tree, PueCategory.INTERMEDIATE) is NoPue.CATEGORY_INCOMPLETE
        complete = [*tree, self.it("pdu-b", "ups-b", "feed")]
        assert it_circuits(complete, PueCategory.INTERMEDIATE) == ["pdu-a", "pdu-b"]
        assert it_circuits(complete, PueCategory.ADVANCED) is NoPue.CATEGORY_INCOMPLETE
        assert it_circuits(tree[4:], PueCategory.BASIC) is NoPue.NO_IT_CIRCUIT

    @pytest.mark.parametrize(
        ("total", "it", "days", "value", "reason"),
        [
            (Measured(130.0, 1.0), Measured(100.0, 1.0), 30.0, 1.3, None),
            (Measured(90.0, 1.0), Measured(100.0, 1.0), 30.0, None, NoPue.BELOW_ONE),
            (Measured(130.0, 0.94), Measured(100.0, 1.0), 30.0, None, NoPue.INCOMPLETE),
            (Measured(130.0, 1.0), Measured(100.0, None), 30.0, None, NoPue.INCOMPLETE),
            (Measured(130.0, 1.0), Measured(0.0, 1.0), 30.0, None, NoPue.NO_IT_ENERGY),
            (Measured(None, 1.0), Measured(100.0, 1.0), 30.0, None, NoPue.UNKNOWN_ENERGY),
            (Measured(130.0, 1.0), Measured(100.0, 1.0), 0.5, None, NoPue.WINDOW_BELOW_A_DAY),
        ],
    )
    def test_a_pue_below_one_is_refused_like_every_other_that_cannot_be(
        self, total: Measured, it: Measured, days: float, value: float | None, reason: NoPue | None
    ) -> None:
        found = pue(total, it, category=PueCategory.BASIC, whole_site=True, days=days, months=1)
        assert found.value == (None if value is None else pytest.approx(value))
        assert found.reason is reason

    def test_only_twelve_months_of_a_whole_site_are_a_pue(self) -> None:
        both = Measured(1.0, 1.0)
        kinds = [
            pue(both, both, category=PueCategory.BASIC, whole_site=whole, days=365, months=months).kind
            for whole, months in ((True, 12), (True, 11), (False, 12))
        ]
        assert kinds == [PueKind.PUE, PueKind.INTERIM, PueKind.PARTIAL]

    def test_the_pue_of_a_group_is_sum_over_sum(self) -> None:
        sites = [
            pue(Measured(a, 1.0), Measured(b, 1.0), category=PueCategory.BASIC, whole_site=True, days=30, months=1)
            for a, b in ((150.0, 100.0), (1100.0, 1000.0), (5.0, 9.0))
        ]
        value, left_out = group_pue(sites)
        assert value == pytest.approx(1250 / 1100)  # the mean of both would be 1.3
        assert left_out == 1


class TestFacts:
    """Methods 6."""

    def fact(self, kind: FactKind, first: str, end: str, value: float, **more: str) -> Fact:
        return Fact(
            node="s1",
            kind=kind,
            first_day=date.fromisoformat(first),
            end_day=date.fromisoformat(end),
            value=value,
            source="lease",
            **{"basis": "constant-2020" if kind.needs_basis else "", **more},
        )

    def test_an_area_that_changes_is_weighted_by_time(self) -> None:
        spans: list[tuple[datetime, datetime, float | None]] = [
            (civil("2020-01-01"), civil("2026-03-11"), 100.0),
            (civil("2026-03-11"), civil("2027-01-01"), 200.0),
        ]
        found = weighted(spans, civil("2026-03-01"), civil("2026-03-31"))
        assert found.value == pytest.approx((100 * 10 + 200 * 20) / 30)
        assert weighted(spans, civil("2026-12-01"), civil("2027-01-02")).reason is NoDenominator.NOT_ENTERED
        zero = weighted([(civil("2020-01-01"), civil("2027-01-01"), 0.0)], civil("2026-03-01"), civil("2026-03-31"))
        assert zero.reason is NoDenominator.ZERO

    def test_outputs_add_up_only_where_they_tile_the_span_on_one_basis(self) -> None:
        value = FactKind.OUTPUT_VALUE
        months = [
            self.fact(value, "2026-01-01", "2026-02-01", 10.0),
            self.fact(value, "2026-02-01", "2026-03-01", 20.0),
        ]
        first, end = date(2026, 1, 1), date(2026, 3, 1)
        assert summed(months, first, end).value == 30.0
        assert summed(months[:1], first, end).reason is NoDenominator.NOT_ENTERED
        assert summed(months, first, date(2026, 2, 15)).reason is NoDenominator.CUT
        mixed = [months[0], self.fact(value, "2026-02-01", "2026-03-01", 20.0, basis="current")]
        assert summed(mixed, first, end).reason is NoDenominator.MIXED_BASES

    def test_a_day_has_one_value(self) -> None:
        before = self.fact(FactKind.AREA, "2026-01-01", "2026-03-01", 10.0)
        check_apart(self.fact(FactKind.AREA, "2026-01-01", "2026-03-01", 12.0), [before])
        check_apart(self.fact(FactKind.PERSONS, "2026-02-01", "2026-04-01", 12.0), [before])
        with pytest.raises(FactsOverlap):
            check_apart(self.fact(FactKind.AREA, "2026-02-01", "2026-04-01", 12.0), [before])

    @pytest.mark.parametrize(
        ("kind", "first", "end", "value", "more"),
        [
            (FactKind.AREA, "2026-01-01", "2026-01-01", 1.0, {}),
            (FactKind.AREA, "2026-01-01", "2026-01-02", -1.0, {}),
            (FactKind.AREA, "2026-01-01", "2026-01-02", math.nan, {}),
            (FactKind.OUTPUT, "2026-01-01", "2026-01-02", 1.0, {"basis": ""}),
            (FactKind.TRANSFORMER, "2026-01-01", "2026-01-02", 1.0, {}),
        ],
    )
    def test_what_cannot_be_is_refused(
        self, kind: FactKind, first: str, end: str, value: float, more: dict[str, str]
    ) -> None:
        with pytest.raises(InvalidInput):
            self.fact(kind, first, end, value, **more)


class TestPowerFactor:
    """Methods 12."""

    def test_it_is_of_energies(self) -> None:
        assert power_factor(80.0, 60.0) == pytest.approx(0.8)
        assert power_factor(0.0, 60.0) is None
        assert power_factor(80.0, None) is None

    def test_bills_round_halves_up(self) -> None:
        assert [billed_power_factor(one) for one in (0.895, 0.8949, 0.905)] == [
            Decimal("0.90"),
            Decimal("0.89"),
            Decimal("0.91"),
        ]

    @pytest.mark.parametrize(
        ("billed", "standard", "expected"),
        [
            ("0.60", "0.90", "0.25"),  # the public example: 20 x 0.5 % + 5 x 1 % + 5 x 2 %
            ("0.89", "0.90", "0.005"),
            ("0.70", "0.90", "0.10"),
            ("0.65", "0.90", "0.15"),
            ("0.90", "0.90", "0"),
            ("0.92", "0.90", "-0.0030"),
            ("0.95", "0.90", "-0.0075"),
            ("1.00", "0.90", "-0.0075"),
            ("0.80", "0.85", "0.025"),
        ],
    )
    def test_the_bill_is_adjusted_by_the_table(self, billed: str, standard: str, expected: str) -> None:
        assert adjustment(Decimal(billed), Decimal(standard)) == Decimal(expected)

    def test_a_reduction_that_is_not_known_is_unknown(self) -> None:
        assert adjustment(Decimal("0.95"), Decimal("0.80")) is None


class TestImbalance:
    """Methods 12."""

    def test_both_definitions_and_nothing_at_low_load(self) -> None:
        currents = pl.DataFrame(
            {
                "start": [START + number * QUARTER for number in range(4)],
                "a": [12.0, 1.2, 10.0, 0.0],
                "b": [10.0, 1.0, None, 0.0],
                "c": [8.0, 0.8, 10.0, 0.0],
            },
            schema_overrides={"start": pl.Datetime("us", "UTC")},
        )
        found = current_imbalance(currents, 100.0)
        assert found["deviation"].to_list() == [pytest.approx(0.2), None, None, None]
        assert found["spread"].to_list() == [pytest.approx(1 / 3), None, None, None]
        assert current_imbalance(currents, None)["deviation"].to_list()[1] == pytest.approx(0.2)

    def test_voltage_unbalance_of_equal_and_of_known_voltages(self) -> None:
        found = voltage_unbalance(
            np.array([[400.0, 400.0, 400.0], [390.0, 400.0, 410.0], [np.nan, 1.0, 1.0], [0.0] * 3])
        )
        assert found[0] == pytest.approx(0.0, abs=1e-7)
        assert found[1] == pytest.approx(by_sequences(390.0, 400.0, 410.0), rel=1e-6)
        assert np.isnan(found[2:]).all()

    @given(st.floats(380, 420), st.floats(380, 420), st.floats(380, 420))
    def test_voltage_unbalance_is_negative_over_positive_sequence(self, a: float, b: float, c: float) -> None:
        assert voltage_unbalance(np.array([[a, b, c]]))[0] == pytest.approx(by_sequences(a, b, c), abs=1e-6)

    def test_the_highest_comes_with_its_time(self) -> None:
        samples = pl.DataFrame(
            {
                "start": [START, START + QUARTER, START + 2 * QUARTER],
                "deviation": [0.1, 0.3, None],
                "spread": [None, None, None],
                "voltage": [0.01, 0.0, 0.02],
            },
            schema={"start": pl.Datetime("us", "UTC"), **dict.fromkeys(("deviation", "spread", "voltage"), pl.Float64)},
        )
        (row,) = imbalance_by_period(samples, Step.DAY).to_dicts()
        assert (row["deviation_max"], row["deviation_max_at"], row["samples"]) == (0.3, START + QUARTER, 3)
        assert (row["spread_max"], row["spread_max_at"]) == (None, None)
        assert row["voltage_mean"] == pytest.approx(0.01)


def by_sequences(ab: float, bc: float, ca: float) -> float:
    """Return the unbalance by symmetrical components of the triangle of line voltages, as complex numbers."""
    # The triangle closes: its corners are 0, ab, and the corner that bc and ca meet in.
    x = (ab**2 + ca**2 - bc**2) / (2 * ab)
    corner = complex(x, math.sqrt(max(ca**2 - x**2, 0.0)))
    sides = (complex(ab, 0), corner - ab, -corner)
    turn = complex(-0.5, math.sqrt(3) / 2)
    positive = abs(sides[0] + turn * sides[1] + turn**2 * sides[2])
    negative = abs(sides[0] + turn**2 * sides[1] + turn * sides[2])
    return min(positive, negative) / max(positive, negative)


class TestLoadRate:
    """Methods 11."""

    def power(self, active: list[float | None], reactive: list[float | None]) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "start": [START + number * QUARTER for number in range(len(active))],
                "energy_kwh": active,
                "reactive_kvarh": reactive,
            },
            schema={"start": pl.Datetime("us", "UTC"), "energy_kwh": pl.Float64, "reactive_kvarh": pl.Float64},
        )

    def test_apparent_power_over_rating_in_bands(self) -> None:
        power = self.power([3.0, 8.0, 20.0, 24.0, 24.0, None], [4.0, 6.0, 0.0, 10.0, 10.0, 1.0])
        found = load_rate(power, 100.0, Rating.TRANSFORMER, "T1")
        # 5, 10, 20, 26, 26 kVAh in a quarter hour are 20, 40, 80, 104, 104 kVA.
        assert found.max_rate == pytest.approx(1.04)
        assert found.max_at == START + 3 * QUARTER
        assert found.mean_rate == pytest.approx(0.696)
        assert (found.light, found.normal, found.heavy, found.overload) == (0.2, 0.4, 0.0, 0.4)
        assert (found.overload_episodes, found.quarters, found.assumed_power_factor) == (1, 5, None)

    def test_a_single_quarter_hour_is_no_overload_episode(self) -> None:
        found = load_rate(self.power([30.0, 1.0, 30.0], [0.0] * 3), 100.0, Rating.LINE, "L1")
        assert found.overload_episodes == 0
        assert found.overload == pytest.approx(2 / 3)

    def test_without_reactive_energy_the_assumed_power_factor_is_told(self) -> None:
        found = load_rate(self.power([9.0], [None]), 100.0, Rating.LINE, "L1")
        assert found.max_rate == pytest.approx(9.0 * 4 / ASSUMED_PF / 100)
        assert found.assumed_power_factor == ASSUMED_PF

    def test_without_a_rating_there_is_no_rate(self) -> None:
        assert load_rate(self.power([9.0], [0.0]), None, Rating.LINE, "L1").max_rate is None


class TestEarliest:
    """Of a quarter hour the earliest report counts, in whatever order they come."""

    def sample(self, minutes: float, value: float = 1.0, point: str = "current_a") -> Sample:
        return Sample(DeviceId("m"), point, START + timedelta(minutes=minutes), value, 1.0)

    def test_most_reports_of_a_quarter_hour_cost_nothing(self) -> None:
        earliest = Earliest()
        assert earliest.pick([self.sample(1), self.sample(0), self.sample(2)]) == [self.sample(0)]
        assert earliest.pick([self.sample(3), self.sample(0)]) == []
        assert earliest.pick([self.sample(15), self.sample(16)]) == [self.sample(15)]

    @given(st.permutations(range(40)), st.integers(1, 7))
    def test_what_is_kept_does_not_depend_on_the_order(self, order: list[int], size: int) -> None:
        earliest = Earliest()
        kept: dict[datetime, datetime] = {}
        for first in range(0, len(order), size):
            for one in earliest.pick([self.sample(minute) for minute in order[first : first + size]]):
                if one.slot not in kept or one.source_time < kept[one.slot]:
                    kept[one.slot] = one.source_time
        assert kept == {START + number * QUARTER: START + number * QUARTER for number in range(3)}
        assert all(at.tzinfo is UTC for at in kept)
