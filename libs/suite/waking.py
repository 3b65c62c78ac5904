"""``wattring wake``: one key from the machine itself, by whatever of the platform still answers.

The doors in their order: the API over the gateway, control's own, the watchdog, ingest's direct door. An order by the
API is recorded, suspends plans and is followed there. The others know nothing of plans: loads are told apart by what
ingest has on its disk, and followed by what the breakers read. Isolations, local locks and protection trips hold by
every door. The keys are those of the suite, which only its own account can read.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any

from libs.common.client import ServiceClient
from libs.common.clock import Clock, SystemClock
from libs.common.errors import InvalidInput, NotFound, PlatformError, Unavailable
from libs.common.ids import new_id
from libs.common.settings import CommonSettings, load_section
from libs.common.tokens import KeyRing
from libs.suite.api import LocalApi
from libs.suite.folders import DataFolder
from libs.suite.words import Words
from services.control.domain.faults import Fault, fault_named
from services.control.domain.watch import Book
from services.control.drivers.door import Doors, OnRequest
from services.control.faultcodes import fault_codes
from services.control.frames import DoorLoad
from services.control.watchdog.journal import read_book
from services.control.watchdog.settings import WatchdogSettings
from services.ingest.domain.switching import OffLease
from services.ingest.store.offbook import leases_in
from services.ingest.store.snapshot import load_snapshot
from services.ingest.usecases.places import Place, places_of
from services.ingest.usecases.topology import Topology

Say = Callable[[str], None]

ISSUER = "cli"
ORDER_TIMEOUT_S = 10.0
"""Who has not taken the order by then is passed over; sending it twice does no harm. [s]"""
LOOK_TIMEOUT_S = 5.0
DOOR_TIMEOUT_S = 10.0
"""What the breakers of ten thousand loads read takes some seconds on a busy machine. [s]"""
LOOK_EVERY_S = 1.0
GIVE_UP_AFTER = 3
"""Looks at the progress without an answer, after which the next door is tried."""
TAKE_OVER_AFTER_S = 15.0
"""What the watchdog has not woken by then is woken by the direct door as well. [s]"""
AGAIN_AFTER_S = 5.0
"""Between two attempts by the direct door. [s]"""
AT_ONCE = 50
PAGE = 200
LISTED = 1000
"""Loads in the table of what is not awake."""

HELD = frozenset({Fault.ISOLATION, Fault.LOCAL_LOCK, Fault.PROTECTION_TRIP})

AWAKE, NOT_AWAKE, NOBODY_THERE = 0, 1, 3
"""Exit codes: everything is on; something is not; nothing that could wake answers."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be woken."""

    scope: str
    """``loads``, ``device``, ``site``, ``region`` or ``all``."""
    targets: tuple[str, ...]
    reason: str

    def has(self, place: Place) -> bool:
        """Return whether a load is meant."""
        match self.scope:
            case "loads":
                return place.load_id in self.targets
            case "device":
                return place.device_id in self.targets
            case "site":
                return place.site_id in self.targets
            case "region":
                return not set(place.region_ids).isdisjoint(self.targets)
            case _:
                return True

    def body(self) -> dict[str, Any]:
        """Return the order for the API."""
        target = {"load_ids": list(self.targets)} if self.scope == "loads" else {}
        if self.scope in ("device", "site", "region"):
            target = {"target": self.targets[0]}  # type: ignore[dict-item]  # a text where the others are lists
        return {"scope": self.scope, "reason": self.reason, **target}


@dataclass(slots=True)
class Waking:
    """One load that is being woken past the API."""

    place: Place
    awake: bool = False
    fault: Fault | None = None
    detail: str = ""
    attempts: int = 0


@dataclass(slots=True)
class Known:
    """What stops a wake-up, and what a person has released, as the watchdog knows it."""

    isolated: Collection[str] = ()
    released: Mapping[str, int] = field(default_factory=dict)


async def wake(settings: CommonSettings, wanted: Wanted, words: Words, say: Say, *, wait_s: float) -> int:
    """Wake by the first door that answers, follow until all is on or the time is up, and return the exit code.

    Raises:
        MissingKey: No suite was ever started on this data folder, or it is another account's.
        InvalidInput, NotFound: There is no such load, device, site or region.
    """
    async with AsyncExitStack() as stack:
        one = _Attempt(settings, wanted, words, say, time.monotonic() + wait_s)
        await stack.enter_async_context(one)
        return await one.run()


