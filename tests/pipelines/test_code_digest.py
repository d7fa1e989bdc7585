"""What a step's code is: every file that it can import or open counts, and nothing else does."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import sources

PRODUCT = ("components", "feature_store", "pipelines", "serving")
OPENED = (
    "components/core/phantoms/scanners.py",
    "components/core/chain/detector.json",
    "components/core/imaging/vocabulary.toml",
    "components/core/models/family.py",
    "feature_store/store.py",
)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the checkout's product."""
    for name in PRODUCT:
        shutil.copytree(sources.ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", *sources.RECIPE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sources.ROOT / name, tmp_path / name)
    assert all((tmp_path / name).is_file() for name in sources.RECIPE)
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    return tmp_path


def digests() -> dict[str, str]:
    return {step: sources.code_digest(step) for step in sources.ROOMS}


def test_a_file_that_is_opened_changes_the_images_of_all_who_open_it(tree: Path):
    """A maker renamed among the phantoms' scanners is another word in the manifest; a refitted detector finds other nodules."""
    served = {"serving/reading/static/viewer.js": {"serving"}, "components/train/step.py": {"serving", "train"}}
    for name, steps in ({name: set(sources.ROOMS) for name in OPENED} | served).items():
        before = digests()
        with open(tree / name, "ab") as handle:
            handle.write(b" ")
        assert {step for step, digest in digests().items() if digest != before[step]} == steps, name


def test_every_file_of_the_server_counts_whatever_it_is_called(tree: Path):
    """Each suffix once, and a rename."""
    by_suffix = {path.suffix: path for name in PRODUCT for path in sorted((tree / name).rglob("*")) if path.is_file()}
    assert len(by_suffix) > 5
    for path in by_suffix.values():
        before = sources.code_digest("serving")
        path.write_bytes(path.read_bytes() + b"\n")
        assert sources.code_digest("serving") != before, path
    before = sources.code_digest("serving")
    path = tree / OPENED[1]
    path.rename(path.with_name("other.json"))
    assert sources.code_digest("serving") != before


def test_what_is_installed_counts_and_how_the_code_is_checked_does_not(tree: Path):
    before = digests()
    with open(tree / "pyproject.toml", "a") as handle:
        handle.write("\n[tool.nobody]\nx = 1\n")
    for name in ("tests/a.py", "docs/a.md", "components/core/__pycache__/a.cpython-311.pyc", "components/core/.hidden"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("x")
    assert digests() == before
    (tree / "requirements.lock").write_text("numpy==1\n")
    after = digests()
    assert all(after[step] != before[step] for step in before)


def imported(path: Path) -> Iterator[str]:
    """First-party modules that a file names, also those inside functions, as paths without suffix."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name.replace(".", "/") for name in names if name.split(".")[0] in PRODUCT)


@pytest.mark.parametrize("step", sorted(sources.ROOMS))
def test_rooms_hold_all_that_a_step_imports(step: str):
    """The list mirrors the tree; this is what holds it."""
    rooms = sources.ROOMS[step]
    for room in rooms:
        files = sorted((sources.ROOT / room).rglob("*.py"))
        assert files
        for path in files:
            for name in imported(path):
                module = sources.ROOT / name
                if module.is_dir() or module.with_suffix(".py").is_file():
                    inside = any(name == room or name.startswith(f"{room}/") or room.startswith(f"{name}/") for room in rooms)
                    assert inside, f"{path.relative_to(sources.ROOT)} imports {name}, which is in no room of {step}"


def test_ingest_and_train_resume_only_with_the_code_that_began():
    from components.ingest.step import ROOMS

    assert set(ROOMS) == set(sources.ROOMS["ingest"])
