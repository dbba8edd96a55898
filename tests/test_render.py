"""Renderers show what geometry says: depth, sides, occlusion, colours, and the same wherever the part lies."""

import sys
import types

import numpy as np
import pytest
import trimesh
from scipy.ndimage import binary_erosion

from rad3d.camera import Camera
from rad3d.errors import ScanError
from rad3d.geometry import look_at, random_rotation, transform_directions, transform_points, translation, unit
from rad3d.render import renderer_for
from rad3d.render.raycast import RayCaster
from rad3d.render.shading import crease_normals
from rad3d.render.splat import Splatter
from rad3d.scan import Scan, Texture
from rad3d.view import BACKGROUND, View

ABOVE = np.array([0.0, 0.0, 100.0])
DEGREE = np.pi / 180
INCIDENCE = 60 * DEGREE


def mesh_scan(mesh, **more):
    return Scan("s", vertices_mm=np.array(mesh.vertices), faces=np.array(mesh.faces), **more)


def soup(mesh):
    """Three vertices per facet, as STL has them."""
    return Scan(
        "s",
        vertices_mm=np.array(mesh.vertices)[mesh.faces].reshape(-1, 3),
        faces=np.arange(mesh.faces.size).reshape(-1, 3),
    )


def camera_at(eye, size_hw=(60, 90), angle=0.3, target=(0, 0, 0)):
    return Camera.from_field_of_view(size_hw, angle, look_at(np.array(eye, float), np.array(target, float)))


def sphere(radius=10.0, subdivisions=4):
    return trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)


def bracket():
    """A body without symmetry, with a shadowing wall and a hole."""
    wall = trimesh.creation.box((2, 12, 10), trimesh.transformations.translation_matrix((-6, 0, 5)))
    plate = trimesh.creation.box((16, 12, 2), trimesh.transformations.translation_matrix((0, 0, -1)))
    bore = trimesh.creation.cylinder(
        2.5, 8, sections=48, transform=trimesh.transformations.translation_matrix((4, 2, 0))
    )
    return trimesh.boolean.difference([trimesh.boolean.union([wall, plate]), bore])


def cloud_of(mesh, count, seed=0, normals=True):
    points, face = trimesh.sample.sample_surface(mesh, count, seed=seed)
    truth = np.asarray(mesh.face_normals)[face]
    return Scan("s", vertices_mm=np.asarray(points), normals=truth if normals else None), truth


def render(scan, camera):
    (view,) = renderer_for(scan).render([camera])
    return view


def depth_of(view):
    return view.camera.project(view.points_mm.reshape(-1, 3).astype(float))[1].reshape(view.size_hw)


def sphere_depth(camera, radius):
    """Depth along z at which the ray of each pixel enters a sphere at the origin; NaN beside it."""
    rays, centre = camera.ray_directions(), camera.centre_mm
    a, b = (rays**2).sum(-1), rays @ centre
    with np.errstate(invalid="ignore"):
        return (-b - np.sqrt(b**2 - a * (centre @ centre - radius**2))) / a


# ---- rays -----------------------------------------------------------------------------------------------------------


def test_rays_meet_a_plane_where_algebra_says():
    rng = np.random.default_rng(0)
    normal = unit(np.array([0.3, -0.5, 1.0]))
    across = unit(np.cross(normal, [1, 0, 0]))
    basis = np.stack([across, np.cross(normal, across)])
    quad = 7 * normal + 1000 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) @ basis
    caster = RayCaster(quad, np.array([[0, 1, 2], [0, 2, 3]]))
    origins = rng.uniform(-5, 5, (500, 3)) + np.array([0, 0, 60])
    directions = unit(rng.normal(size=(500, 3))) * 0.5 - np.array([0, 0, 1.0])
    face, distance, barycentric = caster.cast(origins, directions)
    truth = (7 - origins @ normal) / (unit(directions) @ normal)
    assert (face >= 0).all()
    np.testing.assert_allclose(distance, truth, rtol=1e-9)
    hit = np.einsum("nc,nci->ni", barycentric, caster.mesh.vertices_mm[caster.mesh.faces[face]])
    np.testing.assert_allclose(hit, origins + truth[:, None] * unit(directions), atol=0.01)


