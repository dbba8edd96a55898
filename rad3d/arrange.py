"""Views that were each registered alone, turned among the poses in which they fit until they tell the same.

One view of a flange with six equal holes fits in six poses, and one of a gear that hides its keyway at every tooth.
Each is right by itself, but views that chose differently show one crack in six places. What tells them apart is only
what is unusual about the specimen: views of one place agree where it is.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rad3d.agree import in_turn
from rad3d.arrays import Flags, Indices, Pose, ScoreMap, Values
from rad3d.backproject import back_project
from rad3d.deviation import ReferenceShape
from rad3d.evidence import Remembered
from rad3d.geometry import inverse, transform_directions, transform_points
from rad3d.icp import Poses, Samples
from rad3d.observe import Observation, has_poses, observed
from rad3d.query import Seen, seen_of
from rad3d.reference import Reference
from rad3d.register import Registration, nowhere, specimen_of, told_apart
from rad3d.scan import Surface
from rad3d.settings import FusionSettings
from rad3d.settle import equivalents, settled, upright
from rad3d.view import View

MARKS = 6000
"""Places on the part at which views are compared."""
POINTS_PER_VIEW = 24_000
AROUND = 12
"""Neighbouring marks that are told together: views from two sides see two sides of a crack."""
USUAL = 1.0
"""Standard deviations up to which nothing is told of a place. Lower than where a single view finds it anomalous: what
is weak in each view but the same in all tells how they lie."""
STRONGEST = 10.0
"""What is more unusual than this counts as this: no single place decides."""
DOUBT = 0.5
"""Weight of the assumption that a place is usual, beside the views that look at it."""
SURE = 6.0
"""By how much a pose must be likelier than the one a view has to be taken instead, and than all others to be believed
where they are not the same by symmetry: twenty to one."""


def arranged(
    observation: Observation,
    unusual: ScoreMap,
    remembered: Remembered,
    reference: Reference,
    settings: FusionSettings,
) -> Observation:
    """The specimen with each view in that one of its equivalent poses in which it agrees best with the others.

    Views that were captured with poses, or fit in one pose only, stay as they are. Those that agree by their shape are
    turned as that says, and from there only together. A view that fits in several poses which are not the same by
    symmetry counts only where it agrees with others; else it shows nothing.

    Args:
        observation: the specimen.
        unusual: (n, h, w) how unusual its patches are in looks or colour, in standard deviations of good ones.
        remembered: the good specimens.
        reference: the part with its symmetries.
        settings: which views judge a point.
    """
    trusted = [one for one in observation.registrations if one.trusted]
    if len(trusted) < 2 or has_poses(observation.scan):
        return observation
    shared = equivalents(reference)
    tied = np.array([bool(one.rivals) for one in trusted])
    bound = np.array([one.turn is not None for one in trusted])
    open_to = np.stack([upright(shared, one.up) for one in trusted])
    open_to[bound] = open_to[bound].all(axis=0)
    if not (open_to[:, 1:].any() or tied.any()):
        return observation
    marks = reference.target.samples.thinned(MARKS)
    everywhere = _places(shared, marks)
    turns = [_turns(one, shared[some]) for one, some in zip(trusted, open_to, strict=True)]
    places = [
        everywhere[some] if free else _places(own, marks)
        for own, some, free in zip(turns, open_to, ~(tied | bound), strict=True)
    ]
    chosen, leads = _chosen(_told(observation, unusual, remembered, marks, settings), places, tied, bound)
    lost = tied & (leads < SURE)
    if not (chosen.any() or tied.any() or bound.any()):
        return observation
    placed = [
        one if out else _placed(one, some[number])
        for one, some, number, out in zip(trusted, turns, chosen, lost, strict=True)
    ]
    return _moved(observation, placed, remembered.shape, lost)


def _turns(registration: Registration, shared: Poses) -> Poses:
    """(k, 4, 4) the motions among which a view may choose, the one that it has first."""
    if registration.rivals:
        back = inverse(registration.part_from_scan)
        return np.stack([np.eye(4), *(rival @ back for rival in registration.rivals)])
    return shared if registration.turn is None else shared @ registration.turn


def _placed(registration: Registration, turn: Pose) -> Registration:
    """The registration where a view is believed to lie."""
    pose = turn @ registration.part_from_scan
    return replace(registration, part_from_scan=pose, rivals=(), reason="", turn=None)


def told_by_others(
    observation: Observation, found: Observation, shape: ReferenceShape, reference: Reference
) -> Observation:
    """Views that fit in several poses, where they fit what the other views saw (`register.told_apart`).

    Args:
        observation: the specimen as it was observed.
        found: the same, `arranged`.
        shape: the reference.
        reference: the part with its symmetries.

    Returns:
        the specimen to be compared and arranged anew, for those views' looks were judged at other places, and with the
        others' turns kept; the same observation if there are no such views, or no others.
    """
    registrations = list(observation.registrations)
    tied = [i for i, one in enumerate(registrations) if one.trusted and one.rivals]
    if not tied or len(tied) == sum(one.trusted for one in registrations):
        return observation
    queries = [seen_of(view) for view in observation.scan.views]
    known = [nowhere("") if i in tied else one for i, one in enumerate(found.registrations)]
    specimen = specimen_of(queries, known)
    assert specimen is not None
    for i, (was, now, query) in enumerate(zip(registrations, found.registrations, queries, strict=True)):
        if i in tied and isinstance(query, Seen):
            one = told_apart(query, was, specimen, reference)
            (home,) = settled([observation.scan.views[i]], [one.part_from_scan if one.trusted else None], reference)
            registrations[i] = replace(one, trusted=True) if home is None else _from(one, home[0])
        elif was.trusted:
            registrations[i] = _from(now, was.part_from_scan)
    trusted = [one for one in registrations if one.trusted]
    return _moved(observation, trusted, shape, np.zeros(len(trusted), bool))


def _from(registration: Registration, pose: Pose) -> Registration:
    """The registration at a pose that symmetry makes equal, with the turn that leads back."""
    return replace(registration, part_from_scan=pose, turn=registration.part_from_scan @ inverse(pose))


def _moved(observation: Observation, placed: Sequence[Registration], shape: ReferenceShape, lost: Flags) -> Observation:
    """The specimen with its trusted views where these registrations put them, and nothing of the lost ones."""
    trusted = [one for one in observation.registrations if one.trusted]
    motions = [new.part_from_scan @ inverse(old.part_from_scan) for new, old in zip(placed, trusted, strict=True)]
    views = tuple(
        replace(view, points_mm=np.full_like(view.points_mm, np.nan)) if out else view.moved(motion)
        for view, motion, out in zip(observation.views, motions, lost, strict=True)
    )
    patches = observation.patches
    points, normals, directions = (a.copy() for a in (patches.points_mm, patches.normals, patches.directions))
    points[lost[patches.view_index]] = np.nan
    for row, view in enumerate(patches.view_index):
        points[row] = transform_points(motions[view], points[row])
        normals[row] = transform_directions(motions[view], normals[row])
        directions[row] = transform_directions(motions[view], directions[row])
    left = iter(placed)
    registrations = tuple(next(left) if one.trusted else one for one in observation.registrations)
    moved = replace(patches, points_mm=points, normals=normals, directions=directions)
    return observed(observation.scan, registrations, views, moved, shape)


def _places(turns: Poses, marks: Samples) -> np.ndarray:
    """(k, m) which mark comes to lie at each mark."""
    came_from = (transform_points(inverse(turn), marks.points_mm) for turn in turns)
    return np.stack([marks.tree.query(points, workers=-1)[1] for points in came_from])


def _told(
    observation: Observation,
    unusual: ScoreMap,
    remembered: Remembered,
    marks: Samples,
    settings: FusionSettings,
) -> np.ndarray:
    """(v, 2, m) how unusual each view finds looks and shape (signed) at the marks, 0 = usual, NaN = not seen."""
    surface = Surface(marks.points_mm, marks.normals, np.ones(len(marks.points_mm)))
    (seen,) = back_project(observation.views, observation.patches, [unusual], surface, settings)
    around = marks.tree.query(marks.points_mm, k=min(AROUND, len(marks.points_mm)), workers=-1)[1]
    usual_shape = remembered.usual_shape()
    result = []
    for view, appearance in zip(observation.views, seen.score, strict=True):
        looks = np.clip(appearance - USUAL, 0, STRONGEST)
        most = np.fmax.reduce(looks[around], axis=1)
        shape = _average(_shape_told(view, remembered.shape, *usual_shape, marks)[around])
        strength = np.clip(np.abs(shape) - USUAL, 0, STRONGEST)
        # that a place looks usual, only who sees the place itself can say
        result.append((np.where(np.isfinite(looks) | (most > 0), most, np.nan), np.copysign(strength, shape)))
    return np.array(result)


def _shape_told(view: View, shape: ReferenceShape, usual: Values, spread: Values, marks: Samples) -> Values:
    """(m,) how the shape that a view shows deviates at each mark, on average over the mark; NaN unseen."""
    assert view.points_mm is not None
    points = view.points_mm[view.mask].astype(np.float64)
    points = points[:: max(1, len(points) // POINTS_PER_VIEW)]
    _, nearest = shape.tree.query(points, workers=-1)
    off = (shape.signed_distance(points) - usual[nearest]) / spread[nearest]
    _, mark = marks.tree.query(points, workers=-1)
    count, total = (np.bincount(mark, weights=weights, minlength=len(marks.points_mm)) for weights in (None, off))
    return np.asarray(np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0))


def _average(values: np.ndarray) -> Values:
    """Mean over the second axis without NaN; NaN where there is nothing else."""
    known = np.isfinite(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0).sum(axis=1)
    return np.asarray(np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0))


def _chosen(told: np.ndarray, places: Sequence[np.ndarray], tied: Flags, bound: Flags) -> tuple[Indices, Values]:
    """(v,) which turn each view takes, 0 = none unless `SURE`, and by how much it fits better there than anywhere else.

    Those that are bound to each other take the same.

    >>> crack = np.array([[[9.0, 0.0, 0.0, np.nan]], [[np.nan, 0.0, 9.0, 0.0]]])  # one ring of four places, two views
    >>> ring = np.array([[0, 1, 2, 3], [3, 0, 1, 2], [2, 3, 0, 1], [1, 2, 3, 0]])
    >>> _chosen(crack, [ring, ring], np.zeros(2, bool), np.zeros(2, bool))
    (array([0, 2]), array([6., 6.]))
    """
    _, number = np.unique(np.where(bound, len(bound), np.arange(len(bound))), return_inverse=True)
    units = [np.flatnonzero(number == unit).tolist() for unit in range(number.max() + 1)]

    def fits(unit: int, others: Sequence[int], chosen: Indices) -> Values:
        if not others:
            return np.zeros(len(places[units[unit][0]]))
        placed = np.stack([told[view][:, places[view][chosen[other]]] for other in others for view in units[other]])
        return np.asarray(sum(_fit(told[view][:, places[view]], placed) for view in units[unit]))

    energy = np.bincount(number, weights=np.nansum(told**2, axis=(1, 2)))
    chosen, leads = in_turn(energy, fits, SURE, np.bincount(number, weights=tied) > 0)
    return chosen[number], leads[number]


def _fit(turned: np.ndarray, placed: np.ndarray) -> Values:
    """(k,) how well a view in each of its poses (2, k, m) goes with what the views that have their place say (v, 2, m).

    Twice the log-likelihood ratio, for noise of one standard deviation, of "it sees what they see" and "there is
    nothing to see", over the places that it and another look at; neighbouring marks are told together, so that each is
    only a share of an observation.
    """
    looked = np.isfinite(placed).sum(axis=0)
    mean = (np.nansum(placed, axis=0) / (looked + DOUBT))[:, None]
    return np.asarray(np.nansum(mean * (2 * turned - mean), axis=(0, 2)) / AROUND)
