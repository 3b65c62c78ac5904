"""The data folder is private and holds one suite; what goes wrong is said with the way out."""

import errno
import os
import socket
from pathlib import Path

import pytest

from libs.suite.folders import (
    NAME_MAX,
    SOCKET_PATH_MAX,
    DataFolder,
    FolderInUse,
    FolderUnusable,
    make_private,
    socket_folder,
    write_private,
)
from libs.suite.supervisor import PortTaken, claim_port


def test_everything_in_it_is_private(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "a" / "data")
    folder.create()
    write_private(folder.database_url, "secret")
    for path in (folder.root, folder.run, folder.logs, folder.sockets):
        assert path.stat().st_mode & 0o777 == 0o700, path
    assert folder.database_url.stat().st_mode & 0o777 == 0o600


def test_folder_that_was_open_is_closed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    DataFolder(tmp_path / "data").create()
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_second_suite_is_refused_with_the_process_of_the_first(tmp_path: Path) -> None:
    first, second = DataFolder(tmp_path / "data"), DataFolder(tmp_path / "data")
    first.create()
    assert second.holder() is None
    with first.locked():
        with (
            pytest.raises(FolderInUse, match=rf"process {os.getpid()}\).*wattring down.*WATTRING_DATA_DIR"),
            second.locked(),
        ):
            pass
        assert second.holder() == os.getpid()
    assert second.holder() is None


def test_folder_that_was_never_used_has_no_holder(tmp_path: Path) -> None:
    assert DataFolder(tmp_path / "never").holder() is None


def test_unusable_place_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        FolderUnusable, match=rf"{tmp_path}/file/data: {os.strerror(errno.ENOTDIR)}; .*WATTRING_DATA_DIR"
    ):
        DataFolder(tmp_path / "file" / "data").create()


def test_folder_on_a_read_only_disk_is_named_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.create()

    def read_only(*_: object, **__: object) -> object:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "open", read_only)
    with pytest.raises(FolderUnusable, match="Read-only file system; choose another with WATTRING_DATA_DIR") as caught:
        folder.holder()
    assert "请用 WATTRING_DATA_DIR 另选" in str(caught.value.message_zh)


def test_somebody_elses_link_is_no_private_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FolderUnusable, match="not ours alone"):
        make_private(tmp_path / "link")


@pytest.mark.parametrize("length", [5, 86, 87, 88, 200])
def test_sockets_always_have_a_path_that_the_system_takes(length: int) -> None:
    inside = Path("/" + "x" * (length - 1))
    chosen = socket_folder(inside)
    assert len(os.fsencode(chosen)) + NAME_MAX <= SOCKET_PATH_MAX
    assert (chosen == inside) == (length + NAME_MAX <= SOCKET_PATH_MAX)
    assert socket_folder(inside) == chosen


def test_private_file_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "f.new").write_text("left by a crash")
    write_private(tmp_path / "f", "one")
    write_private(tmp_path / "f", "two")
    assert (tmp_path / "f").read_text() == "two"
    assert list(tmp_path.iterdir()) == [tmp_path / "f"]


def test_taken_port_is_said_with_the_way_out_and_zero_finds_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"cannot listen on 127\.0\.0\.1:{port} .*PORT=") as caught:
            claim_port("127.0.0.1", port)
        assert "PORT=" in (caught.value.message_zh or "")
    assert claim_port("127.0.0.1", 0) > 0
