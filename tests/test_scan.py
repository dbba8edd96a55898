"""The surface on which a specimen is judged: welded, refined, measured."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from rad3d.errors import ScanError
from rad3d.geometry import face_normals_areas, random_rotation, transform_directions, transform_points, translation
from rad3d.scan import MAX_EDGE_MM, Scan
from rad3d.view import View

BOX = trimesh.creation.box((8.0, 5.0, 3.0))


def mesh_scan(mesh, **more):
    return Scan("s", vertices_mm=np.array(mesh.vertices), faces=np.array(mesh.faces), **more)


def soup(mesh):
    """Three vertices per facet, as STL has them."""
    return Scan(
        "s",
        vertices_mm=np.array(mesh.vertices)[mesh.faces].reshape(-1, 3),
        faces=np.arange(mesh.faces.size).reshape(-1, 3),
    )


def test_a_soup_is_welded_into_the_mesh_it_came_from():
    sphere = trimesh.creation.icosphere(subdivisions=3, radius=5.0)
    scan = soup(sphere)
    surface, index = scan.surface, scan.surface_from_vertex
    assert len(surface.points_mm) == len(sphere.vertices)
    assert index.shape == (len(scan.vertices_mm),)
    np.testing.assert_allclose(surface.points_mm[index], scan.vertices_mm, atol=1e-5)
    outwards = surface.points_mm / 5.0
    assert (surface.normals * outwards).sum(axis=1).min() > 0.999
    np.testing.assert_allclose(surface.areas_mm2.sum(), sphere.area)


def test_vertices_closer_than_a_scanner_resolves_are_welded_but_no_others():
    offset = np.array([[0.0, 0, 0], [10, 0, 0], [0, 10, 0], [10, 10, 0]])
    jitter = np.array([[0, 0, 0], [1e-7, 0, 0], [0, 1e-7, 0]])
    faces = np.array([[0, 1, 2], [4, 3, 5]])
    close = np.concatenate([offset[:3], offset[1:2] + jitter[1], offset[2:3] + jitter[2], offset[3:]])
    faces = np.array([[0, 1, 2], [4, 3, 5]])
    # the grid of welding may cut between two copies, so both outcomes are mapped to points at most 1e-4 mm apart
    scan = Scan("s", vertices_mm=close, faces=faces)
    np.testing.assert_allclose(scan.surface.points_mm[scan.surface_from_vertex], close, atol=1e-4)
    apart = close + np.array([[0, 0, 0], [0, 0, 0], [0, 0, 0], [0.01, 0, 0], [0.01, 0, 0], [0.01, 0, 0]])
    assert len(set(Scan("s", vertices_mm=apart, faces=faces).surface_from_vertex)) == 6


def test_a_coarse_box_is_refined_and_stays_the_same_solid():
    scan = mesh_scan(BOX)
    surface = scan.surface
    refined = trimesh.Trimesh(surface.points_mm, surface.faces, process=False)
    assert refined.is_watertight
    assert refined.is_winding_consistent
    np.testing.assert_allclose([refined.area, refined.volume], [BOX.area, BOX.volume])
    np.testing.assert_allclose(surface.areas_mm2.sum(), BOX.area)
    assert refined.edges_unique_length.max() <= MAX_EDGE_MM
    assert len(surface.points_mm) > 8
    # the file's vertices come back from the surface, for the scored PLY
    np.testing.assert_allclose(surface.points_mm[scan.surface_from_vertex], scan.vertices_mm, atol=1e-9)
    # each point stands for about as much as the points beside it
    assert surface.areas_mm2.max() < 8 * np.median(surface.areas_mm2)


@pytest.mark.parametrize("seed", range(4))
def test_any_closed_mesh_stays_closed_when_refined(seed):
    """Triangles with one, two and three long edges all occur."""
    rng = np.random.default_rng(seed)
    hull = trimesh.convex.convex_hull(rng.normal(size=(12, 3)) * (4, 2, 0.7))
    surface = mesh_scan(hull).surface
    refined = trimesh.Trimesh(surface.points_mm, surface.faces, process=False)
    assert refined.is_watertight
    np.testing.assert_allclose([refined.area, refined.volume], [hull.area, hull.volume])
    assert refined.edges_unique_length.max() <= MAX_EDGE_MM


def test_colours_between_vertices_are_interpolated():
    vertices = np.array([[0.0, 0, 0], [4, 0, 0], [0, 4, 0]])
    colours = np.array([[0, 0, 0], [200, 0, 0], [0, 100, 0]], np.uint8)
    surface = Scan("s", vertices_mm=vertices, faces=np.array([[0, 1, 2]]), colours=colours).surface
    expected = np.stack(
        [surface.points_mm[:, 0] * 50, surface.points_mm[:, 1] * 25, np.zeros(len(surface.points_mm))], 1
    )
    np.testing.assert_allclose(surface.colours, expected, atol=0.51)


def test_degenerate_triangles_are_counted_and_left_out():
    vertices = np.concatenate([BOX.vertices, [[20.0, 0, 0]]])  # used by a degenerate triangle only
    faces = np.concatenate([BOX.faces, [[0, 0, 1], [2, 2, 2], [8, 8, 3]]])
    scan = Scan("s", vertices_mm=vertices, faces=faces)
    assert scan.degenerate_faces == 3
    assert scan.surface.faces is not None
    refined = trimesh.Trimesh(scan.surface.points_mm, scan.surface.faces, process=False)
    assert refined.is_watertight
    np.testing.assert_allclose(scan.surface.areas_mm2.sum(), BOX.area)
    assert face_normals_areas(scan.surface.points_mm, scan.surface.faces)[1].min() > 0
    stands_for = scan.surface.points_mm[scan.surface_from_vertex]
    np.testing.assert_allclose(stands_for[:-1], BOX.vertices, atol=1e-9)
    assert np.linalg.norm(stands_for[-1] - vertices[-1]) == pytest.approx(
        np.linalg.norm(BOX.vertices - vertices[-1], axis=1).min()
    )


def test_a_vertex_of_no_triangle_is_no_surface():
    """MeshLab leaves them behind; far from the part one would shrink it in every view."""
    vertices = np.concatenate([[[500.0, 0, 0]], BOX.vertices])
    scan = Scan("s", vertices_mm=vertices, faces=BOX.faces + 1)
    plain = Scan("s", vertices_mm=np.array(BOX.vertices), faces=np.array(BOX.faces))
    assert len(scan.surface.points_mm) == len(plain.surface.points_mm)
    assert np.ptp(scan.surface.points_mm, axis=0).max() < 100
    assert (scan.surface.areas_mm2 > 0).all()
    assert len(scan.surface_from_vertex) == len(vertices)


def test_captured_views_have_no_surface_of_their_own():
    view = View("v", "captured", np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ScanError, match="expected a mesh or a cloud, got captured views"):
        _ = Scan("c", views=(view,)).surface


def test_points_of_a_cloud_that_lie_on_one_another_count_once():
    points = np.random.default_rng(0).uniform(0, 10, (500, 3)) * (1, 1, 0)
    scan = Scan("s", vertices_mm=np.concatenate([points, np.repeat(points[:3], 40, axis=0)]))
    once = Scan("s", vertices_mm=points).surface
    assert len(scan.surface.points_mm) == 500
    assert (scan.surface.areas_mm2 > 0).all()
    assert scan.surface.areas_mm2.sum() == pytest.approx(once.areas_mm2.sum())
    assert np.array_equal(scan.surface.points_mm[scan.surface_from_vertex], scan.vertices_mm)


def test_points_nearer_than_numbers_tell_do_not_go_on_for_ever():
    scan = Scan("s", vertices_mm=np.array([[0, 0, 0], [1e-170, 0, 0], [1, 0, 0], [0, 1, 0.0]]))
    assert len(scan.surface.points_mm) == 4


def test_normals_that_a_cloud_lacks_are_estimated():
    points = np.array(trimesh.creation.icosphere(3, 10.0).vertices)
    normals = points / 10.0
    normals[5], normals[9] = np.nan, 0.0
    surface = Scan("c", vertices_mm=points, normals=normals).surface
    np.testing.assert_allclose(np.linalg.norm(surface.normals, axis=1), 1.0)


def test_a_mesh_of_degenerate_triangles_only_is_refused():
    scan = Scan(
        "s", Path("flat.stl"), vertices_mm=np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]), faces=np.array([[0, 1, 2]])
    )
    with pytest.raises(ScanError, match=r"flat\.stl.*degenerate"):
        _ = scan.surface


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({}, "neither"),
        ({"vertices_mm": np.array([[0.0, np.nan, 0], [np.inf, 0, 0], [0, 0, 0]])}, "2 of 3"),
        ({"vertices_mm": np.zeros((3, 3)), "faces": np.array([[0, 1, 3]])}, "vertex index 3"),
        ({"vertices_mm": np.zeros((3, 3)), "faces": np.array([[0, 1, -1]])}, "vertex index -1"),
    ],
)
def test_what_is_no_scan_is_refused(more, complaint):
    with pytest.raises(ScanError, match=rf"part\.ply.*{complaint}"):
        Scan("s", Path("part.ply"), **more)


def test_kinds():
    points = np.zeros((3, 3))
    view = View("v", "captured", np.zeros((2, 2, 3), np.uint8))
    assert Scan("s", vertices_mm=points, faces=np.array([[0, 1, 2]])).kind == "mesh"
    assert Scan("s", vertices_mm=points).kind == "cloud"
    assert Scan("s", views=(view,)).kind == "captured"


@pytest.mark.parametrize("drawn", ["at random", "evenly"])
def test_the_areas_of_a_clouds_points_add_up_to_its_surface(drawn):
    if drawn == "evenly":
        step = np.arange(8000) + 0.5
        z, turn = 1 - step / 4000, np.pi * (1 + np.sqrt(5)) * step
        flat = np.sqrt(1 - z**2)
        directions = np.stack([flat * np.cos(turn), flat * np.sin(turn), z], axis=1)
    else:
        directions = np.random.default_rng(0).normal(size=(8000, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    areas = Scan("s", vertices_mm=10 * directions).surface.areas_mm2
    assert areas.sum() == pytest.approx(400 * np.pi, rel=0.05)


def test_areas_follow_the_density_of_a_cloud():
    """A dense and a sparse half of equal size stand for as much."""
    rng = np.random.default_rng(1)
    dense, sparse = rng.uniform(0, 20, (9000, 3)), rng.uniform(0, 20, (1000, 3))
    dense[:, 2], sparse[:, 2] = 0, 0
    sparse[:, 0] += 20
    areas = Scan("s", vertices_mm=np.concatenate([dense, sparse])).surface.areas_mm2
    assert areas[:9000].sum() == pytest.approx(areas[9000:].sum(), rel=0.15)


def tube_cloud():
    """A tube of radii 6 and 10, 12 long: outside, bore and both rings; points with true normals."""
    tube = trimesh.creation.annulus(6.0, 10.0, 12.0, sections=128)
    points, face = trimesh.sample.sample_surface(tube, 20_000, seed=0)
    return np.asarray(points), np.asarray(tube.face_normals)[face]


def test_estimated_normals_point_outwards_also_in_a_bore():
    points, truth = tube_cloud()
    normals = Scan("s", vertices_mm=points).surface.normals
    cosine = (normals * truth).sum(axis=1)
    assert (cosine > 0.9).mean() > 0.85  # the rest lies at the edges, where a normal is no one thing
    bore = np.hypot(points[:, 0], points[:, 1]) < 6.01
    assert (cosine[bore] > 0).mean() > 0.98


def test_estimated_normals_are_of_the_plane_and_unit():
    rng = np.random.default_rng(2)
    pose = translation((3, 4, 500)) @ random_rotation(rng)
    flat = np.concatenate([rng.uniform(-5, 5, (500, 2)), np.zeros((500, 1))], axis=1)
    surface = Scan("s", vertices_mm=transform_points(pose, flat)).surface
    np.testing.assert_allclose(np.abs(surface.normals @ pose[:3, 2]), 1, atol=1e-6)


def test_a_files_normals_go_before_estimated_ones():
    points, truth = tube_cloud()
    normals = Scan("s", vertices_mm=points, normals=-2 * truth).surface.normals
    np.testing.assert_allclose(normals, -truth, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_tiny_clouds_have_a_surface(count):
    surface = Scan("s", vertices_mm=np.arange(3.0 * count).reshape(count, 3)).surface
    assert surface.points_mm.shape == surface.normals.shape == (count, 3)
    assert np.isfinite(surface.areas_mm2).all()


@pytest.mark.parametrize("kind", ["mesh", "cloud"])
def test_the_surface_moves_with_the_scan(kind):
    pose = translation((100, -20, 5)) @ random_rotation(np.random.default_rng(3))
    if kind == "mesh":
        scan = mesh_scan(trimesh.creation.icosphere(subdivisions=2, radius=2.0))
    else:
        scan = Scan("s", vertices_mm=tube_cloud()[0][:4000])
    moved = scan.moved(pose).surface
    np.testing.assert_allclose(moved.points_mm, transform_points(pose, scan.surface.points_mm), atol=1e-9)
    np.testing.assert_allclose(moved.normals, transform_directions(pose, scan.surface.normals), atol=1e-9)
    np.testing.assert_array_equal(moved.areas_mm2, scan.surface.areas_mm2)
    fresh = replace(scan, vertices_mm=scan.moved(pose).vertices_mm).surface
    assert len(fresh.points_mm) == len(moved.points_mm)
    assert fresh.areas_mm2.sum() == pytest.approx(moved.areas_mm2.sum(), rel=1e-3)
    near, at = cKDTree(fresh.points_mm).query(moved.points_mm)
    assert near.max() < 1e-6
    assert (np.abs((fresh.normals[at] * moved.normals).sum(axis=1)) > 0.999).mean() > 0.99
    np.testing.assert_array_equal(scan.moved(pose).surface_from_vertex, scan.surface_from_vertex)


def test_one_of_several_bodies_that_looks_inwards_is_turned(caplog):
    left, right = trimesh.creation.box((10, 10, 10)), trimesh.creation.box((8, 8, 8))
    right.invert()
    right.apply_translation((30, 0, 0))
    both = trimesh.util.concatenate([left, right])
    surface = Scan("s", vertices_mm=np.array(both.vertices), faces=np.array(both.faces)).surface
    middle = np.where(surface.points_mm[:, :1] > 15, [[30.0, 0, 0]], [[0.0, 0, 0]])
    assert ((surface.points_mm - middle) * surface.normals).sum(axis=1).min() > 0
    assert "one of its bodies" in caplog.text


def test_a_cavity_looks_inwards_and_stays():
    hollow = trimesh.boolean.difference([trimesh.creation.box((20, 20, 20)), trimesh.creation.box((8, 8, 8))])
    for faces in (hollow.faces, hollow.faces[:, ::-1]):
        surface = Scan("s", vertices_mm=np.array(hollow.vertices), faces=np.array(faces)).surface
        outside = np.abs(surface.points_mm).max(axis=1) > 9
        away = (surface.points_mm * surface.normals).sum(axis=1)
        assert (away[outside] > 0).all()
        assert (away[~outside] < 0).all()
