"""``make chaos``: nights of real processes in which everything is killed.

    python -m libs.suite.chaos --runs 20 --minutes 1 --seed 7

Ends with 0 when after every night each unit that can be reached is on and proven, and each other one has called
somebody; with 1 when not, each fault named; with 2 when it could not be run.
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from libs.common.errors import PlatformError
from libs.suite.chaos.night import House, NightFailed, Outcome, live_through
from libs.suite.cluster import ClusterError

SEEDS = 100_000
FAULTS_SHOWN = 20


def main() -> int:
    """Run the nights; return the exit code."""
    arguments = _arguments()
    first = random.randrange(SEEDS) if arguments.seed is None else arguments.seed  # noqa: S311 - a plan, not a secret
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="wattring-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        outcomes = asyncio.run(_nights(folder, arguments.units, 60 * arguments.minutes, first, arguments.runs))
    except (PlatformError, ClusterError, NightFailed) as exc:
        sys.stderr.write(f"chaos: cannot run: {exc}\n")
        return 2
    finally:
        if arguments.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    bad = [one for one in outcomes if one.faults]
    say(f"{len(outcomes)} nights, {len(bad)} with faults 共 {len(outcomes)} 夜,其中 {len(bad)} 夜有差错")
    return 1 if bad else 0


async def _nights(folder: Path, units: int, window_s: float, first: int, runs: int) -> Sequence[Outcome]:
    outcomes = []
    for seed in range(first, first + runs):
        say(f"seed 随机种子 {seed}: {units} units, a window of {window_s:.0f} s")
        place = folder / str(seed)
        place.mkdir()
        async with House(place, units, say) as house:
            outcome = await live_through(house, seed, window_s, say)
        outcomes.append(outcome)
        say(
            f"{outcome.went_off} of {outcome.units} units were off, {outcome.kills} kills; all well"
            f" {outcome.settled_s:.0f} s after the last, {outcome.alarmed} alarms stand"
            if not outcome.faults
            else f"{len(outcome.faults)} FAULTS 差错: {'; '.join(outcome.faults[:FAULTS_SHOWN])}"
        )
    return outcomes


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m libs.suite.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="nights, one after the other (20)")
    parser.add_argument("--minutes", type=float, default=1.0, help="length of a window (1)")
    parser.add_argument("--units", type=int, default=1000, help="radio units (1000)")
    parser.add_argument("--seed", type=int, help="of the first night, the others follow; drawn when it is not given")
    parser.add_argument("--keep", type=Path, help="an empty folder for data and logs, which are kept there")
    found = parser.parse_args()
    if not 0.1 <= found.minutes <= 24 * 60:
        parser.error("--minutes: expected 0.1 to 1440")
    if not 1 <= found.runs <= 1000 or not 10 <= found.units <= 10_000:
        parser.error("--runs: expected 1 to 1000; --units: expected 10 to 10000")
    return found


def say(text: str) -> None:
    """Tell whoever looks on."""
    sys.stdout.write(f"{datetime.now(UTC):%H:%M:%S}  {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
