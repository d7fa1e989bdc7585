"""`make soak`: every module of this folder that can be run, one after the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    names = sorted(p.stem for p in Path(__file__).parent.glob("[a-z]*.py"))
    failed = [name for name in names if subprocess.run([sys.executable, "-m", f"tests.soak.{name}"], check=False).returncode]
    print(f"failed: {', '.join(failed)}" if failed else f"passed: {', '.join(names)}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
