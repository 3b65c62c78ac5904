"""One MMS association, with time limits and our errors around hat-drivers' MMS."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from hat.drivers import mms, net

from services.ingest.drivers.iec61850.names import Variable
from services.ingest.drivers.port import DeviceRefused, DeviceSilent, LineDown

logger = logging.getLogger(__name__)
# The library tells every broken association with a traceback; here it is a line that is down.
logging.getLogger("hat.drivers.mms").setLevel(logging.CRITICAL)
for _name in ("acse", "copp", "cosp", "cotp", "tpkt"):
    logging.getLogger(f"hat.drivers.{_name}").setLevel(logging.CRITICAL)

AT_ONCE = 40
"""Variables in one read: some kilobytes of answer, below what small IEDs can send."""
OUTSTANDING = 3
"""Requests on their way; an IED is told of five at most."""

Told = Callable[[Any], Awaitable[None]]
"""Takes an information report."""


async def associate(host: str, port: int, *, within_s: float, told: Told) -> "Client":
    """Return an association.

    Args:
        host: Of the IED.
        port: Its port.
        within_s: For the whole of it. [s]
        told: Called with every information report, in order; the association waits for it.

    Raises:
        LineDown: There is none.
    """

    async def unconfirmed(_: mms.Connection, message: Any) -> None:
        await told(message)

    try:
        async with asyncio.timeout(within_s):
            connection = await mms.connect(net.TcpAddress(host, port), unconfirmed_cb=unconfirmed)
    except TimeoutError:
        raise LineDown(f"{host}:{port}: no association within {within_s:g} s") from None
    except (OSError, UnicodeError) as exc:
        raise LineDown(f"{host}:{port} cannot be connected: {exc}") from exc
    except Exception as exc:
        # The library has no error of its own for a peer that does not speak MMS, or does not want to with us.
        raise LineDown(f"{host}:{port} does not associate: {exc}") from exc
    return Client(connection, f"{host}:{port}")


class Client:
    """Requests over one association."""

    def __init__(self, connection: mms.Connection, peer: str) -> None:
        self._connection = connection
        self._peer = peer
        self._room = asyncio.Semaphore(OUTSTANDING)

    async def lost(self) -> None:
        """Return once the association has ended."""
        await self._connection.wait_closing()

    async def close(self) -> None:
        """End it."""
        await self._connection.async_close()

    async def read(self, variables: Sequence[Variable], *, within_s: float) -> list[Any]:
        """Return what variables hold, in order; None for one that the IED does not have or does not show.

        Raises:
            LineDown, DeviceSilent: Nothing was read.
        """
        found: list[Any] = []
        for batch in _batches(variables):
            request = mms.ReadRequest([variable.specification for variable in batch])
            answer = await self._ask(request, f"read of {len(batch)} variables", within_s)
            if not isinstance(answer, mms.ReadResponse) or len(answer.results) != len(batch):
                raise DeviceSilent(f"{self._peer}: no answer to a read of {len(batch)} variables: {answer}")
            found += [None if isinstance(result, mms.DataAccessError) else result for result in answer.results]
        return found

    async def write(self, variable: Variable, data: Any, *, within_s: float) -> None:
        """Write one variable.

        Raises:
            LineDown: Nothing was sent.
            DeviceSilent: It was sent, and no answer came.
            DeviceRefused: The IED does not take it.
        """
        request = mms.WriteRequest([variable.specification], [data])
        answer = await self._ask(request, f"write of {variable.item}", within_s)
        results = list(answer.results) if isinstance(answer, mms.WriteResponse) else [answer]
        if results != [None]:
            raise DeviceRefused(f"{variable.item}: {_words(results[0])}")

    async def type_of(self, variable: Variable, *, within_s: float) -> Any:
        """Return the description of a variable's type. Raises as ``write``."""
        name = mms.DomainSpecificObjectName(variable.domain, variable.item)
        answer = await self._ask(mms.GetVariableAccessAttributesRequest(name), f"type of {variable.item}", within_s)
        if not isinstance(answer, mms.GetVariableAccessAttributesResponse):
            raise DeviceRefused(f"{variable.item}: {_words(answer)}")
        return answer.type_description

    async def members_of(self, data_set: Variable, *, within_s: float) -> list[Variable]:
        """Return the entries of a data set. Raises as ``write``."""
        name = mms.DomainSpecificObjectName(data_set.domain, data_set.item)
        request = mms.GetNamedVariableListAttributesRequest(name)
        answer = await self._ask(request, f"data set {data_set.item}", within_s)
        if not isinstance(answer, mms.GetNamedVariableListAttributesResponse):
            raise DeviceRefused(f"data set {data_set.item}: {_words(answer)}")
        names = [getattr(entry, "name", None) for entry in answer.specification]
        members = [
            Variable(name.domain_id, name.item_id) for name in names if isinstance(name, mms.DomainSpecificObjectName)
        ]
        if len(members) != len(names):
            raise DeviceRefused(f"data set {data_set.item}: an entry is no variable of a logical device")
        return members

    async def _ask(self, request: Any, what: str, within_s: float) -> Any:
        if not self._connection.is_open:
            raise LineDown(f"{self._peer}: the association has ended")
        try:
            async with asyncio.timeout(within_s), self._room:
                return await self._connection.send_confirmed(request)
        except TimeoutError:
            raise DeviceSilent(f"{self._peer}: no answer to {what} within {within_s:g} s") from None
        except ConnectionError:
            raise DeviceSilent(f"{self._peer}: the association was lost before the answer to {what}") from None


def _batches(variables: Sequence[Variable]) -> list[Sequence[Variable]]:
    return [variables[at : at + AT_ONCE] for at in range(0, len(variables), AT_ONCE)]


def _words(error: Any) -> str:
    name = getattr(error, "name", None)
    return str(name).lower().replace("_", " ") if name else str(error)
