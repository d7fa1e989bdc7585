"""The KServe InferenceService of a package: a custom predictor that loads the package from the store and answers on port 8080.

A schema does not know what KServe's webhooks and controllers do with a manifest, so `violations` adds what bit others: an old deployment mode,
a canary that Standard mode ignores, a container without probes, a secret in plain text.
"""

from __future__ import annotations

import re
from typing import Any

from components.core.errors import DataError
from components.core.spec import DiseaseSpec, Resources

IMAGE = "dxflow-serving:0.1.0"
PORT = 8080
ALL = "0.0.0.0"  # noqa: S104 - inside the pod's own network; the NetworkPolicy lets only the gateway in
USER = 1000  # of the image
HOME = "/var/lib/dxflow"
KEY = "/etc/dxflow/pseudonym.key"
TOKENS = "/etc/dxflow-tokens/tokens"  # who may ask: beyond loopback the server does not start without it
STORE_CLAIM = "dxflow-store"


def build(
    spec: DiseaseSpec,
    *,
    name: str,
    uri: str,
    digest: str,
    verdict: str,
    synthetic: bool,
    resources: Resources,
    image: str = IMAGE,
    precision: str = "f32",
) -> dict[str, Any]:
    """The manifest.

    Args:
        name: Package name, `<disease>` or `synthetic/<disease>`.
        uri: Of the package in the store. A folder store becomes a claim named `dxflow-store` that holds its root.
        precision: What registration chose for servers to compute in. The server reads it in the package; here people and policies do.
        resources: What the server asks for; a GPU brings its resource name, node selector and tolerations.

    Raises:
        DataError: A rule that no schema checks would be broken.
    """
    command = [
        "python", "-m", "pipelines", "serve", "/mnt/models", "--host", ALL, "--port", str(PORT), "--log", f"{HOME}/inference-log", "--tokens", TOKENS,
    ]  # fmt: skip
    cpu, memory = f"{round(resources.cpu * 1000)}m", f"{round(resources.memory_gb * 1024)}Mi"
    asked: dict[str, str] = {"cpu": cpu, "memory": memory} | ({resources.gpu_resource: str(resources.gpu)} if resources.gpu else {})
    probe = {"httpGet": {"path": "/v2/health/ready", "port": PORT}, "timeoutSeconds": 2}
    container = {
        "name": "kserve-container",
        "image": image,
        "command": command + (["--allow-synthetic"] if synthetic else []),
        "ports": [{"name": "http1", "containerPort": PORT, "protocol": "TCP"}],
        "env": [
            {"name": "STORAGE_URI", "value": _storage_uri(uri)},  # KServe's initialiser puts it into /mnt/models
            {"name": "DXFLOW_HOME", "value": HOME},
            {"name": "DXFLOW_KEY_FILE", "value": KEY},
            {"name": "OMP_NUM_THREADS", "value": str(max(1, int(resources.cpu)))},
        ],
        "resources": {"requests": dict(asked), "limits": dict(asked)},
        "startupProbe": {**probe, "periodSeconds": 2, "failureThreshold": 60},
        "readinessProbe": {**probe, "periodSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {"httpGet": {"path": "/v2/health/live", "port": PORT}, "timeoutSeconds": 2, "periodSeconds": 10, "failureThreshold": 6},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "10"]}}},  # the server refuses new connections at once: routes must go first
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": USER,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "home", "mountPath": HOME},
            {"name": "pseudonym-key", "mountPath": KEY.rpartition("/")[0], "readOnly": True},
            {"name": "tokens", "mountPath": TOKENS.rpartition("/")[0], "readOnly": True},
        ],
    }
    predictor: dict[str, Any] = {
        "minReplicas": 1,
        "maxReplicas": 1,  # the inference log and the online profiles live on one volume
        "timeout": 60,
        "serviceAccountName": "dxflow-serving",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 40,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
            {"name": "home", "persistentVolumeClaim": {"claimName": "dxflow-serving"}},
            {"name": "pseudonym-key", "secret": {"secretName": "dxflow-pseudonym", "items": [{"key": "pseudonym.key", "path": "pseudonym.key"}]}},
            {"name": "tokens", "secret": {"secretName": "dxflow-tokens", "defaultMode": 0o440, "items": [{"key": "tokens", "path": "tokens"}]}},
        ],
    }
    if resources.node_selector:
        predictor["nodeSelector"] = dict(resources.node_selector)
    if resources.tolerations:
        predictor["tolerations"] = [_toleration(t) for t in resources.tolerations]
    manifest = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": name.replace("/", "-"),
            "labels": {"app.kubernetes.io/part-of": "dxflow", "dxflow.io/disease": spec.name, "dxflow.io/synthetic": str(synthetic).lower()},
            "annotations": {
                "serving.kserve.io/deploymentMode": "Standard",
                "dxflow.io/package-digest": digest,
                "dxflow.io/verdict": verdict,
                "dxflow.io/precision": precision,
            },
        },
        "spec": {"predictor": predictor},
    }
    if found := violations(manifest):
        raise DataError(found[0], where=f"InferenceService {name}")
    return manifest