def test_rays_that_miss_say_so():
    caster = RayCaster(np.array(sphere().vertices), np.array(sphere().faces))
    face, distance, _ = caster.cast(np.array([[0.0, 0, 50], [0, 0, 50]]), np.array([[0.0, 0, 1], [1, 0, 0]]))
    assert (face == -1).all()
    assert np.isinf(distance).all()
    assert len(caster.cast(np.empty((0, 3)), np.empty((0, 3)))[0]) == 0


def test_occlusion_ends_at_the_distance_asked_for():
    caster = RayCaster(np.array(sphere().vertices), np.array(sphere().faces))
    origins = np.array([[0.0, 0, 50]] * 3)
    rays = np.array([[0.0, 0, -2]] * 3)
    assert caster.occluded(origins, rays, np.array([39.0, 41.0, np.inf])).tolist() == [False, True, True]


def test_more_rays_than_one_chunk_come_back_in_order():
    caster = RayCaster(np.array(sphere().vertices), np.array(sphere().faces))
    count = 150_000
    x = np.linspace(-15, 15, count)
    origins = np.stack([x, np.zeros(count), np.full(count, 50.0)], axis=1)
    face, distance, _ = caster.cast(origins, np.broadcast_to([0.0, 0, -1], (count, 3)))
    assert ((face >= 0) == (np.abs(x) < 10)).mean() > 0.999
    inside = np.abs(x) < 9.5
    np.testing.assert_allclose(50 - distance[inside], np.sqrt(100 - x[inside] ** 2), atol=0.06)