class _Attempt:
    """One call of the command."""

    def __init__(self, settings: CommonSettings, wanted: Wanted, words: Words, say: Say, until: float) -> None:
        self._wanted, self._words, self._say, self._until = wanted, words, say, until
        self._settings = settings
        self._folder = DataFolder(settings.data_dir)
        self._clock: Clock = SystemClock()
        self._keys = KeyRing.open(settings.effective_keys_dir, self._clock)
        if not self._keys.holds(ISSUER):
            raise Unavailable(
                f"no key of {ISSUER} in {settings.effective_keys_dir}",
                message_zh=f"{settings.effective_keys_dir} 中没有 {ISSUER} 的密钥",
            )
        gateway = self._url("gateway") or f"http://{settings.host}:{settings.port}"
        self._apis = [
            (words("the API of the gateway", "网关接口"), self._client("gateway", gateway, "control:*")),
            (
                words("the API of control itself", "控制服务接口"),
                self._client("control", self._url("control"), "control:*"),
            ),
        ]
        self._watchdog = self._client("watchdog", self._url("watchdog"), "watchdog:wake", "watchdog:leases")
        door = self._url("ingest")
        # Of several processes of ingest each holds some of the lines; the watchdog has the list of them.
        doors = load_section("watchdog", WatchdogSettings).doors or ((door,) if door else ())
        self._doors = Doors(doors, self._keys, issuer=ISSUER)
        self._places = self._client("ingest", door or next(iter(doors), None), "ingest:wake")
        self._stack = AsyncExitStack()

    def _url(self, service: str) -> str | None:
        """Return where a service is: as configured, else its socket in the data folder of an embedded suite."""
        if service in self._settings.service_urls:
            return self._settings.service_urls[service]
        socket = self._folder.socket(service)
        return f"unix:{socket}" if socket.exists() else None

    def _client(self, service: str, url: str | None, *scopes: str) -> ServiceClient:
        return ServiceClient(self._keys, url, caller=ISSUER, audience=service, scopes=scopes)

    async def __aenter__(self) -> "_Attempt":
        for client in (*(client for _, client in self._apis), self._watchdog, self._places, self._doors):
            await self._stack.enter_async_context(client)  # type: ignore[arg-type]
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def run(self) -> int:
        """Try one door after the other."""
        key = f"cli-{new_id()}"
        for name, client in self._apis:
            try:
                order = await client.post(
                    "/api/v1/wake-ups", self._wanted.body(), timeout_s=ORDER_TIMEOUT_S, idempotency_key=key
                )
                self._say(self._words(f"through {name}", f"经由{name}"))
                if order["wake_up_id"] != "unrecorded":
                    return await self._follow_order(client, order["wake_up_id"])
                self._say(self._words("the database is away: no plan is suspended", "数据库不可用:节能策略未暂停"))
                break
            except Unavailable as exc:
                self._say(self._words(f"not through {name}: {exc.message}", f"无法经由{name}:{exc.both.chinese}"))
        return await self._past_the_api()

    # By the API.

    async def _follow_order(self, client: ServiceClient, wake_up_id: str) -> int:
        path = f"/api/v1/wake-ups/{wake_up_id}"
        shown = ""
        silent = 0
        while True:
            try:
                progress = await client.get(path, timeout_s=LOOK_TIMEOUT_S)
                silent = 0
            except Unavailable:
                silent += 1
                if silent >= GIVE_UP_AFTER:
                    raise
                await self._clock.sleep(LOOK_EVERY_S)
                continue
            line = self._figures(progress)
            if line != shown:
                self._say(line)
                shown = line
            over = progress["state"] == "done"
            # What needs a person on the spot is not waited for.
            stopped = progress["verified"] + progress["held"] >= progress["loads"]
            if stopped or time.monotonic() >= self._until:
                if progress["suspends_plans"]:
                    self._say(
                        self._words(
                            f"plans over these loads rest until: wattring wake --release {wake_up_id}",
                            f"相关节能策略暂停,直到执行:wattring wake --release {wake_up_id}",
                        )
                    )
                asleep = [] if over else await self._asleep(client, path)
                return self._end([self._row_of(one) for one in asleep])
            await self._clock.sleep(LOOK_EVERY_S)

    def _figures(self, progress: Mapping[str, Any]) -> str:
        figures = [
            (self._words("loads", "负载"), "loads"), (self._words("commanded", "已下发"), "commanded"),
            (self._words("accepted", "已受理"), "accepted"), (self._words("verified", "已确认"), "verified"),
            (self._words("failed", "未成功"), "failed"), (self._words("held", "须派人"), "held"),
        ]  # fmt: skip
        faults = [f"{one['fault']['code']} {one['loads']}" for one in progress["faults"]]
        said = "  ".join(f"{name} {progress[key]}" for name, key in figures)
        return f"{said}  ({', '.join(faults)})" if faults else said

    async def _asleep(self, client: ServiceClient, path: str) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        cursor: dict[str, str] = {}
        while len(found) < LISTED:
            page = await client.get(
                f"{path}/loads", timeout_s=LOOK_TIMEOUT_S, which="not_awake", limit=str(PAGE), **cursor
            )
            found += page["items"]
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}
        return found

    def _row_of(self, one: Mapping[str, Any]) -> Sequence[str]:
        fault = one["fault"] or {
            "code": "-",
            "name": one["state"],
            "name_zh": one["state"],
            "advice": "",
            "advice_zh": "",
        }
        return (
            one["load_id"], one["site_id"] or "-", one["device_id"] or "-",
            f"{fault['code']} {self._words(fault['name'], fault['name_zh'])}",
            self._words(fault["advice"], fault["advice_zh"]),
        )  # fmt: skip

    # Past the API.

    async def _past_the_api(self) -> int:
        places, from_disk = await self._where()
        meant = [place for place in places if self._wanted.has(place)]
        if not meant and (places or not from_disk):
            raise NotFound(
                f"no load in {self._wanted.scope} {', '.join(self._wanted.targets)}",
                message_zh=f"{', '.join(self._wanted.targets)} 下没有负载",
            )
        known = self._on_disk()
        try:
            told = await self._watchdog.get("/leases", timeout_s=LOOK_TIMEOUT_S)
            known = Known(
                {lease["load_id"] for lease in told["leases"] if lease["isolation_id"] and lease["is_valid"]},
                told["released_trips"],
            )
            body = {} if self._wanted.scope == "all" else {"load_ids": [place.load_id for place in meant]}
            await self._watchdog.post("/wake", body, timeout_s=ORDER_TIMEOUT_S)
            has_watchdog = True
            self._say(self._words("through the watchdog, which goes on until they are on", "经由看门狗,持续到全部唤醒"))
        except PlatformError as exc:
            has_watchdog = False
            self._say(self._words(f"not through the watchdog: {exc.message}", f"无法经由看门狗:{exc.both.chinese}"))
        if from_disk and not await self._door_answers():
            return self._nobody_there(meant, has_watchdog=has_watchdog)
        if not has_watchdog:
            self._say(self._words("through ingest's direct door", "经由采集服务直连接口"))
        return await self._by_the_door([Waking(place) for place in meant], known, has_watchdog=has_watchdog)

    async def _where(self) -> tuple[list[Place], bool]:
        """Return where the loads are: as the door says, else as ingest has it on this disk; and whether from there."""
        try:
            answer = await self._places.get("/direct/v1/places", timeout_s=LOOK_TIMEOUT_S)
            return [Place(**{**one, "region_ids": tuple(one["region_ids"])}) for one in answer["loads"]], False
        except PlatformError:
            topology = Topology()
            for file in sorted(self._disk_of_ingest("registry.ndjson")):
                load_snapshot(file, topology)
            return places_of(topology, self._clock.now()), True

    def _disk_of_ingest(self, name: str) -> list[Path]:
        return list((self._settings.data_dir / "ingest").glob(f"*/{name}"))

    def _on_disk(self) -> Known:
        """Return what the watchdog's file says, for when it does not run."""
        try:
            book: Book = read_book(self._settings.data_dir / "watchdog" / "leases.journal")
        except OSError as exc:
            self._say(self._words(f"the watchdog's file: {exc}", f"看门狗文件:{exc}"))
            return Known()
        now = self._clock.now()
        standing = {one.load_id for one in book.leases.values() if one.isolation_id and one.restore_at > now}
        return Known(standing, book.released_trips)

    async def _door_answers(self) -> bool:
        try:
            await self._doors.loads(timeout_s=DOOR_TIMEOUT_S)
        except Unavailable as exc:
            self._say(
                self._words(f"not through the direct door: {exc.message}", f"无法经由直连接口:{exc.both.chinese}")
            )
            return False
        return True

    async def _by_the_door(self, loads: Sequence[Waking], known: Known, *, has_watchdog: bool) -> int:
        began = time.monotonic()
        next_at = began + (TAKE_OVER_AFTER_S if has_watchdog else 0.0)
        shown = ""
        while True:
            if time.monotonic() >= next_at:
                await self._send([one for one in loads if not one.awake and one.fault is not Fault.ISOLATION], known)
                next_at = time.monotonic() + AGAIN_AFTER_S
            await self._look(loads, known, since=began)
            awake = sum(one.awake for one in loads)
            failed = sum(one.fault is not None for one in loads)
            line = self._words(
                f"loads {len(loads)}  on {awake}  failed {failed}",
                f"负载 {len(loads)}  已合闸 {awake}  未成功 {failed}",
            )
            if line != shown:
                self._say(line)
                shown = line
            # What needs a person on the spot is not waited for.
            if all(one.awake or one.fault in HELD for one in loads) or time.monotonic() >= self._until:
                self._say(
                    self._words(
                        "no plan is suspended: what it switches off again is up to control, once that is back",
                        "节能策略未暂停:控制服务恢复后仍会按策略关断",
                    )
                )
                return self._end([self._row(one) for one in loads if not one.awake])
            await self._clock.sleep(LOOK_EVERY_S)

    async def _look(self, loads: Sequence[Waking], known: Known, *, since: float) -> bool:
        """Note which loads were read closed since we began and which must not be woken; return whether it is known."""
        try:
            seen = {load.load_id: load for load in await self._doors.loads(timeout_s=DOOR_TIMEOUT_S)}
        except Unavailable:
            return False
        for one in loads:
            load = seen.get(one.place.load_id)
            if load is not None and _reads_closed(load, time.monotonic() - since):
                one.awake, one.fault = True, None
            elif one.place.load_id in known.isolated or (load is not None and load.isolation_id is not None):
                one.fault = Fault.ISOLATION
            elif load is not None and load.breaker_state == 0 and load.local_lock:
                one.fault = Fault.LOCAL_LOCK
        return True

    async def _send(self, loads: Sequence[Waking], known: Known) -> None:
        room = asyncio.Semaphore(AT_ONCE)

        async def send(one: Waking) -> None:
            if one.place.load_id in known.isolated:
                one.fault = Fault.ISOLATION
                return
            async with room:
                await self._on(one, known.released.get(one.place.load_id))

        if not await self._look(loads, known, since=time.monotonic()):
            return  # where the doors do not say what is isolated, nothing is closed on who may be at work there
        async with asyncio.TaskGroup() as group:
            for one in loads:
                if one.fault is not Fault.ISOLATION:
                    group.create_task(send(one), name=f"wake {one.place.load_id}")

    async def _on(self, one: Waking, released: int | None) -> None:
        place = one.place
        request = OnRequest(
            place.load_id, place.device_id, place.channel, f"command line: {self._wanted.reason or 'wake'}",
            f"cli-{new_id()}", released,
        )  # fmt: skip
        one.attempts += 1
        try:
            answer = await self._doors.on(request)
        except Unavailable as exc:
            one.fault, one.detail = Fault.NOT_TAKEN, exc.message
            return
        reason = str((answer or {}).get("reason") or "no_evidence")
        one.awake = bool((answer or {}).get("verified"))
        one.fault = None if one.awake else fault_named(reason, is_off=False) or Fault.NOT_CARRIED_OUT
        one.detail = str((answer or {}).get("detail") or "")

    def _row(self, one: Waking) -> Sequence[str]:
        code = None if one.fault is None else fault_codes()[one.fault]
        name = self._words("not read yet", "尚未读到") if code is None else self._words(code.name_en, code.name_zh)
        return (
            one.place.load_id, one.place.site_id, one.place.device_id, f"{'-' if code is None else code.code} {name}",
            "" if code is None else self._words(code.advice_en, code.advice_zh),
        )  # fmt: skip

    def _nobody_there(self, meant: Sequence[Place], *, has_watchdog: bool) -> int:
        """Say what still wakes when neither the API nor a door answers."""
        say, words = self._say, self._words
        say(words("NOTHING that reaches a breaker answers.", "没有任何可达断路器的进程应答。"))
        ids = {place.load_id for place in meant}
        leases = [
            lease for folder in self._disk_of_ingest("off-leases") for lease in leases_in(folder)
            if self._wanted.scope == "all" or lease.load_id in ids
        ]  # fmt: skip
        if leases:
            say(
                words(
                    f"{len(leases)} of these loads are off, as ingest's disk has it ({_span(leases)}): once it runs it "
                    "closes what is due by itself, without database and bus",
                    f"采集服务磁盘上登记 {len(leases)} 个负载处于断电({_span(leases)}):"
                    "其启动后到期即自行合闸,无需数据库和总线",
                )
            )
        if has_watchdog:
            say(
                words(
                    "The watchdog has the order and carries it out once ingest answers.",
                    "看门狗已接受命令,采集服务恢复后立即执行。",
                )
            )
        say(
            words(
                "Timers inside the devices, where their profile has one, close by themselves.",
                "设备模板声明了定时合闸的设备会自行合闸。",
            )
        )
        say(words("Start it: `wattring up` (all), `wattring ingest` (alone). Then again: wattring wake",
                  "请启动:`wattring up`(全部)或 `wattring ingest`(仅采集),然后重新执行 wattring wake"))  # fmt: skip
        return NOBODY_THERE

    def _end(self, rows: Sequence[Sequence[str]]) -> int:
        if not rows:
            self._say(self._words("all awake", "全部已唤醒"))
            return AWAKE
        self._say(self._words(f"NOT awake: {len(rows)}", f"未唤醒:{len(rows)}"))
        for row in rows:
            self._say("  " + "  ".join(row))
        return NOT_AWAKE