def to_yaml(manifest: dict[str, Any]) -> str:
    """YAML with a line of warning above what must not meet a patient."""
    import yaml

    facts = manifest["metadata"]
    lines = [
        "# Written by dxflow register. Needs: ServiceAccount dxflow-serving, claim dxflow-serving, secret dxflow-pseudonym (infra/kubernetes).\n"
    ]
    if facts["labels"]["dxflow.io/synthetic"] == "true":
        lines.append("# SYNTHETIC DATA: for rehearsal only, never for patients.\n")
    elif facts["annotations"]["dxflow.io/verdict"] != "pass":
        lines.append(f"# NOT APPROVED: the verdict is '{facts['annotations']['dxflow.io/verdict']}'.\n")
    # default_flow_style=False and no aliases: people read and diff it
    text = yaml.dump(manifest, Dumper=_plain_dumper(), sort_keys=False, default_flow_style=False, width=150)
    return "".join(lines) + text


def violations(manifest: dict[str, Any]) -> list[str]:
    """Rules that KServe's schema does not hold, each broken one as a sentence."""
    found: list[str] = []
    metadata, predictor = manifest["metadata"], manifest["spec"]["predictor"]
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", metadata["name"]):
        found.append("the name is not a DNS label that starts with a letter")
    mode = metadata.get("annotations", {}).get("serving.kserve.io/deploymentMode")
    if mode not in ("Standard", "Knative"):
        found.append("serving.kserve.io/deploymentMode is neither Standard nor Knative")
    if mode == "Standard" and "canaryTrafficPercent" in predictor:
        found.append("canaryTrafficPercent is ignored in Standard mode")
    if predictor.get("maxReplicas", 1) < predictor.get("minReplicas", 1):
        found.append("maxReplicas is below minReplicas")
    if predictor.get("automountServiceAccountToken") is not False:
        found.append("the pod holds a service account token that it does not need")
    for container in predictor.get("containers", []):
        found += [f"container {container['name']}: {what}" for what in _container(container)]
    return found


def _container(container: dict[str, Any]) -> list[str]:
    found = []
    image = container.get("image", "")
    if "@sha256:" not in image and (":" not in image.rpartition("/")[2] or image.endswith(":latest")):
        found.append("the image has no fixed tag")
    found += [f"no {probe}" for probe in ("startupProbe", "readinessProbe", "livenessProbe") if probe not in container]
    context = container.get("securityContext", {})
    safe = {"runAsNonRoot": True, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}
    found += [f"securityContext.{key} is not {str(value).lower()}" for key, value in safe.items() if context.get(key) is not value]
    if context.get("runAsUser", 1) == 0:
        found.append("runs as root")
    if "ALL" not in context.get("capabilities", {}).get("drop", []):
        found.append("capabilities are not dropped")
    limits, requests = (container.get("resources", {}).get(kind, {}) for kind in ("limits", "requests"))
    if "memory" not in limits or "cpu" not in requests:
        found.append("no memory limit or cpu request")
    # Kubernetes refuses extended resources, such as GPUs, whose request and limit differ.
    found += [f"request and limit of {name} differ" for name in {*limits, *requests} if "/" in name and limits.get(name) != requests.get(name)]
    for variable in container.get("env", []):
        if "value" in variable and re.search(r"(?i)secret|password|passwd|token|credential|access_?key|private|_KEY$", variable["name"]):
            found.append(f"environment variable {variable['name']} may hold a secret in plain text")
        if variable["name"] == "STORAGE_URI" and not re.match(r"(s3|gs|pvc|https|oci)://", variable.get("value", "")):
            found.append("STORAGE_URI is nothing that KServe can fetch")
        if re.search(r"//[^/@\s]+:[^/@\s]+@", variable.get("value", "")):
            found.append(f"environment variable {variable['name']} holds a password in an address")
    return found


def _storage_uri(uri: str) -> str:
    """The store's URI as the cluster sees it."""
    if uri.startswith("file://"):
        _, _, key = uri.rpartition("/models/")
        return f"pvc://{STORE_CLAIM}/models/{key}"
    return uri


def _toleration(toleration: Any) -> dict[str, str]:
    """`value` only where the operator takes one."""
    fields = toleration.model_dump()
    return {key: value for key, value in fields.items() if value and (key != "value" or toleration.operator == "Equal")}


def _plain_dumper() -> Any:
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return Plain
