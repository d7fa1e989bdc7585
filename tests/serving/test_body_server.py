"""Files of every format at a real server process: raw bodies, BYTES tensors, and what must cost nothing. One process serves the whole file."""

from __future__ import annotations

import base64
import gzip
import io
import json
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from click.testing import CliRunner

from components.core.errors import DataError
from components.core.inference_log import read_log
from pipelines.serving_verbs import predict
from serving import bodies, client
from serving.bodies.body import Body
from serving.options import MAX_BODY_BYTES
from tests.core.flips import flips
from tests.serving import small_bodies
from tests.serving.fuzzing import MARKS, PSEUDONYMISER, mutants, seeds
from tests.serving.small_bodies import BRAIN, FUNDUS, GAIT, PIXELS, TABLE, TILES, disease, package
from tests.serving.small_dicom import ct_slice, image
from tests.serving.small_package import GAIN, MIDDLE, build, lung_nodule, reference
from tests.serving.small_server import Process, free_port, serving, started

LUNG = "lung-nodule"
PICTURES = ("image/bmp", "image/jpeg", "image/png", "image/tiff", "image/webp", "image/x-portable-anymap")
POINT = {"X-Dxflow-Row": "100", "X-Dxflow-Column": "100"}
CPU_S = 1.0
GROWTH = 48 << 20
"""What the server may take for a body that is refused, beyond what it had: less than any of the bombs would take unpacked."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    root = tmp_path_factory.mktemp("bodies")
    lung = lung_nodule(normalise={"method": "range", "missing_profile": "pooled"})
    build(root / LUNG, lung, reference({"0123456789abcdef": ("SIEMENS", "X")}, patients=2))
    for name in (FUNDUS, BRAIN, GAIT, TABLE, PIXELS, TILES):
        package(root / name, name)
    port = free_port()
    code = serving([root / name for name in (LUNG, FUNDUS, BRAIN, GAIT, TABLE, PIXELS, TILES)], root / "log", port=port)
    with started(code, root, port=port, ready="/v2/health/ready") as process:
        yield process


def expected(name: str, array: np.ndarray) -> float:
    """P(positive) by hand: the small network is the mean of the normalised sample."""
    spec = disease(name)
    low, high = spec.input.range
    x = np.clip((array.astype(np.float64) - low) / (high - low), 0, 1)
    p = 1 / (1 + np.exp(-GAIN * (x.mean() - MIDDLE)))
    return float(p if spec.positive_index == 1 else 1 - p)


GOOD: dict[str, tuple[str, Callable[[], bytes]]] = {
    "image/png": (FUNDUS, small_bodies.picture),
    "image/jpeg": (FUNDUS, lambda: small_bodies.picture("JPEG")),
    "application/dicom": (FUNDUS, small_bodies.photograph_dicom),
    "application/x-nifti": (BRAIN, small_bodies.nifti),
    "application/gzip": (BRAIN, lambda: small_bodies.nifti(packed=True)),
    "text/csv; charset=utf-8": (GAIT, lambda: small_bodies.recording(12)),
    "text/csv": (TABLE, small_bodies.table),
    "TEXT/CSV": (PIXELS, small_bodies.pixel_table),
}


@pytest.mark.parametrize("kind", GOOD)
def test_a_raw_body_a_json_and_a_tensor_of_one_file_get_the_answer_computed_by_hand(server: Process, kind: str):
    import tritonclient.http as triton

    name, make = GOOD[kind]
    content = make()
    wanted = [expected(name, q.array) for q in bodies.read(kind, Body(content), disease(name), PSEUDONYMISER)]
    positive = disease(name).target.positive

    def probabilities(answers: list[dict[str, Any]]) -> list[float]:
        return [a["probabilities"][positive] for a in answers]

    raw = httpx.post(f"{server.url}/v1/models/{name}:predict", content=content, headers={"Content-Type": kind}, timeout=60)
    assert raw.status_code == 200, raw.text
    assert probabilities(raw.json()["predictions"]) == pytest.approx(wanted, abs=1e-4)
    text = base64.b64encode(content).decode()
    document = {"instances": [{"file_base64": text, "content_type": kind}, {"file_base64": text}]}
    twice = httpx.post(f"{server.url}/v1/models/{name}:predict", json=document, timeout=60)
    assert probabilities(twice.json()["predictions"]) == pytest.approx([*wanted, *wanted], abs=1e-4)
    tensor = {"name": "file", "shape": [1], "datatype": "BYTES", "data": [text], "parameters": {"content_type": kind}}
    reply = httpx.post(f"{server.url}/v2/models/{name}/infer", json={"inputs": [tensor]}, timeout=60)
    outputs = {o["name"]: o["data"] for o in reply.json()["outputs"]}
    assert probabilities([json.loads(a) for a in outputs["answer"]]) == pytest.approx(wanted, abs=1e-4)
    client = triton.InferenceServerClient(server.url.removeprefix("http://"), network_timeout=60, connection_timeout=60)
    sent = triton.InferInput("file", [1], "BYTES")
    sent.set_data_from_numpy(np.array([content], dtype=np.object_))
    answered = client.infer(name, [sent]).as_numpy("answer")
    assert answered is not None
    assert probabilities([json.loads(a) for a in answered]) == pytest.approx(wanted, abs=1e-4)


def test_our_own_client_asks_for_one_window_and_says_in_one_line_why_a_file_is_not_sent(server: Process, tmp_path: Path):
    file = tmp_path / "study"
    for content, says in (
        (b"", "not a file that a server takes"),
        (b"PK\3\4\0\0", "not a file that a server takes"),
        (small_bodies.picture(), "allowed: text/csv"),
    ):
        file.write_bytes(content)
        with pytest.raises(DataError, match=says):
            client.predict(server.url, GAIT, file)
    file.write_bytes(b"P5\n64 64\n255\n" + bytes(range(256)) * 16)  # as `dxflow predict x.pgm`
    assert len(client.predict(server.url, FUNDUS, file)) == 1
    file.write_bytes(small_bodies.recording(12))
    assert [a["part"]["window"] for a in client.predict(server.url, GAIT, file, window=2)] == [2]
    with open(file, "wb") as handle:
        handle.truncate(MAX_BODY_BYTES + 1)
    with pytest.raises(DataError, match="64 MB in a request; what is larger goes by reference"):
        client.predict(server.url, GAIT, file)
    with pytest.raises(DataError, match=r"instances\[0\].reference: not in a bucket that this server fetches from"):
        client.predict(server.url, GAIT, "s3://gait/walk.csv")


def test_the_client_sends_each_kind_of_file_as_what_its_first_bytes_say(server: Process, tmp_path: Path):
    """Names of files say nothing: a series from an archive has none."""
    files = [(kind, name, make()) for kind, (name, make) in GOOD.items()]
    files.append(("application/dicom", FUNDUS, small_bodies.photograph_dicom()[132:]))  # as old archives keep it
    for kind, name, content in files:
        (tmp_path / "file").write_bytes(content)
        wanted = [expected(name, q.array) for q in bodies.read(kind, Body(content), disease(name), PSEUDONYMISER)]
        answers = client.predict(server.url, name, tmp_path / "file", None, None, 60)
        assert [a["probabilities"][disease(name).target.positive] for a in answers] == pytest.approx(wanted, abs=1e-4), kind


def test_the_command_gives_every_row_of_a_table_its_answer(server: Process, tmp_path: Path):
    (tmp_path / "table").write_bytes(small_bodies.table(3))
    asked = [str(tmp_path / "table"), "--model", TABLE, "--url", server.url]
    found = CliRunner().invoke(predict, [*asked, "--json"])
    assert [a["part"] for a in json.loads(found.output)] == [{"row": 0}, {"row": 1}, {"row": 2}]
    lines = CliRunner().invoke(predict, asked).output.splitlines()
    assert [line.split(";")[0].split()[:2] for line in lines if line.startswith("row ")] == [["row", "0"], ["row", "1"], ["row", "2"]]
    assert all("scores malignant " in line for line in lines if line.startswith("row "))
    (tmp_path / "table").write_bytes(small_bodies.table(1))
    assert json.loads(CliRunner().invoke(predict, [*asked, "--json"]).output)["part"] == {"row": 0}


def test_a_slide_is_explained_on_its_own_picture(server: Process, tmp_path: Path):
    """The small package has no forest for slides: it says so, and there is no heat. Tests of the heat itself are in test_slides.py."""
    content = small_bodies.slide(tmp_path, image=small_bodies.corner())
    reply = httpx.post(f"{server.url}/v1/models/{TILES}:explain", content=content, headers={"Content-Type": "image/tiff"}, timeout=60)
    (found,) = reply.json()["explanations"]
    assert (reply.status_code, found["abstain"], found["part"]["tiles"], found["heatmap"]) == (200, True, 72, None)


def test_parts_say_which_they_are_and_the_client_chooses_window_and_device(server: Process):
    key = "0123456789abcdef"
    headers = {"Content-Type": "text/csv", "X-Dxflow-Window": "3", "X-Dxflow-Device-Key": key}
    one = httpx.post(f"{server.url}/v1/models/{GAIT}:predict", content=small_bodies.recording(12), headers=headers, timeout=60).json()["predictions"]
    assert [a["part"]["window"] for a in one] == [3]
    assert (one[0]["device"]["key"], one[0]["device"]["status"]) == (key, "known")
    headers.pop("X-Dxflow-Window")
    whole = httpx.post(f"{server.url}/v1/models/{GAIT}:explain", content=small_bodies.recording(12), headers=headers, timeout=60)
    assert whole.json()["error"] == "header X-Dxflow-Window: one window at a time; got 6 windows; allowed: 0 to 5"
    for name, value in (("X-Dxflow-Window", "1.5"), ("X-Dxflow-Window", "-1"), ("X-Dxflow-Device-Key", "Miller"), ("X-Dxflow-Window", "nan")):
        reply = httpx.post(f"{server.url}/v1/models/{GAIT}:predict", content=b"x", headers=headers | {name: value}, timeout=60)
        assert (reply.status_code, name in reply.json()["error"], value in reply.json()["error"]) == (400, True, False)


def test_metadata_names_a_tensor_for_each_content_type_and_the_refusal_lists_the_content_types(server: Process):
    inputs = httpx.get(f"{server.url}/v2/models/{FUNDUS}", timeout=60).json()["inputs"]
    kinds = ("application/dicom", *PICTURES)
    assert inputs == [
        {"name": "x", "datatype": "FP32", "shape": [-1, 3, 64, 64]},
        *({"name": kind, "datatype": "BYTES", "shape": [-1]} for kind in kinds),
    ]
    text = base64.b64encode(small_bodies.picture()).decode()
    named = {"name": "image/jpeg", "shape": [1], "datatype": "BYTES", "data": [text]}
    reply = httpx.post(f"{server.url}/v2/models/{FUNDUS}/infer", json={"inputs": [named | {"name": "image/png"}]}, timeout=60)
    assert reply.status_code == 200, reply.text
    other = httpx.post(f"{server.url}/v2/models/{FUNDUS}/infer", json={"inputs": [named | {"name": "application/x-nifti"}]}, timeout=60)
    assert (other.status_code, "image/png" in other.json()["error"]) == (415, True)
    taken = httpx.post(f"{server.url}/v1/models/{LUNG}:predict", content=small_bodies.picture(), headers={"Content-Type": "image/png"}, timeout=60)
    assert (taken.status_code, taken.json()["error"]) == (415, "body: not a file that this model takes; allowed: application/dicom")
    other = httpx.post(f"{server.url}/v1/models/{LUNG}:predict", content=b"PK", headers={"Content-Type": "application/zip"}, timeout=60)
    assert other.status_code == 415
    assert "application/dicom" in other.json()["error"]


def png_claim(width: int, height: int, comment: bytes = b"") -> bytes:
    """A PNG header that claims a size, a packed comment, and few pixels behind it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"zTXt", b"Comment\0\0" + comment) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def packed_zeros(n: int) -> bytes:
    """`n` zero bytes as one zlib stream, made piece by piece."""
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(n >> 20)), packer.flush()])


