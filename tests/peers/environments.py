"""Where the peers are that ``deploy/setup/test-peers`` fetched."""

from pathlib import Path

from tests.conftest import ROOT, missing


def peer_python(name: str) -> Path:
    """Return the interpreter of a peer's own environment; without it the test is skipped, in the pipeline failed."""
    found = ROOT / ".tools" / "peers" / name / "bin" / "python"
    if not found.exists():
        missing(f"the test peer {name}; `deploy/setup/test-peers` fetches it")
    return found
