"""One image of a part with a surface point per pixel."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from rad3d.arrays import Image, Mask, PointMap, Pose
from rad3d.camera import Camera
from rad3d.errors import ScanError
from rad3d.geometry import transform_directions, transform_points

BACKGROUND = 128
"""Grey of what is not the part: of rendered views, and of captured ones when they are compared."""


def check_file_name(name: str) -> None:
    """Refuse a view's name that is no plain name of a file: results are written under it.

    Raises:
        ScanError: it is one of another folder.
    """
    if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
        raise ScanError(
            f"view {name!r}",
            expected="a plain name, as of a file",
            got="a path",
            remedy="name the view after its image",
        )


@dataclass(frozen=True, eq=False)
class View:
    """One image with a point per pixel, captured by a sensor or rendered from a mesh or cloud.

    `points_mm` and `normals` are in the frame that `camera.part_from_camera` maps into: the part frame once
    registered, the camera's own frame (pose identity) before. An image without a cloud has None for all three.

    Args:
        name: unique within its specimen, e.g. the image's stem.
        kind: captured or rendered.
        image: (H, W, 3) uint8.
        points_mm: (H, W, 3) float32, NaN where there is no surface.
        normals: (H, W, 3) float32 unit, towards the camera, NaN where unknown.
        camera: intrinsics and pose.
    """

    name: str
    kind: Literal["captured", "rendered"]
    image: Image
    points_mm: PointMap | None = None
    normals: PointMap | None = None
    camera: Camera | None = None

    def __post_init__(self) -> None:
        check_file_name(self.name)
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ScanError(
                f"view {self.name}",
                expected="an image (H, W, 3) uint8",
                got=f"{self.image.shape} {self.image.dtype}",
                remedy="convert the image to 8-bit RGB",
            )
        for what, array in (("points", self.points_mm), ("normals", self.normals)):
            if array is not None and array.shape != self.image.shape:
                raise ScanError(
                    f"view {self.name}",
                    expected=f"{what} of the image's size {self.image.shape}",
                    got=f"{array.shape}",
                    remedy="pair each image with its own organised cloud",
                )
        if self.camera is not None and self.camera.size_hw != self.size_hw:
            raise ScanError(
                f"view {self.name}",
                expected=f"a camera of image size {self.size_hw}",
                got=f"{self.camera.size_hw}",
                remedy="scale the intrinsics with the image",
            )

    @property
    def size_hw(self) -> tuple[int, int]:
        """Image height and width."""
        return self.image.shape[0], self.image.shape[1]

    @cached_property
    def mask(self) -> Mask:
        """Where there is surface (everywhere for an image without a cloud)."""
        if self.points_mm is None:
            return np.ones(self.size_hw, bool)
        return np.asarray(np.isfinite(self.points_mm).all(axis=-1))

    def moved(self, target_from_source: Pose) -> "View":
        """The same view with points, normals and camera in another frame."""
        return replace(
            self,
            points_mm=None if self.points_mm is None else transform_points(target_from_source, self.points_mm),
            normals=None if self.normals is None else transform_directions(target_from_source, self.normals),
            camera=None if self.camera is None else self.camera.moved(target_from_source),
        )
