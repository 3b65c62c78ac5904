"""Where the peers are that ``deploy/setup/test-peers`` fetched."""

import os
import shutil
from pathlib import Path

from tests.conftest import ROOT, missing


def peer_python(name: str) -> Path:
    """Return the interpreter of a peer's own environment; without it the test is skipped, in the pipeline failed."""
    found = ROOT / ".tools" / "peers" / name / "bin" / "python"
    if not found.exists():
        missing(f"the test peer {name}; `deploy/setup/test-peers` fetches it")
    return found


def peer_node(name: str) -> dict[str, str]:
    """Return the environment in which ``node`` finds a peer's packages; without them the test is skipped, or failed."""
    found = ROOT / ".tools" / "peers" / name / "node_modules"
    if not found.is_dir() or shutil.which("node") is None:
        missing(f"the test peer {name}; `deploy/setup/test-peers` fetches it, and it needs Node.js")
    return {**os.environ, "NODE_PATH": str(found)}


def peer_jars(name: str) -> list[Path]:
    """Return a peer's jars; without them or without Java the test is skipped, in the pipeline failed."""
    found = sorted((ROOT / ".tools" / "peers" / name / "lib").glob("*.jar"))
    if not found or shutil.which("java") is None:
        missing(f"the test peer {name}; `deploy/setup/test-peers` fetches it, and it needs Java")
    return found
