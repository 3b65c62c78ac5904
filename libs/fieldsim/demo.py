"""The demonstration field of ``make run``: devices, a supervision centre, past reports, and what the platform is told.

Everything a run needs to be continued by the next lies in the data folder: ports, breaker positions, the
centre's journal, the past reports.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson
import yaml
from pydantic import JsonValue

from libs.common.clock import Clock
from libs.common.contracts.registry import LineKind
from libs.common.errors import InvalidFile, Problem
from libs.fieldsim.control_api import ControlServer
from libs.fieldsim.device import spoken_profile
from libs.fieldsim.faults import Placed
from libs.fieldsim.field import Field
from libs.fieldsim.fieldfile import FieldFile, LinePart
from libs.fieldsim.history import write_history
from libs.fieldsim.modbus import Framing
from libs.fieldsim.run import announcer, serve
from libs.fieldsim.sc.server import Policy, SupervisionCentre
from libs.fieldsim.state import write_atomically

logger = logging.getLogger(__name__)

HISTORY_HOURS = 48.0
HISTORY_PERIOD_S = 300
PLANNED_H = 1.0
"""How far ahead the description lists what is going to happen. [h]"""

CENTRE_PORT = "sc"
CONTROL_PORT = "control"


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of a demonstration."""

    root: Path

    @property
    def state(self) -> Path:
        """Breaker positions and energy that did not flow."""
        return self.root / "state.json"

    @property
    def ports(self) -> Path:
        """The ports of the last run, which the next one takes again."""
        return self.root / "ports.json"

    @property
    def registry(self) -> Path:
        """The registry file for the platform."""
        return self.root / "registry.yaml"

    @property
    def history(self) -> Path:
        """Past reports, written at the first start."""
        return self.root / "history.ndjson"

    @property
    def journal(self) -> Path:
        """The supervision centre's journal."""
        return self.root / "sc-journal.jsonl"

    @property
    def ready(self) -> Path:
        """The field description; it exists while everything listens."""
        return self.root / "field.json"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line asks of a demonstration."""

    data_dir: Path
    ready_file: Path | None = None
    """Besides the one in the data folder."""
    sc_port: int | None = None
    """None: the last run's or a free one; 0: a free one."""
    control_port: int | None = None
    unit_url: str | None = None
    """Where the centre finds every unit."""
    strict: bool = False
    history_hours: float = HISTORY_HOURS
    history_period_s: int = HISTORY_PERIOD_S


async def run_demo(file: FieldFile, wishes: Wishes, *, clock: Clock, stop: asyncio.Event) -> None:
    """Run the demonstration until ``stop`` is set.

    Raises:
        Unavailable: A port is taken.
        InvalidFile: A file of the data folder is not ours.
    """
    folder = Folder(wishes.data_dir)
    await asyncio.to_thread(_prepare, folder)
    ports = await asyncio.to_thread(choose_ports, folder.ports, [line.id for line in file.lines], wishes)
    field = Field(file, clock=clock, state_path=folder.state, ports=ports)
    centre = SupervisionCentre(
        clock=clock,
        policy=Policy(
            strict=wishes.strict,
            info_every_s=60.0,
            unit_urls={} if wishes.unit_url is None else {"*": wishes.unit_url},
        ),
        journal_path=folder.journal,
        port=ports[CENTRE_PORT],
    )
    control = ControlServer(ports[CONTROL_PORT])

    def describe() -> Mapping[str, object]:
        started_at = clock.now()
        registry = registry_document(file, field.endpoints)
        write_atomically(folder.registry, yaml.safe_dump(registry, allow_unicode=True, sort_keys=False).encode())
        written = 0
        if wishes.history_hours > 0 and not folder.history.exists():
            written = write_history(
                folder.history,
                field,
                until=started_at,
                hours=wishes.history_hours,
                period_s=wishes.history_period_s,
            )
        return {
            "started_at": started_at.isoformat(),
            "control_url": control.url,
            "sc_url": centre.url,
            "lines": field.endpoints,
            "registry_file": str(folder.registry.absolute()),
            "history_file": str(folder.history.absolute()) if folder.history.exists() else None,
            "history_reports_written": written,
            "sc_journal_file": str(folder.journal.absolute()),
            "devices": [
                {
                    "device_id": part.id,
                    "site_id": part.site,
                    "line_id": part.line,
                    "unit": part.unit,
                    "address": part.place,
                    "loads": part.loads,
                }
                for part in file.devices
            ],
            "planned": planned_events(field, until_s=started_at.timestamp() + PLANNED_H * 3600),
        }

    try:
        await serve(
            field=field,
            centre=centre,
            control=control,
            describe=describe,
            announce=_both(announcer(folder.ready), wishes.ready_file),
            stop=stop,
        )
    finally:
        await asyncio.to_thread(folder.ready.unlink, missing_ok=True)


