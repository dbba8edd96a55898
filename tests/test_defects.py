"""Regions on a known surface: how many, how large, where."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from rad3d.defects import _links, joined, measure, oriented_extent, regions
from rad3d.deviation import ReferenceShape
from rad3d.geometry import rotation_about, translation
from rad3d.result import PointScores
from rad3d.scan import Surface


def plate(side_mm=30.0, step_mm=0.5, z=0.0, up=1.0):
    axis = np.arange(0, side_mm, step_mm) + step_mm / 2
    x, y = np.meshgrid(axis, axis)
    points = np.stack([x.ravel(), y.ravel(), np.full(x.size, z)], axis=1)
    return Surface(points, np.tile([0, 0, up], (len(points), 1)), np.full(len(points), step_mm**2))


def patch(surface, x, y, w, h):
    p = surface.points_mm
    return (p[:, 0] > x) & (p[:, 0] < x + w) & (p[:, 1] > y) & (p[:, 1] < y + h)


def scored(scores, labels, deviation=0.0, geometry=0.0):
    """Scores of points that three views see and all find anomalous where they are."""
    full = [np.broadcast_to(np.asarray(v, float), scores.shape) for v in (scores, deviation, geometry)]
    return PointScores(full[0], full[0], full[0] * 0 + 0.5, 3 + 0 * labels, full[1], full[2], labels)


def test_two_defects_are_found_measured_and_placed():
    surface = plate()
    scores = np.zeros(len(surface.points_mm))
    scores[patch(surface, 2, 3, 4, 2)] = 5
    scores[patch(surface, 20, 20, 3, 3)] = 9
    scores[patch(surface, 10, 25, 2, 2)] = 1.5  # never above the high threshold
    labels = regions(surface, scores, 0 * scores, low=1, high=4)
    scan_from_part = translation((100.0, 0.0, 0.0)) @ rotation_about(np.array([0.0, 0.0, 1.0]), np.pi / 2)
    first, second = measure(surface, scored(scores, labels), scan_from_part)
    assert first.peak_score == 9
    assert first.area_mm2 == pytest.approx(9)
    assert first.centroid_part_mm == pytest.approx((21.5, 21.5, 0))
    assert first.centroid_mm == pytest.approx((100 - 21.5, 21.5, 0))
    assert second.area_mm2 == pytest.approx(8)
    assert second.extent_mm == pytest.approx((3.5, 1.5, 0))
    assert second.normal == pytest.approx((0, 0, 1))


def test_a_region_grows_to_the_low_threshold_and_small_regions_go():
    surface = plate()
    scores = np.zeros(len(surface.points_mm))
    scores[patch(surface, 5, 5, 6, 6)] = 2.6
    scores[patch(surface, 7, 7, 1, 1)] = 5
    labels = regions(surface, scores, 0 * scores, low=1, high=4)
    assert (labels > 0).sum() * 0.25 == pytest.approx(36)
    assert not regions(surface, scores, 0 * scores, 1, 4, min_area_mm2=40).any()


def test_the_blur_of_a_strong_defect_is_no_part_of_it_and_hides_no_other():
    surface = plate()
    distance = np.linalg.norm(surface.points_mm[:, :2] - (10, 10), axis=1)
    scores = 100 * np.exp(-np.maximum(distance - 2, 0))  # a disc of radius 2 mm whose blur stays above 4 for 3 mm
    scores[patch(surface, 20, 20, 2, 2)] = 6
    labels = regions(surface, scores, 0 * scores, low=2, high=4)
    assert labels.max() == 2
    assert distance[labels == 1].max() < 3.5
    assert (labels == 2).sum() * 0.25 == pytest.approx(4)


def two_sided(front, back):
    return Surface(
        np.concatenate([front.points_mm, back.points_mm]),
        np.concatenate([front.normals, back.normals]),
        np.concatenate([front.areas_mm2, back.areas_mm2]),
    )


def test_two_sides_of_a_thin_wall_are_two_defects():
    front, back = plate(z=0.3, up=1.0), plate(z=0.0, up=-1.0)
    both = two_sided(front, back)
    scores = np.where(np.concatenate([patch(front, 5, 5, 3, 3), patch(back, 5, 5, 3, 3)]), 9.0, 0.0)
    assert regions(both, scores, 0 * scores, 1, 4).max() == 2


@pytest.mark.parametrize(("gap_mm", "pieces"), [(0.7, 1), (1.3, 2)])
def test_a_dense_scan_is_connected_alike_with_hardly_more_links(gap_mm, pieces):
    """At 0.05 mm a point has 1250 others within a link: pairs of points would be 100 million on this plate."""
    count = []
    for step in (0.25, 0.05):
        surface = plate(30.0, step)
        links = _links(surface, np.flatnonzero(~patch(surface, 15, -1, gap_mm, 99)))
        assert len(set(links.pieces().tolist())) == pieces
        count.append(links.linked.nnz)
    assert count[1] < 2 * count[0]


def test_links_are_those_of_all_pairs_on_a_sparse_scan():
    rng = np.random.default_rng(0)
    for number in (40, 120, 300):
        surface = Surface(rng.uniform(0, 12, (number, 3)), np.tile([0.0, 0, 1], (number, 1)), np.full(number, 0.25))
        apart = np.linalg.norm(surface.points_mm[:, None] - surface.points_mm[None], axis=2)
        exact = connected_components(csr_matrix(apart <= 1))[1]
        found = _links(surface, np.arange(number)).pieces()
        assert len(set(zip(exact.tolist(), found.tolist(), strict=True))) == len(set(exact.tolist())) > 1


def test_a_dense_thin_wall_keeps_its_two_sides_apart():
    """Both sides of a wall of 0.1 mm lie in one cube."""
    sides = plate(10.0, 0.05), plate(10.0, 0.05, z=0.1, up=-1.0)
    wall = Surface(
        *(np.concatenate([getattr(s, name) for s in sides]) for name in ("points_mm", "normals", "areas_mm2"))
    )
    scores = np.where(patch(wall, 2, 2, 3, 3), 9.0, 0.0)
    labels = regions(wall, scores, 0 * scores, low=1, high=4)
    assert sorted(set(labels.tolist())) == [0, 1, 2]
    assert len(set(zip(labels[labels > 0].tolist(), wall.normals[labels > 0, 2].tolist(), strict=True))) == 2


def test_not_inspected_points_are_in_no_region():
    surface = plate()
    scores = np.full(len(surface.points_mm), np.nan)
    assert not regions(surface, scores, 0 * scores, 1, 4).any()


def test_extent_follows_the_region_not_the_axes():
    stick = np.stack([np.linspace(0, 10, 50)] * 2 + [np.zeros(50)], axis=1)
    assert oriented_extent(stick) == pytest.approx([np.sqrt(200), 0, 0], abs=1e-9)


def test_a_shallow_part_of_a_deep_defect_belongs_to_it_but_the_blur_of_its_look_does_not():
    surface = plate()
    distance = np.linalg.norm(surface.points_mm[:, :2] - (10, 10), axis=1)
    geometry = np.where(distance < 4, 60 * (1 - distance / 5), 0)  # a cone: its rim scores a fifth of its middle
    scores = geometry + 20 * np.exp(-((distance / 5) ** 2))
    labels = regions(surface, scores, geometry, low=1, high=5)
    assert labels.max() == 1
    assert (labels > 0).sum() * 0.25 == pytest.approx(np.pi * 4**2, rel=0.05)


def test_a_small_dent_in_a_wide_blur_of_looks_is_one_of_material():
    surface = plate(step_mm=0.25)
    labels = patch(surface, 10, 10, 10, 10).astype(np.int32)
    for depth, kind in ((-0.7, "missing material"), (-0.3, "surface only")):
        # 9 of 100 mm2, amid surface that lies a little high, as after a registration that is a little off
        deviation = np.where(patch(surface, 13, 13, 3, 3), depth, 0.08 if depth < -0.5 else 0.0)
        scores, geometry = 20.0 * labels, np.abs(deviation) / 0.1
        (defect,) = measure(surface, scored(scores, labels, deviation, geometry), np.eye(4))
        assert defect.kind == kind
        assert defect.deviation_mm == pytest.approx(depth)


@pytest.mark.parametrize(
    ("depth", "kind"), [(-2.0, "missing material"), (1.5, "excess material"), (0.0, "surface only")]
)
def test_a_defect_of_material_has_its_kind_depth_and_volume(depth, kind):
    """A square pit (or pad) of 6 x 6 mm: floor and four walls, each wall square to the reference."""
    reference = plate(step_mm=0.25)
    there = patch(reference, 12, 12, 6, 6)
    deviation = np.where(there, depth, 0.0)
    floor = reference.points_mm + deviation[:, None] * (0, 0, 1)
    height = (np.arange(8) + 0.5) / 8 * depth
    along = np.arange(12, 18, 0.25) + 0.125
    x, z = (v.ravel() for v in np.meshgrid(along, height))
    wall = np.stack([x, np.full(x.size, 12.0), z], axis=1)
    turns = [rotation_about(np.array([0, 0, 1.0]), k * np.pi / 2, np.array([15.0, 15, 0])) for k in range(4)]
    sides = [(turn[:3, :3] @ wall.T).T + turn[:3, 3] for turn in turns]
    outwards = [np.tile(turn[:3, :3] @ (0, -np.sign(depth), 0), (len(wall), 1)) for turn in turns]
    area = 0.25 * abs(depth) / 8
    surface = Surface(
        np.concatenate([floor, *sides]),
        np.concatenate([reference.normals, *outwards]),
        np.concatenate([reference.areas_mm2, np.full(4 * len(wall), area)]),
    )
    labels = np.concatenate([there, np.ones(4 * len(wall), bool)]).astype(np.int32)
    deviation = np.concatenate([deviation, np.tile(wall[:, 2], 4)])
    scores = np.where(labels > 0, 20.0, 0.0)
    geometry = np.abs(deviation) / 0.1
    (defect,) = measure(surface, scored(scores, labels, deviation, geometry), np.eye(4), ReferenceShape(reference))
    assert defect.kind == kind
    assert defect.deviation_mm == pytest.approx(depth)
    assert defect.volume_mm3 == pytest.approx(36 * depth, rel=1e-6, abs=1e-9)
    assert (defect.views_seen, defect.agreement) == (3, 0.5)
    (unknown,) = measure(surface, scored(scores, labels, deviation, geometry), np.eye(4))
    assert np.isnan(unknown.volume_mm3)


def test_the_halo_of_a_strong_defect_is_none_but_a_weak_defect_of_shape_beside_it_is():
    surface = plate()
    distance = np.linalg.norm(surface.points_mm[:, :2] - (10, 10), axis=1)
    scores = np.where(distance < 1.5, 80.0, 0.0)
    beside = patch(surface, 15, 9, 2, 2)  # 3 to 6 mm from its rim
    scores[beside] = 20
    far = patch(surface, 24, 8, 2, 4)
    scores[far] = 20
    labels = regions(surface, scores, 0 * scores, low=1, high=5)
    assert set(labels[beside]) == {0}
    assert set(labels[far]) == {2}
    shaped = regions(surface, scores, np.where(beside, 20.0, 0.0), low=1, high=5)
    assert set(shaped[beside]) | set(shaped[far]) == {2, 3}


def test_what_is_beside_a_defect_is_more_of_it():
    """A scratch of 10 mm that fades in its middle, and apart from it another of the same strength."""
    surface = plate()
    scores = np.zeros(len(surface.points_mm))
    scores[patch(surface, 5, 5, 10, 1)] = 2
    for x, y in ((5, 5), (12, 5), (5, 25)):
        scores[patch(surface, x, y, 3, 1)] = 9
    labels = regions(surface, scores, 0 * scores, low=1, high=4)
    assert labels.max() == 2
    assert set(labels[patch(surface, 5, 5, 3, 1)]) == set(labels[patch(surface, 12, 5, 3, 1)]) == {1}
    assert set(labels[patch(surface, 5, 25, 3, 1)]) == {2}


def test_both_ends_of_a_filled_hole_are_one_defect():
    """Two plugs on the two sides of a wall, and the wall of the hole of which nothing is left; a third is elsewhere."""
    front, back = plate(z=4.0, up=1.0), plate(z=0.0, up=-1.0)
    points = np.concatenate([front.points_mm, back.points_mm])
    labels = np.zeros(len(points), np.int32)
    for number, (surface, start, x) in enumerate(((front, 0, 10), (front, 0, 24), (back, len(front.points_mm), 10)), 1):
        labels[start + np.flatnonzero(patch(surface, x, 10, 4, 4))] = number
    angle, height = np.meshgrid(np.linspace(0, 2 * np.pi, 30), np.arange(0, 4.1, 0.5))
    wall = np.stack([12 + 2 * np.cos(angle), 12 + 2 * np.sin(angle), height], axis=-1).reshape(-1, 3)
    found = joined(labels, points, wall)
    assert set(found[labels == 1]) == set(found[labels == 3]) == {1}
    assert set(found[labels == 2]) == {2}
    assert not found[labels == 0].any()
    np.testing.assert_array_equal(joined(labels, points, wall[:0]), labels)
    np.testing.assert_array_equal(joined(labels, points, wall[wall[:, 2] < 1]), labels, "half the wall joins nothing")


def test_what_is_gone_is_one_defect_wherever_it_is_told():
    """Of a tooth that is gone its root tells, and the tips of the next two, which are nearest to its own tip."""
    surface = plate()
    labels = np.zeros(len(surface.points_mm), np.int32)
    for number, x in enumerate((5, 14, 23), 1):
        labels[patch(surface, x, 14, 2, 2)] = number
    x, y = np.meshgrid(np.arange(6, 25, 0.5), np.arange(14, 16.1, 0.5))
    tooth = np.stack([x.ravel(), y.ravel(), 4 - np.abs(x.ravel() - 15) / 3], axis=1)
    gone_mm = np.linalg.norm(surface.points_mm[:, None] - tooth, axis=2).min(axis=0)
    np.testing.assert_array_equal(joined(labels, surface.points_mm, tooth), labels, "it may only not have been seen")
    found = joined(labels, surface.points_mm, tooth, gone_mm + 1, np.inf)
    assert set(found[labels > 0]) == {1}
    apart = np.concatenate([tooth[x.ravel() < 9], tooth[x.ravel() > 20]])
    reach = np.concatenate([gone_mm[x.ravel() < 9], gone_mm[x.ravel() > 20]]) + 1
    assert len(set(joined(labels, surface.points_mm, apart, reach, np.inf)[labels > 0])) == 3, "two pieces"


def test_the_normal_of_a_defect_with_two_sides_is_that_of_its_peak():
    front, back = plate(z=4.0, up=1.0), plate(z=0.0, up=-1.0)
    both = two_sided(front, back)
    scores = np.where(np.concatenate([patch(front, 5, 5, 3, 3), patch(back, 5, 5, 3, 3)]), 9.0, 0.0)
    scores[len(front.points_mm) :] *= 2
    (defect,) = measure(both, scored(scores, (scores > 0).astype(np.int32)), np.eye(4))
    assert defect.normal == pytest.approx((0, 0, -1))


def test_a_small_peak_does_not_hide_the_large_defect_that_it_belongs_to():
    surface = plate()
    distance = np.linalg.norm(surface.points_mm[:, :2] - (15, 15), axis=1)
    scores = np.where(distance < 2.5, 40.0, 0.0)
    scores[distance < 0.9] = 100.0
    labels = regions(surface, scores, 0 * scores, low=5, high=10, min_area_mm2=5.0)
    assert labels.max() == 1
    assert (labels > 0).sum() * 0.25 == pytest.approx(np.pi * 2.5**2, rel=0.1)
    assert not regions(surface, np.where(distance < 0.9, 100.0, 0.0), 0 * scores, 5, 10, min_area_mm2=5.0).any()


def test_hardly_any_surface_is_left_where_a_thin_pin_is_gone():
    surface = plate()
    stub = np.linalg.norm(surface.points_mm[:, :2] - (15, 15), axis=1) < 0.6
    scores, gone_mm2 = np.where(stub, 80.0, 0.0), np.where(stub, 2.0, 0.0)
    assert not regions(surface, scores, scores, 1, 4, min_area_mm2=5.0).any()
    labels = regions(surface, scores, scores, 1, 4, min_area_mm2=5.0, gone_mm2=gone_mm2)
    np.testing.assert_array_equal(labels > 0, stub)


def test_what_a_scanner_missed_joins_no_defects():
    """The whole underside was not scanned; at two opposite edges of it lie two small defects."""
    top = plate()
    labels = np.zeros(len(top.points_mm), np.int32)
    labels[patch(top, 0, 14, 2, 2)], labels[patch(top, 28, 14, 2, 2)] = 1, 2
    underside = top.points_mm * (1, 1, 0) - (0, 0, 1.5)
    np.testing.assert_array_equal(joined(labels, top.points_mm, underside), labels)
