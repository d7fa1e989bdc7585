"""Started by test_kill.py: for each event a new study arrives, the loop is killed (SIGKILL, by itself, so at a known point) at that event, and
started again.

Each life is a process of its own, forked before anything is opened, so that what takes seconds to import is imported once.
Arguments: port of Orthanc, folder, package. Prints one line for each life: the event it died at, or `end`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

EVENTS = ("working", "computed", "logged", "judged", "stored", "stored again")


def life(url: str, folder: Path, package: Path, last: str) -> None:
    from components.core.inference_log import InferenceLog
    from components.core.package import ModelPackage
    from components.core.pseudonym import Pseudonymiser
    from serving.journal import Journal
    from serving.pacs.dicomweb import DicomWeb
    from serving.pacs.ledger import Ledger, alone
    from serving.pacs.loop import Loop, Station
    from serving.predictor import Predictor
    from tests.pacs.studies import KEY, KnownNodule

    seen: list[str] = []

    def tell(event: dict[str, Any]) -> None:
        seen.append(event["event"] + " again" * (event["event"] == "stored" and "stored" in seen))
        if seen[-1] == last:
            os.kill(os.getpid(), signal.SIGKILL)

    key, model = Pseudonymiser(KEY.encode()), Predictor(ModelPackage.open(package, allow_synthetic=True), None)
    rules = model.spec.pacs
    assert rules is not None
    with alone(folder / "ledger.db"), Ledger(folder / "ledger.db") as ledger, InferenceLog(folder / "log") as log:
        station = Station(model, rules, KnownNodule(model, key))
        Loop(DicomWeb(url), [station], ledger, Journal(log, [model]), key, stable_s=0, tell=tell).once()


def main() -> None:
    import highdicom  # noqa: F401 - before the forks
    import onnxruntime  # noqa: F401
    import pandas  # noqa: F401

    import serving.pacs.loop  # noqa: F401
    from tests.orthanc import Orthanc
    from tests.pacs.studies import chest

    archive, package = Orthanc(Path(sys.argv[2]), int(sys.argv[1])), Path(sys.argv[3])
    for number, event in enumerate(EVENTS):
        archive.send(chest(f"2.25.7{number}", f"2.25.7{number}.1"))
        for last in (event, "never"):
            print(outcome(archive.url, archive.folder, package, last), flush=True)


def outcome(url: str, folder: Path, package: Path, last: str) -> str:
    child = os.fork()
    if child == 0:
        try:
            life(url, folder, package, last)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return last if os.WIFSIGNALED(status) else "end" if status == 0 else "error"


if __name__ == "__main__":
    main()
