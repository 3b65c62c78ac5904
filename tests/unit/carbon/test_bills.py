"""Bills beside meters: refused when they contradict themselves, reconciled, and accrued in the month of use."""

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from libs.common.errors import InvalidInput
from services.carbon.domain.bills import (
    Bill,
    DayUse,
    OverlappingBill,
    UnknownAccount,
    Verdict,
    accept_bill,
    accruals,
    reconcile,
)
from services.carbon.domain.tariff.periods import Band
from tests.unit.carbon.tariffs import figures


def bill(start: date = date(2026, 3, 1), end: date = date(2026, 4, 1), **changed: Any) -> Bill:
    fields: dict[str, Any] = {
        "number": "B1", "account_number": "0320001", "start": start, "end": end, "energy_kwh": Decimal(3100),
        "amount_cny": Decimal("2170.00"), "issued_on": end + timedelta(days=5),
    }  # fmt: skip
    return Bill(**(fields | changed))


def use(
    first: date, count: int, energy: str | None = "100", cost: str | None = "70", completeness: float = 1.0
) -> list[DayUse]:
    return [
        DayUse(
            first + timedelta(days=index),
            None if energy is None else Decimal(energy),
            None if cost is None else Decimal(cost),
            completeness,
        )
        for index in range(count)
    ]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"end": date(2026, 3, 1)}, "last_day"),
        ({"end": date(2036, 4, 1)}, "last_day"),
        ({"energy_kwh": Decimal(-1)}, "energy_kwh"),
        ({"energy_kwh": Decimal("NaN")}, "energy_kwh"),
        ({"energy_by_band": {Band.PEAK: Decimal(3000), Band.VALLEY: Decimal(200)}}, "energy_by_band"),
        ({"energy_by_band": {Band.PEAK: Decimal(3200), Band.VALLEY: Decimal(-100)}}, "energy_by_band.valley"),
        ({"parts_cny": {"energy": Decimal("2170.02")}}, "parts_cny"),
        ({"amount_cny": Decimal("Infinity")}, "parts_cny"),
    ],
)
def test_a_bill_that_contradicts_itself_is_refused(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        bill(**changed)
    assert refused.value.message.startswith(f"{field}: expected")
    assert refused.value.message_zh is not None


def test_parts_may_be_credits_and_differ_by_their_own_rounding() -> None:
    bill(parts_cny={"energy": Decimal("2100.01"), "basic": Decimal("80.00"), "power_factor": Decimal("-10.00")})


def test_a_bill_for_an_unknown_account_is_refused() -> None:
    with pytest.raises(UnknownAccount, match="0320001"):
        accept_bill(bill(), accounts=["0320002"], bills=[])


def test_days_are_billed_once_and_a_correction_keeps_its_number() -> None:
    there = [bill()]
    accounts = ["0320001", "0320002"]
    with pytest.raises(OverlappingBill, match="B1"):
        accept_bill(bill(date(2026, 3, 31), date(2026, 5, 1), number="B2"), accounts=accounts, bills=there)
    accept_bill(bill(date(2026, 4, 1), date(2026, 5, 1), number="B2"), accounts=accounts, bills=there)
    accept_bill(bill(energy_kwh=Decimal(3000)), accounts=accounts, bills=there)
    accept_bill(bill(number="B3", account_number="0320002"), accounts=accounts, bills=there)


@pytest.mark.parametrize(
    ("billed", "verdict"),
    [
        ("3100", Verdict.AGREES),
        ("3131", Verdict.AGREES),  # 31 of 3131 kWh are 0.99 %
        ("3132", Verdict.BILLED_MORE),  # 32 of 3132 kWh are 1.02 %
        ("3070", Verdict.AGREES),
        ("3069", Verdict.BILLED_LESS),
        ("0", Verdict.BILLED_LESS),
    ],
)
def test_a_bill_agrees_within_one_percent(billed: str, verdict: Verdict) -> None:
    found = reconcile(bill(energy_kwh=Decimal(billed)), use(date(2026, 2, 20), 60))
    assert figures(found.verdict, found.metered_kwh, found.expected_cny) == (verdict, 3100, 2170)
    assert found.difference_kwh == Decimal(billed) - 3100


def test_what_was_not_metered_cannot_be_judged() -> None:
    assert reconcile(bill(), []).verdict is Verdict.NOT_COMPARABLE
    assert reconcile(bill(), use(date(2026, 3, 1), 31, None, None, 0.0)).metered_kwh is None
    found = reconcile(bill(), use(date(2026, 3, 1), 27))
    assert figures(found.verdict, found.metered_kwh, found.expected_cny) == (Verdict.NOT_COMPARABLE, 2700, None)
    assert found.completeness == pytest.approx(27 / 31)


def test_what_december_used_is_not_a_cost_of_january() -> None:
    days = use(date(2026, 12, 1), 45)
    one = bill(date(2026, 11, 20), date(2026, 12, 20), energy_kwh=Decimal(3000), amount_cny=Decimal(2100))
    december, january = accruals("0320001", [one], days, first=date(2026, 12, 1), asked_on=date(2027, 1, 15))
    assert figures(december.month, december.open_days, december.open_kwh, december.open_cny) == (
        date(2026, 12, 1), 12, 1200, 840,
    )  # fmt: skip
    # November was not metered, so the bill is divided evenly among its 30 days.
    assert figures(december.billed_kwh, december.billed_cny) == (1900, 1330)
    assert (december.crosses_year, january.crosses_year) == (True, False)
    assert figures(december.age_days, january.open_days, january.open_cny) == (26, 14, 980)


def test_a_bill_of_the_next_year_is_marked_even_when_nothing_is_open() -> None:
    one = bill(date(2026, 12, 1), date(2027, 1, 1))
    (december,) = accruals("0320001", [one], [], first=date(2026, 12, 1), asked_on=date(2027, 1, 1))
    assert figures(december.open_days, december.open_kwh, december.open_cny, december.crosses_year) == (0, 0, 0, True)


def test_an_open_day_of_unknown_cost_makes_the_accrual_unknown_and_not_smaller() -> None:
    days = use(date(2026, 3, 1), 30) + use(date(2026, 3, 31), 1, "100", None)
    (march,) = accruals("0320001", [], days, first=date(2026, 3, 1), asked_on=date(2026, 4, 1))
    assert figures(march.open_kwh, march.open_cny) == (3100, None)
    (missing,) = accruals("0320001", [], days[:30], first=date(2026, 3, 1), asked_on=date(2026, 4, 1))
    assert figures(missing.open_kwh, missing.open_cny) == (3000, None)


@settings(max_examples=60)
@given(
    energies=st.lists(st.one_of(st.none(), st.integers(0, 500)), min_size=90, max_size=90),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    amount=st.decimals("-10", "99999", places=2),
)
def test_the_parts_of_all_months_add_up_to_the_bills(
    energies: list[int | None], lengths: list[int], amount: Decimal
) -> None:
    first = date(2026, 1, 1)
    days = [
        DayUse(first + timedelta(days=index), None if energy is None else Decimal(energy), None, 1.0)
        for index, energy in enumerate(energies)
    ]
    bills, start = [], first
    for number, length in enumerate(lengths):
        end = start + timedelta(days=length)
        bills.append(bill(start, end, number=str(number), energy_kwh=Decimal(777), amount_cny=amount))
        start = end
    found = accruals("0320001", bills, days, first=first, asked_on=date(2027, 1, 1))
    assert float(sum(one.billed_cny for one in found)) == pytest.approx(float(amount) * len(bills), abs=1e-6)
    assert float(sum(one.billed_kwh for one in found)) == pytest.approx(777 * len(bills))
    assert sum(one.open_days for one in found) == 365 - sum(lengths)