def test_degenerate_triangles_are_never_hit_and_colours_stay_with_their_vertices():
    quad = np.array([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    colours = np.array([[255, 0, 0]] * 4, np.uint8)
    caster = RayCaster(quad, np.array([[0, 0, 1], [0, 1, 2], [2, 2, 2], [0, 2, 3]]), colours)
    view = caster.render([camera_at((0, 0, 20), angle=0.05)])[0]
    assert view.mask.all()
    assert (view.image[..., 1:] == 0).all()
    assert (view.image[..., 0] > 100).all()


# ---- views of meshes ------------------------------------------------------------------------------------------------


def test_a_sphere_has_the_depth_and_normals_of_a_sphere():
    camera = camera_at((30, -50, 40))
    view = render(mesh_scan(sphere()), camera)
    truth = sphere_depth(camera, 10.0)
    both = view.mask & np.isfinite(truth)
    assert both.sum() > 0.97 * np.isfinite(truth).sum()
    assert view.mask.sum() <= np.isfinite(truth).sum()  # the facets lie inside the sphere
    facing = np.linalg.norm(view.points_mm[both], axis=1)
    assert facing.min() > 9.95  # sagitta of the facets: 0.02
    ray = unit(camera.ray_directions())[both]
    outwards = unit(view.points_mm[both])
    head_on = -(ray * outwards).sum(axis=1) > 0.5
    np.testing.assert_allclose(depth_of(view)[both][head_on], truth[both][head_on], atol=0.06)
    cosine = (view.normals[both] * outwards).sum(axis=1)
    assert cosine[head_on].min() > np.cos(0.5 * DEGREE)
    np.testing.assert_allclose(np.linalg.norm(view.normals[both], axis=1), 1, atol=1e-5)
    assert ((view.normals[both] * ray).sum(axis=1) <= 1e-4).all()


@pytest.mark.parametrize("size_hw", [(40, 90), (90, 40)])
@pytest.mark.parametrize("kind", ["mesh", "cloud"])
def test_every_pixel_holds_the_point_its_ray_meets(size_hw, kind):
    """Fails for swapped height and width, for x and y swapped, and for pixel centres that are off by a half."""
    camera = camera_at((30, -50, 40), size_hw, angle=0.4, target=(1, 2, 3))
    scan = mesh_scan(bracket()) if kind == "mesh" else cloud_of(bracket(), 30_000)[0]
    view = render(scan, camera)
    assert view.image.shape == (*size_hw, 3)
    assert view.mask.any()
    pixels, _ = camera.project(view.points_mm[view.mask].astype(float))
    rows, columns = np.nonzero(view.mask)
    np.testing.assert_allclose(pixels, np.stack([columns, rows], axis=1) + 0.5, atol=1e-3)


def test_up_is_up_and_right_is_right():
    ball = sphere(2.0, 3)
    high = ball.copy().apply_translation((0, 0, 8))
    right = ball.copy().apply_translation((8, 0, 0))
    camera = camera_at((0, -100, 0), (60, 90))
    for mesh, up, sideways in ((high, 1, 0), (right, 0, 1)):
        rows, columns = np.nonzero(render(mesh_scan(mesh), camera).mask)
        expected_row = 30 - up * 8 * camera.intrinsics[1, 1] / 100
        expected_column = 45 + sideways * 8 * camera.intrinsics[0, 0] / 100
        assert rows.mean() + 0.5 == pytest.approx(expected_row, abs=0.2)
        assert columns.mean() + 0.5 == pytest.approx(expected_column, abs=0.2)


@pytest.mark.parametrize("kind", ["mesh", "cloud"])
def test_moving_part_and_camera_together_changes_nothing(kind):
    rng = np.random.default_rng(5)
    pose = translation((120, -80, 300)) @ random_rotation(rng)
    camera = camera_at((30, -50, 40))
    scan = mesh_scan(bracket()) if kind == "mesh" else cloud_of(bracket(), 20_000)[0]
    here, there = render(scan, camera), render(scan.moved(pose), camera.moved(pose))
    same = here.mask & there.mask
    assert (here.mask == there.mask).mean() > 0.999
    change = np.abs(here.image.astype(int) - there.image).max(axis=-1)
    assert (change <= 2).mean() > 0.997  # a ray that meets an edge may choose either side
    np.testing.assert_allclose(
        np.quantile(
            np.linalg.norm(transform_points(pose, here.points_mm[same]) - there.points_mm[same], axis=1), 0.995
        ),
        0,
        atol=2e-3,
    )
    turned = transform_directions(pose, here.normals[same])
    assert np.mean((turned * there.normals[same]).sum(axis=1) > 0.9999) > 0.995


def test_nearer_surface_hides_what_is_behind():
    back = trimesh.creation.box((30, 30, 1), trimesh.transformations.translation_matrix((0, 0, -10)))
    front = trimesh.creation.box((10, 30, 1), trimesh.transformations.translation_matrix((0, 0, 0)))
    scan = mesh_scan(trimesh.util.concatenate([back, front]))
    view = render(scan, camera_at((0, 0, 100), (60, 60), 0.15))
    heights = view.points_mm[..., 2]
    # seen from z with y up in the image, x runs along columns; the front plate is the middle third
    assert np.unique(np.round(heights[:, 25:35], 2)).tolist() == [0.5]
    assert np.unique(np.round(heights[:, :8], 2)).tolist() == [-9.5]


def test_facets_of_a_soup_render_smooth_and_edges_stay_sharp():
    smooth = render(soup(sphere(subdivisions=3)), camera_at((30, -50, 40)))
    cosine = (smooth.normals[smooth.mask] * unit(smooth.points_mm[smooth.mask])).sum(axis=1)
    assert np.quantile(cosine, 0.05) > np.cos(1.5 * DEGREE)  # the facets themselves are up to 5 degrees off
    box = render(soup(trimesh.creation.box((12, 9, 7))), camera_at((30, -50, 40)))
    assert np.abs(box.normals[box.mask]).max(axis=1).min() > 0.9999


def test_crease_normals_average_round_a_vertex_up_to_the_crease():
    cylinder = trimesh.creation.cylinder(5.0, 8.0, sections=48)
    normals = crease_normals(np.array(cylinder.vertices), np.array(cylinder.faces))
    corner = np.array(cylinder.vertices)[cylinder.faces]
    side = np.abs(cylinder.face_normals[:, 2]) < 0.5
    radial = corner[side] * (1, 1, 0)
    assert (normals[side] * unit(radial)).sum(axis=-1).min() > np.cos(2.6 * DEGREE)
    np.testing.assert_allclose(np.abs(normals[~side]), np.broadcast_to([0, 0, 1], normals[~side].shape), atol=1e-6)


def test_a_hole_shows_what_lies_behind_and_the_background_is_empty():
    view = render(mesh_scan(bracket()), camera_at((4, 2, 100), (60, 60), 0.15, target=(4, 2, 0)))
    assert not view.mask[30, 30]
    assert (view.image[30, 30] == BACKGROUND).all()
    assert np.isnan(view.normals[30, 30]).all()
    assert np.isfinite(view.normals[view.mask]).all()
    assert view.points_mm.dtype == view.normals.dtype == np.float32


# ---- colours --------------------------------------------------------------------------------------------------------


def coloured_quad(**more):
    corners = np.array([[-5.0, -5, 0], [5, -5, 0], [5, 5, 0], [-5, 5, 0]])
    return Scan("s", vertices_mm=corners, faces=np.array([[0, 1, 2], [0, 2, 3]]), **more)


UPRIGHT = Camera.from_field_of_view((60, 60), 0.1, look_at(ABOVE, np.zeros(3), np.array([0.0, 1.0, 0.0])))


def test_a_textured_quad_is_the_right_way_up():
    image = np.zeros((40, 80, 3), np.uint8)
    image[:20, :40] = 255, 0, 0  # top left red, top right green, bottom left blue, bottom right white
    image[:20, 40:] = 0, 255, 0
    image[20:, :40] = 0, 0, 255
    image[20:, 40:] = 255
    uv = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])  # v points up, as in OBJ
    texture = Texture((image,), uv[np.array([[0, 1, 2], [0, 2, 3]])], np.zeros(2, int))
    view = render(coloured_quad(texture=texture), UPRIGHT)
    assert view.points_mm[5, 5, 0] < 0 < view.points_mm[5, 5, 1]
    for row, column, lit in ((12, 12, (1, 0, 0)), (12, 48, (0, 1, 0)), (48, 12, (0, 0, 1)), (48, 48, (1, 1, 1))):
        assert ((view.image[row, column] > 60) == np.array(lit, bool)).all()


