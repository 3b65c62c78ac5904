"""Which tests the older PostgreSQL is not asked."""

from tests.conftest import ROOT, SPARED
from tests.statements import spared


def test_the_quick_ones_that_together_execute_everything_are_asked() -> None:
    statements = {
        "tests/integration/a.py::slow": {"select", "insert", "update"},
        "tests/integration/a.py::one": {"select", "insert"},
        "tests/integration/a.py::two": {"update"},
        "tests/integration/a.py::nothing": set[str](),
        "tests/integration/common/b.py::behaviour": {"select"},
    }
    took = dict.fromkeys(statements, 0.1) | {"tests/integration/a.py::slow": 60.0}
    assert spared(statements, took) == ["tests/integration/a.py::nothing", "tests/integration/a.py::slow"]


def test_the_list_names_files_that_there_are() -> None:
    names = SPARED.read_text(encoding="utf-8").splitlines()
    assert names == sorted(set(names))
    assert [name for name in {name.partition("::")[0] for name in names} if not (ROOT / name).exists()] == []
