"""What docs/integrators.md tells an integrator to type, typed: clients generated from the committed description.

A suite with three real breakers on sockets is asked by the Python client and by the TypeScript client at the same
time: sites, energy, an order that is followed, a signed callback. Everything of the integrator's runs in an
environment of its own, with the versions that the examples name.
"""

import asyncio
import json
import re
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from libs.common.errors import PlatformError
from libs.common.settings import CommonSettings
from libs.suite.api import LocalApi
from libs.suite.breakers import BreakerField, load_id, registry_of, write_profile
from libs.suite.openapi import trouble
from libs.suite.ports import free_port
from tests.conftest import ROOT
from tests.e2e.running import PATIENCE_S, Running, environment
from tests.peers.environments import peer_node, peer_python

pytestmark = [pytest.mark.e2e, pytest.mark.integration, pytest.mark.postgres, pytest.mark.timeout(300)]

DOCUMENT = ROOT / "docs" / "api" / "openapi.json"
EXAMPLES = ROOT / "docs" / "examples"
SCOPES = ["ingest:read", "carbon:read", "control:read", "control:switch", "export:read", "export:write"]
"""What the key of an integrator needs for the examples, as docs/integrators.md says."""
UNITS = 3
"""One for each client, and one by which the test sees that switching works."""
FEED = {
    "devices": [{"id": "meter-0", "name": "Meter", "kind": "meter_3p", "site": "s-0"}],
    "circuits": [{"id": "c-0", "name": "Feed", "level": 1, "role": "site_feed", "site": "s-0"}],
    "bindings": [{"id": "b-0", "name": "Meter of the feed", "device": "meter-0", "circuit": "c-0"}],
}
KWH = 4.0
"""In each of the three hours that were reported, every quarter of an hour. [kWh]"""


async def run(*command: str | Path, env: Mapping[str, str], folder: Path) -> list[str]:
    """Run a program of the integrator's to its end; return the lines that it printed."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{command}:\n{out.decode()}"
    return out.decode().splitlines()


async def python_client(folder: Path) -> list[str | Path]:
    """Generate the Python client; return the command that uses it."""
    python = peer_python("integrator")
    path = f"{python.parent}:/usr/bin:/bin"  # the generator formats what it wrote with its own ruff
    said = await run(
        python.parent / "openapi-python-client", "generate", "--path", DOCUMENT, "--meta", "none", "--fail-on-warning",
        "--config", EXAMPLES / "python" / "generator.yaml", "--output-path", folder / "wattring_client",
        env={"PATH": path}, folder=folder,
    )  # fmt: skip
    assert not [line for line in said if "WARNING" in line]
    return [python, folder / "first_steps.py"]


async def typescript_client(folder: Path) -> list[str | Path]:
    """Generate the types, compile the program against them; return the command that runs it."""
    env = peer_node("integrator-ts")
    modules = Path(env["NODE_PATH"])
    scripts = json.loads((EXAMPLES / "typescript" / "package.json").read_text(encoding="utf-8"))["scripts"]
    generate, build = (scripts[name].split(" ") for name in ("generate", "build"))
    generate[generate.index("../../api/openapi.json")] = str(DOCUMENT)
    await run(modules / ".bin" / generate[0], *generate[1:], env=env, folder=folder)
    await run(modules / ".bin" / build[0], *build[1:], env=env, folder=folder)
    return ["node", folder / "built" / "first_steps.js"]


def registry(field: BreakerField) -> bytes:
    """Return the registry file: three radio units behind breakers, and the meter of their site."""
    document = registry_of(field)
    for kind, entities in FEED.items():
        document[kind] = document.get(kind, []) + entities
    return json.dumps(document).encode()  # JSON is YAML


async def prepare(api: LocalApi, field: BreakerField) -> str:
    """Put everything there; return the secret of the integrator's key once energy is booked and a breaker obeys."""
    await asyncio.to_thread(
        api.upload, "imports", registry(field), media_type="application/yaml", kind="registry", file="registry.yaml"
    )
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    reports = [
        {"device_id": "meter-0", "source_time": (hour - timedelta(hours=4, minutes=-15 * quarter)).isoformat(),
         "points": {"energy_active_import": 100.0 + KWH / 4 * quarter}}
        for quarter in range(13)
    ]  # fmt: skip
    await asyncio.to_thread(api.post, "readings", reports)
    times = {"from": (hour - timedelta(hours=4)).isoformat(), "to": (hour - timedelta(hours=1)).isoformat()}

    async def holds(what: str, ask: Callable[[], bool]) -> None:
        refusal = ""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    try:
                        if await asyncio.to_thread(ask):
                            return
                    except PlatformError as exc:
                        refusal = exc.message
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"never: {what}; {refusal}") from None

    def booked() -> bool:
        return [one["energy_kwh"] for one in api.get("energy", site="s-0", step="hour", **times)["periods"]] == [
            KWH
        ] * 3

    def read() -> bool:
        found = {one["device_id"] for one in api.get("readings/latest", site="s-0")["items"]}
        return found >= {f"brk-{number}" for number in range(UNITS)}

    def taken() -> bool:
        restore_at = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        order = {"action": "open", "load_id": load_id(UNITS - 1), "restore_at": restore_at, "reason": "test"}
        return not api.post("commands", order)["refused"]

    await holds("energy is booked", booked)
    await holds("breakers are read", read)
    await holds("an OFF is taken", taken)
    await holds("it is off", lambda: not field.breakers[UNITS - 1].closed)
    key = await asyncio.to_thread(api.post, "api-keys", {"name": "integrator", "scopes": SCOPES})
    return str(key["secret"])


