"""Telling the watchdog what may be off: before an OFF is sent it has the lease on its own disk."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from libs.common.client import ServiceClient
from libs.common.errors import Conflict, PlatformError, Unavailable
from libs.common.tokens import KeyRing
from services.control.store.leases import OffLease

PUT_TIMEOUT_S = 5.0


class WatchdogRefuses(Unavailable):
    """The watchdog is there and does not take our word: another control process speaks to it with a younger lease."""

    code = "watchdog_refuses"
    title_zh = "看门狗拒绝"


class Watchdog:
    """The watchdog's listener."""

    def __init__(self, url: str | None, keys: KeyRing) -> None:
        scopes = ("watchdog:leases",)
        self._client = ServiceClient(keys, url, caller="control", audience="watchdog", scopes=scopes)

    async def __aenter__(self) -> "Watchdog":
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.__aexit__(*exc)

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
        body = {
            "epoch": epoch,
            "complete": complete,
            "leases": [_lease(lease, now) for lease in leases],
            "ended": list(ended),
            "released_trips": dict(released_trips),
        }
        try:
            await self._client.put("/leases", body, timeout_s=PUT_TIMEOUT_S)
        except Unavailable:
            raise
        except Conflict as exc:
            raise WatchdogRefuses(f"the watchdog refuses: {exc.message}") from exc
        except PlatformError as exc:
            raise Unavailable(f"the watchdog does not take it: {exc.message}") from exc


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
