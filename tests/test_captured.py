"""Captured specimens as sensors write them."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from rad3d.camera import Camera
from rad3d.captured import read_captured, read_image
from rad3d.errors import Rad3dError, ScanError, UnitError
from rad3d.geometry import inverse, random_rotation, rotation_about, transform_points
from rad3d.io import read_scan, read_scans, write_ply
from rad3d.scan import Unit

HW = (40, 60)
CAMERA = Camera(HW, np.array([[80.0, 0, 31], [0, 80, 19], [0, 0, 1]]), np.eye(4))


def points_of(view: int) -> np.ndarray:
    """A slanted wall, further away with every view, seen on all but the left columns."""
    y, x = np.indices(HW)
    depth = 300.0 + 10 * view + 0.5 * x + 0.2 * y
    depth[:, :5] = np.nan
    return CAMERA.unproject(depth).astype(np.float32)


def image_of(view: int) -> np.ndarray:
    return np.random.default_rng(view).integers(0, 256, (*HW, 3), dtype=np.uint8)


def write_image(path: Path, view: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image_of(view)).save(path)


def write_cloud(path: Path, points: np.ndarray, scale: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.nan_to_num(points) * np.float32(scale)
    if path.suffix == ".ply":
        write_ply(path, values.reshape(-1, 3))
    elif path.suffix == ".pcd":
        header = f"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH {HW[1]}\nHEIGHT {HW[0]}\nDATA binary\n"
        path.write_bytes(header.encode() + values.astype("<f4").tobytes())
    else:
        tifffile.imwrite(path, values, photometric="rgb")


def specimen(folder: Path, views: int = 3, suffix: str = "ply", images: str = "images") -> Path:
    for view in range(views):
        write_image(folder / images / f"{view:03}.png", view)
        write_cloud(folder / "xyz" / f"{view:03}.{suffix}", points_of(view))
    return folder


@pytest.mark.parametrize(("images", "suffix"), [("images", "ply"), ("rgb", "tiff"), ("images", "pcd")])
def test_images_with_clouds(tmp_path: Path, images: str, suffix: str) -> None:
    scan = read_scan(specimen(tmp_path / "gear.7", 3, suffix, images))
    assert (scan.specimen, scan.kind, len(scan.vertices_mm)) == ("gear.7", "captured", 0)
    assert [view.name for view in scan.views] == ["000", "001", "002"]
    for number, view in enumerate(scan.views):
        np.testing.assert_array_equal(view.image, image_of(number))
        assert view.kind == "captured"
        np.testing.assert_array_equal(view.points_mm, points_of(number))
        assert view.normals is not None
        assert np.isfinite(view.normals[view.mask]).all()
        assert (np.einsum("hwc,hwc->hw", view.normals, view.points_mm)[view.mask] < 0).all()
        assert view.camera is not None
        np.testing.assert_allclose(view.camera.intrinsics, CAMERA.intrinsics, atol=1e-2)
        np.testing.assert_array_equal(view.camera.part_from_camera, np.eye(4))


def test_3d_adam_raw_folders_with_their_irregular_names(tmp_path: Path) -> None:
    folder = tmp_path / "1M2_C1_Good"
    for view in (0, 5, 10):
        write_image(folder / "Zed" / "images" / f"1M2_C1_Good_Zed_Good_Zed_{view:03}_image.png", view)
        write_cloud(folder / "Zed" / "xyz" / f"1M2_C1_Good_Zed_{view:03}_cloud.ply", points_of(view))
        write_image(folder / "Zed" / "masks" / f"1M2_C1_Good_Zed_{view:03}_image_hole_defect_5.png", 99)
        write_image(folder / "MechMind-Nano" / "images" / f"1M2_C1_Good_Nano_{view:03}_image.png", view)
        write_cloud(folder / "MechMind-Nano" / "xyz" / f"1M2_C1_Good_Nano_{view:03}_cloud.ply", points_of(view))
    with pytest.raises(ScanError, match="MechMind-Nano, Zed"):
        read_captured(folder)
    for sensor in ("Zed", "MechMind-Nano"):
        views = read_captured(folder, sensor=sensor)
        assert len(views) == 3
        for view, number in zip(views, (0, 5, 10), strict=True):
            assert view.name.endswith(f"_{number:03}_image")
            np.testing.assert_array_equal(view.image, image_of(number))
            np.testing.assert_array_equal(view.points_mm, points_of(number))
    (scan,) = read_scans([folder / "Zed"])
    assert scan.specimen == "Zed"
    assert [s.specimen for s in read_scans([tmp_path], sensor="Zed")] == ["1M2_C1_Good"]


@pytest.mark.parametrize(
    "pairs",
    [
        [("000.png", "000.ply"), ("000_A.png", "000_A.ply"), ("001_A.png", "001_A.ply")],
        [("view1.png", "cloud_01.ply"), ("view2.png", "cloud_02.ply"), ("view10.png", "cloud_10.ply")],
        [("left_rgb.png", "left_xyz.ply"), ("right_rgb.png", "right_xyz.ply"), ("top.rgb.png", "top.xyz.ply")],
        [
            ("000_image_D435.png", "000_cloud_D435.ply"),
            ("001_image_D435.png", "001_cloud_D435.ply"),
            ("2.png", "2.ply"),
        ],
    ],
)
def test_pairs_by_name_or_view_number(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    for number, (image, cloud) in enumerate(pairs):
        write_image(tmp_path / "images" / image, number)
        write_cloud(tmp_path / "xyz" / cloud, points_of(number))
    views = {view.name: view for view in read_captured(tmp_path)}
    for number, (image, _) in enumerate(pairs):
        np.testing.assert_array_equal(views[Path(image).stem].points_mm, points_of(number))


def test_ambiguous_pairs_are_not_guessed(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a_001_image.png", 0)
    write_image(tmp_path / "images" / "b_001_image.png", 0)
    write_cloud(tmp_path / "xyz" / "c_001_cloud.ply", points_of(0))
    with pytest.raises(ScanError, match="2 and 1 that are called '1'"):
        read_captured(tmp_path)
    (tmp_path / "images" / "b_001_image.png").rename(tmp_path / "images" / "a_001_image.bmp")
    with pytest.raises(ScanError, match="several named a_001_image"):
        read_captured(tmp_path)


def test_images_without_clouds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    specimen(tmp_path / "s", 3)
    (tmp_path / "s" / "xyz" / "001.ply").unlink()
    write_cloud(tmp_path / "s" / "xyz" / "777.ply", points_of(7))
    with caplog.at_level(logging.WARNING):
        views = read_captured(tmp_path / "s")
    assert [view.points_mm is None for view in views] == [False, True, False]
    assert views[1].normals is views[1].camera is None
    assert "1 of 3 views are images without points: 001.png has no cloud" in caplog.text
    assert "777.ply" in caplog.text
    write_image(tmp_path / "only" / "images" / "0.png", 0)
    assert read_scan(tmp_path / "only").views[0].points_mm is None


def test_clouds_that_cannot_be_used_leave_the_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    specimen(tmp_path, 3, "tiff", "rgb")
    depth = np.linspace(0, 1, HW[0] * HW[1], dtype=np.float32).reshape(*HW, 1).repeat(3, axis=2)
    tifffile.imwrite(tmp_path / "xyz" / "000.tiff", depth, photometric="rgb")
    (tmp_path / "xyz" / "002.tiff").unlink()
    write_ply(tmp_path / "xyz" / "002.ply", points_of(2).reshape(-1, 3)[20:90])
    with caplog.at_level(logging.WARNING):
        views = read_captured(tmp_path)
    assert [view.points_mm is None for view in views] == [True, False, True]
    assert "2 of 3 views" in caplog.text
    assert "only the image is used" in caplog.text or "use the raw cloud" in caplog.text


def test_one_view_that_saw_nothing(tmp_path: Path) -> None:
    specimen(tmp_path, 3)
    write_cloud(tmp_path / "xyz" / "001.ply", np.full((*HW, 3), np.nan, np.float32))
    view = read_captured(tmp_path)[1]
    assert view.points_mm is not None
    assert view.normals is not None
    assert np.isnan(view.points_mm).all()
    assert np.isnan(view.normals).all()
    assert view.camera is not None
    np.testing.assert_allclose(view.camera.intrinsics, CAMERA.intrinsics, atol=1e-2)


def test_nothing_seen_by_any_view(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "0.png", 0)
    write_cloud(tmp_path / "xyz" / "0.tiff", np.full((*HW, 3), np.nan, np.float32))
    (view,) = read_captured(tmp_path)
    assert not view.mask.any()
    assert view.camera is not None


@pytest.mark.parametrize(("unit", "scale"), [("m", 1e-3), ("inch", 1 / 25.4), (None, 1.0)])
def test_poses_intrinsics_and_units(tmp_path: Path, unit: Unit | None, scale: float) -> None:
    rng = np.random.default_rng(0)
    poses = {}
    for view in range(2):
        write_image(tmp_path / "images" / f"{view}.png", view)
        write_cloud(tmp_path / "xyz" / f"{view}.tiff", points_of(view), scale)
        poses[f"{view}"] = random_rotation(rng)
        poses[f"{view}"][:3, 3] = rng.normal(0, 100 * scale, 3)
    (tmp_path / "poses.json").write_text(json.dumps({name: pose.tolist() for name, pose in poses.items()}))
    given = CAMERA.intrinsics + np.array([[1.0, 0, 0], [0, 2, 0], [0, 0, 0]])
    (tmp_path / "intrinsics.json").write_text(json.dumps(given.tolist()))
    for number, view in enumerate(read_captured(tmp_path, unit=unit)):
        assert view.camera is not None
        assert view.points_mm is not None
        np.testing.assert_array_equal(view.camera.intrinsics, given)
        pose = poses[view.name].copy()
        pose[:3, 3] /= scale
        np.testing.assert_allclose(view.camera.part_from_camera, pose, rtol=1e-6)
        back = view.moved(inverse(pose)).points_mm
        np.testing.assert_allclose(back, points_of(number), atol=1e-3)
    (tmp_path / "intrinsics.json").write_text(json.dumps({"0": given.tolist(), "1": CAMERA.intrinsics.tolist()}))
    cameras = [view.camera for view in read_captured(tmp_path, unit=unit)]
    assert [camera is not None and camera.intrinsics[1, 1] for camera in cameras] == [82, 80]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("poses.json", "{not json"),
        ("poses.json", "[]"),
        ("poses.json", json.dumps({"000": np.eye(4).tolist()})),
        ("poses.json", json.dumps(dict.fromkeys(["000", "001"], np.eye(3).tolist()))),
        ("poses.json", json.dumps(dict.fromkeys(["000", "001"], np.diag([2.0, 2, 2, 1]).tolist()))),
        ("poses.json", json.dumps(dict.fromkeys(["000", "001"], np.diag([1.0, 1, -1, 1]).tolist()))),
        ("intrinsics.json", json.dumps([[1, 0], [0, 1]])),
        ("intrinsics.json", json.dumps({"000": np.eye(3).tolist()})),
        ("intrinsics.json", "3"),
    ],
)
def test_damaged_poses_and_intrinsics(tmp_path: Path, name: str, content: str) -> None:
    specimen(tmp_path, 2)
    (tmp_path / name).write_text(content)
    with pytest.raises(Rad3dError, match=name):
        read_captured(tmp_path)


def test_clouds_in_metres_are_asked_about(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "0.png", 0)
    write_cloud(tmp_path / "xyz" / "0.tiff", points_of(0), 1e-3)
    with pytest.raises(UnitError, match="--unit m"):
        read_scan(tmp_path)


def test_clouds_in_another_order_or_frame_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "0.png", 0)
    points = points_of(0)
    about = np.array([0, 0, 300.0])
    turned = transform_points(rotation_about(np.array([0, 1.0, 0]), 0.6, about), points)
    for wrong in (points.transpose(1, 0, 2).reshape(*HW, 3), points * np.float32([1, -1, 1]), turned):
        write_cloud(tmp_path / "xyz" / "0.tiff", wrong)
        with pytest.raises(ScanError, match="camera's"):
            read_captured(tmp_path)
    write_cloud(tmp_path / "xyz" / "0.tiff", turned)
    (tmp_path / "intrinsics.json").write_text(json.dumps(CAMERA.intrinsics.tolist()))
    assert read_captured(tmp_path)[0].points_mm is not None


def test_no_images(tmp_path: Path) -> None:
    write_cloud(tmp_path / "s" / "xyz" / "0.tiff", points_of(0))
    with pytest.raises(ScanError, match="got none"):
        read_scan(tmp_path / "s")


def ramp(dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    return np.linspace(0, np.iinfo(dtype).max, int(np.prod(shape))).astype(dtype).reshape(shape)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_pictures_of_all_kinds_become_8_bit_rgb(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    grey, colour = ramp(np.uint8, (6, 9)), ramp(np.uint8, (6, 9, 3))
    deep = ramp(np.uint16, (6, 9))
    alpha = np.concatenate([colour, np.full((6, 9, 1), 7, np.uint8)], axis=2)
    for values, wanted in (
        (grey, grey[..., None].repeat(3, 2)),
        (colour, colour),
        (alpha, colour),
        (deep, (deep // 256).astype(np.uint8)[..., None].repeat(3, 2)),
    ):
        Image.fromarray(values).save(path)
        image = read_image(path)
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, wanted)
    Image.fromarray(np.stack([grey, grey], axis=2), "LA").save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_image(tmp_path / "la.png"), grey[..., None].repeat(3, 2))
    Image.fromarray(grey > 99).save(tmp_path / "bits.png")
    assert set(np.unique(read_image(tmp_path / "bits.png"))) == {0, 255}
    Image.fromarray(colour).quantize(256).save(tmp_path / "palette.png")
    assert np.abs(read_image(tmp_path / "palette.png").astype(int) - colour).max() < 16


def test_deep_colour_tiff(tmp_path: Path) -> None:
    deep = ramp(np.uint16, (6, 9, 3))
    tifffile.imwrite(tmp_path / "a.tiff", deep, photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tiff"), deep // 256)
    tifffile.imwrite(tmp_path / "b.tiff", deep.astype(np.float32), photometric="rgb")
    with pytest.raises(ScanError, match="float32"):
        read_image(tmp_path / "b.tiff")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff"])
def test_damaged_pictures(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(image_of(0)).save(path)
    data = path.read_bytes()
    for content in (b"", b"x" * 50, data[: len(data) // 2]):
        path.write_bytes(content)
        with pytest.raises(ScanError, match=f"a\\.{suffix}"):
            read_image(path)
