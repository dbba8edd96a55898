"""Putting the captured views of one specimen together from what they saw alone, without any reference.

For every pair of views many relative poses are kept, since a near-symmetric part fits at each of them; more overlap is
no sign of truth either: views of a gear overlap most where all look from one side. What decides is free space (Curless
and Levoy, SIGGRAPH 1996): no surface that one view saw may float in front of what another view saw there. The set
grows view by view, each place judged by all views placed before; then all are refined together. Colours have no say:
light and background may stay with the camera.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from scipy.ndimage import minimum_filter
from scipy.spatial.transform import Rotation

from rad3d.arrays import Flags, Pose, ScoreMap, Vector
from rad3d.errors import RegistrationError
from rad3d.geometry import inverse, transform_directions, transform_points, unit
from rad3d.icp import Poses, Samples, Target
from rad3d.joint import refine_together
from rad3d.query import Seen, seen_of
from rad3d.reference import INLIER_SHARE
from rad3d.segment import Plane, support_of
from rad3d.symmetry import about, distinct, rotation_grid, truncation_mm
from rad3d.view import View

logger = logging.getLogger(__name__)

YAWS, ROTATIONS = 120, 1500
"""First poses of a pair: turns on the support plane, or rotations all round where there is none."""
SHIFT_SHARE = 0.12
"""Step between first shifts on the support plane, as a share of the radius."""
REFINED, KEPT = 160, 32
FEW, MANY = 3000, 16_000
"""Samples by which poses are judged, before and after refining."""
SAME_SHARE = 0.05
MIN_FIT = 0.25
"""Least share of two views' samples that both saw."""
MAX_AGAINST = 0.02
"""Of what was tested at the true pose, hardly anything floats: this much is for stray points."""
SIGNS = 3.0
"""Standard deviations of counting by which a pose is worse than another."""
EDGE_PX = 5
SEEDS = 4


@dataclass(frozen=True, eq=False)
class Assembled:
    """How views of one specimen belong together.

    Args:
        poses: frame_from_view of each; None where `reasons` says why not. The frame stands on the support plane
            (z = 0, z up) where there is one, with the origin below the middle of what was seen.
        reasons: why a view was left out; empty for the others.
        confirmed: of the pairs of views that propose poses on their own, the share that propose these (loop closure).
    """

    poses: tuple[Pose | None, ...]
    reasons: tuple[str, ...]
    confirmed: float


def assemble(views: Sequence[View], name: str = "captured views") -> Assembled:
    """Find how views, each in its own camera's frame and in any order, belong together.

    Raises:
        RegistrationError: no more than half of them hold together.
    """
    seen = [seen_of(view) for view in views]
    shots = [
        _Shot(index, each, support_of(view))
        for index, (view, each) in enumerate(zip(views, seen, strict=True))
        if isinstance(each, Seen)
    ]
    reasons = [each if isinstance(each, str) else "fits nowhere to the other views" for each in seen]
    best = _largest_set(shots, len(views)) if shots else None
    if best is None or 2 * len(best.placed) <= len(views):
        most = 0 if best is None else len(best.placed)
        raise RegistrationError(
            name,
            expected="views that overlap, more than half of which fit together",
            got=f"{most} of {len(views)} that do" + "".join(f"; {r}" for r in sorted({r for r in reasons if r})),
            remedy="capture more views with more overlap, or give the part's CAD with --nominal FILE",
        )
    frame = _standing(best)
    poses = [inverse(frame) @ best.placed[i] if i in best.placed else None for i in range(len(views))]
    left_out = tuple("" if pose is not None else reason for pose, reason in zip(poses, reasons, strict=True))
    for view, reason in zip(views, left_out, strict=True):
        if reason:
            logger.warning("%s: view %s is left out: %s", name, view.name, reason)
    return Assembled(tuple(poses), left_out, best.confirmed())


