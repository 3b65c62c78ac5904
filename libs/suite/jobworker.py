"""The job worker of the embedded suite: imports, reports and other long work, in a process that may be slow.

Works off the queues (``libs/common/jobs.py``) of every service that offers handlers in ``services/<name>/jobs.py``.
The supervisor gives it a low priority, so that a heavy report never delays an alarm.
"""

import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from functools import partial

from libs.common.jobs import MAX_SILENCE_S, Handler, JobWorker
from libs.common.migrations import BUS, SchemaGate
from libs.common.runtime import Check, Health, Platform, Service, Worker, run
from libs.common.settings import SERVICES, load_common
from libs.common.web import create_app


def services_with_jobs(names: Sequence[str] = SERVICES) -> list[str]:
    """Return the installed services that offer job handlers."""
    return [name for name in names if importlib.util.find_spec(f"services.{name}.jobs") is not None]


def build(platform: Platform, names: Sequence[str]) -> Service:
    """Wire a worker for the queue of each named service."""
    health = Health(platform.clock)
    service = Service(name="jobs", app=create_app("jobs", platform, health, title="Wattring jobs"), health=health)
    databases = {name: platform.database(name) for name in names}
    service.resources = (SchemaGate(platform.settings.database, BUS, *names), *databases.values())
    service.workers = [
        Worker(
            f"jobs-{name}",
            JobWorker(db=db, clock=platform.clock, handlers=_handlers(name)).run,
            max_silence_s=MAX_SILENCE_S,
        )
        for name, db in databases.items()
    ]
    service.checks = [Check(f"database-{name}", db.check) for name, db in databases.items()]
    return service


def _handlers(name: str) -> Mapping[str, Handler]:
    handlers: Mapping[str, Handler] = importlib.import_module(f"services.{name}.jobs").JOB_HANDLERS
    return handlers


def main() -> int:
    """Run as a program; arguments name services, none means all that offer jobs."""
    names = sys.argv[1:] or services_with_jobs()
    return run([partial(build, names=names)], load_common(), process="jobs")


if __name__ == "__main__":
    sys.exit(main())
