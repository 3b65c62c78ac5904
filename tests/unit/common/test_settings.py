"""Settings: a misspelt or impossible one stops the start and says how to mend it; secrets stay secret."""

import logging
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, SecretStr, model_validator

from libs.common.settings import (
    PREFIX,
    SECTIONS,
    WELL_KNOWN,
    BusSettings,
    CommonSettings,
    DatabaseSettings,
    InvalidSettings,
    SettingsModel,
    load_common,
    load_section,
    shown,
)

URL = "postgresql://wattring:hunter2-hunter2@db.example:5432/wattring"


class PollingSettings(SettingsModel):
    interval_s: float = Field(default=60.0, gt=0, le=86400)
    waits_s: tuple[float, ...] = (1.0, 2.0)
    by_kind_s: Mapping[str, float] = Field(default_factory=dict)
    mode: Literal["fast", "slow"] = "fast"


class ThingSettings(SettingsModel):
    polling: PollingSettings = PollingSettings()
    extra: PollingSettings | None = None
    peers: Sequence[str] = ()
    name: str = "thing"
    file: str = ""
    secret_key: SecretStr | None = Field(default=None, min_length=12)
    more_keys: tuple[SecretStr, ...] = ()
    low: int = 1
    high: int = 2

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


def thing(**variables: str) -> ThingSettings:
    return load_section("ingest", ThingSettings, {f"WATTRING_INGEST__{name}": text for name, text in variables.items()})


# -- what is read ---------------------------------------------------------------------------------


def test_an_empty_environment_gives_the_defaults_whatever_the_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATTRING_PORT", "9999")
    assert load_common({}).port == 8000
    assert load_common().port == 9999
    monkeypatch.setenv("WATTRING_INGEST__NAME", "other")
    assert load_section("ingest", ThingSettings, {}).name == "thing"
    assert load_section("ingest", ThingSettings).name == "other"


def test_names_nest_by_two_underscores() -> None:
    settings = load_common({"WATTRING_DATABASE__POOL_MAX": "9", "WATTRING_BUS__LEASE_S": "4.5", "WATTRING_PORT": "81"})
    assert (settings.database.pool_max, settings.bus.lease_s, settings.port) == (9, 4.5, 81)
    assert thing(POLLING__INTERVAL_S="0.5").polling.interval_s == 0.5
    assert thing(EXTRA__INTERVAL_S="0.5").extra == PollingSettings(interval_s=0.5)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("DATABASE_URL", URL, lambda s: s.database.url.get_secret_value() == URL),
        (
            "KAFKA_BOOTSTRAP_SERVERS",
            "a:9092,b:9092",
            lambda s: (s.bus.effective_kind, s.bus.effective_site_partitions) == ("kafka", 48),
        ),
        ("LOG_LEVEL", "DEBUG", lambda s: s.log_level == "DEBUG"),
        ("PORT", "81", lambda s: s.port == 81),
    ],
)
def test_names_that_operators_know_are_understood(name: str, text: str, found: object, tmp_path: Path) -> None:
    assert callable(found)
    assert found(load_common({name: text}))
    assert found(load_common({WELL_KNOWN[name]: text}))
    file = tmp_path / "value"
    file.write_text(f"  {text}\n", encoding="utf-8")
    assert found(load_common({f"{name}_FILE": str(file)}))
    assert found(load_common({f"{WELL_KNOWN[name]}_FILE": str(file)}))


def test_variables_of_others_are_no_concern_of_ours() -> None:
    others = {"PATH": "/bin", "TZ": "Asia/Tokyo", "OTEL_SERVICE_NAME": "x", "INGEST_PORT": "1", "WATTRINGS_X": "1"}
    assert load_common({**others, "WATTRING_TEST_DATABASE_URL": "x"}) == CommonSettings()


