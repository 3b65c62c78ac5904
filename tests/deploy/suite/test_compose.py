"""The compose file: every process, started in order, with few rights, and settings that exist."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from libs.common.settings import SERVICES, load_common, load_section
from libs.suite.cluster import ADDRESSED, MODULES, Cluster, service_of
from libs.suite.envexample import sections
from libs.suite.jobworker import services_with_jobs
from tests.deploy.suite.needed_settings import IMAGE, ROOT, needed, ours

PROCESSES = (*SERVICES, "watchdog")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
CONTAINERS: dict[str, dict[str, Any]] = COMPOSE["services"]


def environment(container: str) -> dict[str, str]:
    """Return a container's environment with the values that compose would fill in."""
    filled = {"WATTRING_EXPORT_SECRET_KEY": "A" * 43 + "=", "PORT": "8000"}
    return {
        name: re.sub(r"\$\{(\w+)[^}]*\}", lambda match: filled.get(match[1], "long-enough-secret"), value)
        for name, value in CONTAINERS[container]["environment"].items()
    }


def test_every_process_is_there_and_nothing_else() -> None:
    migrations = {f"prepare-{service}" for service in SERVICES}
    jobs = {name for name in CONTAINERS if name.endswith("-jobs")}
    assert set(CONTAINERS) == {"postgres", "kafka", *PROCESSES, *migrations, *jobs}
    assert jobs == {f"{name}-jobs" for name in services_with_jobs()}


@pytest.mark.parametrize("name", PROCESSES)
def test_settings_exist_and_are_accepted(name: str) -> None:
    values = environment(name)
    common = load_common(values)
    assert (common.bus.effective_kind == "kafka") == (name != "watchdog")
    assert (common.database.url is not None) == (name != "watchdog")
    assert common.service_urls == {process: f"http://{process}:{IMAGE['WATTRING_PORT']}" for process in PROCESSES}
    assert "inside" in CONTAINERS[name]["networks"], "others call it by its name"
    for section, model in sections().items():
        load_section(section, model, values)


@pytest.mark.parametrize("name", [name for name in CONTAINERS if name not in ("postgres", "kafka")])
def test_container_has_few_rights(name: str) -> None:
    container = CONTAINERS[name]
    assert container["user"] == "10001"
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert "privileged" not in container


@pytest.mark.parametrize("name", SERVICES)
def test_service_waits_for_its_schema_and_the_broker(name: str) -> None:
    waits = CONTAINERS[name]["depends_on"]
    assert waits[f"prepare-{name}"] == {"condition": "service_completed_successfully"}
    assert waits["kafka"] == {"condition": "service_healthy"}


def test_watchdog_waits_for_nobody() -> None:
    """It wakes loads while bus and database are away, so it must also start then."""
    assert "depends_on" not in CONTAINERS["watchdog"]


@pytest.mark.parametrize("name", [name for name in CONTAINERS if name not in ("postgres", "kafka")])
def test_operator_has_a_place_for_settings_of_all_processes(name: str) -> None:
    assert CONTAINERS[name]["env_file"] == ["settings.env"]
    assert ">settings.env" in (ROOT / "deploy" / "setup" / "compose-secrets").read_text(encoding="utf-8")


def test_commands_are_modules_that_exist() -> None:
    commands = [container["command"] for container in CONTAINERS.values() if "command" in container]
    assert commands
    for command in commands:
        assert command[:2] == ["python", "-m"]
        assert importlib.util.find_spec(command[2]) is not None, command
    for service in SERVICES:
        assert importlib.util.find_spec(f"services.{service}.__main__") is not None


def test_cluster_of_the_tests_is_what_the_containers_are(tmp_path: Path) -> None:
    """The end-to-end tests start processes without containers; of other ones they would prove nothing."""
    preparations = {name for name in CONTAINERS if name.startswith("prepare-")}
    assert set(MODULES) == set(CONTAINERS) - preparations - {"postgres", "kafka"}
    cluster = Cluster(tmp_path, "postgresql://admin@db/wattring", "kafka:9092")
    for name, module in MODULES.items():
        container, settings = CONTAINERS[name], cluster.settings(name)
        assert container.get("command", ["python", "-m", f"services.{name}"]) == ["python", "-m", module]
        assert container["image"] == f"wattring-{service_of(name)}"
        assert needed(name, tmp_path / name) <= ours(environment(name)) | set(IMAGE)
        if name != "watchdog":
            assert f"//{service_of(name)}:" in environment(name)["DATABASE_URL"], "signs in as its service's own user"
        assert f"./keys/{Path(settings['WATTRING_KEYS_DIR']).name}:/keys:ro" in container["volumes"]
        assert set(json.loads(settings["WATTRING_SERVICE_URLS"])) == set(ADDRESSED)
        assert {key for key in environment(name) if key.startswith("WATTRING_")} - set(settings) <= {
            "WATTRING_EXPORT__UNIT_HOST", "WATTRING_EXPORT__SECRET_KEY", "WATTRING_GATEWAY__FIRST_PASSWORD",
        }  # fmt: skip


def test_only_the_doors_are_published_and_on_loopback() -> None:
    published = {name: container["ports"] for name, container in CONTAINERS.items() if "ports" in container}
    assert set(published) == {"gateway", "export"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    inside = {port.rpartition(":")[2] for ports in published.values() for port in ports}
    assert IMAGE["WATTRING_INTERNAL_PORT"] not in inside, "metrics are for those on the network inside"


def test_broker_is_the_version_that_the_tests_use() -> None:
    pom = ElementTree.parse(ROOT / "deploy" / "kafka" / "pom.xml")  # our own file
    found = pom.find(".//{*}dependency[{*}groupId='org.apache.kafka']/{*}version")
    assert found is not None
    assert CONTAINERS["kafka"]["image"] == f"apache/kafka:{found.text}"


def test_all_volumes_are_declared() -> None:
    used = {
        volume.split(":")[0]
        for container in CONTAINERS.values()
        for volume in container.get("volumes", ())
        if not volume.startswith((".", "/"))
    }
    assert used == set(COMPOSE["volumes"])
    assert json.dumps(COMPOSE["networks"]["inside"]) == '{"internal": true}'
