"""The outcome of an inspection, as a value that can be saved and read back."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
from PIL import Image as PilImage

from rad3d.arrays import Faces, Image, Points, Pose, ScoreMap, Values
from rad3d.errors import ResultError
from rad3d.io import read_ply, write_ply
from rad3d.scan import MM_PER_UNIT, Unit

SCHEMA_VERSION = 1
Verdict = Literal["pass", "fail", "incomplete"]


@dataclass(frozen=True)
class Defect:
    """One connected anomalous region of the surface.

    `centroid_mm` and `normal` are along the input file's axes, `centroid_part_mm` in the part frame; `extent_mm` are
    the sides of the oriented box, largest first.
    """

    id: int
    centroid_mm: tuple[float, float, float]
    centroid_part_mm: tuple[float, float, float]
    normal: tuple[float, float, float]
    area_mm2: float
    extent_mm: tuple[float, float, float]
    peak_score: float
    mean_score: float


@dataclass(frozen=True, eq=False)
class ViewScores:
    """A view as it was judged.

    Args:
        name: the view's name.
        image: (H, W, 3) uint8.
        score: (H, W) float32, NaN where not inspected.
        part_from_camera: (4, 4), None for an image without a cloud.
        intrinsics: (3, 3), None for an image without a cloud.
    """

    name: str
    image: Image
    score: ScoreMap
    part_from_camera: Pose | None = None
    intrinsics: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class PointScores:
    """Scores of every vertex of the scan, in the order of its file.

    Args:
        anomaly_score: (n,) float32, the fused score that the verdict uses; higher is worse, NaN = not inspected.
        raw_score: (n,) float32, 1 - cosine similarity, fused.
        agreement: (n,) float32, share of the views that see the point and find it anomalous; NaN = unseen.
        views_seen: (n,) int32.
    """

    anomaly_score: Values
    raw_score: Values
    agreement: Values
    views_seen: np.ndarray
