"""A person's reading against the meter's history: asked about when it cannot be, believed when it can."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.domain.plausibility import Doubt, Known, Limits, questions

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
REGISTER = "energy_active_import"


def doubts(
    value: float,
    *,
    before: float | None = None,
    after: float | None = None,
    hours: float = 100,
    modulus: float | None = None,
    rated_kw: float | None = None,
    ratio: float = 1,
) -> list[Doubt]:
    earlier = {} if before is None else {REGISTER: Known(NOON - timedelta(hours=hours), before)}
    later = {} if after is None else {REGISTER: Known(NOON + timedelta(hours=hours), after)}
    limits = Limits({} if modulus is None else {REGISTER: modulus}, rated_kw, ratio)
    return [one.doubt for one in questions({REGISTER: value}, NOON, earlier, later, limits)]


@pytest.mark.parametrize(
    ("value", "known", "found"),
    [
        (500, {}, []),
        (500, {"before": 400}, []),
        (300, {"before": 400}, [Doubt.DECREASE]),
        (500, {"after": 400}, [Doubt.ABOVE_NEXT]),
        (500, {"before": 400, "rated_kw": 1}, []),
        (600, {"before": 400, "rated_kw": 1}, [Doubt.JUMP]),
        (600, {"before": 400, "rated_kw": 40, "ratio": 20}, []),
        (600, {"before": 400, "rated_kw": 10, "ratio": 20}, [Doubt.JUMP]),
        (20, {"before": 9_980, "modulus": 10_000}, []),
        (2_000, {"before": 9_980, "modulus": 10_000}, [Doubt.DECREASE]),
        (20, {"before": 5_000, "modulus": 10_000}, [Doubt.DECREASE]),
        (20, {"before": 9_980, "modulus": 10_000, "rated_kw": 0.2}, [Doubt.DECREASE]),
        (20, {"before": 9_980, "modulus": 10_000, "rated_kw": 2}, []),
        (9_980, {"after": 20, "modulus": 10_000}, []),
    ],
)
def test_doubts(value: float, known: dict[str, float], found: list[Doubt]) -> None:
    assert doubts(value, **known) == found


def test_a_gauge_is_asked_about_when_it_cannot_be_and_not_compared() -> None:
    earlier = {"voltage_a": Known(NOON - timedelta(hours=1), 240.0)}
    assert questions({"voltage_a": 230.0}, NOON, earlier, {}, Limits({}, None)) == []
    [found] = questions({"voltage_a": -5.0}, NOON, earlier, {}, Limits({}, None))
    assert (found.doubt, "voltage_a" in found.detail, "voltage_a" in found.detail_zh) == (Doubt.IMPLAUSIBLE, True, True)


@given(st.floats(0, 9_999), st.floats(0, 500), st.floats(0.1, 10_000))
def test_what_a_meter_shows_after_use_within_its_circuit_is_never_in_doubt(
    start: float, hours: float, rated_kw: float
) -> None:
    used = min(rated_kw * hours, 9_999)
    shown = (start + used) % 10_000
    assert doubts(shown, before=start, hours=hours, modulus=10_000, rated_kw=rated_kw) == []
