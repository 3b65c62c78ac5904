"""Telling the watchdog what may be off: before an OFF is sent it has the lease on its own disk."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime

import httpx
import orjson

from libs.common.errors import Unavailable
from libs.common.tokens import KeyRing
from libs.common.web import http_client
from services.control.store.commands import OffLease

PUT_TIMEOUT_S = 5.0


class WatchdogRefuses(Unavailable):
    """The watchdog is there and does not take our word: another control process speaks to it with a younger lease."""

    code = "watchdog_refuses"
    title_zh = "看门狗拒绝"


class Watchdog:
    """The watchdog's listener."""

    def __init__(self, url: str | None, keys: KeyRing) -> None:
        self._url = url
        self._keys = keys
        self._client: httpx.AsyncClient | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Watchdog":
        if self._url is not None:
            self._client = await self._stack.enter_async_context(http_client(self._url))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._client = None
        await self._stack.aclose()

    async def tell(
        self,
        *,
        epoch: int,
        complete: bool,
        leases: Sequence[OffLease],
        ended: Sequence[str],
        released_trips: Mapping[str, int],
        now: datetime,
    ) -> None:
        """Return once the watchdog has this on its disk.

        Args:
            epoch: Of our lease on speaking to it; it refuses an older one.
            complete: ``leases`` are all there are; whatever else it has is over.
            leases: In force.
            ended: OFF commands whose leases are over.
            released_trips: Trip reasons that people have released, by load; always complete.
            now: Our time; ends go as lengths too, for clocks that differ.

        Raises:
            Unavailable: It did not acknowledge.
        """
        if self._client is None:
            raise Unavailable("no address of the watchdog in WATTRING_SERVICE_URLS")
        body = {
            "epoch": epoch,
            "complete": complete,
            "leases": [_lease(lease, now) for lease in leases],
            "ended": list(ended),
            "released_trips": dict(released_trips),
        }
        token = self._keys.sign_token("control", audience="watchdog", scopes=("watchdog:leases",))
        try:
            response = await self._client.put(
                "/leases", content=orjson.dumps(body), timeout=PUT_TIMEOUT_S,
                headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
            )  # fmt: skip
        except httpx.HTTPError as exc:
            raise Unavailable(f"the watchdog does not answer: {exc or type(exc).__name__}") from exc
        if response.status_code == 409:
            raise WatchdogRefuses(f"the watchdog refuses: {response.text[:200]}")
        if not response.is_success:
            raise Unavailable(f"the watchdog answered {response.status_code}: {response.text[:200]}")


def _lease(lease: OffLease, now: datetime) -> dict[str, object]:
    return {
        "command_id": lease.command_id,
        "load_id": lease.load_id,
        "device_id": lease.device_id,
        "channel": lease.channel,
        "site_id": lease.site_id,
        "restore_at": lease.restore_at,
        "restore_in_s": max((lease.restore_at - now).total_seconds(), 0.0),
        "off_at_most_s": lease.off_at_most_s,
        "isolation_id": lease.isolation_id,
    }
