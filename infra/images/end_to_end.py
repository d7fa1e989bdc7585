"""Run one disease's pipeline as processes and in the step images, and compare what came out; serve the result; stop a run.

    python -m infra.images.end_to_end FOLDER

Exit 1 with the difference. Both runs have their own home and the same pseudonym key, so every score and figure must agree: the images
hold the same code and the same locked versions under another user and, where the base is another, another operating system.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pandas

from pipelines.sources import image

DISEASE = "lung-nodule"
PATIENTS = 60
TOLERANCE = 1e-3
KEY = "one key for both runs of this test"
STEPS = ("ingest", "validate", "train", "evaluate", "register")


def command(folder: Path, runner: str, *options: str) -> dict[str, Any]:
    """Arguments of subprocess for one run with its own home."""
    environment = {**os.environ, "DXFLOW_HOME": str(folder / runner), "DXFLOW_KEY": KEY}
    for name in ("DXFLOW_STORE", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    words = [sys.executable, "-m", "pipelines", "run", DISEASE, "--source", str(folder / "collection"), "--runner", runner, "--json", *options]
    return {"args": words, "env": environment, "stdout": subprocess.PIPE, "text": True}


def run(folder: Path, runner: str) -> dict[str, Any]:
    """One run to its end; returns what `dxflow run --json` prints."""
    done = subprocess.run(**command(folder, runner), check=False)
    if done.returncode:
        for log in (folder / runner / "runs").glob("*/log.txt"):
            print(log.read_text(errors="replace")[-4000:], file=sys.stderr)
        raise SystemExit(f"the run with {runner} failed")
    return json.loads(done.stdout.splitlines()[-1])


def check(folder: Path, here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """What is wrong, in words; empty when the container run is good and equal."""
    wrong = []
    records = [json.loads(path.read_text()) for path in (folder / "docker" / "runs").glob("*/run.json")]
    if [r["state"] for r in records] != ["succeeded"]:
        wrong.append(f"run.json says {[r['state'] for r in records]}")
    if [(name, there["steps"][name]["state"]) for name in STEPS] != [(name, "ok") for name in STEPS]:
        wrong.append(f"steps: {there['steps']}")
    if there["verdict"] != here["verdict"] or not there["synthetic"]:
        wrong.append(f"verdict {there['verdict']} against {here['verdict']}, synthetic {there['synthetic']}")
    for name, figures in here["metrics"].items():
        for part in ("value", "low", "high", "n"):
            ours, theirs = figures.get(part), there["metrics"][name].get(part)
            if ours != theirs and (ours is None or theirs is None or abs(ours - theirs) > TOLERANCE):
                wrong.append(f"{name}.{part}: {theirs} in containers, {ours} as processes")
    ours, theirs = (pandas.read_parquet(result["predictions"]) for result in (here, there))
    scores = [name for name in ours if ours[name].dtype.kind == "f"]
    if list(ours["sample_id"]) != list(theirs["sample_id"]) or not scores:
        wrong.append("the predictions are of other samples")
    elif not (apart := float((ours[scores] - theirs[scores]).abs().to_numpy().max())) <= TOLERANCE:  # NaN is apart too
        wrong.append(f"scores differ by up to {apart:.2g}")
    else:
        print(f"{len(ours)} predictions differ by at most {apart:.2g}")
    uids = {path.stat().st_uid for path in Path(there["package"]).rglob("*")}
    if 0 in uids:
        wrong.append("a step ran as root")
    if any(path.stat().st_mode & stat.S_IWOTH for path in Path(there["package"]).rglob("*")):
        wrong.append("the package can be written by everybody")
    if containers():
        wrong.append("containers left behind")
    return wrong


def containers() -> list[str]:
    """Ids of the containers of any run, ended ones too."""
    listing = ["docker", "ps", "--all", "--quiet", "--filter", "label=dxflow.run"]
    return subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split()


def stopped_run_ends_its_container(folder: Path) -> None:
    """A run that is told to stop in the middle of a step takes the container with it."""
    child = subprocess.Popen(**command(folder, "docker", "--no-cache"), stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not containers() and time.monotonic() < end:
        time.sleep(0.2)
    seen = len(containers())
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=60)
    if seen != 1 or containers():
        raise SystemExit(f"a stopped run: {seen} containers before, {len(containers())} after")
    print("a run stopped in the middle of a step leaves no container")


def served(package: str) -> None:
    """The serving image answers for the package that the containers registered: read-only root, no capability, ordinary user."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["docker", "run", "--detach", "--network=host", "--read-only", "--tmpfs=/tmp:mode=1777", "--cap-drop=ALL"]
    words += [
        "--security-opt=no-new-privileges",
        f"--volume={package}:/mnt/models:ro",
        "--env=DXFLOW_HOME=/tmp/home",
        "--env=DXFLOW_KEY",
        image("serving"),
    ]
    words += ["python", "-m", "pipelines", "serve", "/mnt/models", "--host", "127.0.0.1", "--port", str(port), "--log=/tmp/log", "--allow-synthetic"]
    name = subprocess.run(words, env={**os.environ, "DXFLOW_KEY": KEY}, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    try:
        for _ in range(120):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5) as answer:
                if answer.status == 200:
                    print("the serving image is ready with the registered package; root file system read-only, no capabilities")
                    return
            time.sleep(0.5)
        logs = subprocess.run(["docker", "logs", "--tail", "20", name], capture_output=True, text=True, check=False)
        raise SystemExit(f"the serving image did not get ready:\n{logs.stdout}{logs.stderr}")
    finally:
        subprocess.run(["docker", "rm", "--force", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.chmod(0o755)  # the images' user reads the collection
    subprocess.run(
        [sys.executable, "-m", "pipelines", "phantom", DISEASE, "--patients", str(PATIENTS), "--out", str(folder / "collection")], check=True
    )
    here, there = run(folder, "subprocess"), run(folder, "docker")
    for name in ("subprocess", "docker"):
        result = here if name == "subprocess" else there
        auc = result["metrics"]["auc"]
        steps = ", ".join(f"{step} {result['steps'][step]['seconds']:.1f} s" for step in STEPS)
        print(f"{name}: AUC {auc['value']} [{auc['low']}, {auc['high']}] n={auc['n']}, {result['verdict']}, {result['seconds']:.0f} s ({steps})")
    wrong = check(folder, here, there)
    if wrong:
        raise SystemExit("\n".join(wrong))
    print(f"the containers agree with the processes within {TOLERANCE:g} in every figure; synthetic data, {PATIENTS} patients")
    served(there["package"])
    stopped_run_ends_its_container(folder)


if __name__ == "__main__":
    main()
