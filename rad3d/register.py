"""Bringing a scan into the part frame, and saying how sure that is.

Many poses are tried at once on a coarse grid of the reference, the best are refined, and each is tried against its
near-symmetric rivals at full resolution. A local search alone ends a tooth off on a gear, at nearly the same fitness.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rad3d.agree import agreed
from rad3d.arrays import Points, Pose, Vector
from rad3d.geometry import cross, inverse, transform_directions, transform_points
from rad3d.icp import Poses, Samples, Target, refine_jointly
from rad3d.query import SCAN_SAMPLES, Query, Seen, Whole, seen_of
from rad3d.reference import JUDGED, Reference, samples_of
from rad3d.scan import Surface
from rad3d.settle import settled
from rad3d.symmetry import distinct, moved_mm, nearest_equivalent
from rad3d.view import View

ROUGH = 96
"""Poses that leave the coarse search."""
FINALISTS = 8
HOPELESS_SHARE = 0.3
"""Poses that cost this share of the truncation more than the best one are not refined (refining wins below 0.07)."""
MIN_FITNESS = 0.75
BACK_WEIGHT = 0.1
"""What the reference has and the scan has not weighs less: a view misses much for reasons of its own."""
MIN_SIGNS = 3.0
"""Standard deviations by which more of that surface has to speak for the better pose (sign test)."""
MIN_MARGIN = 0.3
CLEARLY_BETTER = 0.1
NOISE_MM = 0.02
"""Means of distance are compared on top of this much, so that the ratio of two tiny ones says nothing."""
SIZE_RATIO, MAX_SIZE_RATIO = 1.3, 5.0
"""A scan is no larger than the part but for this (spread of its points), and no smaller than this fraction."""
SURE_FITNESS = 0.97


@dataclass(frozen=True, eq=False)
class Registration:
    """A pose and what speaks for it.

    Args:
        part_from_scan: brings the scan into the part frame.
        fitness: share of the scan's surface within the inlier distance of the reference.
        rmse_mm: of the inliers, along the reference's normals.
        overlap: share of the reference's surface within the inlier distance of the scan.
        margin: of the surface that fits at this pose or at its closest rival, but not at both, how much more speaks
            for this one: 1 = all of it, 0 = as much as against. Poses that put the same surface at every place, by
            symmetry of the part, are no rivals; 1 without any.
        free_directions: motions that the scan leaves open, in words.
        trusted: whether the pose may be built on.
        reason: why not; empty when trusted.
        rivals: the other poses that fit equally well, if that is why it is not trusted.
        turn: symmetry of the part that takes a captured view from its pose, which is like that of all good specimens'
            views, to where it agrees with the specimen's other views on what is odd about its shape; None = they do not
            tell.
        up: the way up from the table that a captured view shows, in the part frame, where the part has symmetries; None
            where it shows none.
    """

    part_from_scan: Pose
    fitness: float
    rmse_mm: float
    overlap: float
    margin: float
    free_directions: tuple[str, ...]
    trusted: bool
    reason: str
    rivals: tuple[Pose, ...] = ()
    turn: Pose | None = None
    up: Vector | None = None


def register_surface(surface: Surface, reference: Reference, initial: Pose | None = None) -> Registration:
    """Find part_from_scan of a mesh or cloud in any pose.

    Args:
        surface: of the scan, whole or in part.
        reference: the part's.
        initial: a guess of part_from_scan; of equivalent poses the one nearest to it is returned (default: identity,
            so that a scan already in the part frame stays where it is).

    Raises:
        RegistrationError: the scan has too few points.
    """
    query = Whole(Target(samples_of(surface, SCAN_SAMPLES, "scan")))
    wanted = np.eye(4) if initial is None else initial
    return _register(query, reference, wanted)


def _register(query: Whole | Seen, reference: Reference, wanted: Pose) -> Registration:
    ratio = _size_ratio(query.scan, reference)
    if not 1 / MAX_SIZE_RATIO < ratio < MAX_SIZE_RATIO:
        return nowhere(_wrong_size(ratio))
    found = _search(query, reference, wanted)
    result = _judge(query, reference, found, wanted)
    if ratio >= SIZE_RATIO:
        return result if result.trusted else _untrusted(result, f"{result.reason} {_wrong_size(ratio)}")
    if result.fitness < SURE_FITNESS:
        query = replace(query, thorough=True)
        again = _search(query, reference, wanted)
        if again.costs[0] < found.costs[0]:
            found = again
            result = _judge(query, reference, found, wanted)
    if result.fitness < SURE_FITNESS and _fits_mirrored(query, reference, found):
        result = _untrusted(result, "the scan fits the part's mirror image better than the part")
    return result


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Poses, best first, with the truncated distances in mm of the scan (k, n) and of the reference (k, m)."""

    poses: Poses
    there: np.ndarray
    back: np.ndarray

    @property
    def costs(self) -> np.ndarray:
        """(k,) mean distances there and back, added."""
        return np.asarray(self.there.mean(axis=1) + self.back.mean(axis=1))

    def rivalry(self, index: int, contested_mm: float) -> tuple[float, float]:
        """Margin and signs for the best pose against another, over the scan's surface where they differ that much."""
        more = self.there[index] - self.there[0]
        for_it, against = float((more > contested_mm).sum()), float((more < -contested_mm).sum())
        differing = max(for_it + against, 1.0)
        return (for_it - against) / differing, (for_it - against) / np.sqrt(differing)

    def chosen(self, order: np.ndarray) -> "_Candidates":
        """Some of them, in another order."""
        return _Candidates(self.poses[order], self.there[order], self.back[order])


