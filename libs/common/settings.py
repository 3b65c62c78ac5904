"""Settings from the environment: ``WATTRING_<FIELD>`` and ``WATTRING_<SERVICE>__<FIELD>__<FIELD>``.

* A misspelt name stops the start, with the name that was probably meant. So does an impossible value. Both are said
  by the name of the variable, all of them at once. An empty variable counts as not given.
* Any variable may be given as ``<NAME>_FILE`` instead, a path whose content is the value, so that secrets need not
  stand in the environment. Giving a setting twice, differently, is an error.
* Lists and objects are JSON; a map may also be given key by key, ``WATTRING_SERVICE_URLS__INGEST=http://…``.
* A few names that operators know keep them: ``DATABASE_URL``, ``KAFKA_BOOTSTRAP_SERVERS``, ``LOG_LEVEL``, ``PORT``.
  ``OTEL_*`` are read by OpenTelemetry itself; ``TZ`` is ignored, time zones are data.
* A process reads the common settings and the sections of the services in it; of other services' sections it only
  checks that they exist. ``WATTRING_TEST_*`` belongs to the tests.
"""

import difflib
import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretBytes,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from libs.common.errors import PlatformError, WrongValue
from libs.common.expected import expected
from libs.common.redact import presentable, redact

logger = logging.getLogger(__name__)

SERVICES = ("ingest", "alarm", "control", "carbon", "export", "gateway")
SECTIONS = (*SERVICES, "watchdog", "fieldsim")
ADDRESSED = (*SERVICES, "watchdog", "jobs")
"""Who may have an address in ``service_urls``."""
PREFIX = "WATTRING_"
PREFIX_OF_TESTS = "WATTRING_TEST_"
WELL_KNOWN = {
    "DATABASE_URL": "WATTRING_DATABASE__URL",
    "KAFKA_BOOTSTRAP_SERVERS": "WATTRING_BUS__BOOTSTRAP_SERVERS",
    "LOG_LEVEL": "WATTRING_LOG_LEVEL",
    "PORT": "WATTRING_PORT",
}

