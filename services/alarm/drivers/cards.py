"""How a SIM card is: export asks the operator's platform, alarm asks export."""

from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter, ValidationError

from libs.common.client import ServiceClient
from services.alarm.domain.diagnosis.facts import Said
from services.alarm.drivers.answers import read_said, unreadable

_STATES: TypeAdapter[Mapping[str, str]] = TypeAdapter(Mapping[str, str])


class ExportCards:
    """The card platform by way of export."""

    def __init__(self, client: ServiceClient, *, timeout_s: float) -> None:
        """Keep the client; ``timeout_s`` bounds one question, which is several calls of the platform. [s]"""
        self._client = client
        self._timeout_s = timeout_s

    async def card(self, number: str) -> Said:
        """Return state, arrears, usage and kind of a card.

        Raises:
            NotFound: No card platform is configured.
            Unavailable: Nobody can tell.
        """
        return read_said(await self._client.get(f"/cards/v1/{number}", timeout_s=self._timeout_s))

    async def session(self, number: str) -> Said:
        """Return the network session and the directed addresses of a card. Raises as ``card``."""
        return read_said(await self._client.get(f"/cards/v1/{number}/session", timeout_s=self._timeout_s))

    async def states(self, numbers: Sequence[str]) -> Mapping[str, str]:
        """Return the states of up to 100 cards; what the platform does not name is absent. Raises as ``card``."""
        answer = await self._client.post("/cards/v1/states", {"numbers": list(numbers)}, timeout_s=self._timeout_s)
        try:
            return _STATES.validate_python(answer["states"])
        except (ValidationError, KeyError, TypeError) as exc:
            raise unreadable() from exc
