"""Every figure that carbon answers has its why: none is added without saying what it is made of."""

import asyncio
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest

from libs.common.tokens import Principal
from services.carbon import api
from services.carbon.api.why import Explainers, explained
from services.carbon.tree import Node, NodeKind
from services.carbon.usecases.why import Figure, Wanted, question, trace_link

F = Figure
ENTERED = "what people have entered, or what came with the platform"
PROVED = "has proofs of its own (attestations)"
FILED = "figures of other paths, as they were when the report was filed"
STANDING = {
    F.TARGET, F.TARGET_MEASURED, F.FORECAST, F.FORECAST_HALF, F.FORECAST_LOW, F.FORECAST_HIGH, F.TARGET_GAP,
    F.TARGET_PACE,
}  # fmt: skip
SHUTDOWN = {
    F.SAVING, F.SAVING_SHARE, F.SAVING_WINDOW, F.SAVING_BASELINE, F.SAVING_REBOUND, F.SAVING_USUAL,
    F.SAVING_USUAL_AFTER, F.SAVING_EMISSION, F.SAVING_WINDOW_EMISSION, F.SAVING_MONEY, F.SAVING_ERROR,
}  # fmt: skip
TRACED: dict[str, set[Figure] | str] = {
    "/energy": {F.ENERGY, F.COMPLETENESS},
    "/energy/profile": {F.ENERGY, F.DEMAND, F.LOWEST, F.MEAN_LOAD, F.LOAD_FACTOR, F.COMPLETENESS},
    "/energy/coverage": {F.ENERGY, F.SHARE},
    "/energy/breakdown": {F.ENERGY, F.SHARE},
    "/energy/balance": {F.ENERGY, F.FLOW, F.DELIVERED, F.CONSUMED, F.CLEAN_SHARE},
    "/energy/pue": {F.PUE, F.CONSUMED},
    "/energy/intensity": {F.INTENSITY},
    "/energy/comparison": {F.CHANGE, F.CHANGE_DAILY, F.PER_DAY, F.LIKE_FOR_LIKE},
    "/energy/ranking": {F.ENERGY, F.INTENSITY},
    "/energy/power-factor": {F.POWER_FACTOR},
    "/energy/imbalance": {F.IMBALANCE},
    "/energy/load-rates": {F.LOAD_RATE, F.LOAD_MEAN, F.LOAD_TIME, F.LOAD_QUARTER, F.APPARENT, F.REACTIVE},
    "/energy/virtual-meters": ENTERED,
    "/energy/virtual-meters/{meter_id}": {F.VIRTUAL, F.VIRTUAL_INTERVAL},
    "/energy/virtual-meters/{meter_id}/profile": {F.VIRTUAL, F.VIRTUAL_INTERVAL},
    "/energy/virtual-meters/{meter_id}/emissions": {F.VIRTUAL_EMISSION, F.VIRTUAL_YEAR, F.VIRTUAL_SITE},
    "/energy/media": {F.MEDIUM, F.MEDIUM_CIRCUIT, F.MEDIUM_INTERVAL},
    "/emissions/media": {F.MEDIUM_EMISSION, F.MEDIUM_SITE},
    "/energy/facts": ENTERED,
    "/energy/standard-coal": ENTERED,
    "/energy/cost": {F.COST, F.COST_LINE, F.BAND_ENERGY, F.TARIFF_ENERGY, F.TARIFF_COST},
    "/energy/trace": {F.CIRCUIT, F.PARTS, F.INTERVAL},
    "/emissions": {F.EMISSION, F.SITE_YEAR},
    "/emissions/efficiency": {
        F.EFFICIENCY,
        F.EFFICIENCY_INTENSITY,
        F.EFFICIENCY_NET,
        F.EFFICIENCY_GROSS,
        F.EFFICIENCY_DEDUCTED,
        F.EFFICIENCY_COVERED,
    },
    "/emissions/efficiency/standards": ENTERED,
    "/emissions/products": ENTERED,
    "/emissions/products/{product_id}": ENTERED,
    "/emissions/products/{product_id}/history": ENTERED,
    "/emissions/products/{product_id}/footprint": {
        F.FOOTPRINT,
        F.FOOTPRINT_FLOW,
        F.FOOTPRINT_INPUT,
        F.FOOTPRINT_PRIMARY,
        F.FOOTPRINT_QUALITY,
    },
    "/emissions/avoided": {F.AVOIDED},
    "/emissions/avoided/{statement_id}/versions/{version}": {F.AVOIDED, F.AVOIDED_LINE},
    "/emissions/avoided/{statement_id}/versions/{version}/statement": {F.AVOIDED, F.AVOIDED_LINE},
    "/inventories": {F.INVENTORY},
    "/inventories/{inventory_id}/versions/{version}": {F.INVENTORY, F.INVENTORY_LINE, F.INVENTORY_USE, F.STANDARD_COAL},
    "/inventories/{inventory_id}/versions/{version}/statement": {F.INVENTORY, F.INVENTORY_LINE},
    "/inventories/{inventory_id}/versions/{version}/restatement": {F.INVENTORY, F.INVENTORY_LINE},
    "/demand/basic-tariff": {F.BASIC_FEE, F.BASIC_MONTH, F.ACCOUNT_DEMAND},
    "/bills": ENTERED,
    "/bills/accounts": ENTERED,
    "/bills/{account}/{number}": ENTERED,
    "/bills/reconciliation": {F.BILL, F.METERED},
    "/bills/accruals": {F.ACCRUAL, F.ACCRUED_ENERGY, F.BILLED, F.BILLED_MONEY, F.METERED},
    "/bills/media": ENTERED,
    "/bills/media/{medium}/accounts": ENTERED,
    "/bills/media/{medium}/{account}/{number}": ENTERED,
    "/bills/media/{medium}/reconciliation": {F.MEDIUM_BILL, F.MEDIUM_METERED},
    "/targets": ENTERED,
    "/targets/{target_id}": STANDING,
    "/targets/{target_id}/children": STANDING,
    "/savings/shutdowns": SHUTDOWN,
    "/savings/shutdowns/{occurrence_id}": SHUTDOWN,
    "/savings/statements/{statement_id}": {F.STATEMENT, F.STATEMENT_LINE, F.STATEMENT_METER, F.STATEMENT_SAVING},
    "/savings/contracts/{contract_id}/statements": {F.STATEMENT},
    "/projects/{project_id}/assessment": {F.PROJECT, F.MEASURE},
    "/savings/published/{case_id}": "printed and corrected line by line beside each other",
    "/savings/published": ENTERED,
    "/savings/contracts": ENTERED,
    "/savings/contracts/{contract_id}": ENTERED,
    "/savings/outages": ENTERED,
    "/savings/temperatures/{place}": ENTERED,
    "/projects": ENTERED,
    "/projects/{project_id}": ENTERED,
    "/projects/{project_id}/history": ENTERED,
    "/reports": FILED,
    "/reports/definitions": ENTERED,
    "/reports/definitions/{definition_id}": ENTERED,
    "/reports/jobs": "how far reports are",
    "/reports/jobs/{job_id}": "how far a report is",
    "/reports/{definition_id}/{edition}/versions/{version}": FILED,
    "/reports/{definition_id}/{edition}/versions/{version}/files/{form}": FILED,
    "/reports/{definition_id}/{edition}/versions/{version}/tables/{table}": FILED,
    "/factors": ENTERED,
    "/factors/{factor_id}": ENTERED,
    "/tariffs": ENTERED,
    "/tariffs/prices": ENTERED,
    "/tariffs/special-days": ENTERED,
    "/tariffs/{tariff_id}": ENTERED,
    "/tariffs/{tariff_id}/export": ENTERED,
}
"""Of every path that answers figures, which traces say why; or why none does."""


