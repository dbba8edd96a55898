"""What is registered, a whole scan or what one camera saw: where to begin, and what of the part it lacks."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from rad3d.arrays import Matrix3, ScoreMap
from rad3d.errors import RegistrationError, ScanError
from rad3d.geometry import inverse, transform_directions, transform_points, unit
from rad3d.icp import Poses, Samples, Target, thin
from rad3d.organised import estimate_intrinsics, normals_of
from rad3d.reference import MIN_SAMPLES, Reference
from rad3d.segment import foreground
from rad3d.symmetry import about, rotation_grid
from rad3d.view import View

SCAN_SAMPLES = 16_000
ROTATIONS, VIEW_ROTATIONS = 600, 2000


class Query(Protocol):
    """What is registered: its samples, where to begin, and which surface of the part it says is not there."""

    @property
    def scan(self) -> Target: ...

    def starts(self, reference: Reference) -> Poses:
        """Poses to begin with."""

    def distances_back(self, samples: Samples, reach_mm: float, poses: Poses) -> np.ndarray:
        """(k, m) how far samples of the part are from the scan, at most the reach; NaN where the scan cannot tell."""


@dataclass(frozen=True, eq=False)
class Whole:
    """A mesh or cloud, from all sides or not."""

    scan: Target
    thorough: bool = False

    def starts(self, reference: Reference) -> Poses:
        """Rotations all round, with the scan's centre on the part's, and beside it in case half of it is missing."""
        target, scan = reference.target, self.scan
        spread = scan.samples.points_mm - scan.centre_mm
        lengths, axes = np.linalg.eigh(spread.T @ spread / len(spread))
        offsets = [np.zeros(3)]
        for length, axis in zip(np.sqrt(np.maximum(lengths, 0)), axes.T, strict=True):
            for factor in (0.6, 1.2, -0.6, -1.2) if self.thorough else (1, -1):
                offsets.append(factor * length * axis)
        rotations = rotation_grid(ROTATIONS)
        return np.concatenate([about(rotations, scan.centre_mm + offset, target.centre_mm) for offset in offsets])

    def distances_back(self, samples: Samples, reach_mm: float, poses: Poses) -> np.ndarray:
        """To the nearest of the scan's samples."""
        back = (self.scan.residuals(samples, inverse(pose)[None], exact=True)[3] for pose in poses)
        return np.concatenate([np.minimum(distance, reach_mm) for distance in back])


@dataclass(frozen=True, eq=False)
class Seen:
    """What one camera saw; points in the camera's frame."""

    scan: Target
    depth_mm: ScoreMap
    intrinsics: Matrix3
    thorough: bool = False

    def starts(self, reference: Reference) -> Poses:
        """Rotations all round, with the middle of what is seen on the middle of what would be seen from there."""
        rotations = rotation_grid(VIEW_ROTATIONS)
        middle = self.scan.centre_mm
        directions, middles = reference.seen_from
        towards_camera = -rotations @ unit(middle)
        poses = about(rotations, middle, np.zeros(3))
        poses[:, :3, 3] += middles[(towards_camera @ directions.T).argmax(axis=1)]
        return poses

    def distances_back(self, samples: Samples, reach_mm: float, poses: Poses) -> np.ndarray:
        """How far surface that faces the camera lies before what the camera saw there, or behind it if only just."""
        depth = self.padded_depth_mm
        result = np.full((len(poses), len(samples.points_mm)), np.nan)
        for row, pose in zip(result, poses, strict=True):
            camera_from_part = inverse(pose)
            at = transform_points(camera_from_part, samples.points_mm)
            facing = np.einsum("ni,ni->n", transform_directions(camera_from_part, samples.normals), -unit(at))
            if not samples.signed:
                facing = np.abs(facing)
            pixel = at @ self.intrinsics.T
            with np.errstate(divide="ignore", invalid="ignore"):
                column, line = np.floor(pixel[:, :2] / pixel[:, 2:]).T + 1
            known = (at[:, 2] > 0) & (facing > 0.2)
            known &= (column > 0) & (column < depth.shape[1] - 1) & (line > 0) & (line < depth.shape[0] - 1)
            x, y = column[known].astype(int), line[known].astype(int)
            # of the pixels around it the one that fits best: at an edge the next one may see the other side
            before = np.stack([depth[y + j, x + i] for i in (-1, 0, 1) for j in (-1, 0, 1)]) - at[known, 2]
            before[before < -reach_mm] = np.nan  # far behind: hidden by other surface
            best = np.fmin.reduce(np.abs(before)) * facing[known]
            row[known] = np.minimum(best, reach_mm)
        return result

    @cached_property
    def padded_depth_mm(self) -> ScoreMap:
        """The depth with a pixel of nothing all round."""
        return np.pad(self.depth_mm, 1, constant_values=np.nan)


def seen_of(view: View) -> Seen | str:
    """The view's samples of the specimen, or why there are none."""
    try:
        mask = foreground(view)
        if view.points_mm is None or mask.sum() < MIN_SAMPLES:
            return "the view has no depth" if view.points_mm is None or not view.mask.any() else "no part in the view"
        intrinsics = estimate_intrinsics(view.points_mm)[0] if view.camera is None else view.camera.intrinsics
    except (RegistrationError, ScanError) as error:
        return str(error)
    normals = normals_of(view.points_mm, intrinsics) if view.normals is None else view.normals
    mask &= np.isfinite(normals).all(axis=-1)
    if mask.sum() < MIN_SAMPLES:
        return "no part in the view"
    points, directions = view.points_mm[mask].astype(np.float64), normals[mask].astype(np.float64)
    facing = np.abs(np.einsum("ni,ni->n", directions, unit(points)))
    area = np.sum(points[:, 2] ** 2 / np.maximum(facing, 0.2)) / (intrinsics[0, 0] * intrinsics[1, 1])
    samples = thin(points, directions, float(area), SCAN_SAMPLES, signed=True)
    return Seen(Target(samples), view.points_mm[..., 2].astype(np.float64), intrinsics)
