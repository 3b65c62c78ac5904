"""The whole API, asked everything that its description allows and much that it does not, by a tool of others.

Schemathesis derives requests from the OpenAPI page: valid ones at every limit, and ones that break one rule each. None
may be answered with a server error, and every answer must have a status, a type and a shape that the page names. What
``asked_once`` leaves out is asked in the long form.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from libs.common.settings import CommonSettings
from libs.suite.api import LocalApi
from libs.suite.ports import free_port
from services.gateway.domain import SERVICE_OF
from tests.conftest import LONG
from tests.e2e.running import Running, environment

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.postgres, pytest.mark.timeout(800)]

REGISTRY = """\
schema: registry/1
sites:
  - {id: site-1, code: GZ-1, name: Baiyun 3, kind: base_station}
devices:
  - {id: meter-1, name: Meter, kind: meter_3p, site: site-1}
"""
NOT_ASKED = "/api/v1/(live|auth/.*|(regions|organisations|rooms|lines|sims|circuits|bindings|loads)(/.*)?)$"
"""A stream without an end; signing in, which locks out who fails too often; and eight of the registry's ten kinds,
which go by the code of the other two."""

ASKED_ONCE = Path(__file__).with_name("asked_once.py")
CONFIGURATION = """\
[checks]  # what is not said here is checked
positive_data_acceptance.enabled = false  # more is asked of a request than a schema can say
allow_header_conformance.enabled = false  # the gateway passes every method on
unsupported_method.enabled = false
ignored_auth.enabled = false  # every request here carries a key that opens
object_level_authorization.enabled = false
use_after_free.enabled = false
ensure_resource_availability.enabled = false

[[operations]]  # a delivery of readings is taken, and what is wrong in it is refused within the answer
include-path-regex = "/api/v1/(readings|rejected/.*/replay)$"
checks.negative_data_rejection.enabled = false
"""


OF_CARBON = f"/api/v1/({'|'.join(segment for segment, service in SERVICE_OF.items() if service == 'carbon')})(/.*)?$"


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param([f"--include-path-regex={OF_CARBON}"], id="of carbon"),
        pytest.param([f"--exclude-path-regex={NOT_ASKED}|{OF_CARBON}"], id="of all others"),
    ],
)
def test_no_request_is_answered_with_a_server_error_or_in_a_way_not_described(
    tmp_path: Path, postgres_url: str, asked: list[str]
) -> None:
    folder, port = tmp_path / "data", free_port()
    env = environment(folder, DATABASE_URL=postgres_url, PORT=str(port))
    with Running("up", env=env, output=tmp_path / "up.out") as suite:
        suite.said("^ready ")
        with LocalApi(CommonSettings(data_dir=folder)) as api:
            api.upload("imports", REGISTRY.encode(), media_type="application/yaml", file="registry.yaml")
            secret = api.post("api-keys", {"name": "everything", "scopes": ["*:*"]})["secret"]
        assert suite.get("/api/openapi.json").status_code == 200  # Schemathesis waits ten seconds for the first one
        (tmp_path / "schemathesis.toml").write_text(CONFIGURATION, encoding="utf-8")
        hooks = {} if LONG else {"SCHEMATHESIS_HOOKS": str(ASKED_ONCE)}
        done = subprocess.run(
            [
                sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/api/openapi.json",
                f"--url=http://127.0.0.1:{port}", f"--header=Authorization: Bearer {secret}",
                "--phases=coverage", "--seed=1", "--continue-on-failure",
                *asked, "--suppress-health-check=all", "--warnings=off",
                "--request-timeout=60", "--no-color",
            ],
            cwd=tmp_path, env=env | hooks, capture_output=True, text=True, timeout=700, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "ended unexpectedly" not in suite.text
    assert "unexpected error" not in (folder / "log" / "suite.log").read_text()
