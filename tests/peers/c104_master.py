"""A 104 master by c104 (built on lib60870-C), in a process and an environment of its own.

    .tools/peers/iec104/bin/python tests/peers/c104_master.py PORT

Watches station 1 as the profile ``iec60870_breaker_example`` has it. Says "ready" once connected and then answers each
line of JSON with one: ``{"interrogate": true}``, ``{"count": true}``, ``{"clock": true}`` (whether answered),
``{"values": true}`` (by object address), ``{"command": 24577, "value": 1, "select": true}`` (whether confirmed),
``{"read": 1}``.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import c104  # type: ignore[import-not-found]

CONNECT_WITHIN_S = 30.0
ANSWER_WITHIN_S = 10.0
MONITORED = {
    1: c104.Type.M_DP_NA_1,
    2: c104.Type.M_SP_NA_1,
    **{0x4000 + n: c104.Type.M_ME_NC_1 for n in range(1, 10)},
    0x6401: c104.Type.M_IT_NA_1,
}


def main() -> None:
    client = c104.Client(tick_rate_ms=50, command_timeout_ms=5000)
    connection = client.add_connection(ip="127.0.0.1", port=int(sys.argv[1]), init=c104.Init.NONE)
    station = connection.add_station(common_address=1)
    points = {address: station.add_point(io_address=address, type=kind) for address, kind in MONITORED.items()}
    command = station.add_point(io_address=0x6001, type=c104.Type.C_DC_NA_1)
    client.start()
    give_up_at = time.monotonic() + CONNECT_WITHIN_S
    while not connection.is_connected and time.monotonic() < give_up_at:
        time.sleep(0.05)
    connection.unmute()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(done(connection, points, command, json.loads(line))), flush=True)
    client.stop()


def done(connection: c104.Connection, points: dict[int, c104.Point], command: c104.Point, order: dict[str, Any]) -> Any:
    if "interrogate" in order:
        return answered(connection.interrogation)
    if "count" in order:
        return answered(connection.counter_interrogation)
    if "clock" in order:
        return answered(connection.clock_sync)
    if "read" in order:
        return points[order["read"]].read()
    if "command" in order:
        modes = c104.CommandMode
        command.command_mode = modes.SELECT_AND_EXECUTE if order["select"] else modes.DIRECT
        command.value = c104.Double(order["value"])
        return command.transmit(cause=c104.Cot.ACTIVATION)
    return {address: plain(point.value) for address, point in points.items()}


def answered(question: Callable[..., bool]) -> bool:
    """Ask until it is answered: one at a time is allowed, and the end of the last may still be on its way."""
    give_up_at = time.monotonic() + ANSWER_WITHIN_S
    while time.monotonic() < give_up_at:
        if question(common_address=1):
            return True
        time.sleep(0.05)
    return False


def plain(value: Any) -> float:
    """Return a value as a number; double points are 0 to 3."""
    return float(value.value) if isinstance(value, c104.Double) else float(value)


if __name__ == "__main__":
    main()
