"""The bus: see ``port.py`` for what it promises and ``README.md`` for how it is kept."""

from libs.common.bus.port import Bus
from libs.common.clock import Clock
from libs.common.settings import CommonSettings


def open_bus(settings: CommonSettings, clock: Clock) -> Bus:
    """Return the bus that the settings choose, not yet started."""
    if settings.bus.effective_kind == "kafka":
        from libs.common.bus.kafka import KafkaBus

        return KafkaBus(settings.bus, clock)
    from libs.common.bus.pglog import PgLogBus

    return PgLogBus(settings.database, settings.bus, clock)
