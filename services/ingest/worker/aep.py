"""What the device platform pushes, from the message to the bus: checked, recognised, accepted.

The platform calls whichever process answers, so this does not depend on who holds the line. It is told 200 once a
message is safe with the bus or on disk, also when it is refused: a refusal is on record, and the platform, which
stops pushing after some failures and then loses what happens, has nothing to gain from trying again. Nothing here
waits for a database.

What is to be told of a command is noted at once. What a device says goes to the bus in the order in which it came, and
together with all that came while others were on their way there.
"""

import asyncio
import hmac
import ipaddress
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from libs.common.clock import Clock
from libs.common.contracts.base import Phase
from libs.common.contracts.device import DeviceEvent as ToldEvent
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
from services.ingest.drivers.pushed import PushBoard, Raw
from services.ingest.spool import SpoolFull
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
TOGETHER = 200
"""Messages that are made durable together, at most: some ten milliseconds in which nothing else is done."""
GATHERED_S = 0.03
"""While they come all the time they are made durable together after this: three of them cost us and the bus as much as
thirty. [s]"""


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
class _Account:
    """What a line says of the account that it is, read once for as long as it stays as it is."""

    line: Line
    product: str
    tenant: str | None
    senders: "Sequence[Network]"
    """Whom it takes pushes from; none is anybody who knows the path."""


@dataclass(frozen=True, slots=True)
class _Reader:
    """What is made once per profile."""

    normaliser: Normaliser
    decoder: PushDecoder


@dataclass(frozen=True, slots=True)
class Told:
    """What a message says of a device of ours, before it is durable."""

    key: str
    """What its repetitions have in common."""
    kind: PushKind
    events: Sequence[ToldEvent] = ()
    report: Report | None = None
    raw: Raw = field(default_factory=dict)
    """The numbers of the report as they came, for whoever has given the device an order."""


