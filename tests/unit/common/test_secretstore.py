"""Stored secrets: read strictly, refused when others could read them, never shown."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libs.common import secretstore
from libs.common.secretstore import MAX_BYTES, SETTLED_S, SecretStore, SecretUnusable


def write(folder: Path, name: str, content: str | bytes, mode: int = 0o600) -> SecretStore:
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    file.chmod(mode)
    return SecretStore(folder)


def test_values_by_name(tmp_path: Path) -> None:
    secret = write(tmp_path, "broker-1", "# of the broker\n\nuser = ingest\npassword=a=b#c\r\n").read("broker-1")
    assert (secret.require("user"), secret.require("password"), secret.get("key")) == ("ingest", "a=b#c", None)
    with pytest.raises(SecretUnusable, match="expected a line key="):
        secret.require("key")


def test_no_text_of_a_secret_shows_it(tmp_path: Path) -> None:
    secret = write(tmp_path, "ref", "password=hunter2").read("ref")
    assert "hunter2" not in f"{secret!r} {secret}"
    with pytest.raises(SecretUnusable) as failure:
        write(tmp_path, "ref", "user=x\nhunter2").read("ref")
    assert "line 2" in failure.value.message
    assert "hunter2" not in f"{failure.value.message} {failure.value.message_zh} {failure.value.facts}"


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o602, 0o601, 0o666])
def test_a_file_that_is_open_to_others_is_not_used(tmp_path: Path, mode: int) -> None:
    store = write(tmp_path, "ref", "password=x", mode)
    for read in (store.read, store.text, store.path):
        with pytest.raises(SecretUnusable, match="expected 0600") as failure:
            read("ref")
        assert failure.value.message_zh is not None


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o640])
def test_owner_and_group_may_read(tmp_path: Path, mode: int) -> None:
    assert write(tmp_path, "ref", "password=x", mode).read("ref").require("password") == "x"


def test_a_link_is_judged_by_what_it_leads_to(tmp_path: Path) -> None:
    """Kubernetes mounts each key as a link into a folder that it exchanges whole."""
    (tmp_path / "..data").mkdir()
    write(tmp_path / "..data", "ref", "password=x", 0o440)
    (tmp_path / "ref").symlink_to(tmp_path / "..data" / "ref")
    assert SecretStore(tmp_path).read("ref").require("password") == "x"
    (tmp_path / "..data" / "ref").chmod(0o644)
    with pytest.raises(SecretUnusable):
        SecretStore(tmp_path).read("ref")


def settle(file: Path) -> None:
    """Let a file be one that was written some time ago: its inode's own time cannot be set."""
    os.utime(file, (1_000_000_000, 1_000_000_000))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what was read from disk, with a clock that is well past whatever was written."""
    found: list[str] = []
    content = SecretStore._content

    def noted(store: SecretStore, ref: str) -> bytes:
        found.append(ref)
        return content(store, ref)

    monkeypatch.setattr(SecretStore, "_content", noted)
    monkeypatch.setattr(secretstore, "time", SimpleNamespace(time=lambda: 1e11))
    return found


def test_a_file_is_read_once_and_again_when_it_has_changed(tmp_path: Path, reads: list[str]) -> None:
    store = write(tmp_path, "ref", "password=a")
    for _ in range(3):
        assert store.read("ref").require("password") == "a"
    assert reads == ["ref"]
    (tmp_path / "ref").write_text("password=b")
    settle(tmp_path / "ref")
    assert [store.read("ref").require("password") for _ in range(2)] == ["b", "b"]
    assert reads == ["ref"] * 2
    new = tmp_path / "new"
    new.write_text("password=c")
    new.chmod(0o600)
    settle(new)
    new.replace(tmp_path / "ref")  # as Kubernetes and editors do; size and time are those of the one before
    assert store.read("ref").require("password") == "c"
    (tmp_path / "ref").chmod(0o604)
    with pytest.raises(SecretUnusable, match="expected 0600"):
        store.read("ref")
    (tmp_path / "ref").unlink()
    with pytest.raises(SecretUnusable, match="No such file"):
        store.read("ref")


def test_a_file_that_was_just_written_is_not_taken_for_settled(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write(tmp_path, "ref", "password=a")
    just_now = (tmp_path / "ref").stat().st_mtime + SETTLED_S
    monkeypatch.setattr(secretstore, "time", SimpleNamespace(time=lambda: just_now))
    assert store.read("ref").require("password") == "a"
    stamp = (tmp_path / "ref").stat().st_mtime_ns
    (tmp_path / "ref").write_text("password=b")
    os.utime(tmp_path / "ref", ns=(stamp, stamp))  # the same size in the same moment
    assert store.read("ref").require("password") == "b"
    assert reads == ["ref"] * 2


def test_so_many_secrets_are_kept_and_no_more(
    tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secretstore, "MAX_KNOWN", 2)
    store = SecretStore(tmp_path)
    for ref in ("a", "b", "c", "c", "b", "a"):
        write(tmp_path, ref, "x=y") if ref not in reads else None
        assert store.read(ref).require("x") == "y"
    assert reads == ["a", "b", "c", "a"]


def test_missing_and_impossible(tmp_path: Path) -> None:
    with pytest.raises(SecretUnusable, match="No such file"):
        SecretStore(tmp_path / "none").read("ref")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SecretUnusable, match="cannot be read"):
        SecretStore(tmp_path).read("folder")
    with pytest.raises(SecretUnusable, match="at most"):
        write(tmp_path, "long", "x" * (MAX_BYTES + 1)).text("long")
    with pytest.raises(SecretUnusable, match="UTF-8"):
        write(tmp_path, "binary", b"\xff\xfe").text("binary")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ref=st.one_of(st.text(), st.sampled_from(["..", ".", "../ref", "a/b", "/etc/passwd", "", "..data", "a\n", "a\0"]))
)
def test_no_name_leads_out_of_the_folder(tmp_path: Path, ref: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir(exist_ok=True)
    write(tmp_path, "ref", "password=x")
    with pytest.raises(SecretUnusable):
        SecretStore(inside).read(ref)
