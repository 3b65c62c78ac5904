"""Simulators that send by themselves, and keep what they sent until we say that we have it.

Reports in JSON, messages of the device platform, CSV files and MQTT. Each of them loses, repeats and holds back some,
as networks do, and sends something wrong now and then.
"""

import asyncio
import contextlib
import random
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import httpx
import orjson
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from libs.suite.soak.journal import COUNTER, Answer, Entry, Journal, Wrong, counter_kwh, voltage_of

PUSHED = ("soak-push-1", "soak-push-2")
PLATFORM, FILES, BROKER = "soak-aep", "soak-csv", "soak-mqtt"
PLATFORM_ADDRESS, PLATFORM_PRODUCT, PLATFORM_TENANT = "soak0001", 10000001, "20001234"
PLATFORM_LINE, BROKER_LINE, BROKER_ADDRESS = "l-aep", "l-mqtt", "SOAK1"
UNSENT, HELD_BACK, REPEATED, CUT, WRONG, TWIN = 0.04, 0.08, 0.10, 0.06, 0.06, 0.04
"""Shares of what is lost, late, repeated, cut off, wrong, and of two different reports under one time. [1]"""
UNKNOWN = "unknown device"
HELD_BACK_S = (0.5, 8.0)
AGAIN_S = 0.4
LOOK_S = 0.1
TIMEOUT_S = 20.0
ARCHIVE_AGE = timedelta(hours=2)
ROWS_PER_FILE = 12
FILE_EVERY_S = 4.0


@dataclass(slots=True)
class Item:
    """One report as it is sent, right or wrong."""

    body: bytes
    entry: Entry | None = None
    wrong: Wrong | None = None

    def sent(self) -> None:
        """Note that it is on its way."""
        if self.wrong is not None:
            self.wrong.attempts += 1

    def taken(self, reason: str | None) -> None:
        """Note the answer: None says that it was taken, else why it was not."""
        if self.entry is not None and reason is None:
            self.entry.answer = Answer.ACCEPTED
        elif self.entry is not None:
            self.entry.refused = reason
        elif self.wrong is not None and reason is None:
            self.wrong.taken = True
        elif self.wrong is not None:
            self.wrong.refused = True


