"""Bringing a scan into the part frame, and saying how sure that is.

Many poses are tried at once on a coarse grid of the reference, the best are refined, and each is tried against its
near-symmetric rivals at full resolution. A local search alone ends a tooth off on a gear, at nearly the same fitness.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.spatial.transform import Rotation

from rad3d.arrays import Points, Pose
from rad3d.errors import RegistrationError
from rad3d.geometry import inverse, transform_points
from rad3d.icp import Poses, Samples, Target, sample_surface
from rad3d.scan import Surface
from rad3d.symmetry import (
    Symmetries,
    about,
    difference,
    distinct,
    find_symmetries,
    nearest_equivalent,
    rotation_grid,
    truncation_mm,
)

REFERENCE_SAMPLES = 40_000
SCAN_SAMPLES = 8_000
JUDGED = 4_000
"""Samples at which rival poses are compared."""
ROTATIONS = 600
ROUGH = 96
"""Poses that leave the coarse search."""
FINALISTS = 8
INLIER_SHARE = 0.5
"""Inlier distance as a share of the truncation distance."""
MIN_SAMPLES = 100
MIN_FITNESS = 0.75
MIN_MARGIN = 0.1
NOISE_MM = 0.02
"""Mean distances are compared on top of this much, so that the ratio of two tiny ones says nothing."""
SIZE_RATIO = 1.3
MIRROR_FITNESS = 0.97

Appearance = Callable[[Pose], float]
"""How badly the looks of the scan fit at a pose part_from_scan: smaller is better, scaled like millimetres."""


@dataclass(frozen=True, eq=False)
class Registration:
    """A pose and what speaks for it.

    Args:
        part_from_scan: brings the scan into the part frame.
        fitness: share of the scan's surface within the inlier distance of the reference.
        rmse_mm: of the inliers, along the reference's normals.
        overlap: share of the reference's surface within the inlier distance of the scan.
        margin: how much worse the best other pose fits, relatively; poses that are the same by exact symmetry are
            no other pose. Infinite without a rival.
        free_directions: motions that the scan leaves open, in words.
        trusted: whether the pose may be built on.
        reason: why not; empty when trusted.
    """

    part_from_scan: Pose
    fitness: float
    rmse_mm: float
    overlap: float
    margin: float
    free_directions: tuple[str, ...]
    trusted: bool
    reason: str


@dataclass(frozen=True, eq=False)
class Reference:
    """A part's surface prepared for registration; `build_reference` makes it."""

    target: Target
    symmetries: Symmetries

    @property
    def truncation_mm(self) -> float:
        """Distances beyond this count as this."""
        return truncation_mm(self.target.radius_mm)

    @property
    def inlier_mm(self) -> float:
        """Surface nearer than this to its counterpart fits."""
        return INLIER_SHARE * self.truncation_mm

    @cached_property
    def marks_mm(self) -> Points:
        """A few points of the surface, by whose displacement poses are compared."""
        return self.target.samples.points_mm[:200]


def build_reference(surface: Surface) -> Reference:
    """Prepare a surface, given in the part frame, to be registered with.

    Raises:
        RegistrationError: it has too few points to say where anything is.
    """
    target = Target(_samples(surface, REFERENCE_SAMPLES, "reference"))
    return Reference(target, find_symmetries(target))


def _samples(surface: Surface, count: int, name: str) -> Samples:
    samples = sample_surface(surface, count) if len(surface.points_mm) >= MIN_SAMPLES else None
    if samples is None or len(samples.points_mm) < MIN_SAMPLES:
        raise RegistrationError(
            name,
            expected=f"at least {MIN_SAMPLES} surface points that are not isolated",
            got=f"{len(surface.points_mm) if samples is None else len(samples.points_mm)}",
            remedy="scan the part more densely",
        )
    return samples


