"""Conditions of plans: what is not known, not known for long enough or too old means no OFF."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.control.domain.conditions import (
    Band,
    BandTime,
    Condition,
    Conditions,
    Quantity,
    Sample,
    Side,
    TariffCondition,
    outside_bands,
    refusal,
    unmet,
)
from services.control.domain.plans import InvalidPlan, check_conditions

NOW = datetime(2026, 3, 1, 15, tzinfo=UTC)
QUIET = Condition(Quantity.TRAFFIC_LOAD, Side.BELOW, 5.0, 1800)


def samples(*pairs: tuple[float, float]) -> list[Sample]:
    """Return values by their age in minutes, oldest first."""
    return [Sample(NOW - timedelta(minutes=age), value) for age, value in sorted(pairs, reverse=True)]


@pytest.mark.parametrize(("pairs", "guard"), [
    (((0, 1), (15, 2), (30, 3)), None),
    (((10, 1), (25, 2), (40, 3), (55, 90)), None),
    (((0, 1), (15, 2), (30, 3), (45, 90)), None),
    (((0, 5), (15, 2), (30, 3)), "condition_traffic_load"),
    (((0, 1), (15, 5.0), (30, 3)), "condition_traffic_load"),
    (((0, 1), (15, 2), (29, 3)), "stale_traffic_load"),
    (((0, 1), (15, 2), (29, 3), (40, 5)), "condition_traffic_load"),
    (((31, 1), (46, 2)), "stale_traffic_load"),
    (((0, 1), (31, 2)), "stale_traffic_load"),
    ((), "stale_traffic_load"),
])  # fmt: skip
def test_below_for_half_an_hour(pairs: tuple[tuple[float, float], ...], guard: str | None) -> None:
    found = unmet(QUIET, [samples(*pairs)], NOW)
    assert (None if found is None else found.guard) == guard
    if found is not None:
        assert not found.is_final


def test_a_refusal_names_value_and_limit() -> None:
    found = unmet(QUIET, [samples((0, 7.5))], NOW)
    assert found is not None
    evidence = found.as_evidence()
    assert (evidence["guard"], evidence["value"], evidence["limit"]) == (
        "condition_traffic_load", 7.5, "below 5 for 1800 s",
    )  # fmt: skip
    assert "7.5 %" in str(evidence["message"])
    assert "7.5%" in str(evidence["message_zh"])


def test_without_a_source_nothing_is_known() -> None:
    found = unmet(QUIET, [], NOW)
    assert found is not None
    assert found.guard == "stale_traffic_load"


def test_all_sources_have_to_agree() -> None:
    hot = Condition(Quantity.TEMPERATURE_OUTDOOR, Side.ABOVE, 30.0)
    assert unmet(hot, [samples((1, 31)), samples((2, 35))], NOW) is None
    assert unmet(hot, [samples((1, 31)), samples((2, 29))], NOW) is not None
    assert unmet(hot, [samples((1, 31)), samples((40, 35))], NOW) is not None


@given(st.lists(st.tuples(st.floats(0, 200), st.floats(0, 10)), max_size=30), st.integers(0, 7200))
def test_it_is_met_only_by_good_values_without_a_gap(pairs: list[tuple[float, float]], for_s: int) -> None:
    condition = Condition(Quantity.TRAFFIC_LOAD, Side.BELOW, 5.0, for_s)
    found = samples(*pairs)
    if unmet(condition, [found], NOW) is not None:
        return
    for second in range(0, for_s + 1, 60):
        at = NOW - timedelta(seconds=second)
        standing = [sample for sample in found if sample.at <= at and at - sample.at <= timedelta(seconds=1800)]
        assert standing
        assert standing[-1].value < 5.0


class TestTariff:
    table = (
        BandTime(time(8), time(11), Band.PEAK), BandTime(time(11), time(22), Band.FLAT),
        BandTime(time(23), time(7), Band.VALLEY),
    )  # fmt: skip

    @pytest.mark.parametrize(("hour_utc", "allowed"), [(0, True), (3, False), (16, False), (14.5, False), (23, False)])
    def test_only_in_its_bands_by_the_clock_of_the_zone(self, hour_utc: float, allowed: bool) -> None:
        peak = TariffCondition(frozenset({Band.PEAK}), self.table)
        at = datetime(2026, 3, 1, tzinfo=UTC) + timedelta(hours=hour_utc)
        assert (outside_bands(peak, ZoneInfo("Asia/Shanghai"), at) is None) is allowed

    def test_over_midnight_and_a_time_that_the_table_leaves_out(self) -> None:
        night = TariffCondition(frozenset({Band.VALLEY}), self.table)
        zone = ZoneInfo("UTC")
        assert outside_bands(night, zone, NOW.replace(hour=23)) is None
        assert outside_bands(night, zone, NOW.replace(hour=6, minute=59)) is None
        left_out = outside_bands(night, zone, NOW.replace(hour=22, minute=30))
        assert left_out is not None
        assert (left_out.guard, left_out.value, left_out.limit) == ("condition_tariff_band", None, "valley")


class Known:
    def series(self, load_id: str, quantity: Quantity) -> list[list[Sample]]:
        return [samples((1, 0.4))] if (load_id, quantity) == ("a", Quantity.POWER) else []


def test_all_conditions_have_to_be_met() -> None:
    light = Condition(Quantity.POWER, Side.BELOW, 0.5)
    assert refusal(Conditions(), "b", Known(), NOW) is None
    assert refusal(Conditions((light,)), "a", Known(), NOW) is None
    assert refusal(Conditions((light,)), "b", Known(), NOW) is not None
    both = refusal(Conditions((light, QUIET)), "a", Known(), NOW)
    assert both is not None
    assert both.guard == "stale_traffic_load"


@pytest.mark.parametrize(("conditions", "has_meter"), [
    (Conditions((Condition(Quantity.POWER, Side.BELOW, 1.0),)), False),
    (Conditions((Condition(Quantity.POWER, Side.BELOW, float("nan")),)), True),
    (Conditions((Condition(Quantity.POWER, Side.BELOW, 1.0, 20_000),)), True),
    (Conditions(tariff=TariffCondition(frozenset({Band.SHARP}), TestTariff.table)), True),
])  # fmt: skip
def test_what_cannot_be_judged_is_refused(conditions: Conditions, has_meter: bool) -> None:
    with pytest.raises(InvalidPlan) as refused:
        check_conditions(conditions, has_meter=has_meter)
    assert refused.value.facts["field"] == "conditions"
