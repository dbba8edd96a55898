"""Registration: any pose is found, modulo exact symmetry, and what cannot be told is not claimed."""

from dataclasses import replace
from functools import cache

import manifold3d
import numpy as np
import pytest
import trimesh

from rad3d.arrays import Points, Pose
from rad3d.camera import Camera
from rad3d.datasets.machine_capture import make_capture
from rad3d.datasets.machine_specimen import make_specimen
from rad3d.geometry import (
    inverse,
    look_at,
    random_rotation,
    rotation_about,
    rotation_angle,
    transform_points,
    translation,
)
from rad3d.icp import sample_surface
from rad3d.query import Seen, seen_of
from rad3d.reference import Reference, build_reference
from rad3d.register import Registration, nowhere, register_surface, register_views, told_apart
from rad3d.render import renderer_for
from rad3d.scan import Scan, Surface
from rad3d.symmetry import moved_mm
from rad3d.view import View

GOAL_MM, GOAL_RAD = 0.08, np.deg2rad(0.3)


made = cache(make_specimen)


@cache
def reference_of(part: str) -> Reference:
    return build_reference(made(part, 0).nominal.surface)


def surface_of(solid: manifold3d.Manifold) -> Surface:
    mesh = solid.to_mesh()
    vertices, faces = np.asarray(mesh.vert_properties)[:, :3], np.asarray(mesh.tri_verts)
    return Scan("made", vertices_mm=vertices.astype(float), faces=faces.astype(int)).surface


def anywhere(seed: int) -> Pose:
    rng = np.random.default_rng(seed)
    return translation(rng.uniform(-200, 200, 3)) @ random_rotation(rng)


def cloud_of(surface: Surface, count: int, seed: int, noise_mm: float = 0.03) -> Points:
    points = sample_surface(surface, count).points_mm
    return points + np.random.default_rng(seed).normal(0, noise_mm, points.shape)


def cloud(points: Points) -> Surface:
    return Scan("cloud", vertices_mm=points).surface


def errors(found: Pose, truth: Pose, symmetries: tuple[Pose, ...], points: Points) -> tuple[float, float]:
    """Displacement of the part in mm (root mean square) and angle, for the symmetry that makes them least."""
    motions = [symmetry @ found @ inverse(truth) for symmetry in symmetries]
    shifts = [np.sqrt(np.mean(np.sum((transform_points(m, points) - points) ** 2, axis=1))) for m in motions]
    best = int(np.argmin(shifts))
    return float(shifts[best]), rotation_angle(motions[best])


def assert_found(result: Registration, truth: Pose, part: str) -> None:
    shift, angle = errors(result.part_from_scan, truth, made(part, 0).symmetries, reference_of(part).marks_mm)
    assert shift < GOAL_MM
    assert angle < GOAL_RAD
    assert result.trusted, result.reason


@pytest.mark.parametrize("part", ["spur_gear", "bracket"])
def test_defective_mesh_in_any_pose(part: str) -> None:
    specimen = made(part, 3, ("hole",), random_pose=True)
    result = register_surface(specimen.scan.surface, reference_of(part))
    assert_found(result, specimen.part_from_scan, part)
    assert result.overlap > 0.95


