"""``deploy/env.example`` names every setting there is, and nothing else."""

import re
from pathlib import Path

import pytest

from libs.common.settings import SERVICES, load_common, load_section
from libs.suite.envexample import sections, text, variables

ROOT = Path(__file__).parents[3]


def test_committed_file_is_what_the_models_say() -> None:
    committed = (ROOT / "deploy" / "env.example").read_text(encoding="utf-8")
    assert committed == text(), "run: python -m libs.suite.envexample > deploy/env.example"


def test_every_service_has_its_section() -> None:
    assert set(SERVICES) <= set(sections())


def test_every_setting_says_what_it_is_for() -> None:
    for section, model in sections().items():
        for name, field in variables(model, f"{section}: "):
            assert field.description, f"{name} has no description"


def test_shown_defaults_are_taken_back_as_they_are() -> None:
    shown = dict(re.findall(r"^# ([A-Z_]+[A-Z0-9_]*)=(.+)$", text(), flags=re.MULTILINE))
    assert load_common(shown) == load_common({"LOG_LEVEL": "INFO"})
    for section, model in sections().items():
        assert load_section(section, model, shown) == load_section(section, model, {"LOG_LEVEL": "INFO"}), section


@pytest.mark.parametrize("file", ["deploy/env.example", "deploy/compose.yaml", "k8s/base/config.yaml", "Makefile"])
def test_no_file_carries_a_secret(file: str) -> None:
    content = re.sub(r"\$\{[^}]*\}", "", (ROOT / file).read_text(encoding="utf-8"))  # filled in from elsewhere
    assert re.findall(r"(?im)^[^#\n]*(?:password|secret_key)\w*[ ]*[:=][ ]*(\S.*)$", content) == []
