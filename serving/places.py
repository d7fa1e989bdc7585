"""Which package answers for each disease, and how the next one takes its place without a request noticing.

A new package is verified, loaded and run on a sample of its own shape beside the one that serves. Then one assignment makes it the one that the
next request meets. Work that has begun keeps the package it began with and frees it at its end: no answer is half of one and half of the other.
What does not load takes nobody's place; why is kept, shown and counted.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from components.core.engines import Wanted
from components.core.errors import DataError, DxflowError, ServiceError, SpecError
from components.core.outside import JUDGED, sentence
from components.core.package import ModelPackage
from serving import bodies
from serving.aside import aside
from serving.predictor import Predictor, Query
from serving.sources import Source

log = logging.getLogger("dxflow.serving")


class NotReady(Exception):
    """Nobody answers for this disease.

    Args:
        reason: Why; never a value out of a request.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def load(source: Source, *, allow_synthetic: bool, wanted: Wanted | None = None) -> Predictor:
    """Fetch, verify every hash, load, and run the whole path once on a sample of the model's own shape. Raises DxflowError."""
    package = ModelPackage.open(source.fetch(), allow_synthetic=allow_synthetic)
    profiles = None
    if package.spec.normalise.method == "device":  # Feast takes seconds to import: here, not in the first request
        from feature_store.feast_import import feast
        from feature_store.store import OnlineProfiles, online_place

        feast()
        profiles = OnlineProfiles(online_place(package.name))
        try:
            profiles.get("0" * 16, max_age_days=1.0)
        except ServiceError as error:  # it may come back, and a restart would not bring it back sooner
            log.error("%s: %s gives no decision until it answers", error, package.disease)
    predictor = Predictor(package, profiles, wanted)
    bodies.warm(package.spec)
    low, high = package.spec.input.range
    sample = Query(np.linspace(low, high, int(np.prod(package.spec.input.shape)), dtype=np.float32).reshape(package.spec.input.shape))
    predictor.work([sample])
    return predictor


class Place:
    """One disease at the server.

    Args:
        load: A source's predictor, ready to answer.
        taken: Called with each predictor that takes the place, before it does.
    """

    def __init__(self, source: Source, load: Callable[[Source], Predictor], taken: Callable[[Predictor], None]) -> None:
        self.source, self.name = source, source.name
        self.predictor: Predictor | None = None
        self.error: Exception | None = None
        self.reason: str | None = None
        """Why nobody answers or, where somebody does, why the newest package does not."""
        self.swaps = self.failures = 0
        self._load, self._taken = load, taken
        self._digest: str | None = None
        self._lock = threading.Lock()

    def holder(self) -> Predictor:
        """Who answers now. Raises NotReady."""
        predictor = self.predictor
        if predictor is None:
            raise NotReady(self.reason or "it is being loaded")
        return predictor

    def renew(self, *, anew: bool = False, tell: bool = True) -> bool:
        """Load what the source has now, unless it is what serves. Errors become the reason; one at a time, in any thread but the one that answers.

        Args:
            anew: Load it also where the source cannot say whether it changed.
            tell: Log why it does not load, once.

        Returns:
            Whether all is well: what the source has is what serves.
        """
        with self._lock:
            try:
                digest = self.source.current()
                if self.predictor is not None and digest == self._digest and not (anew and digest is None):
                    self.reason = None
                    return True
                predictor = self._load(self.source)
                if self.predictor is None and self.swaps == 0 and self.failures == 0:
                    self.name = predictor.package.disease  # what the user wrote need not tell it
                elif predictor.package.disease != self.name:
                    raise DataError("the package of another disease", where=self.source.text, got=predictor.package.disease, allowed=self.name)
            except Exception as error:
                self._failed(error, tell=tell)
                return False
            self._taken(predictor)
            self.swaps += self.predictor is not None
            self.predictor, self.reason, self._digest = predictor, None, digest
            return True

    def _failed(self, error: Exception, *, tell: bool) -> None:
        self.failures += 1
        # A defect's message may hold anything, so only its kind is told.
        reason = str(error) if isinstance(error, DxflowError) else f"a defect of the server ({type(error).__name__})"
        news = reason != self.reason  # once, not at every look
        self.reason, self.error = reason, error
        if news and tell:
            self.tell()

    def tell(self) -> None:
        """Log why the newest package does not answer."""
        stays = f"version {self.predictor.package.version} stays" if self.predictor else "not ready"
        log.error("model %s: %s: %s", self.name, stays, self.reason)


