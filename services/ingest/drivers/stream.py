"""One line whose devices are asked over a stream of bytes, in frames that carry no number of their own.

Nothing in such a frame tells an answer to this question from a late answer to the last one. Therefore one exchange
is in flight at a time, and after any that failed the line is kept quiet until nothing has come for a while, and what
comes is thrown away (southbound.md 1.3 and 2.4). The protocols are sessions over this line; several can share it, as
Modbus RTU and DL/T 645 meters share an RS485 pair.
"""

import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

from libs.common.clock import Clock
from libs.common.errors import InvalidInput
from services.ingest.drivers.liveness import Liveness
from services.ingest.drivers.port import Address, Channel, DeviceSession, DeviceSilent, LineDown
from services.ingest.drivers.taps import Taps

logger = logging.getLogger(__name__)

F = TypeVar("F")
Scan = Callable[[bytes], tuple[int, F | None]]
"""Looks at all bytes that came since the request and were not consumed: how many of them are done with (garbage and
the frame), and the frame, None when more is needed. Pure; is shown the rest again together with what comes next."""

Sessions = Mapping[str, Callable[["StreamLine", Address], DeviceSession]]
"""By the protocol of a profile: how to make a session. Raises ``InvalidInput`` for an address of another form."""

MAX_HEARD_BYTES = 4096
"""Of one exchange; who sends more is not answering. [B]"""
MAX_KEPT_BYTES = 512
"""Of what came and was no answer. [B]"""
STRAY_BYTES = 3
"""So many bytes after an answer are noise of a transceiver that lets go of the pair; more are another frame."""
MAX_DRAIN = 10
"""A line that does not become quiet within this many times its longest pause is given up."""