class Together:
    """What is on its way to the bus: one batch at a time, so that the reports of a device keep their order."""

    def __init__(self, acceptor: Acceptor, taken: Callable[[Told, Outcome | None], None], clock: Clock) -> None:
        """Prepare; ``taken`` hears of each message that is durable, and what became of its report."""
        self._acceptor = acceptor
        self._taken = taken
        self._clock = clock
        self._waiting: list[Told] = []
        self._under_way: dict[str, asyncio.Future[None]] = {}
        """By key, also of those that wait."""
        self._task: asyncio.Task[None] | None = None

    def under_way(self, key: str) -> "asyncio.Future[None] | None":
        """Return what is done once the message of a key is durable; None when there is none under way."""
        return self._under_way.get(key)

    def add(self, told: Told) -> "asyncio.Future[None]":
        """Return what is done once a message is durable, and fails with ``SpoolFull``."""
        safe: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._under_way[told.key] = safe
        self._waiting.append(told)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="what devices of the platform say")
        return safe

    async def _run(self) -> None:
        try:
            while self._waiting:
                some, self._waiting = self._waiting[:TOGETHER], self._waiting[TOGETHER:]
                await self._take(some)
                if 0 < len(self._waiting) < TOGETHER:
                    await self._clock.sleep(GATHERED_S)
        finally:
            self._task = None
            for safe in self._under_way.values():
                safe.cancel()  # this was cancelled
            self._waiting.clear()
            self._under_way.clear()

    async def _take(self, some: Sequence[Told]) -> None:
        try:
            await self._make_durable(some)
        except SpoolFull as exc:
            self._fail(some, exc)
        except Exception as exc:
            left = [one for one in some if one.key in self._under_way]
            if len(some) == 1:
                self._fail(left, exc)
                return
            for one in left:  # whatever is wrong with one of them is nothing to the others
                await self._take([one])

    async def _make_durable(self, some: Sequence[Told]) -> None:
        """Make messages durable, and say so.

        Raises:
            SpoolFull: Those of which nothing was said are not.
        """
        events = [event for one in some for event in one.events]
        if events:
            await self._acceptor.accept_events(events)
        reporting = [one for one in some if one.report is not None]
        for one in some:
            if one.report is None:
                self._done(one, None)
        answers = await self._acceptor.accept([one.report for one in reporting if one.report is not None])
        for one, answer in zip(reporting, answers, strict=True):
            self._done(one, answer.outcome)

    def _done(self, one: Told, outcome: Outcome | None) -> None:
        self._taken(one, outcome)
        safe = self._under_way.pop(one.key)
        if not safe.done():
            safe.set_result(None)

    def _fail(self, some: Sequence[Told], exc: Exception) -> None:
        for one in some:
            safe = self._under_way.pop(one.key, None)
            if safe is not None and not safe.done():
                safe.set_exception(exc)
                safe.exception()  # whoever waited may have gone


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
        self._accounts: dict[str, _Account] = {}
        self._together = Together(acceptor, self._taken, clock)
        self._aside: set[asyncio.Task[None]] = set()
        """What is done beside the others, since it may take long or nobody waits for its order."""
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
            allowed = self._account(line).senders
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

    def take(self, line: Line, body: bytes, headers: Mapping[str, str]) -> asyncio.Future[None] | None:
        """Take one message; it is safe, or on record as refused, once what is returned is done, or at once for None.

        The future may be that of another message too, and fails with ``SpoolFull``: then it is neither, and the
        platform has to try again.
        """
        came = Arrived(body, self._clock.now())
        if len(body) > MAX_MESSAGE_BYTES:
            both = f"expected at most {MAX_MESSAGE_BYTES} bytes", f"不得超过 {MAX_MESSAGE_BYTES} 字节"
            return self._beside(self._reject(line, came, Refused(RejectReason.TOO_LARGE, *both)))
        if not self._is_signed(line, headers, body):
            both = "the push is not signed as the account demands", "推送签名无效"
            return self._beside(self._reject(line, came, _not_ours(*both)))
        found = self._take(line, came)
        return self._beside(self._refuse(line, came, found)) if isinstance(found, Refused) else found

    async def again(self, raw: bytes, *, line_id: str | None, received_at: datetime) -> Refused | None:
        """Take a message that was parked or rejected before; return why it is refused, on record, or None.

        Raises:
            SpoolFull: It is neither taken nor on record.
        """
        line = None if line_id is None else self._topology.line(line_id, self._clock.now())
        if line is None:
            return Refused(RejectReason.UNKNOWN_DEVICE, f"there is no line {line_id}", f"线路 {line_id} 不存在")
        came = Arrived(raw, received_at)
        found = self._take(line, came)
        if isinstance(found, Refused):
            await self._reject(line, came, found)
            return found
        if found is not None:
            await asyncio.shield(found)
        return None

    def knows(self, line_id: str | None, device: str) -> bool:
        """Return whether a device of the platform, or its serial number, is in the registry now."""
        return line_id is not None and self._find(line_id, device, device) is not None

    def _take(self, line: Line, came: Arrived) -> asyncio.Future[None] | Refused | None:
        """Return why a message is refused, or what is done once it is durable; None for one of which nothing is."""
        push = parse_push(came.body)
        if isinstance(push, Refused):
            return push
        foreign = _foreign(self._account(line), push)
        if foreign is not None:
            return foreign
        if push.kind is PushKind.COMMAND_RESPONSE:
            self._note_command(line, push)
            metrics.pushes_of(push.kind, "accepted").inc()
            return None
        key = f"{line.id}/{push.key}"
        under_way = self._together.under_way(key)
        if under_way is not None or key in self._seen:
            metrics.pushes_of(push.kind, "duplicate").inc()
            return under_way
        device = self._find(line.id, push.device, push.ids.imei)
        if device is None:
            return unknown_device(push.device)
        return self._of_device(line, device, push, came, key)

    def _account(self, line: Line) -> _Account:
        """Return what a line says of its account.

        Raises:
            ValueError, InvalidInput: It says nothing that can be understood.
        """
        known = self._accounts.get(line.id)
        if known is None or known.line is not line:
            settings = line.settings or {}
            tenant, text = settings.get("tenant"), str(settings.get("sources", ""))
            senders = [ipaddress.ip_network(part, strict=False) for part in text.replace(",", " ").split()]
            known = _Account(line, product_of(line), None if tenant is None else str(tenant), senders)
            self._accounts[line.id] = known
        return known

    def _find(self, line_id: str, address: str, serial: str | None) -> Device | None:
        return self._addresses.find(line_id, self._clock.now(), address=address, serial=serial)

    def _of_device(
        self, line: Line, device: Device, push: Push, came: Arrived, key: str
    ) -> asyncio.Future[None] | Refused | None:
        if push.ids:
            ids = push.ids
            self._status.sim(device.id, SimState(iccid=ids.iccid, imsi=ids.imsi, imei=ids.imei, at=came.at))
        if push.kind is PushKind.CONNECTIVITY:
            return self._together.add(Told(key, push.kind, report=_connectivity(line, device, push, came.at)))
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
        decoded = reader.decoder.decode(push)
        self._status.texts(device.id, decoded.texts)
        if decoded.cell_id is not None or decoded.pci is not None:
            self._status.cell(device.id, cell_id=decoded.cell_id, pci=decoded.pci)
        if push.kind.is_data and not decoded.raw and not decoded.texts:
            return self._beside(self._note_unmapped(line, push, came, key))
        raw = RawReport(raw=decoded.raw, received_at=came.at, source_time=decoded.device_time or push.at)
        report = report_of(
            raw, device=device, profile=profile, normaliser=reader.normaliser, driver=DRIVER, line_id=line.id
        )
        events = _events(device, push, reader, came.at) if push.kind is PushKind.EVENT else ()
        told = Told(key, push.kind, events, report, decoded.raw)
        if report is not None or events:
            return self._together.add(told)
        self._taken(told, None)
        return None

    def _taken(self, told: Told, outcome: Outcome | None) -> None:
        """A message is durable."""
        if told.report is not None and told.raw and outcome is Outcome.ACCEPTED:
            self._pushes.note_values(told.report.device_id, told.raw, told.report.received_at)
        self._remember(told.key)
        metrics.pushes_of(told.kind, "accepted").inc()

    def _note_command(self, line: Line, push: Push) -> None:
        state = task_state_of(push.result)
        if state is None or push.task is None:
            logger.warning("unknown result of a command", extra={"line_id": line.id, "result": push.result})
            return
        self._pushes.note_task(line.id, push.task, state)

    def _beside(self, work: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
        """Do something beside what is on its way to the bus, and return what is done when it is."""
        task = asyncio.create_task(work, name="a message of the platform")
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)
        return task

    async def _refuse(self, line: Line, came: Arrived, refused: Refused) -> None:
        """Put a message on record, or keep it until its device may have become known."""
        if refused.reason is not RejectReason.UNKNOWN_DEVICE or not await self._park(line, came):
            await self._reject(line, came, refused)

    async def _note_unmapped(self, line: Line, push: Push, came: Arrived, key: str) -> None:
        """Put a report of which no point reads anything on record, now and then: somebody may have forgotten it."""
        metrics.pushes_of(push.kind, "unmapped").inc()
        service, at = (line.id, push.service), self._clock.monotonic()
        if at - self._unmapped.get(service, float("-inf")) >= UNMAPPED_EVERY_S:
            self._unmapped[service] = at
            while len(self._unmapped) > MAX_UNMAPPED:
                self._unmapped.popitem(last=False)
            names = ", ".join(sorted(push.payload))[:200]
            refused = Refused(
                RejectReason.UNKNOWN_POINT,
                f"service {push.service}: no point of the profile reads any of {names}",
                f"服务 {push.service}:模板中没有测点读取 {names}",
            )
            await self._reject(line, came, refused)
        self._taken(Told(key, push.kind), None)

    async def _park(self, line: Line, came: Arrived) -> bool:
        """Keep a message until its device may have become known; return False when the database does not take it."""
        push = parse_push(came.body)
        if isinstance(push, Refused):
            return False
        try:
            async with asyncio.timeout(PARK_WITHIN_S):
                await self._submissions.park(
                    came.body, device=push.device, driver=DRIVER, line_id=line.id, received_at=came.at
                )
        except (Unavailable, TimeoutError) as exc:
            logger.debug("not parked", extra={"reason": str(exc)})
            return False
        metrics.pushes_of(push.kind, "parked").inc()
        return True

    async def _reject(self, line: Line, came: Arrived, refused: Refused) -> None:
        push = parse_push(came.body) if len(came.body) <= MAX_MESSAGE_BYTES else refused
        device = None if isinstance(push, Refused) else self._find(line.id, push.device, push.ids.imei)
        rejection = Rejection(
            reason=refused.reason,
            source=line.id,
            received_at=came.at,
            raw=came.body,
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


def _events(device: Device, push: Push, reader: _Reader, now: datetime) -> list[ToldEvent]:
    """Return the device's own alarms in an event report."""
    return [
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


def _foreign(account: _Account, push: Push) -> Refused | None:
    """Return why a message is not of this account's tenant and product, None when it is."""
    for name, expected, found in (
        ("tenantId", account.tenant, push.tenant),
        ("productId", account.product, push.product),
    ):
        if expected is not None and found != expected:
            return _not_ours(
                f"{name}: expected that of line {account.line.id}, found {str(found)[:60]!r}",
                f"{name} 与线路 {account.line.id} 不符,实际为 {str(found)[:60]!r}",
            )
    return None


def _not_ours(detail: str, detail_zh: str) -> Refused:
    return Refused(RejectReason.NOT_AUTHENTICATED, detail, detail_zh)


def _nothing() -> UnknownPath:
    return UnknownPath("there is nothing here", message_zh="此处无内容")


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _is_within(sender: str, networks: Sequence[Network]) -> bool:
    try:
        ip = ipaddress.ip_address(sender)
    except ValueError:
        return False
    return any(ip in network for network in networks if network.version == ip.version)
