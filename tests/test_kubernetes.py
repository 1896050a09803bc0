"""The files for Kubernetes fit the settings, the image's ports and each other."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
import yaml

from nightmill.settings import WorkerSettings
from nightmill.settings.serving import EventsSettings
from tests.deploying import SECRET, settings_of_all
from tests.stack import ROOT

KUBERNETES = list(yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text()))
EVENTS = list(yaml.safe_load_all((ROOT / "deploy/kubernetes-events.yaml").read_text()))
CONTROLLED = list(yaml.safe_load_all((ROOT / "deploy/worker-controller.yaml").read_text()))


def _pods(documents: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What describes the pods, by the name of what makes them."""
    found = {}
    for document in documents:
        spec = document.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            found[document["metadata"]["name"]] = spec["template"]["spec"]
    return found


PODS = _pods(KUBERNETES + EVENTS)


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_bound(name: str) -> None:
    (container,) = PODS[name]["containers"]
    assert PODS[name]["automountServiceAccountToken"] is False
    assert PODS[name]["securityContext"]["runAsNonRoot"] is True
    assert PODS[name]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container["resources"]["limits"]
    assert container["image"].endswith(f":{_version()}")


def test_pods_that_work_are_asked_how_they_are_and_outlive_their_grace() -> None:
    grace = WorkerSettings().shutdown_grace.total_seconds()
    for name in ("nightmill-worker", "nightmill-slicing"):
        (container,) = PODS[name]["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports == {"health": WorkerSettings().health_port, "metrics": WorkerSettings().metrics_port}
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "health"}
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}
        assert PODS[name]["terminationGracePeriodSeconds"] > grace


def test_every_variable_in_kubernetes_is_a_setting_and_no_secret() -> None:
    (config,) = [document["data"] for document in KUBERNETES if document["kind"] == "ConfigMap"]
    set_here = {one["name"] for pod in PODS.values() for each in pod["containers"] for one in each.get("env", [])}
    used = config.keys() | set_here
    assert used <= settings_of_all()
    assert not any(SECRET.search(name) for name in used)
    assert not any(document["kind"] == "Secret" for document in KUBERNETES + EVENTS + CONTROLLED)


def test_the_receiver_of_events_listens_where_it_is_asked_and_has_a_secret_of_its_own() -> None:
    (container,) = PODS["nightmill-events"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"events": EventsSettings().port, "metrics": WorkerSettings().metrics_port}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": "events"}
    secrets = {source["secretRef"]["name"] for source in container["envFrom"] if "secretRef" in source}
    assert secrets == {"nightmill-events"}
    (service,) = [document["spec"] for document in EVENTS if document["kind"] == "Service"]
    assert service["selector"].items() <= EVENTS[0]["spec"]["template"]["metadata"]["labels"].items()


def test_nothing_is_deleted_before_somebody_says_so() -> None:
    (jobs,) = [document["spec"] for document in KUBERNETES if document["kind"] == "CronJob"]
    assert jobs["suspend"] is True


def test_the_migration_is_named_for_the_version() -> None:
    assert "nightmill-migrate-" + _version().replace(".", "-") in PODS


def test_the_controllers_pods_are_the_deployments() -> None:
    controlled = _pods(CONTROLLED)
    assert controlled == {name: _unspread(PODS[name]) for name in ("nightmill-worker", "nightmill-slicing")}
    connections = {document["metadata"]["name"] for document in CONTROLLED if document["kind"] == "Connection"}
    for document in CONTROLLED:
        if document["kind"] == "WorkerDeployment":
            assert document["spec"]["workerOptions"]["connectionRef"]["name"] in connections


def _unspread(pod: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in pod.items() if name != "topologySpreadConstraints"}


def _version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])