def undisputed(views: Sequence[View], surface: Samples, motions: Poses) -> Flags:
    """Which motions of the part, the first being none, nothing speaks against that views with poses saw of it.

    Args:
        views: in the part frame, with their cameras.
        surface: of the part, in the part frame.
        motions: (k, 4, 4) of the part frame.
    """
    whole = _Shot(0, Seen(Target(surface), np.zeros((0, 0)), np.eye(3)), None)
    against = np.zeros(len(motions))
    for view in views:
        assert view.camera is not None
        camera_from_part = inverse(view.camera.part_from_camera)
        own = view.moved(camera_from_part)
        seen = seen_of(own)
        if isinstance(seen, Seen):
            against += _witnessed(_Shot(0, seen, support_of(own)), whole, camera_from_part @ motions, MANY)[:, 1]
    return np.asarray(against - against[0] <= SIGNS * (np.sqrt(against[0]) + 1))


@dataclass(frozen=True, eq=False)
class _Shot:
    """What one view saw, prepared for testing free space."""

    index: int
    seen: Seen
    plane: Plane | None

    @property
    def samples(self) -> Samples:
        return self.seen.scan.samples

    @property
    def radius_mm(self) -> float:
        return self.seen.scan.radius_mm

    @cached_property
    def reach_mm(self) -> float:
        """Surface nearer than this is the same."""
        return INLIER_SHARE * truncation_mm(self.radius_mm)

    @cached_property
    def points_mm(self) -> np.ndarray:
        return self.samples.points_mm.astype(np.float32)

    @cached_property
    def normals(self) -> np.ndarray:
        return self.samples.normals.astype(np.float32)

    @cached_property
    def depth_mm(self) -> ScoreMap:
        """With a border of nothing, on which everything outside of the image falls."""
        depth = self.seen.depth_mm.astype(np.float32)
        depth[[0, -1]] = np.nan
        depth[:, [0, -1]] = np.nan
        return depth

    @cached_property
    def front_mm(self) -> ScoreMap:
        """Nearest depth around each pixel: up to there space is free; 0 where some of it is unknown."""
        return np.asarray(minimum_filter(np.nan_to_num(self.depth_mm), EDGE_PX))

    @cached_property
    def stand_from_camera(self) -> Pose:
        """The support as z = 0, the middle of what is seen of the part above the origin."""
        assert self.plane is not None
        return _upright(self.plane, self.seen.scan.centre_mm)


def _upright(plane: Plane, middle: Vector) -> Pose:
    side = unit(np.cross(plane.normal, np.eye(3)[np.abs(plane.normal).argmin()]))
    pose = np.eye(4)
    pose[:3, :3] = np.stack([side, np.cross(plane.normal, side), plane.normal])
    pose[:3, 3] = -pose[:3, :3] @ middle
    pose[2, 3] = -plane.offset_mm
    return pose


def _witnessed(a: _Shot, b: _Shot, poses: Poses, count: int) -> np.ndarray:
    """(k, 2) per pose a_from_b: how many of b's samples a saw too, and how many float before what a saw."""
    result = np.zeros((len(poses), 2))
    depth, front, intrinsics = a.depth_mm, a.front_mm, a.seen.intrinsics.astype(np.float32)
    points, normals = b.points_mm[:count], b.normals[:count]
    height, width = depth.shape
    for row, pose in zip(result, poses.astype(np.float32), strict=True):
        at = points @ pose[:3, :3].T + pose[:3, 3]
        ray = -pose[:3, :3].T @ pose[:3, 3] - points
        facing = np.einsum("ni,ni->n", normals, ray) / np.sqrt(np.einsum("ni,ni->n", ray, ray))
        z = np.maximum(at[:, 2], np.float32(1e-3))
        x = (at[:, 0] * (intrinsics[0, 0] / z) + intrinsics[0, 2]).clip(0, width - 1).astype(np.int32)
        y = (at[:, 1] * (intrinsics[1, 1] / z) + intrinsics[1, 2]).clip(0, height - 1).astype(np.int32)
        fits = (np.abs(depth[y, x] - z) * facing < a.reach_mm) & (facing > 0.1)
        against = front[y, x] - z > a.reach_mm / np.maximum(facing, np.float32(0.3))
        if a.plane is not None:
            against |= a.plane.height_mm(at) < -3 * a.reach_mm
        row[:] = np.count_nonzero(fits), np.count_nonzero(against)
    return result


