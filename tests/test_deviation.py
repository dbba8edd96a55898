"""Geometry: signed distances, how good specimens vary, and surface that should be there and is not."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from manifold3d import Manifold

from rad3d import Inspector
from rad3d.camera import Camera
from rad3d.deviation import EVEN_MM, GONE_MM, GoodDeviation, ReferenceShape, averaged, gone, roots, within_reach
from rad3d.evidence import PatchScores, Remembered, _geometry, gather
from rad3d.geometry import look_at
from rad3d.observe import Observation, isolated
from rad3d.patches import Patches, Window
from rad3d.render import renderer_for
from rad3d.scan import Scan, Surface, merged_surface
from rad3d.settings import EncoderSettings, Settings, VerdictSettings, ViewSettings
from rad3d.view import View

TAB_MM = 8.0


def mesh_scan(mesh):
    return Scan("s", None, np.asarray(mesh.vertices, float), faces=np.asarray(mesh.faces))


def sheet(tab=True):
    """Sheet metal of 1 mm: a plate with or without a tab at one end."""
    plate = trimesh.creation.box(bounds=[(-15, -10, 0), (15, 10, 1)])
    if not tab:
        return plate
    return plate.union(trimesh.creation.box(bounds=[(14, -4, 0), (15 + TAB_MM, 4, 1)]))


def seen_by(mesh, *eyes, ground=True):
    """Captured views of a part above a table, in the part frame."""
    table = trimesh.creation.box((200, 200, 1))
    table.apply_translation((0, 0, -8))
    scene = mesh_scan(trimesh.util.concatenate([mesh, table]) if ground else mesh)
    cameras = [Camera.from_field_of_view((240, 240), 0.35, look_at(np.array(eye, float), np.zeros(3))) for eye in eyes]
    return [replace(view, kind="captured", name=str(i)) for i, view in enumerate(renderer_for(scene).render(cameras))]


def on_part(view):
    """The view without the table."""
    points = view.points_mm.copy()
    points[points[..., 2] < -3] = np.nan
    return replace(view, points_mm=points)


ABOVE = (0, 40, 110)
ASIDE = (50, -30, 100)


@pytest.fixture(scope="module")
def reference():
    return mesh_scan(sheet()).surface


def on_tab(surface):
    return (surface.points_mm[:, 0] > 15 + GONE_MM) & (np.abs(surface.points_mm[:, 1]) < 4)


def test_distances_are_signed_by_side_and_measured_to_triangles_of_any_size(reference):
    shape = ReferenceShape(reference)
    points = np.array([[3.3, 2.1, 1.25], [3.3, 2.1, 0.8], [-15.5, 0, 0.5], [0, 0, -0.3]])
    np.testing.assert_allclose(shape.signed_distance(points), [0.25, -0.2, 0.5, 0.3], atol=1e-9)
    coarse = sheet()
    surface = mesh_scan(coarse).surface
    only = Surface(surface.points_mm, surface.normals, surface.areas_mm2)  # a cloud: along the nearest points' normals
    np.testing.assert_allclose(ReferenceShape(only).signed_distance(points[:1]), [0.25], atol=1e-6)


def test_the_floor_of_a_deep_hole_is_the_parts_and_the_table_beside_it_is_not():
    block = trimesh.creation.box(bounds=[(-20, -20, -8), (20, 20, 22)])
    hole = trimesh.creation.box(bounds=[(-9, -9, 9), (9, 9, 30)])
    (view,) = seen_by(block.difference(hole), (0, 1, 170))
    shape = ReferenceShape(mesh_scan(block).surface)
    floor = np.abs(view.points_mm[..., 2] - 9) < 0.1
    assert shape.tree.query(view.points_mm[floor])[0].max() > 12
    found = isolated(view, shape)
    assert found.mask[floor].all()
    beside = np.abs(view.points_mm[..., :2]).max(axis=-1) > 27
    assert beside.any()
    assert not found.mask[beside].any()
    lid = replace(shape.surface, faces=shape.surface.faces[1:])
    assert not lid.is_closed
    assert not ReferenceShape(lid).encloses(view.points_mm[floor]).any(), "an open surface has no inside"


def test_spread_is_known_where_two_specimens_have_surface():
    nan = np.nan
    good = GoodDeviation(np.array([[0.0, 0.2, nan, nan], [0.2, 0.4, 0.1, nan], [0.4, 0.6, nan, nan]]))
    usual, spread = good.usual_spread()
    np.testing.assert_allclose(usual, [0.2, 0.4, 0.1, 0.0])
    np.testing.assert_allclose(spread, [np.std([0, 0.2, 0.4])] * 4)
    np.testing.assert_allclose(good.usual_spread(without=2)[0][:2], [0.1, 0.3])
    assert good.known().tolist() == [True, True, True, False]
    assert good.known(without=1).tolist() == [True, True, False, False]


def test_a_tab_missing_from_a_closed_mesh_is_missing(reference):
    missing = gone(reference, mesh_scan(sheet(tab=False)).surface, ())
    assert np.isfinite(missing[on_tab(reference)]).all()
    assert np.nanmax(missing) == pytest.approx(TAB_MM, abs=0.1)
    assert np.isnan(missing[reference.points_mm[:, 0] < 15]).all()
    assert np.isnan(gone(reference, mesh_scan(sheet()).surface, ())).all()


def test_triangles_out_of_reach_do_not_change_a_distance(reference):
    points = reference.points_mm[on_tab(reference)] + [0.0, 0.0, 1.5]
    few = within_reach(reference, points, 1.5)
    assert 0 < len(few.faces) < 0.7 * len(reference.faces)
    expected = ReferenceShape(reference).signed_distance(points)
    np.testing.assert_array_equal(ReferenceShape(few).signed_distance(points), expected)


def test_what_lies_straight_above_a_closed_body_is_missing_from_it_at_any_height():
    body = mesh_scan(trimesh.creation.box(bounds=[(0, 0, 0), (1, 1, 0.37)])).surface
    corners = np.array([[0, 0, 0.37], [1, 0, 0.37], [1, 1, 0.37]])
    for height in np.random.default_rng(0).uniform(1.5, 40, 200):  # rounding is not to lose the only triangles in reach
        lid = Scan("lid", None, corners + np.array([0, 0, height]), faces=np.array([[0, 1, 2]])).surface
        np.testing.assert_allclose(gone(lid, body, ()), height)


def test_the_wall_of_a_hole_that_was_filled_is_buried_not_missing():
    holed = mesh_scan(sheet().difference(trimesh.creation.cylinder(5.0, 10.0))).surface
    assert np.isnan(gone(holed, mesh_scan(sheet()).surface, ())).all()
    wall = np.linalg.norm(holed.points_mm[:, :2], axis=1) < 5.01
    assert wall.sum() > 50
    filled = mesh_scan(sheet()).surface
    on_plug = np.linalg.norm(filled.points_mm[:, :2], axis=1) < 3
    assert ReferenceShape(holed).signed_distance(filled.points_mm[on_plug]).min() > 1


def test_surface_that_was_only_never_scanned_is_not_missing(reference):
    whole = mesh_scan(sheet())
    kept = whole.vertices_mm[whole.faces].mean(axis=1)[:, 0] < 12
    open_mesh = Scan("half", None, whole.vertices_mm, faces=whole.faces[kept])
    cloud = Surface(*(a[reference.points_mm[:, 0] < 12] for a in (reference.points_mm, reference.normals)), None)
    for surface in (open_mesh.surface, cloud):
        assert np.isnan(gone(reference, surface, ())).all()


def test_a_camera_tells_what_it_looks_through_from_what_it_does_not_see(reference):
    views = seen_by(sheet(tab=False), ABOVE, ASIDE)
    surface = merged_surface([on_part(view) for view in views])
    missing = gone(reference, surface, views)
    x, y, _ = reference.points_mm.T
    inner = on_tab(reference) & (reference.normals[:, 2] > 0.9) & (x < 14 + TAB_MM) & (np.abs(y) < 3)
    assert np.isfinite(missing[inner]).all()
    assert np.isnan(missing[~on_tab(reference) & (x < 15)]).all()
    # the underside of the plate was seen by nobody, and nobody looked through it
    assert np.isnan(missing[(reference.normals[:, 2] < -0.9) & (x < 15)]).all()


def test_nothing_is_missing_from_a_good_specimen_though_its_pose_is_a_little_off(reference):
    off = sheet()
    off.apply_transform(trimesh.transformations.rotation_matrix(np.deg2rad(0.3), (0.3, 1, 0.2)))
    off.apply_translation((0.1, -0.1, 0.1))
    views = seen_by(off, ABOVE, ASIDE, (-60, 20, 90))
    surface = merged_surface([on_part(view) for view in views])
    assert np.isnan(gone(reference, surface, views)).all()


def test_an_empty_background_tells_nothing(reference):
    """Of a pixel without a depth nothing is known: a sensor may have failed there."""
    views = seen_by(sheet(tab=False), ABOVE, ASIDE, ground=False)
    assert np.isnan(gone(reference, merged_surface(views), views)).all()


def pins(count):
    """A block with so many pins in a row, closer to each other than they are long."""
    block = Manifold.cube((12.0, 4, 2))
    for k in range(count):
        block += Manifold.cube((0.6, 0.6, 5)).translate((2 + 2 * k, 1.7, 1.5))
    made = block.to_mesh()
    return mesh_scan(trimesh.Trimesh(made.vert_properties[:, :3], made.tri_verts)).surface


def test_a_missing_pin_is_told_where_it_stood_not_at_the_next_one():
    whole, one_less = pins(4), pins(3)
    gone_mm = gone(whole, one_less, ())
    lost = np.isfinite(gone_mm)
    assert np.linalg.norm(whole.points_mm[lost].mean(axis=0)[:2] - (8.3, 2)) < 0.2
    nearest = one_less.points_mm[one_less.tree.query(whole.points_mm[lost])[1]]
    assert (np.linalg.norm(nearest[:, :2] - (8.3, 2), axis=1) > 1.2).any()  # the next pin's wall
    told = one_less.points_mm[roots(whole, lost, one_less)]
    assert np.linalg.norm(told[:, :2] - (8.3, 2), axis=1).max() < 1.0
    # of a part that is gone as a whole there is no root
    both = np.ones(len(whole.points_mm), bool)
    np.testing.assert_array_equal(roots(whole, both, one_less), one_less.tree.query(whole.points_mm)[1])
    assert not len(roots(whole, ~both, one_less))


def measured(surface, distance_mm, gone_mm, **more):
    """What `gather` asks of an observation's shape."""
    even = averaged(surface, distance_mm)
    return SimpleNamespace(surface=surface, distance_mm=distance_mm, even_mm=even, gone_mm=gone_mm, **more)