class StreamLine:
    """One channel, one exchange in flight; to be used by whoever owns the line."""

    protocol = "stream"

    def __init__(
        self,
        channel: Channel,
        *,
        sessions: Sessions,
        clock: Clock,
        timeout_s: float = 1.0,
        pacing_s: float = 0.0,
        quiet_s: float = 0.2,
        renews: bool = True,
    ) -> None:
        """Prepare a line; the first exchange connects.

        Args:
            channel: To the devices.
            sessions: By protocol.
            clock: Ours.
            timeout_s: An answer must come within this, where the exchange does not say otherwise. [s]
            pacing_s: Silence kept between an answer and the next request. [s]
            quiet_s: After a failed exchange, silence that must pass before the next one. [s]
            renews: Whether a connection on which nobody answers any more is made anew; one that the other side made
                cannot be.
        """
        self.clock = clock
        self.timeout_s = timeout_s
        self.taps = Taps()
        self._channel = channel
        self._sessions = sessions
        self._pacing_s = pacing_s
        self._quiet_s = quiet_s
        self._renews = renews
        self._last_at = float("-inf")
        self._liveness = Liveness()
        self._doubtful = False
        self._heard = bytearray()

    def session(self, address: Address) -> DeviceSession:
        """Return a session for a device, by the protocol of its profile.

        Raises:
            InvalidInput: This line does not carry that protocol, or the address is none of it.
        """
        make = self._sessions.get(address.profile.protocol)
        if make is None:
            names = ", ".join(self._sessions)
            raise InvalidInput(
                f"device {address.device_id}: {address.profile.protocol} is not spoken on this line; expected {names}",
                message_zh=f"设备 {address.device_id}:该线路不支持 {address.profile.protocol},应为 {names}",
            )
        return make(self, address)

    async def exchange(
        self,
        request: bytes,
        scan: Scan[F],
        *,
        device: str,
        what: str,
        timeout_s: float | None = None,
        secret: bool = False,
    ) -> F:
        """Send a request and return the frame that answers it.

        Args:
            request: A whole frame.
            scan: Finds the answer; it must check everything that the answer repeats of the request.
            device: Who is asked; one that is silent does not make the line doubtful to others. Empty: nobody that
                is known to be there, whose silence says nothing of the line.
            what: What is asked for, for messages.
            timeout_s: Other than the line's.
            secret: The request holds a password, and nobody who listens in may see it.

        Raises:
            LineDown: Nothing was sent.
            DeviceSilent: It was sent and no answer came, or the connection broke; ``facts["raw"]`` has what came.
        """
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        await self._be_ready()
        await self._channel.send(request)
        self.taps.tell(device, request, sent=True, hidden=secret)
        try:
            frame = await self._answer(scan, limit_s, device, secret)
        except TimeoutError:
            if device and self._liveness.silent(device) and self._renews:
                await self.close()
            raise DeviceSilent(f"{what}: no answer within {limit_s:g} s", raw=bytes(self._heard)) from None
        except LineDown as exc:
            # Sent, and then it broke: what was asked may have been done.
            await self.close()
            raise DeviceSilent(f"{what}: {exc.message}", raw=bytes(self._heard)) from exc
        finally:
            self._last_at = self.clock.monotonic()
        if device:
            self._liveness.answered(device)
        return frame

    async def announce(self, request: bytes) -> None:
        """Send a frame that nobody answers. Raises ``LineDown``."""
        await self._be_ready()
        await self._channel.send(request)
        self.taps.tell("", request, sent=True)
        self._doubtful = False
        self._last_at = self.clock.monotonic()

    def distrust(self) -> bytes:
        """Say that the last answer was wrong, and return what came; the next exchange waits until the line is quiet."""
        self._doubtful = True
        return bytes(self._heard)

    async def close(self) -> None:
        """Close the connection; the next exchange opens it again."""
        self._liveness = Liveness()
        self._doubtful = False
        await self._channel.close()

    async def _be_ready(self) -> None:
        """Connect, be sure that nothing of before is on its way, and keep the pace.

        Raises:
            LineDown: It cannot be connected or does not fall silent.
        """
        await self._channel.open()
        if self._doubtful:
            await self._become_quiet()
        wait_s = self._last_at + self._pacing_s - self.clock.monotonic()
        if wait_s > 0:
            await self.clock.sleep(wait_s)
        try:
            self.taps.tell("", await self._channel.receive(0), sent=False)
        except TimeoutError:
            pass
        except LineDown:
            # Closed while nobody asked, as converters do with idle connections.
            await self.close()
            await self._channel.open()
        # Until the answer is here, whatever comes next is in doubt: also when this task is cancelled.
        self._doubtful = True
        self._heard.clear()

    async def _answer(self, scan: Scan[F], limit_s: float, device: str, secret: bool) -> F:
        """Return the first frame that ``scan`` finds. Raises ``TimeoutError``, ``LineDown``."""
        give_up_at = self.clock.monotonic() + limit_s
        rest = b""
        heard = 0
        while True:
            data = await self._channel.receive(give_up_at - self.clock.monotonic())
            self.taps.tell(device, data, sent=False, hidden=secret)
            self._heard += data[: MAX_KEPT_BYTES - len(self._heard)]
            heard += len(data)
            rest += data
            consumed, frame = scan(rest)
            rest = rest[consumed:]
            if frame is not None:
                self._doubtful = len(rest) > STRAY_BYTES
                return frame
            if heard > MAX_HEARD_BYTES:
                raise TimeoutError

    async def _become_quiet(self) -> None:
        """Throw away what comes until nothing has come for ``quiet_s``.

        Raises:
            LineDown: It never ends; the connection is closed.
        """
        give_up_at = self.clock.monotonic() + MAX_DRAIN * max(self._quiet_s, self.timeout_s)
        while self.clock.monotonic() < give_up_at:
            try:
                self.taps.tell("", await self._channel.receive(self._quiet_s), sent=False)
            except TimeoutError:
                self._doubtful = False
                return
            except LineDown:
                await self.close()
                await self._channel.open()
                return
        await self.close()
        raise LineDown("the line does not fall silent")
