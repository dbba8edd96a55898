"""Captured views, turned by symmetry of the part until what is odd about the specimen's shape is odd at one place.

A view of a flange with six equal holes fits in six poses, and cannot tell which. But where a specimen is not as the
part should be, its views tell how they lie to each other: surface that one has and the part has not, like a burr or a
filled hole, the others see too, and do not see through; and where surface is gone, all that look there see through.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from rad3d.arrays import Flags, Indices, Pose, Values, Vector
from rad3d.geometry import inverse, transform_directions, transform_points
from rad3d.icp import Poses, Samples
from rad3d.query import Seen
from rad3d.reference import JUDGED, Reference
from rad3d.settle import upright

COMPANY = 8
"""Neighbouring samples, of which most must be odd for one to count: an edge is odd along a line only."""
MOST_ODD = 300
"""Samples of either kind that are compared."""
SURE = 9.0
"""By how many samples, over all other views, a turn must fit better than any other to be believed: three standard
deviations of a sign test if all of them speak for it. Of good parts none is odd."""
ROUNDS = 4
"""Times at most that every view is looked at again."""


def agreed(
    queries: Sequence[Seen | str], homes: Sequence[tuple[Pose, Vector | None] | None], reference: Reference
) -> list[Pose | None]:
    """The turns, each a symmetry of the part, that take one specimen's views where the others speak for them.

    Args:
        queries: the views.
        homes: part_from_camera of each, one of those that symmetry makes equal, and which way is up, as
            `rad3d.settle.settled` gives them; None = not known.
        reference: the part with its symmetries.

    Returns:
        one turn per view; None = nothing odd tells. About an axis of revolution no turn leads its neighbours.
    """
    turns = reference.symmetries.exact
    result: list[Pose | None] = [None] * len(homes)
    if len(turns) == 1 or reference.symmetries.axis is not None:
        return result
    known = [
        (i, query, *home)
        for i, (query, home) in enumerate(zip(queries, homes, strict=True))
        if isinstance(query, Seen) and home is not None
    ]
    open_to = [upright(turns, up) for *_, up in known]
    odd = [_odd(query, pose, reference) for _, query, pose, _ in known]
    if all(some.sum() == 1 for some in open_to) or not any(len(one.there) for one in odd):
        return result
    back = np.stack([inverse(turn) for turn in turns])

    @cache
    def between(view: int, other: int, turn: int) -> Values:
        """(k,) what speaks for each turn of a view, beside another one that has its own."""
        (_, mine, pose, _), (_, its, its_pose, _) = known[view], known[other]
        told = odd[view].seen_by(its, back @ turns[turn] @ its_pose, reference)
        return np.asarray(told + odd[other].seen_by(mine, back[turn] @ turns @ pose, reference))

    def fits(view: int, others: Sequence[int], chosen: Indices) -> Values:
        told = sum(between(view, other, int(chosen[other])) for other in others)
        return np.where(open_to[view], told, -np.inf)

    energy = np.array([len(one.there) for one in odd], float)
    chosen, leads = in_turn(energy, fits, SURE, np.zeros(len(known), bool))
    for (i, *_), turn, lead in zip(known, chosen, leads, strict=True):
        result[i] = turns[turn] if lead >= SURE else None
    return result


@dataclass(frozen=True, eq=False)
class _Odd:
    """Where a view contradicts the part.

    Args:
        samples: in the part frame.
        there: whether it is surface that the specimen has and the part has not, or the other way round.
    """

    samples: Samples
    there: Flags

    def seen_by(self, query: Seen, poses: Poses, reference: Reference) -> Values:
        """(k,) how many samples more another view confirms than it contradicts, in each of its poses."""
        if not len(self.there):
            return np.zeros(len(poses))
        distance = query.distances_back(self.samples, reference.truncation_mm, poses)
        found = distance <= reference.inlier_mm
        told = np.where(np.isnan(distance), 0.0, np.where(found == self.there, 1.0, -1.0))
        return np.asarray(told.sum(axis=1))


def _odd(query: Seen, pose: Pose, reference: Reference) -> _Odd:
    """What is odd about the specimen in a view at part_from_camera."""
    mine, part = query.scan.samples.thinned(JUDGED), reference.target.samples.thinned(JUDGED)
    more = _together(reference.target.residuals(mine, pose[None], exact=True)[3][0] > reference.inlier_mm, mine)
    # what is not known is not gone
    gone = _together(query.distances_back(part, reference.truncation_mm, pose[None])[0] > reference.inlier_mm, part)
    points = np.concatenate([transform_points(pose, mine.points_mm[more]), part.points_mm[gone]])
    normals = np.concatenate([transform_directions(pose, mine.normals[more]), part.normals[gone]])
    samples = Samples(points, normals, mine.signed and part.signed, part.area_mm2 * len(points) / JUDGED)
    return _Odd(samples, np.arange(len(points)) < len(more))


def _together(flags: Flags, samples: Samples) -> Indices:
    """Those of the flagged samples most of whose neighbours are flagged."""
    near = samples.tree.query(samples.points_mm[flags], k=min(COMPANY, len(flags)), workers=-1)[1]
    return np.asarray(np.flatnonzero(flags)[flags[near].mean(axis=1) > 0.5][:MOST_ODD])


def in_turn(
    energy: Values, fits: Callable[[int, Sequence[int], Indices], Values], sure: float, tied: Flags
) -> tuple[Indices, Values]:
    """(v,) which turn each view takes, 0 = none unless `sure`, and by how much it fits better there than anywhere else.

    The view that tells most goes first, then always the one that fits best. What came early met few others: once all
    untied ones have their place, each is looked at again, at most `ROUNDS` times. Tied ones come last, and turn none.

    Args:
        energy: (v,) how much a view tells.
        fits: how well a view goes with some others, in each of its turns (k,), when all have those chosen so far.
        sure: how much better than its own a turn must fit to be taken.
        tied: (v,) views that may yet be discarded.
    """
    chosen, leads = np.zeros(len(energy), int), np.zeros(len(energy))

    def place(view: int, told: Values) -> None:
        turn = int(told.argmax())
        if told[turn] - told[chosen[view]] >= sure:
            chosen[view] = turn
        leads[view] = told[turn] - np.delete(told, turn).max(initial=-np.inf)

    placed: list[int] = []
    for group in (np.flatnonzero(~tied).tolist(), np.flatnonzero(tied).tolist()):
        left = sorted(group, key=lambda view: -energy[view])
        placed += [left.pop(0)] if left and not placed else []
        while left:
            all_told = [fits(view, placed, chosen) for view in left]
            best = int(np.argmax([told.max() for told in all_told]))
            place(left[best], all_told[best])
            placed.append(left.pop(best))
        for _ in range(0 if tied[group].any() else ROUNDS):
            before = chosen.copy()
            for view in group:
                place(view, fits(view, [other for other in group if other != view], chosen))
            if (chosen == before).all():
                break
    return chosen, leads
