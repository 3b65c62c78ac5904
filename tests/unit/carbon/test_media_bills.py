"""Bills of other media: refused when they contradict themselves, one a day, beside their meters in their own unit."""

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from libs.common.contracts.carbon import Medium
from libs.common.errors import InvalidFile, InvalidInput
from libs.common.units import convert
from services.carbon.domain.accounts import SharedCircuit
from services.carbon.domain.bills import OverlappingBill, Verdict
from services.carbon.domain.media import MEDIA
from services.carbon.domain.mediabills import (
    NAMES_ZH,
    UNITS,
    MediumAccount,
    MediumBill,
    UnknownMediumAccount,
    accept_account,
    accept_medium_bill,
    reconcile_medium,
)
from services.carbon.mediabillfile import read_medium_bills


def bill(start: date = date(2026, 3, 1), end: date = date(2026, 4, 1), **changed: Any) -> MediumBill:
    fields: dict[str, Any] = {
        "medium": Medium.WATER, "account_number": "W-1", "number": "B1", "start": start, "end": end,
        "quantity": Decimal(100), "unit": "m3", "amount_cny": Decimal("412.50"), "issued_on": end + timedelta(days=5),
    }  # fmt: skip
    return MediumBill(**(fields | changed))


def account(number: str = "W-1", circuit: str | None = None, medium: Medium = Medium.WATER) -> MediumAccount:
    return MediumAccount(medium=medium, account_number=number, site_id="s-1", circuit_id=circuit)


def test_every_medium_that_is_metered_may_be_billed_in_the_unit_of_each_of_its_registers() -> None:
    assert NAMES_ZH.keys() == UNITS.keys() == set(Medium)
    for of in MEDIA.values():
        found = UNITS[of.medium][of.unit]
        assert (found.point, found.factor) == (of.point, Decimal(1))
    assert {MEDIA[one.point].medium for one in UNITS[Medium.GAS].values()} == {Medium.GAS}


@pytest.mark.parametrize("medium", list(Medium))
def test_units_are_what_the_platform_converts_them_to(medium: Medium) -> None:
    for unit, found in UNITS[medium].items():
        registered = MEDIA[found.point].unit
        if unit == registered or medium is Medium.WATER:  # a tonne of it is a cubic metre
            assert found.factor == 1
        else:
            assert convert(1.0, registered, unit) == pytest.approx(float(found.factor), rel=1e-12)


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"end": date(2026, 3, 1)}, "last_day: expected 2026-03-01 to"),
        ({"end": date(2036, 4, 1)}, "last_day: expected"),
        ({"unit": "kWh"}, "unit: expected one of m3, t for water, found kWh"),
        ({"unit": None}, "unit: expected one of m3, t for water, found none"),
        ({"quantity": None}, "unit: expected none without a quantity, found m3"),
        ({"medium": Medium.HEAT}, "unit: expected one of kWh, GJ, MWh for heat, found m3"),
        ({"quantity": Decimal("-0.1")}, "quantity: expected 0 or more m3"),
        ({"quantity": Decimal("Infinity")}, "quantity: expected"),
        ({"amount_cny": Decimal("NaN")}, "amount_cny: expected a finite number"),
    ],
)
def test_a_bill_that_contradicts_itself_is_refused(changed: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        bill(**changed)
    assert refused.value.message.startswith(problem)
    assert refused.value.message_zh is not None
    assert "应为" in refused.value.message_zh


def test_a_bill_of_nobodys_account_and_days_that_another_has_are_refused() -> None:
    with pytest.raises(UnknownMediumAccount, match="the water account of a site, found 'W-1'"):
        accept_medium_bill(bill(), account=None, bills=[])
    there = [bill()]
    with pytest.raises(OverlappingBill, match="B1"):
        accept_medium_bill(bill(number="B2", end=date(2026, 3, 2)), account=account(), bills=there)
    correction = bill(end=date(2026, 3, 9))
    assert accept_medium_bill(correction, account=account(), bills=there) == account()
    after = bill(date(2026, 4, 1), date(2026, 5, 1), number="B2")
    accept_medium_bill(after, account=account(), bills=there)
    heat = bill(number="B3", medium=Medium.HEAT, unit="GJ")
    accept_medium_bill(heat, account=account(medium=Medium.HEAT), bills=there)


def test_a_circuit_has_one_account_of_a_medium() -> None:
    others = [account("W-2", "c-1"), account("W-3")]
    with pytest.raises(SharedCircuit, match="W-2"):
        accept_account(account(circuit="c-1"), others)
    for fine in (account("W-2", "c-1"), account(circuit="c-2"), account(), account("H-1", "c-1", Medium.HEAT)):
        accept_account(fine, others)


@pytest.mark.parametrize(
    ("quantity", "completeness", "verdict"),
    [
        (100.0, 1.0, Verdict.AGREES),
        (99.0, 1.0, Verdict.AGREES),
        (98.9, 1.0, Verdict.BILLED_MORE),
        (101.1, 0.9, Verdict.BILLED_LESS),
        (100.0, 0.89, Verdict.NOT_COMPARABLE),
    ],
)
def test_a_bill_agrees_within_one_percent_when_enough_is_known(
    quantity: float, completeness: float, verdict: Verdict
) -> None:
    found = reconcile_medium(bill(), quantity, completeness)
    assert found.verdict is verdict
    assert found.difference == Decimal(100) - Decimal(str(quantity))
    assert found.difference_share == pytest.approx(1 - quantity / 100)


def test_what_no_meter_says_and_what_no_bill_says_is_unknown_and_not_zero() -> None:
    for found in (
        reconcile_medium(bill(), None, 0.0),
        reconcile_medium(bill(quantity=None, unit=None), 5.0, 1.0),
    ):
        assert (found.metered, found.difference, found.difference_share) == (None, None, None)
        assert found.verdict is Verdict.NOT_COMPARABLE


def test_heat_in_gigajoules_is_compared_in_gigajoules() -> None:
    found = reconcile_medium(bill(medium=Medium.HEAT, quantity=Decimal("36.1"), unit="GJ"), 10_000.0, 1.0)
    assert (found.metered, found.difference) == (Decimal("36"), Decimal("0.1"))


UNITS_OF = [(medium, unit) for medium, units in UNITS.items() for unit in units]


@given(
    st.sampled_from(UNITS_OF),
    st.decimals(0, 10**9, places=3),
    st.floats(0, 1e9, allow_nan=False),
    st.floats(0, 1),
)
def test_billed_is_what_was_metered_and_the_difference(
    of: tuple[Medium, str], billed: Decimal, quantity: float, completeness: float
) -> None:
    medium, unit = of
    found = reconcile_medium(bill(medium=medium, unit=unit, quantity=billed), quantity, completeness)
    assert found.metered is not None
    assert found.difference is not None
    assert found.metered + found.difference == pytest.approx(billed)
    assert (found.verdict is Verdict.NOT_COMPARABLE) == (completeness < 0.9)
    if found.verdict is Verdict.BILLED_MORE:
        assert found.difference > 0


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=12))
def test_no_day_of_an_account_is_ever_billed_twice(spans: list[tuple[int, int]]) -> None:
    taken: list[MediumBill] = []
    for number, (first, length) in enumerate(spans):
        start = date(2026, 1, 1) + timedelta(days=first)
        one = bill(start, start + timedelta(days=length), number=f"B{number}")
        try:
            accept_medium_bill(one, account=account(), bills=taken)
        except OverlappingBill:
            continue
        taken.append(one)
    days = [one.start + timedelta(days=day) for one in taken for day in range((one.end - one.start).days)]
    assert len(days) == len(set(days))