def test_a_service_ignores_the_sections_of_others() -> None:
    environ = {"WATTRING_EXPORT__WHATEVER": "1", "WATTRING_INGEST__NAME": "mine", "WATTRING_WATCHDOG__DOORS": "[]"}
    assert load_common(environ) == CommonSettings()
    assert load_section("ingest", ThingSettings, environ).name == "mine"


def test_an_empty_variable_counts_as_not_given() -> None:
    assert load_common({"DATABASE_URL": "", "PORT": "", "DATABASE_URL_FILE": ""}) == CommonSettings()
    assert thing(PEERS="", SECRET_KEY="") == ThingSettings()
    assert load_common({"PORT": "", "WATTRING_PORT": "82"}).port == 82
    assert load_common({"WATTRING_PORT": "82", "PORT": ""}).port == 82


# -- JSON -----------------------------------------------------------------------------------------


def test_lists_and_maps_are_json() -> None:
    settings = thing(PEERS='["10.0.0.0/8", "::1"]', POLLING__WAITS_S="[5, 10]", POLLING__BY_KIND_S='{"breaker": 10}')
    assert settings.peers == ["10.0.0.0/8", "::1"]
    assert settings.polling.waits_s == (5.0, 10.0)
    assert settings.polling.by_kind_s == {"breaker": 10.0}


def test_a_map_may_be_given_key_by_key_and_a_part_as_a_whole() -> None:
    assert thing(POLLING__BY_KIND_S__BREAKER="10").polling.by_kind_s == {"breaker": 10.0}
    assert thing(POLLING='{"interval_s": 7}').polling == PollingSettings(interval_s=7)
    assert thing(POLLING='{"interval_s": 7}', POLLING__MODE="slow").polling == PollingSettings(
        interval_s=7, mode="slow"
    )


@pytest.mark.parametrize("text", ["[not json", "{", "[]", "{}", '["a"]'])
def test_a_text_that_looks_like_json_stays_a_text_where_a_text_is_wanted(text: str) -> None:
    assert thing(NAME=text).name == text
    secret = thing(SECRET_KEY=text.ljust(12, "x")).secret_key
    assert secret is not None
    assert secret.get_secret_value() == text.ljust(12, "x")


@pytest.mark.parametrize("text", ["10.0.0.0/8", "[1,", "'a'", "{a: b}"])
def test_what_is_no_json_where_json_is_wanted_names_the_variable(text: str) -> None:
    with pytest.raises(InvalidSettings, match=r"^WATTRING_INGEST__PEERS: expected JSON, such as"):
        thing(PEERS=text)


def test_the_same_part_twice_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="WATTRING_INGEST__POLLING__INTERVAL_S: given already"):
        thing(POLLING='{"interval_s": 7}', POLLING__INTERVAL_S="8")
    with pytest.raises(InvalidSettings, match="WATTRING_INGEST__POLLING__INTERVAL_S: a variable above it"):
        thing(POLLING="[]", POLLING__INTERVAL_S="8")


