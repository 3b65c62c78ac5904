"""A 104 station by c104 (built on lib60870-C), in a process and an environment of its own.

    .tools/peers/iec104/bin/python tests/peers/c104_station.py PORT

Station 47 has a breaker (double point 1 with time, single points 2 and 3, command 0x6001 with select), measurements
from 0x4001, a counter at 0x6401 and a direct command 0x6101 for a relay at 5. Says "ready" and then answers each line
of JSON with one: ``{"set": 1, "value": 2, "quality": ["Invalid"], "ms_ago": 0, "tell": "SPONTANEOUS"}``, ``{"obey":
false}`` (breakers stand still), ``{"refuse": true}`` (commands are), ``{"heard": true}`` (commands so far, the last
clock, open connections).
"""

import datetime
import json
import sys
from typing import Any

import c104  # type: ignore[import-not-found]

CLOSED, OPEN = c104.Double.ON, c104.Double.OFF
HEARD: list[str] = []
CLOCK: list[str] = []
OBEY = {"obey": True, "refuse": False}
KINDS: dict[Any, tuple[Any, Any]] = {
    c104.Type.M_DP_TB_1: (c104.DoubleInfo, lambda value: c104.Double(value)),
    c104.Type.M_DP_NA_1: (c104.DoubleInfo, lambda value: c104.Double(value)),
    c104.Type.M_SP_TB_1: (c104.SingleInfo, bool),
    c104.Type.M_SP_NA_1: (c104.SingleInfo, bool),
    c104.Type.M_ME_NC_1: (c104.ShortInfo, float),
    c104.Type.M_ME_TF_1: (c104.ShortInfo, float),
    c104.Type.M_ME_NA_1: (c104.NormalizedInfo, lambda value: c104.NormalizedFloat(value)),
    c104.Type.M_ME_NB_1: (c104.ScaledInfo, lambda value: c104.Int16(value)),
    c104.Type.M_IT_NA_1: (c104.BinaryCounterInfo, int),
}


def on_command(point: c104.Point, previous_info: c104.Information, message: c104.IncomingMessage) -> c104.ResponseState:
    HEARD.append(f"{point.io_address} {point.value}")
    if OBEY["refuse"]:
        return c104.ResponseState.FAILURE
    if OBEY["obey"]:
        state = point.station.get_point(point.related_io_address)
        state.info = (
            c104.DoubleInfo(point.value)
            if isinstance(state.info, c104.DoubleInfo)
            else c104.SingleInfo(bool(point.value))
        )
    return c104.ResponseState.SUCCESS


def on_clock(server: c104.Server, ip: str, date_time: datetime.datetime) -> c104.ResponseState:
    CLOCK.append(date_time.isoformat())
    return c104.ResponseState.SUCCESS


def main() -> None:
    server = c104.Server(ip="127.0.0.1", port=int(sys.argv[1]), tick_rate_ms=50)
    station = server.add_station(common_address=47)
    points = {}
    for address, kind in (
        (1, c104.Type.M_DP_TB_1),
        (2, c104.Type.M_SP_NA_1),
        (3, c104.Type.M_SP_TB_1),
        (5, c104.Type.M_SP_NA_1),
        *((0x4000 + n, c104.Type.M_ME_NC_1) for n in range(1, 10)),
        (0x6401, c104.Type.M_IT_NA_1),
    ):
        points[address] = station.add_point(io_address=address, type=kind)
    for address, kind, state, mode in (
        (0x6001, c104.Type.C_DC_NA_1, 1, c104.CommandMode.SELECT_AND_EXECUTE),
        (0x6101, c104.Type.C_SC_NA_1, 5, c104.CommandMode.DIRECT),
    ):
        command = station.add_point(
            io_address=address, type=kind, related_io_address=state, related_io_autoreturn=True, command_mode=mode
        )
        command.on_receive(callable=on_command)
    server.on_clock_sync(callable=on_clock)
    server.start()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(done(server, points, json.loads(line))), flush=True)
    server.stop()


def done(server: c104.Server, points: dict[int, c104.Point], order: dict[str, Any]) -> object:
    OBEY.update({name: order[name] for name in OBEY if name in order})
    if "set" in order:
        point = points[order["set"]]
        make, value = KINDS[point.type]
        quality = c104.BinaryCounterQuality() if make is c104.BinaryCounterInfo else c104.Quality()
        for name in order.get("quality", []):
            quality |= getattr(type(quality), name)
        at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(milliseconds=order.get("ms_ago", 0))
        point.info = make(value(order["value"]), quality=quality, recorded_at=at)
        if "tell" in order:
            return point.transmit(cause=getattr(c104.Cot, order["tell"]))
    if "heard" in order:
        return {"commands": HEARD, "clock": CLOCK[-1:], "connections": server.open_connection_count}
    return None


if __name__ == "__main__":
    main()