_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[^\s/?#@:,\[\]]*)(?::\d{1,5})?"
_POSTGRES_URL = re.compile(rf"postgres(?:ql)?://(?:[^\s/?#@]*@)?{_HOST}(?:,{_HOST})*(?:[/?]\S*)?$")
_SERVICE_URL = re.compile(r"https?://[^\s/?#@]+/?$|unix:/\S+$")


class InvalidSettings(PlatformError):
    """The environment cannot be understood; the process does not start."""

    code = "invalid_settings"
    title_zh = "配置有误"


class SettingsModel(BaseModel):
    """Base of all settings: frozen, an unknown field is an error, and an error does not show the value."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, hide_input_in_errors=True
    )


class DatabaseSettings(SettingsModel):
    """Where PostgreSQL is and how patient we are with it."""

    url: SecretStr | None = Field(
        default=None, description="postgresql://user:password@host:port/name; none means the embedded server"
    )
    pool_max: int = Field(default=6, ge=1, le=200, description="connections at most per service")
    connect_timeout_s: float = Field(default=5.0, gt=0, le=300, description="to open a connection")
    command_timeout_s: float = Field(default=30.0, gt=0, le=3600, description="for one statement")
    effects_idle_timeout_s: float = Field(
        default=1.5,
        gt=0,
        le=60,
        description="a frozen consumer's transaction is ended by the server after this",
    )

    @field_validator("url")
    @classmethod
    def _is_postgresql(cls, url: SecretStr | None) -> SecretStr | None:
        text = "" if url is None else url.get_secret_value()
        ports = re.findall(r"(?<=:)\d+(?=[,/?]|$)", text.rpartition("@")[2])
        if url is not None and (not _POSTGRES_URL.match(text) or any(int(port) > 65535 for port in ports)):
            raise WrongValue(
                "expected postgresql://user:password@host:port/name, with / ? # @ : in user and password "
                "percent-encoded",
                "应为 postgresql://用户:密码@主机:端口/库名,用户和密码中的 / ? # @ : 须做百分号编码",
            )
        return url


class BusSettings(SettingsModel):
    """Which bus, and its limits."""

    kind: Literal["postgres", "kafka"] = Field(default="postgres", description="log in PostgreSQL, or Apache Kafka")
    bootstrap_servers: str | None = Field(default=None, description="host:port,host:port of Kafka; sets kind=kafka")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="what Kafka's port speaks: TLS with SSL, user and password with SASL"
    )
    ssl_cafile: Path | None = Field(
        default=None, description="PEM file of the authority that signed Kafka's certificates; none means the system's"
    )
    ssl_certfile: Path | None = Field(default=None, description="PEM file of our certificate, where Kafka wants one")
    ssl_keyfile: Path | None = Field(default=None, description="PEM file of its key, unless that is in ssl_certfile")
    ssl_password: SecretStr | None = Field(default=None, description="password of that key, where it is encrypted")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="SCRAM-SHA-512", description="how the password is shown to Kafka; PLAIN shows the password itself"
    )
    sasl_username: str | None = Field(default=None, min_length=1, description="our user at Kafka")
    sasl_password: SecretStr | None = Field(default=None, min_length=1, description="its password")
    site_partitions: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="partitions of every site-keyed topic: 8 embedded, 48 on Kafka",
    )
    replication_factor: int = Field(default=1, ge=1, le=7, description="copies of each Kafka partition")
    publish_timeout_s: float = Field(default=2.0, gt=0, le=60, description="acknowledgement must come within this")
    linger_s: float = Field(default=0.005, ge=0, le=1, description="how long a batch may wait for company")
    session_timeout_s: float = Field(
        default=12.0, gt=1, le=300, description="a silent Kafka member is dropped after this"
    )
    lease_s: float = Field(
        default=3.0, gt=0.2, le=60, description="a silent member of the embedded bus is dropped after this"
    )
    readings_retention_s: float = Field(
        default=7200.0, gt=60, description="age at which readings leave the embedded log"
    )
    readings_retention_bytes: int = Field(default=4 << 30, gt=1 << 20, description="size at which they leave it")
    events_retention_s: float = Field(default=7 * 86400.0, gt=60, description="age at which events leave the bus")

    @model_validator(mode="after")
    def _is_as_secure_as_it_looks(self) -> Self:
        """Refuse what would be ignored, or what a protocol lacks."""
        protocol, prefix = self.security_protocol, f"{PREFIX}BUS__"
        tls = {"SSL_CAFILE": self.ssl_cafile, "SSL_CERTFILE": self.ssl_certfile, "SSL_KEYFILE": self.ssl_keyfile}
        sasl = {"SASL_USERNAME": self.sasl_username, "SASL_PASSWORD": self.sasl_password}
        given = [] if self.speaks_tls else [prefix + name for name, value in tls.items() if value is not None]
        given += [] if self.speaks_sasl else [prefix + name for name, value in sasl.items() if value is not None]
        if given:
            names, wanted = ", ".join(given), "SASL_SSL" if sasl["SASL_USERNAME"] else "SSL"
            raise WrongValue(
                f"{prefix}SECURITY_PROTOCOL={wanted} beside {names}; {protocol} does not use them",
                f"配置 {names} 时 {prefix}SECURITY_PROTOCOL 应为 {wanted};{protocol} 不使用这些配置",
            )
        lacking = [prefix + name for name, value in sasl.items() if value is None] if self.speaks_sasl else []
        lacking += [f"{prefix}SSL_CERTFILE"] if self.ssl_keyfile and not self.ssl_certfile else []
        if lacking:
            names, cause = ", ".join(lacking), protocol if self.speaks_sasl else f"{prefix}SSL_KEYFILE"
            raise WrongValue(f"{names} beside {cause}", f"使用 {cause} 时还需配置 {names}")
        return self

    @property
    def speaks_tls(self) -> bool:
        """Whether the connections to Kafka are encrypted."""
        return self.security_protocol in ("SSL", "SASL_SSL")

    @property
    def speaks_sasl(self) -> bool:
        """Whether Kafka is shown a user and a password."""
        return self.security_protocol in ("SASL_PLAINTEXT", "SASL_SSL")

    @property
    def effective_kind(self) -> Literal["postgres", "kafka"]:
        """The bus in use: naming Kafka servers chooses Kafka."""
        return "kafka" if self.bootstrap_servers else self.kind

    @property
    def effective_site_partitions(self) -> int:
        """Partitions of site-keyed topics."""
        return self.site_partitions or (48 if self.effective_kind == "kafka" else 8)


class CommonSettings(SettingsModel):
    """What every process of Wattring is told."""

    data_dir: Path = Field(default=Path(".data"), description="spool, leases, keys and the embedded database")
    host: str = Field(default="127.0.0.1", description="address the HTTP listeners bind to")
    port: int = Field(default=8000, ge=0, le=65535, description="port of the HTTP listener")
    uds: Path | None = Field(default=None, description="Unix socket of the HTTP listener in place of host and port")
    internal_host: str = Field(default="127.0.0.1", description="address that the internal listener binds to")
    internal_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="port of the internal listener: /metrics, and /readyz with reasons; none opens none",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", description="least severe log line")
    log_format: Literal["json", "text"] = Field(default="json", description="JSON for machines, text for people")
    instance: str = Field(default="0", pattern=r"^[a-z0-9-]{1,40}$", description="stable name of this replica")
    drain_s: float = Field(default=10.0, gt=0, le=300, description="time to stop cleanly before tasks are cancelled")
    keys_dir: Path | None = Field(default=None, description="service keys; default <data_dir>/keys")
    profile_dirs: tuple[Path, ...] = Field(
        default=(), description="JSON list of folders with device profiles besides the shipped ones; a later one wins"
    )
    service_urls: Mapping[str, str] = Field(
        default_factory=dict, description="JSON object service -> URL, http://host:port or unix:/path"
    )
    database: DatabaseSettings = DatabaseSettings()
    bus: BusSettings = BusSettings()

    @field_validator("service_urls")
    @classmethod
    def _are_addresses(cls, urls: Mapping[str, str]) -> Mapping[str, str]:
        for name, url in urls.items():
            if name not in ADDRESSED:
                raise ValueError(f"{name} is no service; known are {', '.join(ADDRESSED)}")
            if not _SERVICE_URL.match(url):
                raise ValueError(f"{name}: expected http://host:port or unix:/path")
        return urls

    @model_validator(mode="after")
    def _kafka_has_servers(self) -> Self:
        if self.bus.effective_kind == "kafka" and not self.bus.bootstrap_servers:
            raise ValueError("the bus is kafka and has no servers: set KAFKA_BOOTSTRAP_SERVERS=host:port,host:port")
        return self

    @property
    def effective_keys_dir(self) -> Path:
        """Where the service keys lie."""
        return self.keys_dir or self.data_dir / "keys"


Model = TypeVar("Model", bound=SettingsModel)


def load_common(environ: Mapping[str, str] | None = None) -> CommonSettings:
    """Return the settings common to all processes, from ``environ`` or else the process's environment.

    Of the services' sections only the names are checked here: each service checks its own when it is built.

    Raises:
        InvalidSettings: A variable is unknown or has an impossible value; the message names it.
    """
    given = [one for one in _given(environ) if len(one.path) < 2 or one.path[0] not in SECTIONS]
    return _build(CommonSettings, given, PREFIX)


def load_section(section: str, model: type[Model], environ: Mapping[str, str] | None = None) -> Model:
    """Return one service's own settings, from ``WATTRING_<SECTION>__…``.

    Raises:
        InvalidSettings: A variable is unknown or has an impossible value; the message names it.
    """
    given = [replace(one, path=one.path[1:]) for one in _given(environ) if len(one.path) > 1 and one.path[0] == section]
    settings = _build(model, given, f"{PREFIX}{section.upper()}__")
    logger.info("settings in use", extra={"section": section, "settings": shown(settings)})
    return settings


def shown(settings: BaseModel) -> dict[str, Any]:
    """Return the settings as JSON-ready facts without their secrets, for a log line or a page."""
    facts: dict[str, Any] = presentable(settings.model_dump())
    return facts


@dataclass(frozen=True, slots=True)
class _Given:
    """One setting as the environment gives it."""

    source: str
    """The variable that the operator wrote."""
    variable: str
    """Our name of it."""
    path: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class _Wrong:
    """One thing wrong with the environment, in both languages."""

    english: str
    chinese: str


def _given(environ: Mapping[str, str] | None) -> list[_Given]:
    """Return what concerns us, with well-known names and ``_FILE`` resolved."""
    found: dict[str, _Given] = {}
    for name, text in (os.environ if environ is None else environ).items():
        # A setting may be called FILE, and something has to stand before the ending.
        is_file = name.endswith("_FILE") and not name.endswith("__FILE") and name != f"{PREFIX}FILE"
        stem = name.removesuffix("_FILE") if is_file else name
        variable = WELL_KNOWN.get(stem, stem)
        if not variable.upper().startswith(PREFIX) or variable.startswith(PREFIX_OF_TESTS):
            continue
        if is_file and text:
            text = _content(name, text)
        earlier = found.get(variable)
        if earlier is not None and earlier.text and text and earlier.text != text:
            raise InvalidSettings(
                f"{earlier.source} and {name} both give {variable}, and not the same: keep one",
                message_zh=f"{earlier.source} 与 {name} 同时给出 {variable} 且不一致:请只保留一个",
            )
        if earlier is None or text:
            path = variable[len(PREFIX) :].lower().split("__")
            found[variable] = _Given(source=name, variable=variable, path=tuple(path), text=text)
    return list(found.values())


def _content(name: str, place: str) -> str:
    try:
        return Path(place).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
    # Outside the handler: an error about text carries the text.
    raise InvalidSettings(f"{name}: cannot read {place}: {reason}", message_zh=f"{name}:无法读取 {place}:{reason}")


def _build(model: type[Model], given: Sequence[_Given], prefix: str) -> Model:
    values: dict[str, Any] = {}
    wrong: list[_Wrong] = []
    for one in sorted(given, key=lambda one: one.path):
        field = _field(model, one.path) if one.variable.isupper() else None
        if field is None:
            wrong.append(_unknown(one, model, prefix))
        elif one.text:  # an empty variable is what an env file or a compose file leaves where nothing is meant
            try:
                _put(values, one, _parsed(field, one.text))
            except ValueError as exc:
                chinese = exc.message_zh if isinstance(exc, WrongValue) else exc
                wrong.append(_Wrong(f"{one.source}: {exc}", f"{one.source}:{chinese}"))
    settings: Model | None = None
    try:
        settings = model.model_validate(values)
    except ValidationError as exc:
        sources = {one.path: one.source for one in given}
        wrong += [_impossible(error, model, sources, prefix) for error in exc.errors()]
    if settings is None or wrong:
        # Outside the handler: the library's error carries the values, and a value may be a secret.
        raise InvalidSettings(
            "\n".join(one.english for one in wrong), message_zh="\n".join(one.chinese for one in wrong)
        )
    return settings


def _put(values: dict[str, Any], one: _Given, value: Any) -> None:
    """Put a value at its place in the tree.

    Raises:
        ValueError: The place, or one above it, has a value already.
    """
    node: Any = values
    for part in one.path[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise WrongValue("a variable above it gives a whole value already", "上级变量已给出完整取值")
    if one.path[-1] in node:
        raise WrongValue("given already, as part of a JSON value", "已在 JSON 取值中给出")
    node[one.path[-1]] = value


def _parsed(field: FieldInfo | None, text: str) -> Any:
    """Return the text, or what it says in JSON where a list or an object is wanted."""
    if field is None or not _is_composite(field.annotation):
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        example = '["a", "b"] or {"a": "b"}'
        raise WrongValue(
            f"expected JSON, such as {example}; {exc}", f"应为 JSON,如 {example.replace('or', '或')};{exc}"
        ) from None


def _field(model: type[BaseModel], path: Sequence[str]) -> FieldInfo | None:
    """Return the field that a path leads to, None when there is none; of a map, any key is the map's own matter."""
    field = model.model_fields.get(path[0])
    if field is None or len(path) == 1:
        return field
    for kind in _kinds(field.annotation):
        if issubclass(_class(kind), BaseModel):
            return _field(kind, path[1:])
        if len(path) == 2 and issubclass(_class(kind), Mapping):
            return FieldInfo(annotation=get_args(kind)[1])
    return None


def _kinds(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _class(kind: Any) -> type:
    """Return the class behind a type as it is written; ``object`` for what is none, such as a Literal."""
    found = get_origin(kind) or kind
    return found if isinstance(found, type) else object


def _is_composite(annotation: Any) -> bool:
    classes = [_class(kind) for kind in _kinds(annotation)]
    return any(issubclass(one, BaseModel | Collection) and not issubclass(one, str | bytes) for one in classes)


def _is_secret(model: type[BaseModel], where: Sequence[str]) -> bool:
    """Return whether any field on the way may hold a secret; a place that no field is known for counts as one."""
    lengths = range(1, len(where) + 1)
    fields = [field for field in (_field(model, where[:length]) for length in lengths) if field is not None]
    return not fields or any(_holds_secret(one.annotation) for one in fields)


def _holds_secret(annotation: Any) -> bool:
    return annotation in (SecretStr, SecretBytes) or any(_holds_secret(part) for part in get_args(annotation))


def _unknown(one: _Given, model: type[BaseModel], prefix: str) -> _Wrong:
    known = _variables(model, prefix)
    if prefix == PREFIX:
        name = one.path[0]
        if name in SECTIONS:
            whole = f"{PREFIX}{name.upper()}__"
            return _Wrong(
                f"{one.source}: {name} is a section; its settings are {whole}<NAME>",
                f"{one.source}:{name} 是配置分区,其配置项为 {whole}<名称>",
            )
        section = difflib.get_close_matches(name, SECTIONS, n=1) if len(one.path) > 1 else []
        known += [one.variable.upper().replace(name.upper(), found.upper(), 1) for found in section]
    near = difflib.get_close_matches(one.variable.upper(), known, n=1)
    if near:
        return _Wrong(
            f"{one.source}: there is no such setting; did you mean {near[0]}?",
            f"{one.source}:没有这个配置项;是否想写 {near[0]}?",
        )
    return _Wrong(
        f"{one.source}: there is no such setting; known are {', '.join(known)}",
        f"{one.source}:没有这个配置项;可用的有 {', '.join(known)}",
    )


def _impossible(
    error: ErrorDetails, model: type[BaseModel], sources: Mapping[tuple[str, ...], str], prefix: str
) -> _Wrong:
    """Say which variable has an impossible value, as it was written, and what would be possible."""
    where = tuple(str(part) for part in error["loc"] if part != "[key]")
    length = next((length for length in range(len(where), 0, -1) if where[:length] in sources), 0)
    if length:
        place = sources[where[:length]] + "".join(f"[{part}]" for part in where[length:])
    else:  # a rule over several settings, or a default that breaks one
        place = f"{prefix}{'__'.join(where).upper()}".removesuffix("__")
    if error["type"] == "extra_forbidden":
        return _Wrong(f"{place}: there is no such field", f"{place}:没有这个字段")
    english, chinese = expected(error)
    if error["type"] == "value_error":  # says "expected" itself, or what else it has to say
        chinese = chinese if isinstance(error["ctx"]["error"], WrongValue) else f"取值有误:{chinese}"
    else:
        english, chinese = f"expected {english}", f"应为{chinese}"
    given = error.get("input")
    if where and isinstance(given, str | int | float) and not _is_secret(model, where):
        found = redact(repr(given))[:100]
        english, chinese = f"{english}, found {found}", f"{chinese},实际为 {found}"
    return _Wrong(f"{place}: {english}", f"{place}:{chinese}")


def _variables(model: type[BaseModel], prefix: str) -> list[str]:
    names: list[str] = []
    for name, field in model.model_fields.items():
        inner = [kind for kind in _kinds(field.annotation) if issubclass(_class(kind), BaseModel)]
        names += _variables(inner[0], f"{prefix}{name.upper()}__") if inner else [f"{prefix}{name.upper()}"]
    return names
