"""The audit log finds whatever somebody did to it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from components.core.errors import ServiceError
from serving.access.audit import EVERY, HEADS, LAST, Audit, chained, genesis, signing_key
from serving.access.verify import verify

LINES = 2 * EVERY + 37


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DXFLOW_AUDIT_KEY_FILE", raising=False)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Path, str]:
    """Folder, heads and name of a closed log of start + LINES + end."""
    with Audit(tmp_path / "log", tmp_path / "heads", signing_key()) as audit:
        for n in range(LINES):
            assert audit.append("predict", who="reader-1", model="lung-nodule", status=200, request_id=f"{n:032x}")
    return tmp_path / "log", tmp_path / "heads", audit.name


def test_what_was_written_is_whole(written: tuple[Path, Path, str]) -> None:
    folder, heads, name = written
    found = verify(folder, heads)
    assert (found.files, found.lines, found.findings, found.torn) == (1, LINES + 2, (), ())
    assert len((heads / f"{name}.heads").read_text().splitlines()) == 4  # start, 100, 200, end


def edit(lines: list[bytes], n: int) -> list[bytes]:
    return [*lines[:n], lines[n].replace(b"predict", b"explain").replace(b"start", b"begin").replace(b"end", b"dne"), *lines[n + 1 :]]


def drop(lines: list[bytes], n: int) -> list[bytes]:
    return lines[:n] + lines[n + 1 :]


def cut(lines: list[bytes], n: int) -> list[bytes]:
    return lines[:n]


def swap(lines: list[bytes], n: int) -> list[bytes]:
    other = (n + 1) % len(lines)
    out = list(lines)
    out[n], out[other] = out[other], out[n]
    return out


def again(lines: list[bytes], n: int) -> list[bytes]:
    return [*lines[: n + 1], lines[n], *lines[n + 1 :]]


@pytest.mark.parametrize("harm", [edit, drop, cut, swap, again])
def test_each_line_that_is_edited_dropped_cut_moved_or_repeated_is_found(written: tuple[Path, Path, str], harm: Callable[..., list[bytes]]) -> None:
    folder, heads, name = written
    path = folder / f"{name}.log"
    lines = path.read_bytes().splitlines(keepends=True)
    for n in range(0, len(lines), 7 if harm is not cut else 1):
        path.write_bytes(b"".join(harm(lines, n)))
        assert verify(folder, heads).findings, f"line {n + 1}"
    path.write_bytes(b"".join(lines))
    assert not verify(folder, heads).findings


def anew(path: Path, tokens_and_texts: list[tuple[str, str]]) -> None:
    """What somebody without the key can do: every hash made anew, signatures as they were or made up."""
    before, out = genesis(path.stem), []
    for signature, text in tokens_and_texts:
        before = f"{chained(before, text)}.{signature}"
        out.append(f"{before} {text}\n")
    path.write_text("".join(out))


def parts(path: Path) -> list[tuple[str, str]]:
    """(signature, JSON) of each line."""
    found = (line.partition(" ") for line in path.read_text().splitlines())
    return [(token.partition(".")[2], text) for token, _, text in found]


def test_a_line_that_is_edited_with_all_hashes_made_anew_is_found_by_the_signatures(written: tuple[Path, Path, str]) -> None:
    folder, heads, name = written
    path = folder / f"{name}.log"
    lines = parts(path)
    lines[150] = lines[150][0], lines[150][1].replace("200", "403")
    anew(path, lines)
    assert verify(folder, heads).findings == (
        f"{path} line {LINES + 2}: the signature is not right",
        f"{path} line 200: not the line that was signed",
    )


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("more", [1, 3])
def test_lines_put_behind_the_end_by_somebody_without_the_key_are_found(tmp_path: Path, ended: bool, more: int) -> None:
    """Also where a kill left no end: every line has its signature, so nobody's word is needed for the last ones."""
    audit = Audit(tmp_path / "log", tmp_path / "heads", signing_key())
    assert audit.append("predict", who="reader-1", status=200)
    if ended:
        audit.close()
    path = tmp_path / "log" / f"{audit.name}.log"
    lines = parts(path)
    forged = [(lines[-1][0], json.dumps({"n": len(lines) + k, "time": "2026-01-01T00:00:00", "action": "predict"})) for k in range(1, more + 1)]
    anew(path, [*lines, *forged])
    (found,) = verify(tmp_path / "log", tmp_path / "heads").findings
    told = f"line {len(lines) + 1}: behind the end of the file" if ended else f"line {len(lines) + more}: the signature is not right"
    assert found == f"{path} {told}"
    anew(path, lines)
    if not ended:
        audit.close()
    assert verify(tmp_path / "log", tmp_path / "heads").findings == ()