def jpeg2000(rows: int, columns: int) -> bytes:
    """A slice whose codestream of 64 x 64 says that it has another size, as its header does."""
    import pydicom

    d = pydicom.dcmread(io.BytesIO(ct_slice(image(size=64))))
    d.compress("1.2.840.10008.1.2.4.90", encoding_plugin="pylibjpeg", generate_instance_uid=False)
    data = bytearray(d.PixelData)
    at = data.find(b"\xff\x4f\xff\x51")
    for offset, value in ((8, columns), (12, rows), (24, columns), (28, rows)):  # Xsiz, Ysiz, XTsiz, YTsiz of SIZ
        data[at + offset : at + offset + 4] = struct.pack(">I", value)
    d.PixelData, d.Rows, d.Columns = bytes(data), rows, columns
    out = io.BytesIO()
    d.save_as(out, enforce_file_format=True)
    return out.getvalue()


def two_bytes() -> bytes:
    """65535 x 65535, and two bytes of pixels."""
    return ct_slice(image(size=16), Rows=65535, Columns=65535, PixelData=b"\0\0")


def deflated(mb: int) -> bytes:
    """A deflated data set that unpacks to so many megabytes."""
    import pydicom

    d = pydicom.dcmread(io.BytesIO(ct_slice(image(size=16))))
    d.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    d.Rows, d.Columns, d.PixelData = 4096, mb << 7, bytes(mb << 20)
    out = io.BytesIO()
    d.save_as(out, enforce_file_format=True)
    return out.getvalue()


