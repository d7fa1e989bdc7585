"""KFP face of ingest."""

from kfp import dsl


def ingest(spec: str, source: str, source_digest: str, key_fingerprint: str, dataset: dsl.Output[dsl.Dataset], features: dsl.Output[dsl.Artifact]):
    """Read, de-identify and decode a source; measure its devices.

    Args:
        spec: `DiseaseSpec.to_json()`.
        source: A folder, a file, or `s3://bucket/prefix`.
        source_digest: Digest of the source's listing; only there so that a changed source is not answered from the cache.
        key_fingerprint: Fingerprint of the pseudonym key, for the same reason.
        dataset: Manifest, shards, quarantine (`components/core/dataset.py`).
        features: Feast repository with `device_profile`.
    """
    from components.core.step import step

    with step("ingest"):
        from pathlib import Path

        from components.core.spec import DiseaseSpec
        from components.ingest.step import ingest as work

        work(DiseaseSpec.from_json(spec), source, dataset=Path(dataset.path), features=Path(features.path))
