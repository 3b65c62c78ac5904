"""Changes of endpoints over the API: who may, what is checked, what is told.

An endpoint has an owner: the person or the key that made it. Owners see and change their own, whoever administers
export all. What an endpoint is told never goes beyond the part of the site tree that its owner may see.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import orjson

from libs.common import webhooks
from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.contracts.base import PLATFORM_SITE, Phase
from libs.common.db import Database, WriteConn
from libs.common.errors import Conflict, InvalidInput, NotFound
from libs.common.ids import new_id
from libs.common.outgoing import AddressGuard, CallFailed, parse_url
from services.export import bus
from services.export.callbacks import endpoints, queues
from services.export.callbacks.bodies import body_of
from services.export.callbacks.outlet import Outlet, keys_of
from services.export.domain.callbacks import Choice, Endpoint, EndpointState, Health, NewsType, Outcome
from services.export.secrets import Secrets
from services.export.usecases.administration import Actor

REPLAY_MOST = 10_000
"""Deliveries that one replay queues again. [rows]"""


class TooManyEndpoints(Conflict):
    """There are as many endpoints as this installation takes."""

    code = "too_many_callbacks"
    title_zh = "回调数量已达上限"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    actor: Actor
    sites: tuple[str, ...] | None
    """What of the site tree this one may see; None is all."""
    sees_all: bool
    """Whether it may see and change the endpoints of others."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What people set of an endpoint."""

    name: str
    url: str
    choice: Choice
    concurrency: int
    timeout_s: float