def test_what_is_missing_is_told_at_the_surface_that_is_left(reference):
    shape = ReferenceShape(reference)
    specimen = mesh_scan(sheet(tab=False)).surface
    good = GoodDeviation(np.zeros((2, len(reference.points_mm))))
    observation = measured(specimen, shape.signed_distance(specimen.points_mm), gone(reference, specimen, ()))

    def geometry(deviation, verdict=VerdictSettings()):  # noqa: B008
        return _geometry(observation, Remembered(None, None, 0.0, shape, deviation, 0.05), verdict, None)

    deviation, score, judged, gone_mm2 = geometry(good)
    x = specimen.points_mm[:, 0]
    assert judged.all()
    assert x[deviation < -GONE_MM].min() > 14.9
    at_root = x > 14.9
    assert deviation.min() == pytest.approx(-TAB_MM, abs=0.1)
    assert score.max() > 0.2 * TAB_MM / 0.05
    assert score[x < 15 - 2 * EVEN_MM].max() < 1
    lost = np.isfinite(observation.gone_mm)
    assert gone_mm2[x > 14.9].sum() == pytest.approx(reference.areas_mm2[lost].sum())
    # good specimens without it: the drawing has a tab that nobody makes
    usual = GoodDeviation(np.where(np.isnan(observation.gone_mm), 0, -observation.gone_mm)[None].repeat(2, axis=0))
    assert geometry(usual)[1].max() < geometry(good)[1].max() / 10
    assert not geometry(usual)[3].any()
    unknown = GoodDeviation(np.where(np.isfinite(observation.gone_mm), np.nan, 0)[None].repeat(2, axis=0))
    assert np.abs(geometry(unknown)[0]).max() < 2
    # nobody asks for the tab itself; of its root alone it would still be told that the rest is gone
    whole = VerdictSettings(unjudged_boxes_mm=((14.0, -50, -50, 50, 50, 50),))
    assert (geometry(good, whole)[2] == (x < 14)).all()
    root = VerdictSettings(unjudged_boxes_mm=((14.0, -50, -50, 15.5, 50, 50),))
    assert geometry(good, root)[2][at_root].any()


