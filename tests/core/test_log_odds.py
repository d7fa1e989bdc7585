"""Log-odds of classes together against the rest, on probabilities whose sums are known."""

from __future__ import annotations

import numpy as np
import pytest

from components.core.log_odds import log_odds


def test_log_odds_of_a_coarse_class_sum_its_leaves():
    p = np.array([[0.1, 0.2, 0.3, 0.4]])
    logits = (np.log(p) + 7).astype(np.float32)  # what is added to all of them says nothing
    assert log_odds(logits, (1, 2))[0] == pytest.approx(np.log(0.5 / 0.5), abs=1e-6)
    assert log_odds(logits, (3,))[0] == pytest.approx(np.log(0.4 / 0.6), abs=1e-6)


def test_probabilities_that_round_to_1_are_still_told_apart():
    found = log_odds(np.array([[0.0, 50.0], [0.0, 60.0]], np.float32), [1])
    assert list(found) == [50, 60]


def test_one_sigmoid_output_is_its_own_log_odds():
    assert list(log_odds(np.array([[2.0], [-1.5]], np.float32), [0])) == [2, -1.5]


def test_of_several_questions_the_asked_ones_are_summed_and_the_others_do_not_count():
    assert list(log_odds(np.array([[2.0, -1.5, 4.0]], np.float32), (0, 1), multilabel=True)) == [0.5]
