"""One call of a unit by the name of its command, for people at a command line and for the control API.

What each dialect's centre can ask is a table of its own: the same wish has other names and bodies there.
"""

from collections.abc import Callable, Mapping
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from libs.common.errors import InvalidInput
from libs.fieldsim.sc import draft, messages
from libs.fieldsim.sc.spec import Spec

NAMES_NO_UNIT = frozenset({"TIME_CHECK"})
"""Commands whose answer need not name a unit."""


class UnitCall(BaseModel):
    """A call of a unit."""

    model_config = ConfigDict(extra="forbid")

    command: str
    """One of its dialect's ``commands``."""
    points: dict[str, tuple[str, ...]] | None = None
    """Device id to point ids; none: everything."""
    device_id: str = ""
    point_id: str = ""
    value: float = 0.0
    option_id: str = ""
    """Of ``SET_SPCONFIGOPTION``."""
    start: datetime | None = None
    end: datetime | None = None

    def payload(self, spec: Spec, unit_id: str, now: datetime) -> str:
        """Return the request.

        Raises:
            InvalidInput: The dialect has no such command.
        """
        try:
            write = _WRITERS[spec.name][self.command]
        except KeyError:
            known = ", ".join(commands(spec))
            raise InvalidInput(
                f"command {self.command!r}: dialect {spec.name} has {known}",
                message_zh=f"命令 {self.command!r}:方言 {spec.name} 支持 {known}",
            ) from None
        return write(self, unit_id, now)


def commands(spec: Spec) -> tuple[str, ...]:
    """Return what can be called in a dialect."""
    return tuple(_WRITERS[spec.name])


_Writer = Callable[[UnitCall, str, datetime], str]

_TOWER: Mapping[str, _Writer] = {
    "GET_DATA": lambda call, unit, _: messages.get_data(unit, call.points or messages.EVERYTHING),
    "GET_HISDATA": lambda call, unit, now: messages.get_hisdata(
        unit, call.start or now, call.end or now, call.points or messages.EVERYTHING
    ),
    "GET_FSUINFO": lambda _, unit, __: messages.get_fsuinfo(unit),
    "GET_LOGININFO": lambda _, unit, __: messages.get_logininfo(unit),
    "GET_FTP": lambda _, unit, __: messages.get_ftp(unit),
    "GET_THRESHOLD": lambda call, unit, _: messages.get_threshold(unit, call.points or messages.EVERYTHING),
    "SET_THRESHOLD": lambda call, unit, _: messages.set_threshold(unit, call.device_id, call.point_id, call.value),
    "SET_POINT": lambda call, unit, _: messages.set_point(unit, call.device_id, call.point_id, call.value),
    "TIME_CHECK": lambda _, __, now: messages.time_check(now),
    "SET_FSUREBOOT": lambda _, unit, __: messages.reboot(unit),
}
_DRAFT: Mapping[str, _Writer] = {
    "GET_DATA": lambda call, unit, _: draft.get_data(unit, call.points or draft.EVERYTHING),
    "ASK_TODAYHISDATA": lambda call, unit, _: draft.get_data(
        unit, call.points or draft.EVERYTHING, name="ASK_TODAYHISDATA"
    ),
    "GET_SUINFO": lambda _, unit, __: draft.about("GET_SUINFO", unit),
    "GET_ACTIVEALARM": lambda _, unit, __: draft.about("GET_ACTIVEALARM", unit),
    "GET_SUFTP": lambda _, unit, __: draft.about("GET_SUFTP", unit),
    "GET_SPCONFIGOPTION": lambda call, unit, _: draft.get_options(
        unit, call.device_id or draft.ALL_DEVICES, call.point_id or draft.ALL_POINTS
    ),
    "SET_SPCONFIGOPTION": lambda call, unit, _: draft.set_option(unit, call.device_id, call.point_id, call.option_id),
    "SET_RMCTRLCMD": lambda call, unit, _: draft.set_control(unit, call.device_id, call.point_id, call.value),
    "SET_TIME": lambda _, unit, now: draft.set_time(unit, now),
    "SET_SUREBOOT": lambda _, unit, __: draft.about("SET_SUREBOOT", unit),
}
_WRITERS: Mapping[str, Mapping[str, _Writer]] = {"T": _TOWER, "Y": _DRAFT}