class Places:
    """All diseases of a server.

    Raises:
        SpecError: Two sources give the same disease.
        DxflowError: No source loads: the reason of the only one, or those of all.
    """

    def __init__(self, sources: Sequence[Source], *, allow_synthetic: bool, wanted: Wanted | None = None) -> None:
        def loaded(source: Source) -> Predictor:
            return load(source, allow_synthetic=allow_synthetic, wanted=wanted)

        self.on_taken: list[Callable[[Predictor], None]] = []
        """Called with each predictor that takes a place from now on, before it does."""
        every = [Place(source, loaded, self._taken) for source in sources]
        for place in every:
            place.renew(tell=False)
        if not any(place.predictor for place in every):
            if len(every) == 1 and every[0].error:
                raise every[0].error
            raise SpecError("no model loads", where="MODEL", got="; ".join(f"{place.source.text}: {place.reason}" for place in every))
        for place in every:  # where none loads, the error says it
            if place.reason:
                place.tell()
        names = [place.name for place in every]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise SpecError("two models of one disease on one server", where="MODEL", got=twice, allowed="one each")
        self.by_name = {place.name: place for place in every}

    def __iter__(self) -> Iterator[Place]:
        return iter(self.by_name.values())

    def _taken(self, predictor: Predictor) -> None:
        for call in self.on_taken:
            call(predictor)
        package = predictor.package
        note = ", trained on SYNTHETIC data" if package.synthetic else ""
        print(f"loaded {package.name} {package.version} as {package.disease}, {predictor.arithmetic}{note}", file=sys.stdout, flush=True)
        if predictor.check != JUDGED:
            print(f"{package.name} {package.version}: {sentence(predictor.check, package.spec)}", file=sys.stderr, flush=True)

    def reason(self, name: str) -> str | None:
        place = self.by_name.get(name)
        return place.reason if place else None

    def watched(self, every_s: float) -> AbstractContextManager[None]:
        """Within the block, sources are asked every so often whether they have another package; 0: never."""

        def work(stop: threading.Event) -> None:
            while not stop.wait(every_s):
                for place in self:
                    place.renew()

        return aside("replace", work, awaited=False) if every_s else nullcontext()  # a fetch that hangs holds up no exit

    def figures(self) -> Iterator[Any]:
        """For Prometheus: `dxflow_model_ready`, `dxflow_model_info`, `dxflow_model_failing` with the reason, replacements and failures."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        ready = GaugeMetricFamily("dxflow_model_ready", "Whether somebody answers.", labels=["model"])
        info = GaugeMetricFamily("dxflow_model_info", "Who answers.", labels=["model", "version", "digest"])
        failing = GaugeMetricFamily("dxflow_model_failing", "What the source has does not load, and why.", labels=["model", "reason"])
        swaps = CounterMetricFamily("dxflow_model_replacements", "Packages that took another one's place.", labels=["model"])
        failures = CounterMetricFamily("dxflow_model_load_failures", "Packages that did not load.", labels=["model"])
        for place in self:
            predictor = place.predictor
            ready.add_metric([place.name], float(predictor is not None))
            if predictor:
                info.add_metric([place.name, predictor.package.version, predictor.package.digest], 1.0)
            if place.reason:
                failing.add_metric([place.name, place.reason], 1.0)
            swaps.add_metric([place.name], place.swaps)
            failures.add_metric([place.name], place.failures)
        yield from (ready, info, failing, swaps, failures)
