"""Manifests against the schemas of KServe and Kubernetes, and against the rules that no schema holds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.core.errors import DataError
from components.core.spec import DiseaseSpec, Resources, Toleration
from components.register import inference_service
from tests.infra.crd import errors

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "infra" / "kubernetes"
SERVICES, RUNTIMES = "serving.kserve.io_inferenceservices.yaml", "serving.kserve.io_servingruntimes.yaml"
DIGEST = "0" * 64
SPEC = DiseaseSpec.from_toml(ROOT / "pipelines/diseases/lung-nodule.toml")
GPU = Resources(
    cpu=4, memory_gb=16, gpu=1, node_selector={"dxflow.io/pool": "gpu"},
    tolerations=(Toleration(key="nvidia.com/gpu"), Toleration(key="pool", operator="Equal", value="gpu", effect="NoExecute")),
)  # fmt: skip


def made(**changes: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "name": "lung-nodule", "uri": f"s3://dxflow/packages/models/lung-nodule/{DIGEST}", "digest": DIGEST, "verdict": "pass", "synthetic": False,
        "resources": Resources(cpu=2, memory_gb=4),
    }  # fmt: skip
    return inference_service.build(SPEC, **(facts | changes))


SYNTHETIC = {"name": "synthetic/lung-nodule", "synthetic": True}


@pytest.mark.parametrize("changes", [{}, {"resources": GPU}, SYNTHETIC, {"uri": f"file:///home/x/.dxflow/store/models/lung-nodule/{DIGEST}"}])
def test_what_register_writes_fits_the_schema(changes: dict[str, Any]):
    manifest = yaml.safe_load(inference_service.to_yaml(made(**changes)))
    assert manifest == made(**changes)
    assert errors(manifest, SERVICES, "v1beta1") == []
    assert inference_service.violations(manifest) == []


def test_the_schema_check_refuses_what_kserve_does_not_know():
    """The check itself must bite: a misspelt field, a wrong type, a missing name."""
    for change, word in (
        (lambda m: m["spec"]["predictor"].update(minReplica=1), "minReplica"),
        (lambda m: m["spec"]["predictor"].update(minReplicas="one"), "minReplicas"),
        (lambda m: m["spec"]["predictor"]["containers"][0]["readinessProbe"]["httpGet"].pop("port"), "port"),
        (lambda m: m["spec"]["predictor"]["containers"][0].update(volumes=[]), "volumes"),
    ):
        manifest = copy.deepcopy(made())
        change(manifest)
        assert any(word in error for error in errors(manifest, SERVICES, "v1beta1"))


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"]["predictor"]["containers"][0]


BREAKS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "deploymentMode is neither": lambda m: m["metadata"]["annotations"].update({"serving.kserve.io/deploymentMode": "RawDeployment"}),
    "canaryTrafficPercent is ignored": lambda m: m["spec"]["predictor"].update(canaryTrafficPercent=10),
    "not a DNS label": lambda m: m["metadata"].update(name="2-lungs"),
    "maxReplicas is below": lambda m: m["spec"]["predictor"].update(minReplicas=2),
    "service account token": lambda m: m["spec"]["predictor"].pop("automountServiceAccountToken"),
    "no fixed tag": lambda m: container(m).update(image="registry.example:5000/dxflow-serving"),
    "no readinessProbe": lambda m: container(m).pop("readinessProbe"),
    "runAsNonRoot is not true": lambda m: container(m)["securityContext"].pop("runAsNonRoot"),
    "runs as root": lambda m: container(m)["securityContext"].update(runAsUser=0),
    "readOnlyRootFilesystem": lambda m: container(m)["securityContext"].update(readOnlyRootFilesystem=False),
    "capabilities": lambda m: container(m)["securityContext"].update(capabilities={"drop": []}),
    "no memory limit": lambda m: container(m)["resources"]["limits"].pop("memory"),
    "nvidia.com/gpu differ": lambda m: container(m)["resources"]["limits"].update({"nvidia.com/gpu": "1"}),
    "secret in plain text": lambda m: container(m)["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}),
    "password in an address": lambda m: container(m)["env"].append({"name": "MLFLOW_URI", "value": "https://user:hunter2@host/"}),
    "nothing that KServe can fetch": lambda m: container(m)["env"][0].update(value="file:///home/x/store"),
}


@pytest.mark.parametrize("words", BREAKS)
def test_a_rule_that_no_schema_holds_is_found_broken(words: str):
    manifest = copy.deepcopy(made())
    BREAKS[words](manifest)
    assert [v for v in inference_service.violations(manifest) if words in v]


def test_a_manifest_that_breaks_a_rule_is_not_written():
    with pytest.raises(DataError, match="InferenceService 2lungs: the name is not a DNS label"):
        made(name="2lungs")
    with pytest.raises(DataError, match="no fixed tag"):
        made(image="dxflow-serving:latest")
    assert made(image="registry.example/dxflow-serving@sha256:" + DIGEST)


def test_a_gpu_brings_its_node_and_its_tolerations():
    manifest = made(resources=GPU)
    asked = container(manifest)["resources"]
    assert asked["requests"] == asked["limits"] == {"cpu": "4000m", "memory": "16384Mi", "nvidia.com/gpu": "1"}
    assert manifest["spec"]["predictor"]["nodeSelector"] == {"dxflow.io/pool": "gpu"}
    assert manifest["spec"]["predictor"]["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "pool", "operator": "Equal", "value": "gpu", "effect": "NoExecute"},
    ]


def test_synthetic_and_refused_say_so():
    synthetic, refused, good = made(**SYNTHETIC), made(verdict="insufficient evidence"), made()
    assert "--allow-synthetic" in container(synthetic)["command"]
    assert synthetic["metadata"]["name"] == "synthetic-lung-nodule"
    assert synthetic["metadata"]["labels"]["dxflow.io/synthetic"] == "true"
    assert "SYNTHETIC DATA" in inference_service.to_yaml(synthetic)
    assert "NOT APPROVED: the verdict is 'insufficient evidence'" in inference_service.to_yaml(refused)
    for text in (inference_service.to_yaml(good),):
        assert "--allow-synthetic" not in text
        assert "NOT APPROVED" not in text


def test_a_folder_store_becomes_a_claim():
    manifest = made(uri=f"file:///home/x/models/store/models/synthetic/lung-nodule/{DIGEST}")
    assert container(manifest)["env"][0]["value"] == f"pvc://dxflow-store/models/synthetic/lung-nodule/{DIGEST}"


def test_the_example_is_what_register_writes():
    assert (MANIFESTS / "inference-service.yaml").read_text() == inference_service.to_yaml(made())


def test_the_runtime_fits_the_schema_and_the_rules():
    (runtime,) = yaml.safe_load_all((MANIFESTS / "serving-runtime.yaml").read_text())
    assert errors(runtime, RUNTIMES, "v1alpha1") == []
    held, given = runtime["spec"]["containers"][0], container(made())
    for key in ("image", "command", "ports", "securityContext", "volumeMounts", "lifecycle"):
        assert held[key] == given[key], key


def test_the_runtimes_optional_lines_fit_too_and_hold_no_password():
    """What stands as a comment is a setting once its marks are gone."""
    text = (MANIFESTS / "serving-runtime.yaml").read_text()
    wanted = "\n".join(line.replace("    # ", "    ", 1) if line.startswith(("    # - ", "    #   ")) else line for line in text.splitlines())
    runtime = yaml.safe_load(wanted)
    assert errors(runtime, RUNTIMES, "v1alpha1") == []
    names = {e["name"]: e for e in runtime["spec"]["containers"][0]["env"]}
    assert names["DXFLOW_ONLINE_STORE"]["value"].startswith("rediss://")
    assert set(names["DXFLOW_ONLINE_STORE_PASSWORD"]) == {"name", "valueFrom"}
    manifest = made()
    container(manifest)["env"] += [names["DXFLOW_ONLINE_STORE"], names["DXFLOW_ONLINE_STORE_PASSWORD"]]
    assert inference_service.violations(manifest) == []


def test_core_resources_fit_kubernetes():
    import kubernetes_validate

    documents = list(yaml.safe_load_all((MANIFESTS / "serving.yaml").read_text()))
    assert [d["kind"] for d in documents] == ["ServiceAccount", "PersistentVolumeClaim", "NetworkPolicy"]
    for document in documents:
        kubernetes_validate.validate(document, "1.31", strict=True)
    names = {(d["kind"], d["metadata"]["name"]) for d in documents}
    predictor = made()["spec"]["predictor"]
    assert ("ServiceAccount", predictor["serviceAccountName"]) in names
    assert ("PersistentVolumeClaim", predictor["volumes"][1]["persistentVolumeClaim"]["claimName"]) in names


def test_no_manifest_holds_a_secret():
    for path in MANIFESTS.glob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            assert document["kind"] != "Secret", path.name
            assert "stringData" not in str(document), path.name
