"""One graph, one IR: what runs here is what runs on the cluster."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.core.errors import SpecError
from components.core.spec import DiseaseSpec
from pipelines import catalog, sources
from pipelines.assemble import compile_ir
from pipelines.ir_lint import findings
from pipelines.ir_twins import twins


def compiled(tmp_path: Path, disease: str, **options: Any) -> list[dict[str, Any]]:
    path = compile_ir(catalog.load(disease), tmp_path / f"{len(list(tmp_path.iterdir()))}.yaml", **options)
    return [d for d in yaml.safe_load_all(path.read_text()) if d]


def without_images(documents: list[dict[str, Any]]) -> str:
    stripped = copy.deepcopy(documents)
    for executor in stripped[0]["deploymentSpec"]["executors"].values():
        executor["container"].pop("image")
    return json.dumps(stripped, sort_keys=True)


@pytest.mark.parametrize("disease", catalog.names())
def test_the_clusters_ir_differs_in_image_only(tmp_path: Path, disease: str) -> None:
    here = compiled(tmp_path, disease)
    cluster = compiled(tmp_path, disease, prefix="registry.example/team/", tag="1.2.3")
    assert here != cluster
    assert without_images(here) == without_images(cluster)
    for name, executor in cluster[0]["deploymentSpec"]["executors"].items():
        assert executor["container"]["image"] == f"registry.example/team/dxflow-{name.removeprefix('exec-')}:1.2.3"


def test_gpu_tolerations_selectors_and_shared_memory_of_the_spec_are_in_the_ir(tmp_path: Path) -> None:
    ir, platform = compiled(tmp_path, "lung-nodule")
    train = ir["deploymentSpec"]["executors"]["exec-train"]["container"]["resources"]
    assert train["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert train["accelerator"]["resourceCount"] == "1"
    pod = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]
    assert pod["nodeSelector"]["labels"] == {"dxflow.io/pool": "gpu"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["emptyDirMounts"][0]["mountPath"] == "/dev/shm"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert "accelerator" not in ir["deploymentSpec"]["executors"]["exec-validate"]["container"]["resources"]


def test_the_five_steps_run_in_their_order(tmp_path: Path) -> None:
    tasks = compiled(tmp_path, "lung-nodule")[0]["root"]["dag"]["tasks"]
    assert set(tasks) == set(sources.STEPS)
    for earlier, later in zip(sources.STEPS, sources.STEPS[1:], strict=False):
        assert earlier in tasks[later]["dependentTasks"]


def test_a_changed_source_file_changes_the_image_of_the_steps_that_import_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tag is in the IR and so in the cache key; a change to evaluate does not retrain."""
    for room in ("components/core", "components/train", "components/evaluate", "feature_store"):
        (tmp_path / room).mkdir(parents=True)
        (tmp_path / room / "a.py").write_text("1")
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    before = {step: sources.code_digest(step) for step in ("train", "evaluate")}
    (tmp_path / "components/evaluate/a.py").write_text("2")
    after = {step: sources.code_digest(step) for step in ("train", "evaluate")}
    assert after["train"] == before["train"]
    assert after["evaluate"] != before["evaluate"]
    (tmp_path / "components/core/a.py").write_text("2")
    assert sources.code_digest("train") != before["train"]


