"""Captured specimens: folders of images with organised clouds, as sensors write them."""

import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image as PilImage

from rad3d.arrays import Image, Matrix3, PointMap, Pose
from rad3d.camera import Camera
from rad3d.errors import ScanError
from rad3d.files import read_bytes
from rad3d.organised import FEWEST_POINTS, NotOrganisedError, estimate_intrinsics, normals_of, organised_points
from rad3d.scan import MM_PER_UNIT, Unit
from rad3d.view import View

_log = logging.getLogger(__name__)

MAX_RESIDUAL = 0.02
"""Of the image's longer side. Lens distortion stays below; clouds in another frame or pixel order lie above."""
FALLBACK_ANGLE = 0.6
"""Field of view in radians of a camera that saw nothing from which it could be estimated."""

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
_CLOUD_SUFFIXES = {".ply", ".pcd", ".tif", ".tiff"}
_KIND_WORDS = {"image", "img", "rgb", "color", "colour", "cloud", "xyz", "points", "pointcloud", "depth"}
_PARTS = ("images", "rgb", "xyz")
_SENSOR = re.compile(
    r"(mechmind|realsense|zed|zivid|photoneo|ensenso|kinect|azure).*"
    r"|(nano|lsr-?l?|rs|sensor|camera|cam)[-_ ]?[a-z]?\d*",
    re.IGNORECASE,
)


def _holds_views(folder: Path) -> bool:
    return any((folder / part).is_dir() for part in _PARTS)


def _sensors(folder: Path, sensor: str | None) -> dict[str, Path]:
    """Sub-folders that are sensors by their name (or the one asked for) and hold views."""
    return {
        item.name: item
        for item in sorted(folder.iterdir())
        if item.is_dir() and (item.name == sensor or _SENSOR.fullmatch(item.name)) and _holds_views(item)
    }


def is_captured(folder: Path, sensor: str | None = None) -> bool:
    """Whether a directory is one captured specimen."""
    return _holds_views(folder) or bool(_sensors(folder, sensor))


def sensor_folder(folder: Path, sensor: str | None = None) -> Path:
    """The folder with the views of one sensor.

    Raises:
        ScanError: no views there, several sensors and none chosen, or the chosen one is not there.
    """
    if _holds_views(folder):
        return folder
    sensors = _sensors(folder, sensor)
    if sensor is not None and sensor in sensors:
        return sensors[sensor]
    if len(sensors) == 1 and sensor is None:
        return next(iter(sensors.values()))
    if not sensors:
        raise ScanError(
            folder,
            expected="a captured specimen (a folder with images/ and xyz/)",
            got="no such folder in it",
            remedy="give a scan file or the folder of one specimen",
        )
    raise ScanError(
        folder,
        expected="one sensor" if sensor is None else f"the sensor '{sensor}'",
        got=f"the sensors {', '.join(sensors)}",
        remedy=f"choose one, e.g. --sensor {next(iter(sensors))}",
    )


