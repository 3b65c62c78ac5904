"""Commands of IEC 61850: the four control models.

The structure of a command is each IED's own (with or without a time of operation, integer or Boolean value), so it is
read before the first one. An IED that refuses tells why in ``LastApplError``, before its negative answer; with enhanced
security it tells the end of the command, good or bad, once more.

Source:
    IEC 61850-7-2:2010 20 (control), IEC 61850-8-1:2011 20.
"""

import asyncio
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hat.drivers import mms
from hat.drivers.iec61850 import AdditionalCause

from libs.common.clock import Clock
from libs.common.errors import InvalidInput
from libs.common.profiles import ControlModel, Iec61850Control
from services.ingest.drivers.iec61850.client import Client
from services.ingest.drivers.iec61850.names import Variable, controllable
from services.ingest.drivers.iec61850.values import raw_of
from services.ingest.drivers.port import DeviceRefused, DeviceSilent

logger = logging.getLogger(__name__)

REMOTE = 3
"""Category of who commands: remote control."""
IDENTIFICATION = b"wattring"
AT_ONCE = datetime.fromtimestamp(0, UTC)
"""Time of operation of a command that is to be done now."""
LAST_ERROR = mms.VmdSpecificObjectName("LastApplError")


@dataclass(slots=True)
class _Underway:
    """A command that was sent."""

    oper: Variable
    number: int
    ended: "asyncio.Future[None]"
    cause: str | None = None
    """What the IED said of its refusal."""


class Commander:
    """Commands of one association, and what the IED tells of them."""

    def __init__(self) -> None:
        self._underway: dict[Variable, _Underway] = {}
        self._types: dict[Variable, Any] = {}
        self._numbers = itertools.cycle(range(1, 256))
        self._busy: dict[Variable, asyncio.Lock] = {}

    async def command(
        self,
        client: Client,
        ied: str,
        control: Iec61850Control,
        raw: bool | float,
        *,
        clock: Clock,
        answer_s: float,
        terminate_s: float,
    ) -> str:
        """Do a command and return how the IED answered.

        Raises:
            InvalidInput: The object cannot be controlled with this value.
            LineDown: Nothing was sent.
            DeviceSilent: It was sent, and not all of the answers came.
            DeviceRefused: The IED said no.
        """
        subject = controllable(ied, control.reference)
        oper = subject.child("Oper")
        async with self._busy.setdefault(subject, asyncio.Lock()):
            if oper not in self._types:
                self._types[oper] = await client.type_of(oper, within_s=answer_s)
            underway = _Underway(oper, next(self._numbers), asyncio.get_running_loop().create_future())
            command = _command(self._types[oper], control, raw, underway.number, clock)
            self._underway[oper] = underway
            try:
                if control.model is ControlModel.SBO:
                    await self._select(client, subject, answer_s)
                elif control.model is ControlModel.SBO_ENHANCED:
                    await self._write(client, subject.child("SBOw"), command, underway, "select", answer_s)
                await self._write(client, oper, command, underway, "operate", answer_s)
                if not control.model.is_enhanced:
                    return "accepted"
                return await self._end_of(underway, terminate_s)
            finally:
                del self._underway[oper]
                underway.ended.cancel()

    def take(self, message: Any) -> bool:
        """Take an information report that is about a command; return whether it was one."""
        names = _names(message)
        if names is None:
            return False
        data = list(message.data)
        if names == [LAST_ERROR]:
            for underway in self._underway.values():
                underway.cause = _cause(data, underway.number) or underway.cause
            return True
        last = names[-1]
        if not isinstance(last, mms.DomainSpecificObjectName) or not last.item_id.endswith("$Oper"):
            return False
        found = self._underway.get(Variable(last.domain_id, last.item_id))
        if found is not None and not found.ended.done():
            cause = _cause(data, found.number) if len(names) > 1 else None
            if len(names) == 1:
                found.ended.set_result(None)
            elif cause is not None:
                found.ended.set_exception(DeviceRefused(f"{last.item_id}: ended without success: {cause}"))
        return True

    def end(self) -> None:
        """The association has ended: what is under way has an unknown outcome."""
        for underway in self._underway.values():
            if not underway.ended.done():
                underway.ended.set_exception(DeviceSilent("the association was lost before the end of the command"))

    async def _select(self, client: Client, subject: Variable, answer_s: float) -> None:
        (answer,) = await client.read([subject.child("SBO")], within_s=answer_s)
        if not isinstance(answer, mms.VisibleStringData) or not answer.value:
            raise DeviceRefused(f"{subject.item}: select: not selected")

    async def _write(
        self, client: Client, variable: Variable, command: Any, underway: _Underway, what: str, answer_s: float
    ) -> None:
        try:
            await client.write(variable, command, within_s=answer_s)
        except DeviceRefused as exc:
            reason = underway.cause or exc.message
            raise DeviceRefused(f"{variable.item}: {what}: {reason}") from exc

    async def _end_of(self, underway: _Underway, within_s: float) -> str:
        try:
            async with asyncio.timeout(within_s):
                await underway.ended
        except TimeoutError:
            raise DeviceSilent(f"{underway.oper.item}: the end of the command was not told") from None
        return "accepted and terminated"


