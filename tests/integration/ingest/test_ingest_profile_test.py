"""``wattring profile test``: a device that fits its profile, one that does not, and one that is not there."""

from pathlib import Path

import pytest

from libs.common.errors import InvalidInput
from libs.suite.profiletest import Device, try_profile
from libs.suite.words import words_for
from tests.integration.ingest.conftest import Peer
from tests.integration.ingest.test_ingest_polling import fill_dtsu666

pytestmark = pytest.mark.integration


def tried(profile: str, endpoint: str, *, kind: str = "tcp") -> tuple[bool, list[str]]:
    said: list[str] = []
    fits = try_profile(profile, Device(kind, endpoint, "1", timeout_s=0.5), (), words_for("en"), said.append)
    return fits, said


def test_every_point_of_a_device_that_fits_is_shown(peer: Peer) -> None:
    fill_dtsu666(peer)
    _, said = tried("chint_dtsu666", peer.endpoint)
    [voltage] = [line for line in said if " voltage_a " in line]
    assert voltage.split()[:1] == ["good"]
    assert voltage.split()[-1] == "V"
    assert not any(line.startswith("failed") for line in said)


def test_a_file_is_tried_and_what_does_not_answer_is_named(peer: Peer, tmp_path: Path) -> None:
    fill_dtsu666(peer)
    file = tmp_path / "own.yaml"
    file.write_text(
        """
schema: device-profile/1
vendor: Own
vendor_zh: 自有
model: M1
category: meter_3p
protocol: modbus
address_base: 0
byte_order: big
word_order: big
max_registers_per_read: 20
transports: [tcp]
confidence: low
source: [commissioning]
points:
  - {name: voltage_a, area: holding, addr: 0x2006, type: float32, scale: 0.1, unit: V}
  - {name: voltage_b, area: holding, addr: 0xFFF0, type: float32, scale: 0.1, unit: V}
"""
    )
    fits, said = tried(str(file), peer.endpoint)
    assert not fits
    assert [line.split()[0] for line in said[:-1]] == ["good", "failed"]
    assert "voltage_b" in said[1]


def test_a_device_that_is_not_there_fits_nothing(peer: Peer) -> None:
    fits, said = tried("chint_dtsu666", "127.0.0.1:1")
    assert not fits
    assert said[-1].startswith("0 of ")


def test_a_line_that_cannot_carry_the_protocol_is_refused() -> None:
    with pytest.raises(InvalidInput, match="does not carry"):
        tried("dlt645_2007_meter", "127.0.0.1:1")
