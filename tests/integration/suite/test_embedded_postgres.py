"""The embedded server: private, restartable, patient, the same for root and everybody else."""

import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from libs.suite.folders import NAME_MAX, SOCKET_PATH_MAX, FolderUnusable
from libs.suite.postgres import EXPENDABLE, EmbeddedPostgres, PostgresError

pytestmark = [pytest.mark.integration, pytest.mark.postgres]
ROOT = Path(__file__).parents[3]

Make = Callable[[Path], EmbeddedPostgres]


@pytest.fixture
def make() -> Iterator[Make]:
    """Returns clusters whose servers are stopped at the end of the test."""
    made: list[EmbeddedPostgres] = []
    binaries = os.environ.get("WATTRING_TEST_POSTGRES_BIN")

    def build(folder: Path) -> EmbeddedPostgres:
        server = EmbeddedPostgres(folder, binaries=Path(binaries) if binaries else None, settings=EXPENDABLE)
        made.append(server)
        return server

    yield build
    for server in made:
        server.stop(timeout_s=20)


async def query(server: EmbeddedPostgres, text: str) -> object:
    connection = await asyncpg.connect(server.url)
    try:
        return await connection.fetchval(text)
    finally:
        await connection.close()


async def test_cluster_in_a_closed_folder_works_and_no_permission_is_loosened(tmp_path: Path, make: Make) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = make(closed / "data" / "postgres").start()
    assert await query(server, "select 40 + 2") == 42
    assert closed.stat().st_mode & 0o777 == 0o700
    for path in (server.folder, server.cluster, server.socket_folder):
        assert path.stat().st_mode & 0o777 == 0o700, path
    assert (server.folder / "password").stat().st_mode & 0o777 == 0o600
    assert await query(server, "select count(*) from pg_hba_file_rules where auth_method <> 'scram-sha-256'") == 0
    assert await query(server, "select current_setting('listen_addresses')") == ""
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(server.url, password="guessed")


def process_status(server: EmbeddedPostgres) -> dict[str, str]:
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    return {name: value for name, _, value in (line.partition(":\t") for line in lines)}


def test_server_of_root_has_at_most_the_right_to_pass_folders(tmp_path: Path, make: Make) -> None:
    if os.geteuid() != 0:
        pytest.skip("for root only: everybody else's server runs as themselves")
    server = make(tmp_path / "pg").start()
    status = process_status(server)
    assert status["Uid"].split()[0] != "0"
    assert status["Groups"].strip() == ""
    for kind in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert int(status[kind], 16).bit_count() <= 1, kind


def test_open_folders_need_no_capability_at_all(make: Make) -> None:
    nobody = "nobody"
    if os.geteuid() != 0 or "wattring" in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip("for root on a machine without an account of ours")
    binaries = Path("/usr/lib/postgresql/15/bin")
    if not (binaries / "postgres").exists():
        pytest.skip("needs programs outside closed folders")
    folder = Path("/var/tmp") / f"wattring-test-{os.getpid()}"
    folder.mkdir(mode=0o711)
    server = EmbeddedPostgres(folder / "pg", binaries=binaries, settings=EXPENDABLE)
    try:
        server.prepare()
        server.folder.chmod(0o711)
        server.launch()
        while not server.ready():
            assert server.returncode() is None, server.last_lines()
            time.sleep(0.02)
        status = process_status(server)
        assert int(status["CapEff"], 16) == 0
        assert status["Uid"].split()[0] == str(pwd.getpwnam(nobody).pw_uid)
    finally:
        server.stop(timeout_s=20)
        subprocess.run(["rm", "-rf", folder], check=True)


UNPRIVILEGED = """
import subprocess, sys
from pathlib import Path
from libs.suite.postgres import EXPENDABLE, EmbeddedPostgres
with EmbeddedPostgres(Path(sys.argv[1]), settings=EXPENDABLE) as server:
    psql = server._binaries / "psql"
    answer = subprocess.run([psql, server.url, "-Atc", "select 40 + 2"], capture_output=True, text=True)
    print(answer.stdout.strip(), answer.stderr.strip(), Path(f"/proc/{server.pid}").stat().st_uid)
"""


