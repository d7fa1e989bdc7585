"""A disease of several classes as a question about two of them: `alzheimer-smri:control,ad` is a model trained on those two alone."""

from __future__ import annotations

import json

from components.core.errors import SpecError
from components.core.spec import DiseaseSpec

READERS = ("nifti-bids",)
"""Readers that know `target.left_out`."""
OF_SEVERAL = ("macro_auc", "pairwise_auc")


def pair(spec: DiseaseSpec, classes: str) -> DiseaseSpec:
    """The spec of a disease for two of its classes; samples of the others are counted and skipped, not taken for damage.

    Args:
        classes: Two names with a comma between them; the second is what AUC and the operating point are about.

    Returns:
        A spec named `<disease>-<first>-<second>` with everything else as in `spec`. A table that numbers the classes means the numbers
        of the disease, not of the pair.

    Raises:
        SpecError: Not two classes of the disease, not a disease of several exclusive classes, or a reader that would take the rest for damage.
    """
    names, chosen = spec.target.classes, tuple(classes.split(","))
    where = f"{spec.name}:{classes}"
    if len(set(chosen)) != 2 or not set(chosen) <= set(names):
        raise SpecError("not a pair of classes", where=where, got=classes, allowed=f"two of {', '.join(names)}, with a comma")
    if spec.target.kind not in ("multiclass", "ordinal") or spec.input.reader not in READERS:
        got = f"target.kind '{spec.target.kind}', reader '{spec.input.reader}'"
        raise SpecError("no pairs of this disease", where=where, got=got, allowed=f"multiclass or ordinal; {', '.join(READERS)}")
    words = {**spec.target.aliases, **{str(number): name for number, name in enumerate(names)}}
    raw = json.loads(spec.to_json())
    raw["name"] = f"{spec.name}-{'-'.join(chosen)}"
    raw["title"] = f"{spec.title}: {chosen[1]} against {chosen[0]}"
    raw["target"] |= {
        "kind": "binary",
        "classes": list(chosen),
        "positive": chosen[1],
        "aliases": {word: name for word, name in words.items() if name in chosen},
        "left_out": [name for name in names if name not in chosen] + [word for word, name in words.items() if name not in chosen],
    }
    raw["metrics"] = [name for name in spec.metrics if name not in OF_SEVERAL]
    return DiseaseSpec.from_json(json.dumps(raw), where=where)
