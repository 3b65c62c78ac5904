"""Projects as documents: what people send, what is stored of it, and the published cases that ship with Wattring.

A document has the fields of ``data/zero_carbon_office.json``; the domain checks what they say.
"""

import json
from collections.abc import Mapping
from datetime import date, time
from importlib.resources import files
from typing import Any

from libs.common.errors import NotFound
from services.carbon.domain.savings.measurement.measured import Basis
from services.carbon.domain.savings.measurement.plan import MeasurementPlan, Period
from services.carbon.domain.savings.measurement.prices import AgreedPrices, PriceBand
from services.carbon.domain.savings.projects.claims import Claim, ClaimKind
from services.carbon.domain.savings.projects.formula import Formula, Parameter
from services.carbon.domain.savings.projects.measures import Factor, Measure, Statement
from services.carbon.domain.savings.projects.project import Investment, Project, Stage
from services.carbon.domain.savings.projects.published import PublishedCase

Document = Mapping[str, Any]
"""A parsed JSON object."""

PUBLISHED = ("zero_carbon_office",)
"""Ids of the published cases that ship with Wattring; each is a file in ``data``."""


def load_published(case_id: str = PUBLISHED[0]) -> PublishedCase:
    """Return a shipped case.

    Raises:
        NotFound: None of that id is shipped.
        InvalidInput: A measure of it is refused (``measures.Measure``); the tests load every shipped one.
    """
    if case_id not in PUBLISHED:
        raise NotFound(
            f"there is no published case {case_id}; there are {', '.join(PUBLISHED)}",
            message_zh=f"没有公开案例 {case_id},现有 {', '.join(PUBLISHED)}",
        )
    document = json.loads((files("services.carbon") / "data" / f"{case_id}.json").read_text(encoding="utf-8"))
    return PublishedCase(project=project_of(document), source=document["source"])


def project_of(document: Document) -> Project:
    """Return the project of a document.

    Raises:
        InvalidInput: The domain refuses it; the message says what and where.
    """
    prices = document.get("prices")
    return Project(
        project_id=document["project_id"],
        name=document["name"],
        name_zh=document["name_zh"],
        nodes=tuple(document.get("nodes", ())),
        measures=tuple(_measure(row) for row in document["measures"]),
        investments=tuple(
            Investment(name=row["name"], amount_cny=row["amount_cny"], spent_on=_day(row.get("spent_on")))
            for row in document.get("investments", ())
        ),
        stages=tuple(_stage(row) for row in document.get("stages", ())),
        claims=tuple(_claim(row, document.get("source") or "") for row in document.get("claims", ())),
        prices=None if prices is None else prices_of(prices),
        years=document.get("years", 15),
        offset_price_cny_per_t=document.get("offset_price_cny_per_t", 0.0),
    )


def prices_of(document: Document) -> AgreedPrices:
    """Return the prices of a document.

    Raises:
        InvalidInput: They leave a quarter hour without a price, or give it two.
    """
    return AgreedPrices(
        prices_id=document["prices_id"],
        version=document["version"],
        source=document["source"],
        bands=tuple(
            PriceBand(
                band=row["band"],
                price_cny_per_kwh=row["price_cny_per_kwh"],
                hours=tuple((_clock(start) or time(), _clock(end)) for start, end in row["hours"]),
            )
            for row in document["bands"]
        ),
    )


def measurement_of(document: Document) -> MeasurementPlan:
    """Return the measurement plan of a document.

    Raises:
        InvalidInput: Nothing can be measured by it.
    """
    before = document.get("before")
    return MeasurementPlan(
        basis=Basis(document["basis"]),
        after=_period(document["after"]),
        before=None if before is None else _period(before),
        driver=document.get("driver") or "",
        driver_before=document.get("driver_before", 1.0),
        driver_after=document.get("driver_after", 1.0),
        load_circuits=tuple(document.get("load_circuits", ())),
    )


def _measure(row: Document) -> Measure:
    measurement = row.get("measurement")
    return Measure(
        measure_id=row["measure_id"],
        name=row["name"],
        name_zh=row["name_zh"],
        statement=Statement(row["statement"]),
        unit=row["unit"],
        saving=Formula.of(row["saving"]),
        parameters=_parameters(row.get("parameters", {})),
        factor=Factor(**row["factor"]),
        baseline=_formula(row.get("baseline")),
        money=_formula(row.get("money")),
        circuits=tuple(row.get("circuits", ())),
        measurement=None if measurement is None else measurement_of(measurement),
    )


def _claim(row: Document, source: str) -> Claim:
    return Claim(
        claim_id=row["claim_id"],
        name=row["name"],
        name_zh=row["name_zh"],
        kind=ClaimKind(row["kind"]),
        printed=float(row["printed"]),
        unit=row["unit"],
        decimals=row["decimals"],
        source=source,
        formula=_formula(row.get("formula")),
        parameters=_parameters(row["parameters"]) if row.get("parameters") is not None else None,
        parts=tuple(row.get("parts", ())),
        reason=row.get("reason", ""),
        reason_zh=row.get("reason_zh", ""),
        corrected_by=row.get("corrected_by"),
    )


def _stage(row: Document) -> Stage:
    return Stage(
        name=row["name"],
        name_zh=row["name_zh"],
        planned=_day(row["planned"]) or date.min,
        actual=_day(row.get("actual")),
        person=row.get("person"),
        evidence=row.get("evidence"),
    )


def _formula(text: str | None) -> Formula | None:
    return None if text is None else Formula.of(text)


def _parameters(rows: Mapping[str, Document]) -> dict[str, Parameter]:
    return {name: Parameter(name=name, **row) for name, row in rows.items()}


def _period(row: Document) -> Period:
    return Period(start=_day(row["start"]) or date.min, end=_day(row["end"]) or date.min)


def _day(text: str | None) -> date | None:
    return None if text is None else date.fromisoformat(text)


def _clock(text: str) -> time | None:
    """Return a time of day; ``24:00`` is the next midnight, None."""
    return None if text == "24:00" else time.fromisoformat(text)
