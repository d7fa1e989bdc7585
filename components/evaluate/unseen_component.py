"""KFP faces of leave-one-device-out: which models are trained, and what comes of them."""

from kfp import dsl


def left_out(spec: str, refuse: bool, dataset: dsl.Input[dsl.Dataset]) -> list[str]:
    """The spec once for each device of the data, with this device left out.

    Args:
        spec: `DiseaseSpec.to_json()`.
        refuse: Too few devices are an error; else the list is the spec as it came.
        dataset: As written by ingest.
    """
    from components.core.step import step

    with step("left-out"):
        from pathlib import Path

        from components.core.spec import DiseaseSpec
        from components.evaluate.unseen import branches

        return [one.to_json() for one in branches(DiseaseSpec.from_json(spec), Path(dataset.path), refuse=refuse)]


def unseen(
    spec: str,
    evaluations: dsl.Input[list[dsl.Artifact]],
    models: dsl.Input[list[dsl.Model]],
    table: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
):
    """What each device costs that training did not see.

    Args:
        spec: `DiseaseSpec.to_json()`.
        evaluations: As written by evaluate, one for each device left out, or the run's own where there are too few.
        models: As written by train, in the same order.
        table: `unseen.json`, `unseen.html`.
        report: The same page, for the run's page in Kubeflow.
    """
    from components.core.step import step

    with step("unseen"):
        import shutil
        from pathlib import Path

        from components.core.spec import DiseaseSpec
        from components.evaluate.unseen import unseen as work

        work(
            DiseaseSpec.from_json(spec),
            evaluations=[Path(a.path) for a in evaluations],
            models=[Path(a.path) for a in models],
            out=Path(table.path),
        )
        shutil.copyfile(Path(table.path) / "unseen.html", report.path)
