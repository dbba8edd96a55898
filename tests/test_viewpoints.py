"""Cameras stand where asked, show the whole part, and by coverage look where surface is still unseen."""

import numpy as np
import pytest
import trimesh

from rad3d.camera import Camera
from rad3d.geometry import bounding_sphere, look_at, unit
from rad3d.render import renderer_for
from rad3d.scan import Scan
from rad3d.settings import ViewSettings
from rad3d.viewpoints import (
    CANDIDATES,
    ENOUGH,
    INSPECTABLE_INCIDENCE,
    NEEDED_VIEWS,
    _greedy,
    cameras_from,
    choose_viewpoints,
    hemisphere,
    image_size,
    sphere,
    turntable,
)

SMALL = (64, 64)


def mesh_scan(mesh):
    return Scan("s", vertices_mm=np.array(mesh.vertices), faces=np.array(mesh.faces))


def moved(mesh, *offset):
    return mesh.apply_translation(offset)


def block_with_pocket():
    """A block with a pocket of 8 x 8 mm, 10 deep, open towards +x."""
    pocket = moved(trimesh.creation.box((20, 8, 8)), 12, 0, 0)
    return trimesh.boolean.difference([trimesh.creation.box((24, 24, 24)), pocket])


def box_with_cavity():
    """A box with a closed hollow inside."""
    return trimesh.boolean.difference([trimesh.creation.box((20, 20, 20)), trimesh.creation.box((8, 8, 8))])


def blocked(origins, directions, triangles):
    """Whether rays meet any of the triangles, each tried with each (Moeller and Trumbore 1997)."""
    one, two = triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    p = np.cross(directions[:, None], two)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 1 / (p * one).sum(-1)
        t = origins[:, None] - triangles[:, 0]
        q = np.cross(t, one)
        u, v, distance = ((a * b).sum(-1) * scale for a, b in ((t, p), (directions[:, None], q), (two, q)))
        return ((u >= 0) & (v >= 0) & (u + v <= 1) & (distance > 0)).any(axis=1)


def test_the_sphere_is_even():
    directions = sphere(100)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    np.testing.assert_allclose(directions.mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose(np.cov(directions.T, bias=True), np.eye(3) / 3, atol=0.02)
    cosine = directions @ directions.T - 2 * np.eye(100)
    nearest = np.arccos(cosine.max(axis=1))
    assert nearest.min() > 0.7 * np.sqrt(4 * np.pi / 100)
    assert nearest.max() < 1.3 * np.sqrt(4 * np.pi / 100)


@pytest.mark.parametrize("count", [1, 2, 7, 16])
def test_hemisphere_and_turntable_stay_above_the_table(count):
    for directions in (hemisphere(count), turntable(count)):
        assert directions.shape == (count, 3)
        assert (directions[:, 2] > 0).all()
        np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    turn = np.unwrap(np.arctan2(*turntable(16)[:, 1::-1].T))
    np.testing.assert_allclose(np.diff(turn), 2 * np.pi / 16)


@pytest.mark.parametrize("size_hw", [(60, 60), (60, 100), (100, 60)])
def test_the_whole_part_is_in_every_image_and_fills_it(size_hw):
    points = np.array(trimesh.creation.icosphere(subdivisions=3, radius=7.0).vertices) + np.array([100, -20, 3])
    for camera in cameras_from(sphere(6), points, size_hw):
        pixels, depth = camera.project(points)
        assert (depth > 0).all()
        assert (pixels > 0).all()
        assert (pixels < (size_hw[1], size_hw[0])).all()
        assert 0.93 < np.ptp(pixels[:, 1]) / 60 < 1.0
        assert unit(camera.centre_mm - np.array([100, -20, 3])) @ camera.direction == pytest.approx(-1)


def test_images_grow_until_a_patch_is_fine_enough():
    points = np.array(trimesh.creation.icosphere(subdivisions=2, radius=50.0).vertices)
    assert image_size(points, ViewSettings(mm_per_patch=None), (224, 448), 16) == (224, 448)
    assert image_size(points, ViewSettings(mm_per_patch=20.0), (224, 224), 16) == (224, 224)
    for mm in (1.0, 2.0, 3.7):
        height, width = image_size(points, ViewSettings(mm_per_patch=mm), (224, 224), 16)
        assert height == width
        assert height % 224 == 0
        camera = cameras_from(sphere(1), points, (height, width))[0]
        distance = np.linalg.norm(camera.centre_mm)
        assert 16 * (distance - 50) / camera.intrinsics[0, 0] < mm  # nearest surface
        assert 16 * distance / camera.intrinsics[0, 0] < 1.05 * mm  # middle of the part


@pytest.mark.parametrize("placement", ["sphere", "hemisphere", "turntable"])
def test_fixed_placements_are_those_of_their_directions(placement):
    scan = mesh_scan(trimesh.creation.box((10, 6, 4)))
    chosen = choose_viewpoints(scan, ViewSettings(placement, count=5), SMALL)
    directions = {"sphere": sphere, "hemisphere": hemisphere, "turntable": turntable}[placement](5)
    np.testing.assert_allclose([-camera.direction for camera in chosen.cameras], directions, atol=1e-9)


def test_counts_are_those_of_the_definition():
    """Point by point: in the image, at 60 degrees or less, and no triangle between."""
    scan = mesh_scan(block_with_pocket())
    chosen = choose_viewpoints(scan, ViewSettings("sphere", count=6), SMALL)
    surface = scan.surface
    rows = np.random.default_rng(0).choice(len(surface.points_mm), 400, replace=False)
    points, normals = surface.points_mm[rows], surface.normals[rows]
    triangles = np.array(block_with_pocket().triangles)
    count = np.zeros(len(rows), int)
    for camera in chosen.cameras:
        towards = unit(camera.centre_mm - points)
        facing = (towards * normals).sum(axis=1) >= 0.5
        count += facing & ~blocked(points + 0.01 * normals, towards, triangles)
    assert (count == chosen.seen_count[rows]).mean() > 0.99


def test_coverage_looks_into_a_pocket_that_a_fixed_sphere_misses():
    scan = mesh_scan(block_with_pocket())
    points = scan.surface.points_mm
    floor = (np.abs(points[:, 0] - 2) < 1e-6) & (np.abs(points[:, 1:]) < 3.9).all(axis=1)
    assert floor.sum() > 50
    count = 10
    fixed = choose_viewpoints(scan, ViewSettings("sphere", count), SMALL)
    covering = choose_viewpoints(scan, ViewSettings("coverage", count), SMALL)
    assert len(covering.cameras) <= 2 * count
    np.testing.assert_array_equal(fixed.inspectable | covering.inspectable, fixed.inspectable)
    assert covering.inspectable[floor].mean() > 0.9
    assert (covering.seen_count[floor] > 0).mean() > (fixed.seen_count[floor] > 0).mean() + 0.3

    def coverage(viewpoints):
        area = scan.surface.areas_mm2 * viewpoints.inspectable
        return (area * (viewpoints.seen_count > 0)).sum() / area.sum()

    assert coverage(covering) > coverage(fixed)
    assert coverage(covering) > 0.97


def test_coverage_stops_when_everything_is_seen_often_enough():
    scan = mesh_scan(trimesh.creation.icosphere(subdivisions=3, radius=10.0))
    chosen = choose_viewpoints(scan, ViewSettings("coverage", count=CANDIDATES), SMALL)
    assert 12 <= len(chosen.cameras) < 40  # each sees a quarter of a sphere: 12 at the very least for three times
    assert (chosen.seen_count >= NEEDED_VIEWS).mean() > 0.97
    assert chosen.inspectable.all()


def test_surface_inside_a_closed_hollow_is_not_inspectable():
    scan = mesh_scan(box_with_cavity())
    chosen = choose_viewpoints(scan, ViewSettings("coverage", count=16), SMALL)
    inside = (np.abs(scan.surface.points_mm) < 5).all(axis=1)
    assert inside.any()
    assert not chosen.inspectable[inside].any()
    assert chosen.inspectable[~inside].mean() > 0.99
    assert (chosen.seen_count[chosen.inspectable] > 0).mean() > 0.99


def test_greedy_takes_what_adds_most_and_no_more_than_needed():
    area = np.array([1.0, 1, 1, 10])
    seen = np.array([[1, 1, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0]], bool)
    assert _greedy(seen, area, 4) == [1, 0, 2, 3]  # the large point first; then three small; both others still add
    assert _greedy(seen, area, 2)[:2] == [1, 0]
    # a small point that nobody sees yet goes before a second look at larger ones
    assert _greedy(np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], bool), np.array([1.0, 1, 1.2]), 2) == [0, 2]
    twins = np.ones((10, 4), bool)
    assert len(_greedy(twins, area, 10)) == NEEDED_VIEWS
    almost = np.array([[1, 0], [0, 1]], bool)
    assert _greedy(almost, np.array([ENOUGH, 1 - ENOUGH - 1e-9]), 2) == [0]