async def as_described(url: str, secret: str) -> None:
    """The committed description is the running suite's, and every example in it is a body that the suite takes."""
    headers = {"authorization": f"Bearer {secret}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE_S, trust_env=False) as client:
        document = (await client.get("/api/openapi.json")).json()
        assert trouble(DOCUMENT, document) == []
        asked = 0
        for path, item in document["paths"].items():
            for method, operation in item.items():
                for kind, content in operation.get("requestBody", {}).get("content", {}).items():
                    if "example" not in content or path == "/api/v1/auth/sign-in":
                        continue
                    given = {one["name"]: sample(document, one) for one in operation.get("parameters", ())}
                    body = content["example"]
                    answer = await client.request(
                        method, path.format_map(given), headers={"content-type": kind},
                        content=body if isinstance(body, str) else json.dumps(body),
                    )  # fmt: skip
                    problem = answer.json() if answer.status_code == 422 else {"facts": {}}
                    wrong = [one for one in problem["facts"].get("problems", ()) if one["field"].startswith("body")]
                    assert not wrong, f"{method} {path}: {wrong}"
                    assert answer.status_code != 500, f"{method} {path}: {answer.text}"  # 503: a device is silent
                    asked += 1
        assert asked > 100


def sample(document: dict[str, Any], parameter: dict[str, Any]) -> Any:
    """Return a value that a parameter of a path may have."""
    schema = parameter["schema"]
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "enum" in schema:
        return schema["enum"][0]
    return 1 if schema.get("type") == "integer" else "2027-01-01" if schema.get("format") == "date" else "example-1"


def copied(folder: Path) -> tuple[Path, Path]:
    """Return folders with the programs of docs/examples, in Python and in TypeScript."""
    python, typescript = folder / "python", folder / "typescript"
    shutil.copytree(EXAMPLES / "python", python)
    shutil.copytree(EXAMPLES / "typescript", typescript)
    (typescript / "node_modules").symlink_to(peer_node("integrator-ts")["NODE_PATH"])
    return python, typescript


async def test_generated_clients_read_energy_order_and_take_the_signed_callback(
    tmp_path: Path, postgres_url: str
) -> None:
    peer_python("integrator")  # it and the other are missed before anything is started
    python, typescript = copied(tmp_path)
    clients = await asyncio.gather(python_client(python), typescript_client(typescript))
    field = BreakerField(UNITS)
    await field.start()
    folder, port = tmp_path / "data", free_port()
    write_profile(tmp_path / "profiles")
    env = environment(
        folder, DATABASE_URL=postgres_url, PORT=str(port),
        WATTRING_PROFILE_DIRS=json.dumps([str(tmp_path / "profiles")]),
        WATTRING_INGEST__SWITCHING__CLOCK_SYNC="assumed", WATTRING_CONTROL__CLOCK_SYNC="assumed",
        WATTRING_CONTROL__MIN_OFF_S="1", WATTRING_CONTROL__MIN_ON_S="0",
        WATTRING_INGEST__OUTGOING_ALLOWED='["127.0.0.0/8"]', WATTRING_EXPORT__CALLBACKS__ALLOWED='["127.0.0.1"]',
    )  # fmt: skip
    try:
        with Running("up", env=env, output=tmp_path / "up.out") as suite:
            await asyncio.to_thread(suite.said, "^ready ")
            with LocalApi(CommonSettings(data_dir=folder)) as api:
                secret = await prepare(api, field)
            before = [breaker.switched for breaker in field.breakers]
            said = await asyncio.gather(
                *(
                    run(
                        *command, f"http://127.0.0.1:{port}", load_id(number), f"http://127.0.0.1:{free_port()}/hooks",
                        env={"PATH": env["PATH"], "WATTRING_KEY": secret}, folder=tmp_path,
                    )
                    for number, command in enumerate(clients)
                )
            )  # fmt: skip
            for number, lines in enumerate(said):
                assert lines[0] == "site s-0 Site 0"
                energy = [re.fullmatch(r"energy s-0 (\S+) (\S+) kWh", line) for line in lines]
                assert [float(found[2]) for found in energy if found] == [KWH] * 3
                assert lines[-3] == "order succeeded"
                assert re.fullmatch(r'callback wattring.command.result.v1 load/\S+ "succeeded"', lines[-2])
                assert lines[-1] == "order succeeded"
                assert field.breakers[number].switched - before[number] == 2
            with LocalApi(CommonSettings(data_dir=folder)) as api:
                everything = api.post("api-keys", {"name": "everything", "scopes": ["*:*"]})["secret"]
            await as_described(f"http://127.0.0.1:{port}", everything)
    finally:
        await field.stop()
