"""The command line: what it says, and what it refuses."""

from datetime import datetime
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from libs.common.errors import PlatformError
from libs.fieldsim import cli
from libs.fieldsim.cli import app

COMMANDS = ("demo", "meter", "breaker", "stream", "sc", "mqtt", "socket", "opcua", "history", "poll-unit")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_in_two_languages(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "160"})
    assert result.exit_code == 0
    assert "Usage" in result.output
    assert any("\u4e00" <= letter <= "\u9fff" for letter in result.output)


def test_the_commands_are_listed() -> None:
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "160"})
    assert all(command in result.output for command in COMMANDS)


def test_history_of_one_device_to_a_file(tmp_path: Path) -> None:
    out = tmp_path / "history.ndjson"
    arguments = ["--hours", "1", "--period-s", "900", "--device", "meter-tianhe-it", "--until", "2026-11-20T08:00:00"]
    result = CliRunner().invoke(app, ["history", "--out", str(out), *arguments])
    assert result.exit_code == 0, result.output
    reports = [orjson.loads(line) for line in out.read_bytes().splitlines()]
    assert [report["source_time"] for report in reports] == [
        f"2026-11-20T07:{minute:02d}:00Z" for minute in (0, 15, 30, 45)
    ]
    assert {report["device_id"] for report in reports} == {"meter-tianhe-it"}
    assert datetime.fromisoformat(reports[0]["received_at"]).tzinfo is not None


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["breaker", "--poles", "2"], "1 or 3 poles"),
        (["meter", "--units", "1-x"], "is not 1, 1-10 or 1,2,7"),
        (["meter", "--units", "1,1"], "each once"),
        (["meter", "--units", "250-260"], "0 to 255"),
        (["poll-unit", "http://127.0.0.1:1/", "44010643800017", "dance"], "unknown command"),
        (["poll-unit", "http://127.0.0.1:1/", "44010643800017", "set-ftp"], "unknown command"),
        (["poll-unit", "http://127.0.0.1:1/", "4" * 17, "get-hisdata", "--dialect", "Y"], "unknown command"),
    ],
)
def test_a_wrong_argument_is_refused_with_its_reason(arguments: list[str], reason: str) -> None:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})
    assert result.exit_code == 2
    assert reason in result.output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["meter", "--profile", "nobody"], "nobody"),
        (["meter", "--profile", "dlt645_2007_meter"], "Modbus"),
        (["meter", "--fault", "melt"], "melt"),
        (["sc", "--fault", "melt"], "melt"),
        (["poll-unit", "http://127.0.0.1:1/", "4", "--dialect", "Z"], "Z"),
        (["history", "--device", "nobody"], "nobody"),
        (["history", "--field", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_wrong_wish_is_an_error_that_a_person_understands(arguments: list[str], reason: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, PlatformError)
    assert reason in result.exception.message
    assert result.exception.message_zh


def test_main_prints_both_languages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["wattring-fieldsim", "meter", "--profile", "nobody"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("wattring-fieldsim: ") for line in lines] == [True, True]
    assert "不存在" in lines[1]


def test_unit_urls() -> None:
    urls = cli._unit_urls(["http://127.0.0.1:1/a=b", "44010643800017=http://127.0.0.1:2/"])
    assert urls == {"*": "http://127.0.0.1:1/a=b", "44010643800017": "http://127.0.0.1:2/"}
