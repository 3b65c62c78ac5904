"""SQL of groups of alarms that are told together, and of their members."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg
import orjson

from libs.common.db import WriteConn
from services.alarm.domain.grouping import Group, Member, MemberState


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A group as it is stored."""

    group: Group
    route_id: str
    key: str
    next_at: datetime | None


async def lock_groups(
    conn: WriteConn, wanted: Mapping[str, tuple[str, str]], known: Collection[str]
) -> dict[str, GroupRow]:
    """Return groups by id and keep others from changing them in this transaction.

    Args:
        conn: The transaction.
        wanted: Groups that are made when they are not there: id to route and key.
        known: Further ones, that are passed over when they are not there.
    """
    ids = sorted(wanted)
    # An update that changes nothing locks the row, and waits for one that is being deleted.
    await conn.execute(
        """
        insert into notification_groups as g (group_id, route_id, group_key)
        select * from unnest($1::text[], $2::text[], $3::text[])
            on conflict (group_id) do update set route_id = g.route_id
        """,
        ids,
        [wanted[group_id][0] for group_id in ids],
        [wanted[group_id][1] for group_id in ids],
    )
    rows = await conn.fetch(
        """
        select group_id, route_id, group_key, news_at, told_at, next_at
          from notification_groups where group_id = any($1::text[]) order by group_id for update
        """,
        sorted({*wanted, *known}),
    )
    return {row["group_id"]: _group(row) for row in rows}


async def take_due(conn: WriteConn, now: datetime, limit: int) -> list[GroupRow]:
    """Return groups that are to be looked at, the longest due first; those that others hold are passed over."""
    rows = await conn.fetch(
        """
        select group_id, route_id, group_key, news_at, told_at, next_at
          from notification_groups where next_at <= $1
         order by next_at, group_id limit $2 for update skip locked
        """,
        now,
        limit,
    )
    return [_group(row) for row in rows]


async def put_groups(conn: WriteConn, groups: Sequence[tuple[Group, datetime | None]]) -> None:
    """Write when groups are to be told and looked at."""
    await conn.execute(
        """
        update notification_groups g set news_at = n.news_at, told_at = n.told_at, next_at = n.next_at
          from unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[])
            as n (group_id, news_at, told_at, next_at)
         where g.group_id = n.group_id
        """,
        [group.group_id for group, _ in groups],
        [group.news_at for group, _ in groups],
        [group.told_at for group, _ in groups],
        [next_at for _, next_at in groups],
    )


async def delete_groups(conn: WriteConn, group_ids: Collection[str]) -> None:
    """Forget groups without members."""
    await conn.execute("delete from notification_groups where group_id = any($1::text[])", sorted(group_ids))


async def fetch_groups_of(conn: WriteConn, alarm_ids: Collection[str]) -> set[str]:
    """Return the groups that alarms are in."""
    rows = await conn.fetch(
        "select distinct group_id from notification_members where alarm_id = any($1::text[])", sorted(alarm_ids)
    )
    return {row["group_id"] for row in rows}


async def fetch_members_of(conn: WriteConn, alarm_ids: Collection[str]) -> dict[tuple[str, str], Member]:
    """Return the members that alarms are, by group and alarm."""
    rows = await conn.fetch(
        """
        select group_id, alarm_id, site_id, device_id, signal, level, began_at, ended_at, sequence, detail, detail_zh,
               state, told_at, told_to, escalated, inhibited, false as acknowledged
          from notification_members where alarm_id = any($1::text[])
        """,
        sorted(alarm_ids),
    )
    return {(row["group_id"], row["alarm_id"]): _member(row) for row in rows}


async def fetch_members(conn: WriteConn, group_ids: Collection[str]) -> dict[str, list[Member]]:
    """Return the members of groups, and whether people have acknowledged them."""
    rows = await conn.fetch(
        """
        select m.group_id, m.alarm_id, m.site_id, m.device_id, m.signal, m.level, m.began_at, m.ended_at, m.sequence,
               m.detail, m.detail_zh, m.state, m.told_at, m.told_to, m.escalated, m.inhibited,
               a.acknowledged_at is not null as acknowledged
          from notification_members m left join alarms a on a.alarm_id = m.alarm_id
         where m.group_id = any($1::text[])
         order by m.group_id, m.level, m.began_at, m.alarm_id
        """,
        sorted(group_ids),
    )
    found: dict[str, list[Member]] = {group_id: [] for group_id in group_ids}
    for row in rows:
        found[row["group_id"]].append(_member(row))
    return found


