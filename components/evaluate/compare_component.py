"""KFP face of the comparison of families."""

from kfp import dsl


def compare(
    spec: str,
    evaluations: dsl.Input[list[dsl.Artifact]],
    models: dsl.Input[list[dsl.Model]],
    costs: dsl.Input[list[dsl.Metrics]],
    comparison: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
):
    """Put the families of one disease side by side.

    Args:
        spec: `DiseaseSpec.to_json()`.
        evaluations: As written by evaluate, one for each family.
        models: As written by train, one for each family.
        costs: `family`, `seconds`, `peak_mb` of each training.
        comparison: `compare.json`, `compare.csv`, `compare.html`.
        report: The same page, for the run's page in Kubeflow.
    """
    from components.core.step import step

    with step("compare"):
        import shutil
        from pathlib import Path

        from components.core.spec import DiseaseSpec
        from components.evaluate.compare import compare as work

        work(
            DiseaseSpec.from_json(spec),
            evaluations=[Path(a.path) for a in evaluations],
            models=[Path(a.path) for a in models],
            costs=[Path(a.path) for a in costs],
            out=Path(comparison.path),
        )
        shutil.copyfile(Path(comparison.path) / "compare.html", report.path)