# -- misspelt names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("WATTRING_PROT", "did you mean WATTRING_PORT?"),
        ("WATTRING_DATABASE_URL", "did you mean WATTRING_DATABASE__URL?"),
        ("WATTRING_DATABASE__URI", "did you mean WATTRING_DATABASE__URL?"),
        ("WATTRING_DATABASE__POOL__MAX", "did you mean WATTRING_DATABASE__POOL_MAX?"),
        ("WATTRING_INGST__POLLING__INTERVAL_S", "did you mean WATTRING_INGEST__POLLING__INTERVAL_S?"),
        ("WATTRING_EXPROT__UNIT_PORT", "did you mean WATTRING_EXPORT__UNIT_PORT?"),
        ("WATTRING_Port", "did you mean WATTRING_PORT?"),
        ("wattring_port", "did you mean WATTRING_PORT?"),
        ("WATTRING_INGEST", "ingest is a section; its settings are WATTRING_INGEST__<NAME>"),
        ("WATTRING_ZZZZZZZZZZZZZZZ", "known are WATTRING_DATA_DIR, WATTRING_HOST, WATTRING_PORT,"),
        ("WATTRING_", "there is no such setting"),
        ("WATTRING_DATABASE__", "did you mean WATTRING_DATABASE__URL?"),
    ],
)
@pytest.mark.parametrize("text", ["1", ""])
def test_a_misspelt_name_stops_the_start_with_a_hint(name: str, hint: str, text: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_common({name: text})
    assert caught.value.message.startswith(f"{name}: ")
    assert hint in caught.value.message
    assert name in (caught.value.message_zh or "")


def test_a_misspelt_name_in_a_section_is_found_by_its_service() -> None:
    with pytest.raises(InvalidSettings, match=r"did you mean WATTRING_INGEST__POLLING__INTERVAL_S\?"):
        thing(POLLING__INTERVALL_S="1")
    with pytest.raises(InvalidSettings, match=r"^WATTRING_INGEST__POLLING\[interval\]: there is no such field$"):
        thing(POLLING='{"interval": 1}')
    with pytest.raises(InvalidSettings, match=r"did you mean WATTRING_INGEST__EXTRA__MODE\?"):
        thing(EXTRA__MOOD="fast")


@given(st.text(string.ascii_uppercase + "_", min_size=1, max_size=20))
def test_no_unknown_name_ever_passes(name: str) -> None:
    if name.startswith("TEST_") or name.endswith("_FILE"):
        return
    path = name.lower().split("__")
    fields = CommonSettings.model_fields
    if path[0] in fields or (path[0] in SECTIONS and len(path) > 1):
        return
    with pytest.raises(InvalidSettings):
        load_common({PREFIX + name: "1"})


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_common({"WATTRING_PROT": "1", "LOG_LEVEL": "LOUD", "WATTRING_DRAIN_S": "0"})
    assert [line.partition(":")[0] for line in caught.value.message.splitlines()] == [
        "WATTRING_PROT",
        "LOG_LEVEL",
        "WATTRING_DRAIN_S",
    ]


# -- impossible values ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"PORT": "70000"}, "PORT: expected less than or equal to 65535, found '70000'"),
        ({"WATTRING_PORT": "eighty"}, "WATTRING_PORT: expected a whole number"),
        ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL: expected 'DEBUG', 'INFO', 'WARNING' or 'ERROR', found 'LOUD'"),
        ({"WATTRING_INSTANCE": "Pod 1"}, "WATTRING_INSTANCE: expected text that matches"),
        ({"WATTRING_BUS__READINGS_RETENTION_S": "inf"}, "WATTRING_BUS__READINGS_RETENTION_S: expected a finite"),
        ({"WATTRING_DRAIN_S": "nan"}, "WATTRING_DRAIN_S: expected"),
        ({"WATTRING_DATABASE__POOL_MAX": "0"}, "WATTRING_DATABASE__POOL_MAX: expected greater than or equal"),
        ({"WATTRING_BUS__KIND": "rabbit"}, "WATTRING_BUS__KIND: expected 'postgres' or 'kafka', found 'rabbit'"),
        ({"WATTRING_BUS__KIND": "kafka"}, "set KAFKA_BOOTSTRAP_SERVERS="),
        ({"WATTRING_SERVICE_URLS": '{"inget": "http://a:1"}'}, "WATTRING_SERVICE_URLS: inget is no service; known are"),
        ({"WATTRING_SERVICE_URLS__INGEST": "a:80"}, "WATTRING_SERVICE_URLS: ingest: expected http://host:port or unix"),
        ({"WATTRING_SERVICE_URLS": '{"ingest": 5}'}, "WATTRING_SERVICE_URLS[ingest]: expected text"),
    ],
)
def test_an_impossible_value_names_the_variable_as_it_was_written(environ: Mapping[str, str], line: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_common(environ)
    assert line in caught.value.message
    assert "\n" not in caught.value.message


def test_places_inside_lists_and_of_whole_parts_are_named() -> None:
    with pytest.raises(InvalidSettings, match=r"^WATTRING_INGEST__POLLING__WAITS_S\[1\]: .*found 'x'$"):
        thing(POLLING__WAITS_S='[1, "x"]')
    with pytest.raises(InvalidSettings, match=r"^WATTRING_INGEST__POLLING__BY_KIND_S__BREAKER: .* number"):
        thing(POLLING__BY_KIND_S__BREAKER="often")
    with pytest.raises(InvalidSettings, match=r"^WATTRING_INGEST: low is above high$"):
        thing(LOW="3")


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:hunter2@db/x",
        "db.example:5432/hunter2",
        "postgresql://u:hunter2/x@db/name",
        "postgresql://u:hunter2#x@db/name",
        "postgresql://u:hunter2@x@db/name",
        "postgresql://u:hunter2@db:port/name",
        "postgresql://u:hunter2@db:5432/na me",
    ],
)
def test_a_database_url_that_cannot_be_one_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_common({"DATABASE_URL": url})
    assert caught.value.message.startswith("DATABASE_URL: expected postgresql://user:password@host:port/name")
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "postgres://db/name",
        "postgresql:///name?host=/run/postgresql",
        "postgresql://u:p%40ss@/name?host=%2Fdata%2Fsocket",
        "postgresql://u:p@[::1]:5432/name",
        "postgresql://u:p@a:5432,b:5433/name?target_session_attrs=primary",
    ],
)
def test_every_usual_form_of_a_database_url_is_taken(url: str) -> None:
    assert DatabaseSettings(url=SecretStr(url)).url == SecretStr(url)


