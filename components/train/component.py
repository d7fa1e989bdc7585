"""KFP face of train."""

from kfp import dsl


def train(
    spec: str,
    family: str,
    seed: int,
    dataset: dsl.Input[dsl.Dataset],
    features: dsl.Input[dsl.Artifact],
    validation: dsl.Input[dsl.Artifact],
    model: dsl.Output[dsl.Model],
):
    """Fit one model family of one disease.

    Args:
        spec: `DiseaseSpec.to_json()`.
        family: A key of `spec.families`.
        seed: Of every random draw.
        dataset: As written by ingest.
        features: Feast repository written by ingest; profiles are read point-in-time.
        validation: Only there so that training waits for a verdict.
        model: `model.safetensors`, `spec.json`, `model.json`, `reference.json`, `history.json`.
    """
    from components.core.step import step

    with step("train"):
        from pathlib import Path

        from components.core.spec import DiseaseSpec
        from components.train.step import train as work

        work(DiseaseSpec.from_json(spec), family=family, seed=seed, dataset=Path(dataset.path), features=Path(features.path), model=Path(model.path))
