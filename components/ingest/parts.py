"""A source in parts: what the model is made from, and the external sets beside it, each read apart as if it were a source of its own."""

from __future__ import annotations

from dataclasses import dataclass

from components.core.spec import DiseaseSpec, External
from components.core.step import emit
from components.ingest.source import Links, Source


@dataclass(frozen=True)
class Part:
    """`external` is None for the main part; `prefix` is what stands before its paths in the whole listing."""

    external: External | None
    source: Source
    prefix: str = ""

    @property
    def name(self) -> str:
        return self.external.split if self.external else "main"

    def spec(self, spec: DiseaseSpec) -> DiseaseSpec:
        """What the reader is told: an external set is one split as a whole, so its source need not name any, whatever the main part does."""
        if self.external is None:
            return spec
        return spec.model_copy(update={"split": spec.split.model_copy(update={"given": False})})

    def reader(self, spec: DiseaseSpec) -> str:
        return (self.external.reader if self.external else None) or spec.input.reader


def parts(spec: DiseaseSpec, listed: Source) -> list[Part]:
    """The main part, then every external set that is there; a file belongs to the innermost external folder that holds it.

    A set whose folder is missing is left out with a warning: who tries a disease at home may not have it.
    """
    folders = sorted(spec.external, key=lambda e: -len(e.source))
    items: dict[str, list[int]] = {external.name: [] for external in folders}
    main = []
    for number, item in enumerate(listed.items):
        home = next((e for e in folders if item.path.startswith(f"{e.source}/")), None)
        (main if home is None else items[home.name]).append(number)
    found = [Part(None, Source(listed.root, [listed.items[n] for n in main], listed.links))]
    for external in spec.external:
        if not items[external.name]:
            emit("warning", text=f"external set '{external.name}' is left out: the source has no folder {external.source}")
            continue
        prefix = f"{external.source}/"
        own = [listed.items[n] for n in items[external.name]]
        view = [type(i)(i.path.removeprefix(prefix), i.size, i.fingerprint) for i in own]
        again = {link: to for link, to in listed.links.again.items() if link.startswith(prefix) and to.startswith(prefix)}
        inside = {link.removeprefix(prefix): to.removeprefix(prefix) for link, to in again.items()}
        found.append(Part(external, Source(f"{listed.root.rstrip('/')}/{external.source}", view, Links(again=inside)), prefix))
    return found