def test_faces_without_a_texture_image_keep_their_vertex_colours():
    image = np.full((4, 4, 3), (0, 0, 255), np.uint8)
    uv = np.full((2, 3, 2), 0.5)
    colours = np.full((4, 3), (255, 0, 0), np.uint8)
    scan = coloured_quad(texture=Texture((image,), uv, np.array([0, -1])), colours=colours)
    view = render(scan, UPRIGHT)
    below, above = view.image[50, 40], view.image[10, 20]  # the two triangles
    assert below[2] > 60
    assert below[0] == 0
    assert above[0] > 60
    assert above[2] == 0


def test_vertex_colours_run_evenly_between_vertices():
    colours = np.array([[0, 0, 0], [250, 0, 0], [250, 250, 0], [0, 250, 0]], np.uint8)
    view = render(coloured_quad(colours=colours), UPRIGHT)
    red = view.image[view.mask][:, 0].astype(float)
    x = view.points_mm[view.mask][:, 0]
    fit = np.polyfit(x, red, 1)
    assert np.abs(np.polyval(fit, x) - red).max() < 1.5
    assert fit[0] > 10
    assert np.polyval(fit, -5.0) == pytest.approx(0, abs=1.5)


def test_the_light_is_fixed_to_the_camera():
    """A sphere looks the same from everywhere, and brighter towards the lamp at the upper left."""
    seen = [
        render(mesh_scan(sphere()), camera_at(70 * unit(np.array(eye)))) for eye in ((60.0, 10, 5), (-20.0, -50, 30))
    ]
    inside = binary_erosion(seen[0].mask, iterations=4)
    assert np.abs(seen[0].image.astype(int) - seen[1].image)[inside].max() <= 4
    grey = seen[0].image.mean(axis=-1)
    assert grey[20:28, 33:41].mean() > grey[34:42, 50:58].mean() + 10


