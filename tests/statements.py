"""Which statements the marker ``sql`` still leaves to one version of PostgreSQL: a plugin for whoever adds some.

    .venv/bin/pytest -n 2 -p tests.statements -m "postgres and not e2e" tests/contract tests/deploy tests/integration

runs the tests with every statement logged by the server, and lists at the end each one that no test marked ``sql``
executes, with a test that does. What is a test's own question may stay; what is the product's wants a marked test.
"""

import asyncio
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

START = r"^\S+ \S+ \S+ \[\d+\] "
LOGGED = re.compile(rf"{START}.*?LOG:  (?:execute [^:]*|statement): (.*?)(?={START}|\Z)", re.DOTALL | re.MULTILINE)
NOT_OURS = re.compile(r"(create|drop) database ")
LITERALS = re.compile(r"'[^']*'|\b\d+\b|[0-9a-f]{8,}")


class Statements:
    """What was executed, by marked tests and by others."""

    def __init__(self) -> None:
        self.marked: set[str] = set()
        self.others: dict[str, str] = {}
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
            if item.get_closest_marker("sql") is not None:
                self.marked |= found
            else:
                self.others |= dict.fromkeys(found, item.nodeid)
        return (yield)

    @pytest.hookimpl
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["statements"] = (sorted(self.marked), self.others)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        marked, others = getattr(node, "workeroutput", {}).get("statements", ((), {}))
        self.marked |= set(marked)
        self.others |= others

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        left = {statement: test for statement, test in self.others.items() if statement not in self.marked}
        terminalreporter.section(f"{len(left)} statements that no test marked sql executes")
        for statement, test in sorted(left.items()):
            terminalreporter.write_line(f"{statement}\n    {test}")


async def log_everything(url: str) -> None:
    conn = await asyncpg.connect(url, timeout=30)
    try:
        await conn.execute("alter system set log_statement = 'all'")
        await conn.execute("select pg_reload_conf()")
    finally:
        await conn.close(timeout=10)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Statements(), "statements")
