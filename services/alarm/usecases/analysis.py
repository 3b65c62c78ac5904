"""What alarms there were: counts, how long they took, how much they asked of people, and where it is worst now."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import InvalidInput
from libs.common.tokens import Principal
from libs.common.workbook import Cell, Sheet, SheetRow, write_workbook
from services.alarm.domain.floods import CHATTER_COUNT, CHATTER_WITHIN, STALE_AFTER, Load, load_of
from services.alarm.domain.places import Place
from services.alarm.store import analysis as store
from services.alarm.store.analysis import Chatter, Count, Durations, Scope, SiteState, Stale
from services.alarm.usecases.ports import Directory

LONGEST = timedelta(days=400)
LONGEST_BY_HOUR = timedelta(days=31)
SHOWN = 1000
"""Rows of one table, at most."""
FREQUENT = 10
"""ISA-18.2 looks at the ten most frequent alarms."""
TIMES = ("hour", "day", "hour_of_day", "weekday")
"""Keys that are shown in their own order, not by number."""


class InvalidRange(InvalidInput):
    """A range is too long, or has no length."""

    code = "invalid_range"
    title_zh = "时间范围有误"


@dataclass(frozen=True, slots=True)
class NamedCount:
    """How many alarms have something in common, and what people call it."""

    count: Count
    name: str | None
    name_zh: str | None
    share: float
    """Of all alarms of the scope, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Floods:
    """The measures of ISA-18.2."""

    load: Load
    operators: int
    most_frequent: Sequence[NamedCount]
    chattering: Sequence[Chatter]
    stale: int
    oldest: Sequence[Stale]


@dataclass(frozen=True, slots=True)
class MapSite:
    """A site on the map."""

    place: Place
    state: SiteState | None
    """None where nothing is active."""


class Analysis:
    """Statistics of alarms."""

    def __init__(self, *, db: Database, directory: Directory, clock: Clock) -> None:
        """Keep what is needed."""
        self._db = db
        self._directory = directory
        self._clock = clock

    async def counts(self, scope: Scope, by: str, zone: str, who: Principal) -> list[NamedCount]:
        """Return how many alarms there were by something: by time in its order, else the most first.

        A region counts what lies in the regions within it too.

        Raises:
            InvalidRange: The range is too long.
        """
        _check(scope, LONGEST_BY_HOUR if by == "hour" else LONGEST)
        scope = self._limited(scope, who)
        async with self._db.read() as conn:
            found = await store.fetch_counts(conn, scope, "site" if by == "region" else by, zone)
            signals = await store.fetch_signal_names(conn) if by == "signal" else {}
            equipment = await store.fetch_equipment(conn) if by == "kind" else {}
        total = sum(one.alarms for one in found)
        if by == "region":
            found = self._by_region(found)
        found.sort(key=(lambda one: (0, one.key)) if by in TIMES else (lambda one: (-one.alarms, one.key)))
        named = []
        for one in found[:SHOWN]:
            name, name_zh = self._named(by, one.key, signals, equipment)
            named.append(NamedCount(one, name, name_zh, one.alarms / total if total else 0.0))
        return named

    async def durations(self, scope: Scope, who: Principal) -> list[Durations]:
        """Return how long it took until alarms were acknowledged and over.

        Raises:
            InvalidRange: The range is too long.
        """
        _check(scope, LONGEST)
        async with self._db.read() as conn:
            return await store.fetch_durations(conn, self._limited(scope, who))

    async def floods(self, scope: Scope, operators: int, who: Principal) -> Floods:
        """Return the measures of ISA-18.2.

        Raises:
            InvalidRange: The range is too long.
        """
        _check(scope, LONGEST)
        told = replace(self._limited(scope, who), told=True)
        frequent = await self.counts(told, "signal", "UTC", who)
        async with self._db.read() as conn:
            windows = await store.fetch_windows(conn, told)
            chattering = await store.fetch_chatter(
                conn, told, count=CHATTER_COUNT, within_s=CHATTER_WITHIN.total_seconds(), limit=100
            )
            stale, oldest = await store.fetch_stale(conn, told.sites, self._clock.now() - STALE_AFTER, limit=100)
        return Floods(
            load=load_of(windows, scope.start, scope.end, operators),
            operators=operators,
            most_frequent=frequent[:FREQUENT],
            chattering=chattering,
            stale=stale,
            oldest=oldest,
        )

    async def map(self, who: Principal, *, all_sites: bool) -> list[MapSite]:
        """Return the sites with the worst of what is active and told, the worst first; quiet ones only if asked for."""
        allowed = self._directory.sites_of(who)
        async with self._db.read() as conn:
            states = await store.fetch_site_states(conn, allowed)
        found = [MapSite(self._directory.place(one.site_id) or Place(one.site_id, one.site_id), one) for one in states]
        if all_sites:
            loud = {one.site_id for one in states}
            found += [
                MapSite(place, None)
                for place in self._directory.places()
                if place.site_id not in loud and (allowed is None or place.site_id in allowed)
            ]
        return found

    async def workbook(self, scope: Scope, zone: str, operators: int, who: Principal) -> bytes:
        """Return an Excel workbook with all of it.

        Raises:
            InvalidRange: The range is too long.
        """
        sheets = [
            _counted(title, heading, await self.counts(scope, by, zone, who))
            for title, heading, by in (
                ("等级 level", "等级 level", "level"),
                ("信号 signal", "信号编码 signal", "signal"),
                ("设备类型 kind", "类型 kind", "kind"),
                ("站点 site", "站点 site", "site"),
                ("区域 region", "区域 region", "region"),
                ("日期 day", "日期 day", "day"),
                ("时段 hour", "时段 hour", "hour_of_day"),
            )
        ]
        sheets.append(_took(await self.durations(scope, who)))
        sheets += _flooded(await self.floods(scope, operators, who))
        return write_workbook(sheets)

    def _limited(self, scope: Scope, who: Principal) -> Scope:
        allowed = self._directory.sites_of(who)
        if allowed is None:
            return scope
        return replace(scope, sites=sorted(allowed if scope.sites is None else allowed.intersection(scope.sites)))

    def _by_region(self, sites: Sequence[Count]) -> list[Count]:
        alarms: Counter[str] = Counter()
        active: Counter[str] = Counter()
        told: Counter[str] = Counter()
        for one in sites:
            place = self._directory.place(one.key)
            for region in (place.regions if place is not None else ()) or ("-",):
                alarms[region] += one.alarms
                active[region] += one.active
                told[region] += one.told
        return [Count(region, number, active[region], told[region]) for region, number in alarms.items()]

    def _named(
        self, by: str, key: str, signals: dict[str, tuple[str, str]], equipment: dict[str, str]
    ) -> tuple[str | None, str | None]:
        if by == "signal":
            return signals.get(key, (None, None))
        if by == "kind":
            return None, equipment.get(key)
        if by == "site":
            place = self._directory.place(key)
            return (None, None) if place is None else (place.name, place.called("zh"))
        if by == "region" and key != "-":
            return self._directory.region_name(key, "en"), self._directory.region_name(key, "zh")
        return None, None