def test_signatures_cannot_be_left_out(tmp_path: Path) -> None:
    """A file in the form that had none, with one line more: what was whole before every line was signed."""
    audit = Audit(tmp_path / "log", tmp_path / "heads", signing_key())
    path = tmp_path / "log" / f"{audit.name}.log"
    before, out = genesis(audit.name, signed=False), []
    for _, text in [*parts(path), ("", json.dumps({"n": 2, "action": "predict"}))]:
        before = chained(before, text)
        out.append(f"{before} {text}\n")
    whole = path.read_text()
    path.write_text("".join(out))
    assert verify(tmp_path / "log", tmp_path / "heads").findings == (f"{path} line 1: not the line that was signed",)
    path.write_text(whole)
    audit.close()


OLD = "20261201T130109Z-12494fdd"
"""A file as it was written before lines were signed: two events between start and end, with heads of lines 1 and 4."""
OLD_TEXTS = (
    '{"n":1,"time":"2026-12-01T13:01:09.529042+00:00","action":"start"}',
    '{"n":2,"time":"2026-12-01T13:01:09.534283+00:00","action":"predict","who":"reader-1","model":"lung-nodule","status":200}',
    '{"n":3,"time":"2026-12-01T13:01:09.534442+00:00","action":"predict","who":"reader-1","model":"lung-nodule","status":200}',
    '{"n":4,"time":"2026-12-01T13:01:09.534545+00:00","action":"end","lost":0}',
)


def old(root: Path, texts: Sequence[str], heads_of: Sequence[int], last: int) -> Path:
    """Written by hand, in the form of before."""
    key = signing_key()
    (root / "log").mkdir()
    (root / "heads").mkdir()
    Audit(root / "spare", root / "heads", key).close()  # for public.pem
    for path in (root / "heads").glob(f"*{HEADS}"):
        path.unlink()
    for path in (root / "heads").glob(f"*{LAST}"):
        path.unlink()
    value, values = hashlib.sha256(f"dxflow audit {OLD}".encode()).hexdigest(), []
    for text in texts:
        value = hashlib.sha256(f"{value} {text}".encode()).hexdigest()
        values.append(value)
    (root / "log" / f"{OLD}.log").write_text("".join(f"{v} {t}\n" for v, t in zip(values, texts, strict=True)))

    def head(n: int) -> str:
        signed = f"{OLD} {n:012d} {values[n - 1]} 2026-12-01T13:01:10.000000+00:00"
        return f"{signed.partition(' ')[2]} {key.sign(signed.encode()).hex()}\n"

    (root / "heads" / f"{OLD}.heads").write_text("".join(head(n) for n in heads_of))
    (root / "heads" / f"{OLD}.last").write_text(head(last))
    return root / "log" / f"{OLD}.log"


def test_a_file_of_before_lines_were_signed_verifies_as_it_did(tmp_path: Path) -> None:
    old(tmp_path, OLD_TEXTS, (1, 4), 4)
    found = verify(tmp_path / "log", tmp_path / "heads")
    assert (found.files, found.lines, found.findings, found.torn, found.unsigned) == (1, 4, (), (), ())


@pytest.mark.parametrize(
    ("kept", "heads_of", "last", "found", "unsigned"),
    [
        (4, (1, 4), 4, "line 5: behind the end of the file", False),  # finished, with lines behind
        (3, (1,), 3, "line 4: behind the last line that was signed; 2 lines have no signature", False),  # killed, with two behind
        (3, (1,), 2, "", True),  # killed between a line and its head
    ],
)
def test_lines_behind_the_last_head_of_such_a_file_are_told(
    tmp_path: Path, kept: int, heads_of: tuple[int, ...], last: int, found: str, unsigned: bool
) -> None:
    forged = [] if unsigned else [f'{{"n":{kept + k},"action":"predict"}}' for k in (1, 2)]
    path = old(tmp_path, [*OLD_TEXTS[:kept], *forged], heads_of, last)
    told = verify(tmp_path / "log", tmp_path / "heads")
    assert told.findings == ((f"{path} {found}",) if found else ())
    assert told.unsigned == ((str(path),) if unsigned else ())


def test_a_file_that_is_gone_renamed_or_without_heads_is_found(written: tuple[Path, Path, str], tmp_path: Path) -> None:
    folder, heads, name = written
    path = folder / f"{name}.log"
    path.rename(folder / "other.log")
    found = verify(folder, heads).findings
    assert f"{path}: the file is gone" in found
    assert any("other.log" in line for line in found)
    (folder / "other.log").rename(path)
    (heads / f"{name}.heads").unlink()
    assert verify(folder, heads).findings == (f"{path}: no signed head is there",)


