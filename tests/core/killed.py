"""Kill -9 at every point: a process of its own forks a child for each line of Python that some files run, and the child kills itself there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, shutil, signal, sys
from pathlib import Path
root, start, names = Path(sys.argv[1]), Path(sys.argv[2]), tuple(sys.argv[3].split(","))
{code}
folder, left = None, 0

def trace(frame, event, arg):
    global left
    if not frame.f_code.co_filename.endswith(names):
        return None
    if event == "line":
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return trace

for n in range(10000):
    folder, left = root / f"{{n:05d}}", n
    shutil.copytree(start, folder) if start.exists() else folder.mkdir(parents=True)
    child = os.fork()
    if child == 0:
        sys.settrace(trace)
        work(folder)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status):
        sys.exit(os.WEXITSTATUS(status))
"""


def kill_at_every_line(code: str, root: Path, files: tuple[str, ...], *, start: Path | None = None) -> list[Path]:
    """Run `work(folder)` of `code` once for each point, each time in a copy of `start`.

    Args:
        files: Ends of the names of the source files whose lines count.

    Returns:
        The folders, in the order of the points; in the last one nobody was killed.
    """
    arguments = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        PROGRAM.format(code=code),
        str(root / "killed"),
        str(start or root / "absent"),
        ",".join(files),
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return sorted((root / "killed").iterdir())


def different(folders: list[Path]) -> list[Path]:
    """One folder for each state: of those whose files have the same bytes under the same names, the first. Partial files count as one name."""
    found: dict[object, Path] = {}
    for folder in folders:
        files = sorted((p.name if ".partial" not in p.name else "partial", p.read_bytes()) for p in folder.iterdir())
        found.setdefault(tuple(files), folder)
    return list(found.values())