def _command(kind: Any, control: Iec61850Control, raw: bool | float, number: int, clock: Clock) -> Any:
    """Return the structure of a command, as the IED describes it.

    Raises:
        InvalidInput: It has a component that is not known, or its value has another type.
    """
    if not isinstance(kind, mms.StructureTypeDescription):
        raise InvalidInput(f"{control.reference} is no object that can be controlled")
    now = mms.UtcTimeData(clock.now(), False, False, False, 10)
    known: Mapping[str, Any] = {
        "operTm": mms.UtcTimeData(AT_ONCE, False, False, False, 10),
        "origin": mms.StructureData([mms.IntegerData(REMOTE), mms.OctetStringData(IDENTIFICATION)]),
        "ctlNum": mms.UnsignedData(number),
        "T": now,
        "Test": mms.BooleanData(False),
        "Check": mms.BitStringData([False, control.interlock_check]),
    }
    elements = []
    for name, component in kind.components:
        if name == "ctlVal":
            elements.append(_value(component, control, raw))
        elif name in known:
            elements.append(known[name])
        else:
            raise InvalidInput(f"{control.reference}: a command with {name!r} is not known")
    return mms.StructureData(elements)


def _value(kind: Any, control: Iec61850Control, raw: bool | float) -> Any:
    match kind:
        case mms.BooleanTypeDescription() if raw in (0, 1):
            return mms.BooleanData(bool(raw))
        case mms.IntegerTypeDescription() if float(raw).is_integer():
            return mms.IntegerData(int(raw))
        case mms.UnsignedTypeDescription() if float(raw).is_integer() and raw >= 0:
            return mms.UnsignedData(int(raw))
        case mms.FloatingPointTypeDescription():
            return mms.FloatingPointData(float(raw))
        case mms.StructureTypeDescription() if [name for name, _ in kind.components] == ["f"]:
            return mms.StructureData([mms.FloatingPointData(float(raw))])  # an analogue set point
        case _:
            raise InvalidInput(f"{control.reference} does not take {raw!r} ({type(kind).__name__})")


def _names(message: Any) -> list[Any] | None:
    """Return the names in an information report of variables, None for another message."""
    if not isinstance(message, mms.InformationReportUnconfirmed):
        return None
    listed = message.specification
    if isinstance(listed, mms.VmdSpecificObjectName | mms.DomainSpecificObjectName | mms.AaSpecificObjectName):
        return None
    entries = [entry for entry in listed if isinstance(entry, mms.NameVariableSpecification)]
    return [entry.name for entry in entries] if entries and len(entries) == len(listed) else None


def _cause(data: Sequence[Any], number: int) -> str | None:
    """Return the cause that a ``LastApplError`` gives for the command of this number, None for another one."""
    elements = list(data[0].elements) if data and isinstance(data[0], mms.StructureData) else []
    if len(elements) < 5 or raw_of(elements[3]) != number:
        return None
    cause = raw_of(elements[4])
    try:
        return str(AdditionalCause(cause).name).lower().replace("_", " ")
    except ValueError:
        return f"cause {cause}"
