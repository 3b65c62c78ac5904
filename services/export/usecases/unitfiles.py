"""What people say about measurement files: templates, where they go, and files that are stuck."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.db import Database, WriteConn
from libs.common.errors import InvalidInput, NotFound
from services.export import bus
from services.export.domain.unitfiles import FileTemplate, problems_of
from services.export.files import queue
from services.export.files.push import PushTarget
from services.export.files.queue import FilePlan, FileState, PushPlace, UnitFile
from services.export.orders.permits import lock_connection
from services.export.secrets import Secrets
from services.export.usecases.administration import Actor


class UnitFileAdministration:
    """Changes by people."""

    def __init__(self, *, db: Database, clock: Clock, secrets: Secrets, changed: Callable[[], None]) -> None:
        """Keep what is needed; ``changed`` is called after every commit."""
        self._db = db
        self._clock = clock
        self._secrets = secrets
        self._changed = changed

    async def plan(self, connection_id: str) -> FilePlan:
        """Return a connection's files; an empty plan where nobody has said anything."""
        async with self._db.read() as conn:
            return await queue.fetch_plan(conn, connection_id) or FilePlan(connection_id=connection_id)

    async def put(
        self,
        connection_id: str,
        templates: Sequence[FileTemplate],
        place: PushPlace | None,
        account: Mapping[str, str] | None,
        actor: Actor,
    ) -> FilePlan:
        """Set a connection's files; without an account the stored one stays, for the same address only.

        Raises:
            NotFound: There is no such connection.
            InvalidInput: A template or the address cannot be used; every problem is listed.
        """
        problems = _problems(templates, place, account)
        if problems:
            shown = "; ".join(problems[:20])
            raise InvalidInput(f"files: {shown}", message_zh=f"文件设置有误:{shown}")
        now = self._clock.now()
        async with self._db.write() as conn:
            if not await lock_connection(conn, connection_id):
                raise NotFound(f"no SC connection {connection_id}", message_zh=f"没有SC连接 {connection_id}")
            before = await queue.fetch_plan(conn, connection_id)
            same = before is not None and before.push is not None and place is not None and before.push.url == place.url
            kept = before.sealed if before is not None and same else None
            plan = FilePlan(
                connection_id=connection_id, templates=tuple(templates), push=place, changed_by=actor.name,
                changed_at=now, sealed=kept if account is None else self._secrets.seal(account),
            )  # fmt: skip
            await queue.put_plan(conn, plan)
            audited = bus.change_audited(
                actor.name, "sc_files.put", f"sc_connection:{connection_id}", after=plan.document(),
                before=None if before is None else before.document(), request_id=actor.request_id, at=now,
            )  # fmt: skip
            await outbox.put(conn, [audited])
        self._changed()
        return plan

    async def retry(self, connection_id: str, file_id: int, actor: Actor) -> UnitFile:
        """Push a file that waits now instead of later.

        Raises:
            NotFound: No such file waits.
        """
        return await self._change(connection_id, file_id, FileState.RETRYING, None, "unit_file.retry", actor)

    async def give_up(self, connection_id: str, file_id: int, reason: str, actor: Actor) -> UnitFile:
        """Bring a file to nobody any more, so that those behind it go.

        Raises:
            NotFound: No such file waits.
        """
        return await self._change(connection_id, file_id, FileState.GIVEN_UP, reason, "unit_file.give_up", actor)

    async def _change(
        self, connection_id: str, file_id: int, state: FileState, reason: str | None, action: str, actor: Actor
    ) -> UnitFile:
        async with self._db.write() as conn:
            found = await queue.fetch_waiting_file(conn, connection_id, file_id)
            if found is None:
                raise NotFound(f"no file {file_id} waits", message_zh=f"没有待推送的文件 {file_id}")
            after = await self._write(conn, found, state, reason)
            audited = bus.change_audited(
                actor.name, action, f"unit_file:{file_id}", after={"name": found.name, "connection": connection_id},
                reason=reason, request_id=actor.request_id, at=self._clock.now(),
            )  # fmt: skip
            await outbox.put(conn, [audited])
        self._changed()
        return after

    async def _write(self, conn: WriteConn, file: UnitFile, state: FileState, reason: str | None) -> UnitFile:
        now = self._clock.now()
        over = state is FileState.GIVEN_UP
        after = replace(
            file, state=state, next_attempt_at=None if over else now, finished_at=now if over else None,
            error=reason or file.error,
        )  # fmt: skip
        await queue.save_attempt(
            conn, file.id, after.state, attempts=after.attempts, next_attempt_at=after.next_attempt_at,
            finished_at=after.finished_at, error=after.error,
        )  # fmt: skip
        return after


def _problems(
    templates: Sequence[FileTemplate], place: PushPlace | None, account: Mapping[str, str] | None
) -> list[str]:
    found = [f"templates[{number}]: {each}" for number, one in enumerate(templates) for each in problems_of(one)]
    ids = [template.id for template in templates]
    if len(set(ids)) != len(ids):
        found.append("templates: each id once")
    if place is None:
        return found + (["push: an account without an address"] if account else [])
    target = PushTarget(url=place.url, host_key=place.host_key).with_account(account or {})
    problem = target.problem()
    return found if problem is None else [*found, f"push.{problem}"]
