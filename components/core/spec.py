"""`DiseaseSpec`: all that dxflow knows about a disease, typed, frozen and validated.

The instances are data: one `.toml` per disease under `pipelines/diseases/`. A spec travels between steps as one JSON string and inside
the model package as `spec.json`, so a step never needs the catalogue.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from components.core.covariates import NAMES
from components.core.errors import SpecError
from components.core.pacs_rules import PacsRules
from components.core.spec_errors import first
from components.core.spec_serving import Abstain, Engine

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=63)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
StepName = Literal["ingest", "validate", "train", "evaluate", "register", "monitor", "serve"]

UNITS = {"CT": "HU", "sensor": "mg"} | dict.fromkeys(("MR", "MG", "DX", "fundus", "dermoscopy", "histology", "tabular", "image"), "1")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class Input(_Part):
    """What one sample is, after ingest.

    `shape` is channels first: (C, H, W), (C, D, H, W), (C, T) or (C,). `spacing_mm` is the grid that samples are resampled to, one number
    per spatial axis; None keeps the source's grid. Exactly one of spacing, microns per pixel and rate applies, by layout.
    """

    modality: Literal["CT", "MR", "MG", "DX", "fundus", "dermoscopy", "histology", "sensor", "tabular", "image"]
    reader: Name
    format: str = Field("", max_length=80, description="the on-disk format of the real data, in words")
    layout: Literal["image", "volume", "tiles", "window", "table"]
    shape: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(min_length=1, max_length=4)
    dtype: Literal["uint8", "int16", "float32"] = "float32"
    unit: Literal["HU", "1", "mg"] = "1"
    range: tuple[float, float] = Field(description="values mapped to [0, 1] in the model's input; outside saturates")
    spacing_mm: tuple[Annotated[float, Field(gt=0, le=50)], ...] | None = None
    microns_per_pixel: Annotated[float, Field(gt=0, le=100)] | None = None
    rate_hz: Annotated[float, Field(gt=0, le=10_000)] | None = None
    window_s: Annotated[float, Field(gt=0, le=600)] | None = None
    storage: Literal["shard", "reference"] = Field("shard", description="reference: tiles are read lazily from the slide")
    sequence: str = Field("T1w", pattern=r"^[A-Za-z0-9]{1,24}$", description="MR volumes: the BIDS suffix of the files that are meant")
    frames: Literal["refuse", "first", "mean"] = Field("refuse", description="what becomes of a file with several volumes over time")
    columns: tuple[str, ...] = Field((), description="tables: the columns that are features, in order; none named: all others that hold numbers")

    @model_validator(mode="after")
    def _axes(self) -> Input:
        spatial = {"image": 2, "volume": 3, "tiles": 2, "window": 1, "table": 0}[self.layout]
        if len(self.shape) != spatial + 1:
            raise ValueError(f"shape|{list(self.shape)}|{spatial + 1} numbers (channels first) for layout '{self.layout}'")
        if self.unit != UNITS[self.modality]:
            raise ValueError(f"unit|{self.unit}|'{UNITS[self.modality]}' for modality '{self.modality}'")
        if self.range[0] >= self.range[1]:
            raise ValueError(f"range|{list(self.range)}|[low, high] with low < high")
        if self.spacing_mm is not None and len(self.spacing_mm) != spatial:
            raise ValueError(f"spacing_mm|{list(self.spacing_mm)}|{spatial} numbers for layout '{self.layout}'")
        if self.layout == "tiles" and self.microns_per_pixel is None:
            raise ValueError("microns_per_pixel|nothing|a number of microns for layout 'tiles'")
        if self.layout == "window" and (self.rate_hz is None or self.window_s is None):
            raise ValueError("rate_hz|nothing|rate_hz and window_s for layout 'window'")
        if self.storage == "reference" and self.layout != "tiles":
            raise ValueError(f"storage|reference|'shard' for layout '{self.layout}'")
        return self


class Recording(_Part):
    """How a recording in a text file becomes windows: what its columns mean, and which of its samples count. Reader `sensor-csv`.

    Args:
        channels: Columns of the sensor, in the order of `input.shape[0]`, in `input.unit`.
        label, classes: The column that says what happens, and which of its numbers is which class. Samples with another number do not
            belong to the experiment: no window touches them.
        time, time_unit: The column of the clock.
        file: Regular expression that every recording's file name matches in full. Group `subject` names the person; further groups and
            `# key: value` lines above the columns give the names in `device.key`.
        stride_s: From one window's start to the next one's.
        label_s: The last seconds of a window, which its class is about; what lies before is context. None: the whole window.
        share: Of `label_s`: the highest class with at least this share is the window's, the lowest class if there is none.
        rms: Least and largest root mean square of a recording's channels, in `input.unit`; another unit lies outside.
    """

    channels: tuple[str, ...] = Field(min_length=1)
    label: str
    classes: dict[Annotated[str, Field(pattern=r"^-?\d+$")], str] = Field(min_length=1)
    time: str = "time"
    time_unit: Literal["s", "ms", "us"] = "ms"
    file: str
    stride_s: Positive
    label_s: Positive | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    rms: tuple[float, float]

    @model_validator(mode="after")
    def _pattern(self) -> Recording:
        try:
            groups = set(re.compile(self.file).groupindex)
        except re.error:
            groups = set()
        if "subject" not in groups:
            raise ValueError(f"file|{self.file}|a regular expression with a group 'subject'")
        if self.rms[0] >= self.rms[1]:
            raise ValueError(f"rms|{list(self.rms)}|[low, high] with low < high")
        return self


class Target(_Part):
    """What the model answers.

    `classes` are the leaves, in the order of the scores. For `ordinal` the order is the scale. For `hierarchical`, `parents` names the
    coarse class of every leaf and coarse scores are sums of leaf scores. For `dense` each pixel carries one of `classes`.

    `positive` names what AUC, sensitivity and specificity are about: the positive class (binary, multiclass), the lowest class of the scale
    that counts as positive (ordinal), a leaf or a coarse class (hierarchical). Without it those are means over the classes.

    `aliases` are other words for the classes that a source's labels use, so that grades can be merged: a word on the left means the class on
    the right. Case does not matter. `left_out` are words for what is in order but not asked about: such samples are listed as skipped, and are
    no damage (reader `nifti-bids`; elsewhere such a label is damage like any other word).
    """

    kind: Literal["binary", "multiclass", "multilabel", "ordinal", "hierarchical", "dense"]
    classes: tuple[str, ...] = Field(min_length=1)
    positive: str | None = None
    parents: dict[str, str] = {}
    aliases: dict[str, str] = {}
    left_out: tuple[str, ...] = ()
    source: str = Field(description="where the labels come from and the rule that makes them")

    @model_validator(mode="after")
    def _classes(self) -> Target:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes|{list(self.classes)}|distinct names")
        if self.kind == "binary":
            if len(self.classes) != 2:
                raise ValueError(f"classes|{len(self.classes)} classes|2 for kind 'binary'")
            if self.positive not in self.classes:
                raise ValueError(f"positive|{self.positive}|one of {list(self.classes)}")
        elif self.kind != "multilabel" and len(self.classes) < 2:
            raise ValueError(f"classes|{len(self.classes)} class|at least 2 for kind '{self.kind}'")
        elif self.kind == "multilabel" and self.positive is not None:
            raise ValueError(f"positive|{self.positive}|nothing for kind 'multilabel'")
        if self.kind in ("multiclass", "ordinal", "dense") and self.positive not in (None, *self.classes):
            raise ValueError(f"positive|{self.positive}|one of {list(self.classes)}")
        if self.kind == "ordinal" and self.positive == self.classes[0]:
            raise ValueError(f"positive|{self.positive}|a class above the lowest, '{self.classes[0]}'")
        if self.kind == "hierarchical" and self.positive not in (None, *self.classes, *self.parents.values()):
            raise ValueError(f"positive|{self.positive}|a leaf or a coarse class")
        if self.kind == "hierarchical":
            if set(self.parents) != set(self.classes):
                raise ValueError(f"parents|{sorted(self.parents)}|one parent for each of {list(self.classes)}")
        elif self.parents:
            raise ValueError(f"parents|{sorted(self.parents)}|nothing for kind '{self.kind}'")
        if foreign := set(self.aliases.values()) - set(self.classes):
            raise ValueError(f"aliases|{sorted(foreign)}|classes on the right: {list(self.classes)}")
        if taken := {word.lower() for word in self.aliases} & {name.lower() for name in self.classes}:
            raise ValueError(f"aliases|{sorted(taken)}|words on the left that are no classes")
        known = {word.lower() for word in (*self.classes, *self.aliases)}
        if both := known & {word.lower() for word in self.left_out}:
            raise ValueError(f"left_out|{sorted(both)}|words that are neither classes nor aliases")
        return self


class Device(_Part):
    """Which header fields, in this order, make a scanner one device; `min_n` samples are needed before it is judged on its own."""

    key: tuple[str, ...] = Field(min_length=1)
    min_n: Annotated[int, Field(ge=1)] = 30
    profile_max_age_days: Positive = 365.0


class Normalise(_Part):
    """How intensities of different devices are brought together, and what a device without a profile gets.

    Methods: `none`; `range` (only `input.range`); `device` (shift, scale and noise of the device's profile to the training pool's).
    A missing profile means `pooled` (the training pool's stands in) or `abstain`. `per_sample`: modules of `components/core/harmonise/`, in order.
    """

    method: Literal["none", "range", "device"] = "range"
    missing_profile: Literal["pooled", "abstain"] = "abstain"
    per_sample: tuple[Name, ...] = ()


class Split(_Part):
    """Which samples belong together and where they go. A split never cuts through a group.

    `given`: the source names each sample's split; the fractions are then not used. `folds` > 1: cross-validation by group, "group": one
    fold for each group (leave one subject out). Then each sample is test once, in the fold that the manifest names, by a model that saw
    neither it nor its group; a share `val / (train + val)` of a fold's other groups validates. The model that is registered is one more,
    trained and validated on all groups in those shares and tested on none of them: `split` is train or val everywhere, and `test` is unused.
    `leave_out`: a device's key. All its groups are test, whatever else was asked for; set by `dxflow unseen` for each device in turn.
    """

    grouping: Literal["patient", "lesion", "subject", "slide", "none"]
    given: bool = False
    train: Share = 0.6
    val: Share = 0.15
    test: Share = 0.25
    folds: Annotated[int, Field(ge=1, le=50)] | Literal["group"] = 1
    leave_out: str = Field("", max_length=64)

    @model_validator(mode="after")
    def _sum(self) -> Split:
        if abs(self.train + self.val + self.test - 1) > 1e-9:
            raise ValueError(f"train|train + val + test = {self.train + self.val + self.test:g}|a sum of 1")
        if self.grouping == "none" and not self.given:
            raise ValueError("given|false|true when grouping is 'none': without groups only a given split can be kept")
        if self.folds != 1 and (self.given or self.leave_out):
            raise ValueError(f"folds|{self.folds}|1 when the split is given or a device left out")
        return self


class External(_Part):
    """A data set that no training ever touches, or (role `pretrain`) one that only unsupervised pre-training sees.

    `source` is a folder inside the run's own source; everything in it belongs to this set and to no other. Its rows carry `split` in
    the manifest, whatever the reader says, and no device profile is measured on them.
    """

    name: Name
    source: str = Field(pattern=r"^[^/.][^/]*(/[^/.][^/]*)*$")
    role: Literal["test", "pretrain"] = "test"
    reader: Name | None = None

    @property
    def split(self) -> str:
        """The value of the manifest's `split` column."""
        return f"{'external' if self.role == 'test' else 'pretrain'}-{self.name}"


class Limits(_Part):
    """Limits of ingest; over `quarantine_share` the step fails and names the three commonest reasons."""

    quarantine_share: Share = 0.05
    file_mb: Positive = 2048.0
    pixels_per_image: Annotated[int, Field(ge=1)] = 100_000_000
    slices_per_series: Annotated[int, Field(ge=1)] = 2000


class Family(_Part):
    """One model family with its hyper-parameters. `kind` names a builder in `components/core/models/`."""

    kind: Name
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 10
    batch: Annotated[int, Field(ge=1, le=65_536)] = 64
    lr: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    patience: Annotated[int, Field(ge=1)] = 1000
    options: dict[str, bool | int | float | str | list[float] | list[str]] = {}


class Stage(_Part):
    """One trained stage. Later stages may take an earlier stage's output (`after`) or a pre-training set (`data`)."""

    name: Name
    family: Name
    objective: Literal["supervised", "reconstruct", "pretrain"] = "supervised"
    after: tuple[Name, ...] = ()
    input: Literal["samples", "scores", "features", "heatmap"] = "samples"
    data: Name | None = None


class Aggregate(_Part):
    """One answer for each group (a slide, an image, a recording) from the answers for its samples; the figures are then of groups.

    `method` names a module `components/core/aggregates/<method>.py`.
    """

    method: Name
    options: dict[str, bool | int | float | str | list[float] | list[str]] = {}


class OperatingPoint(_Part):
    """The threshold is chosen on validation: the lowest false-positive rate that still reaches `at_least`, or Youden's J.

    `kappa`, for ordinal targets only: cut points of the expected grade with the highest weighted kappa in place of the most probable grade."""

    rule: Literal["sensitivity", "specificity", "youden", "kappa"] = "sensitivity"
    at_least: Share = 0.9


class Gates(_Part):
    """What a model needs before it may be `champion`. All bounds are on the lower end of the interval where there is one."""

    auc_low: Share = 0.5
    device_auc_low: Share = 0.5
    calibration_error: Share = 0.15
    min_n: Annotated[int, Field(ge=1)] = 100
    min_per_class: Annotated[int, Field(ge=1)] = 20


class Toleration(_Part):
    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"


class Resources(_Part):
    """What one step asks of a cluster; the local runner ignores it."""

    cpu: Positive = 1.0
    memory_gb: Positive = 4.0
    gpu: Annotated[int, Field(ge=0, le=16)] = 0
    gpu_resource: str = "nvidia.com/gpu"
    shm_gb: Annotated[float, Field(ge=0)] = 0.0
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    timeout_s: Annotated[int, Field(ge=1)] | None = None


class Phantom(_Part):
    """The synthetic stand-in that CI and `make run` use. `generator` names a writer; sizes only, never physics.

    `patients` of it train the default family to a sensible model in about a minute on two cores.
    """

    generator: Name
    patients: Annotated[int, Field(ge=1)] = 100
    seed: int = 0


class DiseaseSpec(_Part):
    """One disease. See the parts for units and ranges; `docs/architecture.md` for how steps use them."""

    name: Name
    title: str
    survey_row: str | None = None
    sources: tuple[str, ...] = Field(min_length=1, description="DOI or URL of the paper and of the data set")
    input: Input
    recording: Recording | None = None
    target: Target
    device: Device
    normalise: Normalise = Normalise()
    split: Split
    limits: Limits = Limits()
    families: dict[Name, Family] = Field(min_length=1)
    default_family: Name
    stages: tuple[Stage, ...] = ()
    aggregate: Aggregate | None = None
    covariates: tuple[str, ...] = Field((), description="features of the view `covariates` that join by late fusion; components/core/fusion.py")
    metrics: tuple[
        Literal["auc", "sensitivity", "specificity", "brier", "calibration_error", "accuracy", "qwk", "macro_auc", "pairwise_auc", "dice", "froc"],
        ...,
    ] = ("auc",)
    operating_point: OperatingPoint = OperatingPoint()
    gates: Gates = Gates()
    abstain: Abstain = Abstain()
    engine: Engine = Engine()
    external: tuple[External, ...] = ()
    resources: dict[StepName, Resources] = {}
    phantom: Phantom | None = None
    pacs: PacsRules | None = None

    @model_validator(mode="after")
    def _references(self) -> DiseaseSpec:
        if self.default_family not in self.families:
            raise ValueError(f"default_family|{self.default_family}|one of {sorted(self.families)}")
        if self.operating_point.rule == "kappa" and self.target.kind != "ordinal":
            raise ValueError(f"operating_point.rule|kappa|another rule for kind '{self.target.kind}'")
        if unknown := [name for name in self.covariates if name not in NAMES]:
            raise ValueError(f"covariates|'{unknown[0]}'|{', '.join(NAMES)}")
        if len(set(self.covariates)) != len(self.covariates):
            raise ValueError(f"covariates|{list(self.covariates)}|distinct names")
        if self.covariates and (self.aggregate is not None or self.target.kind == "dense"):
            raise ValueError(f"covariates|{list(self.covariates)}|none where {'groups answer' if self.aggregate else 'pixels are the target'}")
        if (r := self.recording) is not None:
            if unknown := sorted(set(r.classes.values()) - set(self.target.classes)):
                raise ValueError(f"recording.classes|{unknown}|classes of the target: {list(self.target.classes)}")
            if len(r.channels) != self.input.shape[0]:
                raise ValueError(f"recording.channels|{len(r.channels)} columns|{self.input.shape[0]}, as in input.shape")
            if (r.label_s or 0) > (self.input.window_s or 0):
                raise ValueError(f"recording.label_s|{r.label_s}|at most input.window_s = {self.input.window_s}")
        if self.pacs is not None and set(self.pacs.decisions) != set(self.target.classes):
            raise ValueError(f"pacs.decisions|{sorted(self.pacs.decisions)}|a code for each class: {list(self.target.classes)}")
        seen: set[str] = set()
        data = {e.name for e in self.external if e.role == "pretrain"}
        for stage in self.stages:
            if stage.family not in self.families:
                raise ValueError(f"stages.{stage.name}.family|{stage.family}|one of {sorted(self.families)}")
            if missing := set(stage.after) - seen:
                raise ValueError(f"stages.{stage.name}.after|{sorted(missing)}|stages named before it: {sorted(seen)}")
            if stage.data is not None and stage.data not in data:
                raise ValueError(f"stages.{stage.name}.data|{stage.data}|an external set with role 'pretrain': {sorted(data)}")
            if stage.name in seen:
                raise ValueError(f"stages.{stage.name}|named twice|distinct names")
            seen.add(stage.name)
        return self

    @property
    def n_scores(self) -> int:
        """Scores per sample (per pixel for `dense`): one per class."""
        return len(self.target.classes)

    @property
    def positive_index(self) -> int:
        """Index of the positive class among the scores; binary targets only."""
        return self.target.classes.index(self.target.positive) if self.target.positive else len(self.target.classes) - 1

    @property
    def positive_indices(self) -> tuple[int, ...]:
        """The scores whose sum is the probability of `target.positive`; empty without one."""
        target = self.target
        if target.positive is None:
            return ()
        if target.kind == "ordinal":
            return tuple(range(target.classes.index(target.positive), len(target.classes)))
        if target.positive in target.classes:
            return (target.classes.index(target.positive),)
        return tuple(k for k, leaf in enumerate(target.classes) if target.parents[leaf] == target.positive)

    @property
    def manifest_splits(self) -> tuple[str, ...]:
        """Every value that the manifest's `split` column may hold."""
        return ("train", "val", "test", *(e.split for e in self.external))

    def resources_of(self, step: StepName) -> Resources:
        return self.resources.get(step, Resources())

    def to_json(self) -> str:
        """Canonical: sorted keys, no blanks, so equal specs are equal strings."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str, *, where: str = "spec.json") -> DiseaseSpec:
        """Raises SpecError naming the key, the value and what is allowed."""
        try:
            raw = json.loads(text)
        except json.JSONDecodeError as error:
            raise SpecError("not JSON", where=f"{where}:{error.lineno}") from None
        return cls._checked(raw, where)

    @classmethod
    def from_toml(cls, path: str | Path) -> DiseaseSpec:
        """Read one disease's file. Raises SpecError naming file, key, value and what is allowed."""
        path = Path(path)
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SpecError("no such spec", where=str(path)) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SpecError(f"not TOML: {error}", where=path.name) from None
        spec = cls._checked(raw, path.name)
        if spec.name != path.stem:
            raise SpecError("name and file name differ", where=f"{path.name}: name", got=f"'{spec.name}'", allowed=f"'{path.stem}'")
        return spec

    @classmethod
    def _checked(cls, raw: Any, where: str) -> DiseaseSpec:
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            raise first(error, cls, where) from None
