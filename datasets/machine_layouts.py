"""Captured views as files, in the two layouts of 3D-ADAM."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image as PilImage

from rad3d.view import View


def write_raw_view(sensor: Path, stem: str, view: View, instance: np.ndarray, kinds: Sequence[str]) -> None:
    """`images/`, `xyz/` (one vertex per pixel, NaN = missing) and, where a defect is seen, its masks.

    Args:
        sensor: the sensor's folder in the specimen's.
        stem: what all file names begin with.
        view: image and points.
        instance: (H, W) number of the defect, 0 = good.
        kinds: the type of each number, from 1.
    """
    _write_png(sensor / "images" / f"{stem}_image.png", view.image)
    _write_organised_ply(sensor / "xyz" / f"{stem}_cloud.ply", view)
    if (instance > 0).any():
        _write_png(sensor / "masks" / f"{stem}_image.png", instance.astype(np.uint8))
        _write_png(sensor / "binary_masks" / f"{stem}_image.png", 255 * (instance > 0).astype(np.uint8))
    for number in np.unique(instance[instance > 0]).tolist():
        name = f"{stem}_image_{kinds[number - 1]}_defect_{number}.png"
        _write_png(sensor / "defect_masks" / name, 255 * (instance == number).astype(np.uint8))


def write_mvtec_view(folder: Path, stem: str, view: View, instance: np.ndarray) -> None:
    """`rgb/`, `xyz/` (float32 tiff: x, y, z in mm, 0 = missing) and `ground_truth/` (255 = defect)."""
    assert view.points_mm is not None
    _write_png(folder / "rgb" / f"{stem}.png", view.image)
    _write_png(folder / "ground_truth" / f"{stem}.png", 255 * (instance > 0).astype(np.uint8))
    path = folder / "xyz" / f"{stem}.tiff"
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.nan_to_num(view.points_mm), photometric="rgb", metadata=None, software=False)


def _write_png(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PilImage.fromarray(image).save(path, compress_level=1)


def _write_organised_ply(path: Path, view: View) -> None:
    assert view.points_mm is not None
    rows = np.empty(view.image[..., 0].size, [("xyz", "<f4", (3,)), ("rgb", "u1", (3,))])
    rows["xyz"], rows["rgb"] = view.points_mm.reshape(-1, 3), view.image.reshape(-1, 3)
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    header += [f"property float {axis}" for axis in "xyz"]
    header += [f"property uchar {channel}" for channel in ("red", "green", "blue")]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("\n".join([*header, "end_header\n"]).encode() + rows.tobytes())
