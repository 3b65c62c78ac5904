"""``make soak``: real broker and database, devices of eight ways in, and everything going wrong.

    python -m libs.suite.soak --minutes 5 --seed 7

Ends with 0 when all that was accepted is held once, and all that was refused is on record; with 1 when not, each
discrepancy named; with 2 when it could not be run.
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from libs.common.errors import PlatformError
from libs.suite.cluster import ClusterError
from libs.suite.soak.report import show, write
from libs.suite.soak.run import Soak, SoakFailed, soak

SEEDS = 100_000


def main() -> int:
    """Run one soak; return the exit code."""
    arguments = _arguments()
    seed = random.randrange(SEEDS) if arguments.seed is None else arguments.seed  # noqa: S311 - a plan, not a secret
    mqtt = shutil.which("mosquitto") is not None or Path("/usr/sbin/mosquitto").exists()
    _say(f"seed 随机种子 {seed}; again with 重现用 --minutes {arguments.minutes:g} --seed {seed}")
    if not mqtt:
        _say("without MQTT: mosquitto is not installed 未安装 mosquitto,不含 MQTT")
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="wattring-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        outcome = asyncio.run(soak(Soak(seed, 60.0 * arguments.minutes, mqtt=mqtt), folder, _say))
    except* (PlatformError, ClusterError, SoakFailed) as exc:
        for reason in _reasons(exc):
            sys.stderr.write(f"soak: cannot go on: {reason}\n")
        sys.stderr.write(f"data and logs 数据与日志: {folder}\n")
        sys.exit(2)
    show(outcome)
    sys.stdout.write(f"{write(outcome)}\n")
    if outcome.verdict.discrepancies:
        sys.stdout.write(f"data and logs 数据与日志: {folder}\n")
        return 1
    if arguments.keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _reasons(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for one in group.exceptions:
        if isinstance(one, BaseExceptionGroup):
            yield from _reasons(one)
        else:
            yield one


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m libs.suite.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="how long things go wrong (5)")
    parser.add_argument("--seed", type=int, help="of the plan; drawn when it is not given")
    parser.add_argument("--keep", type=Path, help="an empty folder for data and logs, kept also when all is well")
    found = parser.parse_args()
    if not 0.1 <= found.minutes <= 24 * 60:
        parser.error("--minutes: expected 0.1 to 1440")
    return found


def _say(text: str) -> None:
    sys.stdout.write(f"{datetime.now(UTC):%H:%M:%S}  {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
