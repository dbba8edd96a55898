"""The pinhole camera, and the only place where pixels and millimetres meet.

OpenCV axes: x right, y down, z forward; the centre of the first pixel is (0.5, 0.5); `depth_mm` is along z.
"""

from dataclasses import dataclass, replace

import numpy as np

from rad3d.arrays import Flags, Indices, Matrix3, Pixels, PointMap, Points, Pose, ScoreMap, Values, Vector
from rad3d.errors import SettingsError
from rad3d.geometry import inverse, transform_directions, transform_points


@dataclass(frozen=True, eq=False)
class Camera:
    """Intrinsics, image size and pose.

    Args:
        size_hw: image height and width in pixels.
        intrinsics: (3, 3) matrix with focal lengths and principal point in pixels.
        part_from_camera: pose; identity while the camera is not registered.

    >>> camera = Camera.from_field_of_view((480, 640), 0.8)
    >>> pixels_xy, depth_mm = camera.project(np.array([[0.0, 0.0, 100.0]]))
    >>> pixels_xy[0], depth_mm[0]
    (array([320., 240.]), np.float64(100.0))
    """

    size_hw: tuple[int, int]
    intrinsics: Matrix3
    part_from_camera: Pose

    def __post_init__(self) -> None:
        for name, array, shape in (
            ("intrinsics", self.intrinsics, (3, 3)),
            ("part_from_camera", self.part_from_camera, (4, 4)),
        ):
            if array.shape != shape or not np.isfinite(array).all():
                got = f"shape {array.shape}" if array.shape != shape else "values that are not finite"
                raise SettingsError(
                    f"camera {name}", expected=f"a finite {shape} array", got=got, remedy="check the calibration"
                )

    @staticmethod
    def from_field_of_view(size_hw: tuple[int, int], angle: float, part_from_camera: Pose | None = None) -> "Camera":
        """A camera whose shorter image side spans `angle` radians, with the principal point in the middle."""
        height, width = size_hw
        focal = min(size_hw) / 2 / np.tan(angle / 2)
        intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
        return Camera(size_hw, intrinsics, np.eye(4) if part_from_camera is None else part_from_camera)

    @property
    def centre_mm(self) -> Vector:
        """Where the camera stands in the part frame."""
        return np.asarray(self.part_from_camera[:3, 3])

    @property
    def direction(self) -> Vector:
        """Where the camera looks in the part frame (unit)."""
        return np.asarray(self.part_from_camera[:3, 2])

    def moved(self, target_from_part: Pose) -> "Camera":
        """The same camera with its pose in another frame."""
        return replace(self, part_from_camera=target_from_part @ self.part_from_camera)

    def project(self, points_mm: Points) -> tuple[Pixels, Values]:
        """Points of the part frame (n, 3) -> pixels_xy (n, 2) and depth_mm (n,); NaN pixels where depth <= 0."""
        in_camera = transform_points(inverse(self.part_from_camera), points_mm)
        depth = in_camera[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            homogeneous = in_camera @ self.intrinsics.T.astype(in_camera.dtype)
            pixels = np.where(depth[:, None] > 0, homogeneous[:, :2] / homogeneous[:, 2:], np.nan)
        return pixels, depth

    def in_image(self, pixels_xy: Pixels) -> tuple[Indices, Indices, Flags]:
        """Rows and columns (n,) of positions that `project` gave (n, 2), and whether they are in the image."""
        column, row = np.floor(np.nan_to_num(pixels_xy, nan=-1.0)).astype(int).T
        height, width = self.size_hw
        return row, column, (column >= 0) & (column < width) & (row >= 0) & (row < height)

    def ray_directions(self) -> PointMap:
        """Rays through all pixel centres (h, w, 3) in the part frame, scaled to depth 1 (not unit length)."""
        height, width = self.size_hw
        x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(self.intrinsics).T
        return transform_directions(self.part_from_camera, rays)

    def unproject(self, depth_mm: ScoreMap) -> PointMap:
        """A depth map (h, w) -> positions (h, w, 3) in the part frame; NaN depth gives NaN positions."""
        return np.asarray(self.centre_mm + self.ray_directions() * depth_mm[..., None])
