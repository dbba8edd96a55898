"""Captured views as files, in the two layouts of 3D-ADAM."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image as PilImage

from rad3d.view import View


def png_bytes(image: np.ndarray) -> bytes:
    """An 8-bit image as a PNG file."""
    file = io.BytesIO()
    PilImage.fromarray(image).save(file, "png", compress_level=1)
    return file.getvalue()


def write_raw_view(
    sensor: Path, stem: str, view: View, image: bytes, instance: np.ndarray, kinds: Sequence[str]
) -> None:
    """`images/`, `xyz/` (one vertex per pixel, NaN = missing) and, where a defect is seen, its masks.

    Args:
        sensor: the sensor's folder in the specimen's.
        stem: what all file names begin with.
        view: image and points.
        image: the view's image as PNG.
        instance: (H, W) number of the defect, 0 = good.
        kinds: the type of each number, from 1.
    """
    _write(sensor / "images" / f"{stem}_image.png", image)
    _write_organised_ply(sensor / "xyz" / f"{stem}_cloud.ply", view)
    numbers = [number for number in range(1, len(kinds) + 1) if (instance == number).any()]
    if numbers:
        _write(sensor / "masks" / f"{stem}_image.png", png_bytes(instance.astype(np.uint8)))
        _write(sensor / "binary_masks" / f"{stem}_image.png", png_bytes(255 * (instance > 0).astype(np.uint8)))
    for number in numbers:
        name = f"{stem}_image_{kinds[number - 1]}_defect_{number}.png"
        _write(sensor / "defect_masks" / name, png_bytes(255 * (instance == number).astype(np.uint8)))


def write_mvtec_view(folder: Path, stem: str, view: View, image: bytes, instance: np.ndarray) -> None:
    """`rgb/`, `xyz/` (float32 tiff: x, y, z in mm, 0 = missing) and `ground_truth/` (255 = defect)."""
    assert view.points_mm is not None
    _write(folder / "rgb" / f"{stem}.png", image)
    _write(folder / "ground_truth" / f"{stem}.png", png_bytes(255 * (instance > 0).astype(np.uint8)))
    path = folder / "xyz" / f"{stem}.tiff"
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.nan_to_num(view.points_mm), photometric="rgb", metadata=None, software=False)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _write_organised_ply(path: Path, view: View) -> None:
    assert view.points_mm is not None
    rows = np.empty(view.image[..., 0].size, [("xyz", "<f4", (3,)), ("rgb", "u1", (3,))])
    rows["xyz"], rows["rgb"] = view.points_mm.reshape(-1, 3), view.image.reshape(-1, 3)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    header += [f"property float {axis}" for axis in "xyz"]
    header += [f"property uchar {channel}" for channel in ("red", "green", "blue")]
    _write(path, "\n".join([*header, "end_header\n"]).encode() + rows.tobytes())
