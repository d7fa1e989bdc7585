"""KFP face of evaluate."""

from kfp import dsl


def evaluate(
    spec: str,
    dataset: dsl.Input[dsl.Dataset],
    features: dsl.Input[dsl.Artifact],
    validation: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
):
    """Measure a model on the test split, overall and by device.

    Args:
        spec: `DiseaseSpec.to_json()`.
        dataset: As written by ingest.
        features: Feast repository written by ingest.
        validation: As written by validate; its verdict goes into the report.
        model: As written by train.
        evaluation: `metrics.json`, `predictions.parquet`, `calibration.json`, `operating_point.json`, `report.html`.
        metrics: The point estimates, for the run's page in Kubeflow.
        report: The same report, for the run's page in Kubeflow.
    """
    from components.core.step import step

    with step("evaluate"):
        import json
        import shutil
        from pathlib import Path

        from components.core.spec import DiseaseSpec
        from components.evaluate.step import evaluate as work

        figures = work(
            DiseaseSpec.from_json(spec),
            dataset=Path(dataset.path),
            features=Path(features.path),
            model=Path(model.path),
            validation=Path(validation.path),
            out=Path(evaluation.path),
        )
        points = {name: f["value"] for name, f in figures["metrics"].items() if f["value"] is not None}
        for name, value in points.items():
            metrics.log_metric(name, value)
        Path(metrics.path).write_text(json.dumps(points, sort_keys=True))  # the local cache hits only when this file exists
        shutil.copyfile(Path(evaluation.path) / "report.html", report.path)
