"""Deliveries of records: taken once, each row answered, the work left to a job."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import orjson

from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import Conflict, Forbidden, InvalidInput, NotFound
from libs.common.ids import new_id
from services.export import bus
from services.export.domain.records import Placed, Places, Refusal, place, read_row
from services.export.records import rows
from services.export.records.reading import MAX_ROWS, Fields
from services.export.records.rows import Delivery, RowState
from services.export.usecases.administration import Actor

FOLDER = "service:folder"
"""The sender of files that are dropped."""


class OtherDelivery(Conflict):
    """The sender has sent something else under that name."""

    code = "other_delivery"
    title_zh = "批次名称已被使用"


@dataclass(frozen=True, slots=True)
class Told:
    """A delivery and how many of its rows are in which state."""

    delivery: Delivery
    counts: Mapping[RowState, int]


async def judge(fields: Sequence[Fields], places: Places) -> tuple[list[Placed], dict[int, Refusal]]:
    """Return the placed rows of a delivery and, by line, why the others are not taken."""
    # Reading is the work, and goes to a thread; the registry changes with the loop, and is asked within it.
    read = await asyncio.to_thread(lambda: [read_row(line, one) for line, one in fields])
    placed, refused = place([one for one in read if not isinstance(one, Refusal)], places)
    return placed, {one.line: one for one in [*refused, *(one for one in read if isinstance(one, Refusal))]}


class Deliveries:
    """The door for records."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        places: Callable[[], Places],
        senders: Sequence[str],
        changed: Callable[[], None],
    ) -> None:
        """Keep what is needed.

        Args:
            db: Of the service.
            clock: Ours.
            places: Gives the registry as it is now.
            senders: Who may deliver beside administrators: ``key:<id>``, ``user:<name>``.
            changed: Called after a commit that has told something.
        """
        self._db = db
        self._clock = clock
        self._places = places
        self._senders = frozenset(senders)
        self._changed = changed

    def check_sender(self, actor: str) -> None:
        """Let nobody deliver whom an operator has not named.

        Raises:
            Forbidden: Nobody has.
        """
        if actor not in self._senders:
            raise Forbidden(
                f"{actor}: expected one of WATTRING_EXPORT__RECORDS__SENDERS, or the right export:admin",
                message_zh=f"{actor}:应列入 WATTRING_EXPORT__RECORDS__SENDERS,或具有 export:admin 权限",
            )

    async def deliver(self, name: str, fields: Sequence[Fields], actor: Actor) -> Told:
        """Store rows and answer those that cannot be taken; what was sent under the name before is not taken again.

        Raises:
            InvalidInput: There are none, or too many.
            OtherDelivery: The same sender has sent other rows under that name.
        """
        if not 1 <= len(fields) <= MAX_ROWS:
            raise InvalidInput(
                f"records: expected 1 to {MAX_ROWS}, found {len(fields)}",
                message_zh=f"records:应为 1 至 {MAX_ROWS} 条,实际为 {len(fields)} 条",
            )
        digest = await asyncio.to_thread(_digest, fields)
        _, refused = await judge(fields, self._places())
        now = self._clock.now()
        one = Delivery(
            delivery_id=new_id(), sender=actor.name, name=name, digest=digest, received_at=now, row_count=len(fields)
        )
        async with self._db.write() as conn:
            if await rows.add_delivery(conn, one):
                await rows.add_rows(conn, one.delivery_id, fields, refused)
                audited = bus.change_audited(
                    actor.name, "records.deliver", f"records:{one.delivery_id}", before=None,
                    after={"name": name, "rows": len(fields), "refused": len(refused), "sha256": digest},
                    request_id=actor.request_id, at=now,
                )  # fmt: skip
                await outbox.put(conn, [audited])
            else:
                known = await rows.fetch_named(conn, actor.name, name)
                if known is None or known.digest != digest:
                    raise OtherDelivery(
                        f"delivery {name}: expected a name of its own, it was sent with other rows",
                        message_zh=f"批次 {name}:名称应唯一,已用于其他内容",
                    )
                one = known
            counts = await rows.count_rows(conn, [one.delivery_id])
        self._changed()
        return Told(one, counts[one.delivery_id])

    async def get(self, delivery_id: str) -> Told:
        """Return a delivery.

        Raises:
            NotFound: There is none of that id.
        """
        async with self._db.read() as conn:
            one = await rows.fetch_delivery(conn, delivery_id)
            counts = await rows.count_rows(conn, [delivery_id])
        if one is None:
            raise NotFound(f"no delivery {delivery_id}", message_zh=f"没有批次 {delivery_id}")
        return Told(one, counts[delivery_id])


def _digest(fields: Sequence[Fields]) -> str:
    return hashlib.sha256(orjson.dumps(list(fields), option=orjson.OPT_SORT_KEYS)).hexdigest()
