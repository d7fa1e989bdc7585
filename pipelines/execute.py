"""Runs one compiled IR in this process. Started by `pipelines/run.py` as a child of its own session:

    python -m pipelines.execute <run folder>

It reads `request.json` and `pipeline.yaml`, writes `outputs.json`; its output is the run's log.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from components.core.atomic import write_text
from components.core.step import die_with_parent


def execute(run: Path) -> dict[str, str]:
    """Run the IR with the runner that the request names; returns the output folders by name."""
    warnings.filterwarnings("ignore")
    from kfp import components, local

    request: dict[str, Any] = json.loads((run / "request.json").read_text(encoding="utf-8"))
    if request["runner"] == "docker":
        from pipelines import containers

        runner = containers.runner(run, request)
    else:
        runner = local.SubprocessRunner(use_venv=False)
    local.init(
        runner,
        pipeline_root=request["pipeline_root"],
        workspace_root=str(run / "workspace"),
        enable_caching=request["cache"],
        cache_root=request["cache_root"],
    )
    pipeline: Any = components.load_component_from_file(str(run / "pipeline.yaml"))
    task = pipeline(**request["arguments"])
    return {name: artifact.path for name, artifact in task.outputs.items()}


def main() -> None:
    """Exit 0 with `outputs.json` written, else 1; the reason is the step's event in the log."""
    run = Path(sys.argv[1])
    die_with_parent()
    os.environ["DXFLOW_RUN_PID"] = str(os.getpid())  # steps watch this process, not the shell that KFP puts between
    try:
        outputs = execute(run)
    except RuntimeError as error:  # kfp: "Task ... finished with status FAILURE"; the step has said why
        print(f"pipeline stopped: {error}", flush=True)
        raise SystemExit(1) from None
    write_text(run / "outputs.json", json.dumps(outputs, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
