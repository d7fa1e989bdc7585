"""Readers' marks of one series as an XML file in the structure of LIDC-IDRI's.

Source:
    Armato et al., Medical Physics 2011 (doi:10.1118/1.3528204) and the XML schema of that collection: four reading sessions; a nodule of
    3 mm or more has nine characteristics and an outline for each slice; a smaller one has one point and none; a non-nodule is one point.
    Outlines name the first pixels outside the nodule.
"""

from __future__ import annotations

from dataclasses import dataclass, field

NAMESPACE = "http://www.nih.gov"


@dataclass(frozen=True)
class Outline:
    """One slice of one reader's nodule: (x, y) pixel columns and rows, in order along the edge."""

    z_mm: float
    sop_uid: str
    edge: list[tuple[int, int]]


@dataclass
class Session:
    """What one reader marked. `nodules`: id, characteristics (None below 3 mm), outlines; `others`: id, one outline of one point."""

    nodules: list[tuple[str, dict[str, int] | None, list[Outline]]] = field(default_factory=list)
    others: list[tuple[str, Outline]] = field(default_factory=list)


def lidc_xml(*, study_uid: str, series_uid: str, sessions: list[Session]) -> str:
    """The file's text; dates are fixed, people and sites are `SYNTHETIC`."""
    out = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        "<!-- SYNTHETIC: written by a simulator; no person was read -->",
        f'<LidcReadMessage uid="{series_uid}.0" xmlns="{NAMESPACE}">',
        "<ResponseHeader><Version>1.7</Version><RequestingSite>SYNTHETIC</RequestingSite><ServicingSite>SYNTHETIC</ServicingSite>",
        "<TaskDescription>Second unblinded read</TaskDescription>",
        f"<SeriesInstanceUid>{series_uid}</SeriesInstanceUid><StudyInstanceUID>{study_uid}</StudyInstanceUID>",
        "<ResponseDescription>1 - Reading complete</ResponseDescription></ResponseHeader>",
    ]
    for number, session in enumerate(sessions, 1):
        out.append(f"<readingSession><annotationVersion>3.12</annotationVersion><servicingRadiologistID>SYNTHETIC-{number}</servicingRadiologistID>")
        for name, characteristics, outlines in session.nodules:
            out.append(f"<unblindedReadNodule><noduleID>{name}</noduleID>")
            if characteristics is not None:
                out.append("<characteristics>" + "".join(f"<{key}>{value}</{key}>" for key, value in characteristics.items()) + "</characteristics>")
            for outline in outlines:
                out.append(f"<roi>{_place(outline)}<inclusion>TRUE</inclusion>")
                out.extend(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in outline.edge)
                out.append("</roi>")
            out.append("</unblindedReadNodule>")
        for name, outline in session.others:
            ((x, y),) = outline.edge
            out.append(
                f"<nonNodule><nonNoduleID>{name}</nonNoduleID>{_place(outline)}<locus><xCoord>{x}</xCoord><yCoord>{y}</yCoord></locus></nonNodule>"
            )
        out.append("</readingSession>")
    out.append("</LidcReadMessage>\n")
    return "\n".join(out)


def _place(outline: Outline) -> str:
    return f"<imageZposition>{outline.z_mm:.6f}</imageZposition><imageSOP_UID>{outline.sop_uid}</imageSOP_UID>"