def test_outlines_are_antialiased():
    camera = camera_at((30, -50, 40), (40, 60))
    finer_camera = camera_at((30, -50, 40), (320, 480))
    coarse = render(mesh_scan(bracket()), camera).image.astype(float)
    fine = render(mesh_scan(bracket()), finer_camera).image.astype(float)
    averaged = fine.reshape(40, 8, 60, 8, 3).mean(axis=(1, 3))
    point_sampled = fine[4::8, 4::8]
    assert np.abs(coarse - averaged).mean() < 0.5 * np.abs(point_sampled - averaged).mean()


# ---- visibility -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mesh", "cloud"])
def test_a_sphere_is_seen_up_to_the_incidence_asked_for(kind):
    scan = mesh_scan(sphere()) if kind == "mesh" else cloud_of(sphere(), 20_000)[0]
    points = 10 * unit(np.random.default_rng(0).normal(size=(5000, 3)))
    camera = camera_at((30, -50, 40))
    cosine = (unit(camera.centre_mm - points) * unit(points)).sum(axis=1)
    seen = renderer_for(scan).visible(points, unit(points), camera, INCIDENCE)
    assert (seen == (cosine >= 0.5)).mean() > 0.999
    grazing = renderer_for(scan).visible(points, unit(points), camera, 85 * DEGREE)
    assert (grazing == (cosine >= np.cos(85 * DEGREE))).mean() > 0.99


@pytest.mark.parametrize("kind", ["mesh", "cloud"])
def test_a_point_behind_a_wall_is_not_seen(kind):
    back = trimesh.creation.box((30, 30, 1), trimesh.transformations.translation_matrix((0, 0, -10)))
    front = trimesh.creation.box((10, 30, 1))
    both = trimesh.util.concatenate([back, front])
    scan = mesh_scan(both) if kind == "mesh" else cloud_of(both, 40_000)[0]
    x = np.linspace(-14, 14, 57)
    points = np.stack([x, np.zeros(57), np.full(57, -9.5)], axis=1)
    camera = camera_at((0, 0, 100), (120, 120), 0.4)
    seen = renderer_for(scan).visible(points, np.broadcast_to([0.0, 0, 1], (57, 3)), camera, INCIDENCE)
    # the camera at 100 casts the wall's top edges (x = 5, z = 0.5) to x = 5 * 109.5 / 99.5
    edge = 5 * 109.5 / 99.5
    margin = 0.01 if kind == "mesh" else 0.6
    assert seen[np.abs(x) > edge + margin].all()
    assert not seen[np.abs(x) < edge - margin].any()


def test_points_outside_the_image_or_behind_the_camera_are_not_seen():
    scan = mesh_scan(trimesh.creation.box((100, 100, 1)))
    camera = camera_at((0, 0, 100), (40, 80), 0.2)
    points = np.array([[0.0, 0, 0.5], [19, 0, 0.5], [21, 0, 0.5], [0, 9, 0.5], [0, 11, 0.5], [0, 0, 200]])
    up = Camera.from_field_of_view((40, 80), 0.2, look_at(ABOVE, np.zeros(3), np.array([0.0, 1, 0])))
    normals = np.array([[0.0, 0, 1]] * 5 + [[0, 0, -1.0]])
    assert renderer_for(scan).visible(points, normals, up, INCIDENCE).tolist() == [
        True,
        True,
        False,
        True,
        False,
        False,
    ]
    assert camera.size_hw == (40, 80)


