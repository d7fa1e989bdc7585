"""DiseaseSpec -> KFP pipeline. The only file with the graph:

    ingest -> validate -> train -> evaluate -> register                          a run
    ingest -> validate -> (train -> evaluate) for each family -> compare         a comparison
    ingest -> validate -> (train -> evaluate) without each device -> unseen      leave one device out

The same intermediate representation (IR) runs on a laptop, in containers and on Kubeflow. What a cluster needs (GPU, tolerations, selectors,
shared memory, secrets) is always in it; the local runner ignores it.
"""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

from kfp import compiler, dsl, kubernetes

from components.core.errors import SpecError
from components.core.spec import DiseaseSpec, Resources
from components.evaluate.compare_component import compare
from components.evaluate.component import evaluate
from components.evaluate.unseen_component import left_out, unseen
from components.ingest.component import ingest
from components.register.component import register
from components.train.component import train
from components.validate.component import validate
from pipelines.ir_lint import lint
from pipelines.sources import SERVICE_ENVIRONMENT, STEPS, image

SECRET = "dxflow"  # noqa: S105 - the name of a Kubernetes Secret
MAX_PARAMETER_BYTES = 100_000  # an argument over 128 KiB cannot be passed to a process


class Outputs(NamedTuple):
    """Folders that a run hands on."""

    dataset: dsl.Dataset
    validation: dsl.Artifact
    model: dsl.Model
    evaluation: dsl.Artifact
    package: dsl.Model


class Comparison(NamedTuple):
    """Folders that a comparison hands on."""

    dataset: dsl.Dataset
    validation: dsl.Artifact
    comparison: dsl.Artifact


class Unseen(NamedTuple):
    """Folders that leaving each device out hands on."""

    dataset: dsl.Dataset
    validation: dsl.Artifact
    unseen: dsl.Artifact


def images(*, prefix: str = "", tag: str | None = None) -> dict[str, str]:
    """The image of every step."""
    return {step: image(step, prefix=prefix, tag=tag) for step in STEPS}


def assemble(spec: DiseaseSpec, image_of: dict[str, str]) -> Any:
    """The pipeline of one disease, as a KFP component that the compiler takes."""
    resources = {name: spec.resources_of(name) for name in STEPS}
    steps = _steps(image_of)

    @dsl.pipeline(name=spec.name, description=f"{spec.title}. {', '.join(spec.sources)}")
    def pipeline(source: str, source_digest: str, key_fingerprint: str, deployment: str, spec: str, family: str, seed: int) -> Outputs:
        data: Any = steps["ingest"](spec=spec, source=source, source_digest=source_digest, key_fingerprint=key_fingerprint)
        raw, profiles = data.outputs["dataset"], data.outputs["features"]
        checked: Any = steps["validate"](spec=spec, dataset=raw)
        verdict = checked.outputs["validation"]
        fitted: Any = steps["train"](spec=spec, family=family, seed=seed, dataset=raw, features=profiles, validation=verdict)
        net = fitted.outputs["model"]
        judged: Any = steps["evaluate"](spec=spec, dataset=raw, features=profiles, validation=verdict, model=net)
        figures = judged.outputs["evaluation"]
        kept: Any = steps["register"](
            spec=spec, deployment=deployment, dataset=raw, features=profiles, validation=verdict, model=net, evaluation=figures
        )
        for name, task in (("ingest", data), ("validate", checked), ("train", fitted), ("evaluate", judged), ("register", kept)):
            place(task, resources[name])
        return Outputs(raw, verdict, net, figures, kept.outputs["package"])

    return pipeline


def assemble_comparison(spec: DiseaseSpec, families: tuple[str, ...], image_of: dict[str, str]) -> Any:
    """The comparison of a disease's families, one branch of a ParallelFor each, as a KFP component that the compiler takes."""
    resources = {name: spec.resources_of(name) for name in STEPS}
    steps = _steps(image_of)

    # `spec` is as in a run, so that ingest and validate come from its cache; `budgeted` has the same epochs for every family.
    @dsl.pipeline(name=f"compare-{spec.name}", description=f"{spec.title}: {', '.join(families)} under one budget")
    def pipeline(source: str, source_digest: str, key_fingerprint: str, spec: str, budgeted: str, seed: int) -> Comparison:
        data: Any = steps["ingest"](spec=spec, source=source, source_digest=source_digest, key_fingerprint=key_fingerprint)
        raw, profiles = data.outputs["dataset"], data.outputs["features"]
        checked: Any = steps["validate"](spec=spec, dataset=raw)
        verdict = checked.outputs["validation"]
        with dsl.ParallelFor(items=list(families), name="families") as family:
            fitted: Any = steps["train"](spec=budgeted, family=family, seed=seed, dataset=raw, features=profiles, validation=verdict)
            judged: Any = steps["evaluate"](spec=budgeted, dataset=raw, features=profiles, validation=verdict, model=fitted.outputs["model"])
        together: Any = steps["compare"](
            spec=budgeted, evaluations=dsl.Collected(judged.outputs["evaluation"]), models=dsl.Collected(fitted.outputs["model"]),
            costs=dsl.Collected(fitted.outputs["cost"]),
        )  # fmt: skip
        for name, task in (("ingest", data), ("validate", checked), ("train", fitted), ("evaluate", judged), ("evaluate", together)):
            place(task, resources[name])
        return Comparison(raw, verdict, together.outputs["comparison"])

    return pipeline


