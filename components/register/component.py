"""KFP face of register."""

from kfp import dsl


def register(
    spec: str,
    deployment: str,
    dataset: dsl.Input[dsl.Dataset],
    features: dsl.Input[dsl.Artifact],
    validation: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    package: dsl.Output[dsl.Model],
):
    """Judge a model by its gates, pack it and register it; a refused model is kept with its reason.

    Args:
        spec: `DiseaseSpec.to_json()`.
        deployment: Digest of the registry's and store's addresses, so that another deployment is not answered from the cache.
        dataset: As written by ingest.
        features: Feast repository written by ingest; its profiles are published to the online store.
        validation: As written by validate.
        model: As written by train.
        evaluation: As written by evaluate.
        package: The model package (`components/core/package.py`).
    """
    from components.core.step import step

    with step("register"):
        from pathlib import Path

        from components.core.spec import DiseaseSpec
        from components.register.step import register as work

        work(
            DiseaseSpec.from_json(spec),
            dataset=Path(dataset.path),
            features=Path(features.path),
            validation=Path(validation.path),
            model=Path(model.path),
            evaluation=Path(evaluation.path),
            package=Path(package.path),
        )
