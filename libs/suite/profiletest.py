"""``wattring profile test``: every point of a profile read once from a live device, without a running suite."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from libs.common.clock import SystemClock
from libs.common.contracts.registry import Line, LineKind
from libs.common.contracts.telemetry import Quality
from libs.common.errors import InvalidInput, PlatformError
from libs.common.outgoing import AddressGuard
from libs.common.profiles import DeviceProfile, ProfileCatalogue, load_profile
from libs.common.secretstore import SecretStore
from libs.suite.words import Words
from services.ingest.domain.normalise import UNITY, Normaliser
from services.ingest.drivers.factory import POLLED_KINDS, open_line, supports
from services.ingest.drivers.means import Means
from services.ingest.drivers.port import Address, DeviceSession, RawReport
from services.ingest.drivers.pushed import PushBoard
from services.ingest.settings import PollingSettings

Say = Callable[[str], None]
KINDS = ("tcp", "rtu_over_tcp", "serial")
"""Lines on which a device is asked; on the others it speaks when it likes."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where the device is."""

    kind: str
    endpoint: str
    address: str | None
    baud: int | None = None
    parity: str | None = None
    timeout_s: float = 1.0


@dataclass(frozen=True, slots=True)
class PointSeen:
    """What became of one point."""

    name: str
    unit: str
    raw: float | int | None
    value: float | None
    verdict: str
    """good, suspect, invalid, absent (optional and not there) or failed."""
    detail: str = ""


def try_profile(profile: str, device: Device, folders: Sequence[Path], words: Words, say: Say) -> bool:
    """Read all points, say what came of each, and return whether the profile fits the device.

    Raises:
        PlatformError: The profile, the line or the device cannot be used at all.
    """
    found = _profile(profile, folders)
    seen = asyncio.run(_read(found, device))
    for one in seen:
        raw = "" if one.raw is None else f"{one.raw:g}"
        value = "" if one.value is None else f"{one.value:,.6g} {one.unit}"
        say(f"{one.verdict:8} {one.name:32} {raw:>16} {value:>24}  {one.detail}".rstrip())
    good = sum(one.verdict == "good" for one in seen)
    wrong = [one for one in seen if one.verdict in ("invalid", "failed", "suspect")]
    say(words(f"{good} of {len(seen)} points good", f"{len(seen)} 个测点中 {good} 个正常"))
    return good > 0 and not wrong


def _profile(name: str, folders: Sequence[Path]) -> DeviceProfile:
    return load_profile(Path(name)) if name.endswith(".yaml") else ProfileCatalogue.load(folders).get(name)


async def _read(profile: DeviceProfile, device: Device) -> list[PointSeen]:
    clock = SystemClock()
    line = _line(device, clock)
    if line.kind not in POLLED_KINDS or not supports(line, profile):
        raise InvalidInput(
            f"{profile.name} speaks {profile.protocol}, which a line of kind {device.kind} does not carry",
            message_zh=f"{profile.name} 使用 {profile.protocol} 协议,{device.kind} 类型线路不支持",
        )
    with TemporaryDirectory() as nowhere:
        means = Means(SecretStore(Path(nowhere)), AddressGuard(), PushBoard(clock), _nothing, Path(nowhere))
        driver = open_line(line, clock, PollingSettings(), means)
        try:
            session = driver.session(Address("device", device.address, profile))
            reports = [await _read_point(session, name) for name in profile.points if not _is_copy(profile, name)]
        finally:
            await driver.close()
    normaliser = Normaliser(profile)
    return [_seen(profile, normaliser, name, report) for name, report in reports]


async def _read_point(session: DeviceSession, name: str) -> tuple[str, RawReport | PlatformError]:
    """Read one point alone, so that each has its own answer."""
    try:
        return name, await session.read_points([name])
    except PlatformError as exc:
        return name, exc


def _seen(profile: DeviceProfile, normaliser: Normaliser, name: str, report: RawReport | PlatformError) -> PointSeen:
    point = profile.points[name]
    if isinstance(report, PlatformError) or name in report.failed:
        detail = report.message if isinstance(report, PlatformError) else report.failed[name]
        return PointSeen(name, point.unit, None, None, "absent" if point.optional else "failed", detail)
    if name in report.texts:
        return PointSeen(name, "", None, None, "good", report.texts[name])
    if name not in report.raw:
        return PointSeen(name, point.unit, None, None, "absent" if point.optional else "failed", "not read")
    raw = report.raw[name]
    measured = normaliser.measure({name: raw}, UNITY)
    flag = measured.quality.get(name)
    verdict = "good" if flag is None else "suspect" if flag is Quality.SUSPECT else "invalid"
    return PointSeen(name, point.unit, raw, measured.points.get(name), verdict)


def _is_copy(profile: DeviceProfile, name: str) -> bool:
    return profile.points[name].copy_of is not None


def _line(device: Device, clock: SystemClock) -> Line:
    given = {"baud": device.baud, "parity": device.parity, "timeout_s": device.timeout_s}
    settings = {name: value for name, value in given.items() if value is not None}
    return Line(
        id="line", name="line", kind=LineKind(device.kind), endpoint=device.endpoint, settings=settings,
        valid_from=clock.now(), version=1, changed_by="user:cli",
    )  # fmt: skip


async def _nothing(_: str) -> None:
    return None