def unpacking_nifti(mb: int) -> bytes:
    """Kilobytes that unpack to a volume of so many megabytes."""
    packer = zlib.compressobj(9, wbits=31)
    head = small_bodies.nifti_claim((128, 1024, mb), b"")
    return b"".join([packer.compress(head), *(packer.compress(bytes(1 << 20)) for _ in range(mb)), packer.flush()])


def posing_slide() -> bytes:
    """100,000 x 100,000, and a few kilobytes of tiles."""
    with tempfile.TemporaryDirectory() as folder:
        return small_bodies.slide(Path(folder), claims=100_000)


def decoy() -> bytes:
    """JPEG 2000 of 30,000 x 30,000 behind a box that holds a smaller one's head."""
    side = 30_000
    true = b"\xff\x4f\xff\x51" + struct.pack(">HH8LH3B", 41, 0, side, side, 0, 0, side, side, 0, 0, 1, 15, 1, 1)
    false = b"\xff\x4f\xff\x51" + struct.pack(">HH8LH3B", 41, 0, 64, 64, 0, 0, 64, 64, 0, 0, 1, 15, 1, 1)
    boxes = [b"\0\0\0\x0cjP  \r\n\x87\n", *(struct.pack(">L4s", 8 + len(body), kind) + body for kind, body in ((b"free", false), (b"jp2c", true)))]
    return encapsulated(b"".join(boxes))


