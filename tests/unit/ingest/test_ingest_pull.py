"""Files of pulls, and what becomes of rows, without a network."""

import hashlib
import hmac
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.telemetry import RejectReason
from libs.common.errors import InvalidFile
from services.ingest.domain.pull import (
    Mark,
    MarkKind,
    PointField,
    PulledRow,
    RowMap,
    TimeField,
    ValueRows,
    WrongRow,
    at_path,
    key_of,
    larger,
    read_rows,
    without_open_end,
)
from services.ingest.domain.pull_source import PagingKind, RestSource, Signing, SqlSource, filled_json
from services.ingest.files.pull_file import load_pulls, parse_pull

REST = """\
schema: pull/1
kind: rest
every_s: 60
path: /api/list
query: {begin: "{since}", end: "{until}", page: "{page}", size: "{size}"}
items: data.list
ok: {field: code, value: 0}
paging: {kind: page, size: 100}
watermark: {field: updated, form: "%Y-%m-%d %H:%M:%S", zone: Asia/Shanghai}
device: {field: meter}
time: {field: at, form: "%Y-%m-%d %H:%M:%S", zone: Asia/Shanghai}
points:
  - {name: voltage_a, field: ua, unit: V}
  - {name: active_power_total, field: p, unit: W}
  - {name: breaker_state, field: sw, map: {"合": 1, "分": 0}}
"""
SQL = """\
schema: pull/1
kind: postgresql
every_s: 60
sql: select * from t where id > $1 order by id limit $2
watermark: {column: id, type: integer, initial: 0}
device: {field: meter}
time: {field: at, zone: Asia/Shanghai}
points: [{name: voltage_a, field: ua, unit: V}]
"""
SHANGHAI = ZoneInfo("Asia/Shanghai")
ROWS = parse_pull(REST, name="x", source="x").rows


def one(row: dict[str, Any], map_: RowMap = ROWS) -> PulledRow | WrongRow:
    (found,) = read_rows([row], map_)
    return found