def register_surface(
    surface: Surface, reference: Reference, initial: Pose | None = None, appearance: Appearance | None = None
) -> Registration:
    """Find part_from_scan of a mesh or cloud in any pose.

    Args:
        surface: of the scan, whole or in part.
        reference: the part's.
        initial: a guess of part_from_scan; of equivalent poses the one nearest to it is returned (default: identity,
            so that a scan already in the part frame stays where it is).
        appearance: tells poses apart that fit almost equally well.

    Raises:
        RegistrationError: the scan has too few points.
    """
    scan = Target(_samples(surface, SCAN_SAMPLES, "scan"))
    wanted = np.eye(4) if initial is None else initial
    candidates = _search(scan, reference, wanted)
    result = _judge(scan, reference, candidates, wanted, appearance)
    if result.fitness < MIRROR_FITNESS and _fits_mirrored(scan, reference, result):
        return _untrusted(result, "the scan fits the part's mirror image better than the part")
    return _check_size(scan, reference, result)


@dataclass(frozen=True, eq=False)
class _Candidates:
    poses: Poses
    costs: np.ndarray
    """Mean truncated distance in mm, both ways, per pose; ascending."""


def _search(scan: Target, reference: Reference, wanted: Pose) -> _Candidates:
    """The best distinct poses of a scan and what they cost, both ways at full resolution."""
    target, truncation = reference.target, reference.truncation_mm
    starts = _starts(scan, target)
    rough = target.cost(scan.samples.thinned(150), starts, 0.1 * target.radius_mm)
    poses = np.concatenate([wanted[None], starts[np.argsort(rough)[:ROUGH]]])
    poses = target.refine(scan.samples.thinned(300), poses, np.geomspace(0.3 * target.radius_mm, truncation, 12))
    costs = target.cost(scan.samples.thinned(600), poses, truncation)
    first = poses[distinct(poses, costs, target)[:3]]

    rivals = (reference.symmetries.near[None] @ first[:, None]).reshape(-1, 4, 4)
    poses = np.concatenate([poses, rivals])
    poses = target.refine(scan.samples.thinned(500), poses, np.geomspace(2 * truncation, 0.5 * truncation, 6))
    costs = target.cost(scan.samples.thinned(JUDGED), poses, truncation)
    return _finalists(scan, reference, poses[distinct(poses, costs, target)])


def _starts(scan: Target, target: Target) -> Poses:
    """Rotations all round, with the scan's centre on the part's, and beside it in case half of it is missing."""
    rotations = rotation_grid(ROTATIONS)
    spread = scan.samples.points_mm - scan.centre_mm
    lengths, axes = np.linalg.eigh(spread.T @ spread / len(spread))
    offsets = [np.zeros(3)]
    for length, axis in zip(np.sqrt(lengths), axes.T, strict=True):
        offsets += [length * axis, -length * axis]
    return np.concatenate([about(rotations, scan.centre_mm + offset, target.centre_mm) for offset in offsets])


def _finalists(scan: Target, reference: Reference, poses: Poses) -> _Candidates:
    """The first of the poses refined exactly and compared in both directions."""
    target, truncation = reference.target, reference.truncation_mm
    kept: list[Pose] = []
    for pose in poses:  # one of each set that exact symmetry makes the same
        if all(
            difference(pose, other, reference.symmetries, reference.marks_mm) > 0.02 * target.radius_mm
            for other in kept
        ):
            kept.append(pose)
        if len(kept) == FINALISTS:
            break
    reaches = np.geomspace(truncation, reference.inlier_mm, 4)
    refined = target.refine(scan.samples.thinned(JUDGED), np.stack(kept), reaches, exact=True)
    costs = _both_ways(scan, reference, refined)
    order = np.argsort(costs)
    return _Candidates(refined[order], costs[order])


def _both_ways(scan: Target, reference: Reference, poses: Poses) -> np.ndarray:
    truncation = reference.truncation_mm
    back = np.stack([inverse(pose) for pose in poses])
    there = reference.target.cost(scan.samples.thinned(JUDGED), poses, truncation, exact=True)
    return (there + scan.cost(reference.target.samples.thinned(JUDGED), back, truncation, exact=True)) / 2