def read_captured(folder: str | Path, *, sensor: str | None = None, unit: Unit | None = None) -> tuple[View, ...]:
    """The views of one captured specimen, in order of their image names.

    The folder holds `images/` (or `rgb/`) and `xyz/` (ply, pcd or tiff), directly or in a folder per sensor, as
    3D-ADAM has them. Beside them may lie `poses.json`, {image stem: 4 x 4 part_from_camera, in the unit of the
    clouds}, and `intrinsics.json`, a 3 x 3 matrix or {image stem: 3 x 3}. Without poses every view stays in its own
    camera's frame; without intrinsics they are estimated from the clouds. An image whose cloud is missing or not
    organised gives a view without points, with a warning. Masks are not read.

    Raises:
        ScanError: no views, damaged or ambiguous files, or several sensors and none chosen.
        UnitError: the clouds' distance makes no sense in that unit.
    """
    folder = Path(folder)
    views_in = sensor_folder(folder, sensor)
    images = _files(views_in, ("images", "rgb"), _IMAGE_SUFFIXES)
    if not images:
        raise ScanError(views_in, expected="images in images/ or rgb/", got="none", remedy="add the sensor's images")
    cloud_of = _paired(images, _files(views_in, ("xyz",), _CLOUD_SUFFIXES))
    poses = _matrices((views_in, folder), "poses.json", (4, 4), images)
    intrinsics = _matrices((views_in, folder), "intrinsics.json", (3, 3), images)
    lost: list[str] = []

    def read(path: Path) -> tuple[str, Image, PointMap | None]:
        image = read_image(path)
        cloud = cloud_of.get(path)
        if cloud is None:
            lost.append(f"{path.name} has no cloud")
            return path.stem, image, None
        try:
            return path.stem, image, organised_points(cloud, (image.shape[0], image.shape[1]), unit=unit)
        except NotOrganisedError as error:
            lost.append(str(error))
            return path.stem, image, None

    with ThreadPoolExecutor() as pool:
        read_views = list(pool.map(read, images))
        if lost:
            _log.warning("%s: %d of %d views are images without points: %s", folder, len(lost), len(images), lost[0])
        cameras = _cameras(views_in, read_views, intrinsics)

        def view(item: tuple[str, Image, PointMap | None]) -> View:
            name, image, points = item
            if points is None:
                return View(name, "captured", image)
            camera = cameras[name]
            made = View(name, "captured", image, points, normals_of(points, camera.intrinsics), camera)
            return made.moved(_in_mm(poses[name], unit)) if poses else made

        return tuple(pool.map(view, read_views))


def _in_mm(pose: Pose, unit: Unit | None) -> Pose:
    pose = pose.copy()
    pose[:3, 3] *= MM_PER_UNIT[unit or "mm"]
    return pose


def _cameras(
    folder: Path, views: Sequence[tuple[str, Image, PointMap | None]], given: Mapping[str, Matrix3]
) -> dict[str, Camera]:
    """A camera for every view with points: as given, or estimated, or (nothing seen) as the other views have it."""
    found: dict[str, Camera] = {}
    without: dict[str, tuple[int, int]] = {}
    for name, _, points in views:
        if points is None:
            continue
        size_hw = (points.shape[0], points.shape[1])
        if given:
            found[name] = Camera(size_hw, given[name], np.eye(4))
            continue
        try:
            intrinsics, residual = estimate_intrinsics(points)
        except ScanError as error:
            if np.isfinite(points).all(axis=-1).sum() >= FEWEST_POINTS:
                raise ScanError(folder / name, expected=error.expected, got=error.got, remedy=error.remedy) from error
            without[name] = size_hw
            continue
        if residual > MAX_RESIDUAL * max(size_hw):
            raise ScanError(
                folder / name,
                expected=f"a cloud in its camera's frame (pinhole fit within {MAX_RESIDUAL * max(size_hw):.1f} pixels)",
                got=f"{residual:.1f} pixels",
                remedy="export the clouds in the camera's frame, row after row, or give intrinsics.json",
            )
        found[name] = Camera(size_hw, intrinsics, np.eye(4))
    for name, size_hw in without.items():
        alike = [camera.intrinsics for camera in found.values() if camera.size_hw == size_hw]
        fallback = Camera.from_field_of_view(size_hw, FALLBACK_ANGLE).intrinsics
        found[name] = Camera(size_hw, np.median(alike, axis=0) if alike else fallback, np.eye(4))
    return found


def read_image(path: str | Path) -> Image:
    """An image as (H, W, 3) uint8: grey is repeated, 16 bits keep their upper 8, alpha is dropped.

    Raises:
        ScanError: not an image, truncated, or of floats.
    """
    path = Path(path)
    read_bytes(path, "an image", 4)
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            import tifffile

            values = tifffile.imread(path)
        else:
            with PilImage.open(path) as image:
                plain = image if image.mode in ("L", "LA", "RGB", "RGBA", "I;16", "I") else image.convert("RGB")
                values = np.asarray(plain)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's and tifffile's ways to say it is damaged
        raise ScanError(
            path, expected="an image", got=f"one that cannot be read ({error})", remedy="copy it again"
        ) from error
    if values.ndim == 3 and values.shape[2] in (2, 4):
        values = values[..., :-1]
    if values.dtype == np.int32:  # Pillow's mode for some 16-bit files
        values = values.astype(np.uint16)
    if values.ndim not in (2, 3) or values.dtype not in (np.uint8, np.uint16, np.bool_):
        raise ScanError(
            path, expected="an 8 or 16-bit picture", got=f"{values.shape} {values.dtype}", remedy="convert it to PNG"
        )
    if values.dtype == np.uint16:
        values = values >> 8
    elif values.dtype == np.bool_:
        values = values * np.uint8(255)
    values = values.astype(np.uint8).reshape(*values.shape[:2], -1)
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))


