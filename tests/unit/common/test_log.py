"""Log lines: JSON that any program can read, with context and trace, and without secrets."""

import asyncio
import json
import logging
import math
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.log import JsonLines, TextLines, current_context, log_context
from libs.common.tracing import current_trace_id, span

JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ3YW5nIn0.c2lnbmF0dXJl"


class Lines(logging.Handler):
    """Keeps formatted lines."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    found = logging.getLogger("tests.log")
    before = (found.level, found.propagate)
    found.setLevel(logging.DEBUG)
    found.propagate = False
    yield found
    found.handlers.clear()
    found.level, found.propagate = before


@pytest.fixture
def lines(logger: logging.Logger) -> list[str]:
    handler = Lines(JsonLines("suite"))
    logger.addHandler(handler)
    return handler.lines


@pytest.fixture
def text(logger: logging.Logger) -> list[str]:
    handler = Lines(TextLines("suite"))
    logger.addHandler(handler)
    return handler.lines


def only(lines: list[str]) -> dict[str, Any]:
    (line,) = lines
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_line_says_when_in_utc_who_where_and_what(logger: logging.Logger, lines: list[str]) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    logger.info("report accepted", extra={"device_id": "d-1", "points": 12})
    line = only(lines)
    assert list(line) == ["time", "level", "logger", "process", "message", "device_id", "points"]
    assert line["time"].endswith("Z")
    assert before <= datetime.fromisoformat(line["time"])
    assert [line[name] for name in list(line)[1:]] == ["INFO", "tests.log", "suite", "report accepted", "d-1", 12]


def test_the_context_is_in_every_line_within_the_block(logger: logging.Logger, lines: list[str]) -> None:
    with log_context(request_id="r-1", site_id="s-1"), log_context(site_id="s-2"):
        assert current_context() == {"request_id": "r-1", "site_id": "s-2"}
        logger.info("inside")
        logger.info("nearest wins", extra={"site_id": "s-3"})
    logger.info("outside")
    inside, nearest, outside = (json.loads(line) for line in lines)
    assert (inside["request_id"], inside["site_id"]) == ("r-1", "s-2")
    assert nearest["site_id"] == "s-3"
    assert "site_id" not in outside
    assert current_context() == {}


async def test_tasks_do_not_mix_their_contexts(logger: logging.Logger, lines: list[str]) -> None:
    async def work(name: str) -> None:
        with log_context(worker=name):
            await asyncio.sleep(0)
            logger.info("worked", extra={"of": name})

    await asyncio.gather(work("a"), work("b"))
    assert all(json.loads(line)["worker"] == json.loads(line)["of"] for line in lines)


def test_the_context_cannot_overwrite_what_a_line_is(logger: logging.Logger, lines: list[str]) -> None:
    with log_context(message="forged", level="DEBUG", time="never", process="other"):
        logger.warning("true")
    line = only(lines)
    assert (line["message"], line["level"], line["process"]) == ("true", "WARNING", "suite")
    assert line["time"] != "never"


def test_the_trace_id_is_there_within_a_span(logger: logging.Logger, lines: list[str]) -> None:
    with span("work"):
        logger.info("inside")
        trace_id = current_trace_id()
    logger.info("outside")
    assert json.loads(lines[0])["trace_id"] == trace_id
    assert "trace_id" not in json.loads(lines[1])


def test_a_traceback_is_one_field(logger: logging.Logger, lines: list[str]) -> None:
    try:
        raise ValueError("postgresql://u:hunter2@db/name")
    except ValueError:
        logger.exception("failed")
    line = only(lines)
    assert line["exc_info"].startswith("Traceback")
    assert line["exc_info"].endswith("ValueError: postgresql://u:***@db/name")


@pytest.mark.parametrize(
    ("message", "extra"),
    [
        ("cannot reach postgresql://wattring:hunter2@db/x", {}),
        ("answered", {"headers": {"authorization": "Bearer hunter2hunter2"}}),
        ("answered", {"headers": [(b"authorization", b"Bearer hunter2")]}),
        ("answered", {"password": "hunter2"}),
        ("answered", {"reason": ValueError("token=hunter2")}),
        ("environment", {"environ": {"DATABASE_URL": "postgresql://u:hunter2@db/x", "PGPASSWORD": "hunter2"}}),
        ("got Authorization: Basic hunter2", {}),
        ("LOGIN <PaSCword>hunter2</PaSCword>", {}),
    ],
)
def test_a_secret_is_hidden_wherever_it_comes(
    logger: logging.Logger, lines: list[str], text: list[str], message: str, extra: dict[str, object]
) -> None:
    logger.error(message, extra=extra)
    assert "hunter2" not in lines[0]
    assert "hunter2" not in text[0]
    assert "***" in lines[0] or "bytes>" in lines[0]


def test_a_token_in_the_context_is_hidden(logger: logging.Logger, lines: list[str]) -> None:
    with log_context(who=JWT):
        logger.info("asked")
    assert only(lines)["who"] == "***"


def test_a_library_whose_arguments_do_not_fit_still_gets_its_line() -> None:
    record = logging.makeLogRecord({"msg": "%d of %d", "args": ("one", "two")})
    assert json.loads(JsonLines("suite").format(record))["message"] == "%d of %d ('one', 'two')"


@given(
    st.dictionaries(
        st.text(min_size=1).filter(lambda name: name not in vars(logging.makeLogRecord({})) and name != "message"),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.sets(st.integers()),
            max_leaves=10,
        ),
        max_size=5,
    ),
    st.text(),
)
def test_any_facts_and_any_message_make_one_line_of_json(facts: dict[str, object], message: str) -> None:
    for formatter in (JsonLines("suite"), TextLines("suite")):
        record = logging.getLogger("x").makeRecord("x", logging.INFO, "f", 1, message, (), None, extra=facts)
        line = formatter.format(record)
        assert "\n" not in line
        if isinstance(formatter, JsonLines):
            assert isinstance(json.loads(line), dict)
        else:
            assert len(line.splitlines()) == 1


def test_what_json_cannot_carry_becomes_text(logger: logging.Logger, lines: list[str]) -> None:
    logger.info("odd", extra={"a": math.nan, "b": 2**80, "c": "caf\udce9", "d": {1}, "e": object})
    line = only(lines)
    assert (line["a"], line["b"], line["c"], line["d"]) == ("nan", str(2**80), "caf?", [1])


def test_a_text_line_is_for_people_and_cannot_be_imitated(logger: logging.Logger, text: list[str]) -> None:
    logger.warning("signed in", extra={"user": "wang\n2026-01-01T00:00:00.000Z INFO suite x: forged\x1b[2J", "n": 3})
    (line,) = text
    assert "WARNING suite tests.log: signed in  user=wang\\n2026" in line
    assert line.endswith("\\x1b[2J n=3")
    assert "\n" not in line


# -- a whole process: what reaches stderr ---------------------------------------------------------

PROGRAM = """
import logging, warnings
from libs.common.log import setup_logging
from libs.common.settings import load_common
setup_logging(load_common({ENVIRON}), "probe")
logging.getLogger("uvicorn.error").info("started server process")
logging.getLogger("uvicorn.error").error("exception in an application")
logging.getLogger("uvicorn.access").info("GET /secret?token=1")
logging.getLogger("httpx").info("HTTP Request: GET http://u:hunter2@host")
logging.getLogger("aiokafka.client").error("no broker")
logging.getLogger("libs.common.x").debug("not shown")
logging.getLogger("libs.common.x").info("shown")
warnings.warn("something is odd")
"""


def run(environ: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", PROGRAM.replace("{ENVIRON}", environ)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_everything_on_stderr_is_json_and_libraries_are_kept_quiet() -> None:
    lines = [json.loads(line) for line in run("{}")]
    assert [line["message"] for line in lines[:2]] == ["exception in an application", "shown"]
    assert [line["logger"] for line in lines] == ["uvicorn.error", "libs.common.x", "py.warnings"]
    assert all(line["process"] == "probe" for line in lines)


def test_people_get_text_and_the_level_is_obeyed() -> None:
    lines = run('{"WATTRING_LOG_FORMAT": "text", "LOG_LEVEL": "DEBUG"}')
    assert any(line.endswith("DEBUG   probe libs.common.x: not shown") for line in lines)
    assert not any("access" in line for line in lines)
