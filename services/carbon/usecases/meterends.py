"""The registers of meters at both ends of a period, as a statement names them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from libs.common.db import ReadConn
from libs.common.errors import InvalidInput
from libs.common.ids import CircuitId
from services.carbon.domain.booking import Binding
from services.carbon.domain.epc.metering import Registers
from services.carbon.domain.savings.measurement.days import opening
from services.carbon.domain.savings.measurement.plan import Period
from services.carbon.store import statements as store


class NoRegisters(InvalidInput):
    """A meter of the contract has no register to begin or end with."""

    code = "no_registers"
    title_zh = "缺少表底"


class Meters(Protocol):
    """Which meters served a circuit (``directory.py``)."""

    def bindings_of(self, circuit: CircuitId) -> Sequence[Binding]:
        """Return the circuit's meters in the order in which they served."""


class MeterEnds:
    """Reads the first and the last register of a period; a meter that was replaced begins and ends in between."""

    def __init__(self, *, meters: Meters, point: str) -> None:
        self._meters = meters
        self._point = point

    async def of(self, conn: ReadConn, circuits: Sequence[str], period: Period) -> list[Registers]:
        """Return the registers of every meter that served in a period, at its first and its last reading within.

        Raises:
            NoRegisters: A circuit had no meter, or a meter has no registers at two times.
            InvalidInput: The ratio of a meter changed in the period.
        """
        start, end = opening(period.start), opening(period.end)
        found: list[Registers] = []
        for circuit in circuits:
            served = [
                one
                for one in self._meters.bindings_of(CircuitId(circuit))
                if one.valid_from < end and (one.valid_to is None or one.valid_to > start)
            ]
            if not served:
                raise _no_register(circuit, "meter", period)
            found += [await self._of_meter(conn, circuit, one, start, end, period) for one in served]
        return found

    async def _of_meter(
        self, conn: ReadConn, circuit: str, binding: Binding, start: datetime, end: datetime, period: Period
    ) -> Registers:
        first = max(start, binding.valid_from)
        last = end if binding.valid_to is None else min(end, binding.valid_to)
        ends = await store.fetch_ends(conn, binding.device_id, self._point, first, last)
        ratios = await store.fetch_ratios(conn, binding.device_id, self._point, first, last)
        if len(ratios) > 1:
            told = ", ".join(f"{one:g}" for one in ratios)
            raise InvalidInput(
                f"meter {binding.device_id}: expected one ratio from {period.start} to {period.end}, found {told}; "
                "state the time before and after the change by themselves",
                message_zh=f"电表 {binding.device_id} 在 {period.start} 至 {period.end} 内变比有变化({told}),"
                "请分段出具结算单",
            )
        readings = [(at, shown) for at, shown, _ in ends]
        if binding.initial_register is not None and first == binding.valid_from:
            readings = [(first, binding.initial_register), *(one for one in readings if one[0] > first)]
        if binding.final_register is not None and last == binding.valid_to:
            readings = [*(one for one in readings if one[0] < last), (last, binding.final_register)]
        if len(readings) < 2:
            raise _no_register(circuit, binding.device_id, period)
        return Registers(
            circuit_id=circuit,
            device_id=binding.device_id,
            start_at=readings[0][0],
            start_kwh=readings[0][1],
            end_at=readings[-1][0],
            end_kwh=readings[-1][1],
            ratio=ratios[0] if ratios else 1.0,
            modulus_kwh=binding.modulus_kwh,
        )


def _no_register(circuit: str, meter: str, period: Period) -> NoRegisters:
    return NoRegisters(
        f"circuit {circuit}: {meter}: expected registers at two times from {period.start} to {period.end}, found fewer",
        message_zh=f"回路 {circuit}({meter})在 {period.start} 至 {period.end} 内没有起止两个表底",
    )
