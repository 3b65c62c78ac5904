"""Whole processes and real signals: what they say, what they answer, and with which code they go."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from libs.common.client import NO_TLS
from libs.common.clock import SystemClock
from libs.common.migrations import migrate
from libs.common.tokens import KeyRing
from libs.suite.postgres import EXPENDABLE, EmbeddedPostgres

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

PROBE = Path(__file__).with_name("runtime_probe.py")
PATIENCE_S = 60.0


class Probe:
    """A running process of ``runtime_probe.py``."""

    def __init__(self, folder: Path, *traits: str, **environ: str) -> None:
        self.log = folder / f"{'-'.join(traits) or 'plain'}-{time.monotonic_ns()}.log"
        passed = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH") if name in os.environ}
        self.environ = {**passed, "PORT": "0", "WATTRING_DATA_DIR": str(folder), "WATTRING_DRAIN_S": "2", **environ}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([sys.executable, str(PROBE), *traits], env=self.environ, stderr=log)

    def lines(self, message: str | None = None) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in found if message is None or line["message"] == message]

    def messages(self) -> list[str]:
        return [line["message"] for line in self.lines()]

    def until(self, what: str, found: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if got := found():
                return got
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log.read_text()}"
            time.sleep(0.02)
        raise AssertionError(f"no {what} within {PATIENCE_S} s:\n{self.log.read_text()}")

    def said(self, message: str) -> dict[str, Any]:
        found: dict[str, Any] = self.until(message, lambda: self.lines(message))[0]
        return found

    @property
    def url(self) -> str:
        return f"http://{self.said('listening')['address']}"

    @property
    def headers(self) -> dict[str, str]:
        """What a service of ours sends, to be told all."""
        keys = KeyRing.open(Path(self.environ["WATTRING_DATA_DIR"]) / "keys", SystemClock())
        return {"authorization": f"Bearer {keys.sign_token('cli', audience='alarm', scopes=['alarm:read'])}"}

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=self.headers, timeout=PATIENCE_S, trust_env=False)

    def ready(self) -> "Probe":
        self.until("readiness", lambda: self.get("/readyz").status_code == 200)
        return self

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> "Probe":
        self.process.send_signal(number)
        return self

    def ended(self) -> int:
        return self.process.wait(PATIENCE_S)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    KeyRing.create(tmp_path / "keys")
    return tmp_path


@pytest.fixture
def start(folder: Path, postgres_url: str) -> Iterator[Callable[..., Probe]]:
    started: list[Probe] = []

    def start_one(*traits: str, **environ: str) -> Probe:
        started.append(Probe(folder, *traits, **{"DATABASE_URL": postgres_url, **environ}))
        return started[-1]

    yield start_one
    for probe in started:
        probe.process.kill()
        probe.process.wait(PATIENCE_S)


# -- a good life ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_starts_answers_and_stops_in_order(start: Callable[..., Probe], number: signal.Signals) -> None:
    probe = start(WATTRING_ALARM__SECRET_KEY="hunter2hunter2").ready()
    assert probe.get("/livez").json() == {"status": "ok", "stuck": []}
    assert probe.get("/version").json()["service"] == "alarm"
    assert 'wattring_build_info{process="probe"' in probe.get("/metrics").text
    assert probe.terminate(number).ended() == 0
    told = ("starting", "listening", "settings in use", "lower entered", "upper entered", "service started",
            "draining", "upper left", "lower left", "stopped")  # fmt: skip
    said = [message for message in probe.messages() if message in told]
    assert said == ["starting", "settings in use", "listening", *told[3:]]


def test_the_settings_in_use_are_printed_without_secrets(start: Callable[..., Probe], postgres_url: str) -> None:
    password = postgres_url.partition("//")[2].partition(":")[2].partition("@")[0]
    assert password
    probe = start(WATTRING_ALARM__SECRET_KEY="hunter2hunter2", WATTRING_ALARM__LEVEL="3").ready()
    common, section = probe.said("starting")["settings"], probe.said("settings in use")
    assert (common["drain_s"], common["database"]["url"], common["bus"]["kind"]) == (2.0, "***", "postgres")
    assert (section["section"], section["settings"]) == ("alarm", {"secret_key": "***", "level": 3})
    probe.terminate().ended()
    text = probe.log.read_text()
    assert password not in text
    assert "hunter2" not in text


def test_while_draining_it_says_so_and_finishes_what_was_asked(start: Callable[..., Probe]) -> None:
    probe = start("tidy", WATTRING_DRAIN_S="20").ready()
    inside = httpx.Client(base_url=probe.url, headers=probe.headers, timeout=PATIENCE_S, trust_env=False)
    with inside as http, ThreadPoolExecutor() as pool:
        slow = pool.submit(probe.get, "/api/v1/slow")
        probe.said("slow began")
        probe.terminate().said("tidying")
        answer = http.get("/readyz")
        assert (answer.status_code, answer.json()["reasons"]) == (503, {"process": "draining"})
        assert answer.json()["reasons_zh"] == {"process": "正在停止"}
        assert http.get("/livez").status_code == 200
        # It asks the database at its end: the pool is still open.
        assert slow.result(PATIENCE_S).json() == {"answer": 42}
    assert probe.ended() == 0


def test_a_live_stream_does_not_hold_the_stop(start: Callable[..., Probe]) -> None:
    probe = start(WATTRING_DRAIN_S="300").ready()
    with httpx.stream("GET", f"{probe.url}/api/v1/stream", timeout=PATIENCE_S, trust_env=False) as answer:
        parts = answer.iter_bytes()
        assert next(parts) == b"data: first\n\n"
        probe.terminate()
        assert list(parts) == []  # ended as an answer ends, not cut off
    assert probe.ended() == 0  # in far less than the five minutes it would be given
    assert not [line for line in probe.lines() if line["level"] in ("ERROR", "CRITICAL")]


# -- dependencies ---------------------------------------------------------------------------------


@pytest.mark.timeout(300)  # a database is created, started twice and migrated
def test_a_database_that_is_away_is_said_waited_for_and_found(folder: Path) -> None:
    server = EmbeddedPostgres(folder / "postgres", settings=EXPENDABLE)
    server.prepare()
    url = server.url_of("postgres")
    probe = Probe(folder, DATABASE_URL=url, WATTRING_DATABASE__CONNECT_TIMEOUT_S="2")
    try:
        waiting = probe.said("waiting for a dependency")
        assert waiting["dependency"] == "bus"
        assert "No such file" in waiting["reason"]
        probe.until("a second attempt", lambda: "waiting for bus" in str(probe.get("/readyz").json()["reasons"]))
        refused = probe.get("/api/v1/slow")
        assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
        assert refused.headers["retry-after"]
        assert "waiting for bus: " in refused.json()["detail"]
        assert "等待 bus" in refused.json()["detail_zh"]
        assert probe.get("/livez").status_code == 200
        server.start()
        probe.until("the next reason", lambda: "wattring migrate" in str(probe.get("/readyz").json()["reasons"]))
        asyncio.run(migrate(url, ["bus", "alarm"], phase="post"))
        probe.ready()
        assert probe.said("a dependency is there")["dependency"] == "bus"
        reasons = [line["reason"] for line in probe.lines("waiting for a dependency")]
        assert len(reasons) == len(set(reasons))  # each once, however often it was tried
        assert probe.get("/api/v1/slow").json() == {"answer": 42}

        server.stop()
        probe.until("the loss", lambda: probe.get("/readyz").status_code == 503)
        assert {"database", "bus"} <= set(probe.get("/readyz").json()["reasons"])
        assert probe.get("/livez").status_code == 200
        server.start()
        probe.ready()
        assert probe.terminate().ended() == 0
    finally:
        probe.process.kill()
        probe.process.wait(PATIENCE_S)
        server.stop()


def test_a_broker_that_is_away_is_said_and_does_not_hold_the_stop(start: Callable[..., Probe]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = str(nobody.getsockname()[1])
        probe = start(KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{port}")
        waiting = probe.said("waiting for a dependency")
        assert waiting["dependency"] == "bus"
        assert port in waiting["reason"]
        assert "waiting for bus" in probe.get("/readyz").json()["reasons"]["process"]
        assert probe.terminate().ended() == 0
    assert len(probe.lines("waiting for a dependency")) == 1
    assert all(line["logger"].startswith("libs.") for line in probe.lines())


def test_a_full_disk_is_said_and_waited_for(start: Callable[..., Probe], folder: Path) -> None:
    probe = start("full")
    assert "disk full" in probe.said("waiting for a dependency")["reason"]
    probe.until("the reason", lambda: "disk full" in str(probe.get("/readyz").json()["reasons"]))
    (folder / "room").touch()
    probe.ready()
    assert probe.terminate().ended() == 0


# -- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("trait", "reason"), [("fails", "the state is wrong"), ("ends", "it ended by itself")])
def test_a_failed_worker_ends_the_process_with_code_1_and_its_name(
    start: Callable[..., Probe], trait: str, reason: str
) -> None:
    probe = start(trait)
    assert probe.ended() == 1
    (line,) = probe.lines("a worker failed")
    assert (line["level"], line["service"], line["worker"], line["reason"]) == ("CRITICAL", "alarm", trait, reason)
    assert "Error" in line["exc_info"] or "Conflict" in line["exc_info"]
    assert [line["message"] for line in probe.lines() if line["level"] == "CRITICAL"] == ["a worker failed"]
    assert {"upper left", "lower left"} <= set(probe.messages())


def test_a_silent_worker_makes_livez_answer_503_and_readyz_not(start: Callable[..., Probe]) -> None:
    probe = start("silent")
    probe.until("stuckness", lambda: probe.get("/livez").status_code == 503)
    assert probe.get("/livez").json() == {"status": "stuck", "stuck": ["silent"]}
    assert probe.lines("workers make no progress")[0]["workers"] == ["silent"]
    assert probe.ready().terminate().ended() == 0


def test_a_worker_that_swallows_its_cancellation_does_not_hold_the_process(start: Callable[..., Probe]) -> None:
    probe = start("swallows", WATTRING_DRAIN_S="1").ready()
    assert probe.terminate().ended() == 1
    assert probe.lines("left behind what did not stop")[0]["reason"] == "still running: alarm swallows"
    assert {"upper left", "lower left"} <= set(probe.messages())


def test_a_blocked_loop_does_not_hold_the_process(start: Callable[..., Probe]) -> None:
    probe = start("blocks", WATTRING_DRAIN_S="0.2").ready()
    assert probe.terminate().ended() == 1
    (line,) = probe.lines("stopping took too long")
    assert "time.sleep(600)" in line["main_thread"]


def test_a_thread_that_still_works_does_not_hold_the_process(start: Callable[..., Probe]) -> None:
    probe = start("thread").ready()
    assert probe.terminate().ended() == 0
    assert {"stopped", "left without waiting for a thread that still worked"} <= set(probe.messages())


# -- what waiting does not mend -------------------------------------------------------------------


def only_line(probe: Probe, *, code: int = 1) -> dict[str, Any]:
    assert probe.ended() == code
    assert "Traceback" not in probe.log.read_text()
    (line,) = probe.lines("cannot run")
    assert line["level"] == "CRITICAL"
    return line


def test_monitoring_has_a_port_of_its_own_and_sees_all_there(start: Callable[..., Probe]) -> None:
    probe = start(WATTRING_INTERNAL_PORT="0").ready()
    public, internal = (f"http://{line['address']}" for line in probe.lines("listening"))
    with httpx.Client(timeout=PATIENCE_S, trust_env=False) as stranger:
        assert stranger.get(f"{public}/readyz").json() == {"service": "alarm", "status": "ready"}
        assert stranger.get(f"{public}/livez").json() == {"status": "ok"}
        assert stranger.get(f"{public}/metrics").status_code == 401
        assert stranger.get(f"{internal}/readyz").json()["reasons"] == {}
        scraped = stranger.get(f"{internal}/metrics")
        families = {family.name for family in text_string_to_metric_families(scraped.text)}
        assert {"wattring_build_info", "wattring_http_requests"} <= families
        assert stranger.get(f"{internal}/api/v1/slow").status_code == 404
    taken = only_line(start(WATTRING_INTERNAL_PORT=internal.rpartition(":")[2]))
    assert "Choose another with WATTRING_INTERNAL_PORT=" in taken["reason"]
    assert probe.terminate().ended() == 0


def test_a_second_start_on_a_taken_port_says_which_and_goes(start: Callable[..., Probe]) -> None:
    first = start().ready()
    port = first.url.rpartition(":")[2]
    line = only_line(start(PORT=port))
    assert line["reason"] == f"cannot listen on 127.0.0.1:{port}; another program holds it. Choose another with PORT=…"
    assert "端口已被占用" in line["reason_zh"]
    assert first.get("/readyz").status_code == 200
    assert first.terminate().ended() == 0


def test_a_second_start_on_a_socket_in_use_leaves_it_to_the_first(start: Callable[..., Probe], folder: Path) -> None:
    place = folder / "alarm.sock"
    first = start(WATTRING_UDS=str(place))
    first.said("service started")
    assert "another process answers there" in only_line(start(WATTRING_UDS=str(place)))["reason"]
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(place), verify=NO_TLS), base_url="http://alarm") as http:
        assert http.get("/livez").status_code == 200
    first.process.kill()  # a killed process leaves its socket file; the next one takes its place
    first.process.wait(PATIENCE_S)
    assert place.exists()
    again = start(WATTRING_UDS=str(place))
    again.said("service started")
    assert again.terminate().ended() == 0
    assert not place.exists()


@pytest.mark.parametrize(
    ("environ", "reason", "code"),
    [
        ({"WATTRING_PROT": "1"}, "WATTRING_PROT: there is no such setting; did you mean WATTRING_PORT?", os.EX_CONFIG),
        ({"WATTRING_ALRM__LEVEL": "1"}, "WATTRING_ALRM__LEVEL: there is no such setting", os.EX_CONFIG),
        ({"WATTRING_ALARM__LEVL": "1"}, "did you mean WATTRING_ALARM__LEVEL?", os.EX_CONFIG),
        ({"WATTRING_ALARM__LEVEL": "high"}, "WATTRING_ALARM__LEVEL: expected a whole number", os.EX_CONFIG),
        ({"DATABASE_URL": "mysql://u:hunter2@db/x"}, "DATABASE_URL: expected postgresql://user:", os.EX_CONFIG),
        ({"WATTRING_KEYS_DIR": "/nowhere"}, "/nowhere: no keys; create them once with `wattring keys /nowhere`", 1),
        ({"WATTRING_HOST": "192.0.2.1"}, "cannot listen on 192.0.2.1:0: Cannot assign requested address", 1),
    ],
)
def test_what_is_wrong_with_the_settings_is_one_line(
    start: Callable[..., Probe], environ: dict[str, str], reason: str, code: int
) -> None:
    probe = start(**environ)
    assert reason in only_line(probe, code=code)["reason"]
    assert "hunter2" not in probe.log.read_text()


def test_settings_of_other_services_are_no_concern(start: Callable[..., Probe]) -> None:
    probe = start(WATTRING_EXPORT__UNIT_PORT="x", WATTRING_TEST_ANYTHING="1").ready()
    assert probe.terminate().ended() == 0
