"""The signal table in versions: imported from files, compared, exported as it was written."""

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from libs.common.clock import Clock
from libs.common.contracts.audit import AuditEvent
from libs.common.db import Database, WriteConn
from libs.common.errors import Forbidden, InvalidFile, InvalidInput, NotFound, Problem
from libs.common.points import POINTS
from libs.common.tokens import Principal
from services.alarm.domain.model import Dictionary, Signal, SignalKind
from services.alarm.domain.rulebook import RuleBook, contradictions, devices_to_come
from services.alarm.domain.ruledata import RuleRow, make_rule, signal_faults
from services.alarm.domain.signal_table import Layout, Meaning, TableDiff, difference
from services.alarm.files.table_file import plain_cells, read_table, write_csv, write_xlsx
from services.alarm.files.table_merge import merged
from services.alarm.files.table_rows import RowNote, read_rows
from services.alarm.store import rulebook as rulebook_store
from services.alarm.store import ruledata
from services.alarm.store import tables as store
from services.alarm.store.tables import TableVersion
from services.alarm.usecases.ports import Audit, Directory, actor_of

DICTIONARY = re.compile(r"^[a-z0-9][a-z0-9-]{0,63}$")
OUR_OWN = "wattring"
"""The platform's own signals: rows may change, and none may go, since the platform raises them."""

MAX_TABLES = 40
"""Tables of an installation; a province has one or two."""

Missing = Literal["keep", "remove"]
FileFormat = Literal["xlsx", "csv"]


class UnknownTable(NotFound):
    """There is no such signal table, or no such version of it."""

    code = "unknown_signal_table"
    title_zh = "信号表不存在"