class CallbackAdministration:
    """Creates, changes and removes endpoints."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        secrets: Secrets,
        guard: AddressGuard,
        outlet: Outlet,
        max_endpoints: int,
        changed: Callable[[], None],
    ) -> None:
        """Keep what is needed.

        Args:
            db: The service's database.
            clock: Our clock.
            secrets: Encrypts the endpoints' secrets.
            guard: Knows which addresses may be called.
            outlet: Makes the call of the test button.
            max_endpoints: More are refused.
            changed: Called after a change.
        """
        self._db = db
        self._clock = clock
        self._secrets = secrets
        self._guard = guard
        self._outlet = outlet
        self._max_endpoints = max_endpoints
        self._changed = changed

    async def create(self, wish: Wish, caller: Caller, *, owner: str | None) -> tuple[Endpoint, str]:
        """Create an endpoint; return it and its secret, which is never shown again.

        Args:
            wish: What it is to be.
            caller: Who asks, and owns it.
            owner: Somebody else who is to own it; for who may change the endpoints of others.

        Raises:
            InvalidInput: No URL that can be called.
            NotAllowed: It leads inside, and no operator allowed it.
            TooManyEndpoints: There is no place.
        """
        await self._check_url(wish.url)
        now, secret = self._clock.now(), webhooks.new_secret()
        endpoint = Endpoint(
            id=new_id(),
            name=wish.name,
            owner=owner if owner is not None and caller.sees_all else caller.actor.name,
            limits=caller.sites,
            url=wish.url,
            choice=wish.choice,
            concurrency=wish.concurrency,
            timeout_s=wish.timeout_s,
            secrets=self._secrets.seal({"current": secret}),
            created_at=now,
            updated_at=now,
        )
        async with self._db.write() as conn:
            if await endpoints.count(conn) >= self._max_endpoints:
                raise TooManyEndpoints(
                    f"{self._max_endpoints} endpoints are the most (WATTRING_EXPORT__CALLBACKS__MAX_ENDPOINTS)",
                    message_zh=f"最多 {self._max_endpoints} 个回调(WATTRING_EXPORT__CALLBACKS__MAX_ENDPOINTS)",
                )
            await endpoints.put(conn, endpoint)
            await self._audit(conn, caller, "callback.create", endpoint, _shown(endpoint))
        self._changed()
        return endpoint, secret

    async def change(self, endpoint_id: str, wish: Wish, caller: Caller) -> Endpoint:
        """Change what people set of an endpoint; what waits for it is sent to its new address.

        Raises:
            NotFound: There is none, or it is not the caller's.
            InvalidInput, NotAllowed: As for ``create``.
        """
        await self._check_url(wish.url)
        async with self._db.write() as conn:
            before = await self._locked(conn, endpoint_id, caller)
            endpoint = replace(
                before,
                name=wish.name,
                url=wish.url,
                choice=wish.choice,
                concurrency=wish.concurrency,
                timeout_s=wish.timeout_s,
                # Somebody else who administers does not widen what the owner may see.
                limits=caller.sites if before.owner == caller.actor.name else before.limits,
                updated_at=self._clock.now(),
            )
            await endpoints.put(conn, endpoint)
            await self._audit(conn, caller, "callback.change", endpoint, _shown(endpoint))
        self._changed()
        return endpoint

    async def remove(self, endpoint_id: str, caller: Caller) -> None:
        """Take an endpoint out of use, with what waits for it.

        Raises:
            NotFound: There is none, or it is not the caller's.
        """
        async with self._db.write() as conn:
            endpoint = await self._locked(conn, endpoint_id, caller)
            await self._end_finding(conn, endpoint)
            await endpoints.remove(conn, endpoint_id, self._clock.now())
            await self._audit(conn, caller, "callback.remove", endpoint, None)
        self._changed()

    async def pause(self, endpoint_id: str, caller: Caller) -> Endpoint:
        """Stop calling an endpoint; what happens is queued for it. Raises ``NotFound``."""
        return await self._set_state(endpoint_id, EndpointState.PAUSED, "callback.pause", caller)

    async def resume(self, endpoint_id: str, caller: Caller) -> Endpoint:
        """Call an endpoint again, whatever kept us from it. Raises ``NotFound``."""
        return await self._set_state(endpoint_id, EndpointState.ACTIVE, "callback.resume", caller)

    async def _set_state(self, endpoint_id: str, state: EndpointState, action: str, caller: Caller) -> Endpoint:
        async with self._db.write() as conn:
            endpoint = await self._locked(conn, endpoint_id, caller)
            if state is EndpointState.ACTIVE:
                await self._end_finding(conn, endpoint)
                health = Health(state)
            else:
                reason = f"paused by {caller.actor.name}"
                health = Health(
                    state, endpoint.failures, endpoint.failing_since, endpoint.not_before, reason, endpoint.error
                )
            told = state is not EndpointState.ACTIVE and await self._is_told(conn, endpoint_id)
            await endpoints.save_health(conn, {endpoint_id: (health, told)})
            await self._audit(conn, caller, action, endpoint, {"state": state.value})
            endpoint = await self._locked(conn, endpoint_id, caller)
        self._changed()
        return endpoint

    async def rotate(self, endpoint_id: str, caller: Caller, *, valid_for_s: float) -> tuple[str, datetime]:
        """Give an endpoint a new secret; return it, and until when calls are signed with the old one too.

        Raises:
            NotFound: There is none, or it is not the caller's.
        """
        now, secret = self._clock.now(), webhooks.new_secret()
        until = now + timedelta(seconds=valid_for_s)
        async with self._db.write() as conn:
            endpoint = await self._locked(conn, endpoint_id, caller)
            before = self._secrets.unseal(endpoint.secrets)
            sealed = self._secrets.seal(
                {"current": secret, "previous": before["current"], "previous_until": until.isoformat()}
            )
            await endpoints.put(conn, replace(endpoint, secrets=sealed, updated_at=now))
            await self._audit(conn, caller, "callback.rotate_secret", endpoint, {"previous_until": until.isoformat()})
        self._changed()
        return secret, until

    async def replay(
        self, endpoint_id: str, caller: Caller, *, start: datetime, end: datetime | None, states: Sequence[str]
    ) -> int:
        """Queue once more what is over and was queued in a time; return how much, ``REPLAY_MOST`` at most.

        Raises:
            NotFound: There is none, or it is not the caller's.
        """
        now = self._clock.now()
        async with self._db.write() as conn:
            endpoint = await self._locked(conn, endpoint_id, caller)
            count = await queues.replay(
                conn, endpoint_id, start=start, end=end or now, states=states, limit=REPLAY_MOST, now=now
            )
            after = {"from": start.isoformat(), "to": (end or now).isoformat(), "count": count}
            await self._audit(conn, caller, "callback.replay", endpoint, after)
        self._changed()
        return count

    async def test(self, endpoint_id: str, caller: Caller) -> tuple[str, Outcome]:
        """Call an endpoint now with an event that means nothing; return the event's id and what came of it.

        Neither its queue nor its breaker hears of it, so a paused endpoint can be tried.

        Raises:
            NotFound: There is none, or it is not the caller's.
        """
        async with self._db.read() as conn:
            endpoint = await endpoints.fetch(conn, endpoint_id)
        endpoint = _own(endpoint, endpoint_id, caller)
        event_id, now = new_id(), self._clock.now()
        body = body_of(
            event_id=event_id,
            ce_type=NewsType.TEST.ce_type,
            source="export",
            resource=f"callback/{endpoint_id}",
            site_id=PLATFORM_SITE,
            at=now,
            sequence=1,
            data=orjson.dumps({"message": "it works", "message_zh": "回调正常"}),
            traceparent=None,
        )
        keys = keys_of(self._secrets.unseal(endpoint.secrets), now)
        outcome = await self._outlet.call_once(
            endpoint.url, message_id=event_id, body=body, keys=keys, timeout_s=endpoint.timeout_s
        )
        return event_id, outcome

    async def _check_url(self, url: str) -> None:
        """Refuse an address that could never be called; one that has no address yet may get one."""
        target = parse_url(url)
        if target.fragment:
            raise InvalidInput("url: expected none with a fragment (#…)", message_zh="url 不应包含片段(#…)")
        try:
            await self._guard.address_of(target.host, target.port or (443 if target.scheme == "https" else 80))
        except CallFailed:
            return

    async def _locked(self, conn: WriteConn, endpoint_id: str, caller: Caller) -> Endpoint:
        return _own(await endpoints.lock(conn, endpoint_id), endpoint_id, caller)

    async def _is_told(self, conn: WriteConn, endpoint_id: str) -> bool:
        return any(told for _, told in await endpoints.lock_many(conn, [endpoint_id]))

    async def _end_finding(self, conn: WriteConn, endpoint: Endpoint) -> None:
        if await self._is_told(conn, endpoint.id):
            await outbox.put(conn, [bus.callback_finding(endpoint, Phase.END, error=None, at=self._clock.now())])

    async def _audit(
        self, conn: WriteConn, caller: Caller, action: str, endpoint: Endpoint, after: Mapping[str, object] | None
    ) -> None:
        message = bus.change_audited(
            caller.actor.name,
            action,
            f"callback:{endpoint.id}",
            after=after,
            request_id=caller.actor.request_id,
            at=self._clock.now(),
        )
        await outbox.put(conn, [message])


def _own(endpoint: Endpoint | None, endpoint_id: str, caller: Caller) -> Endpoint:
    if endpoint is None or not (caller.sees_all or endpoint.owner == caller.actor.name):
        raise NotFound(f"no callback {endpoint_id}", message_zh=f"没有回调 {endpoint_id}")
    return endpoint


def _shown(endpoint: Endpoint) -> dict[str, object]:
    """Return what the audit log keeps; path and query of an address may hold secrets."""
    target = parse_url(endpoint.url)
    return {
        "name": endpoint.name,
        "owner": endpoint.owner,
        "host": f"{target.scheme}://{target.netloc.decode()}",
        "types": sorted(endpoint.choice.types),
        "sites": None if endpoint.choice.sites is None else list(endpoint.choice.sites),
        "actors": None if endpoint.choice.actors is None else list(endpoint.choice.actors),
        "points": None if endpoint.choice.points is None else list(endpoint.choice.points),
        "kinds": None if endpoint.choice.kinds is None else list(endpoint.choice.kinds),
    }
