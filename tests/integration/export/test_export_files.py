"""The units' file server, by two clients that we did not write: Python's ftplib and curl."""

import asyncio
import ftplib
import io
import logging
import shutil
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from services.export.domain.knocking import LIMIT
from tests.integration.export.conftest import Export, Kit, ScriptedCentre, free_port
from tests.integration.export.test_export_door import findings
from tests.integration.export.test_export_polls import Poller, ids, request, result

pytestmark = [pytest.mark.integration, pytest.mark.postgres]

T = TypeVar("T")
PASSWORD = "first-of-its-kind"
ACCOUNT = f"/sc-connections/gd/units/{Kit.fsu}/file-account"


class Shop:
    """Export with a file server, one unit and its account."""

    def __init__(self, export: Export, port: int) -> None:
        self.export = export
        self.port = port
        self.poller = Poller(export.unit_port)

    async def account(self, **changes: Any) -> None:
        await self.export.api("PUT", ACCOUNT, {"username": "scftp", "password": PASSWORD, **changes})

    @property
    def home(self) -> Path:
        [home] = (self.export.settings.data_dir / "unit-files").iterdir()
        return home

    def session(self, password: str = PASSWORD) -> ftplib.FTP:
        ftp = ftplib.FTP(timeout=20)
        try:
            ftp.connect("127.0.0.1", self.port)
            ftp.login("scftp", password)
        except BaseException:
            ftp.close()
            raise
        return ftp

    async def by_hand(self, work: Callable[[ftplib.FTP], T], password: str = PASSWORD) -> T:
        """Do something in a session of its own, in a thread."""

        def run() -> T:
            with self.session(password) as ftp:
                return work(ftp)

        return await asyncio.to_thread(run)

    async def until_open(self, password: str = PASSWORD) -> None:
        async def in_() -> bool:
            try:
                await self.by_hand(lambda ftp: ftp.voidcmd("NOOP"), password)
            except (ftplib.error_perm, OSError, EOFError):
                return False
            return True

        await Kit.until(in_)


@pytest.fixture
async def shop(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, centre: ScriptedCentre
) -> AsyncIterator[Shop]:
    from libs.common.bus import topics

    port = free_port()
    monkeypatch.setenv("WATTRING_EXPORT__FILES__PORT", str(port))
    monkeypatch.setenv("WATTRING_EXPORT__FILES__MAX_UPLOAD_BYTES", "4096")
    export = Export(postgres_url, tmp_path, monkeypatch)
    await export.bus.start()
    await export.bus.ensure_topics(topics.specs(export.settings.bus))
    await export.start()
    try:
        await export.connect(centre)
        yield Shop(export, port)
    finally:
        try:
            await export.stop()
        finally:
            await export.bus.stop()


def refused(work: Callable[[], object]) -> str:
    with pytest.raises(ftplib.all_errors) as caught:
        work()
    return str(caught.value)[:3]


