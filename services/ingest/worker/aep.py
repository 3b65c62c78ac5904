"""What the device platform pushes, from the message to the bus: checked, recognised, accepted.

The platform calls whichever process answers, so this does not depend on who holds the line. It is told 200 once a
message is safe with the bus or on disk, also when it is refused: a refusal is on record, and the platform, which
stops pushing after some failures and then loses what happens, has nothing to gain from trying again. Nothing here
waits for a database.
"""

import asyncio
import hmac
import ipaddress
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from libs.common.clock import Clock
from libs.common.contracts.base import Phase
from libs.common.contracts.device import SimState
from libs.common.contracts.registry import Device, Line, LineKind
from libs.common.contracts.telemetry import RejectReason
from libs.common.errors import InvalidInput, NotFound, Unavailable
from libs.common.ids import DeviceId, LineId
from libs.common.profiles import AepProduct, DeviceProfile, ProfileCatalogue
from libs.common.secretstore import SecretStore
from services.ingest import metrics
from services.ingest.domain.acceptance import Refused
from services.ingest.domain.aep import Push, PushDecoder, PushKind, parse_push, task_state_of
from services.ingest.domain.normalise import Normaliser
from services.ingest.domain.report import Rejection, Report
from services.ingest.domain.submission import unknown_device
from services.ingest.drivers.aep import product_of
from services.ingest.drivers.port import DeviceEvent, RawReport
from services.ingest.drivers.pushed import PushBoard
from services.ingest.usecases.acceptor import Acceptor, Outcome
from services.ingest.usecases.addresses import Addresses
from services.ingest.usecases.status import StatusBoard
from services.ingest.usecases.submissions import Submissions
from services.ingest.usecases.topology import RegistryUnread, Topology
from services.ingest.worker.reports import event_of, report_of

logger = logging.getLogger(__name__)

DRIVER = "aep"
TOKEN_MIN = 32
"""A shorter token could be guessed. [characters]"""
MAX_MESSAGE_BYTES = 256 * 1024
PARK_WITHIN_S = 1.0
"""The database has this long to take a message of an unknown device; else it is rejected, on record. [s]"""
MAX_SEEN = 20_000
"""Messages that are remembered to tell a repetition: some minutes at a hundred a second."""
UNMAPPED_EVERY_S = 600.0
"""A service whose parameters no point reads is put on record this often per product. [s]"""
MAX_UNMAPPED = 1_000


class UnknownPath(NotFound):
    """There is nothing under this path; whether line, token or sender is wrong is nobody's business."""

    code = "not_found"
    title_zh = "不存在"


SignatureCheck = Callable[[Line, Mapping[str, str], bytes], bool]
"""Whether a push is signed as the line's account demands, from headers and body."""


def unsigned(line: Line, headers: Mapping[str, str], body: bytes) -> bool:
    """Return true: no signature of pushes is documented. An account that has one gets its check in this place."""
    return True


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message as it came."""

    body: bytes
    at: datetime


@dataclass(frozen=True, slots=True)
class _Reader:
    """What is made once per profile."""

    normaliser: Normaliser
    decoder: PushDecoder


class Turns:
    """A lock per name, there only while somebody has it or waits for it."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def of(self, name: str) -> AsyncIterator[None]:
        """Have the name for oneself."""
        lock, users = self._locks.get(name, (asyncio.Lock(), 0))
        self._locks[name] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(name)
            if users > 1:
                self._locks[name] = (lock, users - 1)