def _check(scope: Scope, longest: timedelta) -> None:
    if scope.end <= scope.start or scope.end - scope.start > longest:
        raise InvalidRange(
            f"to: expected a time after from, at most {longest.days} days later, found {scope.end.isoformat()}",
            message_zh=f"to：应晚于 from 且不超过 {longest.days} 天，实际为 {scope.end.isoformat()}",
        )


def _counted(title: str, heading: str, counts: Sequence[NamedCount]) -> Sheet:
    rows: list[dict[str, Cell]] = [
        {
            heading: one.count.key,
            "名称 name": one.name_zh or one.name,
            "告警数 alarms": one.count.alarms,
            "未恢复 active": one.count.active,
            "已通知 told": one.count.told,
            "占比 share": round(one.share, 4),
        }
        for one in counts
    ]
    columns = (heading, "名称 name", "告警数 alarms", "未恢复 active", "已通知 told", "占比 share")
    return _sheet(title, columns, rows)


def _took(durations: Sequence[Durations]) -> Sheet:
    columns = (
        "等级 level",
        "告警数 alarms",
        "已确认 acknowledged",
        "确认中位数 acknowledge median [s]",
        "确认 P90 acknowledge p90 [s]",
        "已恢复 ended",
        "恢复中位数 clear median [s]",
        "恢复 P90 clear p90 [s]",
    )
    rows: list[dict[str, Cell]] = [
        dict(
            zip(
                columns,
                (
                    one.level,
                    one.alarms,
                    one.acknowledged,
                    one.acknowledge_median_s,
                    one.acknowledge_p90_s,
                    one.ended,
                    one.clear_median_s,
                    one.clear_p90_s,
                ),
                strict=True,
            )
        )
        for one in durations
    ]
    return _sheet("时长 durations", columns, rows)


def _flooded(floods: Floods) -> list[Sheet]:
    load = floods.load
    measures: list[tuple[str, Cell]] = [
        ("值班人数 operators", floods.operators),
        ("已通知告警 told alarms", load.alarms),
        ("每人每10分钟平均 mean per operator and 10 min", load.mean_per_window),
        ("每人每10分钟最多 most per operator and 10 min", load.peak_per_window),
        ("超过10条的时段数 windows with more than 10", load.windows_above),
        ("风暴时间占比 share of time in flood", load.flood_share),
        ("风暴次数 floods", len(load.floods)),
        ("频繁前10占比 share of the 10 most frequent", sum(one.share for one in floods.most_frequent)),
        ("抖动告警 chattering", len(floods.chattering)),
        ("超过24小时未恢复 stale over 24 h", floods.stale),
    ]
    return [
        _sheet(
            "ISA-18.2",
            ("指标 measure", "数值 value"),
            [{"指标 measure": name, "数值 value": value} for name, value in measures],
        ),
        _sheet(
            "长期未恢复 stale",
            ("告警 alarm", "站点 site", "设备 device", "信号 signal", "等级 level", "开始 began"),
            [
                {
                    "告警 alarm": one.alarm_id,
                    "站点 site": one.site_id,
                    "设备 device": one.device_id,
                    "信号 signal": one.signal,
                    "等级 level": one.level,
                    "开始 began": one.began_at,
                }
                for one in floods.oldest
            ],
        ),
    ]


def _sheet(title: str, columns: Sequence[str], rows: Sequence[dict[str, Cell]]) -> Sheet:
    return Sheet(title, columns, [SheetRow(number, cells) for number, cells in enumerate(rows, start=2)])
