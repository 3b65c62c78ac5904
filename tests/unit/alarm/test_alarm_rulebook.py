"""Which parameters hold for which device, and which changes are refused."""

from typing import Any

import pytest

from services.alarm.domain.model import CLASSES, Band, Comparison, Params, Quantifier, Rule
from services.alarm.domain.rulebook import (
    Override,
    Scope,
    applies,
    class_code,
    order_faults,
    override_faults,
)
from tests.unit.alarm.alarm_builders import PHASES, book, override, rule, target

VOLTS = dict.fromkeys(PHASES, (0.0, 300.0))


def seconds(us: int) -> float:
    return us / 1_000_000


class TestInheritance:
    def test_the_more_specific_scope_wins_and_is_shown(self) -> None:
        rules = book(
            rule(),
            overrides=[
                override("low", Scope.DEVICE_KIND, "meter_3p", threshold=170.0, level=2, end_delay_s=9.0),
                override("low", Scope.SITE_CLASS, "D", threshold=171.0, level=1),
                override("low", Scope.SITE, "s-1", threshold=172.0),
                override("low", Scope.DEVICE, "m-1", threshold=173.0),
            ],
        )
        [found] = rules.for_device(target("m-1"))
        assert (found.threshold, found.level, seconds(found.end_delay_us)) == (173.0, 1, 9.0)
        assert dict(found.sources) == {
            "enabled": "dictionary",
            "level": "site_class:D",
            "threshold": "device:m-1",
            "hysteresis": "dictionary",
            "start_delay_s": "dictionary",
            "end_delay_s": "device_kind:meter_3p",
            "max_gap_s": "dictionary",
            "no_data": "dictionary",
        }
        [neighbour] = rules.for_device(target("m-2"))
        assert neighbour.threshold == 172.0
        [elsewhere] = rules.for_device(target("m-3", site_id="s-2", station_class="A"))
        assert (elsewhere.threshold, elsewhere.level) == (170.0, 2)

    def test_devices_that_no_override_tells_apart_share_their_rules(self) -> None:
        rules = book(rule(), overrides=[override("low", Scope.DEVICE, "m-9", level=1)])
        assert rules.for_device(target("m-1")) is rules.for_device(target("m-2", site_id="s-2"))
        assert rules.for_device(target("m-1")) is not rules.for_device(target("m-9"))

    def test_zero_and_false_are_values_and_not_absence(self) -> None:
        rules = book(rule(), overrides=[override("low", Scope.SITE, "s-1", enabled=False, start_delay_s=0.0)])
        [found] = rules.for_device(target())
        assert (found.enabled, found.start_delay_us, found.active) == (False, 0, False)

    @pytest.mark.parametrize(("level", "delay_s"), [(1, 60.0), (2, 120.0), (3, 180.0), (4, 240.0)])
    def test_a_rule_without_start_delay_takes_that_of_its_level(self, level: int, delay_s: float) -> None:
        rules = book(rule(start_delay_s=None, level=3), overrides=[override("low", Scope.SITE, "s-1", level=level)])
        [found] = rules.for_device(target())
        assert (seconds(found.start_delay_us), found.sources["start_delay_s"]) == (delay_s, "policy")

    def test_the_version_rises_when_an_override_is_taken_back(self) -> None:
        site = override("low", Scope.SITE, "s-1", 5, threshold=170.0)
        device = override("low", Scope.DEVICE, "m-1", 6, level=1)
        before = book(rule(), overrides=[site, device]).for_device(target())[0]
        taken_back = Override("low", Scope.SITE, "s-1", 7)
        after = book(rule(), overrides=[taken_back, device]).for_device(target())[0]
        assert (before.threshold, before.version) == (170.0, 6)
        assert (after.threshold, after.version) == (160.0, 7)

    def test_class_e_is_treated_as_class_d_and_each_class_has_its_own_level(self) -> None:
        one = rule()
        levels = dict(zip(CLASSES, (1, 2, 3, 4), strict=True))
        defaults = {name: Params(True, levels[name], 90.0, 0.0, None, 20.0, 900.0) for name in CLASSES}
        several = Rule("low", "low", Comparison.BELOW, Quantifier.ANY, one.points, "V", frozenset(), defaults)
        rules = book(several)
        found = {name: rules.for_device(target(station_class=name))[0].level for name in "ABCDE"}
        assert found == {"A": 1, "B": 2, "C": 3, "D": 4, "E": 4}

    def test_a_class_without_a_level_has_no_such_alarm(self) -> None:
        assert not book(rule(level=None)).for_device(target())[0].active

    def test_codes_of_ten_digits_carry_the_class(self) -> None:
        assert class_code("0s16003001", "A") == "0116003001"
        assert class_code("0s16003001", "D") == "0416003001"
        assert class_code("wattring.overcurrent", "D") == "wattring.overcurrent"


