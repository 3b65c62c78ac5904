"""The six services in one process, as ``wattring up`` runs them.

Each is wired exactly as it is alone; only the place it listens at differs (``service_urls``). Until the schemas are
up to date and the topics exist every service answers 503 with that reason.
"""

import importlib
import sys
from collections.abc import Sequence
from functools import partial

from libs.common.bus import topics
from libs.common.migrations import BUS, SchemaGate
from libs.common.runtime import Builder, Platform, Service, run
from libs.common.settings import SERVICES, load_common


def builders(names: Sequence[str] = SERVICES) -> list[Builder]:
    """Return the builders of services, each behind a gate that waits for the topics."""
    return [partial(_gated, name) for name in names]


def _gated(name: str, platform: Platform) -> Service:
    service: Service = importlib.import_module(f"services.{name}.main").build(platform)
    gates = (SchemaGate(platform.settings.database, BUS), TopicsGate(platform))
    service.resources = (*gates, *service.resources)
    return service


class TopicsGate:
    """Entered once all topics exist; creates what is missing. Distributed, ``libs.common.prepare`` does."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    async def __aenter__(self) -> None:
        """Create missing topics.

        Raises:
            BusUnavailable: The bus does not answer.
        """
        await self._platform.bus.ensure_topics(topics.specs(self._platform.settings.bus))

    async def __aexit__(self, *exc: object) -> None:
        """Hold nothing."""


def main() -> int:
    """Run as a program; return the exit code."""
    for name in SERVICES:  # before the loop starts: importing takes longer than the database's start beside us
        importlib.import_module(f"services.{name}.main")
    return run(builders(), load_common, process="suite")


if __name__ == "__main__":
    sys.exit(main())
