"""Diagnoses as people and other systems ask for them; a look that a person orders; codes of receivers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from libs.common.clock import Clock
from libs.common.contracts.audit import AuditEvent
from libs.common.db import Database
from libs.common.errors import InvalidInput, NotFound
from libs.common.ids import SiteId
from libs.common.tokens import Principal
from libs.common.workbook import Sheet, SheetRow, write_workbook
from services.alarm.domain.diagnosis.causes import Cause
from services.alarm.domain.diagnosis.subject import Installed
from services.alarm.faultcodes import CODE, FaultCode
from services.alarm.store import diagnoses as store
from services.alarm.store.diagnoses import DiagnosisFilter, DiagnosisRow
from services.alarm.usecases.localising import Devices
from services.alarm.usecases.ports import Audit, Directory, actor_of

MAX_DOWNLOAD = 2_000
"""Diagnoses in one workbook; more are asked for by time. Writing it takes a part of a second of a thread."""
RECEIVER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")

COLUMNS = (
    ("设备名称 Device name", "device_name"),
    ("设备编号 Device number", "device_number"),
    ("ICCID", "iccid"),
    ("设备类型 Device kind", "device_kind"),
    ("地址 Address", "address"),
    ("局站编码 Station code", "station_code"),
    ("局站名称 Station name", "station_name"),
    ("机房编码 Room code", "room_code"),
    ("机房名称 Room name", "room_name"),
)
"""Nine of the twelve fields of the fault card; code, text and advice follow."""
TEXTS = (
    ("故障代码 Fault code", "code"),
    ("异常信息", "text_zh"),
    ("Cause", "text_en"),
    ("处理建议", "advice_zh"),
    ("Advice", "advice_en"),
)
TIMES = (
    ("开始时间 Began", "began_at"),
    ("结束时间 Ended", "ended_at"),
    ("可信度 Confidence", "confidence"),
    ("其他可能 Also possible", "also_possible"),
    ("证据 Evidence", "evidence"),
    ("无法查询 Could not tell", "unreachable"),
)


class UnknownDiagnosis(NotFound):
    """There is no such diagnosis, or none that the asker may see."""

    code = "unknown_diagnosis"
    title_zh = "故障分析不存在"


class UnknownDevice(NotFound):
    """There is no such device, or none that the asker may see."""

    code = "unknown_device"
    title_zh = "设备不存在"


class InvalidCodes(InvalidInput):
    """Codes for a receiver are refused."""

    code = "invalid_fault_codes"
    title_zh = "故障代码有误"


@dataclass(frozen=True, slots=True)
class Shown:
    """A diagnosis with the words and the code that the asker gets."""

    row: DiagnosisRow
    code: str
    words: FaultCode
    group_size: int | None


class Diagnoses:
    """Diagnoses, asked for and ordered."""

    def __init__(
        self,
        *,
        db: Database,
        directory: Directory,
        devices: Devices,
        clock: Clock,
        audit: Audit,
        codes: Mapping[Cause, FaultCode],
    ) -> None:
        """Keep what is needed.

        Args:
            db: Where diagnoses are.
            directory: Who may see which site.
            devices: The registry.
            clock: Our clock.
            audit: Publishes who ordered what.
            codes: Codes and texts of causes.
        """
        self._db = db
        self._directory = directory
        self._devices = devices
        self._clock = clock
        self._audit = audit
        self._codes = codes

    async def page(
        self,
        wanted: DiagnosisFilter,
        who: Principal,
        *,
        receiver: str | None,
        after: tuple[datetime, str] | None,
        limit: int,
    ) -> list[Shown]:
        """Return diagnoses that the asker may see, the youngest first, with the codes of a receiver."""
        allowed = self._directory.sites_of(who)
        if allowed is not None:
            sites = allowed if wanted.sites is None else allowed.intersection(wanted.sites)
            wanted = replace(wanted, sites=sorted(sites))
        async with self._db.read() as conn:
            rows = await store.fetch_diagnoses(conn, wanted, after=after, limit=limit)
            own = {} if receiver is None else await store.fetch_receiver_codes(conn, receiver)
            sizes = await store.fetch_group_sizes(conn, {row.group_id for row in rows if row.group_id is not None})
        return [self._shown(row, own, sizes) for row in rows]

    async def one(self, diagnosis_id: str, who: Principal, *, receiver: str | None) -> Shown:
        """Return a diagnosis.

        Raises:
            UnknownDiagnosis: There is none, or none that the asker may see.
        """
        async with self._db.read() as conn:
            row = await store.fetch_diagnosis(conn, diagnosis_id)
            own = {} if receiver is None else await store.fetch_receiver_codes(conn, receiver)
            groups = set() if row is None or row.group_id is None else {row.group_id}
            sizes = await store.fetch_group_sizes(conn, groups)
        allowed = self._directory.sites_of(who)
        if row is None or (allowed is not None and row.site_id not in allowed):
            raise UnknownDiagnosis(
                f"there is no diagnosis {diagnosis_id}", message_zh=f"故障分析 {diagnosis_id} 不存在"
            )
        return self._shown(row, own, sizes)

    async def order(self, device_id: str, who: Principal, request_id: str | None) -> Installed:
        """Ask for a look at a device now.

        Raises:
            UnknownDevice: There is none, or none that the asker may see.
        """
        device = self._devices.installed(device_id)
        allowed = self._directory.sites_of(who)
        if device is None or (allowed is not None and device.place.site_id not in allowed):
            raise UnknownDevice(f"there is no device {device_id}", message_zh=f"设备 {device_id} 不存在")
        now, actor = self._clock.now(), actor_of(who)
        async with self._db.write() as conn:
            await store.want(conn, [device_id], due_at=now, pause=timedelta(0), by_hand=actor)
            await self._audit(
                conn,
                AuditEvent(
                    actor=actor,
                    door="api",
                    action="diagnosis.order",
                    subject=f"device:{device_id}",
                    at=now,
                    request_id=request_id,
                    site_id=SiteId(device.place.site_id),
                ),
            )
        return device

    async def workbook(self, wanted: DiagnosisFilter, who: Principal, *, receiver: str | None) -> list[Shown]:
        """Return the diagnoses of one workbook, at most ``MAX_DOWNLOAD``.

        Raises:
            InvalidInput: There are more.
        """
        found = await self.page(wanted, who, receiver=receiver, after=None, limit=MAX_DOWNLOAD + 1)
        if len(found) > MAX_DOWNLOAD:
            raise InvalidInput(
                f"more than {MAX_DOWNLOAD} diagnoses; ask for a shorter time (from, to)",
                message_zh=f"故障分析超过 {MAX_DOWNLOAD} 条，请缩短时间范围（from、to）",
            )
        return found

    async def codes(self, receiver: str | None) -> Mapping[Cause, tuple[str, FaultCode]]:
        """Return all causes with the code that a receiver has for them, in order of our codes."""
        own: Mapping[str, str] = {}
        if receiver is not None:
            async with self._db.read() as conn:
                own = await store.fetch_receiver_codes(conn, receiver)
        ordered = sorted(self._codes.values(), key=lambda one: one.code)
        return {one.cause: (own.get(one.cause.value, one.code), one) for one in ordered}

    async def set_codes(
        self, receiver: str, codes: Mapping[str, str], who: Principal, request_id: str | None
    ) -> Mapping[Cause, tuple[str, FaultCode]]:
        """Give a receiver codes of its own, in place of those it had; causes that are left out keep ours.

        Raises:
            InvalidCodes: A cause does not exist, a code is none, or two causes would have one code.
        """
        self._check(receiver, codes)
        now, actor = self._clock.now(), actor_of(who)
        async with self._db.write() as conn:
            before = await store.fetch_receiver_codes(conn, receiver)
            await store.put_receiver_codes(conn, receiver, codes, changed_by=actor, at=now)
            await self._audit(
                conn,
                AuditEvent(
                    actor=actor,
                    door="api",
                    action="diagnosis.codes",
                    subject=f"receiver:{receiver}",
                    at=now,
                    before=dict(before),
                    after=dict(codes),
                    request_id=request_id,
                ),
            )
        return await self.codes(receiver)

    def _check(self, receiver: str, codes: Mapping[str, str]) -> None:
        problems: list[dict[str, str]] = []
        if RECEIVER.fullmatch(receiver) is None:
            problems.append(_problem("receiver", "letters, digits and ._:-, at most 64", receiver))
        known = {cause.value for cause in self._codes}
        for cause, code in codes.items():
            if cause not in known:
                problems.append(_problem(cause, "a cause of GET diagnoses/codes", cause))
            if CODE.fullmatch(code) is None:
                problems.append(_problem(cause, "two digits", code))
        all_codes = [codes.get(one.cause.value, one.code) for one in self._codes.values()]
        problems += [
            _problem(code, "one cause for each code", code)
            for code in sorted(set(all_codes))
            if all_codes.count(code) > 1
        ]
        if problems:
            raise InvalidCodes(
                "; ".join(f"{one['field']}: expected {one['expected']}, found {one['found']}" for one in problems),
                message_zh="故障代码有误：" + "；".join(f"{one['field']}＝{one['found']}" for one in problems),
                problems=problems,
            )

    def _shown(self, row: DiagnosisRow, own: Mapping[str, str], sizes: Mapping[str, int]) -> Shown:
        words = self._codes[Cause(row.cause)]
        size = None if row.group_id is None else sizes.get(row.group_id)
        return Shown(row, own.get(row.cause, words.code), words, size)


def make_workbook(found: Sequence[Shown]) -> bytes:
    """Return a workbook with a row per diagnosis: the twelve fields of the fault card, times and evidence."""
    columns = [title for title, _ in (*COLUMNS, *TEXTS, *TIMES)]
    rows = [SheetRow(number, dict(zip(columns, _cells(one), strict=True))) for number, one in enumerate(found, start=2)]
    return write_workbook([Sheet("故障定位 Diagnoses", columns, rows)])


def _cells(one: Shown) -> list[str | None]:
    row, words = one.row, one.words
    times = {
        "began_at": row.began_at.isoformat(timespec="seconds"),
        "ended_at": None if row.ended_at is None else row.ended_at.isoformat(timespec="seconds"),
        "confidence": row.confidence,
        "also_possible": ", ".join(row.also_possible),
        "evidence": "\n".join(
            f"{item['name']} = {item['value']} ({item['source']}, {item['at']})" for item in row.evidence
        ),
        "unreachable": "\n".join(f"{item['source']}: {item['reason']} ({item['at']})" for item in row.unreachable),
    }
    return [
        *(row.card.get(name) for _, name in COLUMNS),
        one.code,
        words.text_zh,
        words.text_en,
        words.advice_zh,
        words.advice_en,
        *(times[name] for _, name in TIMES),
    ]


def _problem(field: str, expected: str, found: str) -> dict[str, str]:
    return {"field": field[:100], "expected": expected, "found": found[:100]}
