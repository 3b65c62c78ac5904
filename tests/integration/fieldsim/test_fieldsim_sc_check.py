"""``sc-check`` against units that were written in an afternoon, as a process and in this one, and against nobody."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from libs.fieldsim.cli import app
from tests.peers.naive_unit import T_UNIT, Y_UNIT, naive_unit

pytestmark = pytest.mark.integration

LIMIT_S = 90.0
PATIENT = ("sc-check", "--port", "0", "--timeout-s", "60")


def read(report: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(report.read_bytes())
    return found


def broken(report: dict[str, Any], severity: str = "violation") -> set[str]:
    return {each["rule"] for each in report["findings"] if each["severity"] == severity}


async def test_a_naive_unit_of_t_is_found_out(tmp_path: Path) -> None:
    written = tmp_path / "report.json"
    with naive_unit() as base:
        running = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "libs.fieldsim.cli", *PATIENT, T_UNIT, "--unit-url", f"{base}/services/FSUService",
            "--report", str(written), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(LIMIT_S):
                out, errors = await running.communicate()
        finally:
            if running.returncode is None:
                running.kill()
                await running.wait()
    assert running.returncode == 1, errors.decode()
    report, text = read(written), out.decode()
    assert report["verdict"] == "violations"
    assert broken(report) == {"value", "wrong_unit", "wrong_pair", "hostile_xml", "result", "transport"}
    assert broken(report, "unconfirmed") == {"unknown_command", "wire_form", "selection", "hostile_xml"}
    steps = {step["title"]: step["outcome"] for step in report["steps"]}
    assert steps["heartbeat"] == steps["time"] == steps["alive after all that"] == "passed"
    fetched = [each["where"] for each in report["findings"] if "fetched" in each["text"]]
    assert fetched == ["an external entity in the envelope"], "it came to the trap"
    [taken] = [each for each in report["findings"] if each["where"] == "a DTD in the envelope"]
    assert (taken["severity"], taken["section"]) == ("violation", "9.7, SOAP 1.1 section 3")
    assert "不符合" in text
    assert "dialect T" in text


def test_of_y_only_what_is_known_can_be_violated(tmp_path: Path) -> None:
    written = tmp_path / "report.json"
    with naive_unit() as base:
        arguments = [Y_UNIT, "--dialect", "y", "--unit-url", f"{base}/services/SUService", "--report", str(written)]
        done = CliRunner().invoke(app, [*PATIENT, *arguments])
    report = read(written)
    assert done.exit_code == 1
    assert "hostile_xml" in broken(report)
    assert [each["text"] for each in report["findings"] if each["rule"] == "field_value"] == [
        "FTPPort is 'ftp', not its form"
    ]
    guessed = [each for each in report["findings"] if each["evidence"] == "R"]
    assert guessed
    assert all(each["severity"] == "unconfirmed" for each in guessed)
    assert "very-secret" not in json.dumps(report) + done.output


def test_nobody_there(tmp_path: Path) -> None:
    written = tmp_path / "report.json"
    done = CliRunner().invoke(app, [*PATIENT, T_UNIT, "--wait-s", "0", "--report", str(written)])
    report = read(written)
    assert (done.exit_code, report["verdict"], report["steps"]) == (3, "not_reached", [])
    assert "could not be reached" in done.output
