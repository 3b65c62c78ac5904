"""Modbus TCP on pymodbus, behind our own framing of errors and times.

What pymodbus 3.16 does and this module works around (southbound.md 2.2 to 2.4):

* It closes the connection by itself after some unanswered requests, so a dead unit behind a gateway would
  tear down its neighbours. Our time limit is shorter than the library's, which therefore never counts one;
  when the connection is doubted is ``liveness.py``'s.
* Errors come in three ways: returned (exception answers), raised (silence), and as a wrong type or length.
"""

import asyncio
import logging
from collections.abc import Coroutine

from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ConnectionException, ModbusException
from pymodbus.framer import FramerType
from pymodbus.pdu import ModbusPDU

from libs.common.clock import Clock
from libs.common.errors import InvalidInput
from libs.common.profiles import Protocol
from services.ingest.drivers.liveness import Liveness
from services.ingest.drivers.modbus import ModbusDevice, unit_of
from services.ingest.drivers.port import Address, BadAnswer, DeviceSilent, LineDown
from services.ingest.drivers.taps import Taps

# The library logs every unanswered request as an error; silence is counted and judged here.
logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)

CONNECT_TIMEOUT_S = 5.0
MAX_KEPT_BYTES = 512
"""Of what came and was no answer. [B]"""


class ModbusTcpLine:
    """One connection to a device or to a gateway with several units behind it."""

    protocol = "modbus"

    def __init__(
        self,
        *,
        host: str,
        port: int,
        clock: Clock,
        timeout_s: float = 1.0,
        pacing_s: float = 0.0,
        max_gap: int = 16,
    ) -> None:
        """Prepare a line; the first request connects.

        Args:
            host: Where the device or gateway listens.
            port: Its port.
            clock: Ours.
            timeout_s: An answer must come within this. [s]
            pacing_s: Silence kept between two requests. [s]
            max_gap: Unasked registers that are read along to save a request.
        """
        self._host = host
        self._port = port
        self._clock = clock
        self._timeout_s = timeout_s
        self._pacing_s = pacing_s
        self._max_gap = max_gap
        self._client: AsyncModbusTcpClient | None = None
        self._last_request_at = float("-inf")
        self._liveness = Liveness()
        self._heard = b""
        self._asked = ""
        self.taps = Taps()

    def session(self, address: Address) -> ModbusDevice:
        """Return a session for one unit.

        Raises:
            InvalidInput: The device speaks no Modbus, or its address is no unit id.
        """
        if address.profile.protocol is not Protocol.MODBUS:
            raise InvalidInput(
                f"device {address.device_id}: {address.profile.protocol} needs a line of kind rtu_over_tcp, serial or "
                "dtu; a line of kind tcp is Modbus TCP",
                message_zh=f"设备 {address.device_id}:{address.profile.protocol} 应接在 rtu_over_tcp、serial 或 dtu "
                "类型的线路上,tcp 类型的线路是 Modbus TCP",
            )
        asking = TcpAsking(self, address.device_id)
        return ModbusDevice(asking, address, unit=unit_of(address), clock=self._clock, max_gap=self._max_gap)

    async def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        self._liveness = Liveness()
        if client is not None:
            client.close()

    async def request(self, what: str, pdu: ModbusPDU, *, device: str, timeout_s: float | None = None) -> ModbusPDU:
        """Send one request and return its answer; one at a time, by whoever owns the line.

        Args:
            what: For messages.
            pdu: The request.
            device: Who is asked; empty: nobody that is known to be there, whose silence says nothing of the line.
            timeout_s: Other than the line's, and at most ``CONNECT_TIMEOUT_S``.

        Raises:
            LineDown, DeviceSilent, BadAnswer: As the port says.
            InvalidInput: The request cannot be written.
        """
        client = await self._connected()
        await self._keep_pace()
        self._heard, self._asked = b"", device
        limit_s = self._timeout_s if timeout_s is None else min(timeout_s, CONNECT_TIMEOUT_S)
        try:
            answer = await self._within_time(client.execute(False, pdu), limit_s)
        except TimeoutError:
            if device and self._liveness.silent(device):
                await self.close()
            raise DeviceSilent(f"{what}: no answer within {limit_s:g} s", raw=self._heard) from None
        except ConnectionException as exc:
            await self.close()
            raise LineDown(f"{self._host}:{self._port}: {exc}") from exc
        except (ModbusException, OSError) as exc:
            # Sent, and then something broke: what was asked may have been done.
            await self.close()
            raise DeviceSilent(f"{what}: {exc}", raw=self._heard) from exc
        except ValueError as exc:
            raise InvalidInput(f"{what}: {exc}") from exc
        finally:
            self._last_request_at = self._clock.monotonic()
        if device:
            self._liveness.answered(device)
        if answer is None:
            raise BadAnswer(f"{what}: no answer object", raw=self._heard)
        return answer

    async def _within_time(
        self, asking: Coroutine[object, object, ModbusPDU | None], limit_s: float
    ) -> ModbusPDU | None:
        """Return the answer, or raise ``TimeoutError``.

        The request is a task of its own: the library waits by ``asyncio.wait_for``, which in Python 3.11 swallows a
        cancellation that comes together with its result. It must not swallow that of our own task.
        """
        task = asyncio.create_task(asking, name="modbus request")
        try:
            await asyncio.wait([task], timeout=limit_s)
        finally:
            while not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=0.1)
        if task.cancelled():
            raise TimeoutError
        return task.result()

    @property
    def heard(self) -> bytes:
        """What came after the last request."""
        return self._heard

    async def _connected(self) -> AsyncModbusTcpClient:
        if self._client is not None and self._client.connected:
            return self._client
        await self.close()
        client = AsyncModbusTcpClient(
            self._host,
            port=self._port,
            framer=FramerType.SOCKET,
            # Never reached by a request: ours is shorter. It bounds the connecting.
            timeout=max(CONNECT_TIMEOUT_S, 2 * self._timeout_s),
            retries=0,
            reconnect_delay=0,
            trace_packet=self._trace,
        )
        try:
            connected = await client.connect()
        except (OSError, UnicodeError) as exc:  # a name that cannot even be asked for
            client.close()
            raise LineDown(f"{self._host}:{self._port} cannot be connected: {exc}") from exc
        if not connected:
            client.close()
            raise LineDown(f"{self._host}:{self._port} cannot be connected")
        self._client = client
        return client

    async def _keep_pace(self) -> None:
        wait_s = self._last_request_at + self._pacing_s - self._clock.monotonic()
        if wait_s > 0:
            await self._clock.sleep(wait_s)

    def _trace(self, sending: bool, data: bytes) -> bytes:
        self.taps.tell(self._asked, data, sent=sending)
        if sending:
            return data
        # The library shows all that it holds each time, not only what is new.
        self._heard = data[:MAX_KEPT_BYTES]
        return data


class TcpAsking:
    """Carries a device's requests over the line; empty ``device_id`` for units that nobody knows."""

    def __init__(self, line: ModbusTcpLine, device_id: str) -> None:
        self._line = line
        self._device_id = device_id

    async def request(self, what: str, pdu: ModbusPDU, *, timeout_s: float | None = None) -> ModbusPDU:
        """Send one request and return its answer. Raises as ``modbus.Asking``."""
        return await self._line.request(what, pdu, device=self._device_id, timeout_s=timeout_s)

    def distrust(self) -> bytes:
        """Return the bytes of the last answer, which was wrong; the next one carries a number of its own."""
        return self._line.heard
