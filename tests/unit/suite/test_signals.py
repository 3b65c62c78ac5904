"""``wattring signals``: what a person is told of an import, and files out."""

from pathlib import Path
from typing import Any

import pytest

from libs.suite.api import Refused
from libs.suite.importing import NotImported
from libs.suite.signals import NotExported, export_table, import_table, list_tables
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


class Suite:
    """Answers as the suite would."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = ANSWER if answer is None else answer
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def get(self, path: str, **params: Any) -> Any:
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


def test_tables_are_listed_with_who_made_them() -> None:
    said: list[str] = []
    list_tables(Suite(), CHINESE, said.append)
    assert said == ["province:某省,第 2 版,13 行,user:wang,2026-03-01T00:00:00Z"]
