"""``wattring line …`` prints what the API answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from libs.common.settings import CommonSettings
from libs.suite import fieldwork
from libs.suite.words import Words

ENGLISH = Words(chinese=False)


class Api:
    """Answers in order, and keeps what was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Any]] = []

    def post(self, path: str, body: Any) -> Any:
        self.asked.append((path, body))
        return self.answers.pop(0)

    def lines(self, path: str, **params: Any) -> Iterator[Any]:
        self.asked.append((path, params))
        yield from self.answers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Stay open."""


@pytest.fixture
def settings(tmp_path: Path) -> CommonSettings:
    return CommonSettings(data_dir=tmp_path)


def use(monkeypatch: pytest.MonkeyPatch, *answers: Any) -> Api:
    api = Api(*answers)
    monkeypatch.setattr(fieldwork, "LocalApi", lambda settings: api)
    return api


def test_scan_goes_on_until_all_were_asked(monkeypatch: pytest.MonkeyPatch, settings: CommonSettings) -> None:
    api = use(
        monkeypatch,
        {"asked": 5, "found": [{"unit": 3, "exception": None}], "next": 6},
        {"asked": 3, "found": [{"unit": 7, "exception": 2}], "next": None},
    )
    said: list[str] = []
    fieldwork.scan(settings, "line-1", first=1, last=8, timeout_s=0.5, words=ENGLISH, say=said.append)
    assert said == ["   3", "   7  (exception 02)", "2 of 8 units answered"]
    assert [body["first"] for _, body in api.asked] == [1, 6]


def test_best_profiles_come_first(monkeypatch: pytest.MonkeyPatch, settings: CommonSettings) -> None:
    def one(profile: str, score: float) -> Any:
        points = [{"point": "voltage_a", "value": 230.12345678, "look": "fits"}]
        return {
            "profile": profile,
            "vendor": "V",
            "vendor_zh": "厂",
            "model": "M",
            "score": score,
            "point_count": 9,
            "points": points,
        }

    api = use(
        monkeypatch,
        {"proposals": [one("a", -1.0)], "next": "b"},
        {"proposals": [one("b", 0.75)], "next": None},
    )
    said: list[str] = []
    fieldwork.propose(settings, "line-1", address="7", protocol="modbus", words=ENGLISH, say=said.append)
    assert said[0] == "+0.75  b  V M"
    assert "230.123" in said[1]
    assert said[-1] == "2 profiles tried"
    assert api.asked[1][1] == {"address": "7", "protocol": "modbus", "start": "b"}


def test_places_are_shown_with_every_order(monkeypatch: pytest.MonkeyPatch, settings: CommonSettings) -> None:
    place = {"point": "voltage_a", "offset": 1, "address": 0x2007, "look": "fits"}
    use(
        monkeypatch,
        {
            "places": [
                {**place, "registers": [0x450F, 0xD000], "reason": None, "by_order": {"ABCD": 230.1, "CDAB": None}},
                {**place, "registers": None, "reason": "exception 02", "by_order": {}, "look": "unreadable"},
            ],
            "offset": 1,
        },
    )
    said: list[str] = []
    fieldwork.probe(settings, "line-1", unit=1, profile="p", points=[], timeout_s=0.5, words=ENGLISH, say=said.append)
    assert said[0].split() == ["voltage_a", "+1", "@0x2007", "450F", "D000", "ABCD", "230.1", "CDAB", "-", "fits"]
    assert "exception 02" in said[1]
    assert said[-1] == "the values look right at offset +1"


def test_frames_are_lines(monkeypatch: pytest.MonkeyPatch, settings: CommonSettings) -> None:
    frame = {"at": "2026-11-21T01:02:03.456789Z", "device": "m-7", "direction": "sent", "hex": "07 03", "bytes": 2}
    use(monkeypatch, frame, {**frame, "device": None, "direction": "received", "hex": None, "bytes": 30})
    said: list[str] = []
    fieldwork.trace(settings, "line-1", device=None, for_s=1.0, say=said.append)
    assert [line.split() for line in said] == [
        ["01:02:03.456", "->", "m-7", "07", "03"],
        ["01:02:03.456", "<-", "-", "(30", "bytes", "not", "shown)"],
    ]


def test_identity(monkeypatch: pytest.MonkeyPatch, settings: CommonSettings) -> None:
    api = use(
        monkeypatch,
        {"objects": {"vendor": "CHINT"}, "server_id_hex": "0aff"},
        {"objects": {}, "server_id_hex": None},
        {"address": "000000001234"},
    )
    said: list[str] = []
    for unit in (1, 2, None):
        fieldwork.identify(settings, "line-1", unit=unit, timeout_s=0.5, words=ENGLISH, say=said.append)
    assert said[:2] == ["vendor: CHINT", "server_id: 0aff"]
    assert "says nothing" in said[2]
    assert said[3] == "address: 000000001234"
    assert api.asked[2][1] == {"protocol": "dlt645-2007"}
