"""Products as documents: what people send of a product and its flows, and what is stored of it."""

from typing import Any

from services.carbon.documents.projects import Document
from services.carbon.domain.footprint import (
    Account,
    Allocation,
    AllocationBy,
    Boundary,
    CutOff,
    CutOffBy,
    DataQuality,
    Flow,
    Product,
    Stage,
)


def product_of(document: Document) -> Product:
    """Return the product of a document.

    Raises:
        InvalidInput: The domain refuses it; the message says what and where.
    """
    return Product(
        product_id=document["product_id"],
        name=document["name"],
        name_zh=document["name_zh"],
        functional_unit=document["functional_unit"],
        boundary=Boundary(document["boundary"]),
        year=document["year"],
        flows=tuple(_flow(row) for row in document["flows"]),
        allocations=tuple(
            Allocation(
                allocation_id=row["allocation_id"],
                by=AllocationBy(row["by"]),
                reason=row["reason"],
                shares=dict(row["shares"]),
            )
            for row in document.get("allocations", ())
        ),
        cut_offs=tuple(
            CutOff(
                name=row["name"],
                stage=Stage(row["stage"]),
                by=CutOffBy(row["by"]),
                amount=row["amount"],
                reason=row["reason"],
            )
            for row in document.get("cut_offs", ())
        ),
    )


def _flow(row: dict[str, Any]) -> Flow:
    return Flow(
        flow_id=row["flow_id"],
        stage=Stage(row["stage"]),
        name=row["name"],
        amount=row["amount"],
        unit=row["unit"],
        series=row["series"],
        electricity=row.get("electricity", False),
        source=row["source"],
        quality=DataQuality(**row["quality"]),
        primary=row["primary"],
        scrap_rate=row.get("scrap_rate", 0.0),
        allocation=row.get("allocation"),
        account=Account(row.get("account", Account.FOOTPRINT)),
        province=row.get("province"),
        year=row.get("year"),
        supplier=row.get("supplier"),
    )
