"""Organised clouds, their cameras and normals, against analytic scenes."""

import struct
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from rad3d.camera import Camera
from rad3d.errors import ScanError, UnitError
from rad3d.organised import WINDOW, NotOrganisedError, estimate_intrinsics, normals_of, organised_points

HW = (48, 64)
CAMERA = Camera(HW, np.array([[90.0, 0, 30.5], [0, 95.0, 22.25], [0, 0, 1]]), np.eye(4))


def plane(camera: Camera, normal: tuple[float, float, float], distance_mm: float = 400) -> np.ndarray:
    """Points of the plane normal . X = -distance seen by the camera."""
    unit = np.array(normal) / np.linalg.norm(normal)
    rays = camera.ray_directions()
    return (rays * (-distance_mm / (rays @ unit))[..., None]).astype(np.float32)


POINTS = plane(CAMERA, (0.2, -0.3, -1))
POINTS[5:9, 7:20] = np.nan


def write_sensor_ply(path: Path, points: np.ndarray, missing: float, comments: str = "") -> None:
    """28 bytes per vertex, as structured-light sensors write them: position, normal, colour with alpha."""
    height, width = points.shape[:2]
    names = ("x", "y", "z", "nx", "ny", "nz")
    head = f"ply\nformat binary_little_endian 1.0\n{comments}element vertex {height * width}\n"
    head += "".join(f"property float {name}\n" for name in names)
    head += "".join(f"property uchar {name}\n" for name in ("red", "green", "blue", "alpha"))
    rows = b""
    for point in points.reshape(-1, 3):
        position = (missing,) * 3 if np.isnan(point).any() else point
        rows += struct.pack("<6f4B", *position, 0, 0, 0, 1, 2, 3, 255)
    path.write_bytes(head.encode() + b"end_header\n" + rows)


@pytest.mark.parametrize("missing", [0.0, np.nan, np.inf])
def test_sensor_ply(tmp_path: Path, missing: float) -> None:
    write_sensor_ply(tmp_path / "a.ply", POINTS, missing)
    np.testing.assert_array_equal(organised_points(tmp_path / "a.ply", HW), POINTS)


@pytest.mark.parametrize(
    "comments", ["obj_info num_cols 64\nobj_info num_rows 48\n", "comment width: 64\ncomment height: 48\n"]
)
def test_ply_that_states_its_size(tmp_path: Path, comments: str) -> None:
    write_sensor_ply(tmp_path / "a.ply", POINTS, 0, comments)
    np.testing.assert_array_equal(organised_points(tmp_path / "a.ply", HW), POINTS)
    with pytest.raises(NotOrganisedError, match="3072 points, 48 x 64"):
        organised_points(tmp_path / "a.ply", (64, 48))  # as many pixels, but lying down


def test_unorganised_ply(tmp_path: Path) -> None:
    write_sensor_ply(tmp_path / "a.ply", POINTS[:, :50], 0)
    with pytest.raises(NotOrganisedError, match=r"2400 points in no order.*48 x 64|48 x 64.*2400 points in no order"):
        organised_points(tmp_path / "a.ply", HW)


def test_pcd_with_a_height(tmp_path: Path) -> None:
    header = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH {1}\nHEIGHT {0}\nDATA binary\n"
    (tmp_path / "a.pcd").write_bytes(header.format(*HW).encode() + POINTS.tobytes())
    np.testing.assert_array_equal(organised_points(tmp_path / "a.pcd", HW), POINTS)
    (tmp_path / "b.pcd").write_bytes(header.format(1, HW[0] * HW[1]).encode() + POINTS.tobytes())
    with pytest.raises(NotOrganisedError, match="no order of pixels"):
        organised_points(tmp_path / "b.pcd", HW)