def _search(query: Whole | Seen, reference: Reference, wanted: Pose) -> _Candidates:
    """The best distinct poses of a scan and what they cost, both ways at full resolution."""
    target, truncation, samples = reference.target, reference.truncation_mm, query.scan.samples
    starts = query.starts(reference)
    rough = target.cost(samples.thinned(150), starts, 0.1 * target.radius_mm)
    chosen = np.argsort(rough)[: ROUGH * (4 if query.thorough else 1)]
    poses = np.concatenate([wanted[None], starts[chosen]])
    poses = target.refine(samples.thinned(300), poses, np.geomspace(0.3 * target.radius_mm, truncation, 12))
    costs = target.cost(samples.thinned(600), poses, truncation)
    first = poses[distinct(poses, costs, target)[:2]]

    rivals = (reference.symmetries.near[None] @ first[:, None]).reshape(-1, 4, 4)
    poses = np.concatenate([poses, rivals])
    poses = target.refine(samples.thinned(400), poses, np.geomspace(2 * truncation, 0.5 * truncation, 6))
    poses = poses[distinct(poses, target.cost(samples.thinned(1000), poses, truncation), target)][: 8 * FINALISTS]
    samples = samples.thinned(JUDGED)
    poses = poses[np.argsort(target.cost(samples, poses, truncation))][: 2 * FINALISTS]
    costs = target.cost(samples, poses, truncation, exact=True)
    likely = costs < costs.min() + HOPELESS_SHARE * truncation
    poses = _modulo_symmetry(poses[likely], costs[likely], reference)[:FINALISTS]
    poses = target.refine(samples, poses, np.geomspace(truncation, reference.inlier_mm, 4), exact=True)
    poses = _modulo_symmetry(poses, target.cost(samples, poses, truncation, exact=True), reference)
    back = np.nan_to_num(_back(query, reference, poses))
    found = _Candidates(poses, _there(target, query.scan.samples, poses, truncation), back)
    # by what lies beyond the noise, which alone would decide between poses that differ in a keyway only
    beyond = [np.maximum(part - reference.inlier_mm, 0).mean(axis=1) for part in (found.there, found.back)]
    return found.chosen(np.argsort(beyond[0] + BACK_WEIGHT * beyond[1]))


def _there(target: Target, samples: Samples, poses: Poses, reach_mm: float) -> np.ndarray:
    """(k, n) how far samples of a scan are from a surface, at most the reach."""
    distances = [target.residuals(samples, pose[None], exact=True)[3] for pose in poses]
    return np.asarray(np.minimum(np.concatenate(distances), reach_mm))


