"""Generated tests try the same examples whatever else has been imported."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers


def test_no_constants_of_our_modules_are_mixed_into_what_is_drawn():
    """`components.core.imaging.header` and the like are imported by now; none of their numbers may count."""
    import components.core.imaging.header  # noqa: F401
    import serving.predictor  # noqa: F401

    found = providers._get_local_constants()
    assert [len(found.set_for_type(kind)) for kind in ("integer", "float", "string", "bytes")] == [0, 0, 0, 0]


def test_two_runs_draw_the_same():
    drawn: list[tuple[int, str, str]] = []

    @settings(max_examples=50)
    @given(st.integers(), st.floats(), st.text())
    def draw(n: int, x: float, text: str) -> None:
        drawn.append((n, str(x), text))

    draw()
    first = drawn.copy()
    drawn.clear()
    draw()
    assert drawn == first
    assert len(set(first)) > 30