def test_noise_where_no_view_looks_is_not_anomalous_and_a_dent_there_is():
    """Of a thousand noisy points some are always out; they must not be told without those beside them."""
    x, y = np.meshgrid(np.arange(-15, 15, 0.25), np.arange(-10, 10, 0.25))
    points = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
    wall = Surface(points, np.tile([0.0, 0, 1], (len(points), 1)), np.full(len(points), 0.0625))
    noise = np.random.default_rng(0).normal(0, 0.05, len(points))
    dent = np.linalg.norm(points - [5, 3, 0], axis=1) < 2
    remembered = Remembered(None, None, 0.0, ReferenceShape(wall), GoodDeviation(np.zeros((2, len(points)))), 0.05)
    blind = View("nowhere", "captured", np.zeros((1, 1, 3), np.uint8), None, None, None)
    empty = np.zeros((1, 1, 1, 3), np.float32)
    window, features = Window(0, 0, 1, 1), torch.zeros(1, 1, 1, 1, 2)
    patches = Patches(
        features[:, :, 0, 0], features, empty, empty, empty[..., :2], empty[0, 0], (window,), np.arange(1)
    )
    nothing = PatchScores(*np.zeros((3, 1, 1, 1), np.float32))

    def scores(distance_mm):
        observation = measured(wall, distance_mm, np.full(len(points), np.nan), views=(blind,), patches=patches)
        return gather(observation, nothing, remembered, Settings()).score

    assert (np.abs(noise) > 3 * 0.05).sum() > 10
    assert np.isnan(scores(noise)).all()
    dented = scores(noise - 0.3 * dent)
    assert (dented[dent] > 3).mean() > 0.9
    assert np.isnan(dented[np.linalg.norm(points - [5, 3, 0], axis=1) > 3]).all()