def _agreement(a: _Shot, b: _Shot, poses: Poses, count: int) -> np.ndarray:
    """(k, 2) samples of either view that the other saw too, and that float before what the other saw."""
    back = np.stack([np.eye(4), *(inverse(pose) for pose in poses)])[1:]
    return np.asarray(_witnessed(a, b, poses, count) + _witnessed(b, a, back, count))


def _starts(a: _Shot, b: _Shot, anywhere: bool) -> Poses:
    """First poses a_from_b: turns on the support both stand on, each with its best shift; else all rotations."""
    if anywhere or a.plane is None or b.plane is None:
        return about(rotation_grid(ROTATIONS), b.seen.scan.centre_mm, a.seen.scan.centre_mm)
    turns = np.zeros((YAWS, 3))
    turns[:, 2] = 2 * np.pi * np.arange(YAWS) / YAWS
    turned = about(Rotation.from_rotvec(turns).as_matrix(), np.zeros(3), np.zeros(3))
    step = SHIFT_SHARE * a.radius_mm
    shifts = np.array([(x, y, 0.0) for x in (-step, 0, step) for y in (-step, 0, step)])
    poses = np.repeat(turned[:, None], len(shifts), axis=1)
    poses[:, :, :3, 3] = shifts
    poses = inverse(a.stand_from_camera) @ poses @ b.stand_from_camera
    costs = a.seen.scan.cost(b.samples.thinned(150), poses.reshape(-1, 4, 4), 0.15 * a.radius_mm)
    return np.asarray(poses[np.arange(YAWS), costs.reshape(YAWS, -1).argmin(axis=1)])


def _hypotheses(a: _Shot, b: _Shot, anywhere: bool = False) -> Poses:
    """Poses a_from_b against which nothing speaks, best first."""
    target, truncation, radius = a.seen.scan, truncation_mm(a.radius_mm), a.radius_mm
    poses = _starts(a, b, anywhere)
    if len(poses) > REFINED:
        poses = poses[np.argsort(target.cost(b.samples.thinned(150), poses, 0.15 * radius))[:REFINED]]
    poses = target.refine(b.samples.thinned(250), poses, np.geomspace(0.2 * radius, truncation, 9))
    poses = target.refine(b.samples.thinned(400), poses, np.geomspace(2 * truncation, 0.5 * truncation, 5))
    poses = poses[distinct(poses, target.cost(b.samples.thinned(1000), poses, truncation), b.seen.scan, SAME_SHARE)]
    poses = np.asarray(poses[_possible(_agreement(a, b, poses, FEW), FEW)][:KEPT])
    if not len(poses):
        return poses
    poses = target.refine(b.samples.thinned(1500), poses, np.geomspace(truncation, 0.4 * truncation, 4), exact=True)
    return np.asarray(poses[_possible(_agreement(a, b, poses, MANY), MANY)])


def _possible(found: np.ndarray, count: int) -> np.ndarray:
    """Indices of poses with enough overlap and little against them, not clearly more than the best; best first."""
    kept = np.flatnonzero((found[:, 0] > MIN_FIT * 2 * count) & (found[:, 1] < MAX_AGAINST * found.sum(axis=1)))
    kept = kept[np.lexsort((-found[kept, 0], found[kept, 1]))]
    return kept[_no_worse(found[kept, 1], 2 * SIGNS)] if len(kept) else kept


def _no_worse(against: np.ndarray, signs: float = SIGNS) -> np.ndarray:
    """Which counts are not clearly larger than the least."""
    least = against.min()
    return np.asarray(against - least <= signs * (np.sqrt(least) + 1))


