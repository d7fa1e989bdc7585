"""DiseaseSpec -> KFP pipeline. The only file with the graph:

    ingest -> validate -> train -> evaluate -> register                          a run; asked for, behind it:
                 -> left_out -> (train -> evaluate) without each device -> unseen
    ingest -> validate -> (train -> evaluate) for each family -> compare         a comparison
    ingest -> validate -> left_out -> (train -> evaluate) ... -> unseen          leave one device out, alone

The same intermediate representation (IR) runs on a laptop, in containers and on Kubeflow. What a cluster needs (GPU, tolerations, selectors,
shared memory, secrets) is always in it; the local runner ignores it.
"""

import warnings
from collections.abc import Callable
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
from pipelines.ir_twins import merge_twins
from pipelines.sources import SERVICE_ENVIRONMENT, STEPS, Graph, image

SECRET = "dxflow"  # noqa: S105 - the name of a Kubernetes Secret
MAX_PARAMETER_BYTES = 100_000  # an argument over 128 KiB cannot be passed to a process


class Outputs(NamedTuple):
    """Folders that a run hands on."""

    dataset: dsl.Dataset
    validation: dsl.Artifact
    model: dsl.Model
    evaluation: dsl.Artifact
    package: dsl.Model


class OutputsUnseen(NamedTuple):
    """Folders that a run with each device left out hands on."""

    dataset: dsl.Dataset
    validation: dsl.Artifact
    model: dsl.Model
    evaluation: dsl.Artifact
    package: dsl.Model
    unseen: dsl.Artifact


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


Steps = dict[str, Callable[..., Any]]


def images(*, prefix: str = "", tag: str | None = None) -> dict[str, str]:
    """The image of every step."""
    return {step: image(step, prefix=prefix, tag=tag) for step in STEPS}


def assemble(spec: DiseaseSpec, image_of: dict[str, str]) -> Any:
    """The pipeline of one disease, as a KFP component that the compiler takes."""
    steps = _steps(spec, image_of)

    @dsl.pipeline(name=spec.name, description=f"{spec.title}. {', '.join(spec.sources)}")
    def pipeline(source: str, source_digest: str, key_fingerprint: str, deployment: str, spec: str, family: str, seed: int) -> Outputs:
        data = _data(steps, spec=spec, source=source, source_digest=source_digest, key_fingerprint=key_fingerprint)
        return _registered(steps, data, deployment=deployment, spec=spec, family=family, seed=seed)[0]

    return pipeline


def assemble_with_unseen(spec: DiseaseSpec, image_of: dict[str, str]) -> Any:
    """The pipeline of one disease, and when its model is registered each device left out; data with too few devices get a line that says so."""
    steps = _steps(spec, image_of)

    @dsl.pipeline(name=spec.name, description=f"{spec.title}. {', '.join(spec.sources)}")
    def pipeline(source: str, source_digest: str, key_fingerprint: str, deployment: str, spec: str, family: str, seed: int) -> OutputsUnseen:
        data = _data(steps, spec=spec, source=source, source_digest=source_digest, key_fingerprint=key_fingerprint)
        done, kept = _registered(steps, data, deployment=deployment, spec=spec, family=family, seed=seed)
        return OutputsUnseen(*done, _left_out(steps, data, spec=spec, family=family, seed=seed, after=kept))

    return pipeline


def assemble_unseen(spec: DiseaseSpec, image_of: dict[str, str]) -> Any:
    """Each device left out and nothing registered; data with too few devices are an error."""
    steps = _steps(spec, image_of)

    # `spec` is as in a run, so that ingest and validate come from its cache.
    @dsl.pipeline(name=f"unseen-{spec.name}", description=f"{spec.title}: each device left out of a training")
    def pipeline(source: str, source_digest: str, key_fingerprint: str, spec: str, family: str, seed: int) -> Unseen:
        data = _data(steps, spec=spec, source=source, source_digest=source_digest, key_fingerprint=key_fingerprint)
        return Unseen(data["dataset"], data["validation"], _left_out(steps, data, spec=spec, family=family, seed=seed, after=None))

    return pipeline