def test_more_views_than_asked_only_for_surface_that_none_saw():
    thirds = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], bool)
    assert _greedy(thirds, np.array([4.0, 4, 3, 1]), 2) == [0, 2, 3]
    assert _greedy(thirds, np.array([4.0, 4, 3, 0.2]), 2) == [0, 2]  # 2 % are not worth another view
    assert _greedy(thirds, np.array([4.0, 4, 3, 1]), 1) == [0, 2]  # twice as many at most


def test_a_clouds_viewpoints_see_it():
    points, face = trimesh.sample.sample_surface(block_with_pocket(), 10_000, seed=0)
    scan = Scan("s", vertices_mm=np.asarray(points))
    chosen = choose_viewpoints(scan, ViewSettings("coverage", count=16), SMALL)
    truth = choose_viewpoints(mesh_scan(block_with_pocket()), ViewSettings("coverage", count=16), SMALL)
    area = scan.surface.areas_mm2
    of_mesh = (truth.inspectable * mesh_scan(block_with_pocket()).surface.areas_mm2).sum() / block_with_pocket().area
    assert (area * chosen.inspectable).sum() / area.sum() == pytest.approx(of_mesh, abs=0.04)
    assert (chosen.seen_count[chosen.inspectable] > 0).mean() > 0.95
    assert len(face) == len(area)


def test_candidates_do_not_see_through_the_part():
    """The deep end of a narrow bore is seen by nobody within 60 degrees of its wall's normal."""
    bore = trimesh.creation.annulus(2.0, 6.0, 30.0, sections=24)
    scan = mesh_scan(bore)
    chosen = choose_viewpoints(scan, ViewSettings("coverage", count=16), SMALL)
    points = scan.surface.points_mm
    wall = (np.hypot(points[:, 0], points[:, 1]) < 2.01) & (np.abs(points[:, 2]) < 8)
    assert wall.any()
    assert not chosen.inspectable[wall].any()
    camera = Camera.from_field_of_view(SMALL, 0.5, look_at(np.array([0, 0, 100.0]), np.zeros(3)))
    renderer = renderer_for(scan)
    assert not renderer.visible(points[wall], scan.surface.normals[wall], camera, INSPECTABLE_INCIDENCE).any()
    assert bounding_sphere(points)[1] == pytest.approx(np.hypot(6, 15), rel=1e-3)
