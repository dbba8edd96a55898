"""Organised clouds: one point per pixel, in the frame of the camera (OpenCV axes)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rad3d.arrays import Mask, Matrix3, PointMap
from rad3d.clouds import read_pcd
from rad3d.errors import ScanError, UnitError
from rad3d.geometry import unit as unit_vectors
from rad3d.ply import read_ply
from rad3d.scan import MM_PER_UNIT, Unit

NEAREST_MM, FURTHEST_MM = 10.0, 10_000.0
"""Median distance from the camera that a cloud can have; outside, the unit must be wrong."""


class NotOrganisedError(ScanError):
    """A cloud that does not give one point per pixel of its image; the image alone can still be used."""


def organised_points(path: str | Path, size_hw: tuple[int, int], *, unit: Unit | None = None) -> PointMap:
    """The point of every pixel of an image of `size_hw`, (h, w, 3) float32 in mm, NaN where the sensor saw nothing.

    Reads PLY with one vertex per pixel (row after row), PCD with HEIGHT > 1, and tiffs with the channels x, y, z.
    Points that are not finite or have depth 0 are missing.

    Raises:
        NotOrganisedError: another number of points, or a tiff that holds a grey depth picture instead of positions.
        ScanError: a damaged file, or not one of these formats.
        UnitError: the distance from the camera makes no sense in that unit.
    """
    path = Path(path)
    height, width = size_hw
    suffix = path.suffix.lower()
    if suffix == ".ply":
        ply = read_ply(path)
        points, found_hw = ply.vertices, _header_size(ply.comments)
        if found_hw is None and len(points) == height * width:
            found_hw = (height, width)
    elif suffix == ".pcd":
        pcd = read_pcd(path)
        points = np.stack([pcd.columns[axis] for axis in "xyz"], axis=1)
        found_hw = pcd.size_hw if pcd.size_hw[0] > 1 else None
    elif suffix in (".tif", ".tiff"):
        points = _read_tiff(path)
        found_hw = points.shape[:2]
    else:
        raise ScanError(
            path,
            expected="an organised cloud (ply, pcd, tiff)",
            got=f"the suffix '{suffix}'",
            remedy="convert it to PLY",
        )
    if found_hw != (height, width) or points.size != 3 * height * width:
        got = f"{points.size // 3} points" + (
            " in no order of pixels" if found_hw is None else f", {found_hw[0]} x {found_hw[1]}"
        )
        raise NotOrganisedError(
            path,
            expected=f"one point per pixel of its image ({height} x {width}, height x width)",
            got=got,
            remedy="export the organised cloud at the image's resolution; without it only the image is used",
        )
    points = points.reshape(height, width, 3).astype(np.float32)
    missing = ~np.isfinite(points).all(axis=-1) | (points[..., 2] == 0)
    points[missing] = np.nan
    _check_distance(path, points[~missing], unit)
    return np.asarray(points * np.float32(MM_PER_UNIT[unit or "mm"]))


def _header_size(comments: tuple[str, ...]) -> tuple[int, int] | None:
    """Height and width where the PLY header states them (obj_info num_cols, num_rows; comment width, height)."""
    stated = {}
    for comment in comments:
        words = comment.lower().replace(":", " ").replace("=", " ").split()
        if len(words) == 2 and words[1].isdecimal():
            stated[words[0]] = int(words[1])
    for height, width in (("num_rows", "num_cols"), ("height", "width")):
        if {height, width} <= set(stated):
            return stated[height], stated[width]
    return None


def _read_tiff(path: Path) -> np.ndarray:
    import tifffile

    try:
        values = tifffile.imread(path)
    except (tifffile.TiffFileError, ValueError, OSError) as error:
        raise ScanError(
            path, expected="a tiff with x, y, z", got=f"one that cannot be read ({error})", remedy="copy it again"
        ) from error
    if values.ndim != 3 or values.shape[2] != 3 or values.dtype.kind != "f":
        raise NotOrganisedError(
            path,
            expected="a float tiff with the channels x, y, z",
            got=f"{values.shape} {values.dtype}",
            remedy="export positions, not a picture; without them only the image is used",
        )
    if (
        (values[..., 0] == values[..., 2]).all()
        and (values[..., 1] == values[..., 2]).all()
        and np.nanmax(values, initial=0) > 0
    ):
        raise NotOrganisedError(
            path,
            expected="a tiff with the channels x, y, z",
            got="three identical channels (a depth picture, which has lost its scale and x, y)",
            remedy="use the raw cloud the sensor wrote; without it only the image is used",
        )
    return np.asarray(values)


def _check_distance(path: Path, points: np.ndarray, unit: Unit | None) -> None:
    if not len(points):
        return
    distance = float(np.median(np.linalg.norm(points[:: max(1, len(points) // 100_000)], axis=1)))
    if NEAREST_MM <= distance * MM_PER_UNIT[unit or "mm"] <= FURTHEST_MM:
        return
    plausible = [u for u, factor in MM_PER_UNIT.items() if NEAREST_MM <= distance * factor <= FURTHEST_MM]
    readings = ", ".join(f"{distance * factor:.4g} mm if in {u}" for u, factor in MM_PER_UNIT.items())
    raise UnitError(
        path,
        expected=f"points {NEAREST_MM:g} to {FURTHEST_MM:g} mm from the camera (read as {unit or 'mm'})",
        got=f"a median distance of {readings}",
        remedy="give " + " or ".join(f"--unit {u}" for u in plausible)
        if plausible
        else "scale the clouds to millimetres",
    )


FEWEST_POINTS = 50
"""Intrinsics are not estimated from fewer."""


def estimate_intrinsics(points_mm: PointMap) -> tuple[Matrix3, float]:
    """The pinhole camera that an organised cloud was seen with, and how well it fits (RMS in pixels).

    Least squares of x = fx X/Z + cx and y = fy Y/Z + cy over pixel centres. Noise along the line of sight does not
    disturb it, so that a few hundred points do.

    Args:
        points_mm: (h, w, 3) in the camera's frame, NaN = missing.

    Raises:
        ScanError: too few points, or points that no camera at the origin can have seen like this.
    """
    rows, columns = np.nonzero(np.isfinite(points_mm).all(axis=-1))
    step = max(1, len(rows) // 200_000)
    rows, columns = rows[::step], columns[::step]
    points = points_mm[rows, columns].astype(np.float64)
    fits = []
    for axis, pixels in ((0, columns + 0.5), (1, rows + 0.5)):
        slope = points[:, axis] / points[:, 2]
        if len(slope) < FEWEST_POINTS or np.ptp(slope) < 1e-3:
            raise ScanError(
                "organised cloud",
                expected=f"points on at least {FEWEST_POINTS} pixels, spread over the image",
                got=f"{len(slope)}",
                remedy="give intrinsics.json",
            )
        design = np.stack([slope, np.ones_like(slope)], axis=1)
        (focal, centre), *_ = np.linalg.lstsq(design, pixels, rcond=None)
        fits.append((focal, centre, pixels - design @ (focal, centre)))
    (fx, cx, error_x), (fy, cy, error_y) = fits
    if fx <= 0 or fy <= 0:
        raise ScanError(
            "organised cloud",
            expected="points in the camera's frame (x right, y down, z forward)",
            got=f"focal lengths {fx:.1f} and {fy:.1f}",
            remedy="export the cloud in the camera's own frame, row after row",
        )
    residual = float(np.sqrt(np.mean(error_x**2 + error_y**2)))
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]), residual


WINDOW = 3
"""Normals are fitted over the pixels up to this many away."""
_STEEPEST = np.tan(np.deg2rad(75))
"""A neighbour further in depth than a surface of this incidence would be lies beyond a jump."""
_FEWEST = (2 * WINDOW + 1) ** 2 // 4


def normals_of(points_mm: PointMap, intrinsics: Matrix3 | None = None) -> PointMap:
    """Unit normals towards the camera, (h, w, 3) float32, from an organised cloud in the camera's frame.

    A plane is fitted to the inverse depth around each pixel, which for a plane is exactly linear in the image, so that
    only the noisy quantity is fitted. Pixels beyond a depth jump are left out; NaN where too few are left.

    Args:
        points_mm: (h, w, 3), NaN = missing.
        intrinsics: (3, 3); None = estimated from the cloud.
    """
    if intrinsics is None:
        intrinsics, _ = estimate_intrinsics(points_mm)
    normals = np.full(points_mm.shape, np.nan, np.float32)
    valid = np.isfinite(points_mm).all(axis=-1)
    rows, columns = np.flatnonzero(valid.any(axis=1)), np.flatnonzero(valid.any(axis=0))
    if not len(rows):
        return normals
    left, right = int(columns[0]), int(columns[-1]) + 1
    strip = 64  # rows at a time, so that the sums stay in the processor's cache
    for top in range(int(rows[0]), int(rows[-1]) + 1, strip):
        bottom = min(top + strip, int(rows[-1]) + 1)
        part = normals[top:bottom, left:right]
        depth = _padded(points_mm[..., 2], top, bottom, left, right)
        slope_x, slope_y, value, good = _inverse_depth_planes(depth, float(intrinsics[0, 0] + intrinsics[1, 1]) / 2)
        x, y = np.meshgrid(np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5)
        plane = np.stack([slope_x, slope_y, value - slope_x * x - slope_y * y], axis=-1)  # 1/Z = a x + b y + c
        normal = unit_vectors(-(plane @ intrinsics))  # n ~ K^T (a, b, c); minus: towards the camera
        part[good] = normal[good]
    return normals


def _padded(depth: np.ndarray, top: int, bottom: int, left: int, right: int) -> np.ndarray:
    """A cut-out with WINDOW more pixels on each side, NaN outside of the image."""
    height, width = depth.shape
    y0, y1, x0, x1 = (
        max(top - WINDOW, 0),
        min(bottom + WINDOW, height),
        max(left - WINDOW, 0),
        min(right + WINDOW, width),
    )
    margins = ((y0 - top + WINDOW, bottom + WINDOW - y1), (x0 - left + WINDOW, right + WINDOW - x1))
    return np.pad(depth[y0:y1, x0:x1].astype(np.float32), margins, constant_values=np.nan)


def _paths(depth: np.ndarray, steepest: np.float32) -> Iterator[tuple[int, list[tuple[int, Mask]]]]:
    """Row by row of the window, from which inner pixels one gets there (up or down, then along) without a jump."""
    height, width = depth.shape[0] - 2 * WINDOW, depth.shape[1] - 2 * WINDOW
    smooth_y = ~(np.abs(np.diff(depth, axis=0)) > steepest * depth[:-1])  # a missing pixel is no jump
    smooth_x = ~(np.abs(np.diff(depth, axis=1)) > steepest * depth[:, :-1])
    for up in (1, -1):
        column = np.ones((height, width), bool)
        for dy in range(0 if up > 0 else -1, up * (WINDOW + 1), up):
            if dy:
                top = WINDOW + dy - (up > 0)
                column = column & smooth_y[top : top + height, WINDOW : WINDOW + width]
            masks = [(0, column)]
            for along in (1, -1):
                near = column
                for dx in range(along, along * (WINDOW + 1), along):
                    left = WINDOW + dx - (along > 0)
                    near = near & smooth_x[WINDOW + dy : WINDOW + dy + height, left : left + width]
                    masks.append((dx, near))
            yield dy, masks


def _inverse_depth_planes(depth: np.ndarray, focal: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, Mask]:
    """Least-squares plane of 1/Z, times the pixel's own Z: slopes along x and y, value at the pixel, where it holds."""
    height, width = depth.shape[0] - 2 * WINDOW, depth.shape[1] - 2 * WINDOW
    centre = depth[WINDOW:-WINDOW, WINDOW:-WINDOW]
    per_pixel = np.float32(_STEEPEST / focal) * centre  # depth change per pixel at the steepest incidence
    n, sx, sy, sxx, sxy, syy, sq, sqx, sqy = np.zeros((9, height, width), np.float32)
    for dy, row in _paths(depth, np.float32(_STEEPEST / focal)):
        row_n, row_x, row_xx, row_q, row_qx = np.zeros((5, height, width), np.float32)
        for dx, near in row:
            other = depth[WINDOW + dy : WINDOW + dy + height, WINDOW + dx : WINDOW + dx + width]
            reach = np.float32(max(np.hypot(dx, dy), 1))
            use = near & (np.abs(other - centre) <= per_pixel * reach)  # False where either is NaN
            weight = use.astype(np.float32)
            q = np.where(use, centre / other - 1, 0)  # relative to the centre: exact enough in float32
            row_n += weight
            row_x += np.float32(dx) * weight
            row_xx += np.float32(dx * dx) * weight
            row_q += q
            row_qx += np.float32(dx) * q
        for total, part, power in (
            (n, row_n, 0), (sx, row_x, 0), (sxx, row_xx, 0), (sq, row_q, 0), (sqx, row_qx, 0),
            (sy, row_n, 1), (sxy, row_x, 1), (sqy, row_q, 1), (syy, row_n, 2),
        ):  # fmt: skip
            total += np.float32(dy**power) * part
    with np.errstate(divide="ignore", invalid="ignore"):
        mx, my, mq = sx / n, sy / n, sq / n
        cxx, cxy, cyy = sxx / n - mx * mx, sxy / n - mx * my, syy / n - my * my
        cqx, cqy = sqx / n - mq * mx, sqy / n - mq * my
        determinant = cxx * cyy - cxy * cxy
        good = (n >= _FEWEST) & (determinant > 0.1)  # not all on one line
        slope_x = (cyy * cqx - cxy * cqy) / determinant
        slope_y = (cxx * cqy - cxy * cqx) / determinant
        return slope_x, slope_y, 1 + mq - slope_x * mx - slope_y * my, good
