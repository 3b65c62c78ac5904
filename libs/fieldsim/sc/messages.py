"""The messages of dialect T that the centre sends, and the codes of all of them."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from lxml import etree

from libs.common.clock import CIVIL_ZONE
from libs.fieldsim.sc.soap import element, payload
from libs.fieldsim.sc.spec import TOWER

FROM_UNIT: Mapping[str, int] = TOWER.from_unit
FROM_CENTRE: Mapping[str, int] = TOWER.from_centre
CODES: Mapping[str, int] = TOWER.codes
"""Code of each request; its answer carries the next number."""

ALL_DEVICES = "9" * 14
ALL_POINTS = "9" * 10
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"

Points = Mapping[str, Sequence[str]]
"""Device id to point ids."""
EVERYTHING: Points = {ALL_DEVICES: (ALL_POINTS,)}


def ack_name(name: str) -> str:
    """Return the name of the answer to a request."""
    return f"{name}_ACK"


def request(name: str, children: Iterable[etree._Element]) -> str:
    """Return a request payload."""
    return payload("Request", name, CODES[name], children)


def answer(name: str, code: int, children: Iterable[etree._Element]) -> str:
    """Return the payload of an answer to a request of that name and code."""
    return payload("Response", ack_name(name), code + 1, children)


def about_unit(unit_id: str) -> list[etree._Element]:
    """Return how a message names the unit it is for."""
    return [element("FsuId", unit_id), element("FsuCode", unit_id)]


def get_fsuinfo(unit_id: str) -> str:
    """Ask for CPU and memory: the heartbeat."""
    return request("GET_FSUINFO", about_unit(unit_id))


def get_logininfo(unit_id: str) -> str:
    """Ask what the unit believes about its registration."""
    return request("GET_LOGININFO", about_unit(unit_id))


def get_ftp(unit_id: str) -> str:
    """Ask for the FTP account."""
    return request("GET_FTP", about_unit(unit_id))


def reboot(unit_id: str) -> str:
    """Order a restart of the unit."""
    return request("SET_FSUREBOOT", about_unit(unit_id))


def time_check(now: datetime) -> str:
    """Tell the unit the time; the message names no unit."""
    local = now.astimezone(CIVIL_ZONE)
    names = ("Years", "Month", "Day", "Hour", "Minute", "Second")
    digits = local.strftime("%Y %m %d %H %M %S").split()
    return request("TIME_CHECK", [element("Time", [element(n, d) for n, d in zip(names, digits, strict=True)])])


def get_data(unit_id: str, points: Points = EVERYTHING) -> str:
    """Ask for the newest values."""
    return request("GET_DATA", [*about_unit(unit_id), _device_list(points)])


def get_hisdata(unit_id: str, start: datetime, end: datetime, points: Points = EVERYTHING) -> str:
    """Ask for one value per hour and point."""
    times = [element("StartTime", local_text(start)), element("EndTime", local_text(end))]
    return request("GET_HISDATA", [*about_unit(unit_id), *times, _device_list(points)])


def get_threshold(unit_id: str, points: Points = EVERYTHING) -> str:
    """Ask for thresholds."""
    return request("GET_THRESHOLD", [*about_unit(unit_id), _device_list(points)])


def set_threshold(unit_id: str, device_id: str, point_id: str, threshold: float, level: int = 3) -> str:
    """Order a threshold."""
    attributes = {
        "Type": "2",
        "Id": point_id,
        "Threshold": f"{threshold:g}",
        "AbsoluteVal": "0",
        "RelativeVal": "0",
        "Status": str(level),
    }
    order = element("TThreshold", "", attributes)
    return request("SET_THRESHOLD", [*about_unit(unit_id), element("Value", [_one_device(device_id, order)])])


def set_point(unit_id: str, device_id: str, point_id: str, value: float, point_type: int = 4) -> str:
    """Order a control (type 4) or a set value (type 5)."""
    attributes = {
        "Type": str(point_type),
        "Id": point_id,
        "MeasuredVal": "0",
        "SetupVal": f"{value:g}",
        "Status": "0",
    }
    order = element("TSemaphore", "", attributes)
    return request("SET_POINT", [*about_unit(unit_id), element("Value", [_one_device(device_id, order)])])


def set_logininfo(unit_id: str, centre_ip: str, devices: Sequence[str]) -> str:
    """Tell a unit of the old registration mode where its events go."""
    return request(
        "SET_LOGININFO",
        [
            *about_unit(unit_id),
            element("IPSecUser"),
            element("IPSecPWD"),
            element("IPSecIP", centre_ip),
            element("SCIP", centre_ip),
            element("DeviceList", [_device(device) for device in devices]),
        ],
    )


def local_text(moment: datetime) -> str:
    """Return a time as the interface writes it: civil time, no offset."""
    return moment.astimezone(CIVIL_ZONE).strftime(TIME_FORMAT)


def read_local(text: str) -> datetime | None:
    """Return the time that a text of the interface means; none when it is not one."""
    try:
        naive = datetime.strptime(text, TIME_FORMAT)  # noqa: DTZ007 - civil time by definition, see below
    except ValueError:
        return None
    return naive.replace(tzinfo=CIVIL_ZONE)


def _device(device_id: str, content: Iterable[etree._Element] = ()) -> etree._Element:
    return element("Device", content, {"Id": device_id, "Code": device_id})


def _device_list(points: Points) -> etree._Element:
    return element(
        "DeviceList",
        [_device(device, [element("Id", point) for point in ids]) for device, ids in points.items()],
    )


def _one_device(device_id: str, order: etree._Element) -> etree._Element:
    return element("DeviceList", [_device(device_id, [order])])
