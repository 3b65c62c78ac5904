"""``wattring signals``: what a person is told of an import, and files out."""

from pathlib import Path
from typing import Any

import pytest

from libs.suite.api import Refused
from libs.suite.importing import NotImported
from libs.suite.signals import NotExported, export_table, import_table, list_rules, list_tables, list_versions
from libs.suite.words import words_for

ENGLISH, CHINESE = words_for("en"), words_for("zh")
ANSWER: dict[str, Any] = {
    "dictionary": "province", "dry_run": True, "version": None, "rows": 3,
    "diff": {
        "added": 1, "changed": 1, "removed": 0, "unchanged": 1,
        "rows": [
            {"change": "changed", "code": "p.1", "name_zh": "电压Ua过低", "line": 2, "rules": ["own.low"],
             "fields": [{"field": "thresholds", "before": {"A": 170}, "after": {"A": 165}}]},
            {"change": "added", "code": "p.2", "name_zh": "电流Ia", "line": 4, "rules": [], "fields": []},
        ],
    },
    "notes": [{"line": 2, "field": "告警级别", "text": "level 0", "text_zh": "级别为 0"}],
}  # fmt: skip


RULE: dict[str, Any] = {
    "rule_id": "0s16002001", "name": "AC voltage too high", "name_zh": "交流电压过高告警",
    "comparison": "above", "measure": "value",
    "unit": "V", "active": True, "level": 3, "threshold": 255.0, "start_delay_s": 180.0, "end_delay_s": 20.0,
    "sources": {"level": "dictionary", "threshold": "device:m-1", "start_delay_s": "policy"},
}  # fmt: skip
ASLEEP = {**RULE, "rule_id": "own", "active": False, "level": None, "threshold": None, "sources": {}}
RULES = [RULE, {**ASLEEP, "measure": "rate"}]
VERSIONS = [
    {"version": 2, "rows": 3, "imported_by": "user:wang", "imported_at": "2026-03-02T00:00:00Z", "file_name": "t.csv",
     "reason": "调整"},
    {"version": 1, "rows": 2, "imported_by": "service:alarm", "imported_at": "2026-03-01T00:00:00Z", "file_name": "",
     "reason": None},
]  # fmt: skip


class Suite:
    """Answers as the suite would."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = ANSWER if answer is None else answer
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def get(self, path: str, **params: Any) -> Any:
        if path == "alarm-rules/effective":
            assert params == {"device": "m-1"}
            return {"rules": RULES}
        if path == "signals/tables/province/versions":
            return {"items": VERSIONS}
        latest = {"version": 2, "rows": 13, "imported_by": "user:wang", "imported_at": "2026-03-01T00:00:00Z"}
        return {"items": [{"dictionary": "province", "name": "Province", "name_zh": "某省", "latest": latest}]}

    def fetch(self, path: str, **params: Any) -> bytes:
        self.asked.append((path, params))
        return b"file"

    def upload(self, path: str, content: bytes, *, media_type: str, **params: Any) -> Any:
        self.asked.append((path, params))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_dry_run_says_row_by_row_what_would_change(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_bytes(b"x")
    suite, said, said_zh = Suite(), list[str](), list[str]()
    import_table(suite, "province", file, ENGLISH, said.append, dry_run=True, missing="keep", name=None)
    import_table(suite, "province", file, CHINESE, said_zh.append, dry_run=True, missing="keep", name=None)
    assert said == [
        "~ p.1 电压Ua过低: thresholds {'A': 170} → {'A': 165}; rules own.low",
        "+ p.2 电流Ia",
        "line 2: 告警级别: level 0",
        "1 new, 1 changed, 0 gone, 1 as they were",
        "nothing was imported",
    ]
    assert said_zh[2:] == ["第 2 行:告警级别:级别为 0", "新增 1 行,变更 1 行,删除 0 行,未变 1 行", "未导入"]
    path, params = suite.asked[0]
    assert (path, params) == (
        "signals/tables/province/imports", {"file": "table.csv", "dry_run": True, "missing": "keep"},
    )  # fmt: skip


def test_a_refusal_is_told_in_the_suites_words(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_bytes(b"x")
    with pytest.raises(NotImported, match="line 2") as caught:
        import_table(Suite(Refused("line 2", message_zh="第 2 行")), "province", file, ENGLISH, lambda _: None)
    assert caught.value.message_zh == "第 2 行"
    with pytest.raises(NotImported, match="cannot be read"):
        import_table(Suite(), "province", tmp_path / "nothing.csv", ENGLISH, lambda _: None)


def test_a_table_is_written_in_the_kind_that_the_name_says(tmp_path: Path) -> None:
    suite, said = Suite(), list[str]()
    export_table(suite, "province", tmp_path / "a.XLSX", None, ENGLISH, said.append)
    assert (tmp_path / "a.XLSX").read_bytes() == b"file"
    export_table(suite, "province", tmp_path / "a.csv", 2, ENGLISH, said.append)
    assert [params for _, params in suite.asked] == [
        {"format": "xlsx", "version": None}, {"format": "csv", "version": 2},
    ]  # fmt: skip
    with pytest.raises(NotExported, match="ends with"):
        export_table(suite, "province", tmp_path / "a.pdf", None, ENGLISH, said.append)
    with pytest.raises(NotExported, match="cannot be written"):
        export_table(suite, "province", tmp_path / "no" / "a.csv", None, ENGLISH, said.append)


def test_what_judges_a_device_is_told_with_the_override_that_says_so() -> None:
    said: list[str] = []
    list_rules(Suite(), "m-1", ENGLISH, said.append)
    list_rules(Suite(), "m-1", CHINESE, said.append)
    assert said == [
        "0s16002001: AC voltage too high, level 3, above 255 V, start 180 s, end 20 s; threshold from device:m-1",
        "own: AC voltage too high, level -, rate above -, start 180 s, end 20 s, asleep",
        "0s16002001:交流电压过高告警,3 级,above 255 V,开始延时 180 秒,结束延时 20 秒;threshold 来自 device:m-1",
        "own:交流电压过高告警,- 级,rate above -,开始延时 180 秒,结束延时 20 秒,未启用",
    ]


def test_every_version_is_told_with_who_made_it_and_why() -> None:
    said: list[str] = []
    list_versions(Suite(), "province", ENGLISH, said.append)
    assert said == [
        "version 2: 3 rows, user:wang, 2026-03-02T00:00:00Z, t.csv, 调整",
        "version 1: 2 rows, service:alarm, 2026-03-01T00:00:00Z",
    ]


def test_tables_are_listed_with_who_made_them() -> None:
    said: list[str] = []
    list_tables(Suite(), CHINESE, said.append)
    assert said == ["province:某省,第 2 版,13 行,user:wang,2026-03-01T00:00:00Z"]
