"""What a centre writes of its units' configuration: descriptions of devices, and the account that they log in with.

Both are refused unless the connection's permits name them, harmless when they are said again, and audited either way;
of an account the name only.
"""

import asyncio
import re
from collections.abc import Callable, Sequence

from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.db import Database
from services.export import bus
from services.export.dialects import messages as m
from services.export.domain.connection import Unit
from services.export.domain.describing import (
    MAX_SIGNALS,
    Description,
    Judged,
    Unfit,
    applied,
    judge_descriptions,
    listed,
)
from services.export.domain.description import Thresholds
from services.export.domain.mapping import Mapping as UnitMapping
from services.export.domain.permits import OrderKind
from services.export.orders import permits as permit_store
from services.export.secrets import Secrets, SecretsUnreadable
from services.export.store import connections as connection_store
from services.export.store import mappings as mapping_store
from services.export.store import units as unit_store
from services.export.usecases.orders import MAX_ORDERS, Orders

ACCOUNT_TEXT = re.compile(r"[\x21-\x7e]{1,64}")
"""Name or password of a LOGIN: the texts say 20 characters, digests have 32 to 64."""


class Configuration:
    """Takes configuration from centres."""

    def __init__(
        self, *, db: Database, clock: Clock, secrets: Secrets, orders: Orders, committed: Callable[[], None]
    ) -> None:
        """Prepare it.

        Args:
            db: The service's database.
            clock: For the audit.
            secrets: Encrypts accounts.
            orders: Reads and sets thresholds.
            committed: Called when something was written for others.
        """
        self._db = db
        self._clock = clock
        self._secrets = secrets
        self._orders = orders
        self._committed = committed

    # ---- devices ---------------------------------------------------------------------------------

    async def write_devices(self, unit: Unit, orders: Sequence[m.DeviceOrder], peer: str) -> m.DevicesWritten:
        """Describe devices as the centre wants, each whole or not at all."""
        async with self._db.read() as conn:
            permits = await permit_store.fetch_current(conn, unit.connection_id)
            mapping = await mapping_store.fetch_mapping(conn, unit.key)
        held: Thresholds | None = None
        judged: Sequence[Judged]
        if OrderKind.DEVICE_CONFIG not in permits.kinds:
            judged = [Unfit.NOT_PERMITTED] * len(orders)
        elif len(orders) > MAX_ORDERS or sum(len(order.signals) for order in orders) > MAX_SIGNALS:
            judged = [Unfit.TOO_MANY] * len(orders)
        else:
            try:
                async with asyncio.timeout(permits.answer_within_s):
                    held = await self._thresholds(unit, orders)
                    judged = await self._judge(unit, orders, mapping, held, peer)
            except TimeoutError:  # thresholds may have been set: the same message again finds them so
                judged = [Unfit.NOT_KNOWN] * len(orders)
        reasons = await self._write(unit, orders, judged, held, peer)
        done, failed = listed(orders, [reason is None for reason in reasons])
        ok = bool(orders) and not failed
        reason = "" if ok else next((reason.value for reason in reasons if reason is not None), "nothing was ordered")
        return m.DevicesWritten(unit.ref, ok, done, failed, reason.replace("_", " "))

    async def _judge(
        self,
        unit: Unit,
        orders: Sequence[m.DeviceOrder],
        mapping: UnitMapping,
        held: Thresholds | None,
        peer: str,
    ) -> Sequence[Judged]:
        """Return what can be taken, with the thresholds that change set: without them a device is not taken."""
        judged = judge_descriptions(orders, mapping, held)
        wanted = [one for each in judged if isinstance(each, Description) for one in each.thresholds]
        if not wanted:
            return judged
        outcome = await self._orders.write_thresholds(unit, wanted, peer)
        refused = {(each.device.device_id, point) for each in outcome.devices for point in each.failed}
        return [
            Unfit.THRESHOLD_REFUSED
            if isinstance(each, Description)
            and any((one.device.device_id, one.point_id) in refused for one in each.thresholds)
            else each
            for each in judged
        ]

    async def _thresholds(self, unit: Unit, orders: Sequence[m.DeviceOrder]) -> Thresholds | None:
        """Return what holds, as far as a level or threshold is said; None when alarm cannot be asked."""
        if all(one.threshold is None and one.level is None for order in orders for one in order.signals):
            return {}
        selection = [m.DeviceSelection(each.device, tuple(one.point_id for one in each.signals)) for each in orders]
        held = await self._orders.read_thresholds(unit, selection)
        if not held.ok:
            return None
        return {(each.device.device_id, one.point_id): one for each in held.devices for one in each.thresholds}

    async def _write(
        self,
        unit: Unit,
        orders: Sequence[m.DeviceOrder],
        judged: Sequence[Judged],
        held: Thresholds | None,
        peer: str,
    ) -> list[Unfit | None]:
        """Write what can be taken into the mapping; return of each order why it was not, None when it was."""
        async with self._db.write() as conn:
            await unit_store.lock_unit(conn, unit.key)
            before = await mapping_store.fetch_mapping(conn, unit.key)
            # A person may have changed the mapping meanwhile, so what fitted is judged by what stands there now.
            again = judge_descriptions(orders, before, held) if any(map(_fits, judged)) else judged
            now = [new if _fits(old) else old for old, new in zip(judged, again, strict=True)]
            after = applied(before, [one for one in now if isinstance(one, Description)])
            if after != before:
                await mapping_store.put_mapping(conn, unit.key, after)
            reasons = [one if isinstance(one, Unfit) else None for one in now]
            told = [
                {
                    "device": order.device.device_id, "signals": len(order.signals), "done": reason is None,
                    "reason": None if reason is None else reason.value,
                }
                for order, reason in zip(orders[:MAX_ORDERS], reasons, strict=False)
            ]  # fmt: skip
            audited = bus.orders_audited(
                unit, "device_config.write", orders=told, count=len(orders), address=peer,
                succeeded=bool(orders) and not any(reasons), at=self._clock.now(),
            )  # fmt: skip
            await outbox.put(conn, [audited])
        self._committed()
        return reasons

    # ---- the account of LOGIN --------------------------------------------------------------------

    async def write_login_account(self, unit: Unit, username: str, password: str, peer: str) -> bool:
        """Let the units of a unit's connection, it among them, log in with another account from their next LOGIN on.

        The password is stored encrypted and never logged.
        """
        async with self._db.write() as conn:
            permits = await permit_store.fetch_current(conn, unit.connection_id)
            refused = ""
            if OrderKind.LOGIN_ACCOUNT not in permits.kinds:
                refused = "not_permitted"
            elif not ACCOUNT_TEXT.fullmatch(username) or not ACCOUNT_TEXT.fullmatch(password):
                refused = "not_acceptable"
            else:
                account = self._stored(await connection_store.fetch_credentials(conn, unit.connection_id))
                new = {**account, "username": username, "password": password}
                if new != account:  # said again it is the same
                    await connection_store.save_credentials(
                        conn, unit.connection_id, self._secrets.seal(new), self._clock.now()
                    )
            audited = bus.order_audited(
                unit, "login_account.write", points=[username[:64]], address=peer, succeeded=not refused,
                at=self._clock.now(), reason=refused or None,
            )  # fmt: skip
            await outbox.put(conn, [audited])
        self._committed()
        return not refused

    def _stored(self, sealed: bytes | None) -> dict[str, str]:
        try:
            return self._secrets.unseal(sealed)
        except SecretsUnreadable:  # of a key that is gone: nothing of it can be used any more
            return {}


def _fits(judged: Judged) -> bool:
    return isinstance(judged, Description)
