"""The table of hostile input names tests that exist."""

import ast
import re

from tests.conftest import ROOT

FOLDERS = {
    "U": "tests/unit/ingest/test_ingest_",
    "N": "tests/integration/ingest/test_ingest_",
    "C": "tests/unit/common/test_",
}
TEXT = (ROOT / "docs" / "hostile-input.md").read_text(encoding="utf-8")


def names_in(path: str) -> set[str]:
    """Return the tests of a file as pytest names them."""
    found = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        found |= {prefix + one.name for one in inner if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}
    return found


def test_every_test_that_the_table_names_exists() -> None:
    named = [
        (FOLDERS[letter] + file, name) for letter, file, name in re.findall(r"\b([UNC])`(\w+\.py)::([\w:]+)`", TEXT)
    ]
    assert len(named) > 60
    known = {path: names_in(path) for path, _ in named}
    assert [f"{path}::{name}" for path, name in named if name not in known[path]] == []


def test_every_row_of_the_table_names_a_test() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith(("| input", "|---"))]
    assert [row[:80] for row in rows if "::test_" not in row] == []
