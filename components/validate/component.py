"""KFP face of validate."""

from kfp import dsl


def validate(spec: str, dataset: dsl.Input[dsl.Dataset], validation: dsl.Output[dsl.Artifact]):
    """Check a dataset with Great Expectations; a fail stops the pipeline.

    Args:
        spec: `DiseaseSpec.to_json()`.
        dataset: As written by ingest.
        validation: `validation.json` and `validation.html`.
    """
    from components.core.step import step

    with step("validate"):
        from pathlib import Path

        from components.core.spec import DiseaseSpec
        from components.validate.step import validate as work

        work(DiseaseSpec.from_json(spec), dataset=Path(dataset.path), out=Path(validation.path))
