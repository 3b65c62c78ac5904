"""The job worker of the embedded suite: imports, reports and other long work, in a process that may be slow.

Works off the queues of every service that offers handlers in ``services/<name>/jobs.py``. The supervisor gives it a
low priority, so that a heavy report never delays an alarm.
"""

import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence

from libs.common.jobs import Handler
from libs.common.jobworker import run_worker
from libs.common.settings import SERVICES


def services_with_jobs(names: Sequence[str] = SERVICES) -> list[str]:
    """Return the installed services that offer job handlers."""
    return [name for name in names if importlib.util.find_spec(f"services.{name}.jobs") is not None]


def handlers_of(names: Sequence[str]) -> dict[str, Mapping[str, Handler]]:
    """Return the handlers of these services."""
    return {name: importlib.import_module(f"services.{name}.jobs").JOB_HANDLERS for name in names}


def main() -> int:
    """Run as a program; arguments name services, none means all that offer jobs."""
    return run_worker(handlers_of(sys.argv[1:] or services_with_jobs()))


if __name__ == "__main__":
    sys.exit(main())
