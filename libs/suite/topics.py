"""``wattring topics``: create what is missing on the bus, and list what there is."""

import asyncio

from libs.common.bus import open_bus
from libs.common.bus.topics import specs
from libs.common.clock import SystemClock
from libs.common.errors import PlatformError
from libs.common.settings import CommonSettings

TIMEOUT_S = 60.0


async def create_and_list(settings: CommonSettings) -> list[str]:
    """Return a line per topic: name, partitions on the bus, how long messages stay.

    Raises:
        PlatformError: The bus cannot be reached.
    """
    bus = open_bus(settings, SystemClock())
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await bus.start()
            wanted = specs(settings.bus)
            await bus.ensure_topics(wanted)
            lines = []
            for spec in wanted:
                kept = "compacted" if spec.compacted else f"{(spec.retention_s or 0) / 3600:.0f} h"
                lines.append(f"{spec.name:<40} {await bus.partitions(spec.name):>4}  {kept}")
            return lines
    except TimeoutError:
        raise PlatformError(f"the bus did not answer within {TIMEOUT_S:.0f} s", message_zh="消息总线没有应答") from None
    finally:
        async with asyncio.timeout(TIMEOUT_S):
            await bus.stop()
