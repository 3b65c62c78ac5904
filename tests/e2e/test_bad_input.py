"""Bad input and missing means as an operator meets them: what is said, with which code, and that nothing is half done.

Whole programs as a user starts them, on a real PostgreSQL, a real broker and a real small disk.
"""

import base64
import json
import os
import re
import select
import shutil
import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import pytest

from libs.common.settings import CommonSettings
from libs.common.tokens import KeyRing
from libs.suite.api import LocalApi, Refused
from libs.suite.ports import free_port
from tests.e2e.running import Running, environment, wattring

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.postgres, pytest.mark.timeout(300)]

DISK_BYTES = 260 << 20
"""Enough for a suite to start whose database is elsewhere. [B]"""

PROFILE_WITH_MISTAKES = """\
schema: device-profile/1
vendor: Maker
vendor_zh: 厂商
model: M1
category: meter_3p
protocol: modbus
transports: [tcp]
unit_id_default: 1
address_base: 0
byte_order: big
word_order: big
max_registers_per_read: 60
confidence: high
side: primary
source: [manual]
points:
  - {name: voltage_a, area: holding, addr: 0x10, type: float32, scale: 1, unit: A}
  - {name: voltage_b, area: holding, addr: 0x12, type: float31, scale: 1, unit: V}
"""
REGISTRY = """\
schema: registry/1
sites:
  - {id: site-1, code: GZ-1, name: Baiyun 3, kind: base_station}
devices:
  - {id: meter-1, name: Meter, kind: meter_3p, site: site-1}
"""
REGISTRY_WITH_MISTAKES = """\
schema: registry/1
sites:
  - {id: site-good, code: GZ-2, name: Good, kind: base_station}
  - {id: site-new, code: GZ-3, name: New, kind: castle}
devices:
  - {id: meter-new, name: New, kind: meter_3p, site: nowhere}
"""
REGISTRY_THAT_IS_NO_YAML = "schema: registry/1\nsites:\n  - {id: site-new, name: New\n"


# -- means ----------------------------------------------------------------------------------------


class Door(socketserver.ThreadingTCPServer):
    """A port at which nobody answers until it is opened; then it leads to a server."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        super().__init__(("127.0.0.1", 0), Passage, bind_and_activate=False)
        self.connect = connect
        self.server_bind()  # a port that is bound and does not listen refuses, and nobody else can have it
        self.port: int = self.server_address[1]

    def open(self) -> None:
        self.server_activate()
        threading.Thread(target=self.serve_forever, name="door", daemon=True).start()

    def server_close(self) -> None:
        if self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            self.shutdown()
        super().server_close()


class Passage(socketserver.BaseRequestHandler):
    """Passes one connection on, both ways, until either side ends it."""

    server: Door

    def handle(self) -> None:
        with self.server.connect() as peer:
            other = {self.request: peer, peer: self.request}
            try:
                while True:
                    for one in select.select(list(other), [], [])[0]:
                        if not (piece := one.recv(1 << 16)):
                            return
                        other[one].sendall(piece)
            except OSError:
                return


def door_to_database(url: str) -> tuple[Door, str]:
    """Return a closed door to a database server and the database's URL through it."""
    parts = urlsplit(url)
    folder = parse_qs(parts.query).get("host", [""])[0]

    def connect() -> socket.socket:
        if not folder:
            return socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 5432))
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(f"{folder}/.s.PGSQL.{parts.port or 5432}")
        return peer

    door = Door(connect)
    place = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{door.port}"
    return door, urlunsplit((parts.scheme, place, parts.path, "", ""))


def door_to_broker(bootstrap: str) -> Door:
    host, _, port = bootstrap.partition(",")[0].rpartition(":")
    return Door(lambda: socket.create_connection((host, int(port))))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own of ``DISK_BYTES``."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with mounted(folder, DISK_BYTES):
        yield folder


@contextmanager
def mounted(folder: Path, size: int) -> Iterator[None]:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a disk that can be filled takes the right to mount one: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


