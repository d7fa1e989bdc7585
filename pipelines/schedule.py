"""The monitor as a pipeline of its own, which a cluster runs on a schedule: one step, never from the cache.

On Kubeflow the log and the state lie on volumes that every run mounts; on a laptop they are folders, and the mounts are ignored.
"""

import warnings
from pathlib import Path
from typing import Any

from kfp import compiler, dsl, kubernetes

from components.core.spec import DiseaseSpec
from components.monitor.component import monitor
from components.monitor.watch import DAY_S
from pipelines.assemble import place
from pipelines.ir_lint import lint
from pipelines.sources import image

VOLUMES = {"log": ("dxflow-inference-log", "/inference-log"), "state": ("dxflow-monitor", "/monitor")}
"""Parameter -> claim and where it is mounted: what the parameter is on a cluster."""


def assemble_monitor(spec: DiseaseSpec, image_of_monitor: str) -> Any:
    """The pipeline, as a KFP component that the compiler takes."""
    resources = spec.resources_of("monitor")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kfp warns of base images whose name lacks "python"
        step: Any = dsl.component(monitor, base_image=image_of_monitor, install_kfp_package=False)

    @dsl.pipeline(name=f"monitor-{spec.name}", description=f"{spec.title}: drift by device")
    def pipeline(package: str, log: str = VOLUMES["log"][1], state: str = VOLUMES["state"][1], window_s: int = DAY_S) -> dsl.Artifact:
        task: Any = step(package=package, log=log, state=state, window_s=window_s)
        task.set_caching_options(enable_caching=False)  # the same arguments an hour later are another run
        place(task, resources)
        for claim, path in VOLUMES.values():
            kubernetes.mount_pvc(task, pvc_name=claim, mount_path=path)
        return task.outputs["findings"]

    return pipeline


def compile_monitor(spec: DiseaseSpec, path: Path, *, prefix: str = "", tag: str | None = None) -> Path:
    """Write the linted IR of a disease's monitor to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(assemble_monitor(spec, image("monitor", prefix=prefix, tag=tag)), str(path))
    lint(path)
    return path