@given(st.text(max_size=200))
def test_any_database_url_is_judged_quickly(text: str) -> None:
    for url in (text, f"postgresql://{text}", f"postgresql://{'a' * 200}{text}"):
        try:
            load_common({"DATABASE_URL": url})
        except InvalidSettings as exc:
            assert exc.message.startswith("DATABASE_URL: expected postgresql://")  # noqa: PT017 - either outcome is fine


# -- files ----------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=rf"^DATABASE_URL_FILE: cannot read {tmp_path}/no: No such file"):
        load_common({"DATABASE_URL_FILE": f"{tmp_path}/no"})
    with pytest.raises(InvalidSettings, match=rf"cannot read {tmp_path}: Is a directory"):
        load_common({"WATTRING_PORT_FILE": str(tmp_path)})


def test_a_file_in_another_encoding_is_refused_without_its_content(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes("密码hunter2".encode("gb18030"))
    with pytest.raises(InvalidSettings, match="is not UTF-8 text") as caught:
        load_section("ingest", ThingSettings, {"WATTRING_INGEST__SECRET_KEY_FILE": str(file)})
    assert "hunter2" not in everything_of(caught.value)


def test_a_setting_may_be_called_file(tmp_path: Path) -> None:
    assert thing(FILE="/data/journal").file == "/data/journal"
    (tmp_path / "place").write_text("/data/journal\n")
    assert thing(FILE_FILE=f"{tmp_path}/place").file == "/data/journal"


def test_a_setting_given_twice_must_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "port"
    file.write_text("81")
    assert load_common({"PORT": "81", "WATTRING_PORT": "81", "PORT_FILE": str(file)}).port == 81
    for environ in ({"PORT": "82", "WATTRING_PORT_FILE": str(file)}, {"WATTRING_PORT": "83", "PORT": "84"}):
        with pytest.raises(InvalidSettings, match="both give WATTRING_PORT, and not the same: keep one") as caught:
            load_common(environ)
        assert all(name in caught.value.message for name in environ)


def test_an_impossible_value_from_a_file_names_the_file_variable(tmp_path: Path) -> None:
    file = tmp_path / "port"
    file.write_text("many")
    with pytest.raises(InvalidSettings, match=r"^WATTRING_PORT_FILE: expected a whole number"):
        load_common({"WATTRING_PORT_FILE": str(file)})


# -- secrets --------------------------------------------------------------------------------------


def everything_of(exc: BaseException) -> str:
    """Return all that a traceback of the error could print."""
    texts: list[str] = []
    one: BaseException | None = exc
    while one is not None:
        texts += [str(one), repr(one), repr(one.__dict__)]
        one = one.__cause__ or one.__context__
    return "\n".join(texts)


def test_a_secret_is_in_no_message_traceback_or_log_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = thing(SECRET_KEY="hunter2-hunter2")
    for text in (repr(secret), str(secret), secret.model_dump_json(), repr(shown(secret)), repr(secret.model_dump())):
        assert "hunter2" not in text
    with pytest.raises(InvalidSettings, match=r"^WATTRING_INGEST__SECRET_KEY: .* at least 12") as caught:
        thing(SECRET_KEY="hunter2")
    assert "hunter2" not in everything_of(caught.value)
    for variables in (
        {"SECRET_KEY": "hunter2-hunter2", "LOW": "9"},
        {"MORE_KEYS": '["a", ["hunter2"]]'},
        {"MORE_KEYS": '{"hunter2": "hunter2"}'},
        {"POLLING": '{"first_password": "hunter2"}'},
    ):
        with pytest.raises(InvalidSettings) as caught:
            thing(**variables)
        assert "hunter2" not in everything_of(caught.value)
    assert "hunter2" not in "".join(repr(vars(record)) for record in caplog.records)


def test_the_settings_in_use_are_logged_and_shown_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    thing(SECRET_KEY="hunter2-hunter2", POLLING__INTERVAL_S="5")
    (record,) = caplog.records
    assert record.getMessage() == "settings in use"
    assert vars(record)["section"] == "ingest"
    facts = vars(record)["settings"]
    assert facts["polling"]["interval_s"] == 5.0
    assert facts["secret_key"] == "***"
    common = shown(load_common({"DATABASE_URL": URL, "PORT": "81"}))
    assert common["database"]["url"] == "***"
    assert (common["port"], common["data_dir"], common["bus"]["kind"]) == (81, ".data", "postgres")


# -- rules on the models --------------------------------------------------------------------------


@pytest.mark.parametrize("model", [CommonSettings, DatabaseSettings, BusSettings])
def test_every_setting_is_described_and_none_is_named_like_a_file(model: type[SettingsModel]) -> None:
    for name, field in model.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, SettingsModel)
        assert field.description or nested, name
        assert not name.endswith("_file"), name


