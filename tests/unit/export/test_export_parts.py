"""Credentials, the host's load, settings."""

import stat
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from libs.common.settings import InvalidSettings, load_section
from services.export.host import HostMeter
from services.export.secrets import FILE_NAME, Secrets, SecretsUnreadable
from services.export.settings import ExportSettings


def test_a_key_is_made_once_private_and_found_again(tmp_path: Path) -> None:
    sealed = Secrets.open(None, tmp_path / "keys").seal({"password": "p"})
    assert b"password" not in sealed
    path = tmp_path / "keys" / FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == [FILE_NAME]
    assert Secrets.open(None, tmp_path / "keys").unseal(sealed) == {"password": "p"}
    assert Secrets.open(None, tmp_path / "keys").unseal(None) == {}


def test_keys_can_be_rotated_and_a_foreign_one_is_said() -> None:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    sealed = Secrets(old).seal({"password": "p"})
    assert Secrets(f"{new}, {old}").unseal(sealed) == {"password": "p"}
    with pytest.raises(SecretsUnreadable, match="another key"):
        Secrets(new).unseal(sealed)
    with pytest.raises(SecretsUnreadable, match="32 bytes"):
        Secrets("short")


def test_load_is_measured_between_two_questions(tmp_path: Path) -> None:
    def write(busy: int, idle: int) -> None:
        (tmp_path / "stat").write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 1 1 1\n")

    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 590 kB\n")
    meter = HostMeter(tmp_path)
    write(100, 900)
    meter.read()
    write(150, 950)
    load = meter.read()
    assert load.cpu_percent == pytest.approx(50.0)
    assert load.memory_percent == pytest.approx(41.0)


def test_a_machine_without_proc_gives_a_bounded_answer(tmp_path: Path) -> None:
    load = HostMeter(tmp_path).read()
    assert 0 <= load.cpu_percent <= 100
    assert load.memory_percent == 0


def test_a_peer_that_is_no_network_stops_the_start() -> None:
    with pytest.raises(InvalidSettings, match="ALLOWED_PEERS"):
        load_section("export", ExportSettings, {"WATTRING_EXPORT__ALLOWED_PEERS": '["10.0.0.0/99"]'})