def test_a_head_that_is_edited_is_found(written: tuple[Path, Path, str]) -> None:
    folder, heads, name = written
    path = heads / f"{name}.heads"
    path.write_text(path.read_text().replace(" 2026", " 2025", 1) if " 2026" in path.read_text() else path.read_text().replace("T", "t", 1))
    assert verify(folder, heads).findings == (f"{path} line 1: the signature is not right",)


def test_heads_of_another_key_are_refused(written: tuple[Path, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, heads, _ = written
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(ServiceError, match="signed with another key"):
        Audit(folder, heads, signing_key())


def test_kill_9_leaves_a_log_that_is_whole_up_to_its_last_line(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from serving.access.audit import Audit, signing_key; import sys\n"
        f"a = Audit(Path({str(tmp_path / 'log')!r}), Path({str(tmp_path / 'heads')!r}), signing_key())\n"
        "for n in range(10**6):\n    a.append('predict', who='x', status=200)\n    if n == 300: print('go', flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3], env=os.environ)
    assert process.stdout is not None
    assert process.stdout.readline() == b"go\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    found = verify(tmp_path / "log", tmp_path / "heads")
    assert found.findings == ()
    assert found.lines > 300


def full(data: bytes) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_told_once_counted_by_the_chain_and_the_chain_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Audit(tmp_path / "log", tmp_path / "heads", signing_key()) as audit:
        for lost in (3, 2):
            real, audit._write = audit._write, full  # type: ignore[method-assign]
            with caplog.at_level(logging.ERROR):
                assert not any(audit.append("predict") for _ in range(lost))
            audit._write = real  # type: ignore[method-assign]
            assert audit.append("predict")
        assert audit.lost == 5
        (figure,) = audit.figures()
        assert [(s.name, s.value) for s in figure.samples] == [("dxflow_audit_lines_lost_total", 5)]
        killed = verify(tmp_path / "log", tmp_path / "heads")  # what is there if the process dies here
        assert (killed.findings, killed.lost) == ((), 5)
    found = verify(tmp_path / "log", tmp_path / "heads")
    assert (found.findings, found.lost, found.lines) == ((), 5, 1 + 2 + 2 + 1)
    assert [r.getMessage() for r in caplog.records] == ["audit log: lines are lost: No space left on device"] * 2
    command = [sys.executable, "-m", "pipelines", "audit", "verify", "--log", str(tmp_path / "log"), "--heads", str(tmp_path / "heads")]
    told = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert told.returncode == 2
    assert "the audit log is not whole: 5 lines were lost, since the disk took none; the other 6 are as they were written" in told.stderr
    assert "as they were written" not in told.stdout


def test_a_log_that_is_being_written_is_whole_at_every_moment(tmp_path: Path) -> None:
    stop = threading.Event()
    with Audit(tmp_path / "log", tmp_path / "heads", signing_key()) as audit:

        def writes() -> None:
            while not stop.is_set():
                audit.append("predict", status=200)

        thread = threading.Thread(target=writes)
        thread.start()
        try:
            for _ in range(30):
                assert verify(tmp_path / "log", tmp_path / "heads").findings == ()
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("kept", [0, 1])
def test_a_kill_before_the_first_head_is_no_finding(tmp_path: Path, kept: int) -> None:
    """A process that dies while it starts: an empty file, or its first line, and no head yet."""
    audit = Audit(tmp_path / "log", tmp_path / "heads", signing_key())
    path = tmp_path / "log" / f"{audit.name}.log"
    if not kept:
        path.write_bytes(b"")
    for kind in (HEADS, LAST):
        (tmp_path / "heads" / f"{audit.name}{kind}").write_bytes(b"")
    found = verify(tmp_path / "log", tmp_path / "heads")
    assert (found.findings, found.lines) == ((), kept)
    audit._heads_due.put(None)


def test_no_log_yet_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="no audit log yet"):
        verify(tmp_path / "log", tmp_path / "heads")


def test_the_private_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    signing_key()
    assert (tmp_path / "home" / "audit.key").stat().st_mode & 0o777 == 0o600


def test_the_command_says_what_is_wrong_and_exits_2(written: tuple[Path, Path, str]) -> None:
    folder, heads, name = written
    command = [sys.executable, "-m", "pipelines", "audit", "verify", "--log", str(folder), "--heads", str(heads)]
    good = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert (good.returncode, good.stdout) == (0, f"{LINES + 2} lines in 1 files: as they were written\n")
    path = folder / f"{name}.log"
    path.write_bytes(path.read_bytes().replace(b"lung", b"skin", 1))
    bad = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert bad.returncode == 2
    assert f"{name}.log line 2: changed" in bad.stderr
