"""How busy the machine is, for a centre's heartbeat: from Linux's /proc, nothing where there is none."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class HostLoad:
    """Share of processor and memory in use. [%]"""

    cpu_percent: float
    memory_percent: float


class HostMeter:
    """Measures the processor between two questions."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._last: tuple[int, int] | None = None
        self._cpu_percent = 0.0

    def read(self) -> HostLoad:
        """Return the load now; processor time since the last question."""
        return HostLoad(self._cpu(), self._memory())

    def _cpu(self) -> float:
        try:
            fields = [int(part) for part in (self._proc / "stat").read_text().split("\n", 1)[0].split()[1:9]]
        except (OSError, ValueError):
            # Elsewhere the load average is what there is.
            return min(100.0 * os.getloadavg()[0] / (os.cpu_count() or 1), 100.0)
        total, idle = sum(fields), fields[3] + fields[4]
        if self._last is not None and total > self._last[0]:
            self._cpu_percent = 100.0 * (1 - (idle - self._last[1]) / (total - self._last[0]))
        self._last = (total, idle)
        return min(max(self._cpu_percent, 0.0), 100.0)

    def _memory(self) -> float:
        try:
            lines = (self._proc / "meminfo").read_text().splitlines()
            sizes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
            return 100.0 * (1 - sizes["MemAvailable"] / sizes["MemTotal"])
        except (OSError, ValueError, KeyError, IndexError, ZeroDivisionError):
            return 0.0
