"""KFP face of monitor."""

from kfp import dsl


def monitor(package: dsl.Input[dsl.Model], log: dsl.Input[dsl.Artifact], drift: dsl.Output[dsl.Artifact]):
    """Compare the inference log with the model package's reference, device by device.

    Args:
        package: As written by register.
        log: The inference log of the server.
        drift: `drift.json` and `drift.html`.
    """
    from components.core.step import step

    with step("monitor"):
        from pathlib import Path

        from components.monitor.step import drift as work

        work(package=Path(package.path), log=Path(log.path), out=Path(drift.path))
