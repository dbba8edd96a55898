"""Array types with their shapes. Lengths are millimetres, angles radians, sizes (height, width)."""

from typing import TypeAlias

from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray

Points: TypeAlias = Float[ndarray, "n 3"]
"""Positions or directions, one row each."""
Faces: TypeAlias = Int[ndarray, "m 3"]
"""Triangles as rows of vertex indices."""
Colours: TypeAlias = UInt8[ndarray, "n 3"]
"""Red, green, blue per point."""
Vector: TypeAlias = Float[ndarray, "3"]
Values: TypeAlias = Float[ndarray, "n"]
"""One number per point."""
Indices: TypeAlias = Int[ndarray, "n"]
Flags: TypeAlias = Bool[ndarray, "n"]
Pixels: TypeAlias = Float[ndarray, "n 2"]
"""Image positions (x, y); the centre of the first pixel is (0.5, 0.5)."""
Image: TypeAlias = UInt8[ndarray, "h w 3"]
PointMap: TypeAlias = Float[ndarray, "h w 3"]
"""One position or direction per pixel; NaN where there is no surface."""
ScoreMap: TypeAlias = Float[ndarray, "h w"]
Mask: TypeAlias = Bool[ndarray, "h w"]
Pose: TypeAlias = Float[ndarray, "4 4"]
"""A rigid transform, named target_from_source."""
Matrix3: TypeAlias = Float[ndarray, "3 3"]

__all__ = [
    "Colours",
    "Faces",
    "Flags",
    "Image",
    "Indices",
    "Mask",
    "Matrix3",
    "Pixels",
    "PointMap",
    "Points",
    "Pose",
    "ScoreMap",
    "Values",
    "Vector",
]
