"""Which rigid motions map a part onto itself, exactly or nearly.

A gear with one keyway fits almost as well a tooth further on, so a local search ends in any of these poses. They
are a property of the reference alone: found once, they are the rivals that every registration is tried against.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from rad3d.arrays import Matrix3, Points, Pose, Vector
from rad3d.geometry import inverse, rotation_about, transform_points
from rad3d.icp import Poses, Samples, Target

ROTATIONS = 800
SWEEP_STEP = np.deg2rad(1.5)
NEAR_SHARE = 0.5
"""A motion is near-symmetric when its mean truncated distance is below this share of the truncation."""
MAX_NEAR = 240
EXACT_MM = 0.2
EXACT_AREA_SHARE = 5e-4
"""A symmetry is exact when no more than this share of the surface deviates by more than EXACT_MM."""
SAME_SHARE = 0.02
"""Poses that displace the part by less than this share of its radius against each other are the same."""


@dataclass(frozen=True, eq=False)
class Symmetries:
    """Motions of the part frame that map the part onto itself.

    Args:
        near: (k, 4, 4) all that do so nearly, best first; the exact ones and the identity among them.
        exact: (j, 4, 4) those that do so exactly, the identity first; beside `axis` only what is no turn about it.
        axis: a point on the axis of revolution and its direction (2, 3), None if there is none.
    """

    near: Poses
    exact: Poses
    axis: Points | None = None


def truncation_mm(radius_mm: float) -> float:
    """Distances beyond this say no more than "does not fit": 1 mm on a part of 60 mm."""
    return float(np.clip(0.03 * radius_mm, 0.2, 2.0))


def rotation_grid(count: int) -> np.ndarray:
    """(count, 3, 3) rotations spread evenly: super-Fibonacci spirals (Alexa, CVPR 2022)."""
    step = np.arange(count) + 0.5
    phi, psi = np.sqrt(2.0), 1.533751168755204288118041
    radius, other = np.sqrt(step / count), np.sqrt(1 - step / count)
    alpha, beta = 2 * np.pi * step / phi, 2 * np.pi * step / psi
    quaternions = np.stack(
        [radius * np.sin(alpha), radius * np.cos(alpha), other * np.sin(beta), other * np.cos(beta)], axis=1
    )
    return np.asarray(Rotation.from_quat(quaternions).as_matrix())


def about(rotations: np.ndarray, from_mm: Vector, to_mm: Vector) -> Poses:
    """Poses that turn by `rotations` and bring `from_mm` to `to_mm`."""
    poses = np.tile(np.eye(4), (len(rotations), 1, 1))
    poses[:, :3, :3] = rotations
    poses[:, :3, 3] = to_mm - rotations @ from_mm
    return poses


def distinct(poses: Poses, costs: np.ndarray, target: Target, share: float = SAME_SHARE) -> np.ndarray:
    """Indices of poses that differ, best first; of poses that are the same the best remains."""
    marks = target.centre_mm + target.radius_mm * np.concatenate([np.eye(3), -np.eye(3)])
    places = (marks @ poses[:, :3, :3].transpose(0, 2, 1) + poses[:, None, :3, 3]).reshape(len(poses), -1)
    tree, left, kept = cKDTree(places), np.ones(len(poses), bool), []
    for index in np.argsort(costs, kind="stable"):
        if left[index]:
            kept.append(index)
            left[tree.query_ball_point(places[index], share * target.radius_mm * np.sqrt(len(marks)))] = False
    return np.array(kept, int)


def find_symmetries(target: Target) -> Symmetries:
    """The near and exact symmetries of a surface, by registering it with itself from many sides."""
    samples, centre, truncation = target.samples, target.centre_mm, truncation_mm(target.radius_mm)
    few, more = samples.thinned(300), samples.thinned(1500)
    near_cost = NEAR_SHARE * truncation

    poses = about(rotation_grid(ROTATIONS), centre, centre)
    poses = poses[np.argsort(target.cost(few, poses, 0.1 * target.radius_mm))[:200]]
    poses = target.refine(few, poses, np.geomspace(0.3 * target.radius_mm, truncation, 10))
    poses = np.concatenate([np.eye(4)[None], poses])
    costs = target.cost(more, poses, truncation)
    poses = poses[distinct(poses, costs, target)]
    poses = poses[target.cost(more, poses, truncation) < near_cost]

    axes = _axes(samples, poses)
    axis = next((a for a in axes if _is_revolution(target, a, centre)), None)
    sweeps = [
        about(
            Rotation.from_rotvec(np.arange(SWEEP_STEP, 2 * np.pi, SWEEP_STEP)[:, None] * a).as_matrix(), centre, centre
        )
        for a in axes
        if axis is None or abs(a @ axis) < 0.999
    ]
    poses = _kept(target, more, np.concatenate([poses, *sweeps]), near_cost)
    if axis is None:
        best = poses[:60]
        products = (best[:, None] @ best[None]).reshape(-1, 4, 4)
        poses = _kept(target, more, np.concatenate([poses, products]), near_cost)
    else:
        poses = _modulo_revolution(poses, axis)
    exact = _exact_group(target, poses)
    poses = np.concatenate([exact, poses])
    poses = poses[distinct(poses, np.arange(len(poses)), target)]
    revolution = None if axis is None else np.stack([centre, axis])
    return Symmetries(poses[:MAX_NEAR], exact, revolution)


def _exact_group(target: Target, poses: Poses) -> Poses:
    """The identity and the exact symmetries among poses, with their products."""
    group = [np.eye(4)]
    candidates = list(poses)
    while candidates and len(group) < MAX_NEAR:
        pose = candidates.pop(0)
        if any(_gap(target, pose, other) < SAME_SHARE * target.radius_mm for other in group):
            continue
        refined = exactly(target, pose)
        if refined is not None and all(_gap(target, refined, other) > SAME_SHARE * target.radius_mm for other in group):
            group.append(refined)
            candidates += [product for other in group for product in (refined @ other, other @ refined)]
    return np.stack(group)


def _gap(target: Target, a: Pose, b: Pose) -> float:
    """Root mean square distance in mm between where two poses put the part."""
    points = target.samples.points_mm[:100]
    return float(np.sqrt(np.mean(np.sum((transform_points(a, points) - transform_points(b, points)) ** 2, axis=1))))


def _kept(target: Target, samples: Samples, poses: Poses, near_cost: float) -> Poses:
    """Distinct near-symmetries among poses after a short ICP, best first."""
    truncation = truncation_mm(target.radius_mm)
    rough = target.cost(samples.thinned(300), poses, truncation)
    poses = poses[rough < 1.5 * near_cost]
    poses = poses[distinct(poses, rough[rough < 1.5 * near_cost], target, 0.5 * SAME_SHARE)]
    poses = target.refine(samples.thinned(500), poses, np.geomspace(2 * truncation, 0.7 * truncation, 5))
    poses[0] = np.eye(4)
    costs = target.cost(samples, poses, truncation)
    costs[0] = 0
    order = distinct(poses, costs, target)
    return np.asarray(poses[order[costs[order] < near_cost]])


def _axes(samples: Samples, poses: Poses) -> list[Vector]:
    """Directions about which the part may repeat: its principal axes and those of motions found."""
    spread = samples.points_mm - samples.points_mm.mean(axis=0)
    found = list(np.linalg.eigh(spread.T @ spread)[1].T)
    for rotvec in Rotation.from_matrix(poses[:, :3, :3]).as_rotvec():
        angle = np.linalg.norm(rotvec)
        if angle > 0.1 and all(abs(rotvec @ a) < 0.998 * angle for a in found):
            found.append(rotvec / angle)
    return found[:12]


def _is_revolution(target: Target, axis: Vector, centre: Vector) -> bool:
    """Whether the surface maps onto itself under turns about the axis by angles with no common divisor."""
    turns = [rotation_about(axis, angle, centre) for angle in (0.1, 0.37, 1.0, 1.618, 2.414, 2.9)]
    return all(exactly(target, turn) is not None for turn in turns)


def exactly(target: Target, pose: Pose) -> Pose | None:
    """A motion refined, if it maps the surface onto itself but for EXACT_AREA_SHARE of it."""
    samples = target.samples
    truncation = truncation_mm(target.radius_mm)
    own, moved = target.cost(samples.thinned(1500), np.stack([np.eye(4), pose]), truncation)
    if moved > own + 0.1 * truncation:
        return None
    refined = target.refine(
        samples.thinned(1500), pose[None], np.geomspace(truncation, 0.5 * truncation, 5), exact=True
    )
    few = target.residuals(samples.thinned(1500), refined, exact=True)[3]
    if (few > EXACT_MM).mean() > 5 * EXACT_AREA_SHARE:
        return None
    distance = target.residuals(samples.thinned(20_000), refined, exact=True)[3]
    return refined[0] if (distance > EXACT_MM).mean() <= EXACT_AREA_SHARE else None


def _modulo_revolution(poses: Poses, axis: Vector) -> Poses:
    """One pose for each way the axis may come to lie."""
    kept: list[Pose] = []
    for pose in poses:
        if all(np.linalg.norm(pose[:3, :3] @ axis - other[:3, :3] @ axis) > 0.1 for other in kept):
            kept.append(pose)
    return np.stack(kept)


def difference(a: Pose, b: Pose, symmetries: Symmetries, points_mm: Points) -> float:
    """Root mean square of how far two poses part_from_scan put the part apart, in mm, modulo exact symmetries."""
    return min(moved_mm(motion, points_mm) for motion in _differences(a, b, symmetries))


def moved_mm(motion: Pose, points_mm: Points) -> float:
    """Root mean square of how far a motion takes points, in mm."""
    return float(np.sqrt(np.mean(np.sum((transform_points(motion, points_mm) - points_mm) ** 2, axis=1))))


def _differences(a: Pose, b: Pose, symmetries: Symmetries) -> list[Pose]:
    motions = [symmetry @ a @ inverse(b) for symmetry in symmetries.exact]
    if symmetries.axis is None:
        return motions
    return [untwisted(motion, symmetries.axis) for motion in motions]


def untwisted(motion: Pose, axis: Points) -> Pose:
    """The motion followed by the turn about the axis that leaves the least rotation in it."""
    centre, direction = axis
    return np.asarray(rotation_about(direction, -_twist(motion[:3, :3], direction), centre) @ motion)


def _twist(rotation: Matrix3, axis: Vector) -> float:
    """The angle of the turn about `axis` nearest to a rotation (swing-twist decomposition)."""
    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    return float(2 * np.arctan2(np.array([x, y, z]) @ axis, w))


def nearest_equivalent(part_from_scan: Pose, wanted: Pose, symmetries: Symmetries, points_mm: Points) -> Pose:
    """Of the poses that are the same by exact symmetry, the one nearest to `wanted`."""
    choices = []
    for symmetry in symmetries.exact:
        pose = symmetry @ part_from_scan
        if symmetries.axis is not None:
            pose = untwisted(pose @ inverse(wanted), symmetries.axis) @ wanted
        choices.append((moved_mm(pose @ inverse(wanted), points_mm), pose))
    return np.asarray(min(choices, key=lambda choice: choice[0])[1])