def test_durations_end_in_s() -> None:
    for model in (CommonSettings, DatabaseSettings, BusSettings):
        for name, field in model.model_fields.items():
            if field.annotation is float:
                assert name.endswith("_s"), name


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"PORT": "70000"}, "PORT:应为不大于 65535,实际为 '70000'"),
        ({"LOG_LEVEL": "LOUD"}, "LOG_LEVEL:应为'DEBUG', 'INFO', 'WARNING' 或 'ERROR',实际为 'LOUD'"),
        ({"DATABASE_URL": "mysql://db"}, "DATABASE_URL:应为 postgresql://"),
    ],
)
def test_what_is_expected_is_said_in_chinese(environ: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_common(environ)
    assert str(caught.value.message_zh).startswith(message)


@pytest.mark.parametrize(
    "url", ["postgresql://u:p@db:99999/x", "postgresql://a:1,b:70000/x", "postgresql://u@[::1]:66000"]
)
def test_a_port_beyond_all_is_no_address(url: str) -> None:
    with pytest.raises(InvalidSettings, match="DATABASE_URL: expected postgresql://user:password@host:port/name"):
        load_common({"DATABASE_URL": url})


@pytest.mark.parametrize(
    "url", ["postgresql://u:99999@db:5432/x", "postgresql://[::1]:5432/x", "postgresql:///x?host=/a:b"]
)
def test_a_number_that_is_no_port_is_none(url: str) -> None:
    assert load_common({"DATABASE_URL": url}).database.url is not None
