"""Declarative files of pulls: strict YAML, every mistake with its line, and all of them read at the start."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from libs.common.errors import InvalidFile, Problem, WrongValue
from libs.common.points import POINTS, is_point_name
from libs.common.units import UnknownUnit, convert, unit_of
from libs.common.yamlfile import YamlDocument, parse_yaml, validate
from services.ingest.domain.pull import DeviceKey, Mark, MarkKind, PointField, RowMap, TimeField, ValueRows
from services.ingest.domain.pull_source import (
    Auth,
    AuthKind,
    Paging,
    PagingKind,
    PullFile,
    RestSource,
    Signing,
    SqlSource,
    TimeMark,
)

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
Text = Annotated[str, Field(min_length=1, max_length=10_000)]
Place = Annotated[str, Field(min_length=1, max_length=200)]
"""A field of a row, or the way to it."""
Seconds = Annotated[float, Field(gt=0, le=366 * 86400)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class TimeFile(_Model):
    """``time``, and the field of a watermark."""

    field: Place
    form: Text = "rfc3339"
    zone: str | None = None

    @field_validator("zone")
    @classmethod
    def _is_a_zone(cls, value: str | None) -> str | None:
        try:
            return value if value is None else ZoneInfo(value).key
        except (KeyError, ValueError, OSError) as exc:
            raise WrongValue("an IANA time zone such as Asia/Shanghai", "IANA 时区名,如 Asia/Shanghai") from exc

    @field_validator("form")
    @classmethod
    def _can_be_written(cls, value: str) -> str:
        if value not in ("rfc3339", "ms", "s") and "%" not in value:
            raise WrongValue(
                "rfc3339, ms, s, or a pattern such as %Y-%m-%d %H:%M:%S", "rfc3339、ms、s 或 %Y-%m-%d 样式"
            )
        return value

    def domain(self) -> TimeField:
        """Return what it means."""
        return TimeField(self.field, self.form, None if self.zone is None else ZoneInfo(self.zone))


class WatermarkFile(TimeFile):
    """``watermark`` of an API."""

    overlap_s: float = Field(default=300, ge=0, le=30 * 86400)
    initial_s: Seconds = 86400
    longest_s: Seconds = 86400


class PointFile(_Model):
    """One of ``points``."""

    name: Text
    field: Place
    unit: str | None = None
    scale: float = 1.0
    map: dict[str, float] | None = Field(default=None, min_length=1)


class ValuesFile(_Model):
    """``values``: rows that hold one value each."""

    name_field: Place
    value_field: Place


class DeviceFile(_Model):
    """``device``."""

    field: Place
    by: Annotated[DeviceKey, Field(strict=False)] = DeviceKey.ADDRESS


class AuthFile(_Model):
    """``auth`` of an API."""

    kind: Annotated[AuthKind, Field(strict=False)]
    token_url: Text | None = None
    scope: Text | None = None
    header: str | None = Field(default=None, pattern=r"^[A-Za-z0-9-]{1,100}$")
    text: Text | None = None
    headers: dict[str, Text] = {}
    algorithm: Literal["sha1", "sha256", "sha512", "md5"] = "sha256"
    encoding: Literal["hex", "hex_upper", "base64"] = "hex"
    timestamp: Literal["ms", "s"] = "ms"

    def domain(self) -> Auth:
        """Return what it means."""
        signing = None
        if self.kind is AuthKind.HMAC:
            signing = Signing(self.text or "", self.headers, self.algorithm, self.encoding, self.timestamp)
        return Auth(self.kind, self.token_url, self.scope, self.header, signing)


class PagingFile(_Model):
    """``paging`` of an API."""

    kind: Annotated[PagingKind, Field(strict=False)]
    first: int = Field(default=1, ge=0, le=1)
    size: int = Field(default=200, ge=1, le=10_000)
    next: Place | None = None

    def domain(self) -> Paging:
        """Return what it means."""
        return Paging(self.kind, self.first, self.size, self.next)


class OkFile(_Model):
    """``ok``: where an answer says whether it is one."""

    field: Place
    value: str | int | bool


class _PullModel(_Model):
    schema_: Literal["pull/1"] = Field(alias="schema")
    every_s: float = Field(ge=1, le=86400)
    device: DeviceFile
    time: TimeFile
    points: list[PointFile] = Field(min_length=1, max_length=500)
    values: ValuesFile | None = None
    key: list[Place] = Field(default=[], max_length=20)

    def rows(self) -> RowMap:
        """Return what a row means."""
        values = self.values
        return RowMap(
            device_field=self.device.field,
            device_by=self.device.by,
            time=self.time.domain(),
            points=tuple(PointField(p.name, p.field, p.unit, p.scale, p.map) for p in self.points),
            values=None if values is None else ValueRows(values.name_field, values.value_field),
            key=tuple(self.key),
        )


class RestModel(_PullModel):
    """A pull from an HTTP API."""

    kind: Literal["rest"]
    path: str = Field(pattern=r"^/")
    method: Literal["GET", "POST"] = "GET"
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    body: JsonValue = None
    items: str = Field(default="", max_length=200)
    ok: OkFile | None = None
    auth: AuthFile = AuthFile(kind=AuthKind.NONE)
    paging: PagingFile = PagingFile(kind=PagingKind.NONE)
    watermark: WatermarkFile | None = None
    timeout_s: float = Field(default=30, gt=0, le=300)

    def source(self) -> RestSource:
        """Return how it is asked."""
        mark = self.watermark
        return RestSource(
            path=self.path,
            items=self.items,
            method=self.method,
            query=self.query,
            headers=self.headers,
            body=self.body,
            auth=self.auth.domain(),
            paging=self.paging.domain(),
            mark=None
            if mark is None
            else TimeMark(
                mark.domain(),
                timedelta(seconds=mark.overlap_s),
                timedelta(seconds=mark.initial_s),
                timedelta(seconds=mark.longest_s),
            ),
            ok_field=None if self.ok is None else self.ok.field,
            ok_value=None if self.ok is None else str(self.ok.value),
            timeout_s=self.timeout_s,
        )


class SqlMarkFile(_Model):
    """``watermark`` of a query."""

    column: Place
    type: Literal["integer", "time", "local_time", "text"]
    initial: int | str
    overlap: float = Field(default=0, ge=0, le=1e12)


class SqlModel(_PullModel):
    """A pull from a transfer database (中转库)."""

    kind: Literal["postgresql"]
    sql: Text
    watermark: SqlMarkFile
    limit: int = Field(default=1000, ge=1, le=50_000)
    statement_timeout_s: float = Field(default=30, gt=0, le=600)

    def source(self) -> SqlSource:
        """Return how it is asked. Raises ``ValueError`` when the initial watermark is not of its type."""
        mark = self.watermark
        kind = {"integer": MarkKind.INTEGER, "text": MarkKind.TEXT}.get(mark.type, MarkKind.TIME)
        initial: int | str | datetime = mark.initial
        if kind is MarkKind.TIME:
            initial = datetime.fromisoformat(str(mark.initial))
            if initial.tzinfo is None:
                zone = None if self.time.zone is None else ZoneInfo(self.time.zone)
                initial = initial.replace(tzinfo=zone or UTC)
        elif kind is MarkKind.INTEGER:
            initial = int(mark.initial)
        return SqlSource(
            sql=self.sql,
            mark_column=mark.column,
            mark_kind=kind,
            initial=Mark(kind, str(initial) if kind is MarkKind.TEXT else initial),
            overlap=mark.overlap,
            zone_naive=mark.type == "local_time",
            limit=self.limit,
            timeout_s=self.statement_timeout_s,
        )


_MODELS: Mapping[str, type[RestModel] | type[SqlModel]] = {"rest": RestModel, "postgresql": SqlModel}


def parse_pull(text: str, *, name: str, source: str) -> PullFile:
    """Return what a file says.

    Raises:
        InvalidFile: It is wrong; every place is listed with line, field and what was expected.
    """
    document = parse_yaml(text, source)
    kind = document.data.get("kind") if isinstance(document.data, dict) else None
    model = _MODELS.get(str(kind))
    if model is None:
        raise InvalidFile(source, [document.problem(("kind",), "rest or postgresql", "rest 或 postgresql", kind)])
    parsed, problems = validate(model, document)
    if parsed is not None:
        problems = [*problems, *_rules(parsed, document)]
    if parsed is None or problems:
        raise InvalidFile(source, sorted(problems, key=lambda problem: problem.line or 0))
    return PullFile(name=name, source=parsed.source(), rows=parsed.rows(), every_s=parsed.every_s)


def load_pull(path: Path) -> PullFile:
    """Read one file.

    Raises:
        InvalidFile: It is wrong.
    """
    if NAME.fullmatch(path.stem) is None:
        raise InvalidFile(
            str(path), [_problem("file name", "lower case letters, digits, _ - .", "小写字母、数字、_ - .")]
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidFile(str(path), [_problem("file", "a readable file in UTF-8", "可读取的 UTF-8 文件")]) from exc
    return parse_pull(text, name=path.stem, source=str(path))


def load_pulls(folders: Sequence[Path]) -> dict[str, PullFile]:
    """Read all files, ``*.yaml``, of some folders; a later folder wins.

    Raises:
        InvalidFile: A folder or a file is wrong.
    """
    found: dict[str, PullFile] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InvalidFile(str(folder), [_problem("folder", "a folder of pull files", "存放拉取配置的目录")])
        for path in sorted(folder.glob("*.yaml")):
            found[path.stem] = load_pull(path)
    return found


def _problem(field: str, expected: str, expected_zh: str) -> Problem:
    return Problem(line=None, field=field, expected=expected, expected_zh=expected_zh, found=None)


def _rules(model: RestModel | SqlModel, document: YamlDocument) -> list[Problem]:
    """Return what one field alone cannot be wrong with."""
    found = [problem for i, point in enumerate(model.points) for problem in _point_rules(i, point, document)]
    if model.time.form != "rfc3339" and "%" in model.time.form and "%z" not in model.time.form and not model.time.zone:
        found.append(document.problem(("time",), "a zone, since the form has none", "zone(form 中没有时区)"))
    return found + (_rest_rules(model, document) if isinstance(model, RestModel) else _sql_rules(model, document))


def _point_rules(i: int, point: PointFile, document: YamlDocument) -> list[Problem]:
    if not is_point_name(point.name):
        both = ("a canonical point name, or x_<vendor>_<name>", "标准测点名,或 x_<厂商>_<名称>")
        return [document.problem(("points", i, "name"), *both, point.name)]
    canonical = POINTS.get(point.name)
    if point.unit is None or canonical is None:
        return []
    try:
        unit_of(point.unit)
        convert(1.0, point.unit, canonical.unit)
    except UnknownUnit:
        both = (f"{canonical.unit}, or a unit that converts to it", f"{canonical.unit} 或可换算的单位")
        return [document.problem(("points", i, "unit"), *both, point.unit)]
    return []


def _rest_rules(model: RestModel, document: YamlDocument) -> list[Problem]:
    found = []
    text = repr((model.query, model.body, model.path))
    auth = model.auth
    if auth.kind is AuthKind.OAUTH2 and auth.token_url is None:
        found.append(document.problem(("auth", "token_url"), "where tokens are given", "令牌地址"))
    if auth.kind is AuthKind.HEADER and auth.header is None:
        found.append(document.problem(("auth", "header"), "the name of the header with the key", "密钥所在的请求头"))
    if auth.kind is AuthKind.HMAC and (auth.text is None or "{signature}" not in repr(auth.headers)):
        both = ("text, and headers with {signature}", "text,以及含 {signature} 的 headers")
        found.append(document.problem(("auth",), *both))
    wanted = {
        PagingKind.PAGE: "{page}",
        PagingKind.OFFSET: "{offset}",
        PagingKind.CURSOR: "{cursor}",
    }.get(model.paging.kind)
    if wanted is not None and wanted not in text:
        both = (f"{wanted} in path, query or body", f"path、query 或 body 中的 {wanted}")
        found.append(document.problem(("paging", "kind"), *both))
    if model.paging.kind is PagingKind.CURSOR and model.paging.next is None:
        found.append(document.problem(("paging", "next"), "where in the answer the cursor is", "应答中游标的位置"))
    if model.watermark is not None and "{since}" not in text:
        both = ("{since} in path, query or body", "path、query 或 body 中的 {since}")
        found.append(document.problem(("watermark",), *both))
    if model.watermark is None and ("{since}" in text or "{until}" in text):
        found.append(
            document.problem(("query",), "a watermark, for {since} and {until}", "使用 {since}、{until} 须有 watermark")
        )
    return found


def _sql_rules(model: SqlModel, document: YamlDocument) -> list[Problem]:
    found = []
    if "$1" not in model.sql or "$2" not in model.sql:
        both = ("$1, the watermark, and $2, the number of rows", "$1(水位)和 $2(行数)")
        found.append(document.problem(("sql",), *both))
    if model.watermark.type == "text" and model.watermark.overlap:
        both = ("0: a text has no distance", "0(文本无距离)")
        found.append(document.problem(("watermark", "overlap"), *both, model.watermark.overlap))
    try:
        model.source()
    except (ValueError, OverflowError):
        both = (f"a value of type {model.watermark.type}", f"类型为 {model.watermark.type} 的值")
        found.append(document.problem(("watermark", "initial"), *both, model.watermark.initial))
    return found