def test_user_without_rights_gets_the_same(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("every other test here is that test when not run as root")
    uid = pwd.getpwnam("nobody").pw_uid
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    environment = {"PATH": os.defpath, "PYTHONPATH": f"{ROOT}:{packages}", "PYTHONDONTWRITEBYTECODE": "1"}
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        try:
            probe = subprocess.run(
                [python, "-c", "from libs.suite.postgres import bundled_binaries as b; b()"],
                user=uid, group=uid, extra_groups=[], env=environment, cwd="/", capture_output=True,
            )  # fmt: skip
        except PermissionError:
            continue
        if probe.returncode == 0:
            break
    else:
        pytest.skip("interpreter or sources lie where other accounts may not read")
    folder = Path("/var/tmp") / f"wattring-test-user-{os.getpid()}"
    folder.mkdir(mode=0o700)
    os.chown(folder, uid, uid)
    try:
        ran = subprocess.run(
            [python, "-c", UNPRIVILEGED, folder / "pg"],
            user=uid, group=uid, extra_groups=[], env=environment, cwd="/", capture_output=True, text=True, timeout=100,
        )  # fmt: skip
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)
    assert ran.stdout.split() == ["42", str(uid)], ran.stderr


async def test_killed_server_recovers_what_was_committed(tmp_path: Path, make: Make) -> None:
    server = make(tmp_path / "pg").start()
    await query(server, "create table kept (n int)")
    await query(server, "insert into kept values (7)")
    server.kill()
    assert server.returncode() == -signal.SIGKILL
    server.start()
    assert await query(server, "select n from kept") == 7


async def test_server_left_by_a_dead_owner_is_stopped_first(tmp_path: Path, make: Make) -> None:
    first = make(tmp_path / "pg").start()
    await query(first, "create table kept (n int)")
    second = make(tmp_path / "pg").start()
    assert first.returncode() == 0
    assert second.pid != first.pid
    assert await query(second, "select count(*) from kept") == 0


async def test_interrupted_first_start_leaves_nothing_half_made(tmp_path: Path, make: Make) -> None:
    folder = tmp_path / "pg"
    (folder / "cluster.new" / "base").mkdir(parents=True)
    (folder / "password").write_text("of the attempt that was cut short")
    server = make(folder)
    assert server.prepare() is True
    assert not (folder / "cluster.new").exists()
    assert server.prepare() is False
    server.start()
    assert await query(server, "select current_database()") == "wattring"


def test_folder_of_another_major_version_is_refused_with_the_way_out(tmp_path: Path, make: Make) -> None:
    server = make(tmp_path / "pg")
    server.cluster.mkdir(parents=True)
    (server.cluster / "PG_VERSION").write_text("12\n")
    with pytest.raises(PostgresError, match=r"written by PostgreSQL 12.*pg_dump"):
        server.start()


async def test_long_path_gets_its_socket_elsewhere_and_leaves_nothing_there(tmp_path: Path, make: Make) -> None:
    folder = tmp_path / ("deep-" + "x" * 60) / ("deeper-" + "y" * 60)
    server = make(folder)
    assert len(os.fsencode(server.socket_folder)) + NAME_MAX <= SOCKET_PATH_MAX
    assert folder not in server.socket_folder.parents
    server.start()
    assert await query(server, "select 1") == 1
    assert server.socket_folder.stat().st_mode & 0o777 == 0o700
    server.stop()
    assert not server.socket_folder.exists()


def test_socket_folder_that_somebody_else_made_is_refused(tmp_path: Path, make: Make) -> None:
    folder = tmp_path / ("deep-" + "x" * 60) / ("deeper-" + "y" * 60)
    server = make(folder)
    server.prepare()
    trap = tmp_path / "trap"
    trap.mkdir()
    server.socket_folder.symlink_to(trap)
    try:
        with pytest.raises(FolderUnusable, match="not ours alone"):
            server.launch()
    finally:
        server.socket_folder.unlink()


def test_failed_start_says_why(tmp_path: Path, make: Make) -> None:
    server = EmbeddedPostgres(tmp_path / "pg", settings={**EXPENDABLE, "shared_buffers": "a lot"})
    with pytest.raises(PostgresError, match=r'(?s)ended with code 1.*shared_buffers.*"a lot"'):
        server.start()


def test_full_disk_is_called_so(tmp_path: Path, make: Make) -> None:
    server = make(tmp_path / "pg")
    server.folder.mkdir()
    server.log.write_text("FATAL:  could not write lock file: No space left on device\n")
    assert str(server.failure()).startswith("disk full: ")