def _back(query: Query, reference: Reference, poses: Poses) -> np.ndarray:
    """(k, JUDGED) how far samples of the reference are from the scan; NaN where it cannot tell."""
    return query.distances_back(reference.target.samples.thinned(JUDGED), reference.truncation_mm, poses)


def _modulo_symmetry(poses: Poses, costs: np.ndarray, reference: Reference) -> Poses:
    """The poses, best first, without those that exact symmetry makes the same as a better one."""
    kept: list[Pose] = []
    for pose in poses[np.argsort(costs)]:
        if all(reference.difference_mm(pose, other) > 0.02 * reference.target.radius_mm for other in kept):
            kept.append(pose)
    return np.stack(kept)


def _judge(query: Query, reference: Reference, found: _Candidates, wanted: Pose) -> Registration:
    """The best candidate, polished, measured and compared with the others."""
    same = [i for i in range(len(found.poses)) if reference.interchangeable(found.poses[0], found.poses[i])]
    best = min([0, *same], key=lambda index: found.costs[index])
    equal, margin = _contested(found, [i for i in range(len(found.poses)) if i not in same], reference)
    pose = nearest_equivalent(found.poses[best], wanted, reference.symmetries, reference.marks_mm)
    pose = reference.target.refine(query.scan.samples, pose[None], [reference.inlier_mm] * 4, exact=True)[0]
    result = _measured(query, reference, pose, margin)
    if result.fitness < MIN_FITNESS:
        return _untrusted(
            result,
            f"only {result.fitness:.0%} of the scan fits the part; at least {MIN_FITNESS:.0%} is needed: "
            "another part, or more than one specimen in the scan?",
        )
    if equal:
        reason = f"{1 + len(equal)} different poses fit equally well (margin {margin:.2f})"
        rivals = _equally_good(query, reference, result.part_from_scan, found.poses[equal])
        return replace(_untrusted(result, reason), rivals=rivals)
    return result


def _contested(found: _Candidates, others: Sequence[int], reference: Reference) -> tuple[list[int], float]:
    """Which of the others lie elsewhere and fit as well as the best pose, and the least margin over all elsewhere.

    Elsewhere begins at the truncation distance: where a camera looks along a bar, only edges tell where its sides are.
    """
    best = found.poses[0]
    elsewhere = [i for i in others if reference.difference_mm(best, found.poses[i]) >= reference.truncation_mm]
    contests = {i: found.rivalry(i, reference.inlier_mm) for i in elsewhere}
    equal = [i for i, contest in contests.items() if _undecided(*contest)]
    return equal, min((margin for margin, _ in contests.values()), default=1.0)


def _undecided(margin: float, signs: float) -> bool:
    return margin < MIN_MARGIN or signs < MIN_SIGNS


def _equally_good(query: Query, reference: Reference, best: Pose, others: Poses) -> tuple[Pose, ...]:
    """Poses that fit as well as the best: of those found, and of all that the part's near-symmetries make of it."""
    target, few = reference.target, query.scan.samples.thinned(JUDGED)
    poses = np.concatenate([best[None], others, reference.symmetries.near @ best])
    poses = target.refine(few, poses, np.geomspace(reference.truncation_mm, reference.inlier_mm, 3), exact=True)
    poses = poses[distinct(poses, np.arange(len(poses)), target)]
    back = np.nan_to_num(_back(query, reference, poses))
    found = _Candidates(poses, _there(target, few, poses, reference.truncation_mm), back)
    tied, _ = _contested(found, range(1, len(poses)), reference)
    return tuple(poses[tied]) or tuple(others)


def _measured(query: Query, reference: Reference, pose: Pose, margin: float) -> Registration:
    at, delta, normal, distance = (a[0] for a in reference.target.residuals(query.scan.samples, pose[None], exact=True))
    inlier = distance < reference.inlier_mm
    along = np.einsum("pi,pi->p", delta, normal)[inlier]
    back = _back(query, reference, pose[None])[0]
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
    jacobian = np.concatenate([cross(arm, normal), normal], axis=1)
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
    return replace(result, trusted=False, reason=reason, rivals=())