@pytest.mark.parametrize(
    ("one", "device", "judges"),
    [
        (rule(kinds=["meter_3p"]), target(), True),
        (rule(kinds=["breaker"]), target(), False),
        (rule(points=("frequency",)), target(), False),
        (rule(points=("voltage_a", "frequency")), target(), True),
        (rule(quantifier=Quantifier.SOME), target(points=frozenset({"voltage_a"})), False),
        (rule(), target(points=frozenset(), optional_points=frozenset({"voltage_b"})), True),
    ],
)
def test_a_rule_judges_devices_of_its_kinds_that_have_its_points(one: Rule, device: object, judges: bool) -> None:
    assert applies(one, device) is judges  # type: ignore[arg-type]


class TestOrder:
    def faults(self, low: float, high: float, **more: float) -> list[str]:
        rules = book(
            rule("a-low", threshold=low, band=Band.LOW, group="u", hysteresis=more.get("low_hysteresis", 0.0)),
            rule(
                "b-high",
                comparison=Comparison.ABOVE,
                threshold=high,
                band=Band.HIGH,
                group="u",
                hysteresis=more.get("high_hysteresis", 0.0),
            ),
            rule("c-low-low", threshold=more.get("low_low", 90.0), band=Band.LOW_LOW, group="u"),
            rule("d-other", threshold=500.0, band=Band.LOW, group="i"),
        )
        return [f"{fault.field}: {fault.expected}" for fault in order_faults(rules.for_device(target()))]

    def test_thresholds_in_order_are_fine(self) -> None:
        assert self.faults(160, 260) == []

    def test_low_above_high_is_impossible(self) -> None:
        assert self.faults(270, 260) == ["threshold: a-low (low) below b-high (high)"]

    def test_equal_is_impossible_too(self) -> None:
        assert self.faults(260, 260) == ["threshold: a-low (low) below b-high (high)"]

    def test_low_low_above_low_is_impossible(self) -> None:
        assert self.faults(160, 260, low_low=161) == ["threshold: c-low-low (low_low) below a-low (low)"]

    def test_recoveries_that_cross_are_impossible(self) -> None:
        assert self.faults(160, 260, low_hysteresis=60, high_hysteresis=40) == [
            "hysteresis: recovery of a-low below recovery of b-high"
        ]

    def test_a_sleeping_rule_contradicts_nothing(self) -> None:
        rules = book(
            rule("a", threshold=270, band=Band.LOW, group="u", enabled=False),
            rule("b", comparison=Comparison.ABOVE, threshold=260, band=Band.HIGH, group="u"),
        )
        assert order_faults(rules.for_device(target())) == []


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"level": 0}, "level", "1, 2, 3 or 4"),
        ({"level": 5}, "level", "1, 2, 3 or 4"),
        ({"threshold": 301.0}, "threshold", "0 to 300 V"),
        ({"threshold": -1.0}, "threshold", "0 to 300 V"),
        ({"threshold": float("nan")}, "threshold", "0 to 300 V"),
        ({"hysteresis": -0.1}, "hysteresis", "0 or more V"),
        ({"hysteresis": float("inf")}, "hysteresis", "0 or more V"),
        ({"start_delay_s": -1.0}, "start_delay_s", "0 to 86400 s"),
        ({"end_delay_s": 86_401.0}, "end_delay_s", "0 to 86400 s"),
        ({"max_gap_s": float("nan")}, "max_gap_s", "0 to 86400 s"),
    ],
)
def test_impossible_parameters_are_refused_by_name(changes: dict[str, Any], field: str, expected: str) -> None:
    wanted = override("low", Scope.SITE, "s-1", **changes)
    [fault] = override_faults(wanted, rule(), plausible=VOLTS)
    assert (fault.field, fault.expected) == (field, expected)


def test_a_mask_is_a_whole_number() -> None:
    bits = rule(comparison=Comparison.BITS, points=("meter_status",))
    assert override_faults(override("low", Scope.SITE, "s-1", threshold=6.0), bits, plausible={}) == []
    [fault] = override_faults(override("low", Scope.SITE, "s-1", threshold=1.5), bits, plausible={})
    assert fault.field == "threshold"


def test_possible_parameters_pass() -> None:
    wanted = override(
        "low", Scope.SITE, "s-1", level=1, threshold=0.0, hysteresis=0.0, start_delay_s=0.0, max_gap_s=86_400.0
    )
    assert override_faults(wanted, rule(), plausible=VOLTS) == []
