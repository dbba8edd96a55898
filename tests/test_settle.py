"""Views of a symmetric part come to lie on one table, whichever equivalent pose each was found in."""

from dataclasses import replace

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from rad3d.camera import Camera
from rad3d.geometry import inverse, look_at, random_rotation, transform_directions, transform_points
from rad3d.reference import build_reference
from rad3d.render import renderer_for
from rad3d.scan import Scan
from rad3d.settle import equivalents, settled, up_to_symmetry
from rad3d.symmetry import Symmetries

SIDES = 4


def scan_of(*meshes):
    mesh = trimesh.util.concatenate(meshes)
    return Scan("s", vertices_mm=np.array(mesh.vertices), faces=np.array(mesh.faces))


def square_plate():
    return trimesh.creation.box((40.0, 40.0, 10.0))


def round_plate():
    return trimesh.creation.cylinder(20.0, 10.0, sections=180)


def turns(*rotations):
    poses = np.tile(np.eye(4), (len(rotations), 1, 1))
    poses[:, :3, :3] = rotations
    return poses


QUARTERS = Rotation.from_rotvec([[0, 0, 90 * k] for k in range(SIDES)], degrees=True).as_matrix()
OVER = np.diag([1.0, -1.0, -1.0])
SQUARE = Symmetries(turns(np.eye(3)), turns(*QUARTERS, *(quarter @ OVER for quarter in QUARTERS)))
ROUND = Symmetries(turns(np.eye(3)), turns(np.eye(3), OVER), np.array([[0.0, 0, 0], [0, 0, 1]]))


def captured(mesh, azimuths, table=True):
    """Views of the part on its table, in their cameras' frames, and part_from_camera."""
    floor = trimesh.creation.box((160.0, 160.0, 2.0), trimesh.transformations.translation_matrix((0, 0, -6.0)))
    scan = scan_of(mesh, *([floor] if table else []))
    eyes = [300 * np.array([np.cos(a) * 0.8, np.sin(a) * 0.8, 0.6]) for a in np.radians(azimuths)]
    poses = [look_at(eye, np.zeros(3), np.array([0.0, 0, 1])) for eye in eyes]
    cameras = [Camera.from_field_of_view((120, 120), 0.3, pose) for pose in poses]
    views = []
    for view, pose in zip(renderer_for(scan).render(cameras), poses, strict=True):
        away = inverse(pose)
        points, normals = transform_points(away, view.points_mm), transform_directions(away, view.normals)
        views.append(replace(view, camera=None, points_mm=points.astype(np.float32), normals=normals))
    return views, poses


@pytest.mark.parametrize(("mesh", "symmetries"), [(square_plate(), SQUARE), (round_plate(), ROUND)])
def test_views_of_all_specimens_look_at_one_side_and_sector(mesh, symmetries):
    """Whichever equivalent pose each was found in: else a new specimen lacks what good ones happened to show."""
    reference = build_reference(scan_of(mesh).surface, symmetries)
    rng, choices, azimuths = np.random.default_rng(0), equivalents(reference), []
    for specimen in range(3):
        views, true = captured(mesh, 10 + 90 * np.arange(SIDES))
        found = [choices[rng.integers(len(choices))] @ pose for pose in true]
        homes = settled(views, found, reference)
        taken = [pose for pose, _ in homes]
        ups = [now[:3, :3] @ was[2, :3] for now, was in zip(taken, true, strict=True)]  # was[2, :3]: up, in the camera
        assert np.allclose(ups, [0, 0, 1], atol=1e-6), specimen
        assert np.allclose([up for _, up in homes], [0, 0, 1], atol=0.02), "as the table says"
        azimuths += [np.degrees(np.arctan2(pose[1, 3], pose[0, 3])) for pose in taken]
    apart = (np.array(azimuths) - azimuths[0] + 180) % 360 - 180
    assert np.abs(apart).max() < 4  # one step about an axis of revolution


@pytest.mark.parametrize(("mesh", "symmetries"), [(square_plate(), SQUARE), (round_plate(), ROUND)])
def test_what_is_seen_of_one_side_is_seen_of_its_equals(mesh, symmetries):
    surface = scan_of(mesh).surface
    reference = build_reference(surface, symmetries)
    rim = np.abs(surface.normals[:, 2]) < 0.1
    front = rim & (surface.normals[:, 0] > 0.7)
    assert up_to_symmetry(front, surface, reference)[rim].mean() > 0.99
    assert not up_to_symmetry(front, surface, reference)[np.abs(surface.normals[:, 2]) > 0.99].any()
    alone = build_reference(surface, Symmetries(turns(np.eye(3)), turns(np.eye(3))))
    assert np.array_equal(up_to_symmetry(front, surface, alone), front)


def test_each_pose_stays_equivalent_and_unknown_ones_unknown():
    reference = build_reference(scan_of(square_plate()).surface, SQUARE)
    views, true = captured(square_plate(), [10, 100])
    found = [SQUARE.exact[6] @ true[0], None, SQUARE.exact[2] @ true[1]]  # lying on its back, and half a turn on
    first, unknown, last = settled([views[0], *views], found, reference)
    assert unknown is None
    assert np.abs(first[0] - found[0]).max() > 1
    for (pose, _), before in ((first, true[0]), (last, true[1])):
        assert min(np.abs(turn @ before - pose).max() for turn in SQUARE.exact) < 1e-9


def test_a_part_without_symmetry_stays_where_it_was_found():
    alone = Symmetries(turns(np.eye(3)), turns(np.eye(3)))
    reference = build_reference(scan_of(square_plate()).surface, alone)
    views, _ = captured(square_plate(), [10])
    pose = random_rotation(np.random.default_rng(1))
    ((taken, up),) = settled(views, [pose], reference)
    assert np.array_equal(taken, pose)
    assert up is None
