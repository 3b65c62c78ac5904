"""Options of points: told from what holds, chosen by a centre as far as it may, and the templates that people put here.

A template is a set of thresholds, so choosing one needs the permit of a threshold for the point. What a point uses
already is a yes without one, since nothing changes.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.db import Database
from libs.common.errors import InvalidInput, NotFound, Unavailable
from services.export import bus
from services.export.dialects import Dialects
from services.export.dialects import messages as m
from services.export.domain.connection import Unit
from services.export.domain.mapping import MappedPoint, SourceKind
from services.export.domain.mapping import Mapping as UnitMapping
from services.export.domain.options import (
    OPTION,
    Option,
    OptionBook,
    agrees,
    contradictory,
    options_of,
    templated,
)
from services.export.domain.outcomes import outcomes_of
from services.export.domain.permits import OrderKind, Permits
from services.export.option_book import read_option_book
from services.export.orders import option_books
from services.export.orders import permits as permit_store
from services.export.orders.neighbours import Held, ThresholdKeeper, ThresholdWish
from services.export.orders.option_books import StoredBook
from services.export.store import connections as connection_store
from services.export.store import mappings as mapping_store
from services.export.store import units as unit_store
from services.export.usecases.administration import Actor
from services.export.usecases.orders import MAX_ORDERS, Orders

logger = logging.getLogger(__name__)

HeldBySignal = Mapping[tuple[str, str], Held]


class Refusal(StrEnum):
    """Why a point does not use the option that is ordered; a centre is only told that it does not."""

    NOT_PERMITTED = "not_permitted"
    NOT_MAPPED = "not_mapped"
    NO_SUCH_OPTION = "no_such_option"
    CANNOT_BE = "cannot_be"
    """Its template says what this point has not: a threshold of what is no alarm, another way of storing."""
    CONTRADICTORY = "contradictory"
    TOO_MANY = "too_many"
    NOT_KNOWN = "not_known"
    """Alarm could not be asked, or did not answer in time."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """An option that a point is to use, and its point."""

    point: MappedPoint
    option: Option
    unit: str | None
    """In which the centre writes thresholds; None is not checked."""

    def wish(self) -> ThresholdWish | None:
        """Return what alarm is to set; None when the template says nothing of that."""
        one = self.option
        said = (one.threshold, one.hysteresis, one.start_delay_s, one.end_delay_s)
        if all(value is None for value in said):
            return None
        return ThresholdWish(
            self.point.device_id, self.point.source, one.threshold, None if one.threshold is None else self.unit,
            one.hysteresis, one.start_delay_s, one.end_delay_s,
        )  # fmt: skip


class PointOptionDesk:
    """Answers which options points use, and lets centres choose."""

    def __init__(
        self, *, db: Database, clock: Clock, orders: Orders, thresholds: ThresholdKeeper, committed: Callable[[], None]
    ) -> None:
        """Prepare it.

        Args:
            db: The service's database.
            clock: For the audit.
            orders: Says what holds.
            thresholds: Sets it.
            committed: Called when something was written for others.
        """
        self._db = db
        self._clock = clock
        self._orders = orders
        self._thresholds = thresholds
        self._committed = committed

    async def read(self, unit: Unit, selection: Sequence[m.DeviceSelection]) -> m.PointOptions:
        """Return the options in use; Result 0 when they depend on alarm and it cannot be asked."""
        async with self._db.read() as conn:
            mapping = await mapping_store.fetch_mapping(conn, unit.key)
            book = await option_books.fetch_book(conn, unit.connection_id)
        held = await self._orders.held({point.device_id for point in templated(mapping, selection, book)})
        if held is None:
            return m.PointOptions(unit.ref, False)
        return m.PointOptions(unit.ref, True, options_of(mapping, selection, book, held))

    async def write(self, unit: Unit, orders: Sequence[m.OptionOrder], peer: str) -> m.WriteOutcome:
        """Let points use the options that the centre orders and may order; each point is in one of the two lists."""
        async with self._db.read() as conn:
            permits = await permit_store.fetch_current(conn, unit.connection_id)
            mapping = await mapping_store.fetch_mapping(conn, unit.key)
            book = await option_books.fetch_book(conn, unit.connection_id)
        reasons: list[str | None]
        choices: list[_Choice] = []
        if len(orders) > MAX_ORDERS:
            reasons = [Refusal.TOO_MANY] * len(orders)
        else:
            try:
                async with asyncio.timeout(permits.answer_within_s):
                    reasons, choices = await self._choose(unit, orders, mapping, book, permits)
            except TimeoutError:  # some may have been set: the same message again finds them so
                reasons = [Refusal.NOT_KNOWN] * len(orders)
        await self._write_down(unit, orders, reasons, choices, peer)
        done = [reason is None for reason in reasons]
        outcomes = outcomes_of((order.device, order.point_id, ok) for order, ok in zip(orders, done, strict=True))
        return m.WriteOutcome(unit.ref, bool(orders) and all(done), outcomes)

    async def _choose(
        self,
        unit: Unit,
        orders: Sequence[m.OptionOrder],
        mapping: UnitMapping,
        book: OptionBook,
        permits: Permits,
    ) -> tuple[list[str | None], list[_Choice]]:
        """Set what alarm keeps; return of each order why not, None when so, and the choices whose levels are left."""
        judged = _judged(orders, mapping, book, permits)
        signals = [one.point for one in judged if isinstance(one, _Choice) and one.point.kind is SourceKind.SIGNAL]
        held = await self._orders.held({point.device_id for point in signals})
        if held is None:
            return [Refusal.NOT_KNOWN if isinstance(one, _Choice) else one for one in judged], []
        reasons: list[str | None] = [None if isinstance(one, _Choice) else one for one in judged]
        open_ = {
            place: one
            for place, one in enumerate(judged)
            if isinstance(one, _Choice)
            and not agrees(one.option, one.point, held.get((one.point.device_id, one.point.source)))
        }
        wishes: dict[tuple[str, str], ThresholdWish] = {}
        for place, choice in [*open_.items()]:
            order, wish = orders[place], choice.wish()
            if OrderKind.THRESHOLD not in permits.kinds or (
                permits.rule_for(order.device.device_id, order.point_id) is None
            ):
                reasons[place] = Refusal.NOT_PERMITTED
            elif wish is not None and wishes.setdefault((wish.device_id, wish.signal), wish) != wish:
                reasons[place] = Refusal.CONTRADICTORY  # two points of the centre stand for one signal of ours
        asked = {
            place: wish
            for place, choice in open_.items()
            if reasons[place] is None and (wish := choice.wish()) is not None
        }
        if asked:
            refusals = await self._set(unit, list(asked.values()))
            for place, refusal in zip(asked, refusals, strict=True):
                reasons[place] = refusal
        return reasons, [choice for place, choice in open_.items() if reasons[place] is None]

    async def _set(self, unit: Unit, wishes: Sequence[ThresholdWish]) -> Sequence[str | None]:
        try:
            return await self._thresholds.set_thresholds(unit.connection_id, wishes, timeout_s=4.5)
        except Unavailable as exc:
            logger.warning("options cannot be set", extra={"unit": unit.ref.unit_id, "reason": exc.message})
            return [Refusal.NOT_KNOWN] * len(wishes)

    async def _write_down(
        self,
        unit: Unit,
        orders: Sequence[m.OptionOrder],
        reasons: Sequence[str | None],
        choices: Sequence[_Choice],
        peer: str,
    ) -> None:
        """Write the levels of what was chosen into the mapping, and say who ordered what."""
        levels = {
            (one.point.sc_device_id, one.point.point_id): one.option.level
            for one in choices
            if one.option.level is not None
        }
        async with self._db.write() as conn:
            if levels:
                await unit_store.lock_unit(conn, unit.key)
                before = await mapping_store.fetch_mapping(conn, unit.key)
                points = tuple(
                    replace(point, level=levels.get((point.sc_device_id, point.point_id), point.level))
                    for point in before.points
                )
                if points != before.points:
                    await mapping_store.put_mapping(conn, unit.key, replace(before, points=points))
            told = [
                {
                    "device": order.device.device_id, "point": order.point_id, "option": order.option_id[:40],
                    "done": reason is None, "reason": reason,
                }
                for order, reason in zip(orders[:MAX_ORDERS], reasons, strict=False)
            ]  # fmt: skip
            audited = bus.orders_audited(
                unit, "option.write", orders=told, count=len(orders), address=peer,
                succeeded=bool(orders) and not any(reasons), at=self._clock.now(),
            )  # fmt: skip
            await outbox.put(conn, [audited])
        self._committed()


def _judged(
    orders: Sequence[m.OptionOrder], mapping: UnitMapping, book: OptionBook, permits: Permits
) -> list[_Choice | Refusal | None]:
    """Return of each order the choice that it is, why it is none, or None when its point has no other option."""
    points = {(point.sc_device_id, point.point_id): point for point in mapping.points}
    twice = contradictory(orders)
    found: list[_Choice | Refusal | None] = []
    for order in orders:
        key = (order.device.device_id, order.point_id)
        point = points.get(key)
        templates = book.of(order.point_id)
        option = templates.get(order.option_id)
        if key in twice:
            found.append(Refusal.CONTRADICTORY)
        elif point is None:
            found.append(Refusal.NOT_MAPPED)
        elif not templates:
            found.append(None if order.option_id == OPTION else Refusal.NO_SUCH_OPTION)
        elif option is None:
            found.append(Refusal.NO_SUCH_OPTION)
        elif not book.can_be(option, point):
            found.append(Refusal.CANNOT_BE)
        else:
            rule = permits.rule_for(*key)
            found.append(_Choice(point, option, None if rule is None else rule.unit))
    return found


class OptionBooks:
    """Templates of centres, put here by people."""

    def __init__(self, *, db: Database, clock: Clock, dialects: Dialects, changed: Callable[[], None]) -> None:
        """Keep what is needed; ``changed`` is called after every commit."""
        self._db = db
        self._clock = clock
        self._dialects = dialects
        self._changed = changed

    async def stored(self, connection_id: str) -> StoredBook:
        """Return a centre's templates.

        Raises:
            NotFound: There is no such connection, or it has none.
        """
        async with self._db.read() as conn:
            found = await option_books.fetch(conn, connection_id)
        if found is None:
            raise _none(connection_id)
        return found

    async def put(
        self, connection_id: str, body: bytes, *, ignores_storage: bool, source: str, actor: Actor
    ) -> StoredBook:
        """Replace a centre's templates by those of its file, whole or not at all.

        Raises:
            NotFound: There is no such connection.
            InvalidInput: Its dialect has no options, or the file is wrong; every place is told.
        """
        async with self._db.read() as conn:
            connection = await connection_store.fetch_connection(conn, connection_id)
        if connection is None:
            raise _no_connection(connection_id)
        dialect = self._dialects.named(connection.dialect)
        if not dialect.spoken(m.Operation.WRITE_OPTIONS):
            raise InvalidInput(
                f"dialect {dialect.name} has no options of points", message_zh=f"方言 {dialect.name} 没有测点配置选项"
            )
        book = await asyncio.to_thread(
            read_option_book, body, "StdSPConfigOptionDic.xml", dialect, ignores_storage=ignores_storage
        )
        now = self._clock.now()
        async with self._db.write() as conn:
            if not await permit_store.lock_connection(conn, connection_id):
                raise _no_connection(connection_id)  # removed since; its templates went with it
            await option_books.put(conn, connection_id, book, source=source, changed_by=actor.name, at=now)
            after = {"name": book.name, "version": book.version, "points": len(book.options), "source": source,
                     "ignores_storage": ignores_storage}  # fmt: skip
            audited = bus.change_audited(
                actor.name, "sc_options.put", f"sc_connection:{connection_id}", after=after,
                request_id=actor.request_id, at=now,
            )  # fmt: skip
            await outbox.put(conn, [audited])
        self._changed()
        return StoredBook(book, source, actor.name, now)

    async def remove(self, connection_id: str, actor: Actor) -> None:
        """Forget a centre's templates: each point has its own one option again; what holds stays.

        Raises:
            NotFound: It has none.
        """
        async with self._db.write() as conn:
            if not await option_books.remove(conn, connection_id):
                raise _none(connection_id)
            audited = bus.change_audited(
                actor.name, "sc_options.remove", f"sc_connection:{connection_id}", after=None,
                request_id=actor.request_id, at=self._clock.now(),
            )  # fmt: skip
            await outbox.put(conn, [audited])
        self._changed()


def _no_connection(connection_id: str) -> NotFound:
    return NotFound(f"no SC connection {connection_id}", message_zh=f"没有SC连接 {connection_id}")


def _none(connection_id: str) -> NotFound:
    return NotFound(
        f"connection {connection_id} has no option templates", message_zh=f"连接 {connection_id} 没有配置选项模板"
    )
