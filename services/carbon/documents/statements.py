"""Contracts and statements as documents: what is stored, and what comes back out of it, digit by digit."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

from services.carbon.documents.projects import Document, prices_of
from services.carbon.domain.epc.contract import Contract
from services.carbon.domain.epc.metering import Party, Reconciliation, Registers
from services.carbon.domain.epc.statement import Content, Line
from services.carbon.domain.savings.measurement.measured import Adjustment, Basis, Doubt, MeasuredSaving
from services.carbon.domain.savings.measurement.plan import Period


def contract_of(document: Document, *, version: int) -> Contract:
    """Return the contract of a document.

    Raises:
        InvalidInput: The domain refuses it.
    """
    measurement = document["measurement"]
    before = measurement.get("before")
    return Contract(
        contract_id=document["contract_id"],
        version=version,
        name=document["name"],
        name_zh=document["name_zh"],
        names={Party(party): name for party, name in document["parties"].items()},
        signers={Party(party): tuple(persons) for party, persons in document["signers"].items()},
        circuits=tuple(document["circuits"]),
        basis=Basis(measurement["basis"]),
        before=None
        if before is None
        else Period(start=date.fromisoformat(before["start"]), end=date.fromisoformat(before["end"])),
        driver=measurement.get("driver") or "",
        driver_before=measurement.get("driver_before", 1.0),
        load_circuits=tuple(measurement.get("load_circuits", ())),
        prices=prices_of(document["prices"]),
        company_share=Decimal(document["company_share"]),
        start=date.fromisoformat(document["start"]),
        end=date.fromisoformat(document["end"]),
    )


def document_of(content: Content) -> dict[str, Any]:
    """Return a statement's content as it is stored."""
    found = _plain(asdict(content))
    assert isinstance(found, dict)  # noqa: S101  # a dataclass is a dict of its fields
    return found


def content_of(document: Document) -> Content:
    """Return the content of a stored document; its digest is that of what was stored."""
    saving = document["saving"]
    return Content(
        statement_id=document["statement_id"],
        contract_id=document["contract_id"],
        contract_version=document["contract_version"],
        version=document["version"],
        start=date.fromisoformat(document["start"]),
        end=date.fromisoformat(document["end"]),
        registers=tuple(
            Registers(
                **{
                    **row,
                    "start_at": datetime.fromisoformat(row["start_at"]),
                    "end_at": datetime.fromisoformat(row["end_at"]),
                }
            )
            for row in document["registers"]
        ),
        saving=MeasuredSaving(
            **{
                **saving,
                "basis": Basis(saving["basis"]),
                "start": date.fromisoformat(saving["start"]),
                "end": date.fromisoformat(saving["end"]),
                "adjustments": tuple(
                    Adjustment(**{**row, "made_at": datetime.fromisoformat(row["made_at"])})
                    for row in saving["adjustments"]
                ),
                "doubts": frozenset(Doubt(one) for one in saving["doubts"]),
            }
        ),
        lines=tuple(
            Line(**{**row, "price_cny_per_kwh": Decimal(row["price_cny_per_kwh"])}) for row in document["lines"]
        ),
        tariff_id=document["tariff_id"],
        tariff_version=document["tariff_version"],
        company_share=Decimal(document["company_share"]),
        reconciliation=tuple(
            Reconciliation(
                **{**row, "accepted_by": tuple((Party(party), person) for party, person in row["accepted_by"])}
            )
            for row in document["reconciliation"]
        ),
        supersedes=document["supersedes"],
    )


def _plain(value: Any) -> Any:
    match value:
        case Enum():
            return value.value
        case Mapping():
            return {str(key): _plain(one) for key, one in value.items()}
        case frozenset():
            return sorted(_plain(one) for one in value)
        case list() | tuple():
            return [_plain(one) for one in value]
        case date():
            return value.isoformat()
        case Decimal():
            return str(value)
    return value