def assemble_unseen(spec: DiseaseSpec, image_of: dict[str, str]) -> Any:
    """Leave one device out, one branch of a ParallelFor for each device that the data turn out to have, as a component for the compiler."""
    resources = {name: spec.resources_of(name) for name in STEPS}
    steps = _steps(image_of)

    # `spec` is as in a run, so that ingest and validate come from its cache.
    @dsl.pipeline(name=f"unseen-{spec.name}", description=f"{spec.title}: each device left out of a training")
    def pipeline(source: str, source_digest: str, key_fingerprint: str, spec: str, family: str, seed: int) -> Unseen:
        data: Any = steps["ingest"](spec=spec, source=source, source_digest=source_digest, key_fingerprint=key_fingerprint)
        raw, profiles = data.outputs["dataset"], data.outputs["features"]
        checked: Any = steps["validate"](spec=spec, dataset=raw)
        verdict = checked.outputs["validation"]
        chosen: Any = steps["left_out"](spec=spec, dataset=raw)
        with dsl.ParallelFor(items=chosen.output, name="devices") as without:
            fitted: Any = steps["train"](spec=without, family=family, seed=seed, dataset=raw, features=profiles, validation=verdict)
            judged: Any = steps["evaluate"](spec=without, dataset=raw, features=profiles, validation=verdict, model=fitted.outputs["model"])
        together: Any = steps["unseen"](
            spec=spec, evaluations=dsl.Collected(judged.outputs["evaluation"]), models=dsl.Collected(fitted.outputs["model"])
        )
        for name, task in (
            ("ingest", data), ("validate", checked), ("evaluate", chosen), ("train", fitted), ("evaluate", judged), ("evaluate", together),
        ):  # fmt: skip
            place(task, resources[name])
        return Unseen(raw, verdict, together.outputs["table"])

    return pipeline


def _steps(image_of: dict[str, str]) -> dict[str, Any]:
    """Every face as a KFP component in its image; what brings evaluations together runs in evaluate's."""
    faces = {face.__name__: face for face in (ingest, validate, train, evaluate, register, compare, left_out, unseen)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kfp warns of base images whose name lacks "python"
        return {
            name: dsl.component(face, base_image=image_of.get(name, image_of["evaluate"]), install_kfp_package=False) for name, face in faces.items()
        }


def place(task: dsl.PipelineTask, resources: Resources) -> None:
    """Everything a cluster needs to know of one task."""
    task.set_cpu_request(str(resources.cpu)).set_cpu_limit(str(resources.cpu))
    memory = f"{round(resources.memory_gb * 1000)}M"
    task.set_memory_request(memory).set_memory_limit(memory)
    if resources.gpu:
        task.set_accelerator_type(resources.gpu_resource).set_accelerator_limit(resources.gpu)
    for key, value in sorted(resources.node_selector.items()):
        kubernetes.add_node_selector(task, key, value)
    for t in resources.tolerations:
        kubernetes.add_toleration(task, key=t.key, operator=t.operator, value=t.value or None, effect=t.effect)
    if resources.shm_gb:  # data loaders share tensors through /dev/shm, 64 MB by default in a pod
        kubernetes.empty_dir_mount(task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit=f"{resources.shm_gb:g}Gi")
    if resources.timeout_s:
        kubernetes.set_timeout(task, resources.timeout_s)
    kubernetes.use_secret_as_env(task, secret_name=SECRET, secret_key_to_env={key: key for key in SERVICE_ENVIRONMENT}, optional=True)
    kubernetes.set_security_context(task, run_as_user=1000, run_as_group=1000, run_as_non_root=True)


def compile_ir(
    spec: DiseaseSpec, path: Path, *, families: tuple[str, ...] = (), unseen: bool = False, prefix: str = "", tag: str | None = None
) -> Path:
    """Write the linted IR of a disease's run, of the comparison of `families`, or of leaving each device out (`unseen`), to `path`.

    Raises:
        SpecError: The lint finds what local and cluster treat differently, or the spec is too large to travel.
    """
    if len(spec.to_json()) > MAX_PARAMETER_BYTES:
        raise SpecError("spec too large to travel as a parameter", where=spec.name, got=f"{len(spec.to_json())} bytes", allowed=MAX_PARAMETER_BYTES)
    path.parent.mkdir(parents=True, exist_ok=True)
    image_of = images(prefix=prefix, tag=tag)
    plain = assemble_unseen(spec, image_of) if unseen else assemble(spec, image_of)
    graph = assemble_comparison(spec, families, image_of) if families else plain
    compiler.Compiler().compile(graph, str(path))
    lint(path)
    return path
