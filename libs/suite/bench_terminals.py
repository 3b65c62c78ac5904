"""How much memory many idle terminals cost: run as a process of its own, prints one line of JSON.

    python -m libs.suite.bench_terminals 10000

Each terminal is a line with a task that owns it and a meter that is polled once a day, as in the running service.
"""

import asyncio
import gc
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from libs.common.clock import SystemClock
from libs.common.contracts.registry import Device, Line, LineKind
from libs.common.outgoing import AddressGuard
from libs.common.profiles import ProfileCatalogue
from libs.common.secretstore import SecretStore
from libs.fieldsim.run import raise_file_limit
from services.ingest.domain.normalise import Normalisers
from services.ingest.drivers.dtu import DtuHub, Registration
from services.ingest.drivers.factory import open_line
from services.ingest.drivers.means import Means
from services.ingest.drivers.port import TellingLine
from services.ingest.drivers.pushed import PushBoard
from services.ingest.settings import DtuSettings, PollingSettings
from services.ingest.worker.line import LineRunner

FILES_OF_OTHERS = 200
"""Left free of the limit on open files."""
NORMALISERS = Normalisers()
SINCE = datetime(2026, 1, 1, tzinfo=UTC)


class Deaf:
    """Whoever would hear of something; nothing is polled here."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


async def nothing(device_id: str) -> None:
    """No device has a history here."""


def resident_mb() -> float:
    """Return the memory that this process has. [MB]"""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def runner_of(line: Line, hub: DtuHub, clock: SystemClock, settings: PollingSettings) -> LineRunner:
    """Return what owns a terminal's line."""
    nowhere = Path("no-such-folder")
    means = Means(
        secrets=SecretStore(nowhere),
        guard=AddressGuard(),
        pushes=PushBoard(clock),
        latest=nothing,
        folder=nowhere,
        hub=hub,
    )
    driver = open_line(line, clock, settings, means)
    if isinstance(driver, TellingLine):
        raise TypeError("a terminal's line is polled")
    deaf = cast(Any, Deaf())
    return LineRunner(
        line=line,
        driver=driver,
        acceptor=deaf,
        status=deaf,
        findings=deaf,
        clock=clock,
        settings=settings,
        normalisers=NORMALISERS,
    )


async def main(wanted: int) -> None:
    """Connect terminals, give each its line and meter, and print what that takes."""
    count = min(wanted, raise_file_limit() - FILES_OF_OTHERS)
    clock, settings, profile = SystemClock(), PollingSettings(), ProfileCatalogue.load().get("chint_dtsu666")
    hub = DtuHub(clock=clock, settings=DtuSettings(port=0, host="127.0.0.1"), watch=cast(Any, Deaf()))
    common: dict[str, Any] = {"name": "x", "valid_from": SINCE, "version": 1, "changed_by": "user:test"}
    lines = [Line(id=f"line-{n}", kind=LineKind.DTU, endpoint=f"IMEI{n}.", **common) for n in range(1, count + 1)]
    for line in lines:
        hub.learn(line.id, Registration.of(line.endpoint, "PING"))
    await hub.listen()
    gc.collect()
    before_mb = resident_mb()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "libs.fieldsim.cli", "dtu", "--server", f"127.0.0.1:{hub.port}",
        "--registration", "IMEI{n}.", "--count", str(count), "--heartbeat", "PING", "--heartbeat-every-s", "2",
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    tasks: list[asyncio.Task[None]] = []
    try:
        async with asyncio.timeout(90):
            while len(hub.connected()) < count:
                hub.sweep()
                await asyncio.sleep(0.1)
        gc.collect()
        connected_mb = resident_mb()
        for line in lines:
            runner = runner_of(line, hub, clock, settings)
            device = Device(
                id=f"meter-{line.id}",
                kind="meter_3p",
                site="site-1",
                line=line.id,
                address="1",
                period_s=86400,
                **common,
            )
            runner.update({device.id: (device, profile)})
            for polled in runner._polled.values():  # noqa: SLF001  # a meter's first poll would be within seconds
                polled.due = clock.monotonic() + 86400
            tasks.append(asyncio.create_task(runner.run(), name=line.id))
        gc.collect()
        began, used = time.monotonic(), time.process_time()
        while time.monotonic() - began < 3:  # a heartbeat of each comes in this time
            hub.sweep()
            await asyncio.sleep(0.5)
        found = {
            "terminals": len(hub.connected()),
            "before_mb": round(before_mb, 1),
            "connected_mb": round(connected_mb, 1),
            "with_tasks_mb": round(resident_mb(), 1),
            "idle_cpu_percent": round(100 * (time.process_time() - used) / (time.monotonic() - began), 1),
        }
        sys.stdout.write(json.dumps(found) + "\n")
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        process.terminate()
        await process.wait()
        await hub.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