async def test_a_centre_fetches_files_and_can_do_nothing_else(
    shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    asked = request("GET_FTP", 1601, ids(Kit.fsu))
    assert result(await shop.poller.ask(asked))[2] == "0"
    await shop.account()
    told = await shop.poller.ask(asked)
    assert (told.findtext("Info/UserName"), told.findtext("Info/Password")) == ("scftp", PASSWORD)
    await shop.until_open()
    picture = shop.home / "PIC" / f"{Kit.fsu}_20260308_140211_01.jpg"
    picture.write_bytes(bytes(range(256)) * 40)
    (shop.home / "PIC" / "out").symlink_to(tmp_path)

    def look_round(ftp: ftplib.FTP) -> None:
        assert ftp.pwd() == "/PIC"
        taken = io.BytesIO()
        ftp.retrbinary(f"RETR {picture.name}", taken.write)
        assert taken.getvalue() == picture.read_bytes()
        ftp.cwd("../../../..")
        assert ftp.pwd() == "/"
        assert ftp.nlst() == ["PIC"]
        assert refused(lambda: ftp.cwd("PIC/out")) == "550"
        assert refused(lambda: ftp.retrbinary("RETR /PIC/out/export-secrets.key", taken.write)) == "550"
        assert refused(lambda: ftp.storbinary("STOR /firmware.bin", io.BytesIO(b"x"))) == "550"
        for command in (f"DELE /PIC/{picture.name}", "RMD /PIC", "MKD /new", f"RNFR /PIC/{picture.name}",
                        f"SITE CHMOD 777 /PIC/{picture.name}", "PORT 10,0,0,1,4,0"):  # fmt: skip
            assert refused(partial(ftp.voidcmd, command)).startswith("5"), command

    await shop.by_hand(look_round)
    with pytest.raises(ftplib.error_perm):
        await shop.by_hand(lambda ftp: ftp.pwd(), "wrong-password")
    assert picture.exists()
    curl = shutil.which("curl")
    assert curl is not None, "curl is missing; deploy/setup/backing-services installs it"
    process = await asyncio.create_subprocess_exec(
        curl, "-sS", "--max-time", "30", "--user", f"scftp:{PASSWORD}",
        f"ftp://127.0.0.1:{shop.port}//PIC/{picture.name}", stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert out == picture.read_bytes()
    # Taken away it opens nothing; and the password was neither logged nor stored in the clear.
    await shop.export.api("DELETE", ACCOUNT)
    assert result(await shop.poller.ask(asked))[2] == "0"
    assert PASSWORD not in caplog.text
    await shop.export.api("GET", ACCOUNT, status=404)


async def test_firmware_goes_into_its_folder_where_that_is_permitted(shop: Shop) -> None:
    await shop.account(uploads=True)
    await shop.until_open()

    def put(ftp: ftplib.FTP) -> None:
        ftp.storbinary("STOR /firmware.bin", io.BytesIO(b"x" * 4000))
        assert refused(lambda: ftp.storbinary("STOR /PIC/picture.jpg", io.BytesIO(b"x"))) == "550"

    def put_too_much(ftp: ftplib.FTP) -> None:
        assert refused(lambda: ftp.storbinary("STOR /large.bin", io.BytesIO(b"x" * 1_000_000)))[0] in "54["
        ftp.close()  # where the data were cut off first the answer to them is not read yet, and stands before QUIT's

    await shop.by_hand(put)
    await shop.by_hand(put_too_much)
    await Kit.until(lambda: _is(not (shop.home / "large.bin").exists()))
    assert (shop.home / "firmware.bin").read_bytes() == b"x" * 4000


async def test_the_centre_changes_the_account_only_when_it_may(shop: Shop) -> None:
    await shop.account()

    async def change(username: str, password: str) -> str | None:
        body = ids(Kit.fsu) + f"<UserName>{username}</UserName><Password>{password}</Password>"
        return result(await shop.poller.ask(request("SET_FTP", 1603, body)))[2]

    assert await change("scftp", "second-of-its-kind") == "0"
    await shop.export.api("PUT", "/sc-connections/gd/permits",
                          {"permits": {"kinds": ["file_account"]}, "source": "agreement 7"})  # fmt: skip
    assert await change("scftp", "short") == "0"
    assert await change("../etc", "second-of-its-kind") == "0"
    assert await change("scftp", "second-of-its-kind") == "1"
    await shop.until_open("second-of-its-kind")
    with pytest.raises(ftplib.error_perm):
        await shop.by_hand(lambda ftp: ftp.pwd())
    assert (await shop.export.api("GET", ACCOUNT))["changed_by"] == "sc:gd"


async def test_passwords_that_are_tried_one_after_the_other_are_told(shop: Shop) -> None:
    await shop.account()

    def guess() -> None:
        with ftplib.FTP(timeout=20) as ftp:
            ftp.connect("127.0.0.1", shop.port)
            for number in range(2):
                assert refused(partial(ftp.login, "scftp", f"guess-{number}")) == "530"

    async def told() -> bool:
        # Again as often as it takes, were the machine too slow for so many within the window.
        await asyncio.gather(*(asyncio.to_thread(guess) for _ in range(LIMIT // 2)))
        return bool(await findings(shop.export.bus))

    await Kit.until(told)
    [finding] = await findings(shop.export.bus)
    assert (finding.kind, finding.phase.value, finding.subject) == ("auth_failed", "begin", "units-door/127.0.0.1")
    assert "wrong_file_login" in finding.detail
    assert "guess" not in finding.detail


async def _is(value: bool) -> bool:
    return value
