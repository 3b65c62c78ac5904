"""Tables 1 to 6 as rows: asked of their owners, in the units of the tables, unknown as unknown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from libs.common.accessstandard import ITEMS
from libs.common.clock import CIVIL_ZONE
from libs.common.errors import NotFound, Unavailable
from services.export.domain.exports import Dataset, ExportPlan, FileForm, Period, Row, Span, Step, period_of
from services.export.domain.records import Refusal, read_row
from services.export.exports.sources import REPORTS_PAGE, ServiceSource
from services.export.exports.standard import CircuitFacts, SiteFacts
from tests.unit.export.test_export_scheduled import PLAN, RULES

SINCE = datetime(2025, 1, 1, tzinfo=UTC)


@dataclass
class Service:
    """Answers by path, and remembers what it was asked."""

    answers: Mapping[str, Any]
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def get(self, path: str, *, timeout_s: float = 0, **params: Any) -> Any:
        self.asked.append((path, params))
        answer = self.answers[path]
        return answer(params) if callable(answer) else answer

    async def download(self, path: str, *, timeout_s: float = 0, **params: Any) -> bytes:
        self.asked.append((path, params))
        if path not in self.answers:
            raise NotFound("no such file")
        return bytes(self.answers[path])


class Registry:
    """One site with three circuits and a meter."""

    def all_sites(self) -> Sequence[str]:
        return ["s-1"]

    def devices_at(self, site_id: str) -> Sequence[str]:
        return ["m-1", "m-2"]

    def site(self, site_id: str) -> SiteFacts | None:
        return SiteFacts("东山局", "广州市越秀区", "0301234567", "某公司", SINCE) if site_id == "s-1" else None

    def circuits_at(self, site_id: str) -> Sequence[CircuitFacts]:
        return [
            CircuitFacts("c-1", "总进线", 1, "总进线", SINCE),
            CircuitFacts("c-2", "空调", 2, "总进线/空调", SINCE),
            CircuitFacts("c-4", "照明", 4, "总进线/照明", SINCE),
        ]


def energy(params: Mapping[str, Any]) -> Any:
    steps = {"day": timedelta(days=1), "hour": timedelta(hours=1), "quarter_hour": timedelta(minutes=15)}
    step = steps.get(params["step"])
    start, end = (datetime.fromisoformat(params[name].replace("Z", "+00:00")) for name in ("from", "to"))
    step = step or end - start
    common = {
        "provisional": False, "usable_share": 1.0, "estimated_share": 0.0, "lower_bound": False, "uncertain": False,
    }  # fmt: skip
    periods = []
    while start < end:
        periods.append(
            {"start": start.isoformat(), "end": (start + step).isoformat(), "energy_kwh": 1.25,
             "interval_completeness": 0.75, "emission_kg_co2": 1250.0, **common}
        )  # fmt: skip
        start += step
    return {"periods": periods}


def media(params: Mapping[str, Any]) -> Any:
    def of(medium: str, unit: str, quantity: float | None) -> dict[str, Any]:
        period = {"start": params["from"], "end": params["to"], "quantity": quantity, "interval_completeness": 1.0}
        return {"medium": medium, "unit": unit, "periods": [period]}

    return {
        "media": [of("water", "m3", 7.5), of("gas", "m3", None), of("heat", "kWh", 10.0), of("cold", "kWh", -1.0),
                  of("steam", "t", 3.0)]
    }  # fmt: skip


def readings(params: Mapping[str, Any]) -> Any:
    if params["device"] != "m-1":
        return {"items": []}
    at = params["from"]
    if "cursor" in params:
        return {"items": [{"device_id": "m-1", "source_time": at, "received_at": at, "points": {"voltage_b": 228.0}}]}
    points = {"voltage_a": 229.5, "current_a": None, "reactive_power_total": 1.5}
    first = {"device_id": "m-1", "source_time": at, "received_at": at, "points": points, "quality": {}}
    return {"items": [first], "next_cursor": "more"}


def bills(params: Mapping[str, Any]) -> Any:
    return {"items": [{"first_day": "2026-03-01", "last_day": "2026-03-31", "amount_cny": "1234.50"}]}


def fees(params: Mapping[str, Any]) -> Any:
    """Answer with a bill of the period, and where it is of heat with one of another account and of a season."""
    first, after = params["from"], date.fromisoformat(params["to"])
    last = (after - timedelta(days=1)).isoformat()
    found = [{"account_number": "A-1", "first_day": first, "last_day": last, "amount_cny": "98.70"}]
    if params["medium"] == "heat":
        season = {"first_day": f"{first[:4]}-01-01", "last_day": f"{first[:4]}-03-15"}
        found.append({"account_number": "A-2", **season, "amount_cny": "50.00"})
    return {"items": found}


def source() -> tuple[ServiceSource, Service]:
    carbon = Service(
        {
            "/api/v1/energy": energy,
            "/api/v1/emissions": energy,
            "/api/v1/energy/media": media,
            "/api/v1/bills": bills,
            "/api/v1/bills/media": fees,
        }
    )
    ingest = Service({"/api/v1/readings": readings})
    return ServiceSource(carbon=carbon, ingest=ingest, alarm=Service({}), sites=Registry()), carbon


def of(table: int, span: Span) -> ExportPlan:
    return replace(PLAN, dataset=Dataset.STANDARD, table=table, span=span, rule=RULES[span], sites=())


async def told(table: int, span: Span) -> list[Row]:
    plan = of(table, span)
    due = datetime(2026, 4, 3, 12, 1, tzinfo=CIVIL_ZONE)
    period = period_of(replace(plan, delay_s=0), due)
    found, _ = source()
    return [row for page in [page async for page in found.pages(plan, period)] for row in page]


def shown(rows: Sequence[Row], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row.get(name) for name in names) for row in rows]


async def test_table_1_has_emissions_in_tonnes() -> None:
    rows = await told(1, Span.MONTH)
    assert shown(rows, "item", "value", "text", "unit") == [
        ("entity_name", None, "某公司", None),
        ("emission_tco2e", 1.25, None, "tCO2e"),
    ]
    assert rows[1]["completeness"] == 0.75


async def test_table_2_by_month_has_archive_energy_and_bills() -> None:
    rows = await told(2, Span.MONTH)
    assert shown(rows, "number", "value", "text", "unit") == [
        (1, None, "0301234567", None),
        (2, None, "某公司", None),
        (3, None, "广州市越秀区", None),
        (5, 1.25, None, "kWh"),
        (9, 1234.5, None, "CNY"),
    ]
    assert rows[4]["start"] == datetime(2026, 3, 1, tzinfo=CIVIL_ZONE)
    assert rows[4]["end"] == datetime(2026, 4, 1, tzinfo=CIVIL_ZONE)


async def test_table_2_by_hour_has_the_mean_power_of_quarters() -> None:
    rows = [row for row in await told(2, Span.HOUR) if row["item"] == "load_kw"]
    assert shown(rows, "value", "unit") == [(5.0, "kW")] * 4  # 1.25 kWh in a quarter of an hour


@pytest.mark.parametrize(("table", "items"), [(3, ["water_t", "water_cost_cny"]), (4, ["heating_kwh", "cooling_kwh"])])
async def test_tables_3_and_4_have_media_by_month(table: int, items: list[str]) -> None:
    rows = [row for row in await told(table, Span.MONTH) if row["unit"] is not None]
    assert [row["item"] for row in rows] == items
    if table == 3:
        assert shown(rows, "value", "unit") == [(7.5, "t"), (98.7, "CNY")]
        assert shown(rows[1:], "subject", "start", "end") == [
            ("s-1", datetime(2026, 3, 1, tzinfo=CIVIL_ZONE), datetime(2026, 4, 1, tzinfo=CIVIL_ZONE)),
        ]  # fmt: skip
    else:  # what its row of the table refuses has no value, and says why
        assert shown(rows, "value") == [(10.0,), (None,)]
        assert "below 0" in str(rows[1]["note"])


async def test_table_4_has_bills_by_year_and_what_is_of_other_days_has_a_note() -> None:
    rows = [row for row in await told(4, Span.YEAR) if row["unit"] is not None]
    assert shown(rows, "item", "subject", "value", "unit") == [
        ("cooling_cost_cny", "s-1", 98.7, "CNY"),
        ("heating_cost_cny", "A-1", 98.7, "CNY"),
        ("heating_cost_cny", "A-2", None, "CNY"),
    ]
    assert rows[0]["start"] == datetime(2025, 1, 1, tzinfo=CIVIL_ZONE)
    assert "a whole civil period: year" in str(rows[2]["note"])


async def test_what_is_told_of_a_bill_can_be_taken_again() -> None:
    for table, span in ((3, Span.MONTH), (4, Span.YEAR)):
        for line, told_row in enumerate(await told(table, span)):
            if str(told_row["item"]).endswith("_cny") and told_row.get("value") is not None:
                assert not isinstance(read_row(line, told_row), Refusal)


async def test_table_5_has_points_of_meters_in_its_units() -> None:
    rows = [row for row in await told(5, Span.QUARTER_HOUR) if row.get("point")]
    assert shown(rows, "subject", "point", "item", "value", "unit") == [
        ("m-1", "voltage_a", "voltage_v", 229.5, "V"),
        ("m-1", "current_a", "current_a", None, "A"),
        ("m-1", "reactive_power_total", "reactive_power_var", 1500.0, "var"),
        ("m-1", "voltage_b", "voltage_v", 228.0, "V"),
    ]


async def test_table_6_has_what_the_user_meters_itself() -> None:
    rows = await told(6, Span.DAY)
    assert {row["subject"] for row in rows} == {"s-1", "c-2"}
    assert shown([row for row in rows if row["subject"] == "c-2"], "item", "value", "text") == [
        ("supply_path", None, "总进线/空调"),
        ("metering_point", None, "空调"),
        ("energy_kwh", 1.25, None),
        ("water_t", 7.5, None),
        ("gas_m3", None, None),
        ("heating_kwh", 10.0, None),
        ("cooling_kwh", None, None),
    ]


@pytest.mark.parametrize(
    ("table", "span"),
    [
        (1, Span.MONTH),
        (2, Span.DAY),
        (2, Span.QUARTER_HOUR),
        (3, Span.MONTH),
        (4, Span.YEAR),
        (5, Span.HOUR),
        (6, Span.DAY),
    ],
)
async def test_every_row_is_a_row_of_its_table(table: int, span: Span) -> None:
    for row in await told(table, span):
        item = ITEMS[table, str(row["item"])]
        assert (row["table"], row["number"], row["item_zh"], row["unit"]) == (
            table, item.number, item.name_zh, item.unit,
        )  # fmt: skip


async def test_energy_of_a_year_is_asked_for_a_month_at_a_time() -> None:
    found, carbon = source()
    plan = replace(PLAN, sites=("s-1",), circuits=("c-2",), step=Step.DAY)
    year = Period(datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
    rows = [row async for page in found.pages(plan, year) for row in page]
    assert len(rows) == 2 * 365
    assert [(one["from"], "circuit" in one) for _, one in carbon.asked][:2] == [
        ("2025-01-01T00:00:00Z", True),
        ("2025-02-01T00:00:00Z", True),
    ]
    assert len(carbon.asked) == 24


async def test_readings_are_a_row_for_each_point_with_its_quality() -> None:
    found, _ = source()
    plan = replace(PLAN, dataset=Dataset.READINGS, sites=("s-1",), devices=("m-1",))
    day = Period(datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 1, 2, tzinfo=UTC))
    rows = [row async for page in found.pages(plan, day) for row in page]
    assert shown(rows, "point", "value", "quality") == [
        ("current_a", None, "good"),
        ("reactive_power_total", 1.5, "good"),
        ("voltage_a", 229.5, "good"),
        ("voltage_b", 228.0, "good"),
    ]


async def test_an_answer_that_cannot_be_read_is_not_taken_for_no_rows() -> None:
    carbon = Service({"/api/v1/energy": {"error": "?"}})
    found = ServiceSource(carbon=carbon, ingest=Service({}), alarm=Service({}), sites=Registry())
    day = Period(datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 1, 2, tzinfo=UTC))
    with pytest.raises(Unavailable):
        _ = [page async for page in found.pages(PLAN, day)]


START = datetime(2026, 3, 1, tzinfo=UTC)
END = START + timedelta(days=1)


async def test_reports_that_were_finished_within_the_period_are_fetched_page_after_page() -> None:
    made = [START - timedelta(days=1)] * (REPORTS_PAGE - 1) + [START, START + timedelta(hours=1), END]
    editions = [
        {"definition_id": "monthly", "edition": f"e{number}", "version": 1, "made_at": at.isoformat()}
        for number, at in enumerate(made)
    ]

    def listed(params: dict[str, Any]) -> Any:
        assert params["definition"] == "monthly"
        first = 0 if "after" not in params else REPORTS_PAGE
        assert params.get("after") in (None, f"monthly/e{REPORTS_PAGE - 1}")
        return editions[first : first + params["limit"]]

    path = "/api/v1/reports/monthly/e{}/versions/1/files/pdf"
    carbon = Service({"/api/v1/reports": listed, path.format(REPORTS_PAGE - 1): b"%PDF"})
    source = ServiceSource(carbon=carbon, ingest=carbon, alarm=carbon, sites=Registry())
    plan = replace(PLAN, dataset=Dataset.REPORTS, form=FileForm.PDF, reports=("monthly",), language="en")
    found = [one async for one in source.reports(plan, Period(START, END))]
    assert [(one.name, one.body) for one in found] == [
        (f"monthly-e{REPORTS_PAGE - 1}-v1-en.pdf", b"%PDF"), (f"monthly-e{REPORTS_PAGE}-v1-en.pdf", None),
    ]  # fmt: skip
    assert carbon.asked[-1] == (path.format(REPORTS_PAGE), {"lang": "en"})
