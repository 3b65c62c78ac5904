"""What people say about exports: what is made and brought, and runs that are stuck."""

from collections.abc import Callable, Mapping
from datetime import datetime, time, timedelta

from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.db import Database, WriteConn
from libs.common.errors import Conflict, InvalidInput, NotFound
from services.export import bus
from services.export.domain.exports import ExportPlan, Run, next_due, problems_of
from services.export.exports import rows
from services.export.exports.outlet import destination_problem
from services.export.exports.rows import StoredExport
from services.export.secrets import Secrets
from services.export.usecases.administration import Actor

REMOVED = "the export was removed"


class VersionTaken(Conflict):
    """Somebody else has changed the export meanwhile."""

    code = "version_taken"
    title_zh = "版本已存在"


class RunNotOpen(Conflict):
    """Nothing is to be done for the run any more, or still is."""

    code = "run_state"
    title_zh = "运行状态不符"


class ExportAdministration:
    """Changes by people."""

    def __init__(
        self, *, db: Database, clock: Clock, secrets: Secrets, max_exports: int, changed: Callable[[], None]
    ) -> None:
        """Keep what is needed; ``changed`` is called after every commit."""
        self._db = db
        self._clock = clock
        self._secrets = secrets
        self._max_exports = max_exports
        self._changed = changed

    async def get(self, export_id: str) -> StoredExport:
        """Return an export.

        Raises:
            NotFound: There is none of that id.
        """
        async with self._db.read() as conn:
            found = await rows.fetch_export(conn, export_id)
        if found is None:
            raise _no_export(export_id)
        return found

    async def put(self, plan: ExportPlan, account: Mapping[str, str] | None, actor: Actor) -> StoredExport:
        """Store an export's next version; without an account the stored one stays, for the same address only.

        Raises:
            InvalidInput: It cannot be made or brought so; every problem is listed.
            VersionTaken: It has not the number after the last one.
        """
        problems = problems_of(plan)
        problem = destination_problem(plan.destination, account or {})
        problems += [] if problem is None else [f"destination.{problem}"]
        if problems:
            shown = "; ".join(problems[:20])
            raise InvalidInput(f"export: {shown}", message_zh=f"导出设置有误:{shown}")
        async with self._db.write() as conn:
            await rows.lock_export(conn, plan.export_id)
            before = await rows.fetch_export(conn, plan.export_id)
            await self._check_place(conn, plan, before)
            same = before is not None and before.plan.destination.url == plan.destination.url
            kept = before.sealed if before is not None and same else None
            stored = StoredExport(
                plan=plan, sealed=kept if account is None else self._secrets.seal(account), changed_by=actor.name,
                changed_at=self._clock.now(), next_due_at=_first_due(plan, before, self._clock.now()),
            )  # fmt: skip
            await rows.put_export(conn, stored)
            await self._audit(
                conn, "export.put", plan.export_id, actor, after=plan.document(),
                before=None if before is None else before.plan.document(),
            )  # fmt: skip
        self._changed()
        return stored

    async def _check_place(self, conn: WriteConn, plan: ExportPlan, before: StoredExport | None) -> None:
        expected = await rows.last_version(conn, plan.export_id) + 1
        if plan.version != expected:
            raise VersionTaken(
                f"export {plan.export_id}: expected version {expected}, found {plan.version}",
                message_zh=f"导出 {plan.export_id}:应为版本 {expected},实际为 {plan.version}",
            )
        if before is None and await rows.count_exports(conn) >= self._max_exports:
            raise Conflict(
                f"there are {self._max_exports} exports already (WATTRING_EXPORT__EXPORTS__MAX_EXPORTS)",
                message_zh=f"导出任务已达上限 {self._max_exports}(WATTRING_EXPORT__EXPORTS__MAX_EXPORTS)",
            )

    async def remove(self, export_id: str, actor: Actor) -> None:
        """Take an export away; what is open of it is given up.

        Raises:
            NotFound: There is none of that id.
        """
        async with self._db.write() as conn:
            await rows.lock_export(conn, export_id)
            before = await rows.fetch_export(conn, export_id)
            if before is None:
                raise _no_export(export_id)
            await rows.remove_export(conn, export_id, self._clock.now(), REMOVED)
            await self._audit(conn, "export.remove", export_id, actor, before=before.plan.document(), after=None)
        self._changed()

    async def retry(self, export_id: str, run_id: int, actor: Actor) -> Run:
        """Try an open run now; make and bring one again that was delivered or given up.

        Raises:
            NotFound: There is no such run.
        """
        async with self._db.write() as conn:
            run = await self._run(conn, export_id, run_id)
            if run.state.is_open:
                await rows.hurry(conn, run_id, self._clock.now())
            else:
                await rows.make_again(conn, run_id, self._clock.now())
            await self._audit(conn, "export_run.retry", export_id, actor, after={"run": run_id}, before=None)
            after = await self._run(conn, export_id, run_id)
        self._changed()
        return after

    async def give_up(self, export_id: str, run_id: int, reason: str, actor: Actor) -> Run:
        """Bring a run to nobody any more, so that those behind it go.

        Raises:
            NotFound: There is no such run.
            RunNotOpen: It is finished.
        """
        async with self._db.write() as conn:
            run = await self._run(conn, export_id, run_id)
            if not run.state.is_open:
                raise RunNotOpen(f"run {run_id} is {run.state}", message_zh=f"运行 {run_id} 的状态为 {run.state}")
            await rows.give_up(conn, run_id, self._clock.now(), reason)
            await self._audit(
                conn, "export_run.give_up", export_id, actor, after={"run": run_id}, before=None, reason=reason
            )
            after = await self._run(conn, export_id, run_id)
        self._changed()
        return after

    async def _run(self, conn: WriteConn, export_id: str, run_id: int) -> Run:
        run = await rows.lock_run(conn, run_id)
        if run is None or run.export_id != export_id:
            raise NotFound(f"export {export_id} has no run {run_id}", message_zh=f"导出 {export_id} 没有运行 {run_id}")
        return run

    async def _audit(
        self,
        conn: WriteConn,
        action: str,
        export_id: str,
        actor: Actor,
        *,
        before: Mapping[str, object] | None,
        after: Mapping[str, object] | None,
        reason: str | None = None,
    ) -> None:
        audited = bus.change_audited(
            actor.name, action, f"export:{export_id}", after=after, before=before, reason=reason,
            request_id=actor.request_id, at=self._clock.now(),
        )  # fmt: skip
        await outbox.put(conn, [audited])


def _first_due(plan: ExportPlan, before: StoredExport | None, now: datetime) -> datetime:
    """Return when the first run of a version is due.

    A new export begins with its first day, in the past too. A changed one goes on where the one before stands: at the
    same due time when it has the same rhythm, else at the first from now, or from the oldest that is still missing.
    """
    start = datetime.combine(plan.since, time(), plan.zone_info) - timedelta(microseconds=1)
    if before is None:
        return next_due(plan, start)
    old = before.plan
    if (old.span, old.rule, old.delay_s, old.zone, old.since) == (
        plan.span, plan.rule, plan.delay_s, plan.zone, plan.since,
    ):  # fmt: skip
        return before.next_due_at
    return next_due(plan, max(start, min(before.next_due_at - timedelta(microseconds=1), now)))


def _no_export(export_id: str) -> NotFound:
    return NotFound(f"no export {export_id}", message_zh=f"没有导出 {export_id}")
