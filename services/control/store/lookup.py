"""SQL of commands as people read them: one with its history, pages, groups of one request."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from libs.common.contracts.control import CommandState
from libs.common.db import ReadConn, WriteConn
from libs.common.evolve import evolved
from services.control.domain.commands import Command
from services.control.store.commands import COLUMNS, HistoryRow, birth, command_of


async def fetch(conn: ReadConn, command_id: str) -> Command | None:
    """Return one command."""
    row = await conn.fetchrow(f"select {COLUMNS} from commands where command_id = $1", command_id)  # noqa: S608
    return None if row is None else command_of(row)


async def fetch_history(conn: ReadConn, command: Command) -> list[HistoryRow]:
    """Return a command's steps in their order.

    One that was sent as soon as it was made has no rows of the steps before: they follow from the command.
    """
    rows = await conn.fetch(
        "select at, state, reason, hold, attempt, evidence from command_history where command_id = $1 order by id",
        command.command_id,
    )
    stored = [HistoryRow(**dict(row)) for row in rows]
    if stored and stored[0].state == CommandState.RECEIVED:
        return stored
    made = evolved(command, state=CommandState.SCHEDULED, not_before=command.created_at, reason="")
    return [*birth(made), *stored]


async def fetch_page(
    conn: ReadConn,
    *,
    site_id: str | None,
    device_id: str | None,
    load_id: str | None,
    plan_id: str | None,
    group_id: str | None,
    wake_up_id: str | None,
    state: str | None,
    before: tuple[datetime, str] | None,
    limit: int,
    sites: Sequence[str] | None,
    actor: str | None = None,
) -> list[Command]:
    """Return commands, the youngest first; of ``sites`` only, if given, whatever the filters say."""
    rows = await conn.fetch(
        f"""
        select {COLUMNS} from commands
         where ($1::text is null or load_id = $1) and ($2::text is null or group_id = $2)
           and ($3::text is null or wake_up_id = $3) and ($4::text is null or state = $4)
           and ($5::timestamptz is null or (created_at, command_id) < ($5, $6))
           and ($8::text[] is null or site_id = any($8))
           and ($9::text is null or site_id = $9) and ($10::text is null or device_id = $10)
           and ($11::text is null or plan_id = $11) and ($12::text is null or actor = $12)
         order by created_at desc, command_id desc
         limit $7
        """,  # noqa: S608
        load_id,
        group_id,
        wake_up_id,
        state,
        None if before is None else before[0],
        None if before is None else before[1],
        limit,
        None if sites is None else list(sites),
        site_id,
        device_id,
        plan_id,
        actor,
    )
    return [command_of(row) for row in rows]


async def fetch_group_head(conn: ReadConn | WriteConn, group_id: str) -> Mapping[str, Any] | None:
    """Return action, actor, creation and refused loads of a group."""
    row = await conn.fetchrow(
        "select group_id, action, actor, created_at, refused from command_groups where group_id = $1", group_id
    )
    return None if row is None else dict(row)


async def fetch_group(conn: ReadConn | WriteConn, group_id: str) -> list[Command]:
    """Return the commands of a group that people asked for: without the wake-ups that belong to its OFFs."""
    rows = await conn.fetch(
        f"select {COLUMNS} from commands where group_id = $1 order by load_id, command_id",  # noqa: S608
        group_id,
    )
    return [command_of(row) for row in rows]