def _files(folder: Path, names: tuple[str, ...], suffixes: set[str]) -> list[Path]:
    return [
        item
        for name in names
        if (folder / name).is_dir()
        for item in sorted((folder / name).iterdir())
        if item.suffix.lower() in suffixes and not item.name.startswith(".")
    ]


def _words(path: Path) -> tuple[str, ...]:
    """The words of a file name without those that say what kind of file it is."""
    return tuple(word for word in re.findall(r"[a-z]+|\d+", path.stem.lower()) if word not in _KIND_WORDS)


def _view_key(path: Path) -> tuple[str, ...]:
    """The last number in a file name and what follows it: ("7", "a") for part_Nano_007_a_image.png."""
    words = _words(path)
    last = max((i for i, word in enumerate(words) if word.isdecimal()), default=len(words))
    return (str(int(words[last])), *words[last + 1 :]) if last < len(words) else ()


def _paired(images: list[Path], clouds: list[Path]) -> dict[Path, Path]:
    """The cloud of each image: by name, else by view number."""
    stems = Counter(path.stem for path in images)
    for path in images:
        if stems[path.stem] > 1:
            raise ScanError(
                path.parent,
                expected="one image per view",
                got=f"several named {path.stem}",
                remedy="remove all but one",
            )
    result: dict[Path, Path] = {}
    for key in (_words, _view_key):
        free_images = [path for path in images if path not in result]
        free_clouds = [path for path in clouds if path not in result.values()]
        image_keys, cloud_keys = Counter(map(key, free_images)), Counter(map(key, free_clouds))
        by_key = {key(path): path for path in free_clouds}
        for path in free_images:
            name = key(path)
            if not name or name not in by_key:
                continue
            if image_keys[name] > 1 or cloud_keys[name] > 1:
                raise ScanError(
                    path,
                    expected="one image and one cloud of this view",
                    got=f"{image_keys[name]} and {cloud_keys[name]} that are called '{'_'.join(name)}'",
                    remedy="name each image and its cloud alike",
                )
            result[path] = by_key[name]
    unused = [path.name for path in clouds if path not in result.values()]
    if unused:
        _log.warning("%s: %d clouds without an image are left out, e.g. %s", clouds[0].parent, len(unused), unused[0])
    return result


def _matrices(folders: Sequence[Path], name: str, shape: tuple[int, int], images: list[Path]) -> dict[str, np.ndarray]:
    """Matrices by image stem from the first of the folders that has the file; empty if none has."""
    path = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if path is None:
        return {}
    stems = [image.stem for image in images]
    wrong = ScanError(
        path,
        expected=f"a {shape[0]} x {shape[1]} matrix for every image" + (", rigid" if shape == (4, 4) else ""),
        got="other content",
        remedy=f"write {{image stem: matrix}}, e.g. for {stems[0]}",
    )
    try:
        content = json.loads(path.read_text())
        if isinstance(content, list) and shape == (3, 3):
            content = dict.fromkeys(stems, content)
        matrices = {stem: np.array(content[stem], np.float64) for stem in stems}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise wrong from error
    for matrix in matrices.values():
        rigid = shape == (3, 3) or _is_rigid(matrix)
        if matrix.shape != shape or not np.isfinite(matrix).all() or not rigid:
            raise wrong
    return matrices


def _is_rigid(matrix: np.ndarray) -> bool:
    turn = matrix[:3, :3]
    return matrix.shape == (4, 4) and bool(
        np.allclose(turn @ turn.T, np.eye(3), atol=1e-3)
        and np.linalg.det(turn) > 0
        and np.allclose(matrix[3], (0, 0, 0, 1))
    )