def assemble_comparison(spec: DiseaseSpec, families: tuple[str, ...], image_of: dict[str, str]) -> Any:
    """The comparison of a disease's families, one branch of a ParallelFor each, as a KFP component that the compiler takes."""
    steps = _steps(spec, image_of)

    # `spec` is as in a run, so that ingest and validate come from its cache; `budgeted` has the same epochs for every family.
    @dsl.pipeline(name=f"compare-{spec.name}", description=f"{spec.title}: {', '.join(families)} under one budget")
    def pipeline(source: str, source_digest: str, key_fingerprint: str, spec: str, budgeted: str, seed: int) -> Comparison:
        data = _data(steps, spec=spec, source=source, source_digest=source_digest, key_fingerprint=key_fingerprint)
        with dsl.ParallelFor(items=list(families), name="families") as family:
            fitted, judged = _judged(steps, data, spec=budgeted, family=family, seed=seed)
        together = steps["compare"](
            spec=budgeted, evaluations=dsl.Collected(judged.outputs["evaluation"]), models=dsl.Collected(fitted.outputs["model"]),
            costs=dsl.Collected(fitted.outputs["cost"]),
        )  # fmt: skip
        return Comparison(data["dataset"], data["validation"], together.outputs["comparison"])

    return pipeline


def _data(steps: Steps, *, spec: str, **source: str) -> dict[str, Any]:
    """Ingest and validate: the artifacts that every later step takes."""
    made = steps["ingest"](spec=spec, **source)
    checked = steps["validate"](spec=spec, dataset=made.outputs["dataset"])
    return {"dataset": made.outputs["dataset"], "features": made.outputs["features"], "validation": checked.outputs["validation"]}


def _judged(steps: Steps, data: dict[str, Any], *, spec: Any, family: Any, seed: int) -> tuple[Any, Any]:
    """The tasks of train and evaluate."""
    fitted = steps["train"](spec=spec, family=family, seed=seed, **data)
    return fitted, steps["evaluate"](spec=spec, model=fitted.outputs["model"], **data)


def _registered(steps: Steps, data: dict[str, Any], *, deployment: str, spec: str, family: str, seed: int) -> tuple[Outputs, Any]:
    """A run's outputs, and its last task."""
    fitted, judged = _judged(steps, data, spec=spec, family=family, seed=seed)
    model, figures = fitted.outputs["model"], judged.outputs["evaluation"]
    kept = steps["register"](spec=spec, deployment=deployment, model=model, evaluation=figures, **data)
    return Outputs(data["dataset"], data["validation"], model, figures, kept.outputs["package"]), kept


def _left_out(steps: Steps, data: dict[str, Any], *, spec: str, family: str, seed: int, after: Any) -> Any:
    """What leaving each device out shows: one branch of a ParallelFor for each device that the data turn out to have.

    Args:
        after: The last task of a run that this is part of, or None. The run's model is registered before a branch can fail, and where there are
            too few devices the one branch is the run's own training, which the cache has by then: an empty loop is never asked for.
    """
    chosen = steps["left_out"](spec=spec, refuse=after is None, dataset=data["dataset"])
    if after is not None:
        chosen.after(after)
    with dsl.ParallelFor(items=chosen.output, name="devices") as without:
        fitted, judged = _judged(steps, data, spec=without, family=family, seed=seed)
    return steps["unseen"](spec=spec, evaluations=dsl.Collected(judged.outputs["evaluation"]), models=dsl.Collected(fitted.outputs["model"])).outputs[
        "table"
    ]


def _steps(spec: DiseaseSpec, image_of: dict[str, str]) -> Steps:
    """Every face as a KFP component in its image, its task placed; what chooses or brings together evaluations runs in evaluate's."""

    def placed(name: str, face: Callable[..., Any]) -> Callable[..., Any]:
        room: Any = name if name in STEPS else "evaluate"
        component: Any = dsl.component(face, base_image=image_of[room], install_kfp_package=False)

        def task(**arguments: Any) -> Any:
            made = component(**arguments)
            place(made, spec.resources_of(room))
            return made

        return task

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kfp warns of base images whose name lacks "python"
        return {face.__name__: placed(face.__name__, face) for face in (ingest, validate, train, evaluate, register, compare, left_out, unseen)}


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
    spec: DiseaseSpec, path: Path, *, graph: Graph = "run", families: tuple[str, ...] = (), prefix: str = "", tag: str | None = None
) -> Path:
    """Write the linted IR of one of a disease's graphs to `path`.

    Args:
        families: Of a comparison.

    Raises:
        SpecError: The lint finds what local and cluster treat differently, or the spec is too large to travel.
    """
    if len(spec.to_json()) > MAX_PARAMETER_BYTES:
        raise SpecError("spec too large to travel as a parameter", where=spec.name, got=f"{len(spec.to_json())} bytes", allowed=MAX_PARAMETER_BYTES)
    path.parent.mkdir(parents=True, exist_ok=True)
    image_of = images(prefix=prefix, tag=tag)
    if graph == "compare":
        made = assemble_comparison(spec, families, image_of)
    else:
        made = {"run": assemble, "run-unseen": assemble_with_unseen, "unseen": assemble_unseen}[graph](spec, image_of)
    compiler.Compiler().compile(made, str(path))
    merge_twins(path)
    lint(path)
    return path
