"""Write what each image has to install, as files of requirement lines taken from pyproject.toml.

    python requirements_of.py FOLDER

    common.txt      what every step needs, and `executor.txt`: kfp's executor, installed without what the rest of kfp depends on
    torch.txt       what train, evaluate and register all need beside that: one layer that their images share
    <step>.txt      the extra of the step's name

Versions and hashes come from requirements.lock, as constraints. Layers depend on these lines, not on the rest of pyproject.toml.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

STEPS = ("ingest", "validate", "train", "evaluate", "register", "monitor", "serving")
SHARE_TORCH = ("train", "evaluate", "register")


def requirements_of(pyproject: Path, *steps: str) -> list[str]:
    """Requirement lines, sorted: of no step, the dependencies of all; of several, what all of those need.

    Raises:
        KeyError: A step has no extra of its name.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    if not steps:
        return sorted(project["dependencies"])
    return sorted(set.intersection(*(set(project["optional-dependencies"][step]) for step in steps)))


def write(pyproject: Path, folder: Path) -> None:
    """Write all files into an existing folder."""
    lines = {"common": requirements_of(pyproject), "torch": requirements_of(pyproject, *SHARE_TORCH)}
    lines["executor"] = [line for line in requirements_of(pyproject, "pipelines") if line.startswith("kfp==")]
    for step in STEPS:
        lines[step] = requirements_of(pyproject, step)
    for name, wanted in lines.items():
        (folder / f"{name}.txt").write_text("\n".join([*wanted, ""]), encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).resolve().parent / "pyproject.toml", Path(sys.argv[1]))