def test_visibility_agrees_with_the_rendered_points():
    """What the view shows is visible, and what `visible` says is seen lies on the view's own surface."""
    scan, camera = mesh_scan(bracket()), camera_at((30, -50, 40), (240, 360))
    renderer = renderer_for(scan)
    (view,) = renderer.render([camera])
    shown = view.mask & (-(view.normals * unit(camera.ray_directions())).sum(-1) > 0.2)
    points, normals = view.points_mm[shown].astype(float), view.normals[shown].astype(float)
    assert renderer.visible(points, normals, camera, 80 * DEGREE).mean() > 0.995
    surface = scan.surface
    seen = renderer.visible(surface.points_mm, surface.normals, camera, 80 * DEGREE)
    pixels, depth = camera.project(surface.points_mm[seen])
    column, row = np.floor(pixels).astype(int).T
    own = depth_of(view)[row, column]
    near = np.abs(own - depth[:]) < 1.0
    assert near.mean() > 0.97


# ---- clouds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normals", [True, False], ids=["own normals", "estimated normals"])
def test_a_cloud_looks_like_the_mesh_it_was_sampled_from(normals):
    camera = camera_at((30, -50, 40), (224, 224), 0.4)
    mesh = bracket()
    cloud, _ = cloud_of(mesh, 40_000, normals=normals)
    splats, truth = render(cloud, camera), render(mesh_scan(mesh), camera)
    both = splats.mask & truth.mask
    assert both.sum() / (splats.mask | truth.mask).sum() > 0.96
    depth = np.abs(depth_of(splats) - depth_of(truth))[both]
    assert np.median(depth) < 0.02
    assert np.quantile(depth, 0.98) < 0.5
    angle = (splats.normals * truth.normals).sum(axis=-1)[both]
    assert (angle > np.cos(15 * DEGREE)).mean() > 0.9
    shade = np.abs(splats.image.astype(int) - truth.image).mean(axis=-1)[both]
    assert (shade > 25).mean() < 0.08
    # no pinholes through which the far side shows
    assert splats.mask[binary_erosion(truth.mask, iterations=4)].all()


def test_a_sparse_cloud_hides_its_far_side():
    camera = camera_at((0, 0, 100), (224, 224), 0.25)
    cloud, _ = cloud_of(sphere(), 3000)
    view = render(cloud, camera)
    outline = np.hypot(*np.indices((224, 224)) - 111.5) < 100  # its outline lies at 90
    heights = view.points_mm[outline & view.mask][:, 2]
    assert (heights < -1.0).mean() < 0.001  # points drawn at random leave a gap now and then
    assert view.mask[np.hypot(*np.indices((224, 224)) - 111.5) < 80].mean() > 0.999


def test_a_cloud_keeps_its_colours():
    cloud, _ = cloud_of(trimesh.creation.box((10, 10, 1)), 20_000)
    colours = np.where(cloud.vertices_mm[:, :1] < 0, np.uint8([[200, 0, 0]]), np.uint8([[0, 0, 200]]))
    cloud = Scan("s", vertices_mm=cloud.vertices_mm, normals=cloud.normals, colours=colours)
    view = render(cloud, UPRIGHT)
    assert view.image[30, 12, 0] > 60
    assert view.image[30, 12, 2] == 0
    assert view.image[30, 48, 2] > 60


