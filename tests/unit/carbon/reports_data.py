"""Small contents of reports, for tests of what becomes of them."""

from dataclasses import replace
from datetime import UTC, date, datetime

from libs.common.clock import CIVIL_ZONE
from services.carbon.domain.reports.content import (
    Chart,
    ChartKind,
    Column,
    ColumnKind,
    Quantity,
    Reason,
    Report,
    ReportKind,
    Section,
    Table,
    Text,
)

MADE_AT = datetime(2026, 4, 3, 6, 0, 5, tzinfo=UTC)


def table(*names: str, key: str = "course", values: tuple[float | None, ...] | None = None) -> Table:
    columns = (
        Column(key="name", title=Text("name", "名称")),
        Column(key="day", title=Text("day", "日期"), kind=ColumnKind.DAY),
        Column(key="at", title=Text("at", "时刻"), kind=ColumnKind.TIME),
        Column(key="energy_kwh", title=Text("energy", "用电量"), kind=ColumnKind.FIGURE, unit="kWh"),
        Column(key="share", title=Text("share", "占比"), kind=ColumnKind.FIGURE, percent=True, digits=1),
        Column(key="circuits", title=Text("circuits", "回路数"), kind=ColumnKind.COUNT),
    )
    found = values if values is not None else tuple(1234.5678 + place for place in range(len(names)))
    rows = tuple(
        (
            name,
            "2026-03-01",
            "2026-03-01T00:15:00+08:00",
            Quantity(
                value=value,
                completeness=0.98765 if value is not None else 0.0,
                why="energy",
                marks=("estimated",) if value is not None else ("unknown_input",),
                trace="/api/v1/energy/trace?figure=energy&site=s1",
            ),
            Quantity(value=0.25, completeness=None, why="share"),
            7,
        )
        for name, value in zip(names, found, strict=True)
    )
    chart = Chart(kind=ChartKind.BAR, title=Text("Energy", "用电量"), along="name", series=("energy_kwh",))
    return Table(key=key, title=Text("Course", "过程"), columns=columns, rows=rows, chart=chart)


def report(*tables: Table) -> Report:
    section = Section(
        key="course",
        title=Text("Course of the period", "周期内用能"),
        paragraphs=(Text("A remark.", "一条说明。"),),
        tables=tables or (table("一号楼", "Two"),),
    )
    return Report(
        kind=ReportKind.ENERGY_MONTHLY,
        title=Text("Monthly energy report", "能耗月报"),
        subject=Text("Park, 2026-03", "园区,2026年3月"),
        start=datetime(2026, 3, 1, tzinfo=CIVIL_ZONE),
        end=datetime(2026, 4, 1, tzinfo=CIVIL_ZONE),
        known_on=date(2026, 4, 3),
        made_at=MADE_AT,
        software="0.1.0",
        question='{"edition":"2026-03"}',
        sections=(section, replace(section, key="again", title=Text("Course/of:the period", "周期内用能"), tables=())),
        reasons=(
            Reason(
                key="energy",
                formula=Text("sum of intervals", "区间电量之和"),
                source="methods 1",
                path="/api/v1/energy?site=s1",
                origins=("circuit feed-1", "circuit feed-2"),
            ),
            Reason(key="share", formula=Text("part over whole", "部分 / 合计"), source="methods 2", path=""),
        ),
    )
