"""Statements of energy performance contracts: what is refused, how money is shared, and that a signature freezes."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.clock import CIVIL_ZONE
from libs.common.errors import Conflict, InvalidInput
from services.carbon.domain.epc.metering import Agreement, Party, Reconciliation, Registers, metered_kwh
from services.carbon.domain.epc.statement import (
    Content,
    Frozen,
    Line,
    NotReconciled,
    Signature,
    State,
    Statement,
    corrected_by,
    share,
)
from services.carbon.domain.savings.measurement.measured import Basis, MeasuredSaving
from services.carbon.domain.savings.projects.measures import SavingAboveBaseline

START, END = date(2024, 1, 1), date(2024, 2, 1)
SIGNED_AT = datetime(2024, 2, 5, tzinfo=UTC)


def registers(device: str = "meter-1", **more: object) -> Registers:
    fields: dict[str, object] = {
        "circuit_id": "branch",
        "device_id": device,
        "start_at": datetime(2024, 1, 1, tzinfo=CIVIL_ZONE),
        "start_kwh": 100.0,
        "end_at": datetime(2024, 2, 1, tzinfo=CIVIL_ZONE),
        "end_kwh": 120.0,
        "ratio": 40.0,
        **more,
    }
    return Registers(**fields)  # type: ignore[arg-type]


def saving(kwh: float | None = 200.0, baseline: float = 1000.0) -> MeasuredSaving:
    return MeasuredSaving(
        basis=Basis.REGRESSION,
        start=START,
        end=END,
        saving_kwh=kwh,
        baseline_kwh=baseline,
        actual_kwh=800.0,
        adjustments=(),
        days=31,
        days_known=31,
        fractional_uncertainty=0.2,
        doubts=frozenset(),
    )


def content(**more: object) -> Content:
    fields: dict[str, object] = {
        "statement_id": "s1",
        "contract_id": "c1",
        "contract_version": 1,
        "version": 1,
        "start": START,
        "end": END,
        "registers": (registers(),),
        "saving": saving(),
        "lines": (
            Line(band="valley", energy_kwh=150.0, price_cny_per_kwh=Decimal("0.31")),
            Line(band="peak", energy_kwh=50.0, price_cny_per_kwh=Decimal("1.07")),
        ),
        "tariff_id": "51-commercial",
        "tariff_version": 3,
        "company_share": Decimal("0.7"),
        "reconciliation": (Reconciliation(device_id="meter-1", ours_kwh=800.0, theirs_kwh=799.0),),
        **more,
    }
    return Content(**fields)  # type: ignore[arg-type]


def signature(of: Statement, party: Party, person: str) -> Signature:
    return Signature(party=party, person=person, signed_at=SIGNED_AT, digest=of.content.digest)


def frozen() -> Statement:
    offered = Statement(content=content()).offer()
    once = offered.sign(signature(offered, Party.CUSTOMER, "user:li"))
    return once.sign(signature(once, Party.COMPANY, "user:wang"))


def test_a_statement_states_energy_money_and_shares() -> None:
    one = content()
    assert metered_kwh(one.registers) == 800.0
    assert one.money_fen == 10_000  # 150 x 0.31 + 50 x 1.07 = 46.5 + 53.5
    assert one.shares_fen == {Party.COMPANY: 7_000, Party.CUSTOMER: 3_000}


def test_a_register_may_roll_over_once_where_its_modulus_is_known() -> None:
    rolled = registers(start_kwh=9_990.0, end_kwh=10.0, modulus_kwh=10_000.0, ratio=1.0)
    assert rolled.energy_kwh == 20.0
    with pytest.raises(InvalidInput, match="end_kwh"):
        registers(start_kwh=9_990.0, end_kwh=10.0)
    with pytest.raises(InvalidInput, match="less than"):
        registers(modulus_kwh=110.0)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"start_kwh": -1.0}, "start_kwh"),
        ({"end_kwh": float("nan")}, "end_kwh"),
        ({"ratio": 0.0}, "ratio"),
        ({"end_at": datetime(2024, 1, 1, tzinfo=CIVIL_ZONE)}, "end_at"),
    ],
)
def test_registers_from_which_nothing_follows_are_refused(more: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        registers(**more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"saving": saving(None)}, "measured saving"),
        ({"saving": replace(saving(), end=date(2024, 3, 1))}, "saving"),
        ({"lines": ()}, "lines"),
        ({"company_share": Decimal("1.01")}, "company_share"),
        ({"end": START}, "end"),
        ({"registers": ()}, "at least one meter"),
        ({"registers": (registers(), registers())}, "each meter once"),
        ({"reconciliation": ()}, "reconciliation"),
        ({"reconciliation": (Reconciliation(device_id="meter-1", ours_kwh=1.0, theirs_kwh=1.0),)}, "ours_kwh"),
        ({"registers": (registers(end_at=datetime(2024, 2, 1, 0, 1, tzinfo=CIVIL_ZONE)),)}, "times from"),
    ],
)
def test_what_cannot_be_stated_is_refused_by_name(more: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        content(**more)


def test_more_than_the_baseline_cannot_be_saved() -> None:
    with pytest.raises(SavingAboveBaseline):
        content(saving=saving(200.0, baseline=199.0))


@given(st.integers(-(10**12), 10**12), st.decimals(0, 1, places=6))
def test_shares_sum_to_the_whole_and_are_off_by_less_than_a_fen(money: int, company: Decimal) -> None:
    found = share(money, company)
    assert sum(found.values()) == money
    assert abs(found[Party.COMPANY] - money * company) < 1
    assert abs(found[Party.CUSTOMER] - money * (1 - company)) < 1


def test_an_odd_fen_goes_to_the_customer_where_both_lose_alike() -> None:
    assert share(101, Decimal("0.5")) == {Party.COMPANY: 50, Party.CUSTOMER: 51}


def test_half_a_fen_is_rounded_up_as_on_bills() -> None:
    half = content(saving=saving(1.0), lines=(Line(band="flat", energy_kwh=1.0, price_cny_per_kwh=Decimal("0.125")),))
    assert half.money_fen == 13


@pytest.mark.parametrize(
    ("theirs", "agreement"),
    [
        (800.0, Agreement.AGREED),
        (808.0, Agreement.AGREED),
        (809.0, Agreement.DEVIATES),
        (0.0, Agreement.DEVIATES),
        (None, Agreement.MISSING),
    ],
)
def test_two_receivers_agree_to_one_per_cent(theirs: float | None, agreement: Agreement) -> None:
    assert Reconciliation(device_id="m", ours_kwh=800.0, theirs_kwh=theirs).agreement is agreement


def test_a_statement_about_which_receivers_disagree_is_not_offered_until_both_parties_take_it() -> None:
    deviating = Reconciliation(device_id="meter-1", ours_kwh=800.0, theirs_kwh=None)
    with pytest.raises(NotReconciled, match="meter-1"):
        Statement(content=content(reconciliation=(deviating,))).offer()
    by_one = replace(
        deviating,
        accepted_by=((Party.CUSTOMER, "user:li"), (Party.COMPANY, "user:li")),
        reason="their platform was down",
    )
    with pytest.raises(NotReconciled):
        Statement(content=content(reconciliation=(by_one,))).offer()
    by_both = replace(by_one, accepted_by=((Party.CUSTOMER, "user:li"), (Party.COMPANY, "user:wang")))
    assert Statement(content=content(reconciliation=(by_both,))).offer().state is State.OFFERED


def test_both_signatures_freeze_the_statement() -> None:
    one = frozen()
    assert one.state is State.FROZEN
    changes: list[Callable[[], Statement]] = [
        lambda: one.revise(content(company_share=Decimal("0.9"))),
        lambda: one.withdraw("second thoughts"),
        lambda: one.offer(),
        lambda: one.sign(signature(one, Party.CUSTOMER, "user:zhao")),
    ]
    for change in changes:
        with pytest.raises(Frozen):
            change()
    with pytest.raises(FrozenInstanceError):
        one.content.version = 2  # type: ignore[misc]


def test_the_first_signature_fixes_the_content() -> None:
    offered = Statement(content=content()).offer()
    once = offered.sign(signature(offered, Party.COMPANY, "user:wang"))
    assert once.state is State.SIGNED_BY_ONE
    with pytest.raises(Frozen):
        once.revise(content())
    assert once.withdraw("wrong tariff").state is State.WITHDRAWN


def test_a_draft_may_be_revised_and_is_another_version() -> None:
    revised = Statement(content=content()).offer().revise(content(company_share=Decimal("0.6")))
    assert (revised.state, revised.content.version) == (State.DRAFT, 2)


def test_one_person_one_party_one_signature_over_what_was_shown() -> None:
    offered = Statement(content=content()).offer()
    with pytest.raises(Frozen):
        Statement(content=content()).sign(signature(offered, Party.CUSTOMER, "user:li"))
    with pytest.raises(Conflict, match="changed since"):
        offered.sign(replace(signature(offered, Party.CUSTOMER, "user:li"), digest="0" * 64))
    once = offered.sign(signature(offered, Party.CUSTOMER, "user:li"))
    with pytest.raises(Conflict, match="has signed"):
        once.sign(signature(once, Party.CUSTOMER, "user:zhao"))
    with pytest.raises(Conflict, match="both parties"):
        once.sign(signature(once, Party.COMPANY, "user:li"))


def test_the_digest_is_of_every_field() -> None:
    one = content()
    assert one.digest == content().digest
    others = [
        content(version=2),
        content(tariff_version=4),
        content(company_share=Decimal("0.71")),
        content(reconciliation=(Reconciliation(device_id="meter-1", ours_kwh=800.0, theirs_kwh=800.0),)),
        content(saving=replace(saving(), fractional_uncertainty=0.3)),
        content(registers=(registers(start_kwh=101.0, end_kwh=121.0),)),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == len(others) + 1
    assert content(company_share=Decimal("0.70")).digest == one.digest


def test_a_correction_is_another_statement_that_says_the_difference() -> None:
    before = frozen().content
    after = content(statement_id="s2", supersedes="s1", company_share=Decimal("0.6"))
    assert corrected_by(before, after) == {Party.COMPANY: -1_000, Party.CUSTOMER: 1_000}
    with pytest.raises(InvalidInput, match="supersedes"):
        corrected_by(before, content(statement_id="s3"))
