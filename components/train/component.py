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
    cost: dsl.Output[dsl.Metrics],
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
        cost: `family`, `seconds`, `peak_mb`; apart from the model, which is the same whatever the machine.
    """
    from components.core.step import step

    with step("train"):
        import json
        import resource
        import time
        from pathlib import Path

        from components.core.spec import DiseaseSpec
        from components.train.step import train as work

        began = time.monotonic()
        info = work(
            DiseaseSpec.from_json(spec), family=family, seed=seed, dataset=Path(dataset.path), features=Path(features.path), model=Path(model.path)
        )
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        facts = {"family": info["family"], "seconds": round(time.monotonic() - began, 2), "peak_mb": round(peak_mb, 1)}
        cost.log_metric("seconds", facts["seconds"])
        cost.log_metric("peak_mb", facts["peak_mb"])
        Path(cost.path).write_text(json.dumps(facts))