class TestFiles:
    def test_an_api(self) -> None:
        found = parse_pull(REST, name="acme", source="acme.yaml")
        source = found.source
        assert isinstance(source, RestSource)
        assert (found.name, found.every_s, source.items, source.ok_value) == ("acme", 60, "data.list", "0")
        assert source.paging.kind is PagingKind.PAGE
        assert source.mark is not None
        assert source.mark.time.write(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01 08:00:00"

    def test_a_database(self) -> None:
        source = parse_pull(SQL, name="x", source="x").source
        assert isinstance(source, SqlSource)
        assert source.initial == Mark(MarkKind.INTEGER, 0)
        naive = SQL.replace("type: integer, initial: 0", "type: local_time, initial: 2026-01-01 00:00:00, overlap: 60")
        source = parse_pull(naive, name="x", source="x").source
        assert isinstance(source, SqlSource)
        assert source.initial.value == datetime(2025, 12, 31, 16, tzinfo=UTC)
        assert source.zone_naive

    @pytest.mark.parametrize(
        ("text", "field"),
        [
            (REST.replace("kind: rest", "kind: soap"), "kind"),
            (REST.replace("unit: W", "unit: A"), "points[1].unit"),
            (REST.replace("voltage_a", "volts"), "points[0].name"),
            (REST.replace("every_s: 60", "every_s: 0"), "every_s"),
            (REST.replace(", page: \"{page}\"", ""), "paging.kind"),
            (REST.replace("begin: \"{since}\", ", ""), "watermark"),
            (REST.replace("{kind: page, size: 100}", "{kind: cursor}"), "paging.kind"),
            (REST.replace("zone: Asia/Shanghai}\npoints", "zone: Asia/Nowhere}\npoints"), "time.zone"),
            (REST.replace(", zone: Asia/Shanghai}\npoints", "}\npoints"), "time"),
            (REST + "auth: {kind: hmac, text: x}\n", "auth"),
            (REST + "auth: {kind: oauth2}\n", "auth.token_url"),
            (REST + "auth: {kind: header}\n", "auth.header"),
            (REST + "mistake: 1\n", "mistake"),
            (SQL.replace("$2", "10"), "sql"),
            (SQL.replace("initial: 0", "initial: now"), "watermark.initial"),
            (SQL.replace("type: integer, initial: 0", "type: text, initial: a, overlap: 5"), "watermark.overlap"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_named(self, text: str, field: str) -> None:
        with pytest.raises(InvalidFile) as caught:
            parse_pull(text, name="x", source="x.yaml")
        assert field in [problem.field for problem in caught.value.problems]
        assert all(problem.expected_zh for problem in caught.value.problems)

    def test_what_the_documentation_shows_can_be_used(self) -> None:
        page = (Path(__file__).parents[3] / "docs" / "pull-files.md").read_text()
        found = [
            parse_pull(text, name="x", source="pull-files.md") for text in re.findall(r"```yaml\n(.*?)```", page, re.S)
        ]
        assert [type(file.source) for file in found] == [RestSource, SqlSource]

    def test_folders_are_read_and_a_later_one_wins(self, tmp_path: Path) -> None:
        for number in (1, 2):
            (tmp_path / str(number)).mkdir()
            (tmp_path / str(number) / "acme.yaml").write_text(REST.replace("every_s: 60", f"every_s: {number}"))
        found = load_pulls([tmp_path / "1", tmp_path / "2"])
        assert {name: file.every_s for name, file in found.items()} == {"acme": 2}
        with pytest.raises(InvalidFile):
            load_pulls([tmp_path / "none"])


class TestRows:
    row: ClassVar[dict[str, Any]] = {
        "meter": 4711,
        "at": "2026-06-01 08:00:00",
        "ua": "230.1",
        "p": 1500,
        "sw": "合",
        "more": [1],
    }

    def test_a_row_becomes_a_report_in_canonical_units(self) -> None:
        found = one(self.row)
        assert isinstance(found, PulledRow)
        assert found.device == "4711"
        assert found.said.source_time == datetime(2026, 6, 1, tzinfo=UTC)
        assert found.said.points == {"voltage_a": 230.1, "active_power_total": 1.5, "breaker_state": 1.0}

    def test_what_is_absent_is_absent_and_what_is_no_number_is_no_value(self) -> None:
        found = one({"meter": "a", "at": "2026-06-01 08:00:00", "ua": "--", "sw": "?"})
        assert isinstance(found, PulledRow)
        assert found.said.points == {"voltage_a": None, "breaker_state": None}

    @pytest.mark.parametrize(
        ("changed", "reason"),
        [
            ({"meter": None}, RejectReason.MISSING_FIELD),
            ({"meter": "undefined"}, RejectReason.MISSING_FIELD),
            ({"at": "1 June"}, RejectReason.UNREADABLE_TIME),
            ({"at": 1700000000}, RejectReason.UNREADABLE_TIME),
            ({"ua": None, "p": None, "sw": None}, RejectReason.UNKNOWN_POINT),
        ],
    )
    def test_what_cannot_be_read_is_refused(self, changed: dict[str, Any], reason: RejectReason) -> None:
        found = one({**self.row, **changed})
        assert isinstance(found, WrongRow)
        assert found.refused.reason is reason
        assert found.raw

    def test_the_key_is_what_a_row_says_or_what_the_file_names(self) -> None:
        same, other = {**self.row, "more": 2}, {**self.row, "ua": 231}
        assert key_of(self.row, ROWS) == key_of(same, ROWS)
        assert key_of(self.row, ROWS) != key_of(other, ROWS)
        named = RowMap(ROWS.device_field, ROWS.time, ROWS.points, key=("meter", "at"))
        assert key_of(self.row, named) == key_of(other, named)

    def test_rows_without_their_key_are_refused_each_by_itself_and_never_taken_for_one_another(self) -> None:
        named = RowMap(ROWS.device_field, ROWS.time, ROWS.points, key=("meter", "id"))
        found = one(self.row, named)
        assert isinstance(found, WrongRow)
        assert found.refused.reason is RejectReason.MISSING_FIELD
        assert key_of(self.row, named) != key_of({**self.row, "ua": 231}, named)

    def test_types_of_a_database(self) -> None:
        map_ = RowMap("m", TimeField("t", zone=SHANGHAI), (PointField("voltage_a", "u"),))
        for time in (datetime(2026, 6, 1, 8), date(2026, 6, 1), datetime(2026, 6, 1, tzinfo=UTC)):  # noqa: DTZ001
            found = one({"m": "a", "t": time, "u": Decimal("230.50")}, map_)
            assert isinstance(found, PulledRow)
            assert found.said.points == {"voltage_a": 230.5}
            wanted = datetime(2026, 5, 31, 16, tzinfo=UTC) if type(time) is date else datetime(2026, 6, 1, tzinfo=UTC)
            assert found.said.source_time == wanted

    def test_rows_of_one_value_each_become_one_report(self) -> None:
        map_ = RowMap(
            "m",
            TimeField("t", "ms"),
            (PointField("voltage_a", "Ua"), PointField("active_power_total", "P", "W")),
            values=ValueRows("code", "v"),
        )
        rows: list[dict[str, Any]] = [
            {"m": "a", "t": 1700000000000, "code": "Ua", "v": 230},
            {"m": "b", "t": 1700000000000, "code": "Ua", "v": 231},
            {"m": "a", "t": 1700000000000, "code": "P", "v": 500},
            {"m": "a", "t": 1700000000000, "code": "other", "v": 1},
            {"m": None, "t": 1700000000000, "code": "Ua", "v": 1},
        ]
        wrong, first, second = read_rows(rows, map_)
        assert isinstance(wrong, WrongRow)
        assert isinstance(first, PulledRow)
        assert isinstance(second, PulledRow)
        assert (first.device, first.said.points) == ("a", {"voltage_a": 230, "active_power_total": 0.5})
        assert (second.device, second.said.points) == ("b", {"voltage_a": 231})
        assert len({key_of(row, map_) for row in rows}) == len(rows)
        assert without_open_end([*rows[:2], {**rows[2], "t": 1700000001000}], map_) == (
            rows[:2],
            [{**rows[2], "t": 1700000001000}],
        )
        assert without_open_end(rows, ROWS) == (rows, [])

    def test_paths(self) -> None:
        data = {"a": {"b": [{"c": 1}]}, "x.y": 2}
        assert (at_path(data, "a.b.0.c"), at_path(data, "x.y"), at_path(data, "a.b.7.c")) == (1, 2, None)

    json = st.recursive(
        st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    )

    @given(st.lists(st.dictionaries(st.sampled_from(["meter", "at", "ua", "p", "sw", "v", "code"]), json), max_size=5))
    def test_any_rows_are_read_or_refused(self, rows: list[dict[str, Any]]) -> None:
        assert len(read_rows(rows, ROWS)) == len(rows)
        assert all(len(key_of(row, ROWS)) == 16 for row in rows)
        grouped = RowMap(ROWS.device_field, TimeField("at", "ms"), ROWS.points, values=ValueRows("code", "v"))
        assert all(isinstance(found, PulledRow | WrongRow) for found in read_rows(rows, grouped))


class TestMarks:
    @pytest.mark.parametrize(
        "mark",
        [Mark(MarkKind.INTEGER, 7), Mark(MarkKind.TEXT, "x"), Mark(MarkKind.TIME, datetime(2026, 1, 1, tzinfo=UTC))],
    )
    def test_what_is_kept_is_what_was_there(self, mark: Mark) -> None:
        assert Mark.load(mark.dump()) == mark

    def test_the_larger_one_wins(self) -> None:
        small, large = Mark(MarkKind.INTEGER, 1), Mark(MarkKind.INTEGER, 2)
        assert larger(small, large) is larger(large, small) is large
        assert larger(None, small) is small


def test_a_request_is_signed_as_the_file_says() -> None:
    signing = Signing(
        "{method}\n{path}\n{query}\n{timestamp}\n{body}", {"x-key": "{key}", "x-sign": "{signature}"}, encoding="hex"
    )
    facts = {"method": "GET", "path": "/a", "query": "b=1", "timestamp": "5", "body": "", "key": "k"}
    wanted = hmac.new(b"secret", b"GET\n/a\nb=1\n5\n", hashlib.sha256).hexdigest()
    assert signing.headers_for("secret", facts) == {"x-key": "k", "x-sign": wanted}


def test_a_body_s_placeholders_become_numbers_where_they_stand_alone() -> None:
    body = {"page": "{page}", "text": "no {page}", "list": ["{size}", 1, None]}
    assert filled_json(body, {"page": "2", "size": "50"}) == {"page": 2, "text": "no 2", "list": [50, 1, None]}
