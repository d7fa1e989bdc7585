"""Answers as a terminal shows them; those of real servers are in test_replay.py."""

from __future__ import annotations

from typing import Any

from pipelines.answer_text import answer_text


def window(n: int, p: dict[str, float]) -> dict[str, Any]:
    return {
        "synthetic": False, "abstain": False, "decision": max(p, key=lambda name: p[name]), "probabilities": p, "positive": None, "reasons": [],
        "part": {"window": n, "start_s": 1.28 * n}, "device": {"key": "a" * 16, "status": "known", "manufacturer": None, "model": None},
        "model": "gait", "version": "1", "request_id": f"{'0' * 32}-{n}", "uncertainty": None,
    }  # fmt: skip


def test_a_stretch_of_windows_tells_what_all_of_them_have_and_not_only_the_first() -> None:
    """Where no class is the positive one, the first window's probabilities stood for the whole stretch."""
    shares = (0.91, 0.45, 0.62)
    text = answer_text([window(n, {"still": p, "walk": (1 - p) / 2, "turn": (1 - p) / 2}) for n, p in enumerate(shares)])
    (stretch,) = [line for line in text.splitlines() if "begin at" in line]
    assert stretch.endswith("begin at 0.0 to 2.6 s: still, highest 45 % to 91 %")
