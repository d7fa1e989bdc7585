"""KFP face of monitor."""

from kfp import dsl


def monitor(package: str, log: str, state: str, window_s: int, findings: dsl.Output[dsl.Artifact]):
    """Read on in the inference log, judge the windows that are over, and tell.

    Args:
        package: A model package: a folder, or its URI in the store.
        log: Folder of the inference log.
        state: Folder of the monitor, kept between runs.
        window_s: Length of a window.
        findings: `summary.json`, `alarms.json`, `history.parquet` and the pages that open alarms link to.
    """
    from components.core.step import step

    with step("monitor"):
        from pathlib import Path

        from components.monitor.scheduled import run

        run(package=package, log=Path(log), state=Path(state), window_s=window_s, out=Path(findings.path))
