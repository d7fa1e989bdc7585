"""The step images: what can be known of them without building them."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "infra" / "images"
STEPS = ("ingest", "validate", "train", "evaluate", "register", "monitor", "serving")
ROOMS = ("components", "feature_store", "serving", "pipelines")
ON_DEMAND = {
    ("feast_import.py", "torch"),  # only when somebody asks Feast for a tensor
    ("engines.py", "torch"),  # only where a server is asked for the torch engine, or has a CUDA device and torch
    ("redis_online.py", "redis"),  # only where profiles are published and asked for: register and serving
}
TORCHS = {"engine_torch.py", "torch_device.py"}  # as the torch of engines.py; what they import in turn is not followed


def requirements_of(*steps: str) -> list[str]:
    """The function of infra/images/requirements_of.py, which is not a package."""
    module_spec = importlib.util.spec_from_file_location("requirements_of", IMAGES / "requirements_of.py")
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module.requirements_of(ROOT / "pyproject.toml", *steps)


def stages() -> dict[str, list[str]]:
    """{target: its instructions}, in the order of the Dockerfile; continued lines joined. "" holds what stands before the first FROM."""
    text = re.sub(r"\\\n\s*", "", (IMAGES / "Dockerfile").read_text())
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in (line.strip() for line in text.splitlines()):
        if line and not line.startswith("#"):
            if line.startswith("FROM "):
                name = line.rpartition(" AS ")[2]
                found[name] = []
            found[name].append(line)
    return found


def test_every_step_has_one_target():
    """And each target's base leads back to ARG BASE."""
    found = stages()
    assert [name for name in found if name in STEPS] == list(STEPS)
    assert found[""] == ["ARG BASE=python:3.11-slim"]
    base_of = {name: lines[0].split()[1] for name, lines in found.items() if name}
    for step in STEPS:
        name = step
        while name in base_of:
            name = base_of[name]
        assert name == "${BASE}"


@pytest.mark.parametrize("step", STEPS)
def test_images_run_as_an_ordinary_user_who_cannot_change_the_code(step: str):
    """The last instruction is a user other than root, and nothing is written after the code was copied, as root."""
    lines = stages()[step]
    assert re.fullmatch(r"USER [1-9]\d*:[1-9]\d*", lines[-1])
    assert lines[-2] == "COPY --from=wheel /app /app"


def test_the_code_is_the_last_layer():
    """A change of code rebuilds no layer of dependencies: only the wheel's own stage sees the whole repository."""
    seen = {name: [line for line in lines if line.startswith(("COPY", "ADD"))] for name, lines in stages().items() if name}
    assert seen.pop("wheel") == ["COPY . ."]
    assert seen.pop("wanted") == ["COPY pyproject.toml infra/images/requirements_of.py ./"]
    assert seen.pop("common")[0] == "COPY requirements.lock infra/images/install.sh ./"
    for name, copies in seen.items():
        assert copies == [f"COPY --from=wanted /wanted/{name}.txt ./", *(["COPY --from=wheel /app /app"] if name in STEPS else [])]


@pytest.mark.parametrize("file", sorted(p.name for p in IMAGES.iterdir() if p.is_file() and p.suffix != ".md"))
def test_nothing_unpinned_is_installed(file: str):
    """pip brings only uv, at one version; uv installs only under the lock as constraints, whose hashes it verifies, and never builds."""
    text = re.sub(r"\\\n\s*", " ", (IMAGES / file).read_text())
    for line in (line for line in text.splitlines() if not line.lstrip().startswith("#")):
        if "-m pip install" in line:
            assert line.rstrip().endswith('"uv==$UV_VERSION"')
        elif re.search(r"\buv\b.* pip install", line):
            assert "--no-deps --target /app" in line or ("--constraint requirements.lock" in line and "--only-binary :all:" in line)
        else:
            assert "pip install" not in line
            assert not re.search(r"\bapt(-get)? install|\bcurl\b|\bwget\b", line)
    version = re.search(r"ARG UV_VERSION=(\S+)", (IMAGES / "Dockerfile").read_text())
    assert version is not None
    assert re.fullmatch(r"\d+\.\d+\.\d+", version.group(1))


@pytest.mark.parametrize("file", [*sorted(p.name for p in IMAGES.iterdir() if p.is_file()), "../../.dockerignore"])
def test_no_host_is_named(file: str):
    """Where packages and images come from is the base's and the caller's business; loopback and documentation names are nobody's."""
    text = (IMAGES / file).read_text()
    hosts = re.findall(r"https?://[^\s\"'`)>]+", text) + re.findall(r"\b[\w-]+(?:\.[\w-]+)*\.(?:com|io|org|net|dev)\b", text)
    assert [host for host in hosts if not re.search(r"example|//127\.0\.0\.1", host)] == []


