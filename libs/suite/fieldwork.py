"""``wattring line …``: the helpers for commissioning a line, as tables on a terminal."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from libs.common.settings import CommonSettings
from libs.suite.api import LocalApi
from libs.suite.words import Words

Say = Callable[[str], None]

BEST = 5
"""Profiles that are shown; the others fit worse."""
NOT_READ = "-"


def scan(
    settings: CommonSettings, line_id: str, *, first: int, last: int, timeout_s: float, words: Words, say: Say
) -> None:
    """Look for units until all were asked, and say each as it is found."""
    asked = found = 0
    with LocalApi(settings) as api:
        for part in _parts(api, line_id, "scan", "first", {"first": first, "last": last, "timeout_s": timeout_s}):
            asked += part["asked"]
            for unit in part["found"]:
                found += 1
                refused = unit["exception"]
                detail = words(f"  (exception {refused:02X})", f"  (异常码 {refused:02X})") if refused else ""
                say(f"{unit['unit']:4}{detail}")
    say(words(f"{found} of {asked} units answered", f"{asked} 个单元号中有 {found} 个应答"))


def identify(
    settings: CommonSettings, line_id: str, *, unit: int | None, timeout_s: float, words: Words, say: Say
) -> None:
    """Say what a Modbus unit is, or the address of the one DL/T 645 meter when no unit is given."""
    with LocalApi(settings) as api:
        if unit is None:
            found = api.post(f"lines/{line_id}/identify", {"protocol": "dlt645-2007"})
            say(f"address: {found['address']}")
            return
        found = api.post(f"lines/{line_id}/identify", {"unit": unit, "timeout_s": timeout_s})
    for name, text in found["objects"].items():
        say(f"{name}: {text}")
    if found["server_id_hex"]:
        say(f"server_id: {found['server_id_hex']}")
    if not found["objects"] and not found["server_id_hex"]:
        say(words("it says nothing of itself; most meters do not", "设备不支持标识查询(多数电表如此)"))


def propose(settings: CommonSettings, line_id: str, *, address: str, protocol: str, words: Words, say: Say) -> None:
    """Try all profiles of a protocol, and say which fit best."""
    proposals: list[dict[str, Any]] = []
    with LocalApi(settings) as api:
        for part in _parts(api, line_id, "propose", "start", {"address": address, "protocol": protocol}):
            proposals += part["proposals"]
    proposals.sort(key=lambda found: (-found["score"], -found["point_count"]))
    for found in proposals[:BEST]:
        say(f"{found['score']:+.2f}  {found['profile']}  {words(found['vendor'], found['vendor_zh'])} {found['model']}")
        for point in found["points"]:
            say(f"         {point['point']:24} {_number(point['value']):>14}  {point['look']}")
    say(words(f"{len(proposals)} profiles tried", f"已尝试 {len(proposals)} 个模板"))


def probe(
    settings: CommonSettings,
    line_id: str,
    *,
    unit: int,
    profile: str,
    points: Sequence[str],
    timeout_s: float,
    words: Words,
    say: Say,
) -> None:
    """Say what stands at the addresses of points, one before and one behind."""
    body = {"unit": unit, "profile": profile, "points": list(points), "timeout_s": timeout_s}
    with LocalApi(settings) as api:
        found = api.post(f"lines/{line_id}/probe", body)
    for place in found["places"]:
        raw = " ".join(f"{register:04X}" for register in place["registers"] or [])
        values = "  ".join(f"{order} {_number(value)}" for order, value in place["by_order"].items())
        what = f"{place['point']:24} {place['offset']:+d} @{place['address']:#06x}"
        say(f"{what}  {raw or place['reason']}  {values}  {place['look']}")
    offset = found["offset"]
    if offset is None:
        say(words("no offset stands out", "无法判断偏移"))
    else:
        say(words(f"the values look right at offset {offset:+d}", f"偏移 {offset:+d} 处的值合理"))


def trace(settings: CommonSettings, line_id: str, *, device: str | None, for_s: float, say: Say) -> None:
    """Say every frame that goes by, with its time in UTC."""
    with LocalApi(settings) as api:
        for frame in api.lines(f"lines/{line_id}/trace", device=device, for_s=for_s):
            arrow = "->" if frame["direction"] == "sent" else "<-"
            shown = frame["hex"] or f"({frame['bytes']} bytes not shown)"
            say(f"{frame['at'][11:23]} {arrow} {frame['device'] or NOT_READ:20} {shown}")


def _parts(api: LocalApi, line_id: str, helper: str, where: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the answers of a helper that goes on where the one before ended."""
    while True:
        answer = api.post(f"lines/{line_id}/{helper}", body)
        yield answer
        if answer["next"] is None:
            return
        body = {**body, where: answer["next"]}


def _number(value: float | None) -> str:
    return NOT_READ if value is None else f"{value:.6g}"