def test_the_scatter_of_points_is_told_from_shape():
    """Noise of single points averages out and says what may not be believed; a dent and a wall's other side stay."""
    x, y = (v.ravel() for v in np.meshgrid(np.arange(-15, 15, 0.25), np.arange(-10, 10, 0.25)))
    front = np.stack([x, y, np.zeros(x.size)], axis=1)
    both = np.concatenate([front, front - [0, 0, 0.3]])
    normals = np.repeat([[0.0, 0, 1], [0, 0, -1]], len(front), axis=0)
    wall = Surface(both, normals, np.full(len(both), 0.0625))
    is_front = normals[:, 2] > 0
    noise = np.random.default_rng(0).normal(0, 0.05, len(both))
    dent = is_front & (np.hypot(both[:, 0], both[:, 1]) < 3)
    seen = Observation(None, (), wall, (), None, noise - 0.2 * dent, np.full(len(both), np.nan))
    assert seen.scatter_mm == pytest.approx(0.05, rel=0.05)
    inner = np.hypot(both[:, 0], both[:, 1]) < 3 - EVEN_MM
    assert seen.even_mm[is_front & inner].mean() == pytest.approx(-0.2, abs=0.01)
    assert np.abs(seen.even_mm[~is_front]).max() < 0.06, "nothing of the dent on the other side, 0.3 mm away"
    # some 24 points lie within 0.7 mm
    assert seen.even_mm[~is_front].std() < 0.05 / np.sqrt(15)


def test_a_part_that_lost_what_tells_its_poses_apart_fails():
    """Without its tab the sheet fits the part either way round: in both it lacks a tab."""
    rng = np.random.default_rng(0)

    def made(name, tab=True):
        mesh = sheet(tab).subdivide_to_size(1.5)
        vertices = mesh.vertices * (1 + rng.normal(scale=1e-3)) + rng.normal(scale=0.01, size=mesh.vertices.shape)
        return Scan(name, None, np.asarray(vertices), faces=np.asarray(mesh.faces))

    small = Settings(encoder=EncoderSettings(input_hw=(224, 224)), views=ViewSettings(count=6))
    inspector = Inspector.fit([made("a"), made("b"), made("c")], small)
    assert inspector.inspect(made("good")).verdict == "pass"
    found = inspector.inspect(made("broken", tab=False))
    assert found.verdict == "fail"
    assert "2 different poses fit equally well" in found.reason
    worst = found.defects[0]
    assert worst.kind == "missing material"
    assert worst.deviation_mm == pytest.approx(-TAB_MM, abs=0.3)
    assert abs(abs(worst.centroid_part_mm[0]) - 15) < 2
