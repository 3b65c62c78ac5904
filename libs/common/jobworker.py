"""A process that works off job queues (``jobs.py``): its wiring, the same embedded and distributed.

Distributed, a service that has jobs runs one beside itself: ``python -m services.<name>.jobs`` calls ``run_worker``.
"""

from collections.abc import Mapping
from functools import partial

from libs.common.jobs import MAX_SILENCE_S, Handler, JobWorker
from libs.common.migrations import BUS, SchemaGate
from libs.common.runtime import Check, Health, Platform, Service, Worker, run
from libs.common.settings import load_common
from libs.common.web import create_app


def build_worker(handlers: Mapping[str, Mapping[str, Handler]], platform: Platform) -> Service:
    """Wire a worker for the queue of each service, given their handlers by kind of job."""
    health = Health(platform.clock)
    databases = {name: platform.database(name) for name in handlers}
    return Service(
        name="jobs",
        app=create_app("jobs", platform, health, title="Wattring jobs"),
        health=health,
        resources=(SchemaGate(platform.settings.database, BUS, *handlers), *databases.values()),
        workers=[
            Worker(
                f"jobs-{name}",
                JobWorker(db=db, clock=platform.clock, handlers=handlers[name]).run,
                max_silence_s=MAX_SILENCE_S,
            )
            for name, db in databases.items()
        ],
        checks=[Check(f"database-{name}", db.check) for name, db in databases.items()],
    )


def run_worker(handlers: Mapping[str, Mapping[str, Handler]]) -> int:
    """Run as a process of its own; return the exit code."""
    return run([partial(build_worker, handlers)], load_common, process="jobs")