def _reads_closed(load: DoorLoad, within_s: float) -> bool:
    """Return whether a breaker was read closed since we began; an older reading says nothing."""
    return load.breaker_state == 1 and load.age_s is not None and load.age_s <= within_s


def _span(leases: Sequence[OffLease]) -> str:
    """Return between which times they are due."""
    times = sorted(lease.restore_at.astimezone(UTC) for lease in leases if lease.restore_at is not None)
    if not times:
        return "open-ended"
    return " … ".join(dict.fromkeys(f"{time:%Y-%m-%d %H:%M:%SZ}" for time in (times[0], times[-1])))


def read_wanted(
    loads: Sequence[str], device: str | None, site: str | None, region: str | None, *, everything: bool, reason: str
) -> Wanted:
    """Return what the options ask for.

    Raises:
        InvalidInput: Not exactly one scope is named.
    """
    named = [
        Wanted(scope, targets, reason)
        for scope, targets in (
            ("loads", tuple(dict.fromkeys(loads))), ("device", (device or "",)), ("site", (site or "",)),
            ("region", (region or "",)), ("all", ("*",) if everything else ("",)),
        )
        if any(targets)
    ]  # fmt: skip
    if len(named) != 1:
        raise InvalidInput(
            "exactly one of --load, --device, --site, --region, --all",
            message_zh="--load、--device、--site、--region、--all 必须且只能选一种",
            field="scope",
        )
    return named[0]


def release(settings: CommonSettings, wake_up_id: str, words: Words, say: Say) -> None:
    """Let the plans go on that an order has put to rest.

    Raises:
        Unavailable: The suite does not answer.
        Refused: There is no such order.
    """
    with LocalApi(settings) as api:
        order = api.post(f"wake-ups/{wake_up_id}/release")
    say(words(f"released by {order['released_by']}", f"已由 {order['released_by']} 解除"))
