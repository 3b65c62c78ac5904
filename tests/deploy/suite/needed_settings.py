"""What the end-to-end tests give to each process, so what a container must be given: less was never shown to work."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from libs.common.settings import WELL_KNOWN
from libs.suite.cluster import ON_ONE_MACHINE, Cluster

ROOT = Path(__file__).parents[3]
IMAGE: Mapping[str, str] = dict(
    re.findall(r"(WATTRING_\w+)=(\S+)", (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8"))
)
"""What the image says itself."""


def needed(name: str, folder: Path) -> set[str]:
    """Return the names of the settings that a process of the distributed shape does not work without."""
    cluster = Cluster(folder, "postgresql://admin@db/wattring", "kafka:9092")
    return ours(set(cluster.settings(name)) - set(ON_ONE_MACHINE))


def ours(names: Iterable[str]) -> set[str]:
    """Return the settings among variables, by our names for them."""
    found = {WELL_KNOWN.get(name, name) for name in names}
    return {name for name in found if name.startswith("WATTRING_")}
