"""The image's recipe, and what it relies on: each service runs from its own distribution alone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from libs.common.settings import SERVICES
from tests.conftest import missing

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")


def test_tool_is_the_version_of_the_makefile() -> None:
    wanted = re.search(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert wanted is not None
    assert f"uv=={wanted[1]}" in DOCKERFILE


def test_image_does_not_run_as_root_and_is_probed() -> None:
    assert re.search(r"^USER 10001$", DOCKERFILE, re.MULTILINE)
    assert "/livez" in DOCKERFILE
    assert "ARG SERVICE" in DOCKERFILE


def test_versions_in_the_image_support_the_sources() -> None:
    wanted = re.search(r'requires-python = ">=(3\.\d+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert wanted is not None
    assert set(re.findall(r"^FROM python:(3\.\d+)-", DOCKERFILE, re.MULTILINE)) == {wanted[1]}


@pytest.mark.integration
@pytest.mark.parametrize("service", SERVICES)
def test_service_runs_from_its_own_distribution_alone(service: str, tmp_path: Path) -> None:
    """The full environment hides a dependency that a distribution forgot to name; this one does not."""
    uv = next((str(path) for path in (ROOT / ".tools/bin/uv",) if path.exists()), None) or shutil.which("uv")
    if uv is None:
        missing("uv (run `make setup`)")
    source = tmp_path / "src"
    for part in ("libs/common", f"services/{service}"):
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / file, source / file)
    environ = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(tmp_path / "venv"), "UV_PYTHON_DOWNLOADS": "never"}
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        environ.pop(name, None)
    package = ["--package", f"wattring-{service}"]
    synced = subprocess.run(
        [uv, "sync", "--frozen", "--no-dev", "--no-editable", *package, "--python", sys.executable],
        cwd=source, env=environ, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert synced.returncode == 0, synced.stderr
    shutil.rmtree(source)
    code = (
        f"import services.{service}.main as m, libs.common.migrations as s;"
        f"print(m.__file__, len(s.revisions('{service}')), s.installed_schemas())"
    )
    ran = subprocess.run(
        [tmp_path / "venv/bin/python", "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    place, revisions, schemas = ran.stdout.split(maxsplit=2)
    assert str(tmp_path / "venv") in place
    assert int(revisions) > 0, "its schema changes are in the wheel"
    assert schemas.strip() == str(("bus", service))