def test_noisy_cloud_with_a_third_outliers() -> None:
    """Clouds have no signed normals; outliers fill the space around the part."""
    points = cloud_of(made("spur_gear", 0).scan.surface, 12_000, 0)
    rng = np.random.default_rng(1)
    outliers = rng.uniform(points.min(axis=0) - 5, points.max(axis=0) + 5, (len(points) * 3 // 7, 3))
    truth = anywhere(2)
    points = transform_points(inverse(truth), np.concatenate([points, outliers]))
    assert_found(register_surface(cloud(points), reference_of("spur_gear")), truth, "spur_gear")


def test_rmse_is_the_noise() -> None:
    points = cloud_of(made("bracket", 0).nominal.surface, 12_000, 0, noise_mm=0.05)
    result = register_surface(cloud(points), reference_of("bracket"))
    assert result.rmse_mm == pytest.approx(0.05, rel=0.1)
    assert result.fitness > 0.99


def test_aligned_scan_of_a_symmetric_part_stays_where_it_is() -> None:
    """Six poses of the flange are the same; flipping aligned data to another would mix up places of defects."""
    result = register_surface(made("flange", 0).scan.surface, reference_of("flange"))
    shift, angle = errors(result.part_from_scan, np.eye(4), (np.eye(4),), reference_of("flange").marks_mm)
    assert shift < GOAL_MM
    assert angle < GOAL_RAD


def test_initial_chooses_among_equivalent_poses() -> None:
    turn = rotation_about(np.array([0.0, 0, 1]), np.deg2rad(120))
    result = register_surface(made("flange", 0).scan.surface, reference_of("flange"), initial=turn)
    assert errors(result.part_from_scan, turn, (np.eye(4),), reference_of("flange").marks_mm)[0] < GOAL_MM


def test_half_a_scan_is_right_or_not_trusted() -> None:
    points = cloud_of(made("spur_gear", 0).scan.surface, 20_000, 3)
    for direction in (np.array([0.3, 1.0, 0.1]), np.array([-0.2, -1.0, 0.3])):
        height = points @ direction
        truth = anywhere(4)
        half = transform_points(inverse(truth), points[height < np.median(height)])
        result = register_surface(cloud(half), reference_of("spur_gear"))
        assert result.overlap < 0.75
        if result.trusted:
            assert_found(result, truth, "spur_gear")


def test_filled_keyway_is_ambiguous() -> None:
    """Without its keyway the gear fits at every tooth: any of the 20 poses would be a guess."""
    nominal = made("spur_gear", 0).nominal
    assert nominal.faces is not None
    gear = manifold3d.Manifold(manifold3d.Mesh(nominal.vertices_mm.astype(np.float32), nominal.faces.astype(np.uint32)))
    plug = manifold3d.Manifold.cylinder(14, 8, 8, 96) - manifold3d.Manifold.cylinder(20, 5, 5, 96).translate((0, 0, -3))
    filled = gear + plug
    result = register_surface(surface_of(filled).moved(anywhere(5)), reference_of("spur_gear"))
    assert not result.trusted
    assert "different poses" in result.reason
    assert len(result.rivals) == 19


def test_another_part_is_refused() -> None:
    result = register_surface(made("flange", 0).scan.surface, reference_of("bracket"))
    assert not result.trusted
    assert result.reason


def test_mirrored_part_is_refused() -> None:
    solid = manifold3d.Manifold.cube((60, 40, 5)) + manifold3d.Manifold.cube((5, 20, 45))
    for x, y, radius in ((20, 12, 3.5), (45, 12, 3.5), (45, 28, 5.0)):
        solid = solid - manifold3d.Manifold.cylinder(50, radius, radius, 32).translate((x, y, -20))
    reference = build_reference(surface_of(solid))
    turned = anywhere(6)
    assert register_surface(surface_of(solid).moved(turned), reference).trusted
    mirrored = register_surface(surface_of(solid.mirror((1, 0, 0))).moved(turned), reference)
    assert not mirrored.trusted
    assert "mirror" in mirrored.reason


def test_inches_are_named() -> None:
    surface = made("bracket", 0).scan.surface
    small = Surface(surface.points_mm / 25.4, surface.normals, surface.areas_mm2 / 25.4**2, surface.faces)
    result = register_surface(small, reference_of("bracket"))
    assert not result.trusted
    assert not result.rivals, "a tiny scan fits anywhere"
    assert "inches and millimetres mixed up" in result.reason


def test_two_specimens_in_one_scan_are_refused() -> None:
    surface = made("bracket", 0).nominal.surface
    both = np.concatenate([cloud_of(surface, 8000, 0), cloud_of(surface, 8000, 1) + np.array([80.0, 10, 0])])
    assert not register_surface(cloud(both), reference_of("bracket")).trusted


def test_surface_of_revolution_leaves_its_rotation_open() -> None:
    pin = manifold3d.Manifold.cylinder(40, 6, 6, 96) + manifold3d.Manifold.cylinder(6, 12, 12, 96)
    reference = build_reference(surface_of(pin))
    assert reference.symmetries.axis is not None
    assert abs(reference.symmetries.axis[1][2]) > 0.9999
    truth = anywhere(7)
    result = register_surface(surface_of(pin).moved(inverse(truth)), reference)
    assert result.trusted
    assert len(result.free_directions) == 1
    assert result.free_directions[0].startswith("rotation about")
    motion = result.part_from_scan @ inverse(truth)
    axis = np.array([[0.0, 0, 0], [0, 0, 40.0]])
    np.testing.assert_allclose(transform_points(motion, axis), axis, atol=0.05)


@pytest.mark.parametrize("part", ["spur_gear", "flange", "bracket"])
def test_exact_symmetries_are_the_designed_ones(part: str) -> None:
    """Found from the surface alone; a group, with the identity first."""
    designed, found = made(part, 0).symmetries, reference_of(part).symmetries.exact
    np.testing.assert_array_equal(found[0], np.eye(4))
    assert len(found) == len(designed)
    points = reference_of(part).marks_mm
    for motion in (*designed, *(a @ b for a in found for b in found), *map(inverse, found)):
        assert min(np.abs(transform_points(motion, points) - transform_points(s, points)).max() for s in found) < 0.1


def test_every_tooth_of_the_gear_is_a_near_symmetry() -> None:
    near, points = reference_of("spur_gear").symmetries.near, reference_of("spur_gear").marks_mm
    for tooth in range(20):
        turn = transform_points(rotation_about(np.array([0.0, 0, 1]), 2 * np.pi * tooth / 20), points)
        assert min(np.abs(transform_points(pose, points) - turn).max() for pose in near) < 0.5


def test_captured_views_of_a_keyed_gear() -> None:
    """One-sided views with a table, noise, missing pixels and no poses; each is right, or says that it cannot tell."""
    specimen = made("spur_gear", 0)
    capture = make_capture(specimen, 0)
    chosen = range(0, 8, 3)
    blind = capture.views[1]
    assert blind.points_mm is not None
    blind = View("blind", "captured", blind.image, np.full_like(blind.points_mm, np.nan))
    *results, nothing = register_views([*(capture.views[i] for i in chosen), blind], reference_of("spur_gear"))
    assert sum(result.trusted for result in results) >= 2
    for index, result in zip(chosen, results, strict=True):
        if result.trusted:
            assert_found(result, capture.cameras[index].part_from_camera, "spur_gear")
    assert not nothing.trusted
    assert "depth" in nothing.reason


def test_a_view_along_a_bar_is_not_lost_because_little_tells_where_its_sides_are() -> None:
    """It slides sideways by what samples leave open of an edge, and is right otherwise."""
    specimen = make_specimen("rack", 2)
    capture = make_capture(specimen, 2)
    reference = build_reference(specimen.nominal.surface)
    for number in (0, 4):
        (result,) = register_views([capture.views[number]], reference)
        motion = result.part_from_scan @ inverse(capture.cameras[number].part_from_camera)
        shift = min(
            (
                transform_points(symmetry @ motion, reference.marks_mm) - reference.marks_mm
                for symmetry in specimen.symmetries
            ),
            key=lambda by: float(np.abs(by).max()),
        )
        assert result.trusted, result.reason
        assert np.abs(shift[:, [0, 2]]).max() < 0.1
        assert np.abs(shift[:, 1]).max() < 0.6


def punched(holes: int) -> Scan:
    """A round plate with so many of three equal holes."""
    plate = trimesh.creation.cylinder(25, 6, sections=96)
    for angle in np.arange(holes) * 2 * np.pi / 3:
        tool = trimesh.creation.cylinder(4, 10, sections=32)
        tool.apply_translation((15 * np.cos(angle), 15 * np.sin(angle), 0))
        plate = plate.difference(tool)
    return Scan("plate", None, np.asarray(plate.vertices, float), faces=np.asarray(plate.faces))


def test_what_the_other_views_saw_tells_a_view_how_it_lies_where_the_part_alone_does_not() -> None:
    """From where two holes are seen, one of them filled, it fits as well turned away from both."""
    reference, specimen = build_reference(punched(3).surface), punched(2)
    eye = look_at(np.array([60.0, 90.0, 160.0]), np.zeros(3))
    view = renderer_for(specimen).render([Camera.from_field_of_view((240, 240), 0.35, eye)])[0]
    query = seen_of(replace(view, kind="captured").moved(inverse(eye)))
    assert isinstance(query, Seen)
    turned = [rotation_about(np.array([0.0, 0, 1]), np.deg2rad(angle)) @ eye for angle in (30.0, 55.0, 0.0)]
    tied = replace(nowhere("tied"), part_from_scan=turned[0], trusted=True, rivals=tuple(turned[1:]))
    found = told_apart(query, tied, sample_surface(specimen.surface, 8000), reference)
    assert found.trusted
    assert not found.rivals
    # modulo the symmetries of the specimen: the filled hole is where the others saw it, not where the part's put it
    assert build_reference(specimen.surface).difference_mm(found.part_from_scan, eye) < 0.1
    # and of the poses that not even the others tell apart it keeps the one that it has
    right = replace(nowhere("tied"), part_from_scan=eye, trusted=True, rivals=tuple(turned[:2]))
    stays = told_apart(query, right, sample_surface(specimen.surface, 8000), reference)
    assert moved_mm(stays.part_from_scan @ inverse(eye), reference.marks_mm) < 0.1