def test_tiff_in_metres(tmp_path: Path) -> None:
    metres = np.nan_to_num(POINTS) / 1000
    tifffile.imwrite(tmp_path / "a.tiff", metres, photometric="rgb")
    np.testing.assert_allclose(organised_points(tmp_path / "a.tiff", HW, unit="m"), POINTS, rtol=1e-6)
    with pytest.raises(UnitError) as caught:
        organised_points(tmp_path / "a.tiff", HW)
    assert "--unit m" in caught.value.remedy
    assert "a.tiff" in caught.value.source
    tifffile.imwrite(tmp_path / "b.tiff", np.nan_to_num(POINTS), photometric="rgb")
    with pytest.raises(UnitError, match="give --unit mm"):
        organised_points(tmp_path / "b.tiff", HW, unit="m")


def test_depth_pictures_are_not_positions(tmp_path: Path) -> None:
    depth = np.linspace(0, 1, HW[0] * HW[1], dtype=np.float32).reshape(*HW, 1)
    tifffile.imwrite(tmp_path / "a.tiff", np.repeat(depth, 3, axis=2), photometric="rgb")
    with pytest.raises(NotOrganisedError, match="three identical channels"):
        organised_points(tmp_path / "a.tiff", HW)
    tifffile.imwrite(tmp_path / "b.tiff", depth[..., 0])
    with pytest.raises(NotOrganisedError, match="x, y, z"):
        organised_points(tmp_path / "b.tiff", HW)
    tifffile.imwrite(tmp_path / "c.tiff", np.zeros((*HW, 3), np.uint8), photometric="rgb")
    with pytest.raises(NotOrganisedError, match="uint8"):
        organised_points(tmp_path / "c.tiff", HW)


