"""Soft voting: the mean of the members' calibrated probabilities, as logits.

Each member is calibrated on validation by itself (`components/core/calibration.py`), because raw scores of different families have
different scales: the most confident member would otherwise decide alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core import calibration
from components.core.models.family_ensemble import Arrays, Ensemble, Scores, checked_members
from components.core.models.family_options import read_options
from components.core.spec import DiseaseSpec, Family

LEAST = 1e-7


@dataclass(frozen=True)
class Options:
    """Args:
    members: Other families of the disease, two or more, no ensembles.
    """

    members: tuple[str, ...] = ()


def build(spec: DiseaseSpec, family: Family) -> Ensemble:
    """An untrained ensemble; see `checked_members` for the errors."""
    (options,) = read_options(family, Options)
    return Ensemble(spec, checked_members(spec, family, options.members), Vote(several=spec.target.kind == "multilabel"), held=0.0)


@dataclass(frozen=True)
class Vote:
    """Args:
    several: A sample may carry several labels, each with a probability of its own.
    """

    several: bool

    def blank(self, members: int, classes: int) -> Arrays:
        return {"temperature": np.ones((members, classes), np.float32), "bias": np.zeros((members, classes), np.float32)}

    def learn(self, labels: NDArray[Any], scores: list[Scores], groups: NDArray[np.object_]) -> Arrays:
        fitted = [calibration.fit(labels, s) for s in scores]
        temperature = np.stack([np.broadcast_to(np.asarray(c.temperature, np.float32), len(c.bias)) for c in fitted])
        return {"temperature": temperature, "bias": np.array([c.bias for c in fitted], np.float32)}

    def apply(self, arrays: Arrays, scores: list[Scores]) -> Scores:
        logits = (np.stack(scores).astype(np.float64) + arrays["bias"][:, None]) / arrays["temperature"][:, None]
        if self.several:
            p = np.clip(np.exp(-np.logaddexp(0, -logits)).mean(axis=0), LEAST, 1 - LEAST)
            return (np.log(p) - np.log1p(-p)).astype(np.float32)
        logits -= logits.max(axis=2, keepdims=True)
        share = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
        return np.log(np.clip(share.mean(axis=0), LEAST, 1)).astype(np.float32)

    def nodes(self, arrays: Arrays, scores: list[str]) -> tuple[list[Any], Arrays]:
        from onnx import helper

        constants: Arrays = {
            "join/least": np.array(LEAST, np.float32),
            "join/most": np.array(1 - LEAST if self.several else 1, np.float32),
            "join/n": np.array([len(scores)], np.float32),
            "join/one": np.array([1], np.float32),
        }
        nodes = []
        for i, name in enumerate(scores):
            constants |= {f"join/bias{i}": arrays["bias"][i], f"join/temperature{i}": arrays["temperature"][i]}
            nodes += [
                helper.make_node("Add", [name, f"join/bias{i}"], [f"join/shifted{i}"]),
                helper.make_node("Div", [f"join/shifted{i}", f"join/temperature{i}"], [f"join/logits{i}"]),
                helper.make_node("Sigmoid", [f"join/logits{i}"], [f"join/p{i}"])
                if self.several
                else helper.make_node("Softmax", [f"join/logits{i}"], [f"join/p{i}"], axis=1),
            ]
        nodes += [
            helper.make_node("Sum", [f"join/p{i}" for i in range(len(scores))], ["join/sum"]),
            helper.make_node("Div", ["join/sum", "join/n"], ["join/mean"]),
            helper.make_node("Clip", ["join/mean", "join/least", "join/most"], ["join/p"]),
        ]
        if not self.several:
            return [*nodes, helper.make_node("Log", ["join/p"], ["scores"])], constants
        return [
            *nodes,
            helper.make_node("Sub", ["join/one", "join/p"], ["join/other"]),
            helper.make_node("Div", ["join/p", "join/other"], ["join/odds"]),
            helper.make_node("Log", ["join/odds"], ["scores"]),
        ], constants
