"""Whatever somebody without the key does to a chain (cut, swap, repeat, put in, flip, add, in any combination), `verify` finds it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.access.audit import EVERY, Audit, chained, genesis, signing_key
from serving.access.verify import verify

LINES = EVERY + 9
FEW = settings(max_examples=150, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, tuple[Path, bytes]]:
    """Whether it has an end -> folder and content of a log."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        for ended in (True, False):
            root = tmp_path_factory.mktemp("audit")
            patch.setenv("DXFLOW_HOME", str(root))
            audit = Audit(root / "log", root / "heads", signing_key())
            for n in range(LINES):
                audit.append("predict", who="dr b", status=200, request_id=f"{n:032x}")
            content = (root / "log" / f"{audit.name}.log").read_bytes()
            if ended:
                audit.close()
                content = (root / "log" / f"{audit.name}.log").read_bytes()
            made[ended] = (root, content)
            if not ended:  # as a kill leaves it
                audit._heads_due.put(None)
    return made


def harmed(data: st.DataObject, lines: list[bytes]) -> bytes:
    at = data.draw(st.integers(0, len(lines) - 1), "line")
    other = data.draw(st.integers(0, len(lines) - 1), "other line")
    kind = data.draw(st.sampled_from(["flip", "drop", "cut", "swap", "repeat", "move", "byte", "behind", "text"]), "harm")
    if kind == "flip":
        whole = bytearray(b"".join(lines))
        bit = data.draw(st.integers(0, 8 * len(whole) - 1), "bit")
        whole[bit // 8] ^= 1 << bit % 8
        return bytes(whole)
    if kind == "byte":
        whole = b"".join(lines)
        place = data.draw(st.integers(0, len(whole)), "place")
        return whole[:place] + data.draw(st.binary(min_size=1, max_size=3), "bytes") + whole[place:]
    out = list(lines)
    if kind == "drop":
        del out[at]
    elif kind == "cut":
        del out[at:]
    elif kind == "swap":
        out[at], out[other] = out[other], out[at]
    elif kind == "repeat":
        out.insert(other, lines[at])
    elif kind == "move":
        out.insert(other, out.pop(at))
    elif kind == "behind":
        out += lines[at : at + 3]
    else:
        out[at] = out[at].replace(b"200", b"403").replace(b"start", b"begin").replace(b'"lost":0', b'"lost":1')
    return b"".join(out)


@FEW
@given(data=st.data(), ended=st.booleans())
def test_every_harm_is_found_and_what_is_whole_is_whole(data: st.DataObject, ended: bool, chains: dict[bool, tuple[Path, bytes]]) -> None:
    root, content = chains[ended]
    path = next((root / "log").glob("*.log"))
    bad = harmed(data, content.splitlines(keepends=True))
    path.write_bytes(bad)
    found = verify(root / "log", root / "heads")
    if bad == content:
        assert (found.findings, found.torn) == ((), ())
    elif bad.startswith(content) and not ended and b"\n" not in bad[len(content) :]:
        assert found.torn == (str(path),)  # bytes without an end of line: no event of anybody's
    else:
        assert found.findings
    path.write_bytes(content)


@FEW
@given(data=st.data(), ended=st.booleans())
def test_lines_made_up_with_right_hashes_are_found(data: st.DataObject, ended: bool, chains: dict[bool, tuple[Path, bytes]]) -> None:
    """Who knows how the chain is made and has no key: lines changed, left out or added, and every hash of the rest made anew."""
    root, content = chains[ended]
    path = next((root / "log").glob("*.log"))
    lines = [(line.split(b" ", 1)[0].decode().partition(".")[2], json.loads(line.split(b" ", 1)[1])) for line in content.splitlines()]
    keep = data.draw(st.integers(1, len(lines)), "kept")
    added = data.draw(st.lists(st.sampled_from(["predict", "verdict", "end", "lost", "erasure"]), min_size=1, max_size=4), "added")
    made = [*lines[:keep], *((lines[-1][0], {"action": action, "lost": 0, "lines": 0}) for action in added)]
    before, out = genesis(path.stem), []
    for n, (signature, event) in enumerate(made, 1):
        text = json.dumps(event | {"n": n} if n > keep else event, separators=(",", ":"))
        before = f"{chained(before, text)}.{signature}"
        out.append(f"{before} {text}\n")
    path.write_text("".join(out))
    assert verify(root / "log", root / "heads").findings
    path.write_bytes(content)