def encapsulated(frame: bytes) -> bytes:
    import pydicom
    from pydicom.encaps import encapsulate

    d = pydicom.dcmread(io.BytesIO(ct_slice(image(size=64))))
    d.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
    d.PixelData = encapsulate([frame])
    d["PixelData"].is_undefined_length = True
    out = io.BytesIO()
    d.save_as(out, enforce_file_format=True)
    return out.getvalue()


def endless_scans() -> bytes:
    """A progressive JPEG of 12 million pixels whose last scan stands there 4000 times."""
    from PIL import Image

    out = io.BytesIO()
    Image.new("L", (4000, 3000)).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 4000 + b"\xff\xd9"


def bitmap_claim() -> bytes:
    return b"BM" + struct.pack("<LHHLLllHHLLllLL", 99, 0, 0, 54, 40, 60_000, 60_000, 1, 24, *[0] * 6)


def webp_claim(side: int) -> bytes:
    """A WebP container that claims a canvas, and a picture of one pixel in it."""
    size = (side - 1).to_bytes(3, "little") * 2
    body = b"WEBPVP8X" + (10).to_bytes(4, "little") + b"\2\0\0\0" + size + b"VP8L" + (9).to_bytes(4, "little") + b"\x2f" + bytes(9)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


BOMBS: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "JPEG 2000 of 100 MB": (LUNG, "application/dicom", lambda: jpeg2000(7168, 7168)),
    "JPEG 2000 of 16 MB in a kilobyte": (LUNG, "application/dicom", lambda: jpeg2000(2800, 2800)),
    "JPEG 2000 behind a decoy": (LUNG, "application/dicom", decoy),
    "progressive JPEG without end": (FUNDUS, "image/jpeg", endless_scans),
    "WebP of 16,383 x 16,383": (FUNDUS, "image/webp", lambda: webp_claim(16_383)),
    "BMP of 60,000 x 60,000": (FUNDUS, "image/bmp", bitmap_claim),
    "PGM of 60,000 x 60,000": (FUNDUS, "image/x-portable-graymap", lambda: b"P5 60000 60000 255\n"),
    "header of 65535 x 65535": (LUNG, "application/dicom", two_bytes),
    "deflated DICOM": (LUNG, "application/dicom", lambda: deflated(60)),
    "PNG of 50,000 x 50,000": (FUNDUS, "image/png", lambda: png_claim(50_000, 50_000)),
    "PNG of 8000 x 8000 in a kilobyte": (FUNDUS, "image/png", lambda: png_claim(8000, 8000)),
    "PNG whose comment unpacks to 200 MB": (FUNDUS, "image/png", lambda: png_claim(8, 8, comment=packed_zeros(200 << 20))),
    "gzip of a volume": (BRAIN, "application/x-nifti", lambda: unpacking_nifti(200)),
    "gzip of nothing but zeros": (BRAIN, "application/x-nifti", lambda: gzip.compress(bytes(100 << 20))),
    "NIfTI that claims 10^12 voxels": (BRAIN, "application/x-nifti", lambda: small_bodies.nifti_claim((10_000, 10_000, 10_000), b"")),
    "CSV of a million columns": (GAIT, "text/csv", lambda: b"time," + b"A0," * 1_000_000 + b"N\n" + b"1," * 1_000_000 + b"1\n"),
    "table of a million columns": (TABLE, "text/csv", lambda: b"1," * 1_000_000 + b"1\n"),
    "one endless line": (GAIT, "text/csv", lambda: small_bodies.recording(2) + b"1," * 10_000_000),
    "a clock of a billion hertz": (
        GAIT,
        "text/csv",
        lambda: ("time,A0,A1,A2,U0,U1,U2,T1,T2,T3\n" + "".join(f"{n * 1e-6:.6f}{',600' * 9}\n" for n in range(60_000))).encode(),
    ),
    "lines without end": (GAIT, "text/csv", lambda: small_bodies.recording(2) + b"\n" * 30_000_000),
    "slide posing as 10^10 pixels": (TILES, "image/tiff", posing_slide),
    "archive": (PIXELS, "application/zip", lambda: b"PK\3\4" + packed_zeros(100 << 20)),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_costs_a_second_or_memory(server: Process, name: str):
    """In the server's own processor time: a loaded machine must not decide. The peak of memory counts, not what is left after it."""
    model, kind, make = BOMBS[name]
    content = make()
    process = psutil.Process(server.process.pid)
    clear = Path(f"/proc/{process.pid}/clear_refs")
    clear.write_text("5")  # the peak starts anew
    before, spent = process.memory_info().rss, process.cpu_times()
    reply = httpx.post(f"{server.url}/v1/models/{model}:predict", content=content, headers={"Content-Type": kind, **POINT}, timeout=60)
    after = process.cpu_times()
    assert reply.status_code in (400, 413, 415), reply.text
    assert (after.user + after.system) - (spent.user + spent.system) < CPU_S
    peak = next(int(line.split()[1]) << 10 for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    assert peak - before < GROWTH + 3 * len(content), f"{(peak - before) >> 20} MB"


def test_one_flipped_bit_of_a_gzipped_volume_is_refused_and_the_whole_one_answered(server: Process):
    """It was answered with another class, without a word: nobody had read to the checksum."""
    whole = small_bodies.nifti(packed=True)
    ask = {"url": f"{server.url}/v1/models/{BRAIN}:predict", "headers": {"Content-Type": "application/x-nifti"}, "timeout": 60}
    assert httpx.post(content=whole, **ask).status_code == 200
    for _, turned in flips(whole[20:], 12, seed=1):
        reply = httpx.post(content=whole[:20] + turned, **ask)
        assert reply.status_code == 400
        assert "damaged gzip stream" in reply.json()["error"]


@pytest.mark.parametrize(
    ("text", "status"), [("%%%", 400), ("QUJ", 400), ("Miller^Jonathan!", 400), ("", 415), ("UEsDBA==" * 1000, 400), ("\udcff", 400)]
)
def test_base64_garbage_is_refused_by_its_field(server: Process, text: str, status: int):
    for document in ({"instances": [{"file_base64": text}]}, {"instances": [{"file_base64": [text]}]}):
        body = json.dumps(document).encode()
        reply = httpx.post(f"{server.url}/v1/models/{FUNDUS}:predict", content=body, headers={"Content-Type": "application/json"}, timeout=60)
        assert reply.status_code in (400, status), reply.text
        assert not any(mark in reply.text.lower() for mark in MARKS)


BAD_TENSORS = {
    "length over the end": ([1], struct.pack("<I", 1 << 30) + b"x"),
    "half a length": ([1], b"\1\0"),
    "more than its shape": ([1], struct.pack("<I", 0) * 1_000_000),
    "fewer than its shape": ([3], struct.pack("<I", 0)),
    "no axis": ([], b""),
    "two axes": ([2, 2], struct.pack("<I", 0) * 4),
    "too many": ([100_000], struct.pack("<I", 0) * 100_000),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_tensors_of_files_that_do_not_fit_are_refused_by_their_field(server: Process, name: str):
    shape, raw = BAD_TENSORS[name]
    tensor = {"name": "file", "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    reply = httpx.post(f"{server.url}/v2/models/{FUNDUS}/infer", content=head + raw, headers=headers, timeout=60)
    assert (reply.status_code, "inputs[0]" in reply.json()["error"]) == (400, True), reply.text


def test_damaged_files_never_make_a_defect_of_the_server(server: Process):
    """A part of what `make soak` sends: no 500, nothing quoted, and the process stays the one it was."""
    places = {"dicom": LUNG, "dicom-photograph": FUNDUS, "png": FUNDUS, "jpeg": FUNDUS, "nifti": BRAIN, "recording": GAIT, "table": TABLE}
    with httpx.Client(timeout=60) as client:
        for name, model in places.items():
            kind, _, good = seeds()[name]
            for content in mutants(good, 25, seed=11):
                headers = {"Content-Type": kind, "X-Dxflow-Row": "30", "X-Dxflow-Column": "30"}
                reply = client.post(f"{server.url}/v1/models/{model}:predict", content=content, headers=headers)
                assert reply.status_code in (200, 400, 413), (name, reply.text)
                assert not any(mark in reply.text.lower() for mark in MARKS)
    assert server.process.poll() is None
    assert "defect" not in server.output.read_text()
    assert not any(mark in server.output.read_text().lower() for mark in MARKS)


def test_the_hospitals_own_words_are_hashed_before_anything_is_written(server: Process, tmp_path: Path):
    """By header, JSON, v2 and the command; the log has the hash of ingest, and neither log nor output nor a refusal has the word."""
    words = {"device": "Kamera Süd 0815", "patient": "Müller-0815", "study": "Study 0815"}
    headers = {b"Content-Type": b"image/png"} | {f"X-Dxflow-{name.title()}".encode(): word.encode() for name, word in words.items()}
    content, url = small_bodies.picture(), f"{server.url}/v1/models/{FUNDUS}:predict"
    answers = httpx.post(url, content=content, headers=headers, timeout=60).json()["predictions"]
    encoded = base64.b64encode(content).decode()
    answers += httpx.post(url, json={"instances": [{"file_base64": encoded, **words}]}, timeout=60).json()["predictions"]
    tensor = {"name": "image/png", "shape": [1], "datatype": "BYTES", "data": [encoded], "parameters": words}
    reply = httpx.post(f"{server.url}/v2/models/{FUNDUS}/infer", json={"inputs": [tensor]}, timeout=60).json()
    answers += [json.loads(text) for output in reply["outputs"] if output["name"] == "answer" for text in output["data"]]
    (tmp_path / "eye.png").write_bytes(content)
    asked = [str(tmp_path / "eye.png"), "--model", FUNDUS, "--url", server.url, "--json"]
    answers.append(json.loads(CliRunner().invoke(predict, [*asked, "--device", words["device"]]).output))
    device = PSEUDONYMISER.id("device", words["device"])
    assert [a["device"]["key"] for a in answers] == [device] * 4
    for bad in ({"device": "0815\u0007"}, {"patient": "0815" * 60}, {"study": ["0815"]}):
        refusal = httpx.post(url, json={"instances": [{"file_base64": encoded, **bad}]}, timeout=60)
        assert (refusal.status_code, "0815" in refusal.text, next(iter(bad)) in refusal.text) == (400, False, True)
    untold = json.loads(CliRunner().invoke(predict, asked).output)
    assert (untold["device"]["key"], untold["device"]["status"]) == ("unknown", "unknown")
    log = read_log(server.output.parent / "log")
    mine = log[log["request_id"].isin([a["request_id"] for a in answers[:3]])]
    assert set(mine["patient"]) == {PSEUDONYMISER.id("patient", words["patient"])}
    assert set(mine["study"]) == {PSEUDONYMISER.id("study", words["study"])}
    assert set(log[log["request_id"] == untold["request_id"]]["device_status"]) == {"unknown"}
    assert "0815" not in server.output.read_text()
    assert not any(b"0815" in path.read_bytes() for path in (server.output.parent / "log").rglob("*") if path.is_file())


def test_the_openapi_page_lists_what_the_models_take_and_every_field_of_an_answer(server: Process):
    page = httpx.get(f"{server.url}/openapi.json", timeout=60).json()
    reply = httpx.post(f"{server.url}/v1/models/{FUNDUS}:predict", content=small_bodies.picture(), headers={"Content-Type": "image/png"}, timeout=60)
    answer = reply.json()["predictions"][0]
    answered = page["paths"][f"/v1/models/{FUNDUS}:predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    told = answered["properties"]["predictions"]["items"]["properties"]
    assert set(answer) <= set(told) | {"covariates", "part"}
    assert set(answer["device"]) == set(told["device"]["properties"])
    if answer["uncertainty"] is not None:
        assert set(answer["uncertainty"]) == set(told["uncertainty"]["properties"])
    taken = page["paths"][f"/v1/models/{FUNDUS}:predict"]["post"]["requestBody"]["content"]
    assert set(taken) == {"application/json", "application/dicom", *PICTURES}
    assert not any("/repository" in path or "openai" in path for path in page["paths"])
