"""The processor's time that processes have used, for benchmarks: the clock on the wall tells of the neighbours too."""

import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

PROC = Path("/proc")


def used_s(processes: Mapping[str, int]) -> dict[str, float]:
    """Return the processor's time of processes, of their children and of those of them that have ended. [s]

    Args:
        processes: Process by name; one that has ended counts as nothing.
    """
    parents = defaultdict(list)
    for name, pid in processes.items():
        parents[pid].append(name)
    ticks = dict.fromkeys(processes, 0)
    for stat in PROC.glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        for pid in {int(stat.parent.name), int(fields[1])}:
            for name in parents.get(pid, ()):
                ticks[name] += sum(int(each) for each in fields[11:15])
    return {name: count / os.sysconf("SC_CLK_TCK") for name, count in ticks.items()}
