"""Planned wake-ups wait for each other, and never for long."""

import pytest

from libs.common.contracts.control import Priority
from libs.common.ids import LineId, SiteId
from services.control.domain.inrush import Inrush, InrushLimits
from tests.unit.control.control_builders import later, off, on

LIMITS = InrushLimits(per_site=3, per_line=5, step_s=1, margin_s=20)


def sent(inrush: Inrush, count: int, at_s: float, **changes: object) -> int:
    return sum(not inrush.must_wait(on(**changes), later(at_s)) for _ in range(count))


def test_so_many_of_a_site_in_a_step() -> None:
    inrush = Inrush(LIMITS)
    assert sent(inrush, 10, 0) == 3
    assert sent(inrush, 10, 0.9) == 0
    assert sent(inrush, 10, 1.0) == 3


def test_so_many_of_a_line_in_a_step_over_its_sites() -> None:
    inrush = Inrush(LIMITS)
    assert [sent(inrush, 3, 0, site_id=SiteId(site)) for site in "abc"] == [3, 2, 0]
    assert sent(inrush, 3, 0, site_id=SiteId("c"), line_id=LineId("other")) == 3


def test_beyond_the_margin_nothing_waits() -> None:
    inrush = Inrush(LIMITS)
    assert sent(inrush, 10, 19.9) == 3
    assert sent(inrush, 10, 20) == 10


@pytest.mark.parametrize("changes", [
    {"priority": Priority.EMERGENCY}, {"priority": Priority.LOCAL}, {"priority": Priority.OPERATOR},
    {"reason": "off_not_proven"}, {"attempt": 1, "reason": "not_accepted"},
])  # fmt: skip
def test_what_is_urgent_neither_waits_nor_makes_others_wait(changes: dict[str, object]) -> None:
    inrush = Inrush(LIMITS)
    assert sent(inrush, 10, 0, **changes) == 10
    assert sent(inrush, 3, 0) == 3
    assert sent(inrush, 10, 0, **changes) == 10


def test_an_off_is_no_wake_up() -> None:
    inrush = Inrush(LIMITS)
    assert not any(inrush.must_wait(off(), later(0)) for _ in range(10))


def test_a_clock_that_is_put_back_holds_nothing_up() -> None:
    inrush = Inrush(LIMITS)
    assert sent(inrush, 3, 3600) == 3
    assert sent(inrush, 3, 0) == 3
