"""What is written down of an inventory reads back as it was, and the same content has the same digest."""

from datetime import UTC, date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.carbon.domain.emissions.certificates import Certificate, InstrumentKind
from services.carbon.domain.emissions.refrigerants import LeakRate, Loss, MassBalance, TopUp
from services.carbon.domain.factors import Place
from services.carbon.domain.factors.places import Side
from services.carbon.domain.inventory.boundary import Approach, Boundary, Exclusion, Part, Span
from services.carbon.domain.inventory.compute import Result
from services.carbon.domain.inventory.publication import Publication, publish, restate
from services.carbon.domain.inventory.sources import (
    Activity,
    ColdUse,
    ElectricityUse,
    Enabled,
    FuelUse,
    GasLoss,
    HeatUse,
    HotWaterUse,
    Inputs,
    MeteredUse,
    Source,
    SteamUse,
    UnitUse,
)
from services.carbon.library import load_coal, load_library
from services.carbon.statements import decode_publication, digest, encode_publication

LIBRARY = load_library()
COAL = load_coal()
YEAR = Span(datetime(2022, 12, 31, 16, tzinfo=UTC), datetime(2023, 12, 31, 16, tzinfo=UTC))
AMOUNT = st.none() | st.floats(0, 1e12)
LOSS: st.SearchStrategy[Loss] = st.one_of(
    st.builds(TopUp, added=st.floats(0, 1e6), not_recovered=st.floats(0, 1e6)),
    st.builds(LeakRate, charge_kg=st.floats(0, 1e6), rate_per_year=st.floats(0, 1), years=st.floats(0, 9)),
    st.builds(
        MassBalance,
        opening_stock=st.floats(3e6, 4e6),  # a balance of which more comes out than went in is refused
        purchased=st.floats(0, 1e6),
        sold_or_returned=st.floats(0, 1e6),
        closing_stock=st.floats(0, 1e6),
        increase_of_charge=st.floats(-1e6, 1e6),
    ),
)
ACTIVITY: st.SearchStrategy[tuple[str, Activity]] = st.one_of(
    st.tuples(st.just("electricity"), st.builds(ElectricityUse, imported_kwh=AMOUNT, own_pv_kwh=AMOUNT)),
    st.tuples(
        st.just("stationary_combustion"),
        st.builds(FuelUse, fuel=st.just("DIESEL"), amount=AMOUNT, unit=st.just("t")),
    ),
    st.tuples(st.just("fugitive"), st.builds(GasLoss, gas=st.just("R32"), loss=LOSS)),
    st.tuples(st.just("heat"), st.builds(HeatUse, amount=AMOUNT, unit=st.just("GJ"))),
    st.tuples(st.just("steam"), st.builds(SteamUse, mass_t=AMOUNT, enthalpy_kj_per_kg=st.floats(100, 3000))),
    st.tuples(st.just("heat"), st.builds(HotWaterUse, mass_t=AMOUNT, temperature_c=st.floats(20, 99))),
    st.tuples(st.just("cold"), st.builds(ColdUse, cold_kwh=AMOUNT, cop=st.floats(1, 9))),
    st.tuples(
        st.just("waste"), st.builds(UnitUse, series=st.just("WATER-SOURCE-003"), amount=AMOUNT, unit=st.just("t"))
    ),
)


def inputs_of(activities: list[tuple[str, Activity]]) -> Inputs:
    return Inputs(
        boundary=Boundary(
            "组织-1",
            Approach.EQUITY_SHARE,
            [Part("site-1", YEAR, 0.5, "合同")],
            [Exclusion("commuting", "no data yet", 0.01)],
        ),
        sources=[
            Source(
                line_id=str(number),
                node="site-1",
                place=Place("15", Side.EAST),
                category=category,
                span=YEAR,
                activity=activity,
                origin="meter",
                activity_uncertainty=0.02,
            )
            for number, (category, activity) in enumerate(activities)
        ],
        certificates=[
            Certificate(
                number="GEC-1",
                kind=InstrumentKind.CERTIFICATE,
                market="CN",
                vintage=2023,
                technology="wind",
                beneficiary="组织-1",
                cancelled_on=date(2024, 2, 1),
                sold_with_power=False,
                evidence="scan.pdf",
            )
        ],
        metered=[MeteredUse(line_id="grid", node="site-1")],
        enabled=[Enabled("GWP-AR6-R22", "li", "checked")],
    )


def published(activities: list[tuple[str, Activity]]) -> tuple[Publication, Result]:
    return publish(
        inputs_of(activities),
        LIBRARY,
        inventory_id="inv-1",
        version=1,
        known_on=date(2026, 11, 21),
        at=datetime(2026, 11, 21, 4, tzinfo=UTC),
        by="wang",
        software="0.1.0",
        coal=COAL,
    )


@given(activities=st.lists(ACTIVITY, max_size=5))
@settings(max_examples=30)
def test_what_was_published_reads_back_as_it_was(activities: list[tuple[str, Activity]]) -> None:
    publication, _ = published(activities)
    text = encode_publication(publication)
    again = decode_publication(text)
    assert again.inputs == publication.inputs
    assert encode_publication(again) == text


def test_a_publication_that_was_stored_restates_to_itself() -> None:
    publication, result = published(
        [
            ("electricity", ElectricityUse(imported_kwh=1234.5)),
            ("fugitive", GasLoss(gas="R410A", loss=TopUp(added=2))),
        ]
    )
    text = encode_publication(publication)
    again = decode_publication(text)
    assert digest(encode_publication(again)) == digest(text)
    assert result.location.whole
    found = restate(again, LIBRARY, again.known_on)
    assert (list(found.changes), list(found.market_changes)) == ([], [])
    assert found.difference_kg_co2e == 0.0


def test_any_changed_figure_changes_the_digest() -> None:
    one, _ = published([("electricity", ElectricityUse(imported_kwh=1.0))])
    other, _ = published([("electricity", ElectricityUse(imported_kwh=1.0000000001))])
    assert digest(encode_publication(one)) != digest(encode_publication(other))


def test_what_is_not_ours_is_refused() -> None:
    with pytest.raises(ValueError, match="inventory_id"):
        decode_publication("{}")
