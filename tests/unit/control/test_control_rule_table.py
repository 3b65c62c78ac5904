"""The README's table of switching rules names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def named() -> set[str]:
    text = (ROOT / "services" / "control" / "README.md").read_text(encoding="utf-8")
    table = text.split("## The switching rules and the tests that break them")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert all("test_" in row for row in rows), "a rule without a test"
    return set(re.findall(r"\b(test_\w+)", "\n".join(rows)))


def test_every_test_of_the_table_exists() -> None:
    folders = [ROOT / "tests" / kind for kind in ("unit", "integration", "e2e")]
    files = [path for folder in folders for path in folder.rglob("test_*.py")]
    known = {path.stem for path in files}
    for path in files:
        known.update(re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8")))
    names = named()
    assert len(names) > 30
    assert names - known == set()
