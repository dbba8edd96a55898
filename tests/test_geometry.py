"""Rigid transforms obey the laws of their group; directions point where they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rad3d.geometry import (
    bounding_sphere,
    cross,
    face_normals_areas,
    inverse,
    lengths,
    look_at,
    pieces,
    random_rotation,
    rotation_about,
    rotation_angle,
    transform_directions,
    transform_points,
    translation,
    unit,
)


def drawn_pose(seed):
    rng = np.random.default_rng(seed)
    return translation(rng.uniform(-500, 500, 3)) @ random_rotation(rng)


poses = st.integers(0, 2**32 - 1).map(drawn_pose)
points = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).uniform(-100, 100, (7, 3)))
few = settings(max_examples=50, deadline=None)


@few
@given(poses, poses, poses)
def test_group_laws(a, b, c):
    np.testing.assert_allclose((a @ b) @ c, a @ (b @ c), atol=1e-9)
    np.testing.assert_allclose(inverse(a) @ a, np.eye(4), atol=1e-9)
    np.testing.assert_allclose(a @ inverse(a), np.eye(4), atol=1e-9)
    np.testing.assert_allclose(inverse(a @ b), inverse(b) @ inverse(a), atol=1e-9)
    np.testing.assert_allclose(inverse(inverse(a)), a, atol=1e-9)


@few
@given(poses, poses, points)
def test_transforming_points_is_an_action(a, b, p):
    np.testing.assert_allclose(transform_points(a @ b, p), transform_points(a, transform_points(b, p)), atol=1e-9)
    np.testing.assert_allclose(transform_points(inverse(a), transform_points(a, p)), p, atol=1e-9)
    # lengths and handedness stay: a reflection would turn the sign of the triple product
    moved = transform_points(a, p)
    np.testing.assert_allclose(np.linalg.norm(moved[1:] - moved[0], axis=1), np.linalg.norm(p[1:] - p[0], axis=1))
    assert np.isclose(np.linalg.det(moved[1:4] - moved[0]), np.linalg.det(p[1:4] - p[0]), rtol=1e-6, atol=1e-3)


@few
@given(poses, points)
def test_directions_ignore_the_offset(a, p):
    np.testing.assert_allclose(
        transform_directions(a, p[0] - p[1]), transform_points(a, p[0]) - transform_points(a, p[1]), atol=1e-9
    )


def test_points_keep_shape_type_and_nan():
    pose = drawn_pose(1)
    grid = np.full((2, 5, 3), np.nan, np.float32)
    grid[0, 0] = 1, 2, 3
    moved = transform_points(pose, grid)
    assert moved.shape == grid.shape
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved[0, 0], pose[:3, :3] @ [1, 2, 3] + pose[:3, 3], rtol=1e-5)
    assert np.isnan(moved[1]).all()


@few
@given(st.integers(0, 2**32 - 1), st.floats(-3.1, 3.1))
def test_rotation_about_an_axis(seed, angle):
    rng = np.random.default_rng(seed)
    axis, centre = rng.normal(size=3), rng.uniform(-50, 50, 3)
    pose = rotation_about(axis, angle, centre)
    np.testing.assert_allclose(transform_points(pose, centre + 3.7 * axis), centre + 3.7 * axis, atol=1e-9)
    np.testing.assert_allclose(rotation_angle(pose), abs(angle), atol=1e-6)
    np.testing.assert_allclose(pose @ rotation_about(axis, -angle, centre), np.eye(4), atol=1e-9)


def test_a_quarter_turn_about_z_takes_x_to_y():
    pose = rotation_about(np.array([0, 0, 5.0]), np.pi / 2)
    np.testing.assert_allclose(transform_points(pose, np.array([[1.0, 0, 0]])), [[0, 1, 0]], atol=1e-12)


def test_random_rotations_are_rotations_and_spread_evenly():
    rng = np.random.default_rng(0)
    drawn = np.stack([random_rotation(rng)[:3, :3] for _ in range(2000)])
    np.testing.assert_allclose(drawn @ drawn.transpose(0, 2, 1), np.broadcast_to(np.eye(3), drawn.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(drawn), 1)
    # uniform: every entry has mean 0 and mean square 1/3; the trace has mean 0 and mean square 1 (Haar measure)
    assert np.abs(drawn.mean(axis=0)).max() < 0.06
    assert np.abs((drawn**2).mean(axis=0) - 1 / 3).max() < 0.04
    trace = np.trace(drawn, axis1=1, axis2=2)
    assert abs(trace.mean()) < 0.1
    assert abs((trace**2).mean() - 1) < 0.15


def test_look_at_has_opencv_axes():
    pose = look_at(np.array([10.0, 0, 0]), np.zeros(3))
    right, down, forward = pose[:3, :3].T
    np.testing.assert_allclose(forward, [-1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(down, [0, 0, -1], atol=1e-12)
    # seen from +x with z up, y grows to the right
    np.testing.assert_allclose(right, [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(pose[:3, 3], [10, 0, 0])


@pytest.mark.parametrize("eye", [(0, 0, 9.0), (0, 0, -9.0), (0, 9.0, 0), (1e-4, 0, 9.0), (3, -2, 5)])
@pytest.mark.parametrize("up", [None, (0, 1.0, 0), (0, 0, 2.0)])
def test_look_at_is_a_rotation_even_along_up(eye, up):
    pose = look_at(np.array(eye), np.zeros(3), None if up is None else np.array(up))
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(pose[:3, :3]) > 0
    np.testing.assert_allclose(np.cross(pose[:3, 2], eye), 0, atol=1e-9)
    assert pose[:3, 2] @ np.array(eye) < 0


def test_unit_leaves_zero_at_zero():
    vectors = np.array([[3.0, 0, 4.0], [0, 0, 0]])
    np.testing.assert_allclose(unit(vectors), [[0.6, 0, 0.8], [0, 0, 0]])


@pytest.mark.parametrize("shape", [(0, 3), (3,), (5, 3), (2, 4, 3)])
def test_cross_products_and_lengths_are_numpys(shape):
    a, b = np.random.default_rng(0).normal(size=(2, *shape))
    np.testing.assert_allclose(cross(a, b), np.cross(a, b), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(lengths(a), np.linalg.norm(a, axis=-1), rtol=1e-12)


def test_bounding_sphere_holds_every_point():
    corners = np.array([[0.0, 0, 0], [4, 0, 0], [0, 3, 0]])
    centre, radius = bounding_sphere(corners)
    np.testing.assert_allclose(centre, [2, 1.5, 0])
    assert radius == pytest.approx(2.5)


def test_face_normals_follow_the_right_hand_and_areas_are_halved():
    vertices = np.array([[0.0, 0, 0], [2, 0, 0], [0, 3, 0], [4, 0, 0]])
    normals, areas = face_normals_areas(vertices, np.array([[0, 1, 2], [0, 2, 1], [0, 1, 3]]))
    np.testing.assert_allclose(normals, [[0, 0, 1], [0, 0, -1], [0, 0, 0]])
    np.testing.assert_allclose(areas, [3, 3, 0])


def test_pieces_are_those_of_all_pairs_and_dense_ones_stay_together():
    rng = np.random.default_rng(0)
    line = np.cumsum(rng.choice([0.3, 2.0], 60))  # gaps well within reach, or well beyond
    found = pieces(np.stack([line, 0 * line, 0 * line], axis=1), 1.0)
    expected = np.cumsum(np.diff(line, prepend=line[0]) > 1)
    assert (
        len(set(zip(found.tolist(), expected.tolist(), strict=True))) == len(set(expected.tolist())) == found.max() + 1
    )
    cloud = np.concatenate([rng.uniform(0, 1, (20_000, 3)), rng.uniform(3, 4, (20_000, 3))])
    assert np.bincount(pieces(cloud, 1.0)).tolist() == [20_000, 20_000]
    assert pieces(np.empty((0, 3)), 1.0).tolist() == []