# -- what waiting does not mend -------------------------------------------------------------------


def test_wrong_profile_is_named_place_by_place_and_nothing_is_started(tmp_path: Path) -> None:
    profiles, folder = tmp_path / "profiles", tmp_path / "data"
    profiles.mkdir()
    (profiles / "mine.yaml").write_text(PROFILE_WITH_MISTAKES, encoding="utf-8")
    env = environment(folder, WATTRING_PROFILE_DIRS=json.dumps([str(profiles)]))
    done = wattring("up", env=env)
    assert done.returncode == 1
    assert f"cannot run: {profiles}/mine.yaml: 2 problem(s), nothing " in done.stdout
    assert re.search(rf"{profiles}/mine.yaml:17: points\[0\].unit: expected .*V.*, found 'A'", done.stdout), done.stdout
    assert re.search(rf"{profiles}/mine.yaml:18: points\[1\].type: expected .*float32.*, found 'float31'", done.stdout)
    assert "Traceback" not in done.stdout + done.stderr
    assert not (folder / "postgres").exists()
    chinese = wattring("up", env=env, lang="zh").stdout
    assert re.search(rf"{profiles}/mine.yaml:17:.*应为", chinese), chinese


def test_taken_port_is_a_line_and_code_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = wattring("up", env=environment(tmp_path / "data", PORT=port))
        assert done.returncode == 1
        assert f"cannot run: cannot listen on 127.0.0.1:{port} (Address already in use)" in done.stdout
        assert "choose another port with PORT=" in done.stdout
        units = wattring("up", env=environment(tmp_path / "data", WATTRING_EXPORT__UNIT_PORT=port))
        assert units.returncode == 1
        assert "choose another port with WATTRING_EXPORT__UNIT_PORT=" in units.stdout
        KeyRing.create(tmp_path / "data" / "keys")
        alone = wattring("gateway", env=environment(tmp_path / "data", PORT=port))
        assert alone.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port}; another program holds it. Choose another with PORT=" in alone.stderr
    assert not (tmp_path / "data" / "postgres").exists()