@dataclass(frozen=True, slots=True)
class TableRequest:
    """A file that somebody wants to import."""

    dictionary: str
    file_name: str
    body: bytes
    dry_run: bool = False
    missing: Missing = "keep"
    """What becomes of rows and columns that the table has and the file has not."""
    name: str | None = None
    """Of a table that is new."""
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class TableImport:
    """What an import did, or would do."""

    version: int | None
    """That the table is at now; None in a dry run and for a new table without rows."""
    rows: int
    diff: TableDiff
    lines: Mapping[str, int]
    """Code to line of the file."""
    rules: Mapping[str, Sequence[str]]
    """Code of a changed or removed row to the rules that judge by it."""
    notes: Sequence[RowNote]


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table and the version that counts."""

    dictionary: Dictionary
    latest: TableVersion


class Tables:
    """The signal table in versions."""

    def __init__(
        self, *, db: Database, directory: Directory, clock: Clock, audit: Audit, class_map: Mapping[str, str]
    ) -> None:
        """Keep what is needed."""
        self._db = db
        self._directory = directory
        self._clock = clock
        self._audit = audit
        self._class_map = class_map

    async def tables(self) -> list[TableFacts]:
        """Return every table with the version that counts."""
        async with self._db.read() as conn:
            found = await store.fetch_dictionaries(conn)
            latest = {name: await store.fetch_latest(conn, name) for name in found}
        return [TableFacts(found[name], one) for name, one in latest.items() if one is not None]

    async def versions(self, dictionary: str) -> list[TableVersion]:
        """Return the versions of a table, the youngest first.

        Raises:
            UnknownTable: There is none.
        """
        async with self._db.read() as conn:
            found = await store.fetch_versions(conn, dictionary)
        if not found:
            raise _unknown(dictionary)
        return found

    async def version(self, dictionary: str, number: int) -> tuple[TableVersion, TableDiff]:
        """Return a version, and how it differs from the one before.

        Raises:
            UnknownTable: There is none.
        """
        async with self._db.read() as conn:
            found = await store.fetch_version(conn, dictionary, number)
            if found is None:
                raise _unknown(dictionary, number)
            after = await store.fetch_rows(conn, dictionary, number)
            former = await store.fetch_version(conn, dictionary, number - 1)
            before = await store.fetch_rows(conn, dictionary, number - 1)
        return found, difference(before, after, found.layout, None if former is None else former.layout)

    async def export(self, dictionary: str, number: int | None, file_format: FileFormat) -> bytes:
        """Return a version as a file that can be imported again; without a number the one that counts.

        Raises:
            UnknownTable: There is none.
        """
        async with self._db.read() as conn:
            found = (
                await store.fetch_latest(conn, dictionary)
                if number is None
                else await store.fetch_version(conn, dictionary, number)
            )
            if found is None:
                raise _unknown(dictionary, number)
            signals = await store.fetch_rows(conn, dictionary, found.version)
        return await asyncio.to_thread(_written, found.layout, signals, file_format)

    async def take(self, wanted: TableRequest, who: Principal, request_id: str | None) -> TableImport:
        """Import a file as the next version of a table, all of it or nothing; one that changes nothing makes none.

        Rows and columns that the file lacks stay, unless it is said that they go. A rule over a row that has gone
        judges no more.

        Raises:
            InvalidFile: Places in it are wrong; all are named.
            InvalidInput: The table's id is none, or there are too many tables.
            Forbidden: The asker is limited to sites.
        """
        _may(who)
        if DICTIONARY.fullmatch(wanted.dictionary) is None:
            raise InvalidInput(
                "dictionary: expected up to 64 lower case letters, digits and hyphens",
                message_zh="dictionary:应为不超过 64 个小写字母、数字或连字符",
            )
        table = await asyncio.to_thread(read_table, wanted.body, wanted.file_name)
        async with self._db.write() as conn:
            await rulebook_store.lock_book(conn)
            latest = await store.fetch_latest(conn, wanted.dictionary)
            if latest is None and len(await store.fetch_dictionaries(conn)) >= MAX_TABLES:
                raise InvalidInput(
                    f"there are {MAX_TABLES} signal tables already", message_zh=f"信号表已达上限 {MAX_TABLES} 张"
                )
            before = {} if latest is None else await store.fetch_rows(conn, wanted.dictionary, latest.version)
            signals = await rulebook_store.fetch_signals(conn)
            found = await asyncio.to_thread(read_rows, table, wanted.dictionary, {**signals, **before})
            layout, after = table.layout, dict(found.signals)
            if latest is not None and (wanted.missing == "keep" or wanted.dictionary == OUR_OWN):
                layout, after = merged(layout, after, latest.layout, before)
            diff = difference(before, after, layout, None if latest is None else latest.layout)
            rules = await self._rules_of(conn, diff)
            problems = list(found.problems) or await self._rule_problems(conn, signals, after, diff, found.lines)
            if problems:
                raise InvalidFile(wanted.file_name, sorted(problems, key=lambda one: one.line or 0))
            version = None if latest is None else latest.version
            if not wanted.dry_run and (diff.rows or latest is None):
                version = await self._store(conn, wanted, latest, layout, after, diff, who, request_id)
        return TableImport(
            version=None if wanted.dry_run else version,
            rows=len(after),
            diff=diff,
            lines=found.lines,
            rules=rules,
            notes=found.notes,
        )

    async def _rules_of(self, conn: WriteConn, diff: TableDiff) -> dict[str, list[str]]:
        changed = {row.code for row in diff.rows if row.change != "added"}
        found: dict[str, list[str]] = {}
        for rule_id, stored in (await ruledata.fetch_rules(conn)).items():
            if not stored.removed and stored.row.signal in changed:
                found.setdefault(stored.row.signal, []).append(rule_id)
        return found

    async def _rule_problems(
        self,
        conn: WriteConn,
        signals: Mapping[str, Signal],
        after: Mapping[str, Signal],
        diff: TableDiff,
        lines: Mapping[str, int],
    ) -> list[Problem]:
        """Return what the rules over changed rows could not live with: another kind, thresholds out of order."""
        touched = {row.code for row in diff.rows}
        gone = {row.code for row in diff.rows if row.change == "removed"}
        current = {**signals, **after}
        rules = [
            one
            for one in (await ruledata.fetch_rules(conn)).values()
            if not one.removed and one.row.signal not in gone and not current[one.row.signal].retired
        ]
        mine = [one.row for one in rules if one.row.signal in touched]
        problems = [
            problem for row in mine for problem in _problems_of(row, current[row.signal], lines.get(row.signal))
        ]
        groups = {row.group for row in mine if row.group is not None}
        if problems or not groups:
            return problems
        overrides = {
            (one.override.rule_id, one.override.scope, one.override.scope_id): one.override
            for one in await rulebook_store.fetch_overrides(conn)
        }
        book = RuleBook(
            {one.row.rule_id: make_rule(one.row, current[one.row.signal], one.version) for one in rules},
            overrides,
            self._class_map,
        )
        yet = devices_to_come(book, groups, frozenset(POINTS))
        for fault in contradictions(book, groups, chain(self._directory.targets(), yet)):
            named = (row for row in mine if row.rule_id in fault.expected.split() and row.signal in lines)
            row = next(named, None)
            problems.append(
                Problem(
                    line=None if row is None else lines[row.signal],
                    field=fault.field,
                    expected=fault.expected,
                    expected_zh=fault.expected_zh,
                    found=fault.found,
                )
            )
        return problems

    async def _store(
        self,
        conn: WriteConn,
        wanted: TableRequest,
        latest: TableVersion | None,
        layout: Layout,
        after: Mapping[str, Signal],
        diff: TableDiff,
        who: Principal,
        request_id: str | None,
    ) -> int:
        book_version = await rulebook_store.next_book_version(conn)
        if latest is None:
            name = wanted.name or wanted.dictionary
            await store.put_dictionary(conn, Dictionary(wanted.dictionary, name, name, f"import {wanted.file_name}"))
        version = TableVersion(
            dictionary=wanted.dictionary,
            version=1 if latest is None else latest.version + 1,
            shipped=False,
            file_name=wanted.file_name,
            digest=hashlib.sha256(wanted.body).hexdigest(),
            layout=layout,
            row_count=len(after),
            imported_by=actor_of(who),
            imported_at=self._clock.now(),
            reason=wanted.reason,
        )
        await store.put_version(conn, version, after)
        await store.put_signals(conn, [after[row.code] for row in diff.rows if row.code in after], book_version)
        await store.retire(conn, [row.code for row in diff.rows if row.change == "removed"], book_version)
        await self._audit(
            conn,
            AuditEvent(
                actor=version.imported_by,
                door="api",
                action="signal_table.import",
                subject=f"signal_table:{wanted.dictionary}",
                at=version.imported_at,
                before=None if latest is None else {"version": latest.version, "rows": latest.row_count},
                after={
                    "version": version.version,
                    "rows": version.row_count,
                    "added": diff.count("added"),
                    "changed": diff.count("changed"),
                    "removed": diff.count("removed"),
                    "file": version.file_name,
                    "digest": version.digest,
                },
                reason=wanted.reason,
                request_id=request_id,
            ),
        )
        return version.version


def _problems_of(row: RuleRow, signal: Signal, line: int | None) -> list[Problem]:
    """Return what a rule over a row could not live with."""
    if signal.kind is not SignalKind.DI:
        expected = f"遥信 or 阈值, since rule {row.rule_id} judges by it"
        expected_zh = f"遥信或阈值:规则 {row.rule_id} 以其判定"
        return [Problem(line=line, field=Meaning.CATEGORY.value, expected=expected, expected_zh=expected_zh,
                        found=signal.kind.value)]  # fmt: skip
    problems: list[Problem] = []
    for fault in signal_faults(row, signal):
        if fault.field == "unit":
            field, expected, expected_zh = Meaning.UNIT, row.unit, row.unit
        else:
            field, expected, expected_zh = Meaning.THRESHOLD, fault.expected, fault.expected_zh
        problems.append(
            Problem(
                line=line,
                field=field.value,
                expected=f"{expected}, for rule {row.rule_id}",
                expected_zh=f"{expected_zh}(规则 {row.rule_id})",
                found=signal.unit if field is Meaning.UNIT else fault.found,
            )
        )
    return problems


def _written(layout: Layout, signals: Mapping[str, Signal], file_format: FileFormat) -> bytes:
    rows = [dict(one.cells) or plain_cells(one, layout) for one in signals.values()]
    return write_csv(layout, rows) if file_format == "csv" else write_xlsx(layout, rows, "标准信号表")


def _may(who: Principal) -> None:
    if who.sites is not None:
        raise Forbidden(
            f"{who.subject} is limited to sites and may not change the signal table",
            message_zh=f"{who.subject} 仅限部分局站,无权修改信号表",
        )


def _unknown(dictionary: str, version: int | None = None) -> UnknownTable:
    which = dictionary if version is None else f"{dictionary} version {version}"
    which_zh = dictionary if version is None else f"{dictionary} 第 {version} 版"
    return UnknownTable(f"there is no signal table {which}", message_zh=f"信号表 {which_zh} 不存在")