@dataclass(frozen=True, eq=False)
class _Places:
    """Where one view may belong in a set: poses, counts (k, 2) over all placed views, and the most overlap with one."""

    poses: Poses
    counts: np.ndarray
    overlap: np.ndarray

    def chosen(self, which: np.ndarray) -> "_Places":
        """Some of them."""
        return _Places(self.poses[which], self.counts[which], self.overlap[which])

    def with_more(self, more: "_Places") -> "_Places":
        """These and others."""
        return _Places(*(np.concatenate([getattr(p, n) for p in (self, more)]) for n in ("poses", "counts", "overlap")))

    def equals(self) -> "_Places":
        """Those that nothing tells from the best, best first."""
        order = np.flatnonzero(self.counts[:, 1] < MAX_AGAINST * self.counts.sum(axis=1))
        order = order[np.argsort(self.counts[order, 1], kind="stable")]
        return self.chosen(order[_no_worse(self.counts[order, 1])] if len(order) else order)

    @property
    def clearness(self) -> tuple[int, float]:
        """Smaller is clearer: few equal places, much overlap."""
        return len(self.poses), -float(self.overlap.max())


_NOWHERE = _Places(np.zeros((0, 4, 4)), np.zeros((0, 2)), np.zeros(0))


class _Set:
    """Views that hold together, growing; poses are in the frame of the first."""

    def __init__(self, shots: dict[int, _Shot], proposed: dict[tuple[int, int], Poses], first: int) -> None:
        self.shots, self.proposed = shots, proposed
        self.placed: dict[int, Pose] = {first: np.eye(4)}

    def relative(self, a: int, b: int) -> Poses:
        """Poses a_from_b that the pair proposes."""
        if (a, b) in self.proposed:
            return self.proposed[a, b]
        return np.array([inverse(pose) for pose in self.proposed.get((b, a), ())]).reshape(-1, 4, 4)

    def judged(self, view: int, poses: Poses, others: Sequence[int]) -> _Places:
        """Poses of a view as others see them."""
        each = np.stack(
            [_agreement(self.shots[u], self.shots[view], inverse(self.placed[u]) @ poses, MANY) for u in others]
        )
        return _Places(poses, each.sum(axis=0), each[:, :, 0].max(axis=0))

    def places(self, view: int, known: _Places, newest: Sequence[int]) -> _Places:
        """What was known of a view's places, with what the newly placed views say and propose."""
        if len(known.poses):
            said = self.judged(view, known.poses, newest)
            known = _Places(known.poses, known.counts + said.counts, np.maximum(known.overlap, said.overlap))
            known = known.chosen(_no_worse(known.counts[:, 1], 2 * SIGNS))
        proposed = np.concatenate([self.placed[u] @ self.relative(u, view) for u in newest])
        poses = np.concatenate([known.poses, proposed])
        if not len(proposed):
            return known
        kept = distinct(poses, np.arange(len(poses)), self.shots[view].seen.scan, SAME_SHARE)
        fresh = kept[kept >= len(known.poses)]
        return known.with_more(self.judged(view, poses[fresh], list(self.placed))) if len(fresh) else known

    def grow(self) -> None:
        """Add views one by one, the one first whose place is clearest."""
        left = dict.fromkeys(self.shots.keys() - self.placed.keys(), _NOWHERE)
        newest = list(self.placed)
        while left:
            left = {view: self.places(view, known, newest) for view, known in left.items()}
            equal = {view: places.equals() for view, places in left.items()}
            able = [view for view in left if len(equal[view].poses)]
            if not able:
                return
            view = min(able, key=lambda v: (equal[v].clearness, v))
            self.placed[view] = self.settled(view, self.apart(view, equal[view]))
            newest = [view]
            del left[view]

    def apart(self, view: int, equal: _Places) -> Pose:
        """Of equal places the one whose camera is furthest from the others: captures look from different sides."""
        middle = np.append(self.shots[view].seen.scan.centre_mm, 1)

        def ray(pose: Pose) -> Vector:
            return np.asarray((pose @ middle - pose[:, 3])[:3])

        others = unit(np.array([ray(pose) for pose in self.placed.values()]))
        own = unit(np.array([ray(pose) for pose in equal.poses]))
        return np.asarray(equal.poses[(own @ others.T).max(axis=1).argmin()])

    def settled(self, view: int, pose: Pose) -> Pose:
        """A view's pose after ICP to all that are placed."""
        samples = [(self.shots[u].samples.thinned(8000), placed) for u, placed in self.placed.items()]
        points = np.concatenate([transform_points(placed, part.points_mm) for part, placed in samples])
        normals = np.concatenate([transform_directions(placed, part.normals) for part, placed in samples])
        target = Target(Samples(points, normals, True, sum(part.area_mm2 for part, _ in samples)))
        reach = self.shots[view].reach_mm
        source = self.shots[view].samples.thinned(3000)
        return np.asarray(target.refine(source, pose[None], [2 * reach, reach, reach], exact=True)[0])

    def refine(self) -> None:
        """All placed views against each other; those that then contradict the others go."""
        views = list(self.placed)
        reach = min(self.shots[view].reach_mm for view in views)
        poses = refine_together([self.shots[v].samples for v in views], [self.placed[v] for v in views], reach)
        self.placed = dict(zip(views, poses, strict=True))
        for view in views[1:]:
            others = [u for u in self.placed if u != view]
            if not len(self.judged(view, self.placed[view][None], others).equals().poses):
                del self.placed[view]

    def confirmed(self) -> float:
        """Share of the pairs with proposals of their own among whose proposals is the pose they ended in."""
        pairs = [(a, b) for a, b in combinations(self.placed, 2) if len(self.relative(a, b))]
        good = 0
        for a, b in pairs:
            marks = self.shots[b].samples.points_mm[:100]
            there = transform_points(inverse(self.placed[a]) @ self.placed[b], marks)
            off = [np.linalg.norm(transform_points(p, marks) - there, axis=1).mean() for p in self.relative(a, b)]
            good += min(off) < SAME_SHARE * self.shots[b].radius_mm
        return good / len(pairs) if pairs else 1.0


