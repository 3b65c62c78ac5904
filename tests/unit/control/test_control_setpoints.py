"""Limits of set points: the public-building rules that ship, their seasons, and policies that take their place."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.control.domain.setpoints import (
    Effect,
    InvalidSetpointPolicy,
    Place,
    SetpointBook,
    SetpointPolicy,
    SetpointRule,
    SetpointScope,
    as_raw,
    read_rule,
    words,
)
from services.control.setpointrules import shipped_rules

HALL = Place("ac-1", "site-1", "business_hall", ("440106", "440100", "440000"))
MACHINES = Place("ac-2", "site-2", "idc", ("440100", "440000"))
SUMMER, AUTUMN, WINTER = (datetime(2026, month, 15, 4, tzinfo=UTC) for month in (7, 10, 1))
POINT = "temperature_setpoint"
RULE = {"point": POINT, "min": 24, "from": "04-15", "to": "11-15", "source": "a notice of the city"}


def broken(place: Place, value: float, at: datetime, *policies: SetpointPolicy) -> list[str]:
    return [rule.name for rule in SetpointBook(shipped_rules(), policies).broken(place, POINT, value, at)]


def policy(scope: SetpointScope, target: str, **rules: Any) -> SetpointPolicy:
    name = SetpointPolicy(scope, target, {}).name
    read = {key: None if rule is None else read_rule(key, rule, name) for key, rule in rules.items()}
    return SetpointPolicy(scope, target, read)


def test_in_summer_not_below_26_in_winter_not_below_18_in_public_rooms() -> None:
    assert broken(HALL, 25.9, SUMMER) == ["public_building_summer"]
    assert broken(HALL, 26.0, SUMMER) == []
    assert broken(HALL, 17.9, WINTER) == ["public_building_winter"]
    assert broken(HALL, 18.0, WINTER) == []
    assert broken(HALL, 17.0, AUTUMN) == []
    # What equipment needs is no public room's matter.
    assert broken(MACHINES, 22.0, SUMMER) == []
    assert SetpointBook(shipped_rules(), []).broken(HALL, "temperature_supply", 16.0, SUMMER) == []


def test_a_refusal_names_rule_value_limit_and_source_in_both_languages() -> None:
    (rule,) = SetpointBook(shipped_rules(), []).broken(HALL, POINT, 24.5, SUMMER)
    english, chinese = words(rule, 24.5)
    for word in ("public_building_summer", "24.5", "26", "06-01", "09-30", "shipped 2026-11-21"):
        assert word in english
        assert word in chinese
    assert "[2007] 42" in english
    assert "国办发〔2007〕42号" in chinese
    assert "不得低于 26" in chinese


def test_a_season_is_counted_by_the_days_of_its_zone() -> None:
    first_of_june = datetime(2026, 6, 1, tzinfo=UTC) - timedelta(hours=8)
    assert broken(HALL, 20.0, first_of_june) == ["public_building_summer"]
    assert broken(HALL, 20.0, first_of_june - timedelta(seconds=1)) == []


@given(st.integers(0, 20 * 366 * 24))
def test_a_season_over_the_new_year_is_what_the_rest_of_the_year_is_not(hours: int) -> None:
    at = datetime(2020, 1, 1, tzinfo=UTC) + timedelta(hours=hours)
    winter = read_rule("w", RULE | {"from": "11-15", "to": "03-15"}, "default")
    rest = read_rule("r", RULE | {"from": "03-16", "to": "11-14"}, "default")
    assert winter.is_in_season(at) is not rest.is_in_season(at)


def test_the_most_specific_policy_decides_rule_by_rule() -> None:
    everywhere = policy(SetpointScope.DEFAULT, "-", public_building_winter=None)
    province = policy(SetpointScope.REGION, "440000", public_building_summer=RULE)
    city = policy(SetpointScope.REGION, "440100", public_building_summer=RULE | {"min": 25})
    assert broken(HALL, 17.0, WINTER, everywhere) == []
    assert broken(HALL, 24.5, SUMMER, province, everywhere) == []
    assert broken(HALL, 24.5, SUMMER, city, province) == ["public_building_summer"]
    assert broken(HALL, 24.5, AUTUMN, city, province) == ["public_building_summer"]
    hospital = policy(SetpointScope.SITE, "site-1", public_building_summer=None)
    assert broken(HALL, 20.0, SUMMER, city, hospital) == []
    own = policy(SetpointScope.DEVICE, "ac-1", public_building_summer=RULE | {"effect": "approve"})
    (rule,) = SetpointBook(shipped_rules(), [city, hospital, own]).broken(HALL, POINT, 23.0, SUMMER)
    assert (rule.effect, rule.said_by) == (Effect.APPROVE, "device:ac-1")


def test_what_refuses_comes_before_what_asks_for_a_second_person() -> None:
    both = policy(SetpointScope.DEFAULT, "-", a=RULE | {"effect": "approve"}, z=RULE)
    assert broken(MACHINES, 20.0, SUMMER, both) == ["z", "a"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"point": "breaker_state"}, "point"),
        ({"point": None}, "point"),
        ({"min": None}, "min"),
        ({"min": True}, "min"),
        ({"min": float("nan")}, "min"),
        ({"min": 30, "max": 20}, "min"),
        ({"from": "02-30"}, "from"),
        ({"from": 601}, "from"),
        ({"to": None}, "to"),
        ({"zone": "Asia/Guangzhou"}, "zone"),
        ({"zone": ["Asia/Shanghai"]}, "zone"),
        ({"site_kinds": ["palace"]}, "site_kinds"),
        ({"site_kinds": "idc"}, "site_kinds"),
        ({"site_kinds": [["idc"]]}, "site_kinds"),
        ({"effect": "clamp"}, "effect"),
        ({"source": ""}, "source"),
        ({"clamp": True}, "clamp"),
    ],
)
def test_a_wrong_rule_is_refused_with_its_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidSetpointPolicy, match=f"rules.x.{field}") as refused:
        read_rule("x", RULE | change, "default")
    assert refused.value.message_zh


@pytest.mark.parametrize("rule", shipped_rules(), ids=lambda rule: rule.name)
def test_a_rule_that_is_kept_reads_the_same(rule: SetpointRule) -> None:
    assert read_rule(rule.name, as_raw(rule), rule.said_by) == rule
