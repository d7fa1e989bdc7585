"""The audit log under kills, harm and full disks: what was written verifies, what was changed is found, what was lost is told.

`python -m tests.soak.audit [kills] [harms]`: writers of four threads are killed with SIGKILL at random moments; logs with and without an end are
harmed at random by somebody without the key; a limit of file sizes stands for a full disk.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KILLS, HARMS, LINES, SEED = 60, 20_000, 350, 0
WRITER = """
import sys, threading
from pathlib import Path
from serving.access.audit import Audit, signing_key
audit = Audit(Path(sys.argv[1]) / "log", Path(sys.argv[1]) / "heads", signing_key())
def write():
    while True:
        audit.append("predict", who="ward-7", model="lung-nodule", status=200, request_id="0" * 32)
for _ in range(4):
    threading.Thread(target=write, daemon=True).start()
print("go", flush=True)
threading.Event().wait()
"""
FULL = """
import resource, signal, sys
from pathlib import Path
from serving.access.audit import Audit, signing_key
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
audit = Audit(Path(sys.argv[1]) / "log", Path(sys.argv[1]) / "heads", signing_key())
whole = resource.getrlimit(resource.RLIMIT_FSIZE)
lost = 0
for n in range(1, 7):
    size = (Path(sys.argv[1]) / "log" / f"{audit.name}.log").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 700 * n, whole[1]))
    lost += sum(not audit.append("predict", status=200) for _ in range(50 * n))
    resource.setrlimit(resource.RLIMIT_FSIZE, whole)
    lost += sum(not audit.append("predict", status=200) for _ in range(5))
if sys.argv[2] == "end":
    audit.close()
print(lost, flush=True)
import os, signal
os.kill(os.getpid(), signal.SIGKILL)
"""


def process(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def killed(root: Path, kills: int, rng: random.Random) -> bool:
    from serving.access.verify import verify

    for _ in range(kills):
        writer = process(WRITER, str(root))
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.15))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
    found = verify(root / "log", root / "heads")
    print(f"{kills} writers killed: {found.lines} lines in {found.files} files, {len(found.findings)} findings, {len(found.torn)} torn")
    return found.findings == () and found.unsigned == () and found.files == kills


def harmed(root: Path, harms: int, rng: random.Random) -> bool:
    from serving.access.audit import Audit, signing_key
    from serving.access.verify import verify

    logs = []
    for ended in (True, False):
        own = root / str(ended)
        audit = Audit(own / "log", own / "heads", signing_key())
        for n in range(LINES):
            audit.append("predict", who="ward-7", status=200, request_id=f"{n:032x}")
        if ended:
            audit.close()
        path = own / "log" / f"{audit.name}.log"
        logs.append((own, path, path.read_bytes(), ended))
    missed = 0
    for _ in range(harms):
        own, path, content, ended = rng.choice(logs)
        bad = harm(content, rng)
        if bad == content or (not ended and bad.startswith(content) and b"\n" not in bad[len(content) :]):
            continue
        path.write_bytes(bad)
        missed += verify(own / "log", own / "heads").findings == ()
    print(f"{harms} harms by somebody without the key: {missed} not found")
    return missed == 0


def harm(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(8):
        case 0:
            whole = bytearray(content)
            whole[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
            return bytes(whole)
        case 1:
            lines[at], lines[other] = lines[other], lines[at]
        case 2:
            del lines[at : at + rng.randint(1, 5)]
        case 3:
            lines.insert(other, lines[at])
        case 4:
            lines += [lines[at], lines[other]][: rng.randint(1, 2)]
        case 5:
            return content[: rng.randrange(len(content))]
        case 6:
            place = rng.randrange(len(content) + 1)
            return content[:place] + rng.randbytes(rng.randint(1, 4)) + content[place:]
        case _:
            return forged(lines, at, rng)
    return b"".join(lines)


def forged(lines: list[bytes], at: int, rng: random.Random) -> bytes:
    """The rest of the chain made anew, with right hashes and old signatures."""
    from serving.access.audit import chained

    out, before = lines[:at], lines[at - 1].split(b" ", 1)[0].decode() if at else ""
    for line in [*lines[at:], *lines[-1:] * rng.randint(0, 3)]:
        token, text = line.rstrip(b"\n").split(b" ", 1)
        event = json.loads(text) | {"n": len(out) + 1, "who": "nobody"}
        made = json.dumps(event, separators=(",", ":"))
        before = f"{chained(before, made)}.{token.decode().partition('.')[2]}"
        out.append(f"{before} {made}\n".encode())
    return b"".join(out)


def full(root: Path) -> bool:
    from serving.access.verify import verify

    good = True
    for how in ("end", "kill"):
        writer = process(FULL, str(root / how), how)
        assert writer.stdout is not None
        lost = int(writer.stdout.readline())
        writer.wait()
        writer.stdout.close()
        found = verify(root / how / "log", root / how / "heads")
        print(f"a disk that was full six times, then {how}: {lost} lines lost, {found.lost} told, {len(found.findings)} findings")
        good &= lost > 0 and found.lost == lost and found.findings == ()
    return good


def main() -> int:
    kills, harms = (int(given) for given in (*sys.argv[1:], *map(str, (KILLS, HARMS)[len(sys.argv) - 1 :])))
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory() as name:
        os.environ["DXFLOW_HOME"] = name
        parts = [killed(Path(name) / "killed", kills, rng), harmed(Path(name) / "harmed", harms, rng), full(Path(name) / "full")]
    return 0 if all(parts) else 1


if __name__ == "__main__":
    raise SystemExit(main())
