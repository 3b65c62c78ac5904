"""The base manifests: every process, probed, with few rights, and settings that exist."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from libs.common.settings import SERVICES, load_common, load_section
from libs.suite.envexample import sections
from libs.suite.jobworker import services_with_jobs
from services.control.settings import ControlSettings
from services.control.watchdog.settings import WatchdogSettings
from tests.deploy.suite.needed_settings import IMAGE, ROOT, needed, ours

BASE = ROOT / "k8s" / "base"
PROCESSES = (*SERVICES, "watchdog")


def documents(file: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all((BASE / file).read_text(encoding="utf-8")) if one is not None]


def workload(name: str) -> dict[str, Any]:
    [found] = [one for one in documents(f"{name}.yaml") if one["kind"] in ("Deployment", "StatefulSet")]
    return found


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = workload(name)["spec"]["template"]["spec"]
    return spec


def container(name: str) -> dict[str, Any]:
    found = {one["name"]: one for one in pod(name)["containers"]}
    assert set(found) <= {name, "jobs"}
    assert ("jobs" in found) == (name in services_with_jobs())
    return dict(found[name])


def test_kustomization_lists_every_file() -> None:
    [listed] = documents("kustomization.yaml")
    files = {path.name for path in BASE.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(listed["resources"]) == files
    assert {f"{name}.yaml" for name in PROCESSES} <= files


@pytest.mark.parametrize("name", PROCESSES)
def test_names_agree(name: str) -> None:
    label = {"app.kubernetes.io/name": f"wattring-{name}"}
    services = {one["metadata"]["name"]: one for one in documents(f"{name}.yaml") if one["kind"] == "Service"}
    service = services[name]
    assert workload(name)["metadata"]["name"] == name
    assert workload(name)["spec"].get("serviceName", name) in services
    assert service["spec"]["selector"] == label
    assert workload(name)["spec"]["selector"]["matchLabels"] == label
    assert workload(name)["spec"]["template"]["metadata"]["labels"] == label
    ports = {port["name"] for port in container(name)["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == ports - {"internal"}
    budgets = [one for one in documents("disruption.yaml") if one["spec"]["selector"]["matchLabels"] == label]
    assert len(budgets) == 1


@pytest.mark.parametrize("name", PROCESSES)
def test_probes_ask_the_right_questions(name: str) -> None:
    found = container(name)
    assert found["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert found["startupProbe"]["httpGet"]["path"] == "/livez"
    assert found["readinessProbe"]["httpGet"]["path"] == "/readyz"
    grace_s = pod(name)["terminationGracePeriodSeconds"]
    assert grace_s > load_common({"LOG_LEVEL": "INFO"}).drain_s + 2, "the process must have time to drain"


@pytest.mark.parametrize("name", PROCESSES)
def test_pod_has_few_rights(name: str) -> None:
    spec = pod(name)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for one in (*spec["containers"], *spec.get("initContainers", ())):
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    assert set(container(name)["resources"]["limits"]) == {"memory"}


@pytest.mark.parametrize("name", PROCESSES)
def test_settings_exist_and_are_accepted(name: str) -> None:
    [config] = documents("config.yaml")
    values = dict(config["data"])
    secrets = {"DATABASE_URL": "postgresql://u:p@db/wattring", "WATTRING_INSTANCE": f"{name}-7d9f8b6c5-x2x4z"}
    for variable in container(name)["env"]:
        values[variable["name"]] = variable.get("value", secrets.get(variable["name"], "a-secret-long-enough"))
    common = load_common(values)
    assert common.bus.effective_kind == "kafka"
    assert common.service_urls == {process: f"http://{process}:{IMAGE['WATTRING_PORT']}" for process in PROCESSES}
    for section, model in sections().items():
        load_section(section, model, values)
    identity = next(one for one in container(name)["env"] if one["name"] == "WATTRING_INSTANCE")
    assert identity["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}


@pytest.mark.parametrize("name", PROCESSES)
def test_containers_are_given_what_their_processes_need(name: str, tmp_path: Path) -> None:
    [config] = documents("config.yaml")
    for one in pod(name)["containers"]:
        process = f"{name}-jobs" if one["name"] == "jobs" else name
        assert {"configMapRef": {"name": "wattring"}} in one["envFrom"]
        given = {variable["name"] for variable in one["env"]} | set(config["data"])
        assert needed(process, tmp_path / process) <= ours(given) | set(IMAGE)
        user = {variable["name"]: variable.get("valueFrom") for variable in one["env"]}.get("DATABASE_URL")
        assert user == (
            None if name == "watchdog" else {"secretKeyRef": {"name": "wattring-database", "key": f"{name}-url"}}
        )


def test_monitoring_reaches_every_process_and_nobody_else_does() -> None:
    """Prometheus finds pods by label and ports by name; what stands in no Service, no ingress leads to."""
    job = yaml.safe_load((BASE.parent / "prometheus-scrape.yaml").read_text(encoding="utf-8"))
    assert "metrics_path" not in job, "its default is /metrics"
    kept = {rule["source_labels"][0]: rule["regex"] for rule in job["relabel_configs"] if rule.get("action") == "keep"}
    [config] = documents("config.yaml")
    watched: set[str] = set()
    for name in PROCESSES:
        labels = workload(name)["spec"]["template"]["metadata"]["labels"]
        assert re.fullmatch(
            kept["__meta_kubernetes_pod_label_app_kubernetes_io_name"], labels["app.kubernetes.io/name"]
        )
        taken: list[int] = []
        for one in pod(name)["containers"]:
            env = {variable["name"]: variable.get("value", "") for variable in one["env"]}
            listens = load_common({**IMAGE, **config["data"], "WATTRING_PORT": "8000", **env, "DATABASE_URL": ""})
            ports = {port["name"]: port["containerPort"] for port in one["ports"]}
            [internal] = [
                number
                for port, number in ports.items()
                if re.fullmatch(kept["__meta_kubernetes_pod_container_port_name"], port)
            ]
            assert (listens.internal_host, listens.internal_port) == ("0.0.0.0", internal)
            taken += ports.values()
            watched.add(one["name"])
            for service in documents(f"{name}.yaml"):
                if service["kind"] == "Service":
                    assert not any(port["targetPort"].startswith("internal") for port in service["spec"]["ports"])
        assert len(taken) == len(set(taken)), "the containers of a pod share its address"
    assert watched == {*PROCESSES, "jobs"}


def test_preparations_hold_up_nobody_who_wakes_loads() -> None:
    """A pod that is moved while database or broker is away must still be able to close breakers."""
    assert "initContainers" not in pod("watchdog")
    commands = {name: [one["command"] for one in pod(name)["initContainers"]] for name in SERVICES}
    plain = ["python", "-m", "libs.common.prepare"]
    assert commands == {name: [[*plain, "--if-reachable"] if name == "ingest" else plain] for name in SERVICES}


def test_every_replica_of_ingest_has_a_door_of_its_own() -> None:
    """Behind one address the next connection reaches another process, which does not hold the line."""
    [config] = documents("config.yaml")
    ingest = workload("ingest")["spec"]
    doors = next(one for one in documents("ingest.yaml") if one["metadata"]["name"] == ingest["serviceName"])
    assert doors["spec"]["clusterIP"] == "None", "only then each pod has a name"
    assert doors["spec"]["publishNotReadyAddresses"] is True, "the door is open while database and bus are away"
    assert doors["spec"]["selector"] == ingest["selector"]["matchLabels"]
    [port] = doors["spec"]["ports"]
    wanted = tuple(
        f"http://ingest-{number}.{doors['metadata']['name']}:{port['port']}" for number in range(ingest["replicas"])
    )
    assert load_section("control", ControlSettings, config["data"]).doors == wanted
    assert load_section("watchdog", WatchdogSettings, config["data"]).doors == wanted


@pytest.mark.parametrize("name", PROCESSES)
def test_volumes_and_commands_exist(name: str) -> None:
    claims = [claim["metadata"]["name"] for claim in workload(name)["spec"].get("volumeClaimTemplates", ())]
    volumes = {volume["name"] for volume in pod(name)["volumes"]} | set(claims)
    mounts = {mount["name"]: mount["mountPath"] for mount in container(name)["volumeMounts"]}
    assert set(mounts) == volumes
    assert mounts == {"data": "/data", "scratch": "/tmp", "keys": "/keys"}
    for one in (*pod(name)["containers"], *pod(name).get("initContainers", ())):
        if "command" in one:
            assert importlib.util.find_spec(one["command"][2]) is not None
    sources = next(volume for volume in pod(name)["volumes"] if volume["name"] == "keys")["projected"]["sources"]
    assert {"secret": {"name": f"wattring-key-{name}"}} in sources
