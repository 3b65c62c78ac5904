"""What a device platform (AEP) knows of a device: export asks it, alarm asks export."""

from libs.common.client import ServiceClient
from services.alarm.domain.diagnosis.facts import Said
from services.alarm.domain.diagnosis.subject import PlatformId
from services.alarm.drivers.answers import read_said


class ExportPlatforms:
    """Device platforms by way of export."""

    def __init__(self, client: ServiceClient, *, timeout_s: float) -> None:
        """Keep the client; ``timeout_s`` bounds one question, which is several calls of the platform. [s]"""
        self._client = client
        self._timeout_s = timeout_s

    async def device(self, wanted: PlatformId) -> Said:
        """Return whether the device is online there, when it last reported, and how its last command fared.

        Raises:
            NotFound: No such product is configured.
            Unavailable: Nobody can tell.
        """
        answer = await self._client.get(
            "/platforms/v1/devices", timeout_s=self._timeout_s, product=wanted.product, device=wanted.device
        )
        return read_said(answer)
