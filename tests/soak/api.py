"""schemathesis against the server's own OpenAPI page: whatever fits the page, or nearly, never makes a defect of the server.

`python -m tests.soak.api [examples for each operation] [seed]`
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.serving.small_server import started
from tests.soak.fuzz import run_server

CHECKS = "not_a_server_error,response_schema_conformance,content_type_conformance"


def main() -> int:
    examples = sys.argv[1] if len(sys.argv) > 1 else "300"
    seed = sys.argv[2] if len(sys.argv) > 2 else "20261125"
    with tempfile.TemporaryDirectory() as folder:
        code, port = run_server(Path(folder))
        with started(code, Path(folder), port=port, ready="/v2/health/ready") as server:
            tool = Path(sys.executable).with_name("schemathesis")
            command = [
                str(tool), "run", f"{server.url}/openapi.json", "--checks", CHECKS, "--max-examples", examples, "--seed", seed,
                "--mode", "all", "--no-color", "--suppress-health-check", "all", "--generation-database", "none", "--phases", "fuzzing",
            ]  # fmt: skip
            done = subprocess.run(command, check=False, cwd=folder, env=os.environ | {"SCHEMATHESIS_HOOKS": ""})
            defects = server.output.read_text().count("defect")
            print(f"schemathesis exit {done.returncode}, defects in the server's log: {defects}, alive: {server.process.poll() is None}")
            return 1 if done.returncode or defects or server.process.poll() is not None else 0


if __name__ == "__main__":
    raise SystemExit(main())
