"""``wattring-fieldsim sc-check``: a centre for integrators that examines one unit and writes what it found."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import orjson
import typer

from libs.common.clock import Clock, SystemClock
from libs.common.errors import Unavailable
from libs.fieldsim.sc.client import UnitClient
from libs.fieldsim.sc.conformance import Examination, Step
from libs.fieldsim.sc.faults import Order, parse_order
from libs.fieldsim.sc.report import EXIT_CODES, Report
from libs.fieldsim.sc.server import Policy, SupervisionCentre
from libs.fieldsim.sc.spec import spec_named

FAULTS = ("result_0", "drop", "garbage", "wrong_code", "no_answer:delay_s=10")
"""What is played to the unit's reports, one after the other, when nothing else is ordered."""
TICK_S = 0.2


def check(
    unit_id: Annotated[str, typer.Argument(help="FsuId (T, 14 digits) or SUID (Y, 17).")],
    dialect: Annotated[str, typer.Option(help="T: China Tower 2016; Y: YD/T draft of 2024.")] = "T",
    unit_url: Annotated[
        str | None, typer.Option(help="The unit's service; none: where its LOGIN says, which is waited for.")
    ] = None,
    port: Annotated[int, typer.Option(help="TCP port of our SCService, 0 is a free one.")] = 15080,
    host: Annotated[str, typer.Option(help="Address to listen on; the unit has to reach it.")] = "127.0.0.1",
    centre_ip: Annotated[str, typer.Option(help="What the unit is told as the centre's address.")] = "127.0.0.1",
    wait_s: Annotated[float, typer.Option(min=0, help="For the LOGIN, when it is waited for. [s]")] = 240.0,
    listen_s: Annotated[
        float, typer.Option(min=0, help="Listen to the unit this long after the polls; it has to report alarms. [s]")
    ] = 0.0,
    fault: Annotated[
        list[str] | None,
        typer.Option(help=f"Faults to play to SEND_ALARM while listening, as for sc; none: {' '.join(FAULTS)}."),
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="For one answer. [s]")] = 5.0,
    report: Annotated[Path | None, typer.Option(help="Write the report here as JSON; text goes to stdout.")] = None,
    ready_file: Annotated[Path | None, typer.Option(help="Write our address here as JSON once we listen.")] = None,
) -> None:
    """Examine a unit (FSU/SU): poll every command, try what it has to refuse, listen to what it reports.

    Nothing is switched. The exit code is 0 when nothing is violated (what is unconfirmed does not count), 1 when
    something is, 3 when the unit was not reached.

    检测一台FSU/SU：轮询全部命令，验证应拒绝的报文，监听其上报。退出码：0 符合，1 违反，3 无法访问。
    """
    spec = spec_named(dialect)
    clock = SystemClock()
    orders = [parse_order(f"{text}{',' if ':' in text else ':'}command=SEND_ALARM") for text in fault or FAULTS]
    centre = SupervisionCentre(
        clock=clock,
        policy=Policy(spec=spec, centre_ip=centre_ip, unit_urls={unit_id: unit_url} if unit_url else {}),
        host=host,
        port=port,
    )

    def announce() -> None:
        if ready_file is not None:
            ready_file.write_bytes(orjson.dumps({"sc_url": centre.url}))
        sys.stderr.write(f"listening at {centre.url}  监听 {centre.url}\n")

    try:
        found = asyncio.run(_examine(centre, clock, unit_id, announce, orders, wait_s, listen_s, timeout_s))
    except OSError as exc:
        raise Unavailable(f"cannot listen: {exc}", message_zh=f"无法监听：{exc}") from exc
    if report is not None:
        report.write_bytes(orjson.dumps(found.as_dict(), option=orjson.OPT_INDENT_2))
    sys.stdout.write("\n".join(found.lines()) + "\n")
    raise typer.Exit(EXIT_CODES[found.verdict])


async def _examine(
    centre: SupervisionCentre,
    clock: Clock,
    unit_id: str,
    announce: Callable[[], None],
    orders: list[Order],
    wait_s: float,
    listen_s: float,
    timeout_s: float,
) -> Report:
    began_at = clock.now()
    await centre.start()
    try:
        announce()
        async with asyncio.TaskGroup() as tasks:
            calls = tasks.create_task(centre.run(), name="centre")
            try:
                url, steps = await _polled(centre, clock, unit_id, wait_s, timeout_s)
                for order in orders if listen_s else ():
                    centre.faults.place(order)
                await clock.sleep(listen_s)
            finally:
                calls.cancel()
    finally:
        await centre.stop()
    heard = [entry for entry in centre.journal.after() if entry["direction"] == "in"]
    return Report(centre.spec, unit_id, url, began_at, clock.now(), steps, heard)


async def _polled(
    centre: SupervisionCentre, clock: Clock, unit_id: str, wait_s: float, timeout_s: float
) -> tuple[str | None, list[Step]]:
    until_s = clock.monotonic() + wait_s
    while unit_id not in centre.unit_urls and unit_id not in centre.centre.units:
        if clock.monotonic() >= until_s:
            return None, []
        await clock.sleep(TICK_S)
    url = centre.unit_url(unit_id)
    async with UnitClient(timeout_s, centre.spec) as client:
        examination = Examination(client, url, unit_id, clock, centre.trap_url, centre.trapped)
        return url, await examination.run()