HEAD = "介质,户号,账单号,起始日,截止日,用量,单位,金额(元),出账日\n"


def test_a_file_has_bills_of_any_media_with_names_in_either_language() -> None:
    first = "水,W-1,B1,2026-03-01,2026-03-31,100,m3,412.50,2026-04-06\n"
    second = "heat,W-1,B1,2026-01-01,2026-12-31,,,9000,2027-01-05\n"
    (_, water), (line, heat) = read_medium_bills((HEAD + first + second).encode("gb18030"), "bills.csv")
    assert water == bill()
    assert (line, heat.medium, heat.quantity, heat.unit, heat.end) == (3, Medium.HEAT, None, None, date(2027, 1, 1))


@pytest.mark.parametrize(
    ("row", "places"),
    [
        ("beer,W-1,B1,2026-03-01,2026-03-31,100,m3,1,2026-04-05", [("medium", "beer")]),
        (",W-1,,2026-03-01,2026-03-31,100,m3,1,2026-04-05", [("medium", None), ("number", None)]),
        ("gas,W-1,B1,2026-03-01,2026-03-31,100,GJ,1,2026-04-05", [("unit", None)]),
        ("gas,W-1,B1,2026-03-01,2026-03-31,-1,m3,1,2026-04-05", [("quantity", None)]),
        ("gas,W-1,B1,2026-03-31,2026-03-01,1,m3,1,2026-04-05", [("last_day", None)]),
        ("gas,W-1,B1,2026-03-31,soon,much,m3,1,2026-04-05", [("last_day", "soon"), ("quantity", "much")]),
        ("water,W-1,B1,2026-03-01,2026-03-31,1,m3,1,2026-04-05\nwater,W-1,B1,2026-03-01,2026-03-31,1,m3,1,2026-04-05",
         [("number", "B1")]),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_a_bill_is_named(row: str, places: list[tuple[str, str | None]]) -> None:
    with pytest.raises(InvalidFile) as refused:
        read_medium_bills((HEAD + row).encode(), "bills.csv")
    problems = refused.value.problems
    assert [(one.field, one.found) for one in problems] == places
    assert all(one.expected and one.expected_zh and one.expected != one.expected_zh for one in problems)
    assert {one.line for one in problems} <= {2, 3}