def _fits_mirrored(query: Whole | Seen, reference: Reference, found: _Candidates) -> bool:
    """Whether the part's mirror image fits clearly better than the part."""
    flip = np.array([-1.0, 1.0, 1.0])

    def mirrored(samples: Samples) -> Samples:
        return replace(samples, points_mm=samples.points_mm * flip, normals=samples.normals * flip)

    motion = np.diag([*flip, 1.0])
    symmetries = replace(
        reference.symmetries,
        near=motion @ reference.symmetries.near @ motion,
        exact=motion @ reference.symmetries.exact @ motion,
        axis=None if reference.symmetries.axis is None else reference.symmetries.axis * flip,
    )
    other = Reference(Target(mirrored(reference.target.samples)), symmetries)
    best = _search(query, other, np.eye(4))
    return bool(found.costs[0] - best.costs[0] > CLEARLY_BETTER * (best.there[0].mean() + NOISE_MM))


def _size_ratio(scan: Target, reference: Reference) -> float:
    own, part = (float(np.sqrt(t.samples.points_mm.var(axis=0).sum())) for t in (scan, reference.target))
    return own / part


def _wrong_size(ratio: float) -> str:
    """What to say of a scan so many times the size of the part; it may be in another unit.

    >>> _wrong_size(25.3)
    'the scan is 25.3 times the size of the part: inches and millimetres mixed up? check --unit, here and at fit'
    """
    said = f"the scan is {ratio:.3g} times the size of the part"
    for name, factor in (("inches", 25.4), ("metres", 1000.0), ("centimetres", 10.0)):
        if any(1 / SIZE_RATIO < measured < SIZE_RATIO for measured in (ratio * factor, ratio / factor)):
            return f"{said}: {name} and millimetres mixed up? check --unit, here and at fit"
    return said


def register_views(views: Sequence[View], reference: Reference) -> list[Registration]:
    """Find part_from_camera of every captured view of one specimen, each view in its own camera's frame.

    Each is registered with the reference and takes one of its equivalent poses beside the others (`rad3d.settle`); then
    all are refined together. A view that cannot be registered says why; none is dropped.
    """
    queries: list[Seen | str] = [seen_of(view) for view in views]
    results = [
        nowhere(query) if isinstance(query, str) else _register(query, reference, np.eye(4)) for query in queries
    ]
    if any(result.trusted for result in results):
        # where all of little surface speaks for one pose, a view in good company may be believed
        results = [
            replace(result, trusted=True, rivals=()) if result.rivals and result.margin >= MIN_MARGIN else result
            for result in results
        ]
    known = [result.part_from_scan if result.trusted else None for result in results]
    homes = settled(views, known, reference)
    turns = agreed(queries, homes, reference)
    results = [
        result if home is None else replace(result, part_from_scan=home[0], up=home[1], turn=turn)
        for result, home, turn in zip(results, homes, turns, strict=True)
    ]
    return _refined_together(queries, results, reference)


def nowhere(reason: str) -> Registration:
    """The registration of what cannot be registered."""
    return Registration(np.eye(4), 0.0, float("nan"), 0.0, 0.0, ("all",), False, reason)


def specimen_of(
    queries: Sequence[Seen | str], results: Sequence[Registration], but: int | None = None
) -> Samples | None:
    """What the trusted views saw, in the part frame, on request without one of them; None where there are none."""
    seen = [
        (query.scan.samples, result.part_from_scan)
        for number, (query, result) in enumerate(zip(queries, results, strict=True))
        if number != but and isinstance(query, Seen) and result.trusted
    ]
    if not seen:
        return None
    points = np.concatenate([transform_points(pose, samples.points_mm) for samples, pose in seen])
    normals = np.concatenate([transform_directions(pose, samples.normals) for samples, pose in seen])
    area = seen[0][0].area_mm2 / len(seen[0][0].points_mm) * len(points)
    return Samples(points, normals, True, area)


