"""The audit log finds whatever somebody did to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from components.core.errors import ServiceError
from serving.access.audit import EVERY, Audit, signing_key
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


def test_a_line_that_is_edited_with_all_hashes_made_anew_is_found_by_the_signed_heads(written: tuple[Path, Path, str]) -> None:
    from serving.access.audit import chained, genesis

    folder, heads, name = written
    path = folder / f"{name}.log"
    texts = [line.partition(b" ")[2].rstrip(b"\n").decode() for line in path.read_bytes().splitlines(keepends=True)]
    texts[150] = texts[150].replace("200", "403")
    before, out = genesis(name), []
    for text in texts:
        before = chained(before, text)
        out.append(f"{before} {text}\n")
    path.write_text("".join(out))
    assert verify(folder, heads).findings == (f"{path} line 200: not the line that was signed",)


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


def test_a_full_disk_is_counted_and_the_chain_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Audit(tmp_path / "log", tmp_path / "heads", signing_key()) as audit:
        real = audit._write

        def full(data: bytes) -> None:
            raise OSError(28, "No space left on device")

        audit._write = full  # type: ignore[method-assign]
        assert not audit.append("predict")
        assert audit.lost == 1
        audit._write = real  # type: ignore[method-assign]
        assert audit.append("predict")
    assert verify(tmp_path / "log", tmp_path / "heads").findings == ()


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
