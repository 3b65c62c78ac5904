"""The targets that people are told of exist and say what they do."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROMISED = {"help", "run", "test", "lint", "fmt", "types", "up", "down", "bench", "fuzz", "clean", "clean-data"}


def test_help_lists_every_target_with_a_description() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    [phony] = re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    command = ["make", "--no-print-directory", "help"]  # make itself prints lines when it was called by another make
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    described = {line.split()[0] for line in shown.splitlines() if len(line.split()) > 1}
    assert described == set(phony.split())
    assert described >= PROMISED


def test_pipeline_runs_what_people_run() -> None:
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "CI=true" in text
    made = [line.partition("#")[0].split()[1:] for line in text.splitlines() if line.startswith("make ")]
    assert [word for words in made for word in words if not word.startswith("-")] == ["lint", "types", "peers", "test"]
    assert text.rstrip().endswith(".ci/demonstration")


def test_scripts_are_executable_and_shells_accept_them() -> None:
    scripts = [*(ROOT / "deploy" / "setup").iterdir(), ROOT / ".ci" / "run", ROOT / ".ci" / "demonstration"]
    assert len(scripts) > 3
    for script in scripts:
        assert script.stat().st_mode & 0o111, script
        subprocess.run(["sh", "-n", script], check=True)
