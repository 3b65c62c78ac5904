"""The control API: looks into the simulated field and orders faults. For tests and people, on loopback only."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Literal

import uvicorn
from fastapi import Body, FastAPI, HTTPException, Query
from pydantic import BaseModel, ConfigDict

from libs.common.errors import InvalidInput, NotFound
from libs.fieldsim.breaker import Breaker
from libs.fieldsim.device import Device
from libs.fieldsim.electrical import total_energy, total_flow
from libs.fieldsim.faults import EVERY_DEVICE, AnyOrder, Placed, TripReason
from libs.fieldsim.field import Field
from libs.fieldsim.sc import faults as sc_faults
from libs.fieldsim.sc.calls import UnitCall
from libs.fieldsim.sc.client import Answer
from libs.fieldsim.sc.report import Report
from libs.fieldsim.sc.server import SupervisionCentre

HOST = "127.0.0.1"


class BreakerOrder(BaseModel):
    """What a person at a breaker does."""

    model_config = ConfigDict(extra="forbid")

    action: Literal["open", "close", "lock", "unlock", "trip", "release"]
    reason: TripReason = TripReason.OVERLOAD
    """Of a trip, see ``TripReason``."""


class UnitUrl(BaseModel):
    """Where a unit's service listens."""

    model_config = ConfigDict(extra="forbid")

    url: str


def build_app(
    field: Field | None = None, centre: SupervisionCentre | None = None, description: object = None
) -> FastAPI:
    """Return the API of what this process simulates.

    Args:
        field: Its devices; none: it has none.
        centre: Its supervision centre; none: it has none.
        description: What ``GET /field`` answers, JSON-ready.
    """
    app = FastAPI(title="wattring-fieldsim control API", version="1", docs_url="/docs", redoc_url=None)

    @app.get("/field")
    async def describe() -> object:
        """Return the field description: ports, URLs, planned events."""
        return description

    if field is not None:
        _add_field(app, field)
    if centre is not None:
        _add_centre(app, centre)
    return app


def _add_field(app: FastAPI, field: Field) -> None:
    @app.get("/devices")
    async def devices() -> list[dict[str, object]]:
        """Return every device in short."""
        return [_brief(device) for device in field.devices.values()]

    @app.get("/devices/{device_id}")
    async def device(device_id: str) -> dict[str, object]:
        """Return what a device shows now, and the breaker's position behind it."""
        found = _device(field, device_id)
        now_s = field.clock.now().timestamp()
        found.settle(now_s)
        return {**_brief(found), "at": field.clock.now(), "points": found.shown(now_s)}

    @app.get("/loads")
    async def loads() -> list[dict[str, object]]:
        """Return what each load takes now, and has taken since 1970, as the simulation knows it."""
        now_s = field.clock.now().timestamp()
        return [
            {
                "load_id": load.load_id,
                "power_kw": sum(total_flow([load], now_s).active),
                "share": load.share(now_s),
                "energy_kwh": sum(total_energy([load], 0.0, now_s).active),
            }
            for load in field.loads.values()
        ]

    @app.get("/events")
    async def events(after: int = 0, device_id: str | None = None) -> list[dict[str, object]]:
        """Return what happened, oldest first."""
        field.settle()
        return [happening.as_dict() for happening in field.events.after(after, device_id=device_id)]

    @app.get("/traffic")
    async def traffic() -> dict[str, dict[str, int]]:
        """Return counts of connections and requests by line."""
        return {
            name: {
                "connections": server.traffic.connections,
                "accepted": server.traffic.accepted,
                "requests": server.traffic.requests,
                "refused": server.traffic.refused,
            }
            for name, server in field.servers.items()
        }

    @app.get("/faults")
    async def faults() -> list[dict[str, object]]:
        """Return every order on the board."""
        now_s = field.clock.now().timestamp()
        return [_placed(placed, now_s) for placed in field.faults.placed()]

    @app.post("/devices/{device_id}/faults", status_code=201)
    async def place(device_id: str, order: Annotated[AnyOrder, Body()]) -> dict[str, object]:
        """Order a fault of a device; ``*`` is all of them."""
        if device_id != EVERY_DEVICE:
            _device(field, device_id)
        now_s = field.clock.now().timestamp()
        placed = field.faults.place(device_id, order, now_s)
        field.events.record(now_s, device_id, "fault_placed", fault=placed.fault_id, order=order.model_dump())
        for one in field.devices.values():
            one.changed()
        return _placed(placed, now_s)

    @app.delete("/faults/{fault_id}", status_code=204)
    async def withdraw(fault_id: int) -> None:
        """Take an order off the board."""
        if not field.faults.withdraw(fault_id):
            raise HTTPException(404, f"no fault {fault_id}")
        field.events.record(field.clock.now().timestamp(), EVERY_DEVICE, "fault_withdrawn", fault=fault_id)

    @app.delete("/devices/{device_id}/faults")
    async def clear(device_id: str) -> dict[str, int]:
        """Take all orders of a device off the board; ``*`` is those of all devices."""
        return {"withdrawn": field.faults.clear(None if device_id == EVERY_DEVICE else device_id)}

    @app.post("/devices/{device_id}/breaker", status_code=202)
    async def handle(device_id: str, order: BreakerOrder) -> dict[str, object]:
        """Do what a person at the breaker does."""
        found = _device(field, device_id)
        if not isinstance(found, Breaker):
            raise HTTPException(409, f"{device_id} is no breaker")
        now_s = field.clock.now().timestamp()
        found.settle(now_s)
        match order.action:
            case "open" | "close":
                found.move_by_hand(order.action == "close", now_s)
            case "lock" | "unlock":
                found.lock(order.action == "lock", now_s)
            case "trip":
                found.trip(order.reason, now_s)
            case "release":
                found.release(now_s)
        return _brief(found)