class AepPushes:
    """The door for the platform's messages."""

    def __init__(
        self,
        *,
        topology: Topology,
        addresses: Addresses,
        catalogue: ProfileCatalogue,
        acceptor: Acceptor,
        submissions: Submissions,
        status: StatusBoard,
        pushes: PushBoard,
        secrets: SecretStore,
        clock: Clock,
        complete: Callable[[], bool],
        is_signed: SignatureCheck = unsigned,
    ) -> None:
        self._topology = topology
        self._addresses = addresses
        self._catalogue = catalogue
        self._acceptor = acceptor
        self._submissions = submissions
        self._status = status
        self._pushes = pushes
        self._secrets = secrets
        self._clock = clock
        self._complete = complete
        self._is_signed = is_signed
        self._readers: dict[tuple[str, str], _Reader] = {}
        self._turns = Turns()
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._unmapped: OrderedDict[tuple[str, str | None], float] = OrderedDict()

    def line_of(self, line_id: str, token: str, sender: str) -> Line:
        """Return the line that a path belongs to.

        Raises:
            UnknownPath: No such line, another token, or a sender that the line does not allow.
            RegistryUnread: There may be such a line; the platform has to try again.
        """
        line = self._topology.line(line_id, self._clock.now())
        if line is None and not self._complete():
            raise RegistryUnread
        if line is None or line.kind is not LineKind.AEP or line.credentials_ref is None:
            raise _nothing()
        try:
            known = self._secrets.read(line.credentials_ref).require("push_token")
            allowed = _networks(line)
        except (InvalidInput, ValueError) as exc:
            logger.error("pushes are refused", extra={"line_id": line_id, "reason": str(exc)})
            raise _nothing() from None
        if len(known) < TOKEN_MIN:
            logger.error("pushes are refused: the push_token is too short", extra={"line_id": line_id})
            raise _nothing()
        if not hmac.compare_digest(known.encode(), token.encode()):
            raise _nothing()
        if allowed and not _is_within(sender, allowed):
            logger.warning("push from an address that is not allowed", extra={"line_id": line_id, "sender": sender})
            raise _nothing()
        return line

    async def take(self, line: Line, body: bytes, headers: Mapping[str, str]) -> None:
        """Take one message; on return it is safe, or on record as refused.

        Raises:
            SpoolFull: It is neither; the platform has to try again.
        """
        now = self._clock.now()
        if len(body) > MAX_MESSAGE_BYTES:
            both = f"expected at most {MAX_MESSAGE_BYTES} bytes", f"不得超过 {MAX_MESSAGE_BYTES} 字节"
            await self._reject(line, body, now, Refused(RejectReason.TOO_LARGE, *both))
            return
        if not self._is_signed(line, headers, body):
            await self._reject(
                line, body, now, _not_ours("the push is not signed as the account demands", "推送签名无效")
            )
            return
        refused = await self._take(line, Arrived(body, now), park=True)
        if refused is not None:
            await self._reject(line, body, now, refused)

    async def again(self, raw: bytes, *, line_id: str | None, received_at: datetime) -> Refused | None:
        """Take a message that was parked or rejected before; return why it is refused, on record, or None.

        Raises:
            SpoolFull: It is neither taken nor on record.
        """
        line = None if line_id is None else self._topology.line(line_id, self._clock.now())
        if line is None:
            return Refused(RejectReason.UNKNOWN_DEVICE, f"there is no line {line_id}", f"线路 {line_id} 不存在")
        refused = await self._take(line, Arrived(raw, received_at), park=False)
        if refused is not None:
            await self._reject(line, raw, received_at, refused)
        return refused

    def knows(self, line_id: str | None, device: str) -> bool:
        """Return whether a device of the platform, or its serial number, is in the registry now."""
        return line_id is not None and self._find(line_id, device, device) is not None

    async def _take(self, line: Line, came: Arrived, *, park: bool) -> Refused | None:
        """Return why a message is refused, None when it was taken."""
        push = parse_push(came.body)
        if isinstance(push, Refused):
            return push
        foreign = _foreign(line, push)
        if foreign is not None:
            return foreign
        # One at a time per device: repetitions come at the same moment, and two reports must keep their order.
        async with self._turns.of(f"{line.id}/{push.device}"):
            return await self._take_in_turn(line, push, came, park=park)

    async def _take_in_turn(self, line: Line, push: Push, came: Arrived, *, park: bool) -> Refused | None:
        key = f"{line.id}/{push.key}"
        if key in self._seen:
            metrics.PUSHES.labels(push.kind, "duplicate").inc()
            return None
        if push.kind is PushKind.COMMAND_RESPONSE:
            await self._note_command(line, push)
        else:
            device = self._find(line.id, push.device, push.ids.imei)
            if device is None:
                if not (park and await self._park(line, push, came)):
                    return unknown_device(push.device)
                return None
            refused = await self._of_device(line, device, push, came)
            if refused is not None:
                return refused
        self._remember(key)
        metrics.PUSHES.labels(push.kind, "accepted").inc()
        return None

    def _find(self, line_id: str, address: str, serial: str | None) -> Device | None:
        return self._addresses.find(line_id, self._clock.now(), address=address, serial=serial)

    async def _of_device(self, line: Line, device: Device, push: Push, came: Arrived) -> Refused | None:
        self._note_ids(device, push, came.at)
        if push.kind is PushKind.CONNECTIVITY:
            await self._acceptor.accept([_connectivity(line, device, push, came.at)])
            return None
        profile = None if device.profile is None else self._catalogue.find(device.profile, device.profile_version)
        if profile is None or profile.aep is None:
            return Refused(
                RejectReason.NO_PROFILE,
                f"device {device.id} has no profile of the device platform",
                f"设备 {device.id} 没有物联平台设备模板",
            )
        if push.app_data is not None:
            return Refused(
                RejectReason.NO_PROFILE,
                f"payload.APPdata: profile {profile.name} has parameters, the device sent bytes",
                f"payload.APPdata:模板 {profile.name} 为参数型,设备上报为透传数据",
            )
        reader = self._reader(profile, profile.aep)
        if push.kind is PushKind.EVENT:
            await self._event(device, push, reader, came.at)
        await self._values(line, device, profile, push, reader, came)
        return None

    async def _values(
        self, line: Line, device: Device, profile: DeviceProfile, push: Push, reader: _Reader, came: Arrived
    ) -> None:
        decoded = reader.decoder.decode(push)
        self._status.texts(device.id, decoded.texts)
        if decoded.cell_id is not None or decoded.pci is not None:
            self._status.cell(device.id, cell_id=decoded.cell_id, pci=decoded.pci)
        if not decoded.raw:
            if push.kind.is_data and not decoded.texts:
                await self._note_unmapped(line, push, came)
            return
        raw = RawReport(raw=decoded.raw, received_at=came.at, source_time=decoded.device_time or push.at)
        report = report_of(
            raw, device=device, profile=profile, normaliser=reader.normaliser, driver=DRIVER, line_id=line.id
        )
        if report is None:
            return
        (accepted,) = await self._acceptor.accept([report])
        if accepted.outcome is Outcome.ACCEPTED:
            self._pushes.note_values(device.id, decoded.raw, came.at)

    async def _event(self, device: Device, push: Push, reader: _Reader, now: datetime) -> None:
        events = [
            event_of(
                DeviceEvent(
                    code=found.code,
                    phase=_PHASES[found.phase],
                    text=found.text,
                    source_time=push.at,
                    severity=found.severity,
                ),
                device=device,
                driver=DRIVER,
                received_at=now,
            )
            for found in reader.decoder.events(push)
        ]
        if events:
            await self._acceptor.accept_events(events)

    async def _note_command(self, line: Line, push: Push) -> None:
        state = task_state_of(push.result)
        if state is None or push.task is None:
            logger.warning("unknown result of a command", extra={"line_id": line.id, "result": push.result})
            return
        self._pushes.note_task(line.id, push.task, state)

    def _note_ids(self, device: Device, push: Push, now: datetime) -> None:
        ids = push.ids
        if ids:
            self._status.sim(device.id, SimState(iccid=ids.iccid, imsi=ids.imsi, imei=ids.imei, at=now))

    async def _note_unmapped(self, line: Line, push: Push, came: Arrived) -> None:
        """Put a report of which no point reads anything on record, now and then: somebody may have forgotten it."""
        metrics.PUSHES.labels(push.kind, "unmapped").inc()
        key, at = (line.id, push.service), self._clock.monotonic()
        if at - self._unmapped.get(key, float("-inf")) < UNMAPPED_EVERY_S:
            return
        self._unmapped[key] = at
        while len(self._unmapped) > MAX_UNMAPPED:
            self._unmapped.popitem(last=False)
        names = ", ".join(sorted(push.payload))[:200]
        refused = Refused(
            RejectReason.UNKNOWN_POINT,
            f"service {push.service}: no point of the profile reads any of {names}",
            f"服务 {push.service}:模板中没有测点读取 {names}",
        )
        await self._reject(line, came.body, came.at, refused)

    async def _park(self, line: Line, push: Push, came: Arrived) -> bool:
        """Keep a message until its device may have become known; return False when the database does not take it."""
        try:
            async with asyncio.timeout(PARK_WITHIN_S):
                await self._submissions.park(
                    came.body, device=push.device, driver=DRIVER, line_id=line.id, received_at=came.at
                )
        except (Unavailable, TimeoutError) as exc:
            logger.debug("not parked", extra={"reason": str(exc)})
            return False
        metrics.PUSHES.labels(push.kind, "parked").inc()
        return True

    async def _reject(self, line: Line, body: bytes, now: datetime, refused: Refused) -> None:
        push = parse_push(body) if len(body) <= MAX_MESSAGE_BYTES else refused
        device = None if isinstance(push, Refused) else self._find(line.id, push.device, push.ids.imei)
        rejection = Rejection(
            reason=refused.reason,
            source=line.id,
            received_at=now,
            raw=body,
            detail=refused.detail,
            detail_zh=refused.detail_zh,
            device_id=None if device is None else DeviceId(device.id),
            site_id=None if device is None else device.site,
            line_id=LineId(line.id),
            driver=DRIVER,
            content_type="application/json",
        )
        await self._acceptor.reject([rejection])

    def _reader(self, profile: DeviceProfile, product: AepProduct) -> _Reader:
        key = (profile.name, profile.version)
        if key not in self._readers:
            self._readers[key] = _Reader(Normaliser(profile), PushDecoder(profile.points, product))
        return self._readers[key]

    def _remember(self, key: str) -> None:
        self._seen[key] = None
        while len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)


