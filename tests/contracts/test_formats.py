"""Every disease that takes pictures: what ingest reads the server reads, in every kind of file, and the sample is the same to the byte."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.core.dataset import Dataset
from components.core.imaging import picture_kinds
from components.core.imaging.fit import fit
from components.core.spec import DiseaseSpec
from components.ingest.step import ingest
from serving import bodies, client, kinds
from serving.bodies.body import Body
from tests.serving.fuzzing import PSEUDONYMISER
from tests.serving.small_bodies import pixels
from tests.serving.small_package import CATALOGUE

SPECS = {path.stem: DiseaseSpec.from_toml(path) for path in sorted(CATALOGUE.glob("*.toml"))}
PICTURES = [name for name, spec in SPECS.items() if "image/png" in bodies.offered(spec)]
TRAINED = [name for name in PICTURES if SPECS[name].input.reader in ("image-csv", "image-folders")]
UPRIGHT, UPSIDE_DOWN = 1, 3
WAYS = {"png": {}, "tif": {}, "bmp": {}, "ppm": {}, "webp": {"lossless": True}, "jpg": {"quality": 90}, "mpo": {"quality": 90}}


def encoded(image: np.ndarray, suffix: str, orientation: int) -> bytes:
    """A picture; where the kind has EXIF, stored the way up that `orientation` says."""
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x010F], exif[0x0112] = "ACME", orientation
    tags = {"exif": exif} if suffix not in ("bmp", "ppm") else {}
    stored = image[::-1, ::-1] if tags and orientation == UPSIDE_DOWN else image
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
    more = {"save_all": True, "append_images": [Image.fromarray(image[::-1])]} if suffix == "mpo" else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(out, kind, **WAYS[suffix], **tags, **more)
    return out.getvalue()


def files(spec: DiseaseSpec) -> dict[str, tuple[bytes, np.ndarray]]:
    """{name: (file, its pixels)}: each kind, upright and upside down, each picture another one."""
    height, width = spec.input.shape[-2:]
    found = {}
    for n, suffix in enumerate(WAYS):
        for orientation in (UPRIGHT, UPSIDE_DOWN):
            image = pixels(height + (0 if spec.input.layout == "tiles" else 9), width, seed=10 * n + orientation)
            found[f"{suffix}{orientation}.{suffix}"] = encoded(image, suffix, orientation), image
    return found


def served(spec: DiseaseSpec, content: bytes, kind: str | None) -> np.ndarray:
    (query,) = bodies.read(kind, Body(content), spec, PSEUDONYMISER)
    return np.ascontiguousarray(query.array)


@pytest.mark.parametrize("name", PICTURES)
def test_the_server_reads_every_kind_as_its_pixels(name: str, tmp_path: Path):
    """By the name that a client's content type has, or by its bytes; the command sends it by the same name."""
    spec = SPECS[name]
    for file, (content, image) in files(spec).items():
        if spec.aggregate is not None and file.endswith(".tif"):
            continue  # to a model of slides a TIFF is a slide
        told = picture_kinds.kind_of(content[:64])
        assert told is not None
        path = tmp_path / "without-a-suffix"
        path.write_bytes(content)
        assert client._body(path, None)[1] == {"Content-Type": told.content_type}
        assert kinds.sniffed(content[: kinds.HEAD]) == told.content_type
        found = served(spec, content, None)
        for kind in (told.content_type, *told.others):
            np.testing.assert_array_equal(served(spec, content, kind), found)
        wanted = fit(image, spec.input)
        if file.endswith((".jpg", ".mpo")):
            assert np.abs(found.astype(int) - wanted).mean() < 8
        else:
            np.testing.assert_array_equal(found, wanted)


def source(spec: DiseaseSpec, folder: Path) -> list[bytes]:
    """The files as this disease's reader wants them, and their contents."""
    made = files(spec)
    groups = ("train", "test") if spec.split.given else ("train",)
    names = [spec.target.classes[n % len(spec.target.classes)] for n in range(len(made))]
    lines = ["image,label,patient,lesion,subject,split"]
    for n, (file, (content, _)) in enumerate(made.items()):
        split = groups[n % len(groups)]
        path = folder / (f"{split}/{names[n]}/{file}" if spec.input.reader == "image-folders" else file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        lines.append(f"{file},{names[n]},p{n},l{n},s{n},{split}")
    if spec.input.reader == "image-csv":
        (folder / "labels.csv").write_text("\n".join(lines))
    return [content for content, _ in made.values()]


@pytest.mark.parametrize("name", TRAINED)
def test_ingest_and_server_make_the_same_samples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DXFLOW_KEY", "a key of the tests only")
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "home"))
    raw = SPECS[name].model_dump(mode="json") | {"external": []}
    raw["split"] |= {"folds": 1}
    raw["limits"] |= {"quarantine_share": 1}
    spec = DiseaseSpec.model_validate(raw)
    contents = source(spec, tmp_path / "in")
    ingest(spec, str(tmp_path / "in"), dataset=tmp_path / "dataset", features=tmp_path / "features", workers=1)
    dataset = Dataset(tmp_path / "dataset")
    assert len(dataset) == len(contents), dataset.quarantine
    trained = sorted(np.ascontiguousarray(one).tobytes() for one in dataset.read(range(len(dataset))))
    assert trained == sorted(served(spec, content, None).tobytes() for content in contents)
    assert dataset.info["provenance"]["notes"]["further pictures in one file, not read"] == 2