def _refined_together(
    queries: Sequence[Seen | str], results: Sequence[Registration], reference: Reference
) -> list[Registration]:
    """Every trusted view once more, against the reference and what the other views saw."""
    refined = list(results)
    for index, query in enumerate(queries):
        specimen = specimen_of(queries, refined, but=index)
        if isinstance(query, Seen) and refined[index].trusted and specimen is not None:
            pose = refine_jointly(
                [reference.target, Target(specimen)],
                query.scan.samples,
                refined[index].part_from_scan,
                [reference.inlier_mm] * 3,
            )
            was = refined[index]
            refined[index] = replace(_measured(query, reference, pose, was.margin), up=was.up, turn=was.turn)
    return refined


def told_apart(query: Seen, result: Registration, specimen: Samples, reference: Reference) -> Registration:
    """A view that fits the part in several poses, in the one in which it fits what the specimen's other views saw best.

    What is wrong with a specimen, like a hole that was filled, makes poses equal that the part alone would tell apart.
    The surface that either the part or the specimen has is fitted; and what both have cannot lie before what was seen.

    Args:
        query: the view.
        result: its registration, with rivals.
        specimen: what the other views saw, in the part frame.
        reference: the part's.

    Returns:
        the registration, trusted if no pose is left that fits as well elsewhere; else its rivals are those. Of poses
        that symmetry makes equal, and of which the others do not tell either, the one nearest to that of `result`.
    """
    part, reach = reference.target.samples, reference.truncation_mm
    both = Target(
        Samples(
            np.concatenate([part.points_mm, specimen.points_mm]),
            np.concatenate([part.normals, specimen.normals]),
            part.signed and specimen.signed,
            part.area_mm2 + specimen.area_mm2,
        )
    )
    had = specimen.tree.query(part.points_mm, workers=-1)[0] < 2 * part.spacing_mm
    confirmed = replace(
        part, points_mm=part.points_mm[had], normals=part.normals[had], area_mm2=part.area_mm2 * had.mean()
    ).thinned(JUDGED)
    samples, turns = query.scan.samples, reference.symmetries.exact
    poses = (turns[:, None] @ np.stack([result.part_from_scan, *result.rivals])).reshape(-1, 4, 4)
    poses = both.refine(samples.thinned(400), poses, np.geomspace(reach, 0.5 * reach, 4))

    def compared(poses: Poses, samples: Samples) -> _Candidates:
        back = np.nan_to_num(query.distances_back(confirmed, reach, poses))
        # here what is missing decides too: what the part and the specimen have is there
        return _Candidates(poses, np.concatenate([_there(both, samples, poses, reach), back], axis=1), back)

    def best_first(found: _Candidates) -> _Candidates:
        size = found.back.shape[1]
        return found.chosen(np.argsort(found.there[:, :-size].mean(axis=1) + found.back.mean(axis=1)))

    poses = best_first(compared(poses, samples.thinned(1500))).poses
    poses = poses[distinct(poses, np.arange(len(poses)), reference.target)][: 3 * FINALISTS]
    poses = both.refine(samples.thinned(JUDGED), poses, np.geomspace(reach, reference.inlier_mm, 4), exact=True)
    found = best_first(compared(poses, samples))
    equal, margin = _contested(found, range(1, len(poses)), reference)
    alike = compared(turns @ found.poses[0], samples)  # the first turn is none
    left = [i for i in range(len(turns)) if i == 0 or _undecided(*alike.rivalry(i, reference.inlier_mm))]
    apart = [moved_mm(alike.poses[i] @ inverse(result.part_from_scan), reference.marks_mm) for i in left]
    measured = _measured(query, reference, alike.poses[left[int(np.argmin(apart))]], margin)
    if not equal:
        return measured
    reason = f"{1 + len(equal)} different poses fit equally well, beside the other views too (margin {margin:.2f})"
    return replace(_untrusted(measured, reason), rivals=tuple(found.poses[equal]))
