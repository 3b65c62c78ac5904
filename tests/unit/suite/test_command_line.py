"""The command line: commands, languages, errors as lines."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from libs.common.errors import Problem
from libs.common.settings import SERVICES
from libs.suite import cli
from libs.suite.words import words_for

PROMISED = {"up", "migrate", "topics", "import", "doctor", "demo-report", *SERVICES, "watchdog", "version"}


def listed(lang: str) -> str:
    return CliRunner().invoke(cli.build(words_for(lang)), ["--help"]).output


def test_every_promised_command_is_there_with_a_line() -> None:
    lines = {line.split()[0]: line.split()[1:] for line in listed("en").splitlines() if line.startswith("  ")}
    assert set(lines) >= PROMISED
    assert all(lines[name] for name in PROMISED)
    assert set(cli.SERVICES) == set(SERVICES)


def test_help_is_in_the_language_asked_for() -> None:
    assert "检查本机环境" in listed("zh")
    assert "examine this machine" in listed("en")


@pytest.mark.parametrize(
    ("lang", "environ", "chinese"),
    [
        (None, {}, False),
        (None, {"LANG": "zh_CN.UTF-8"}, True),
        (None, {"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, False),
        ("en", {"LANG": "zh_CN.UTF-8"}, False),
        ("zh", {}, True),
        ("zh-CN", {"LANG": "en_GB.UTF-8"}, True),
    ],
)
def test_language_of_option_and_environment(lang: str | None, environ: dict[str, str], chinese: bool) -> None:
    assert words_for(lang, environ).chinese is chinese


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["--lang", "zh", "up"], "zh"), (["--lang=zh", "up"], "zh"), (["up"], None), (["--lang"], None)],
)
def test_language_is_known_before_the_texts_are_made(arguments: list[str], expected: str | None) -> None:
    assert cli._lang_option(arguments) == expected


def test_help_loads_nothing_heavy() -> None:
    """What makes a command line slow is importing: no database, web or validation library for a help page."""
    code = (
        "import sys; sys.argv = ['wattring', '--help']\n"
        "from libs.suite import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print('LOADED', *sorted(set(sys.modules) & {'asyncpg', 'fastapi', 'pydantic', 'httpx', 'polars', 'alembic'}))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1].split() == ["LOADED"]


def test_misspelt_setting_is_a_line_with_a_proposal() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "libs.suite", "--lang", "en", "doctor"],
        env={"WATTRING_LOG_LEVLE": "DEBUG", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr == "wattring: WATTRING_LOG_LEVLE: there is no such setting; did you mean WATTRING_LOG_LEVEL?\n"


def test_place_of_a_problem_reads_like_a_compilers() -> None:
    assert str(Problem(line=3, field="sites[0].kind", expected="a kind", found="castle")).startswith("3: sites[0].kind")


def test_version_is_the_distributions() -> None:
    result = CliRunner().invoke(cli.build(words_for("en")), ["version"])
    assert result.output.split()[0] == "wattring"
    assert result.exit_code == 0


def test_unknown_phase_is_refused_before_anything_is_touched() -> None:
    result = CliRunner().invoke(cli.build(words_for("en")), ["migrate", "--phase", "later"])
    assert result.exit_code == 2