_PHASES: Mapping[str, Literal[Phase.BEGIN, Phase.END, Phase.ONCE]] = {
    "begin": Phase.BEGIN,
    "end": Phase.END,
    "once": Phase.ONCE,
}


def _connectivity(line: Line, device: Device, push: Push, now: datetime) -> Report:
    return Report(
        device_id=DeviceId(device.id),
        site_id=device.site,
        source_time=push.at,
        received_at=now,
        driver=DRIVER,
        points={"online_state": float(bool(push.online))},
        line_id=LineId(line.id),
    )


def _foreign(line: Line, push: Push) -> Refused | None:
    """Return why a message is not of this line's tenant and product, None when it is."""
    wanted = {"tenantId": (line.settings or {}).get("tenant"), "productId": product_of(line)}
    for name, found in (("tenantId", push.tenant), ("productId", push.product)):
        expected = wanted[name]
        if expected is not None and found != str(expected):
            return _not_ours(
                f"{name}: expected that of line {line.id}, found {str(found)[:60]!r}",
                f"{name} 与线路 {line.id} 不符,实际为 {str(found)[:60]!r}",
            )
    return None


def _not_ours(detail: str, detail_zh: str) -> Refused:
    return Refused(RejectReason.NOT_AUTHENTICATED, detail, detail_zh)


def _nothing() -> UnknownPath:
    return UnknownPath("there is nothing here", message_zh="此处无内容")


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(line: Line) -> list[Network]:
    """Return whom a line takes pushes from; nothing is anybody who knows the path."""
    text = str((line.settings or {}).get("sources", ""))
    return [ipaddress.ip_network(part, strict=False) for part in text.replace(",", " ").split()]


def _is_within(sender: str, networks: list[Network]) -> bool:
    try:
        ip = ipaddress.ip_address(sender)
    except ValueError:
        return False
    return any(ip in network for network in networks if network.version == ip.version)