def test_a_camera_that_sees_nothing_gives_an_empty_view():
    away = Camera.from_field_of_view((20, 30), 0.3, look_at(ABOVE, 2 * ABOVE))
    for scan in (mesh_scan(sphere()), cloud_of(sphere(), 500)[0]):
        view = render(scan, away)
        assert not view.mask.any()
        assert (view.image == BACKGROUND).all()
        points = scan.surface.points_mm
        assert not renderer_for(scan).visible(points, unit(points), away, INCIDENCE).any()


# ---- which renderer -------------------------------------------------------------------------------------------------


def test_renderer_for_each_kind():
    assert isinstance(renderer_for(mesh_scan(sphere())), RayCaster)
    assert isinstance(renderer_for(cloud_of(sphere(), 100)[0]), Splatter)
    with pytest.raises(ScanError, match="captured"):
        renderer_for(Scan("s", views=(View("v", "captured", np.zeros((2, 2, 3), np.uint8)),)))


def orthographic_stand_in(
    meshes, image_size, blur_radius, faces_per_pixel, perspective_correct, cull_to_frustum, z_clip_value
):
    """What PyTorch3D's rasteriser is documented to give, by rays along z in its normalised coordinates."""
    import torch

    assert (blur_radius, faces_per_pixel, perspective_correct) == (0.0, 1, True)
    vertices, faces = (tensors[0].numpy() for tensors in meshes)
    height, width = image_size
    rows, columns = np.indices(image_size)
    shorter = min(image_size)
    x, y = (width - 2 * columns - 1) / shorter, (height - 2 * rows - 1) / shorter  # x left, y up
    origins = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
    face, _, flat = RayCaster(vertices.astype(float), faces).cast(origins, np.broadcast_to([0.0, 0, 1], origins.shape))
    weights = flat / vertices[faces[face], 2]
    weights /= weights.sum(axis=1, keepdims=True)
    return (
        torch.tensor(face.reshape(1, height, width, 1)),
        None,
        torch.tensor(weights.reshape(1, height, width, 1, 3)),
        None,
    )


@pytest.mark.parametrize("size_hw", [(40, 60), (60, 40)])
def test_the_rasteriser_shows_what_the_ray_caster_shows(monkeypatch, size_hw):
    """PyTorch3D itself is compared in tests/bench/rasterize_agreement.py, in its own environment."""
    rasterizer = types.ModuleType("pytorch3d.renderer.mesh.rasterize_meshes")
    rasterizer.rasterize_meshes = orthographic_stand_in
    structures = types.ModuleType("pytorch3d.structures")
    structures.Meshes = lambda vertices, faces: (vertices, faces)
    for name in ("pytorch3d", "pytorch3d.renderer", "pytorch3d.renderer.mesh"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, rasterizer.__name__, rasterizer)
    monkeypatch.setitem(sys.modules, structures.__name__, structures)
    monkeypatch.delitem(sys.modules, "rad3d.render.rasterize", raising=False)
    from rad3d.render.rasterize import Rasterizer

    colours = np.clip(128 + 12 * bracket().vertices, 0, 255).astype(np.uint8)
    scan, camera = mesh_scan(bracket(), colours=colours), camera_at((30, -50, 40), size_hw)
    drawn, cast = Rasterizer(scan, "cpu").render([camera])[0], render(scan, camera)
    monkeypatch.delitem(sys.modules, "rad3d.render.rasterize")
    assert (drawn.mask == cast.mask).mean() > 0.995
    both = drawn.mask & cast.mask
    distance = np.linalg.norm(drawn.points_mm - cast.points_mm, axis=-1)[both]
    assert (distance < 0.01).mean() > 0.99
    assert (np.abs(drawn.image.astype(int) - cast.image).max(axis=-1) <= 3).mean() > 0.98
    points = scan.surface
    seen = [
        r.visible(points.points_mm, points.normals, camera, INCIDENCE)
        for r in (Rasterizer(scan, "cpu"), renderer_for(scan))
    ]
    assert (seen[0] == seen[1]).all()
