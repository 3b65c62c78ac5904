"""What stands in the files, asked of the services that own it, a page at a time.

Nothing here counts or converts: energy is what carbon has accounted for, readings what ingest has stored, alarms what
alarm has decided. Whoever is away is ``Unavailable``, and the run is made later.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from pydantic import AwareDatetime, BaseModel

from libs.common.errors import NotFound
from services.export.domain.exports import Column, ColumnKind, Dataset, ExportPlan, Period, Row
from services.export.exports import standard
from services.export.exports.asking import CALL_TIMEOUT_S, PAGE_ROWS, Asked, AskedForFiles, pages_of, read_as, text_of
from services.export.exports.standard import Registry, StandardTables

ENERGY_DAYS = 31
"""Of energy so much is asked for at a time: carbon bounds a question."""
REPORTS_PAGE = 100
SITES_PER_QUESTION = 100
"""Sites that one address names; a longer one is cut somewhere on the way."""

TEXT, NUMBER, COUNT, TIME, FLAG = (
    ColumnKind.TEXT,
    ColumnKind.NUMBER,
    ColumnKind.COUNT,
    ColumnKind.TIME,
    ColumnKind.FLAG,
)

COLUMNS: dict[Dataset, tuple[Column, ...]] = {
    Dataset.ENERGY: (
        Column("node_kind", TEXT, None, "对象类别"),
        Column("node_id", TEXT, None, "对象编号"),
        Column("start", TIME, None, "开始时间"),
        Column("end", TIME, None, "结束时间"),
        Column("energy_kwh", NUMBER, "kWh", "用电量"),
        Column("interval_completeness", NUMBER, "1", "数据完整率"),
        Column("usable_share", NUMBER, "1", "可用数据占比"),
        Column("estimated_share", NUMBER, "1", "估算电量占比"),
        Column("lower_bound", FLAG, None, "仅为下限"),
        Column("uncertain", FLAG, None, "存疑"),
        Column("provisional", FLAG, None, "时段未结束"),
    ),
    Dataset.READINGS: (
        Column("site_id", TEXT, None, "局站编号"),
        Column("device_id", TEXT, None, "设备编号"),
        Column("source_time", TIME, None, "设备时间"),
        Column("received_at", TIME, None, "接收时间"),
        Column("point", TEXT, None, "测点"),
        Column("value", NUMBER, None, "值(测点的标准单位)"),
        Column("quality", TEXT, None, "质量"),
        Column("late", FLAG, None, "迟到"),
    ),
    Dataset.STANDARD: standard.COLUMNS,
    Dataset.REPORTS: (),
    Dataset.ALARMS: (
        Column("alarm_id", TEXT, None, "告警编号"),
        Column("site_id", TEXT, None, "局站编号"),
        Column("device_id", TEXT, None, "设备编号"),
        Column("signal", TEXT, None, "信号编码"),
        Column("signal_name_zh", TEXT, None, "信号名称"),
        Column("level", COUNT, None, "告警等级"),
        Column("state", TEXT, None, "状态"),
        Column("began_at", TIME, None, "发生时间"),
        Column("ended_at", TIME, None, "恢复时间"),
        Column("end_reason", TEXT, None, "恢复原因"),
        Column("inhibited_by", TEXT, None, "抑制原因"),
        Column("point", TEXT, None, "测点"),
        Column("value", NUMBER, None, "触发值"),
        Column("threshold", NUMBER, None, "门限"),
        Column("unit", TEXT, None, "单位"),
        Column("detail_zh", TEXT, None, "说明"),
        Column("acknowledged_at", TIME, None, "确认时间"),
        Column("acknowledged_by", TEXT, None, "确认人"),
    ),
}


@dataclass(frozen=True, slots=True)
class ReportFile:
    """A report as a file."""

    name: str
    body: bytes | None
    """None: it was not filed in that form and language."""


class Source(Protocol):
    """Where rows come from."""

    def columns(self, plan: ExportPlan) -> Sequence[Column]:
        """Return what the rows have."""

    def pages(self, plan: ExportPlan, period: Period) -> AsyncIterator[Sequence[Row]]:
        """Return the rows of a period, in batches that fit into memory.

        Raises:
            PlatformError: Somebody is away (``Unavailable``) or refuses.
        """

    def reports(self, plan: ExportPlan, period: Period) -> AsyncIterator[ReportFile]:
        """Return the reports that were finished within a period; raises as ``pages``."""


class _Edition(BaseModel):
    definition_id: str
    edition: str
    version: int
    made_at: AwareDatetime


class _Editions(BaseModel):
    items: list[_Edition]


class _Energy(BaseModel):
    start: AwareDatetime
    end: AwareDatetime
    energy_kwh: float | None
    provisional: bool
    interval_completeness: float | None
    usable_share: float | None
    estimated_share: float
    lower_bound: bool
    uncertain: bool


class _EnergyReply(BaseModel):
    periods: list[_Energy]


class _Reading(BaseModel):
    device_id: str
    site_id: str | None = None
    source_time: AwareDatetime
    received_at: AwareDatetime
    points: dict[str, float | None]
    quality: dict[str, str] = {}
    late: bool = False


class _Readings(BaseModel):
    items: list[_Reading]
    next_cursor: str | None = None


class _Alarm(BaseModel):
    alarm_id: str
    site_id: str
    device_id: str | None
    signal: str
    signal_name_zh: str | None
    level: int
    state: str
    began_at: AwareDatetime
    ended_at: AwareDatetime | None
    end_reason: str | None
    inhibited_by: str | None
    point: str | None
    value: float | None
    threshold: float | None
    unit: str | None
    detail_zh: str | None
    acknowledged_at: AwareDatetime | None
    acknowledged_by: str | None


class _Alarms(BaseModel):
    items: list[_Alarm]
    next_cursor: str | None = None


class ServiceSource:
    """Rows of carbon, ingest and alarm, over HTTP."""

    def __init__(self, *, carbon: AskedForFiles, ingest: Asked, alarm: Asked, sites: Registry) -> None:
        """Keep the clients."""
        self._carbon = carbon
        self._ingest = ingest
        self._alarm = alarm
        self._sites = sites
        self._standard = StandardTables(carbon=carbon, ingest=ingest, registry=sites)

    def columns(self, plan: ExportPlan) -> Sequence[Column]:
        """See ``Source``."""
        return COLUMNS[plan.dataset]

    async def pages(self, plan: ExportPlan, period: Period) -> AsyncIterator[Sequence[Row]]:
        """See ``Source``."""
        match plan.dataset:
            case Dataset.ENERGY:
                pages = self._energy(plan, period)
            case Dataset.READINGS:
                pages = self._readings(plan, period)
            case Dataset.ALARMS:
                pages = self._alarms(plan, period)
            case Dataset.REPORTS:
                return
            case Dataset.STANDARD:
                pages = self._standard.pages(plan.table or 0, plan.span, plan.sites, period)
        async for page in pages:
            yield page

    async def reports(self, plan: ExportPlan, period: Period) -> AsyncIterator[ReportFile]:
        """See ``Source``."""
        for definition in plan.reports or (None,):
            chosen = {} if definition is None else {"definition": definition}
            after: dict[str, Any] = {}
            while True:
                answer = await self._carbon.get(
                    "/api/v1/reports", timeout_s=CALL_TIMEOUT_S, limit=REPORTS_PAGE, **chosen, **after
                )
                found = read_as(_Editions, {"items": answer}, "carbon").items
                for one in found:
                    if period.start <= one.made_at < period.end:
                        yield await self._report(plan, one)
                if len(found) < REPORTS_PAGE:
                    break
                after = {"after": f"{found[-1].definition_id}/{found[-1].edition}", "after_version": found[-1].version}

    async def _report(self, plan: ExportPlan, one: _Edition) -> ReportFile:
        name = f"{one.definition_id}-{one.edition}-v{one.version}-{plan.language}.{plan.form}"
        path = f"/api/v1/reports/{one.definition_id}/{one.edition}/versions/{one.version}/files/{plan.form}"
        try:
            body = await self._carbon.download(path, timeout_s=CALL_TIMEOUT_S, lang=plan.language)
        except NotFound:
            return ReportFile(name, None)
        return ReportFile(name, body)

    async def _energy(self, plan: ExportPlan, period: Period) -> AsyncIterator[Sequence[Row]]:
        nodes = [("circuit", one) for one in plan.circuits] + [("site", one) for one in plan.sites]
        for kind, node in nodes or [("site", one) for one in self._sites.all_sites()]:
            for start, end in _slices(period, timedelta(days=ENERGY_DAYS)):
                span = {"from": text_of(start), "to": text_of(end), "step": plan.step.value}
                answer = await self._carbon.get("/api/v1/energy", timeout_s=CALL_TIMEOUT_S, **{kind: node, **span})
                found = read_as(_EnergyReply, answer, "carbon")
                yield [{"node_kind": kind, "node_id": node, **dict(one)} for one in found.periods]

    async def _readings(self, plan: ExportPlan, period: Period) -> AsyncIterator[Sequence[Row]]:
        devices = [*plan.devices, *(each for site in plan.sites for each in self._sites.devices_at(site))]
        if not plan.devices and not plan.sites:
            devices = [each for site in self._sites.all_sites() for each in self._sites.devices_at(site)]
        wanted = {"points": ",".join(plan.points)} if plan.points else {}
        for device in dict.fromkeys(devices):
            span = {"device": device, "from": text_of(period.start), "to": text_of(period.end), "limit": PAGE_ROWS}
            async for answer in pages_of(self._ingest, "/api/v1/readings", {**span, **wanted}):
                yield [row for one in read_as(_Readings, answer, "ingest").items for row in _reading_rows(one)]

    async def _alarms(self, plan: ExportPlan, period: Period) -> AsyncIterator[Sequence[Row]]:
        span = {"from": text_of(period.start), "to": text_of(period.end), "limit": PAGE_ROWS}
        for first in range(0, max(len(plan.sites), 1), SITES_PER_QUESTION):
            sites = list(plan.sites[first : first + SITES_PER_QUESTION])
            chosen = {"site": sites} if sites else {}
            async for answer in pages_of(self._alarm, "/api/v1/alarms", {**span, **chosen}):
                yield [dict(one) for one in read_as(_Alarms, answer, "alarm").items]


def _reading_rows(one: _Reading) -> list[Row]:
    common = {
        "site_id": one.site_id,
        "device_id": one.device_id,
        "source_time": one.source_time,
        "received_at": one.received_at,
        "late": one.late,
    }
    return [
        {**common, "point": point, "value": value, "quality": one.quality.get(point, "good")}
        for point, value in sorted(one.points.items())
    ]


def _slices(period: Period, length: timedelta) -> list[tuple[datetime, datetime]]:
    """Return consecutive parts of a period, none longer than that."""
    found = []
    start = period.start
    while start < period.end:
        end = min(start + length, period.end)
        found.append((start, end))
        start = end
    return found