def test_a_source_digest_follows_content_names_and_places(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a").write_text("1")
    first = sources.source_digest(str(tmp_path / "s"))
    assert sources.source_digest(str(tmp_path / "s")) == first
    (tmp_path / "s" / "b").write_text("")
    second = sources.source_digest(str(tmp_path / "s"))
    (tmp_path / "s" / "b").rename(tmp_path / "s" / "c")
    assert len({first, second, sources.source_digest(str(tmp_path / "s"))}) == 3


def executor(**changes: Any) -> dict[str, Any]:
    container = {"image": "x:1", "command": ["sh", "-c", "python3 -m kfp.dsl.executor_main"], "args": [], **changes}
    return {"deploymentSpec": {"executors": {"exec-a": {"container": container}}}}


ITERATED = {
    "components": {"comp-f": {"dag": {"tasks": {"g": {"parameterIterator": {}}}}}},
    "root": {"dag": {"tasks": {"f": {"parameterIterator": {}, "componentRef": {"name": "comp-f"}}}}},
}


@pytest.mark.parametrize(
    ("ir", "says"),
    [
        ({"root": {"inputDefinitions": {"parameters": {"p": {"parameterType": "STRUCT"}}}}}, "integers become floats"),
        ({"root": {"inputDefinitions": {"parameters": {"p": {"parameterType": "LIST"}}}}}, "JSON string"),
        ({"root": {"inputDefinitions": {"parameters": {"api_token": {"parameterType": "STRING"}}}}}, "looks like a secret"),
        ({"root": {"dag": {"tasks": {"t": {"triggerPolicy": {"condition": "a == b"}}}}}}, "counts as false"),
        (ITERATED, "ParallelFor"),
        ({"deploymentSpec": {"executors": {"exec-i": {"importer": {}}}}}, "importer"),
        (executor(command=["echo"]), "container component"),
        (executor(command=["sh", "-c", "pip install x; python3 -m kfp.dsl.executor_main"]), "at run time"),
        (executor(image="registry.example:5000/team/x"), "no tag or digest"),
    ],
)
def test_the_lint_names_what_the_two_places_treat_differently(ir: dict[str, Any], says: str) -> None:
    found = list(findings(ir))
    assert len(found) == 1
    assert says in found[0]


def test_the_lint_accepts_what_runs_in_both() -> None:
    assert not list(findings(executor()))
    assert not list(findings(executor(image="registry.example:5000/team/x@sha256:00")))


def test_a_spec_too_large_for_an_argument_is_refused(tmp_path: Path) -> None:
    spec = catalog.load("lung-nodule")
    raw = json.loads(spec.to_json())
    raw["sources"] = ["doi:" + "1" * 200_000]
    with pytest.raises(SpecError, match="too large"):
        compile_ir(DiseaseSpec.from_json(json.dumps(raw)), tmp_path / "x.yaml")


@pytest.mark.parametrize("disease", catalog.names())
def test_a_comparison_trains_each_family_in_a_branch_and_shares_the_data(disease: str, tmp_path: Path) -> None:
    spec = catalog.load(disease)
    families = tuple(sorted(spec.families))
    if len(families) < 2:
        pytest.skip("one family: nothing to compare")
    ir = next(yaml.safe_load_all(compile_ir(spec, tmp_path / "x.yaml", graph="compare", families=families).read_text()))
    loops = [t for t in ir["root"]["dag"]["tasks"].values() if "parameterIterator" in t]
    assert len(loops) == 1
    assert json.loads(loops[0]["parameterIterator"]["items"]["raw"]) == list(families)
    branch = ir["components"][loops[0]["componentRef"]["name"]]["dag"]["tasks"]
    assert sorted(branch) == ["evaluate", "train"]
    assert {"ingest", "validate", "compare"} <= set(ir["root"]["dag"]["tasks"])


@pytest.mark.parametrize("graph", ["run-unseen", "unseen"])
@pytest.mark.parametrize("disease", catalog.names())
def test_leaving_devices_out_is_a_loop_over_what_the_data_hold(disease: str, graph: str, tmp_path: Path) -> None:
    """The devices are known only once the data are read: the loop runs over a step's list, and each branch gets a spec of its own."""
    ir = compiled(tmp_path, disease, graph=graph)[0]
    tasks = ir["root"]["dag"]["tasks"]
    loop = next(t for t in tasks.values() if "parameterIterator" in t)
    listed = loop["parameterIterator"]["items"]["inputParameter"]
    assert loop["inputs"]["parameters"][listed]["taskOutputParameter"]["producerTask"] == "left-out"
    branch = ir["components"][loop["componentRef"]["name"]]["dag"]["tasks"]
    assert [name.removesuffix("-2") for name in sorted(branch)] == ["evaluate", "train"]
    assert all(task["inputs"]["parameters"]["spec"]["componentInputParameter"].endswith("-loop-item") for task in branch.values())
    refuse = tasks["left-out"]["inputs"]["parameters"]["refuse"]["runtimeValue"]["constant"]
    assert (set(sources.STEPS) <= set(tasks), refuse) == ((True, False) if graph == "run-unseen" else (False, True))
    assert not list(findings(ir))


def test_each_device_is_left_out_behind_the_ordinary_steps_and_by_the_same_components(tmp_path: Path) -> None:
    """The model is registered before a branch can fail; a branch that asks for what the run has trained is answered from the cache."""
    plain, ir = compiled(tmp_path, "skin-lesion")[0], compiled(tmp_path, "skin-lesion", graph="run-unseen")[0]
    tasks = ir["root"]["dag"]["tasks"]
    assert "register" in tasks["left-out"]["dependentTasks"]
    for name in sources.STEPS:
        assert tasks[name] == plain["root"]["dag"]["tasks"][name]
        assert ir["components"][f"comp-{name}"] == plain["components"][f"comp-{name}"]
        assert ir["deploymentSpec"]["executors"][f"exec-{name}"] == plain["deploymentSpec"]["executors"][f"exec-{name}"]
    loop = next(t for t in tasks.values() if "parameterIterator" in t)
    branch = ir["components"][loop["componentRef"]["name"]]["dag"]["tasks"]
    assert {task["componentRef"]["name"] for task in branch.values()} == {"comp-train", "comp-evaluate"}


def test_components_that_differ_in_more_than_their_number_keep_it(tmp_path: Path) -> None:
    """The resources are on the platform's side, the command in the IR: a difference in either keeps both."""
    documents = compiled(tmp_path, "lung-nodule", graph="run-unseen")
    ir, platform = documents
    ir["components"]["comp-train-2"] = {**ir["components"]["comp-train"], "executorLabel": "exec-train-2"}
    for executors in (ir["deploymentSpec"]["executors"], platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]):
        executors["exec-train-2"] = copy.deepcopy(executors["exec-train"])
    assert twins(documents) == {"comp-train-2": "comp-train"}
    executors["exec-train-2"]["nodeSelector"]["labels"] = {}
    assert twins(documents) == {}
    executors["exec-train-2"] = copy.deepcopy(executors["exec-train"])
    ir["deploymentSpec"]["executors"]["exec-train-2"]["container"]["args"].append("x")
    assert twins(documents) == {}


def test_the_clusters_loop_has_the_resources_and_images_of_the_ordinary_steps(tmp_path: Path) -> None:
    ir, platform = compiled(tmp_path, "lung-nodule", graph="run-unseen", prefix="registry.example/team/", tag="1.2.3")
    images = {name: executor["container"]["image"] for name, executor in ir["deploymentSpec"]["executors"].items()}
    rooms = {**{f"exec-{name}": name for name in sources.STEPS}, "exec-left-out": "evaluate", "exec-unseen": "evaluate"}
    assert images == {name: f"registry.example/team/dxflow-{room}:1.2.3" for name, room in rooms.items()}
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(pods) == set(images)
    assert all(pod["securityContext"]["runAsNonRoot"] for pod in pods.values())
    assert "accelerator" in ir["deploymentSpec"]["executors"]["exec-train"]["container"]["resources"]


def test_a_list_that_no_loop_runs_over_is_still_refused(tmp_path: Path) -> None:
    ir = compiled(tmp_path, "lung-nodule", graph="unseen")[0]
    ir["components"]["comp-train"]["inputDefinitions"]["parameters"]["seed"]["parameterType"] = "LIST"
    assert any("'seed' is a LIST" in found for found in findings(ir))
