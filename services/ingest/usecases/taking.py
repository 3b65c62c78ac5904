"""Reports that are taken in the transaction that notes how far their source was read.

Nothing of it is promised before that transaction has ended; with it the reports are in the outbox, and so never lost
and never there twice, whenever the process dies.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from libs.common.bus import outbox
from libs.common.clock import Clock
from libs.common.contracts.registry import Device, Line
from libs.common.db import Database, WriteConn
from libs.common.ids import DeviceId, LineId
from libs.common.profiles import ProfileCatalogue
from services.ingest import metrics
from services.ingest.bus import rejected_message
from services.ingest.domain.acceptance import Refused
from services.ingest.domain.report import Rejection, Report
from services.ingest.domain.submission import Submission, report_of
from services.ingest.store import imports as imports_store
from services.ingest.usecases.acceptor import Accepted, Acceptor, Outcome
from services.ingest.usecases.addresses import Addresses
from services.ingest.usecases.status import StatusBoard
from services.ingest.usecases.topology import Topology, in_use

OUTBOX_CROWDED = 2_000
"""Messages in the outbox above which a source waits: changes of the registry must not queue behind it."""
OUTBOX_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Piece:
    """One row or line of a source: what it says, or why it is not taken."""

    place: str
    """Where it stands, for people; empty where that says nothing."""
    raw: bytes
    found: Report | Refused
    device_id: str | None = None
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row or line that was not taken."""

    place: str
    refused: Refused


class Taking:
    """Takes pieces of other systems' data."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        acceptor: Acceptor,
        topology: Topology,
        addresses: Addresses,
        catalogue: ProfileCatalogue,
        status: StatusBoard,
        published: Callable[[], None],
    ) -> None:
        self._db = db
        self._clock = clock
        self._acceptor = acceptor
        self._topology = topology
        self._addresses = addresses
        self._catalogue = catalogue
        self._status = status
        self._published = published

    async def take(
        self,
        pieces: Sequence[Piece],
        *,
        source: str,
        driver: str,
        note: Callable[[WriteConn, Sequence[Refusal]], Awaitable[None]],
        history: bool = False,
    ) -> list[Refusal]:
        """Take pieces and ``note`` the progress, both or neither; return what was refused, which is on record.

        Args:
            pieces: In the source's order.
            source: Id of the line.
            driver: What reports and rejections say who read them.
            note: Writes the progress, told what was refused; raises to undo everything.
            history: The reports come from an archive and are not live, whatever their time.

        Raises:
            DatabaseUnavailable: Nothing was taken.
        """
        judged = self._acceptor.judge([one.found for one in pieces if isinstance(one.found, Report)], history=history)
        outcomes = iter(judged.answers)
        refusals: list[Refusal] = []
        rejections: list[Rejection] = []
        now = self._clock.now()
        for piece in pieces:
            if isinstance(piece.found, Report):
                answer = next(outcomes)
                if answer.refused is not None:  # the acceptor has put it on record
                    refusals.append(Refusal(piece.place, answer.refused))
                continue
            refusals.append(Refusal(piece.place, piece.found))
            rejections.append(_rejection(piece, piece.found, source, driver, now))
        messages = [*judged.messages, *(rejected_message(one) for one in rejections)]
        async with self._db.write() as conn:
            await note(conn, refusals)
            await outbox.put(conn, messages)
        self._acceptor.settle(judged)
        self._hear(judged.answers)
        for rejection in rejections:
            metrics.REJECTED.labels(rejection.reason).inc()
        self._published()
        return refusals

    async def wait_for_room(self) -> None:
        """Wait while the outbox is crowded."""
        while True:
            async with self._db.read() as conn:
                if not await imports_store.outbox_is_crowded(conn, OUTBOX_CROWDED):
                    return
            await self._clock.sleep(OUTBOX_LOOK_S)

    def report(self, said: Submission, device: Device, received_at: datetime, driver: str) -> Report:
        """Return what a row says as a report of a device."""
        profile = None if device.profile is None else self._catalogue.find(device.profile, device.profile_version)
        return report_of(said, device, profile, received_at, driver)

    def device_on(self, line_id: str, name: str, when: datetime) -> Device | None:
        """Return the device of a line that another system calls by this address or serial number."""
        return self._addresses.find(line_id, when, address=name, serial=name)

    def device(self, device_id: str, when: datetime) -> Device | None:
        """Return a device in use by its id."""
        found = self._topology.device(device_id, when)
        return found if found is not None and in_use(found, when) else None

    def line(self, line_id: str, when: datetime) -> Line | None:
        """Return a line of the registry."""
        return self._topology.line(line_id, when)

    def watch(self, line_id: str, interval_s: float) -> None:
        """Let the status of a line's devices follow from what is taken here."""
        for device in self._topology.devices_on(line_id, self._clock.now()):
            self._status.watch(
                device.id, site_id=device.site, line_id=line_id, interval_s=device.period_s or interval_s
            )

    def forget(self, line_id: str) -> None:
        """Leave the status of a line's devices to whoever takes them over."""
        for device in self._topology.devices_on(line_id, self._clock.now()):
            self._status.forget(device.id)

    def site_of(self, line_id: str) -> str | None:
        """Return a site that a line's devices are at."""
        return next((device.site for device in self._topology.devices_on(line_id, self._clock.now())), None)

    def _hear(self, answers: Sequence[Accepted]) -> None:
        """Let late reports count as heard: a source that is read now and then has few others."""
        for answer in answers:
            if answer.outcome is Outcome.LATE:
                self._status.heard(answer.report)


def _rejection(piece: Piece, refused: Refused, source: str, driver: str, now: datetime) -> Rejection:
    place = f"{piece.place}: " if piece.place else ""
    return Rejection(
        reason=refused.reason,
        source=source,
        received_at=now,
        raw=piece.raw,
        detail=place + refused.detail,
        detail_zh=place + refused.detail_zh,
        device_id=None if piece.device_id is None else DeviceId(piece.device_id),
        line_id=LineId(source),
        driver=driver,
        content_type=piece.content_type,
    )
