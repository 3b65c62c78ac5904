"""An inventory of one meter, a certificate and an own factor, as the tests of inventories enter them."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal

from libs.common.clock import CIVIL_ZONE
from libs.common.tokens import Principal
from services.carbon.domain.emissions.certificates import Certificate, InstrumentKind
from services.carbon.domain.factors import EmissionFactor, Family, Place
from services.carbon.domain.inventory.boundary import Approach, Boundary, Part, Span
from services.carbon.domain.inventory.sources import ElectricityUse, Inputs, Source

NOW = datetime(2026, 11, 21, 4, tzinfo=UTC)
WANG = Principal("wang", "user", frozenset({"carbon:write"}))
YEAR = Span(datetime(2023, 1, 1, tzinfo=CIVIL_ZONE), datetime(2024, 1, 1, tzinfo=CIVIL_ZONE))
GREEN = Certificate(
    number="GEC-1",
    kind=InstrumentKind.CERTIFICATE,
    market="CN",
    vintage=2023,
    technology="wind",
    beneficiary="org-1",
    cancelled_on=date(2024, 2, 1),
    sold_with_power=False,
    evidence="scan.pdf",
)
OWN = EmissionFactor(
    factor_id="MY-44-2023",
    series="grid-average",
    family=Family.AVERAGE,
    category="electricity",
    region="CN-44",
    data_year=2023,
    value=Decimal("0.4300"),
    unit="kgCO2/kWh",
    gas="CO2",
    source="a correction",
    source_year=2026,
    known_from=date(2020, 1, 1),
    confidence="verified",
    name_en="Guangdong",
    name_zh="广东",
    evidence="announcement.pdf",
)


def inputs(*certificates: Certificate, nodes: Sequence[str] = ("site-1",)) -> Inputs:
    """Return 10 MWh of a meter of site-1 in 2023, as an inventory of some nodes."""
    return Inputs(
        boundary=Boundary("org-1", Approach.OPERATIONAL_CONTROL, [Part(node, YEAR) for node in nodes]),
        sources=[
            Source(
                line_id="a",
                node="site-1",
                place=Place("44"),
                category="electricity",
                span=YEAR,
                activity=ElectricityUse(imported_kwh=10_000.0),
                origin="meter",
            )
        ],
        certificates=list(certificates),
    )