def test_the_build_sees_packages_and_locks_only():
    """An allow-list: data, keys and runs beside the code never reach a builder."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    assert {line for line in lines if line.startswith("!")} == {
        f"!{name}" for name in (*ROOMS, "infra/images", "pyproject.toml", "requirements.lock", "README.md")
    }


def test_shared_layers_hold_what_all_their_steps_need():
    """torch, torchvision and feast are in the layer that train, evaluate and register share; MLflow is not, since evaluate does without."""
    names = {Requirement(line).name for line in requirements_of("train", "evaluate", "register")}
    assert {"torch", "torchvision", "feast"} <= names
    assert "mlflow" not in names
    assert set(requirements_of("train", "evaluate", "register")) <= set(requirements_of("train"))
    assert "minio" in {Requirement(line).name for line in requirements_of()}


def modules_of(step: str) -> list[Path]:
    """Every file of ours that `step` can import, inside functions too; what is found by name (families, readers) is all taken."""
    start = [ROOT / "serving"] if step == "serving" else [ROOT / "components" / step]
    by_name = {"train": ["components/core/models"], "evaluate": ["components/core/models"], "register": ["components/core/models"]}
    start += [ROOT / folder for folder in by_name.get(step, [])]
    pending = [file for folder in start for file in folder.rglob("*.py") if not file.name.endswith("component.py")]
    found: dict[Path, None] = {}
    while pending:
        file = pending.pop()
        if file in found or (step not in by_name and file.name in TORCHS):
            continue
        found[file] = None
        for name in imported(file):
            if name.split(".")[0] in ROOMS:
                for candidate in (ROOT / f"{name.replace('.', '/')}.py", ROOT / name.replace(".", "/") / "__init__.py"):
                    if candidate.exists():
                        pending.append(candidate)
    return list(found)


@functools.cache
def imported(file: Path) -> set[str]:
    """Dotted names that a file imports outside `if TYPE_CHECKING`, by name too; `from a import b` counts as both a and a.b."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    skipped = {
        id(inner) for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args and isinstance(node.args[0], ast.Constant):
            names.add(str(node.args[0].value))
    return names


@functools.cache
def brought_by(distribution: str) -> list[Requirement] | None:
    """The requirements of an installed distribution; None when it is not installed."""
    try:
        return [Requirement(line) for line in importlib.metadata.requires(distribution) or []]
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def owners() -> Mapping[str, list[str]]:
    """{top-level module: distributions that install it}."""
    return importlib.metadata.packages_distributions()


def installed_by(requirements: list[str]) -> set[str]:
    """Names of the distributions that requirements bring, with what those bring, by the metadata of the installed ones."""
    found: set[tuple[str, str]] = set()
    pending = [(Requirement(line).name, extra) for line in requirements for extra in ("", *Requirement(line).extras)]
    while pending:
        name, extra = pending.pop()
        key = (re.sub(r"[-_.]+", "-", name).lower(), extra)
        if key in found:
            continue
        wanted = brought_by(name)
        if wanted is None:
            continue
        found.add(key)
        for needed in wanted:
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                pending += [(needed.name, inner) for inner in ("", *needed.extras)]
    return {name for name, _ in found}


@pytest.mark.parametrize("step", STEPS)
def test_an_image_holds_what_its_code_imports(step: str):
    """Every third-party module that a step's code imports comes with the base dependencies or with the step's extra.

    Families export themselves to ONNX in register alone.
    """
    available = installed_by(requirements_of() + requirements_of(step))
    missing = set()
    for file in modules_of(step):
        for name in imported(file):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top in ROOMS or (top in ("onnx", "onnxscript") and "models" in file.parts and step != "register"):
                continue
            if not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners().get(top, [])} & available:
                missing.add((file.name, top))
    assert missing - ON_DEMAND == set()


@pytest.fixture(scope="module")
def installed_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built with the installed hatchling and unpacked as `--target` does."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder / "dist")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next((folder / "dist").glob("*.whl"))) as wheel:
        wheel.extractall(folder / "app")
    return folder / "app"


def test_the_wheel_holds_every_module_disease_and_template(installed_wheel: Path):
    """Each tracked file of the rooms, and nothing of tests, infra or docs."""
    listed = subprocess.run(["git", "ls-files", *ROOMS], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    missing = [name for name in listed.stdout.splitlines() if (ROOT / name).exists() and not (installed_wheel / name).exists()]
    assert missing == []
    assert {p.name for p in installed_wheel.iterdir() if not p.name.endswith(".dist-info")} == set(ROOMS)
    assert list(installed_wheel.glob("pipelines/diseases/*.toml"))


def test_the_unpacked_wheel_is_what_gets_imported(installed_wheel: Path, tmp_path: Path):
    """With PYTHONPATH at the target folder, from elsewhere, the code and the diseases come from there."""
    code = "import components.core.spec as s, pipelines.catalog as c; print(s.__file__); print(c.names()); print(c.__file__)"
    environment = {"PYTHONPATH": str(installed_wheel), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, names, last = done.stdout.splitlines()
    assert first.startswith(str(installed_wheel))
    assert last.startswith(str(installed_wheel))
    assert "lung-nodule" in names
