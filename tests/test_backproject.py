"""Scores land on the surface points that a view sees, and on no others."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from rad3d.backproject import back_project, completed, view_map, visible
from rad3d.camera import Camera
from rad3d.geometry import look_at, random_rotation, translation
from rad3d.patches import Patches, Window, mm_per_pixel
from rad3d.render import renderer_for
from rad3d.scan import Scan, Surface
from rad3d.settings import FusionSettings
from rad3d.view import View

SETTINGS = FusionSettings()
GRID = (4, 6)
SIZE_HW = (80, 120)


def mesh_scan(*meshes):
    mesh = trimesh.util.concatenate(meshes)
    return Scan("s", vertices_mm=np.array(mesh.vertices), faces=np.array(mesh.faces))


def plate(x, y, height):
    return trimesh.creation.box((x, y, 1), trimesh.transformations.translation_matrix((0, 0, height - 0.5)))


def camera_above(size_hw=SIZE_HW, angle=0.2):
    return Camera.from_field_of_view(
        size_hw, angle, look_at(np.array([0.0, 0, 100]), np.zeros(3), np.array([0, 1.0, 0]))
    )


def render(scan, camera):
    return renderer_for(scan).render([camera])[0]


def whole_views(count):
    """Patches that cover `count` views of SIZE_HW, one window each."""
    window = Window(0, 0, SIZE_HW[1], SIZE_HW[0])
    empty = np.zeros((count, *GRID, 3), np.float32)
    features = torch.zeros(count, 1, *GRID, 2)
    places = (empty, empty, empty[..., :2], np.zeros((count, 3)))
    return Patches(torch.zeros(count, 1, 2), features, *places, (window,) * count, np.arange(count))


def test_a_score_lands_where_its_pixel_looks():
    """A score that rises along the image's x rises along the part's x, and by as much; y does not matter."""
    scan, camera = mesh_scan(plate(40, 30, 0.0)), camera_above()
    scores = np.broadcast_to(np.arange(6.0), (1, *GRID))
    result = back_project([render(scan, camera)], whole_views(1), [scores], scan.surface, SETTINGS)[0]
    points = scan.surface.points_mm
    pixels, _ = camera.project(points)
    x, y = pixels.T
    top = scan.surface.points_mm[:, 2] > -1e-6
    # well inside image and plate; between the outermost patch centres, the score is (x / 20 - 1/2)
    inside = top & (x > 10) & (x < 110) & (y > 2) & (y < 78) & (np.abs(points[:, :2]) < (19, 14)).all(axis=1)
    assert inside.sum() > 100
    np.testing.assert_allclose(result.score[0, inside], x[inside] / 20 - 0.5, atol=1e-4)
    assert np.polyfit(points[inside, 0], result.score[0, inside], 1)[0] > 0
    below = points[:, 2] < -0.99
    assert np.isnan(result.score[0, below]).all()
    assert (result.incidence[0, below] == 0).all()
    towards = camera.centre_mm - points[inside]
    np.testing.assert_allclose(result.incidence[0, inside], towards[:, 2] / np.linalg.norm(towards, axis=1), atol=2e-3)
    outside = (x < 0) | (x > 120) | (y < 0) | (y > 80)
    assert np.isnan(result.score[0, outside]).all()


def test_every_view_speaks_for_itself():
    scan = mesh_scan(plate(10, 10, 0.0))
    above = camera_above()
    below = Camera.from_field_of_view(SIZE_HW, 0.2, look_at(np.array([0.0, 0, -100]), np.zeros(3)))
    views = renderer_for(scan).render([above, below])
    scores = np.stack([np.full(GRID, 1.0), np.full(GRID, 2.0)])
    result = back_project(views, whole_views(2), [scores], scan.surface, SETTINGS)[0]
    inner = (np.abs(scan.surface.points_mm[:, :2]) < 4.5).all(axis=1)
    top, bottom = inner & (scan.surface.points_mm[:, 2] > -0.01), inner & (scan.surface.points_mm[:, 2] < -0.99)
    np.testing.assert_allclose(result.score[0, top], 1)
    np.testing.assert_allclose(result.score[1, bottom], 2)
    assert np.isnan(result.score[1, top]).all()
    assert np.isnan(result.score[0, bottom]).all()
    turned = back_project(views[::-1], whole_views(2), [scores[::-1]], scan.surface, SETTINGS)[0]
    np.testing.assert_array_equal(turned.score, result.score[::-1])


def test_a_point_behind_a_wall_gets_no_score():
    scan = mesh_scan(plate(30, 20, 0.0), plate(6, 20, 10.0))
    view = render(scan, camera_above())
    points = scan.surface.points_mm
    floor = (np.abs(points[:, 2]) < 1e-6) & (np.abs(points[:, 1]) < 9)
    seen, _, _ = visible(view, scan.surface, SETTINGS)
    edge = 3 * 100 / 90  # where the wall's top edge casts its shadow on the floor
    assert not seen[floor & (np.abs(points[:, 0]) < edge - 0.4)].any()
    assert seen[floor & (np.abs(points[:, 0]) > edge + 0.4) & (np.abs(points[:, 0]) < 14)].all()
    exact = renderer_for(scan).visible(points, scan.surface.normals, view.camera, SETTINGS.max_incidence)
    assert (seen == exact).mean() > 0.98


def test_surface_that_the_view_does_not_show_gets_no_score():
    """A dent of 2 mm: the nominal surface above it is not what the view saw."""
    scan = mesh_scan(plate(30, 20, 0.0))
    view = render(scan, camera_above())
    for offset, expected in ((0.3, True), (-0.3, True), (2.0, False), (-2.0, False)):
        points = np.array([[1.0, 2, offset]])
        surface = Surface(points, np.array([[0.0, 0, 1]]), np.ones(1))
        assert visible(view, surface, SETTINGS)[0].item() is expected


def test_incidence_is_limited():
    scan = mesh_scan(plate(30, 20, 0.0))
    view = render(scan, camera_above())
    for angle, expected in ((0.9, True), (1.1, True), (1.3, False), (1.5, False), (3.0, False)):
        surface = Surface(np.array([[0.0, 0, 0]]), np.array([[np.sin(angle), 0, np.cos(angle)]]), np.ones(1))
        seen, _, cosine = visible(view, surface, SETTINGS)
        assert seen.item() is expected
        assert cosine.item() == pytest.approx(np.cos(angle) if expected else 0, abs=1e-6)


def test_moving_everything_together_changes_no_score():
    scan = mesh_scan(plate(30, 20, 0.0), plate(6, 20, 10.0))
    view = render(scan, camera_above())
    scores = np.random.default_rng(0).random((1, *GRID))
    pose = translation((200, -50, 70)) @ random_rotation(np.random.default_rng(1))
    here = back_project([view], whole_views(1), [scores], scan.surface, SETTINGS)[0]
    there = back_project([view.moved(pose)], whole_views(1), [scores], scan.surface.moved(pose), SETTINGS)[0]
    assert (np.isnan(here.score) == np.isnan(there.score)).mean() > 0.999
    both = np.isfinite(here.score) & np.isfinite(there.score)
    np.testing.assert_allclose(here.score[both], there.score[both], atol=1e-4)
    np.testing.assert_allclose(here.incidence[both], there.incidence[both], atol=1e-4)


def test_an_image_without_surface_or_camera_sees_nothing():
    scan = mesh_scan(plate(10, 10, 0.0))
    bare = View("photo", "captured", np.zeros((*SIZE_HW, 3), np.uint8))
    result = back_project([bare], whole_views(1), [np.ones((1, *GRID))], scan.surface, SETTINGS)[0]
    assert np.isnan(result.score).all()
    assert (result.incidence == 0).all()


def test_a_map_of_point_scores_is_the_view_of_the_surface():
    scan, camera = mesh_scan(plate(30, 20, 0.0)), camera_above()
    view = render(scan, camera)
    points = scan.surface.points_mm
    drawn = view_map(view, cKDTree(points), points[:, 0].astype(np.float32), reach_mm=1.0)
    assert (np.isnan(drawn) == ~view.mask).all()
    assert np.abs(drawn - view.points_mm[..., 0])[view.mask].max() < 1.0
    assert np.isnan(view_map(view, cKDTree(points + np.array([0, 0, 50])), points[:, 0], reach_mm=1.0)).all()
    assert np.isnan(view_map(view, cKDTree(np.empty((0, 3))), np.empty(0), reach_mm=1.0)).all()


def test_pixels_without_depth_take_their_neighbours_score_amid_the_part_and_just_beside_it():
    view = render(mesh_scan(plate(20, 20, 0.0)), camera_above())
    shown = np.argwhere(view.mask)
    middle = shown.mean(axis=0).astype(int)
    lost = view.points_mm.copy()
    lost[middle[0] - 2 : middle[0] + 2, middle[1] - 2 : middle[1] + 2] = np.nan
    gapped = replace(view, kind="captured", points_mm=lost)
    points = view.points_mm[view.mask].astype(np.float64)
    tree, scores = cKDTree(points), np.full(len(points), 3.0, np.float32)
    assert np.isnan(view_map(gapped, tree, scores, 2.0)[tuple(middle)])
    drawn = view_map(gapped, tree, scores, 2.0, overlooked=~gapped.mask)
    assert drawn[tuple(middle)] == 3.0
    apart = distance_transform_edt(~view.mask) * mm_per_pixel(view)
    assert (drawn[(apart > 0) & (apart < 0.9)] == 3.0).all()
    assert np.isnan(drawn[apart > 1.1]).all()
    seen = ~gapped.mask & ~view.mask  # there the sensor saw the background
    assert np.isnan(view_map(gapped, tree, scores, 2.0, overlooked=~gapped.mask & ~seen)[apart > 0]).all()


def test_the_projectors_shadow_is_filled_with_what_other_views_measured_there():
    """A wall on a floor: half of the floor beside it has no depth; what the wall hides stays hidden."""
    scan = mesh_scan(plate(30, 20, 0.0).subdivide_to_size(0.3), plate(6, 20, 10.0).subdivide_to_size(0.3))
    view = replace(render(scan, camera_above()), kind="captured")
    shadow = view.mask & (view.points_mm[..., 0] > 3.5) & (view.points_mm[..., 0] < 8)
    gapped = replace(view, points_mm=np.where(shadow[..., None], np.float32(np.nan), view.points_mm))
    found = completed(gapped, scan.surface, ~gapped.mask, SETTINGS)
    filled = shadow & found.mask
    assert filled.sum() > 0.85 * shadow.sum(), "all but two pixels beside the wall"
    apart = np.linalg.norm(found.points_mm - view.points_mm, axis=-1)
    assert apart[filled].max() < 0.5, "the floor that the camera sees, not what lies behind the wall or below"
    np.testing.assert_array_equal(found.points_mm[gapped.mask], gapped.points_mm[gapped.mask])
    assert completed(gapped, scan.surface, None, SETTINGS) is gapped
    nowhere = replace(gapped, points_mm=np.full_like(view.points_mm, np.nan))
    assert not completed(nowhere, scan.surface, ~nowhere.mask, SETTINGS).mask.any(), "its pose is not known"


def test_a_view_shows_what_others_judged_on_surface_too_steep_for_itself():
    """A wall at 75 degrees without any depth: this view cannot judge it, but its map can show what others said."""
    scan = mesh_scan(plate(40, 30, 0.0))
    steep = np.deg2rad(75)
    eye = 1000 * np.array([np.sin(steep), 0, np.cos(steep)])
    camera = Camera.from_field_of_view(SIZE_HW, 0.03, look_at(eye, np.zeros(3), np.array([0, 0, 1.0])))
    view = replace(render(scan, camera), kind="captured")
    gap = view.mask.copy()
    gap[:, 60:] = False
    gapped = replace(view, points_mm=np.where(gap[..., None], np.float32(np.nan), view.points_mm))
    assert not visible(gapped, scan.surface, SETTINGS)[0][scan.surface.normals[:, 2] > 0.999].any()
    found = completed(gapped, scan.surface, ~gapped.mask, SETTINGS)
    assert found.mask[gap].mean() > 0.3, "points in one of three pixels, between which maps are filled"
