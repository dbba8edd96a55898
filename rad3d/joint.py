"""Views of one specimen, refined against each other all at once.

Gauss-Newton over all poses together (Neugebauer, Int. J. Shape Modeling 1997): pose after pose, a small error would
creep round the specimen. The distance is taken along the mean of both normals (symmetric ICP, Rusinkiewicz, SIGGRAPH
2019), which has no bias on curved surfaces as the distance to a tangent plane has.
"""

from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from rad3d.arrays import Pose
from rad3d.geometry import cross, transform_directions, transform_points
from rad3d.icp import Samples

SQUARE = 0.97
"""Cosine between normals of one plane: beside edges estimated normals lean, which would push views apart."""
NEIGHBOURS = 16
SAMPLES = 5000
STEPS = 6
SETTLED_MM = 0.002


def refine_together(samples: Sequence[Samples], poses: Sequence[Pose], reach_mm: float) -> list[Pose]:
    """Poses frame_from_view, nearby to begin with, after refining them all; the first one stays.

    Args:
        samples: of every view, in its own frame.
        poses: of every view.
        reach_mm: surface further apart than this is not the same.
    """
    poses, few = list(poses), [part.thinned(SAMPLES) for part in samples]
    view = np.repeat(np.arange(len(few)), [len(part.points_mm) for part in few])
    for _ in range(STEPS):
        points = np.concatenate([transform_points(p, part.points_mm) for p, part in zip(poses, few, strict=True)])
        normals = np.concatenate([transform_directions(p, part.normals) for p, part in zip(poses, few, strict=True)])
        motions, centre, radius = _step(points, normals, view, reach_mm)
        for index, motion in enumerate(motions):
            move = np.eye(4)
            move[:3, :3] = Rotation.from_rotvec(motion[:3] / radius).as_matrix()
            move[:3, 3] = centre + motion[3:] - move[:3, :3] @ centre
            poses[index] = move @ poses[index]
        if np.abs(motions).max() < SETTLED_MM:
            break
    return poses


def _step(
    points: np.ndarray, normals: np.ndarray, view: np.ndarray, reach_mm: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Motions (v, 6) of the views, rotations in units of the radius (mm) about the centre, and these two."""
    centre = points.mean(axis=0)
    radius = float(np.linalg.norm(points - centre, axis=1).max())
    apart, near = cKDTree(points).query(points, k=NEIGHBOURS, distance_upper_bound=2 * reach_mm, workers=-1)
    own, column = np.nonzero(np.isfinite(apart))
    other = near[own, column]
    chosen = (view[own] != view[other]) & (np.einsum("ni,ni->n", normals[own], normals[other]) > SQUARE)
    own, other = own[chosen], other[chosen]
    normal = (normals[own] + normals[other]) / 2
    along = np.einsum("ni,ni->n", points[other] - points[own], normal)
    weight = np.clip(1 - (along / reach_mm) ** 2, 0, None) ** 2
    arm = ((points[own] + points[other]) / 2 - centre) / radius
    jacobian = np.concatenate([cross(arm, normal), normal], axis=1)
    weighted = jacobian * weight[:, None]
    count = int(view.max()) + 1
    matrix, right = np.zeros((count, 6, count, 6)), np.zeros((count, 6))
    for a in range(count):
        for b in range(count):
            pair = (view[own] == a) & (view[other] == b)
            if pair.any():
                block, pull = weighted[pair].T @ jacobian[pair], weighted[pair].T @ along[pair]
                matrix[a, :, a] += block
                matrix[b, :, b] += block
                matrix[a, :, b] -= block
                matrix[b, :, a] -= block
                right[a] += pull
                right[b] -= pull
    free = matrix[1:, :, 1:].reshape(6 * (count - 1), -1)  # the first view stays
    free += np.eye(len(free)) * (1e-6 * np.trace(free) / max(len(free), 1) + 1e-9)
    motions = np.zeros((count, 6))
    motions[1:] = np.linalg.solve(free, right[1:].ravel()).reshape(-1, 6)
    return motions, centre, radius
