"""LOGINs and LOGOUTs of a centre's units, and units whose centre has fallen silent."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from services.export.dialects.messages import (
    Announce,
    DeviceRef,
    Operation,
    Outcome,
    Register,
    Registered,
    ReportDevices,
    UnitRequest,
    Unregister,
)
from services.export.domain import session
from services.export.domain.connection import Phase, Unit, UnitKey, service_url
from services.export.domain.description import described
from services.export.domain.mapping import Mapping as UnitMapping
from services.export.domain.pace import Pace
from services.export.secrets import Secrets, SecretsUnreadable
from services.export.soap_client import Answered, BadAnswer, CallOutcome, NoAnswer, NotSent
from services.export.store import connections as connection_store
from services.export.store import mappings as mapping_store
from services.export.store import queues as queue_store
from services.export.store import sessions as session_store
from services.export.store import units as unit_store
from services.export.worker.centre_link import CentreLink, reason_of

logger = logging.getLogger(__name__)

SLOTS = 16
"""Units are spread over so many leases; replicas share the work in these portions."""

MISSED_HEARTBEATS = 2.5
"""A centre that has said how often it asks is given up after as many intervals."""


class Logins:
    """Lets units of a centre in and takes leave of them."""

    def __init__(self, link: CentreLink, secrets: Secrets, *, remember: Callable[[Iterable[UnitKey]], None]) -> None:
        """Prepare; ``remember`` is told of units that were let in, whose queues are worth a look."""
        self._link = link
        self._secrets = secrets
        self._remember = remember
        self.pace = Pace(link.clock.monotonic())
        """Of LOGINs."""

    async def log_in(self, unit: Unit) -> bool:
        """Log a unit in; return whether it was let in."""
        async with self._link.db.read() as conn:
            mapping = await mapping_store.fetch_mapping(conn, unit.key)
            sealed = await connection_store.fetch_credentials(conn, self._link.connection.id)
        try:
            account = self._secrets.unseal(sealed)
        except SecretsUnreadable as exc:
            await self._link.persistently(partial(self._after_login, unit, NotSent(exc.message)))
            return False
        own = self._link.dialect.own_device(DeviceRef(unit.ref.unit_id, unit.ref.unit_code))
        request = Register(
            unit=unit.ref,
            facts=unit.facts,
            # The unit itself stands in the list as a device.
            devices=(own, *(device.ref for device in mapping.devices if device.ref.device_id != own.device_id)),
            username=account.get("username", ""),
            password=account.get("password", ""),
        )
        async with self._link.db.write() as conn:
            if not await session_store.claim_login(
                conn, unit.key, now=self._link.clock.now(), interval_s=self._link.login_interval_s
            ):
                return False
        self.pace.took(self._link.clock.monotonic(), self._link.connection.options.logins_per_s)
        # Registration goes to the registration address, events to the one that is assigned there.
        outcome = await self._link.call(self._link.connection.url, request, Operation.REGISTER)
        outcome = await self._prepared(unit, mapping, outcome)
        return await self._link.persistently(partial(self._after_login, unit, outcome))

    async def _prepared(self, unit: Unit, mapping: UnitMapping, outcome: CallOutcome) -> CallOutcome:
        """Go through what the dialect wants between the LOGIN and the work; return the LOGIN's outcome after it.

        A step without a yes that is required turns the LOGIN into a refusal, or into one without an answer.
        """
        if not isinstance(outcome, Answered) or not isinstance(outcome.reply, Registered):
            return outcome
        reply = outcome.reply
        if not reply.accepted:
            return outcome
        url = service_url(self._link.connection, reply.centre_address)
        for step in self._link.dialect.steps:
            done = await self._link.call(url, _step_request(unit, mapping, step.operation), step.operation)
            if isinstance(done, Answered) and isinstance(done.reply, Outcome) and done.reply.ok:
                continue
            logger.warning(
                "a step after the LOGIN was not taken",
                extra={"unit": unit.ref.unit_id, "step": step.operation.value, "reason": reason_of(done)},
            )
            if not step.required:
                continue
            if isinstance(done, Answered):
                return Answered(replace(reply, accepted=False, reason=f"{step.operation.value}: {reason_of(done)}"))
            return NoAnswer(f"{step.operation.value}: {done.reason}")  # the LOGIN itself did arrive
        return outcome

    async def _after_login(self, unit: Unit, outcome: CallOutcome) -> bool:
        """Write what became of a LOGIN; return whether the unit was let in."""
        options, now = self._link.connection.options, self._link.clock.now()
        async with self._link.db.write() as conn:
            current = await unit_store.lock_unit(conn, unit.key)
            if current is None or current.phase in (Phase.LEAVING, Phase.LEFT):
                return False
            match outcome:
                case Answered(reply=Registered() as reply):
                    after = session.let_in_or_refused(current, reply, now)
                case NotSent(reason=reason):
                    after = session.login_not_sent(
                        current, reason, now, options, last_login_at=unit.last_login_at, jitter=self._link.rng.random()
                    )
                case _:
                    after = session.login_unanswered(current, reason_of(outcome), now)
            await self._link.save(conn, after, before=current)
            if after.phase is Phase.REGISTERED:
                await queue_store.hurry(conn, unit.key, now)
                self._remember([unit.key])
        self._link.committed()
        return after.phase is Phase.REGISTERED

    async def log_out(self, unit: Unit) -> None:
        """Take leave of the centre for a unit."""
        if not self._link.dialect.has(Operation.UNREGISTER):
            farewell = Answered(Outcome(unit.ref, True))  # the dialect knows none
            await self._link.persistently(partial(self._after_logout, unit, farewell))
            return
        url = service_url(self._link.connection, unit.assigned_address)
        outcome = await self._link.call(url, Unregister(unit.ref), Operation.UNREGISTER)
        await self._link.persistently(partial(self._after_logout, unit, outcome))

    async def _after_logout(self, unit: Unit, outcome: CallOutcome) -> None:
        async with self._link.db.write() as conn:
            current = await unit_store.lock_unit(conn, unit.key)
            if current is None or current.phase is not Phase.LEAVING:
                return
            after = session.logged_out(
                current,
                answered=isinstance(outcome, Answered | BadAnswer),
                now=self._link.clock.now(),
                options=self._link.connection.options,
                jitter=self._link.rng.random(),
            )
            await self._link.save(conn, after, before=current)
        self._link.committed()

    async def lose_silent_units(self, slots: Sequence[int]) -> None:
        """Mark the units as lost whose centre has not been heard of for too long; a LOGIN follows."""
        silence_s = self._link.connection.options.silence_s
        if silence_s is None or self._link.connection.removed or not self._link.connection.enabled:
            return
        async with self._link.db.write() as conn:
            silent = await session_store.lock_silent_units(
                conn,
                self._link.connection.id,
                slots=slots,
                slot_count=SLOTS,
                now=self._link.clock.now(),
                silence_s=silence_s,
                heartbeats=MISSED_HEARTBEATS,
            )
            for unit in silent:
                waited_s = max(silence_s, MISSED_HEARTBEATS * (unit.heartbeat_s or 0.0))
                lost = replace(unit, phase=Phase.LOST, error=f"nothing heard from the centre for {waited_s:g} s")
                await self._link.save(conn, lost, before=unit)


def _step_request(unit: Unit, mapping: UnitMapping, operation: Operation) -> UnitRequest:
    """Return what a step after the LOGIN says; of devices without thresholds, which alarm is not asked for here."""
    if operation is Operation.SEND_DEVICES:
        return ReportDevices(unit.ref, described(mapping, {}))
    return Announce(unit.ref)