def _judge(
    scan: Target, reference: Reference, found: _Candidates, wanted: Pose, appearance: Appearance | None
) -> Registration:
    """The best candidate, polished, measured and compared with the next that is another pose."""
    if appearance is not None:
        costs = found.costs + np.array([appearance(pose) for pose in found.poses])
        order = np.argsort(costs)
        found = _Candidates(found.poses[order], costs[order])
    pose = nearest_equivalent(found.poses[0], wanted, reference.symmetries, reference.marks_mm)
    pose = reference.target.refine(scan.samples, pose[None], [reference.inlier_mm] * 4, exact=True)[0]
    margin = float((found.costs[1] + NOISE_MM) / (found.costs[0] + NOISE_MM) - 1) if len(found.costs) > 1 else np.inf
    result = _measured(scan, reference, pose, margin)
    if result.fitness < MIN_FITNESS:
        return _untrusted(
            result,
            f"only {result.fitness:.0%} of the scan fits the part; at least {MIN_FITNESS:.0%} is needed: "
            "another part, or more than one specimen in the scan?",
        )
    if margin < MIN_MARGIN:
        return _untrusted(result, f"another pose fits almost as well (margin {margin:.2f}, at least {MIN_MARGIN})")
    return result


def _measured(scan: Target, reference: Reference, pose: Pose, margin: float) -> Registration:
    at, delta, normal, distance = (a[0] for a in reference.target.residuals(scan.samples, pose[None], exact=True))
    inlier = distance < reference.inlier_mm
    along = np.einsum("pi,pi->p", delta, normal)[inlier]
    back = scan.residuals(reference.target.samples.thinned(JUDGED), inverse(pose)[None], exact=True)[3][0]
    return Registration(
        part_from_scan=pose,
        fitness=float(inlier.mean()),
        rmse_mm=float(np.sqrt(np.mean(along**2))) if inlier.any() else float("nan"),
        overlap=float((back < reference.inlier_mm).mean()),
        margin=margin,
        free_directions=_free_directions(at[inlier], normal[inlier], reference),
        trusted=True,
        reason="",
    )


def _free_directions(at: Points, normal: Points, reference: Reference) -> tuple[str, ...]:
    """Motions that move no inlier along its normal (Gelfand et al., 3DIM 2003)."""
    if len(at) < 6:
        return ("all",)
    radius = reference.target.radius_mm
    arm = (at - reference.target.centre_mm) / radius
    jacobian = np.concatenate([np.cross(arm, normal), normal], axis=1)
    values, vectors = np.linalg.eigh(jacobian.T @ jacobian / len(at))
    return tuple(_in_words(vector) for value, vector in zip(values, vectors.T, strict=True) if value < FREE_SHARE)


FREE_SHARE = 1e-3
"""A motion is free when the mean square it moves inliers along their normals, relative to its own, is below this."""


def _in_words(motion: np.ndarray) -> str:
    turn, shift = motion[:3], motion[3:]
    kind, vector = ("rotation about", turn) if np.linalg.norm(turn) > 0.5 else ("translation along", shift)
    x, y, z = vector / np.linalg.norm(vector)
    return f"{kind} ({x:.2f}, {y:.2f}, {z:.2f})"


def _untrusted(result: Registration, reason: str) -> Registration:
    return replace(result, trusted=False, reason=reason)


def _fits_mirrored(scan: Target, reference: Reference, result: Registration) -> bool:
    """Whether the scan, mirrored, fits clearly better than as it is."""
    samples, flip = scan.samples, np.array([-1.0, 1.0, 1.0])
    mirrored = Target(replace(samples, points_mm=samples.points_mm * flip, normals=samples.normals * flip))
    found = _search(mirrored, reference, np.eye(4))
    direct = _both_ways(scan, reference, result.part_from_scan[None])[0]
    return bool((direct + NOISE_MM) > (1 + MIN_MARGIN) * (found.costs[0] + NOISE_MM))


def _check_size(scan: Target, reference: Reference, result: Registration) -> Registration:
    """Say so when a scan that does not fit would, in another unit."""
    if result.trusted:
        return result
    own, part = (float(np.sqrt(t.samples.points_mm.var(axis=0).sum())) for t in (scan, reference.target))
    ratio = own / part
    for unit, factor in (("inches", 25.4), ("metres", 1000.0), ("centimetres", 10.0)):
        for said, measured in ((f"is it in {unit}?", ratio * factor), (f"is the part in {unit}?", ratio / factor)):
            if 1 / SIZE_RATIO < measured < SIZE_RATIO:
                return _untrusted(result, f"the scan is {ratio:.3g} times the size of the part: {said}")
    if ratio > SIZE_RATIO:
        return _untrusted(result, f"{result.reason} The scan is {ratio:.2f} times the size of the part")
    return result