def _largest_set(shots: Sequence[_Shot], count: int) -> _Set:
    """Sets grown from the clearest pairs, until one holds more than half of `count` views: the largest."""
    by_index = {shot.index: shot for shot in shots}
    proposed = {(a.index, b.index): _hypotheses(a, b) for a, b in combinations(shots, 2)}
    seeds: list[tuple[tuple[int, float], int, int, _Places]] = []
    for (a, b), poses in proposed.items():
        places = _Set(by_index, proposed, a).judged(b, poses, [a]).equals() if len(poses) else _NOWHERE
        if len(places.poses):
            seeds.append((places.clearness, a, b, places))
    best = _Set(by_index, proposed, shots[0].index)
    tried: set[int] = set()
    for _, a, b, places in sorted(seeds, key=lambda seed: seed[:3]):
        if a in tried and b in tried:
            continue
        grown = _Set(by_index, proposed, a)
        grown.placed[b] = grown.apart(b, places)
        _complete(grown)
        tried |= grown.placed.keys()
        best = max(grown, best, key=lambda each: len(each.placed))
        if 2 * len(best.placed) > count:
            break
    return best


def _complete(grown: _Set) -> None:
    """Grow a set; views that the support plane does not place (laid down anew) are tried in any rotation."""
    grown.grow()
    left = grown.shots.keys() - grown.placed.keys()
    if left and len(left) < len(grown.placed):
        for view in left:
            for other in list(grown.placed)[:SEEDS]:
                found = _hypotheses(grown.shots[other], grown.shots[view], anywhere=True)
                grown.proposed.pop((view, other), None)
                grown.proposed[other, view] = found
        grown.grow()
    grown.refine()


def _standing(grown: _Set) -> Pose:
    """The pose frame_from_standing: upright on the first view's support, below the middle of what all saw."""
    seen = [transform_points(pose, grown.shots[u].samples.points_mm) for u, pose in grown.placed.items()]
    middle = np.concatenate(seen).mean(axis=0)
    for view, pose in grown.placed.items():
        plane = grown.shots[view].plane
        if plane is not None:
            return np.asarray(pose @ inverse(_upright(plane, transform_points(inverse(pose), middle))))
    frame = np.eye(4)
    frame[:3, 3] = middle
    return frame
