"""Regions on a known surface: how many, how large, where."""

import numpy as np
import pytest

from rad3d.defects import measure, oriented_extent, regions
from rad3d.geometry import rotation_about, translation
from rad3d.scan import Surface


def plate(side_mm=30.0, step_mm=0.5, z=0.0, up=1.0):
    axis = np.arange(0, side_mm, step_mm) + step_mm / 2
    x, y = np.meshgrid(axis, axis)
    points = np.stack([x.ravel(), y.ravel(), np.full(x.size, z)], axis=1)
    return Surface(points, np.tile([0, 0, up], (len(points), 1)), np.full(len(points), step_mm**2))


def patch(surface, x, y, w, h):
    p = surface.points_mm
    return (p[:, 0] > x) & (p[:, 0] < x + w) & (p[:, 1] > y) & (p[:, 1] < y + h)


def test_two_defects_are_found_measured_and_placed():
    surface = plate()
    scores = np.zeros(len(surface.points_mm))
    scores[patch(surface, 2, 3, 4, 2)] = 5
    scores[patch(surface, 20, 20, 3, 3)] = 9
    scores[patch(surface, 10, 25, 2, 2)] = 1.5  # never above the high threshold
    labels = regions(surface, scores, low=1, high=4)
    scan_from_part = translation((100.0, 0.0, 0.0)) @ rotation_about(np.array([0.0, 0.0, 1.0]), np.pi / 2)
    first, second = measure(surface, scores, labels, scan_from_part)
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
    labels = regions(surface, scores, low=1, high=4)
    assert (labels > 0).sum() * 0.25 == pytest.approx(36)
    assert not regions(surface, scores, 1, 4, min_area_mm2=40).any()


def test_the_blur_of_a_strong_defect_is_no_part_of_it_and_hides_no_other():
    surface = plate()
    distance = np.linalg.norm(surface.points_mm[:, :2] - (10, 10), axis=1)
    scores = 100 * np.exp(-np.maximum(distance - 2, 0))  # a disc of radius 2 mm whose blur stays above 4 for 3 mm
    scores[patch(surface, 20, 20, 2, 2)] = 6
    labels = regions(surface, scores, low=2, high=4)
    assert labels.max() == 2
    assert distance[labels == 1].max() < 3.5
    assert (labels == 2).sum() * 0.25 == pytest.approx(4)


def test_two_sides_of_a_thin_wall_are_two_defects():
    front, back = plate(z=0.3, up=1.0), plate(z=0.0, up=-1.0)
    both = Surface(
        np.concatenate([front.points_mm, back.points_mm]),
        np.concatenate([front.normals, back.normals]),
        np.concatenate([front.areas_mm2, back.areas_mm2]),
    )
    scores = np.where(np.concatenate([patch(front, 5, 5, 3, 3), patch(back, 5, 5, 3, 3)]), 9.0, 0.0)
    assert regions(both, scores, 1, 4).max() == 2


def test_not_inspected_points_are_in_no_region():
    surface = plate()
    scores = np.full(len(surface.points_mm), np.nan)
    assert not regions(surface, scores, 1, 4).any()


def test_extent_follows_the_region_not_the_axes():
    stick = np.stack([np.linspace(0, 10, 50)] * 2 + [np.zeros(50)], axis=1)
    assert oriented_extent(stick) == pytest.approx([np.sqrt(200), 0, 0], abs=1e-9)