def test_a_view_that_saw_nothing_is_all_nan(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tiff", np.zeros((*HW, 3), np.float32), photometric="rgb")
    points = organised_points(tmp_path / "a.tiff", HW)
    assert points.shape == (*HW, 3)
    assert np.isnan(points).all()


@pytest.mark.parametrize("suffix", ["ply", "pcd", "tiff", "xyz"])
def test_damaged_files(tmp_path: Path, suffix: str) -> None:
    for content in (b"", b"nonsense" * 9):
        (tmp_path / f"a.{suffix}").write_bytes(content)
        with pytest.raises(ScanError, match=f"a\\.{suffix}"):
            organised_points(tmp_path / f"a.{suffix}", HW)


@settings(max_examples=30, deadline=None)
@given(
    fx=st.floats(40, 3000), aspect=st.floats(0.8, 1.25), cx=st.floats(-20, 90), cy=st.floats(-20, 70),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_intrinsics_come_back_whatever_the_depth(fx: float, aspect: float, cx: float, cy: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    intrinsics = np.array([[fx, 0, cx], [0, fx * aspect, cy], [0, 0, 1]])
    points = Camera(HW, intrinsics, np.eye(4)).unproject(rng.uniform(300, 900, HW))
    points[rng.random(HW) < 0.5] = np.nan
    found, residual = estimate_intrinsics(points.astype(np.float32))
    np.testing.assert_allclose(found, intrinsics, atol=0.02, rtol=1e-4)
    assert residual < 0.02


def test_residual_is_in_pixels() -> None:
    """Points moved sideways by what two pixels are at their depth, each way."""
    rng = np.random.default_rng(0)
    shift = rng.choice([-2.0, 2.0], HW)
    points = POINTS.astype(float)
    points[..., 0] += shift * points[..., 2] / CAMERA.intrinsics[0, 0]
    found, residual = estimate_intrinsics(points)
    assert residual == pytest.approx(2, rel=0.05)
    np.testing.assert_allclose(found, CAMERA.intrinsics, rtol=0.03)


def test_clouds_no_camera_can_have_seen() -> None:
    with pytest.raises(ScanError, match="focal lengths"):
        estimate_intrinsics(POINTS * (1, -1, 1))
    few = np.full_like(POINTS, np.nan)
    few[3, 3:9] = POINTS[3, 3:9]
    for points in (few, np.full_like(POINTS, np.nan)):
        with pytest.raises(ScanError, match=r"intrinsics\.json"):
            estimate_intrinsics(points)


def angle(normals: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return np.arccos(np.clip((normals * wanted).sum(axis=-1), -1, 1))


@pytest.mark.parametrize("normal", [(0, 0, -1), (0.5, 0.3, -1), (-1.5, 0.2, -1), (0.1, 1.0, -1)])
def test_normals_of_planes_are_exact_up_to_the_border(normal: tuple[float, float, float]) -> None:
    camera = Camera.from_field_of_view((70, 150), 0.3)
    normals = normals_of(plane(camera, normal), camera.intrinsics)
    assert normals.dtype == np.float32
    assert np.isfinite(normals).all()
    assert angle(normals, np.array(normal) / np.linalg.norm(normal)).max() < 2e-3


def test_normals_of_a_sphere_with_noise_point_to_the_camera() -> None:
    camera = Camera.from_field_of_view((200, 180), 0.3)
    centre, radius = np.array([3.0, -2.0, 400.0]), 50.0
    rays = camera.ray_directions()
    b = rays @ centre
    root = b**2 - (rays**2).sum(-1) * (centre @ centre - radius**2)
    with np.errstate(invalid="ignore"):
        points = rays * ((b - np.sqrt(root)) / (rays**2).sum(-1))[..., None]
    wanted = (points - centre) / radius
    noise = np.random.default_rng(0).normal(0, 0.05, points.shape[:2])  # mm in depth; a pixel is 0.6 mm wide
    normals = normals_of((points * (1 + noise / 400)[..., None]).astype(np.float32))
    facing = (wanted * -points).sum(-1) > np.cos(np.deg2rad(50)) * np.linalg.norm(points, axis=-1)
    assert np.isfinite(normals[facing]).all()
    error = angle(normals[facing], wanted[facing])
    assert np.median(error) < 0.02
    assert error.max() < 0.1
    seen = np.isfinite(normals).all(-1)
    assert ((normals * points).sum(-1)[seen] < 0).all()
    assert not seen[np.isnan(points[..., 0])].any()


def test_a_depth_jump_bends_no_normal() -> None:
    """The normals beside a jump of 30 mm are those of the walls; a point floating far between two walls has none."""
    camera = Camera.from_field_of_view((60, 80), 0.3)
    near, far = plane(camera, (0.3, 0, -1), 380), plane(camera, (0.3, 0, -1), 410)
    points = np.where((np.arange(80) < 40)[None, :, None], near, far)
    wanted = np.array([0.3, 0, -1]) / np.hypot(0.3, 1)
    assert angle(normals_of(points, camera.intrinsics), wanted).max() < 2e-3
    points[30, 40] = near[30, 40] * 0.85
    normals = normals_of(points, camera.intrinsics)
    assert np.isnan(normals[30, 40]).all()
    normals[30, 40] = wanted
    assert angle(normals, wanted).max() < 2e-3


def test_too_few_neighbours_give_no_normal() -> None:
    points = np.full((*HW, 3), np.nan, np.float32)
    points[20, 5:50] = POINTS[20, 5:50]  # one line of pixels
    assert np.isnan(normals_of(points, CAMERA.intrinsics)).all()
    assert np.isnan(normals_of(np.full_like(points, np.nan), CAMERA.intrinsics)).all()


def test_normals_as_the_slow_version_has_them(reference: ModuleType) -> None:
    rng = np.random.default_rng(1)
    depth = 400 + 8 * np.sin(np.arange(64) / 6) + rng.normal(0, 0.3, HW) + 25 * (np.arange(48) > 30)[:, None]
    points = CAMERA.unproject(depth).astype(np.float32)[20:42, 10:40]
    points[rng.random(points.shape[:2]) < 0.2] = np.nan
    fast, slow = normals_of(points, CAMERA.intrinsics), reference.normals_of(points, CAMERA.intrinsics, WINDOW)
    np.testing.assert_array_equal(np.isnan(fast), np.isnan(slow))
    seen = np.isfinite(slow).all(-1)
    assert 0.5 < seen.mean() < 1
    np.testing.assert_allclose(fast[seen], slow[seen], atol=2e-3)
