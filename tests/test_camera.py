"""The camera's conventions: OpenCV axes, pixel centres at +0.5, height before width."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rad3d.camera import Camera
from rad3d.errors import SettingsError
from rad3d.geometry import look_at, random_rotation, transform_points, translation
from rad3d.view import View


def drawn_camera(seed):
    """A calibrated camera anywhere: not square, principal point off the middle, unequal focal lengths."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(3, 40, 2)
    fx, fy = rng.uniform(20, 60, 2)
    intrinsics = np.array([[fx, 0, width * rng.uniform(0.3, 0.7)], [0, fy, height * rng.uniform(0.3, 0.7)], [0, 0, 1]])
    pose = translation(rng.uniform(-300, 300, 3)) @ random_rotation(rng)
    return Camera((int(height), int(width)), intrinsics, pose)


cameras = st.integers(0, 2**32 - 1).map(drawn_camera)


@settings(max_examples=50, deadline=None)
@given(cameras, st.integers(0, 2**32 - 1))
def test_what_is_unprojected_projects_back_to_its_pixel_centre(camera, seed):
    depth = np.random.default_rng(seed).uniform(1, 500, camera.size_hw)
    points = camera.unproject(depth)
    pixels, depth_again = camera.project(points.reshape(-1, 3))
    rows, columns = np.mgrid[: camera.size_hw[0], : camera.size_hw[1]]
    np.testing.assert_allclose(pixels[:, 0], columns.ravel() + 0.5, atol=1e-6)
    np.testing.assert_allclose(pixels[:, 1], rows.ravel() + 0.5, atol=1e-6)
    np.testing.assert_allclose(depth_again, depth.ravel(), rtol=1e-9)


@settings(max_examples=50, deadline=None)
@given(cameras, cameras)
def test_moving_camera_and_points_together_changes_no_pixel(camera, other):
    points = camera.unproject(np.full(camera.size_hw, 100.0)).reshape(-1, 3)
    pose = other.part_from_camera
    moved = camera.moved(pose).project(transform_points(pose, points))
    np.testing.assert_allclose(moved[0], camera.project(points)[0], atol=1e-6)
    np.testing.assert_allclose(moved[1], camera.project(points)[1], atol=1e-6)


def test_axes_of_the_image():
    """x right, y down, z forward, on an image wider than high."""
    camera = Camera.from_field_of_view((60, 100), 0.5)
    pixels, depth = camera.project(np.array([[0, 0, 10.0], [1, 0, 10], [0, 1, 10], [0, 0, -10]]))
    np.testing.assert_allclose(pixels[0], [50, 30])
    assert pixels[1, 0] > 50
    assert pixels[1, 1] == pytest.approx(30)
    assert pixels[2, 1] > 30
    assert pixels[2, 0] == pytest.approx(50)
    assert np.isnan(pixels[3]).all()
    assert depth[3] == pytest.approx(-10)


@pytest.mark.parametrize("size_hw", [(60, 100), (100, 60)])
def test_the_field_of_view_spans_the_shorter_side(size_hw):
    camera = Camera.from_field_of_view(size_hw, 0.5)
    reach = 10 * np.tan(0.25)
    (x, y) = camera.project(np.array([[reach, reach, 10.0]]))[0][0]
    assert (y if size_hw[0] < size_hw[1] else x) == pytest.approx(60)


def test_looking_from_above_in_front():
    """A point that is higher in the part is higher in the image."""
    camera = Camera.from_field_of_view((48, 64), 0.6, look_at(np.array([0.0, -100, 30]), np.zeros(3)))
    pixels, depth = camera.project(np.array([[0, 0, 0.0], [0, 0, 5], [5, 0, 0]]))
    np.testing.assert_allclose(pixels[0], [32, 24])
    assert pixels[1, 1] < 24
    assert pixels[2, 0] > 32
    assert depth[0] == pytest.approx(np.hypot(100, 30))
    np.testing.assert_allclose(camera.centre_mm, [0, -100, 30])
    np.testing.assert_allclose(camera.direction, [0, 100 / np.hypot(100, 30), -30 / np.hypot(100, 30)])


def test_no_depth_no_position():
    camera = drawn_camera(0)
    depth = np.full(camera.size_hw, 10.0)
    depth[0, 1] = np.nan
    points = camera.unproject(depth)
    assert np.isnan(points[0, 1]).all()
    assert np.isfinite(points).sum() == 3 * (depth.size - 1)


@pytest.mark.parametrize(
    ("intrinsics", "pose", "named"),
    [
        (np.eye(4), np.eye(4), "intrinsics"),
        (np.eye(3), np.eye(3), "part_from_camera"),
        (np.eye(3), np.full((4, 4), np.nan), "part_from_camera"),
    ],
)
def test_a_wrong_calibration_is_named(intrinsics, pose, named):
    with pytest.raises(SettingsError, match=named):
        Camera((4, 5), intrinsics, pose)


def test_a_view_knows_its_size_and_moves_as_a_whole():
    camera = drawn_camera(4)
    points = camera.unproject(np.full(camera.size_hw, 50.0)).astype(np.float32)
    points[0, 0] = np.nan
    view = View("v", "rendered", np.zeros((*camera.size_hw, 3), np.uint8), points, points, camera)
    assert view.size_hw == camera.size_hw
    assert not view.mask[0, 0]
    assert view.mask.sum() == view.mask.size - 1
    pose = drawn_camera(5).part_from_camera
    moved = view.moved(pose)
    np.testing.assert_allclose(moved.points_mm, transform_points(pose, points), rtol=1e-4)
    np.testing.assert_allclose(
        moved.camera.project(moved.points_mm.reshape(-1, 3))[0][1:],
        camera.project(points.reshape(-1, 3))[0][1:],
        atol=1e-2,
    )