def _add_centre(app: FastAPI, centre: SupervisionCentre) -> None:
    @app.get("/journal")
    @app.get("/sc/journal")
    async def journal(
        after: int = 0, name: str | None = None, findings_only: Annotated[bool, Query()] = False
    ) -> list[dict[str, object]]:
        """Return the exchanges of the centre, oldest first."""
        return centre.journal.after(after, name=name, findings_only=findings_only)

    @app.get("/sc/units")
    async def units() -> list[dict[str, object]]:
        """Return the units that have registered."""
        return [
            {
                "unit_id": unit.unit_id,
                "logged_in_at": unit.logged_in_at,
                "online": unit.online,
                "devices": unit.devices,
                "url": centre.unit_url(unit.unit_id),
            }
            for unit in centre.centre.units.values()
        ]

    @app.get("/sc/units/{unit_id}/report")
    async def report(unit_id: str) -> dict[str, object]:
        """Return everything that is held against a unit: what it reported, what it answered to polls."""
        seen = [entry for entry in centre.journal.after() if entry["unit_id"] == unit_id]
        if not seen:
            raise HTTPException(404, f"nothing was heard of unit {unit_id}")
        began_at = datetime.fromisoformat(str(seen[0]["at"]))
        found = Report(centre.spec, unit_id, None, began_at, centre.clock.now(), [], seen)
        return found.as_dict()

    @app.get("/sc/alarms")
    async def alarms(open_only: bool = False) -> list[dict[str, object]]:
        """Return the alarms that the centre has heard of."""
        return [
            {
                "begin": alarm.begin.as_dict(),
                "end": None if alarm.end is None else alarm.end.as_dict(),
            }
            for alarm in (centre.centre.open_alarms() if open_only else centre.centre.alarms.values())
        ]

    @app.put("/sc/units/{unit_id}/url", status_code=204)
    async def set_url(unit_id: str, target: UnitUrl) -> None:
        """Tell the centre where a unit listens; ``*`` for all without a URL of their own."""
        centre.unit_urls[unit_id] = target.url

    @app.post("/sc/units/{unit_id}/calls")
    async def call(unit_id: str, order: UnitCall) -> dict[str, object]:
        """Call a unit now and return what it answers."""
        try:
            answer = await centre.call(unit_id, order.command, order.payload(centre.spec, unit_id, centre.now()))
        except NotFound as exc:
            raise HTTPException(404, exc.message) from exc
        except InvalidInput as exc:
            raise HTTPException(422, exc.message) from exc
        return answer_facts(answer)

    @app.get("/sc/faults")
    async def pending() -> list[sc_faults.Order]:
        """Return the orders that still wait."""
        return centre.faults.pending()

    @app.post("/sc/faults", status_code=201)
    async def order(order: sc_faults.Order) -> sc_faults.Order:
        """Order a fault of the centre."""
        centre.faults.place(order)
        return order

    @app.delete("/sc/faults")
    async def withdraw() -> dict[str, int]:
        """Withdraw all orders."""
        return {"withdrawn": centre.faults.clear()}


def answer_facts(answer: Answer) -> dict[str, object]:
    """Return a unit's answer, JSON-ready."""
    return {
        "result": answer.result,
        "findings": [finding.as_dict() for finding in answer.findings],
        **answer.facts(),
    }


class ControlServer:
    """Serves the control API on loopback, within a running loop.

    Args:
        port: 0: a free one, see ``port`` after ``bind``.
    """

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self._socket: socket.socket | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self.port}"

    def bind(self) -> None:
        """Take the port; requests wait until ``run`` serves them.

        Raises:
            OSError: The port is taken.
        """
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((HOST, self.port))
            listener.listen()
        except OSError:
            listener.close()
            raise
        self._socket = listener
        self.port = listener.getsockname()[1]

    async def run(self, app: FastAPI) -> None:
        """Serve until cancelled."""
        if self._socket is None:
            self.bind()
        assert self._socket is not None  # noqa: S101 - bind() has set it
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        server = _Uvicorn(config)
        try:
            await server.serve(sockets=[self._socket])
        except asyncio.CancelledError:
            server.force_exit = True
            await server.shutdown(sockets=[self._socket])
            raise
        finally:
            self._socket.close()


class _Uvicorn(uvicorn.Server):
    """Leaves signals to whoever started the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _device(field: Field, device_id: str) -> Device:
    found = field.devices.get(device_id)
    if found is None:
        raise HTTPException(404, f"no device {device_id}; there are {', '.join(field.devices)}")
    return found


def _brief(device: Device) -> dict[str, object]:
    facts: dict[str, object] = {
        "device_id": device.device_id,
        "profile": device.profile.name,
        "category": device.profile.category,
    }
    if isinstance(device, Breaker):
        facts |= {"closed": device.closed, "locked": device.locked, "tripped": device.tripped}
    return facts


def _placed(placed: Placed, now_s: float) -> dict[str, object]:
    return {
        "fault_id": placed.fault_id,
        "device_id": placed.device_id,
        "active": placed.begin_of(now_s) is not None,
        **placed.order.model_dump(),
    }