class Door(Protocol):
    """Where ingest listens, and who we are there."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""

    def headers(self) -> dict[str, str]:
        """Return fresh credentials."""


class Sender(ABC):
    """Makes a report or some every period and gets rid of them in order, apart from what is held back and repeated."""

    def __init__(self, journal: Journal, chance: random.Random, period_s: float, *, at_once: int = 1) -> None:
        self.journal = journal
        self.chance = chance
        self._period_s = period_s
        self._at_once = at_once
        self._waiting: deque[Item] = deque()
        self._ready = asyncio.Event()
        self._open = 0
        self._later: set[asyncio.Task[None]] = set()

    @abstractmethod
    def make(self) -> list[Item]:
        """Return what is new, written down."""

    @abstractmethod
    async def post(self, items: Sequence[Item]) -> bool:
        """Send items once; return whether an answer came that settles them."""

    @abstractmethod
    async def close(self) -> None:
        """Close connections."""

    async def produce(self) -> None:
        """Make reports, until cancelled."""
        while True:
            for item in self.make():
                if item.entry is not None and self.chance.random() < UNSENT:
                    item.entry.answer = Answer.UNSENT
                elif self.chance.random() < HELD_BACK:
                    self._put_later(item)
                else:
                    self._put(item)
            await asyncio.sleep(self._period_s)

    async def send(self) -> None:
        """Send what there is, until cancelled."""
        try:
            while True:
                while not self._waiting:
                    self._ready.clear()
                    await self._ready.wait()
                items = [self._waiting.popleft() for _ in range(min(self._at_once, len(self._waiting)))]
                settled = await self.post(items)
                while not settled:
                    await asyncio.sleep(AGAIN_S)
                    settled = await self.post(items)
                self._open -= len(items)
                for item in items:
                    if self.chance.random() < REPEATED:
                        self._put_later(item)
        finally:
            for task in self._later:
                task.cancel()

    async def finish(self, within_s: float) -> bool:
        """Wait until everything is settled; return whether it is."""
        end = time.monotonic() + within_s
        while not self.is_settled():
            if time.monotonic() > end:
                return False
            await asyncio.sleep(LOOK_S)
        return True

    def is_settled(self) -> bool:
        """Return whether nothing waits to be sent or answered."""
        return not self._later and not self._open

    def _put(self, item: Item) -> None:
        self._open += 1
        self._waiting.append(item)
        self._ready.set()

    def _put_later(self, item: Item) -> None:
        async def wait() -> None:
            await asyncio.sleep(self.chance.uniform(*HELD_BACK_S))
            self._put(item)

        task = asyncio.create_task(wait(), name="soak, held back")
        self._later.add(task)
        task.add_done_callback(self._later.discard)


class Times:
    """Times of a device: milliseconds, and each of them once."""

    def __init__(self) -> None:
        self._last = datetime.fromtimestamp(0, UTC)

    def next(self) -> datetime:
        """Return the time now, or the next one."""
        now = datetime.now(UTC)
        now = now.replace(microsecond=now.microsecond // 1000 * 1000)
        self._last = max(now, self._last + timedelta(milliseconds=1))
        return self._last


def values_of(number: int) -> dict[str, float]:
    """Return what a sender measures."""
    return {COUNTER: counter_kwh(number), "voltage_a": voltage_of(number)}


class HttpSender(Sender):
    """Sends over HTTP; a connection may end in the middle."""

    def __init__(
        self, journal: Journal, chance: random.Random, period_s: float, door: Door, *, path: str, at_once: int = 1
    ) -> None:
        super().__init__(journal, chance, period_s, at_once=at_once)
        self._door = door
        self._path = path
        self._client = httpx.AsyncClient(trust_env=False, timeout=TIMEOUT_S)

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    @abstractmethod
    def body(self, items: Sequence[Item]) -> bytes:
        """Return what is sent."""

    @abstractmethod
    def answered(self, items: Sequence[Item], status: int, content: bytes) -> bool:
        """Note what the answer says of each item; return whether it settles them."""

    async def post(self, items: Sequence[Item]) -> bool:
        """Send once."""
        body = self.body(items)
        for item in items:
            item.sent()
        if self.chance.random() < CUT:
            await self._cut_off(body)
            return False
        host, port = self._door.address
        headers = {**self._door.headers(), "content-type": "application/json"}
        try:
            answer = await self._client.post(f"http://{host}:{port}{self._path}", content=body, headers=headers)
        except httpx.HTTPError:
            return False
        if answer.status_code >= 500:
            return False
        return self.answered(items, answer.status_code, answer.content)

    async def _cut_off(self, body: bytes) -> None:
        """Send all or a part, and be gone before the answer."""
        host, port = self._door.address
        fields = "".join(f"{name}: {value}\r\n" for name, value in self._door.headers().items())
        head = f"POST {self._path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n{fields}\r\n".encode()
        whole = head + body
        if self.chance.random() < 0.5:
            whole = whole[: self.chance.randrange(len(whole))]
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, port)
            writer.write(whole)
            await writer.drain()
            await asyncio.sleep(self.chance.uniform(0.0, 0.1))
            writer.transport.abort()


class Pusher(HttpSender):
    """Reports in JSON, in batches."""

    def __init__(self, journal: Journal, chance: random.Random, period_s: float, door: Door) -> None:
        super().__init__(journal, chance, period_s, door, path="/api/v1/readings", at_once=50)
        self._times = {device_id: Times() for device_id in PUSHED}

    def make(self) -> list[Item]:
        """Return a report of each device, now and then two under one time, or a wrong one."""
        items = []
        for device_id, times in self._times.items():
            at = times.next()
            if self.chance.random() < WRONG:
                items.append(self._wrong(device_id, at))
            twin = self.chance.random() < TWIN
            for _ in range(2 if twin else 1):
                number = self.journal.number(device_id)
                entry = self.journal.add(Entry(device_id, number, at, values_of(number), has_twin=twin))
                items.append(Item(_report(device_id, at, entry.points), entry=entry))
        return items

    def body(self, items: Sequence[Item]) -> bytes:
        """Return an array."""
        return b"[" + b",".join(item.body for item in items) + b"]"

    def answered(self, items: Sequence[Item], status: int, content: bytes) -> bool:
        """Read what became of each."""
        if status != 200:
            for item in items:
                item.taken(f"{status} {content[:200]!r}")
            return True
        found = orjson.loads(content)
        problems = {one["index"]: one["reason"] for one in found["problems"]}
        # Ingest that has just started may not know a device yet: then what is wrong with its report is found later.
        waiting = found["parked"] > sum(item.wrong is not None and item.wrong.what == UNKNOWN for item in items)
        for index, item in enumerate(items):
            waits = item.wrong is not None and (waiting or item.wrong.what == UNKNOWN)
            item.taken(problems.get(index, "waits for its device" if waits else None))
        return True

    def _wrong(self, device_id: str, at: datetime) -> Item:
        what = self.chance.choice((UNKNOWN, "no number", "unreadable time", "unknown point", "future"))
        wrong = self.journal.add_wrong(device_id, at, what)
        report: dict[str, Any] = {
            "device_id": device_id, "source_time": at.isoformat(), "points": {COUNTER: 1.0}, "message_id": wrong.marker,
        }  # fmt: skip
        spoilt: dict[str, dict[str, Any]] = {
            UNKNOWN: {"device_id": f"nobody-{wrong.marker}"},
            "no number": {"points": {COUNTER: "much"}},
            "unreadable time": {"source_time": "yesterday"},
            "unknown point": {"points": {"NO SUCH POINT": 1.0}},
            "future": {"source_time": (at + timedelta(days=3)).isoformat()},
        }
        return Item(orjson.dumps(report | spoilt[what]), wrong=wrong)


def _report(device_id: str, at: datetime, points: Mapping[str, float]) -> bytes:
    return orjson.dumps({"device_id": device_id, "source_time": at.isoformat(), "points": points})


class PlatformSender(HttpSender):
    """Messages of the device platform, one at a time."""

    def __init__(self, journal: Journal, chance: random.Random, period_s: float, door: Door, token: str) -> None:
        super().__init__(journal, chance, period_s, door, path=f"/push/aep/{PLATFORM_LINE}/{token}")
        self._times = Times()

    def make(self) -> list[Item]:
        """Return a message, now and then a wrong one before it."""
        at, items = self._times.next(), []
        if self.chance.random() < WRONG:
            items.append(self._wrong(at))
        number = self.journal.number(PLATFORM)
        entry = self.journal.add(Entry(PLATFORM, number, at, values_of(number)))
        payload = {"energy": number, "voltage": round(voltage_of(number) * 10)}
        items.append(Item(self._message(at, payload=payload), entry=entry))
        return items

    def body(self, items: Sequence[Item]) -> bytes:
        """Return the message."""
        return items[0].body

    def answered(self, items: Sequence[Item], status: int, content: bytes) -> bool:
        """Note the answer: the platform is told that a message came, not whether it was right."""
        for item in items:
            if status != 200:
                item.taken(f"{status} {content[:200]!r}")
            else:
                item.taken(None if item.wrong is None else "is on record")
        return True

    def _message(self, at: datetime, **content: Any) -> bytes:
        message = {
            "messageType": "dataReport", "tenantId": PLATFORM_TENANT, "productId": str(PLATFORM_PRODUCT),
            "deviceId": PLATFORM_ADDRESS, "deviceSn": PLATFORM_ADDRESS, "serviceId": "data_report",
            "timestamp": round(at.timestamp() * 1000), "protocol": "lwm2m",
        }  # fmt: skip
        return orjson.dumps(message | content)

    def _wrong(self, at: datetime) -> Item:
        what = self.chance.choice(("no JSON", "foreign product", UNKNOWN))
        wrong = self.journal.add_wrong(PLATFORM, at, what)
        body = self._message(at, payload={"energy": 1, "note": wrong.marker})
        if what == "no JSON":
            body = body[:-1]
        elif what == "foreign product":
            body = self._message(at, payload={"note": wrong.marker}, productId="99999999")
        else:
            body = self._message(at, payload={"note": wrong.marker}, deviceId=f"n{wrong.marker[-7:-1]}")
        return Item(body, wrong=wrong)


class FileSender(HttpSender):
    """CSV files with what a meter kept."""

    def __init__(self, journal: Journal, chance: random.Random, door: Door) -> None:
        path = "/api/v1/imports?kind=readings&file=soak.csv"
        super().__init__(journal, chance, FILE_EVERY_S, door, path=path)
        self._next = datetime.now(UTC).replace(microsecond=0) - ARCHIVE_AGE
        self._files: dict[bytes, list[Item]] = {}

    def make(self) -> list[Item]:
        """Return a file: its rows are written down, and lost or late all together."""
        rows = []
        for _ in range(ROWS_PER_FILE):
            self._next += timedelta(seconds=1)
            if self.chance.random() < WRONG:
                what = UNKNOWN
                wrong = self.journal.add_wrong(FILES, self._next, what)
                rows.append(Item(f"{wrong.marker},{self._next.isoformat()},1.0,230".encode(), wrong=wrong))
            number = self.journal.number(FILES)
            entry = self.journal.add(Entry(FILES, number, self._next, values_of(number)))
            values = f"{counter_kwh(number):.2f},{voltage_of(number):.1f}"
            rows.append(Item(f"{FILES},{self._next.isoformat()},{values}".encode(), entry=entry))
        head = f"device_id,source_time,{COUNTER},voltage_a\n".encode()
        body = head + b"".join(row.body + b"\n" for row in rows)
        self._files[body] = rows
        return [Item(body)]

    def body(self, items: Sequence[Item]) -> bytes:
        """Return the file."""
        for row in self._files[items[0].body]:
            row.sent()
        return items[0].body

    def answered(self, items: Sequence[Item], status: int, content: bytes) -> bool:
        """Note what became of the rows: of wrong ones the import says how many there are."""
        rows = self._files[items[0].body]
        found = orjson.loads(content) if status == 201 else {}
        wrongs = sum(row.wrong is not None for row in rows)
        right = found.get("state") == "succeeded" and found.get("counts", {}).get("rejected", 0) == wrongs
        for row in rows:
            if row.wrong is not None:
                row.taken("is a wrong line" if right else None)
            else:
                row.taken(None if right else f"{status} {content[:200]!r}")
        return True


class BrokerSender(Sender):
    """MQTT with QoS 1: the broker promises, and has to keep it whatever becomes of us."""

    def __init__(self, journal: Journal, chance: random.Random, period_s: float, address: tuple[str, int]) -> None:
        super().__init__(journal, chance, period_s)
        self.heard = False
        """Whether we have subscribed: before that the broker gives its word for nothing."""
        self._times = Times()
        self._under_way: dict[int, Item] = {}
        self._acknowledged: deque[int] = deque()
        """Filled by the client's thread."""
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id="soak-device", clean_session=False, protocol=paho.MQTTv311
        )
        self._client.max_inflight_messages_set(50)
        self._client.reconnect_delay_set(1, 2)
        self._client.on_publish = lambda client, userdata, number, *_: self._acknowledged.append(number)
        self._client.connect_async(*address)
        self._client.loop_start()

    async def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    def make(self) -> list[Item]:
        """Return a message, now and then a wrong one before it."""
        at, items = self._times.next(), []
        if self.heard and self.chance.random() < WRONG:
            wrong = self.journal.add_wrong(BROKER, at, "no JSON")
            wrong.is_redelivered = True  # by the broker, when we are killed before we acknowledge
            items.append(Item(b'{"t": ' + wrong.marker.encode(), wrong=wrong))
        number = self.journal.number(BROKER)
        entry = self.journal.add(Entry(BROKER, number, at, values_of(number)))
        values = {"ep": counter_kwh(number), "ua": voltage_of(number)}
        message = {"t": round(at.timestamp() * 1000), "n": number, "v": values}
        items.append(Item(orjson.dumps(message), entry=entry))
        return items

    async def post(self, items: Sequence[Item]) -> bool:
        """Hand a message to the client, which sends it until the broker has it."""
        for item in items:
            item.sent()
            info = self._client.publish(f"meters/{BROKER_ADDRESS}/up", item.body, qos=1)
            if self.heard:
                self._under_way[info.mid] = item
        self.note_acknowledged()
        return True

    def note_acknowledged(self) -> None:
        """Look which messages the broker has."""
        while self._acknowledged:
            item = self._under_way.pop(self._acknowledged.popleft(), None)
            if item is not None:
                item.taken(None if item.wrong is None else "is on record")

    def is_settled(self) -> bool:
        """Return whether the broker has everything."""
        self.note_acknowledged()
        return super().is_settled() and not self._under_way
