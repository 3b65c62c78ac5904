"""Which statements are asked of one version of PostgreSQL only: a plugin for whoever adds some.

    .venv/bin/pytest -n 2 -p tests.statements -m "postgres and not e2e" tests/contract tests/deploy tests/integration

runs the tests with every statement logged by the server, and lists at the end each one that no test executes which is
marked ``sql`` and not spared, with a test that does. What is a test's own question may stay; what is the product's
wants a marked test.

    .venv/bin/pytest -n 2 -p tests.statements --spare -m "sql and not kafka" tests/contract tests/integration

writes ``tests/data/spared.txt``: the tests marked ``sql`` whose every statement others execute as well, in less time.
The older PostgreSQL is not asked them; a test that does not stand there is asked, so a new one needs nothing.
"""

import asyncio
import re
from collections.abc import Generator, Mapping, Set
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from tests.conftest import SPARED

START = r"^\S+ \S+ \S+ \[\d+\] "
LOGGED = re.compile(rf"{START}.*?LOG:  (?:execute [^:]*|statement): (.*?)(?={START}|\Z)", re.DOTALL | re.MULTILINE)
NOT_OURS = re.compile(r"(create|drop) database ")
LITERALS = re.compile(r"'[^']*'|\b\d+\b|[0-9a-f]{8,}")
NEVER_SPARED = ("tests/contract/", "tests/integration/common/", "tests/integration/suite/")
"""Their subject is how PostgreSQL behaves, not only what it understands."""
DATABASE_S = 0.1
"""What a database of its own costs a test, besides what the test takes itself; in some measurements more. [s]"""


class Statements:
    """What was executed, by marked tests and by others."""

    def __init__(self) -> None:
        self.marked: set[str] = set()
        self.others: dict[str, str] = {}
        self.by_test: dict[str, tuple[float, list[str]]] = {}
        self._took: dict[str, float] = {}
        self._log: Path | None = None
        self._read = 0

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
        found = yield
        if fixturedef.argname == "postgres_server":
            folder = Path(parse_qs(urlsplit(found).query)["host"][0]).parent
            asyncio.run(log_everything(found))
            self._log = folder / "server.log"
        return found

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None]:
        if self._log is not None:
            with self._log.open("rb") as log:
                log.seek(self._read)
                text = log.read().decode(errors="replace")
                self._read = log.tell()
            logged = {LITERALS.sub("?", " ".join(one.split())) for one in LOGGED.findall(text)}
            found = {one for one in logged if not NOT_OURS.match(one)}
            self.by_test[item.nodeid] = (self._took.pop(item.nodeid, 0.0), sorted(found))
            if item.get_closest_marker("sql") is not None and item.get_closest_marker("spared") is None:
                self.marked |= found
            else:
                self.others |= dict.fromkeys(found, item.nodeid)
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._took[report.nodeid] = self._took.get(report.nodeid, 0.0) + report.duration

    @pytest.hookimpl
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["statements"] = (sorted(self.marked), self.others, self.by_test)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        marked, others, by_test = getattr(node, "workeroutput", {}).get("statements", ((), {}, {}))
        self.marked |= set(marked)
        self.others |= others
        self.by_test |= by_test

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if terminalreporter.config.getoption("--spare"):
            took = {test: took for test, (took, _) in self.by_test.items()}
            names = spared({test: set(found) for test, (_, found) in self.by_test.items()}, took)
            SPARED.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
            terminalreporter.section(f"{len(names)} of {len(took)} tests are spared")
            return
        left = {statement: test for statement, test in self.others.items() if statement not in self.marked}
        terminalreporter.section(f"{len(left)} statements that no test marked sql executes")
        for statement, test in sorted(left.items()):
            terminalreporter.write_line(f"{statement}\n    {test}")


def spared(statements: Mapping[str, Set[str]], took: Mapping[str, float]) -> list[str]:
    """Return the tests that execute nothing which others do not, the others being few and quick.

    Args:
        statements: What each test executes, by its name.
        took: How long each took. [s]
    """
    asked = {test for test in statements if test.startswith(NEVER_SPARED)}
    left = set().union(*statements.values()) - set().union(*(statements[test] for test in asked))
    while left:
        best = max(statements, key=lambda test: (len(statements[test] & left) / (took[test] + DATABASE_S), test))
        asked.add(best)
        left -= statements[best]
    return sorted(statements.keys() - asked)


async def log_everything(url: str) -> None:
    conn = await asyncpg.connect(url, timeout=30)
    try:
        await conn.execute("alter system set log_statement = 'all'")
        await conn.execute("select pg_reload_conf()")
    finally:
        await conn.close(timeout=10)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--spare", action="store_true", help="write which tests the older PostgreSQL is not asked")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Statements(), "statements")