def paths() -> Iterator[str]:
    """Yield every path of carbon that answers something."""
    names = [api.__name__, *(f"{api.__name__}.{one.name}" for one in pkgutil.iter_modules(api.__path__))]
    for module in map(importlib.import_module, names):
        for name, build in vars(module).items():
            if name.startswith("build_") and build.__module__ == module.__name__:
                router = build(**{each: MagicMock() for each in inspect.signature(build).parameters})
                yield from (route.path for route in router.routes if "GET" in route.methods)


def test_every_path_says_which_traces_explain_it() -> None:
    found = {path.removeprefix("/api/v1") for path in paths()}
    assert {path for path in found if not path.startswith("/attestations")} == TRACED.keys()
    assert set().union(*(figures for figures in TRACED.values() if isinstance(figures, set))) == set(Figure)


@pytest.mark.parametrize("figure", list(Figure))
def test_every_figure_is_explained_by_somebody(figure: Figure) -> None:
    who = MagicMock(spec=Principal, sites=None)
    whys: dict[str, Any] = {name: MagicMock() for name in Explainers.__slots__}
    asked = Wanted(
        figure=figure, node=Node(NodeKind.CIRCUIT, "c"), id="x", start=datetime(2026, 3, 1, tzinfo=UTC),
        end=datetime(2026, 3, 2, tzinfo=UTC),
    )  # fmt: skip
    answers = AsyncMock(return_value=MagicMock(inputs=[]))
    for explainer in whys.values():
        explainer.configure_mock(**dict.fromkeys((one.value for one in Figure), answers))
    for owner, name in (("energy", "interval"), ("ratios", "delivered"), ("media", "medium_interval")):
        whys[owner].configure_mock(**{name: AsyncMock(return_value=("why", "below"))})
    whys["virtual"].node = AsyncMock(return_value=asked.node)
    whys["savings"] = MagicMock(report=AsyncMock())
    whys["projects"] = MagicMock(nodes=AsyncMock(return_value=[]), assessed=AsyncMock())
    whys["statements"] = MagicMock(shown=AsyncMock())
    whys["footprints"] = MagicMock(product=AsyncMock(), known=AsyncMock())
    assert asyncio.run(explained(Explainers(**whys), who, asked)) is not None


def test_a_report_writes_the_address_that_explains_a_figure() -> None:
    node = Node(NodeKind.SITE, "site-1")
    first, last = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
    assert trace_link(question(Figure.ENERGY, node, first, last)) == (
        "/api/v1/energy/trace?figure=energy&site=site-1&from=2026-03-01T00%3A00%3A00Z&to=2026-04-01T00%3A00%3A00Z"
    )
