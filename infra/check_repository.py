"""Checks that no linter makes: the lock has hashes and no hosts, files keep their size, nothing names a machine.

python infra/check_repository.py
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 500
HOST = re.compile(r"(index-url|find-links|registry)\s*=\s*.?https?:|https?://[^ \"]*/simple/")


def findings() -> list[str]:
    """One line per finding."""
    found = []
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    if "://" in lock or "--index" in lock or "--find-links" in lock:
        found.append("requirements.lock names a host or an index")
    blocks = re.findall(r"^([a-zA-Z0-9_.\[\]-]+)==[^\n]*(?:\n[ \t]+[^\n]*)*", lock, flags=re.MULTILINE)
    if len(blocks) < 100 or lock.count("--hash=sha256:") < len(blocks):
        found.append("requirements.lock lacks hashes")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in tracked:
        path = ROOT / name
        if path.suffix not in {".py", ".toml", ".md", ".html", ".yaml", ".sh", ""} or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if HOST.search(text) and name != "infra/check_repository.py":
            found.append(f"{name}: names a package host")
        if path.suffix == ".py" and text.count("\n") > MAX_LINES:
            found.append(f"{name}: {text.count(chr(10))} lines, at most {MAX_LINES}: is it still one idea?")
        if (
            path.suffix == ".py"
            and re.search(r"\b(import pickle|torch\.load\(|allow_pickle=True|shell=True)", text)
            and name != "infra/check_repository.py"
        ):
            found.append(f"{name}: pickle or a shell string")
    return found


if __name__ == "__main__":
    problems = findings()
    print("\n".join(problems) or "repository: ok")
    sys.exit(1 if problems else 0)