async def put_members(conn: WriteConn, members: Mapping[tuple[str, str], Member]) -> None:
    """Write members as they stand, by group and alarm."""
    if not members:
        return
    keys = sorted(members)
    rows = [members[key] for key in keys]
    await conn.execute(
        """
        insert into notification_members as m (group_id, alarm_id, site_id, device_id, signal, level, began_at,
               ended_at, sequence, detail, detail_zh, state, told_at, told_to, escalated, inhibited)
        select group_id, alarm_id, site_id, device_id, signal, level, began_at, ended_at, sequence, detail, detail_zh,
               state, told_at, array(select jsonb_array_elements_text(told_to::jsonb)), escalated, inhibited
          from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::integer[], $7::timestamptz[],
                      $8::timestamptz[], $9::integer[], $10::text[], $11::text[], $12::text[], $13::timestamptz[],
                      $14::text[], $15::integer[], $16::boolean[])
            as n (group_id, alarm_id, site_id, device_id, signal, level, began_at, ended_at, sequence, detail,
                  detail_zh, state, told_at, told_to, escalated, inhibited)
            on conflict (group_id, alarm_id) do update set
               level = excluded.level, ended_at = excluded.ended_at, sequence = excluded.sequence,
               detail = excluded.detail, detail_zh = excluded.detail_zh, state = excluded.state,
               told_at = excluded.told_at, told_to = excluded.told_to, escalated = excluded.escalated,
               inhibited = excluded.inhibited
        """,
        [group_id for group_id, _ in keys],
        [alarm_id for _, alarm_id in keys],
        [member.site_id for member in rows],
        [member.device_id for member in rows],
        [member.signal for member in rows],
        [member.level for member in rows],
        [member.began_at for member in rows],
        [member.ended_at for member in rows],
        [member.sequence for member in rows],
        [member.text for member in rows],
        [member.text_zh for member in rows],
        [member.state.value for member in rows],
        [member.told_at for member in rows],
        [_json(member.told_to) for member in rows],
        [member.escalated for member in rows],
        [member.inhibited for member in rows],
    )


async def delete_members(conn: WriteConn, keys: Collection[tuple[str, str]]) -> None:
    """Take alarms out of groups."""
    if not keys:
        return
    ordered = sorted(keys)
    await conn.execute(
        """
        delete from notification_members m using unnest($1::text[], $2::text[]) as g (group_id, alarm_id)
         where m.group_id = g.group_id and m.alarm_id = g.alarm_id
        """,
        [group_id for group_id, _ in ordered],
        [alarm_id for _, alarm_id in ordered],
    )


async def fetch_ended(conn: WriteConn, alarm_ids: Collection[str]) -> set[str]:
    """Return those of the alarms that have ended already."""
    rows = await conn.fetch(
        "select alarm_id from alarms where alarm_id = any($1::text[]) and ended_at is not null", sorted(alarm_ids)
    )
    return {row["alarm_id"] for row in rows}


def _json(values: Sequence[str]) -> str:
    return orjson.dumps(list(values)).decode()


def _group(row: asyncpg.Record) -> GroupRow:
    group = Group(row["group_id"], row["news_at"], row["told_at"])
    return GroupRow(group, row["route_id"], row["group_key"], row["next_at"])


def _member(row: asyncpg.Record) -> Member:
    return Member(
        alarm_id=row["alarm_id"],
        site_id=row["site_id"],
        device_id=row["device_id"],
        signal=row["signal"],
        level=row["level"],
        began_at=row["began_at"],
        sequence=row["sequence"],
        text=row["detail"],
        text_zh=row["detail_zh"],
        ended_at=row["ended_at"],
        state=MemberState(row["state"]),
        told_at=row["told_at"],
        told_to=tuple(row["told_to"]),
        escalated=row["escalated"],
        inhibited=row["inhibited"],
        acknowledged=row["acknowledged"],
    )
