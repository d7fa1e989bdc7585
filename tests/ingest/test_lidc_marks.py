"""Readers' marks: geometry, matching over readers, labels, damage."""

from __future__ import annotations

import math

import pytest

from components.core.imaging.errors import NotUsable
from components.ingest.lidc import Mark, Nodule, Outline, centroid, match, parse
from tests.ingest.made import PSEUDONYMISER, marks, square


def mark(reader: int, x: float, y: float, z: float, *, radius: float = 5, malignancy: int = 3) -> Mark:
    """A sphere seen on three slices, 1 mm apart."""
    area = math.pi * radius**2
    return Mark(reader, malignancy, tuple(Outline(f"s{z + dz}", z + dz, x, y, area * (1 - 0.2 * abs(dz))) for dz in (-1, 0, 1)))


def matched(found: list[Mark]) -> list[set[int]]:
    return [{m.reader for m in n.marks} for n in match(found, lambda o: (o.x, o.y, o.z_mm), 1.0)]


def test_centroid_and_area_of_known_polygons():
    assert centroid(square(30, 40, 5)) == (40, 30, 100)
    x, y, area = centroid([(1000, 2000), (1003, 2000), (1000, 2006)])
    assert (x, y, area) == (pytest.approx(1001), pytest.approx(2002), 9)
    assert centroid([(5, 7)]) == (5, 7, 0)
    assert centroid([(0, 0), (4, 4), (0, 0)])[2] == 0


def test_marks_of_four_readers_near_each_other_are_one_nodule():
    assert matched([mark(r, 100 + r, 100, 50) for r in range(4)]) == [{0, 1, 2, 3}]


def test_marks_far_apart_are_nodules_of_their_own():
    found = [mark(0, 0, 0, 0), mark(1, 1, 0, 0), mark(0, 40, 0, 0), mark(1, 41, 0, 0), mark(2, 0, 0, 30)]
    assert matched(found) == [{0, 1}, {0, 1}, {2}]


def test_a_reader_never_counts_twice_in_one_nodule():
    """Reader 0 saw two nodules where reader 1 saw one: the nearer one is meant."""
    found = [mark(0, 0, 0, 0), mark(0, 6, 0, 0), mark(1, 4, 0, 0)]
    assert matched(found) == [{0}, {0, 1}]


def test_matching_does_not_depend_on_the_order_of_marks():
    found = [mark(r, x + 0.5 * r, 3 * r % 2, z) for r in range(4) for x, z in ((0, 0), (14, 0), (0, 25))]
    nodules = {frozenset((m.reader, m.outlines[0]) for m in n.marks) for n in match(found, lambda o: (o.x, o.y, o.z_mm), 1.0)}
    assert len(nodules) == 3
    back = {frozenset((m.reader, m.outlines[0]) for m in n.marks) for n in match(found[::-1], lambda o: (o.x, o.y, o.z_mm), 1.0)}
    assert nodules == back


def test_small_marks_match_within_three_millimetres():
    assert matched([mark(0, 0, 0, 0, radius=1), mark(1, 2.9, 0, 0, radius=1)]) == [{0, 1}]
    assert matched([mark(0, 0, 0, 0, radius=1), mark(1, 3.1, 0, 0, radius=1)]) == [{0}, {1}]


@pytest.mark.parametrize(
    ("ratings", "label"),
    [
        ([1, 1, 1], 0), ([2, 2, 5], 0), ([1, 2, 2, 5], 0), ([4, 4, 1], 1), ([4, 5, 5, 1], 1), ([3, 3, 3, 3], None), ([2, 3, 3, 4], None),
        ([1, 2, 3, 5], None), ([5, 5], None), ([1], None), ([2, 2, 4, 4], None), ([3, 4, 4, 5], 1), ([1, 1, 2, 2], 0),
    ],
)  # fmt: skip
def test_label_is_the_median_of_at_least_three_readers(ratings: list[int], label: int | None):
    assert Nodule(tuple(mark(i, 0, 0, 0, malignancy=m) for i, m in enumerate(ratings))).label() == label


def test_xml_gives_marks_without_ids():
    series, found, words = parse(marks("1.2.3", [(2, 30, 34, 6, [1, 2, 5])], extent=2).encode(), PSEUDONYMISER)
    assert series == PSEUDONYMISER.id("series", "1.2.3")
    assert [m.malignancy for m in found] == [1, 2, 5]
    assert [(o.sop, o.z_mm, o.x, o.y, o.area) for o in found[0].outlines] == [
        (PSEUDONYMISER.id("sop", f"1.2.3.{k + 1}"), 2.0 * k, 34, 30, area) for k, area in ((1, 100), (2, 144), (3, 100))
    ]
    assert words == {"1.2.3", "1.2.3.2", "1.2.3.3", "1.2.3.4"}


def test_nodules_under_three_millimetres_and_excluded_regions_are_left_out():
    text = marks("1.2.3", [(2, 30, 34, 6, [4])])
    assert parse(text.replace("<malignancy>4</malignancy>", "").encode(), PSEUDONYMISER)[1] == []
    excluded = text.replace("<inclusion>TRUE", "<inclusion>FALSE")
    assert excluded != text
    assert parse(excluded.encode(), PSEUDONYMISER)[1] == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<LidcReadMessage>", "XML that does not parse"),
        ("<html></html>", "XML other than LIDC readings"),
        ("<LidcReadMessage/>", "LIDC readings without a series"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "XML with entities or an unknown encoding"),
        (marks("1.2.3", [(2, 30, 34, 6, [4])]).replace("<xCoord>", "<xCoord>many"), "LIDC readings with a xCoord that is no number"),
    ],
)
def test_each_damage_of_the_xml_is_named(text: str, reason: str):
    with pytest.raises(NotUsable) as caught:
        parse(text.encode(), PSEUDONYMISER)
    assert caught.value.reason == reason