def registry_document(file: FieldFile, endpoints: Mapping[str, str]) -> dict[str, JsonValue]:
    """Return the registry file of a field: its master data with endpoints, addresses, profiles and ratios filled in.

    Raises:
        InvalidFile: A device of the registry part is not one of the field, or the other way round.
    """
    document: dict[str, JsonValue] = dict(file.registry)
    lines = {part.id: part for part in file.lines}
    devices = {part.id: part for part in file.devices}
    wired_lines: dict[str, dict[str, JsonValue]] = {
        name: {
            "kind": _line_kind(part).value,
            "endpoint": endpoints[name],
        }
        for name, part in lines.items()
    }
    wired_devices: dict[str, dict[str, JsonValue]] = {
        name: {
            "kind": spoken_profile(part.profile).category,
            "site": part.site,
            "line": part.line,
            "address": part.place,
            "profile": spoken_profile(part.profile).name,
            "ct_ratio": part.ct_ratio,
            "pt_ratio": part.pt_ratio,
            "installed_at": part.installed_at.astimezone(UTC).isoformat(),
        }
        for name, part in devices.items()
    }
    document["lines"] = _wired(document.get("lines"), wired_lines, "lines")
    document["devices"] = _wired(document.get("devices"), wired_devices, "devices")
    return document


def _line_kind(part: LinePart) -> LineKind:
    if part.pty is not None:
        return LineKind.SERIAL
    return LineKind.TCP if part.framing is Framing.TCP else LineKind.RTU_OVER_TCP


def planned_events(field: Field, *, until_s: float) -> list[dict[str, object]]:
    """Return what the story has in store, earliest first. [s since 1970]"""
    found = [(begin_s, placed) for placed in field.faults.placed() for begin_s in placed.beginnings(0.0, until_s)]
    return [_planned(begin_s, placed) for begin_s, placed in sorted(found, key=lambda pair: pair[0])]


def choose_ports(path: Path, lines: list[str], wishes: Wishes) -> dict[str, int]:
    """Return a port for each line, the centre and the control API, and remember them for the next run.

    The ports of the last run are taken again where they are free: the platform has them in its registry.
    """
    last = _last_ports(path)
    wanted = {
        CENTRE_PORT: wishes.sc_port,
        CONTROL_PORT: wishes.control_port,
    }
    ports: dict[str, int] = {}
    for name in (*lines, CENTRE_PORT, CONTROL_PORT):
        wish = wanted.get(name)
        ports[name] = wish if wish else _free_port(last.get(name, 0) if wish is None else 0, set(ports.values()))
    write_atomically(path, orjson.dumps(ports, option=orjson.OPT_INDENT_2))
    return ports


def _prepare(folder: Folder) -> None:
    folder.root.mkdir(parents=True, exist_ok=True)
    folder.ready.unlink(missing_ok=True)  # of a run that was killed


def _both(first: Callable[[Mapping[str, object]], None], path: Path | None) -> Callable[[Mapping[str, object]], None]:
    """Return what announces, and writes to a second file when one is asked for."""

    def announce(description: Mapping[str, object]) -> None:
        if path is not None:
            write_atomically(path, orjson.dumps(description, option=orjson.OPT_INDENT_2))
        first(description)

    return announce


def _last_ports(path: Path) -> dict[str, int]:
    try:
        content = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except orjson.JSONDecodeError as exc:
        problem = Problem(line=exc.lineno, field="document", expected="JSON", found=exc.msg)
        raise InvalidFile(str(path), [problem]) from exc
    return {name: port for name, port in content.items() if isinstance(port, int)}


def _free_port(preferred: int, taken: set[int]) -> int:
    """Return a port nobody listens on, the preferred one if it can be had."""
    for port in (preferred, 0):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found = int(probe.getsockname()[1])
            if found not in taken:
                return found
    return _free_port(0, taken)


def _planned(begin_s: float, placed: Placed) -> dict[str, object]:
    order = placed.order
    end_s = None if order.duration_s is None else begin_s + order.duration_s
    return {
        "device_id": placed.device_id,
        "begins_at": datetime.fromtimestamp(begin_s, UTC).isoformat(timespec="milliseconds"),
        "ends_at": None if end_s is None else datetime.fromtimestamp(end_s, UTC).isoformat(timespec="milliseconds"),
        **order.model_dump(exclude={"after_s", "every_s"}),
    }


def _wired(entries: JsonValue, wiring: Mapping[str, dict[str, JsonValue]], key: str) -> list[JsonValue]:
    """Return the registry's entries of a kind with their wiring added; what the entry says itself wins."""
    listed = entries if isinstance(entries, list) else []
    named = {str(entry["id"]): entry for entry in listed if isinstance(entry, dict) and "id" in entry}
    if set(named) != set(wiring):
        different = ", ".join(sorted(set(named) ^ set(wiring)))
        problem = Problem(line=None, field=f"registry.{key}", expected="the same ids as in the wiring", found=different)
        raise InvalidFile("field file", [problem])
    return [{**entry, **{k: v for k, v in wiring[name].items() if k not in entry}} for name, entry in named.items()]
