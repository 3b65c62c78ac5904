"""The messages of dialect Y that the centre sends. Bodies that no public text shows are by analogy with the others."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from lxml import etree

from libs.common.clock import CIVIL_ZONE
from libs.fieldsim.sc.soap import element, payload
from libs.fieldsim.sc.spec import DRAFT

ALL_DEVICES = "9" * 7
ALL_POINTS = "9" * 12

Points = Mapping[str, Sequence[str]]
"""Device id to point ids."""
EVERYTHING: Points = {ALL_DEVICES: (ALL_POINTS,)}


def about(name: str, unit_id: str, children: Iterable[etree._Element] = ()) -> str:
    """Return a request that names its unit."""
    return payload("Request", name, DRAFT.codes[name], [element("SUID", unit_id), *children])


def get_data(unit_id: str, points: Points = EVERYTHING, name: str = "GET_DATA") -> str:
    """Ask for the newest values, or with ASK_TODAYHISDATA for those of today."""
    devices = [
        element("Device", [element("SPID", point) for point in ids], {"DeviceID": device})
        for device, ids in points.items()
    ]
    return about(name, unit_id, [element("DeviceList", devices)])


def get_options(unit_id: str, device_id: str = ALL_DEVICES, point_id: str = ALL_POINTS) -> str:
    """Ask which option template each point uses."""
    return about("GET_SPCONFIGOPTION", unit_id, [element("DeviceID", device_id), element("SPID", point_id)])


def set_option(unit_id: str, device_id: str, point_id: str, option_id: str) -> str:
    """Order an option template for a point."""
    option = element("TConfigOption", "", {"Type": "3", "SPID": point_id, "OptionID": option_id})
    return about("SET_SPCONFIGOPTION", unit_id, [element("Value", [_one_device(device_id, option)])])


def set_control(unit_id: str, device_id: str, point_id: str, value: float, point_type: int = 4) -> str:
    """Order a control (type 4) or a set value (type 5)."""
    attributes = {
        "Type": str(point_type),
        "SPID": point_id,
        "MeasuredVal": "",
        "SetupVal": f"{value:g}",
        "Status": "0",
    }
    order = element("TSemaphore", "", attributes)
    return about("SET_RMCTRLCMD", unit_id, [element("Value", [_one_device(device_id, order)])])


def set_time(unit_id: str, now: datetime) -> str:
    """Tell a unit the time."""
    local = now.astimezone(CIVIL_ZONE)
    names = ("Years", "Month", "Day", "Hour", "Minute", "Second")
    digits = local.strftime("%Y %m %d %H %M %S").split()
    return about("SET_TIME", unit_id, [element("Time", [element(n, d) for n, d in zip(names, digits, strict=True)])])


def set_centre(unit_id: str, centre_ip: str) -> str:
    """Move a unit to another centre."""
    return about("SET_SCIP", unit_id, [element("SCIP", centre_ip)])


def set_account(unit_id: str, username: str, password: str, port: int) -> str:
    """Order an FTP account."""
    fields = [element("UserName", username), element("Password", password), element("FTPPort", str(port))]
    return about("SET_SUFTP", unit_id, fields)


def _one_device(device_id: str, order: etree._Element) -> etree._Element:
    return element("DeviceList", [element("Device", [order], {"DeviceID": device_id})])