def test_disk_without_room_is_a_line_and_code_1(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    with mounted(folder, 16 << 20):
        done = wattring("up", env=environment(folder))
    assert done.returncode == 1
    assert re.search(rf"^cannot run: disk full: 1\d MB are left at {folder}, 200 MB are needed$", done.stdout, re.M)


# -- what is waited for ---------------------------------------------------------------------------


@pytest.mark.kafka
def test_broker_that_is_away_is_named_and_found(tmp_path: Path, postgres_url: str, kafka_bootstrap: str) -> None:
    KeyRing.create(tmp_path / "keys")
    with door_to_broker(kafka_bootstrap) as door:
        env = environment(
            tmp_path, DATABASE_URL=postgres_url, KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{door.port}",
            PORT=str(free_port()), WATTRING_INTERNAL_PORT=str(free_port()),
        )  # fmt: skip
        away = f"nobody at 127.0.0.1:{door.port}; check KAFKA_BOOTSTRAP_SERVERS"
        listed = wattring("topics", env=env)
        assert listed.returncode == 1
        assert away in listed.stderr
        assert "Traceback" not in listed.stderr
        with Running("alarm", env=env, output=tmp_path / "out") as service:
            why, why_zh = service.not_ready_for("waiting for bus")
            assert away in why
            assert f"127.0.0.1:{door.port} 无法连接,请检查 KAFKA_BOOTSTRAP_SERVERS" in why_zh
            assert service.get("/livez").status_code == 200
            door.open()
            assert wattring("topics", env=env).returncode == 0
            service.ready()
            waiting = [line for line in service.text.splitlines() if "waiting for a dependency" in line]
            assert sum(away in line for line in waiting) == 1, waiting


def test_story_of_a_suite_that_is_given_nothing_but_trouble(
    small_disk: Path, tmp_path: Path, empty_postgres_url: str
) -> None:
    door, url = door_to_database(empty_postgres_url)
    env = environment(
        small_disk, DATABASE_URL=url, PORT=str(free_port()), WATTRING_INGEST__ACCEPTANCE__PARK_S="1",
        WATTRING_DATABASE__CONNECT_TIMEOUT_S="2", WATTRING_INTERNAL_PORT=str(free_port()),
    )  # fmt: skip
    with door, Running("up", env=env, output=tmp_path / "up.out") as suite:
        database_is_away_and_then_there(suite, door, url)
        with LocalApi(CommonSettings(data_dir=small_disk)) as api:
            wrong_files_leave_nothing_behind(suite, api, tmp_path)
            wrong_readings_are_refused_counted_and_shown(suite, api)
            full_disk_is_said_and_passes(suite, api, small_disk)


def database_is_away_and_then_there(suite: Running, door: Door, url: str) -> None:
    place = f"127.0.0.1:{door.port}{urlsplit(url).path}"
    away = f"database {place}: Connection refused; check DATABASE_URL"
    suite.said(rf"postgres  waiting for the {re.escape(away)}$")
    why, why_zh = suite.not_ready_for("waiting for")
    assert away in why
    assert f"数据库 {place}:连接被拒绝;请检查 DATABASE_URL" in why_zh
    refused = suite.get("/api/v1/devices")
    assert (refused.status_code, refused.json()["code"]) == (503, "starting")
    assert away in refused.json()["detail"]
    migrated = wattring("migrate", env=suite.env)
    assert (migrated.returncode, migrated.stderr) == (1, f"wattring: {away}\n")
    assert re.search(rf"^BAD +database: .*{re.escape(place)}", wattring("doctor", env=suite.env).stdout, re.M)
    door.open()
    suite.said("^ready ")
    suite.ready()
    assert suite.text.count("waiting for the database") == 1
    assert "ended unexpectedly" not in suite.text
    password = urlsplit(url).password
    assert password
    assert password not in suite.text


def wrong_files_leave_nothing_behind(suite: Running, api: LocalApi, folder: Path) -> None:
    file = folder / "registry.yaml"

    def imported(text: str, lang: str = "en") -> tuple[int, list[str]]:
        file.write_text(text, encoding="utf-8")
        done = wattring("import", str(file), env=suite.env, lang=lang)
        return done.returncode, (done.stdout + done.stderr).splitlines()

    def known() -> set[str]:
        return {one["id"] for kind in ("sites", "devices") for one in api.get(kind, limit=1000)["items"]}

    code, lines = imported(REGISTRY_WITH_MISTAKES)
    assert (code, lines[0]) == (1, f"wattring: {file}: 2 problem(s), nothing was imported")
    assert re.search(rf"^  {file}:4: sites\[1\].kind: expected 'exchange', .*, found 'castle'$", lines[1])
    assert re.search(rf"^  {file}:6: devices\[0\].site: expected the id of a site .*, found 'nowhere'$", lines[2])
    code, lines = imported(REGISTRY_THAT_IS_NO_YAML, "zh")
    assert (code, lines[0]) == (1, f"wattring: {file}:共 1 处错误,未导入任何内容")
    assert lines[1].startswith(f"  {file}:4: document:应为合法的 YAML")
    with pytest.raises(Refused) as refused:
        api.upload("imports", REGISTRY_WITH_MISTAKES.encode(), media_type="application/yaml", file="web.yaml")
    assert refused.value.status == 400
    assert [(one["line"], one["field"]) for one in refused.value.facts["problems"]] == [
        (4, "sites[1].kind"), (6, "devices[0].site"),
    ]  # fmt: skip

    # A file for the job worker, whose last line alone is wrong.
    sites = "".join(f"  - {{id: site-{n}, code: GZ-{n}, name: Site, kind: base_station}}\n" for n in range(2000))
    code, lines = imported(f"schema: registry/1\nsites:\n{sites}  - {{id: last, code: GZ, name: L, kind: castle}}\n")
    assert (code, lines[0]) == (1, f"wattring: {file}: 1 problem(s), nothing was imported")
    assert lines[1].startswith(f"  {file}:2003: sites[2000].kind: expected ")
    assert {one["state"] for one in api.get("imports")["items"]} == {"failed"}
    assert known() == set()

    assert imported(REGISTRY) == (0, ["imported: 2 new, 0 changed, 0 as they were"])
    assert known() == {"site-1", "meter-1"}


def wrong_readings_are_refused_counted_and_shown(suite: Running, api: LocalApi) -> None:
    now = datetime.now(UTC)
    report = {"device_id": "meter-1", "source_time": now.isoformat(), "points": {"voltage_a": 230.5}}
    wrong = {
        "unknown_device": {**report, "device_id": "meter-nobody-knows"},
        "wrong_unit": {**report, "units": {"voltage_a": "furlong"}},
        "future_time": {**report, "source_time": (now + timedelta(days=2)).isoformat()},
        "not_a_number": {**report, "points": {"voltage_a": float("nan")}},
    }
    assert counted_rejections(suite) == {}
    answer = api.upload("readings", json.dumps([report, *wrong.values()]).encode(), media_type="application/json")
    assert [(one["index"], one["reason"]) for one in answer.pop("problems")] == [
        (2, "wrong_unit"), (3, "future_time"), (4, "not_a_number"),
    ]  # fmt: skip
    assert answer == {"accepted": 1, "late": 0, "duplicate": 0, "parked": 1, "rejected": 3}

    suite.until("all four on record", lambda: len(api.get("rejected")["items"]) == len(wrong))
    shown = {one["reason"]: one for one in api.get("rejected")["items"]}
    assert shown.keys() == wrong.keys()
    details = {reason: one["detail"] for reason, one in shown.items()}
    assert "there is no device 'meter-nobody-knows'" in details["unknown_device"]
    assert "units.voltage_a: expected V or a unit that converts to it, found 'furlong'" in details["wrong_unit"]
    assert re.search(r"lies 1728\d\d s ahead of our clock, expected at most 86400 s", details["future_time"])
    assert "NaN and Infinity are no numbers" in details["not_a_number"]
    for reason, one in shown.items():
        assert one["device_id"] == wrong[reason]["device_id"]
        assert one["site_id"] == (None if reason == "unknown_device" else "site-1")
        assert one["detail_zh"]
        assert json.loads(base64.b64decode(one["raw_base64"]))["device_id"] == one["device_id"]
    assert [one["reason"] for one in api.get("rejected", reason="wrong_unit", device="meter-1")["items"]] == [
        "wrong_unit"
    ]
    assert counted_rejections(suite) == dict.fromkeys(wrong, 1.0)
    latest: list[Any] = suite.until("the good one", lambda: api.get("readings/latest", device="meter-1")["items"])
    assert [one["points"] for one in latest] == [{"voltage_a": 230.5}]


def counted_rejections(suite: Running) -> dict[str, float]:
    page = suite.monitored("/metrics").text
    found = re.findall(r'^wattring_ingest_rejected_total\{reason="(\w+)"\} (\S+)$', page, re.M)
    return {reason: float(count) for reason, count in found}


def full_disk_is_said_and_passes(suite: Running, api: LocalApi, disk: Path) -> None:
    filler, free = disk / "filler", shutil.disk_usage(disk).free
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free)
    why, why_zh = suite.not_ready_for("disk full")
    assert f"disk full: 0 MB left at {disk}; free some space" in why
    assert f"磁盘已满:{disk} 仅剩 0 MB,请清理空间" in why_zh
    suite.said(r"not ready: ingest, .*: disk: disk full: ")
    report = {"device_id": "meter-1", "source_time": datetime.now(UTC).isoformat(), "points": {"voltage_a": 231}}
    assert api.post("readings", report)["accepted"] == 1  # the bus is elsewhere and has room
    filler.unlink()
    suite.ready()
    suite.said("ready again$")
    assert "ended unexpectedly" not in suite.text
