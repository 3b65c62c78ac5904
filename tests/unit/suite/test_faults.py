"""``wattring fault``: what a person is told of faults, in two languages, and what is asked of the suite for it."""

from pathlib import Path
from typing import Any, Self

import pytest

from libs.common.settings import CommonSettings
from libs.suite import faultlist
from libs.suite.words import words_for

ENGLISH, CHINESE = words_for("en"), words_for("zh")
SETTINGS = CommonSettings()
FAULT: dict[str, Any] = {
    "diagnosis_id": "d-1", "device_id": "m-1", "code": "01", "name_en": "SIM suspended", "name_zh": "物联网卡可能停机",
    "advice_en": "Check the card", "advice_zh": "检查物联网卡", "began_at": "2026-03-01T04:00:00Z", "ended_at": None,
    "looked_at": "2026-03-01T04:00:00Z", "group_size": None,
    "evidence": [
        {"name": "card_state", "value": "5", "source": "card_platform", "decisive": True},
        {"name": "silent", "value": True, "source": "device.status", "decisive": False},
    ],
    "unreachable": [{"source": "session", "reason": "no answer"}],
}  # fmt: skip


class Suite:
    """Answers as the suite would; a look is done once the diagnoses were asked for a second time after it."""

    found: list[dict[str, Any]]
    asked: list[tuple[str, dict[str, Any]]]

    def __init__(self, settings: CommonSettings) -> None:
        assert settings is SETTINGS

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def get(self, path: str, **params: Any) -> Any:
        self.asked.append((path, params))
        if path == "diagnoses/codes":
            return {"items": [{"code": "55", "cause": "sim_arrears", "text_en": "Arrears", "text_zh": "欠费"}]}
        if params.get("cursor") is None and "cursor" in params:
            return {"items": self.found[:1], "next_cursor": "more"}
        return {"items": self.found, "next_cursor": None}

    def post(self, path: str, body: Any) -> Any:
        self.asked.append((path, body))
        for fault in self.found:
            fault["looked_at"] = "2026-03-01T05:00:00Z"

    def fetch(self, path: str) -> bytes:
        self.asked.append((path, {}))
        return b"workbook"


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> type[Suite]:
    monkeypatch.setattr(faultlist, "LocalApi", Suite)
    monkeypatch.setattr(faultlist, "POLL_S", 0.0)
    Suite.found, Suite.asked = [dict(FAULT)], []
    return Suite


def test_all_pages_of_open_faults_are_told(suite: type[Suite]) -> None:
    suite.found.append({**FAULT, "ended_at": "2026-03-01T05:00:00Z", "group_size": 7})
    said: list[str] = []
    assert faultlist.list_faults(SETTINGS, device=None, all_=False, words=ENGLISH, say=said.append) == 3
    assert said[:2] == ["2026-03-01T04:00:00Z  open  m-1  01 SIM suspended", "    Check the card"]
    assert said[4] == "2026-03-01T04:00:00Z  2026-03-01T05:00:00Z  m-1  01 SIM suspended (group of 7)"
    assert [params["state"] for _, params in suite.asked] == ["open", "open"]
    zh: list[str] = []
    faultlist.list_faults(SETTINGS, device="m-1", all_=True, words=CHINESE, say=zh.append)
    assert zh[:2] == ["2026-03-01T04:00:00Z  未恢复  m-1  01 物联网卡可能停机", "    检查物联网卡"]
    assert suite.asked[-1][1]["state"] is None


def test_a_look_is_ordered_and_told_with_its_evidence(suite: type[Suite]) -> None:
    said: list[str] = []
    assert faultlist.look(SETTINGS, "m-1", wait_s=30.0, words=ENGLISH, say=said.append)
    assert said[2:] == [
        "    * card_state = 5  (card_platform)",
        "      silent = True  (device.status)",
        "    ? could not tell: session: no answer",
    ]
    assert ("diagnoses", {"device_id": "m-1"}) in suite.asked


def test_a_look_that_finds_nothing_says_so(suite: type[Suite]) -> None:
    suite.found.clear()
    said: list[str] = []
    assert not faultlist.look(SETTINGS, "m-1", wait_s=0.01, words=CHINESE, say=said.append)
    assert said == ["0.01 秒内未发现故障"]


def test_codes_of_a_receiver_and_the_workbook(suite: type[Suite], tmp_path: Path) -> None:
    said: list[str] = []
    faultlist.list_codes(SETTINGS, receiver="blue-energy", words=ENGLISH, say=said.append)
    assert said == ["55  sim_arrears            Arrears"]
    assert suite.asked[-1] == ("diagnoses/codes", {"receiver": "blue-energy"})
    faultlist.save(SETTINGS, tmp_path / "faults.xlsx", words=ENGLISH, say=said.append)
    assert (tmp_path / "faults.xlsx").read_bytes() == b"workbook"
