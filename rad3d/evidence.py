"""What speaks against each point of a specimen's surface: appearance and geometry, each on the scale of good ones."""

from dataclasses import dataclass

import numpy as np

from rad3d.arrays import Flags, Indices, ScoreMap, Values
from rad3d.backproject import back_project
from rad3d.deviation import GoodDeviation, ReferenceShape, averaged, roots
from rad3d.fusion import fuse
from rad3d.observe import Observation
from rad3d.pigment import colour_scores
from rad3d.scan import Surface
from rad3d.settings import ANOMALOUS, Settings, VerdictSettings
from rad3d.surface import PlacedPatches, surface_scores, usual_scores

STRONGEST_INK = 6.0
"""Colour tells no more than this of a surface: a patch is wider than most ink, and its blur is not to outdo defects."""

SAME_COLOUR = 8
"""Colours that differ by no more in any channel (of 255) are the same."""

LABELLED_WEIGHT = 0.5
"""What a standard deviation of the labelled memory's probability counts against one of the normal memory's score."""


@dataclass(frozen=True, eq=False)
class Remembered:
    """What good specimens look like, ready to be compared with.

    Args:
        patches: all placed patches of the memory.
        scores: (2, m) each patch's own raw score and colour score against the other specimens.
        score_floors: (2,) spreads of these below which differences mean nothing.
        shape: the reference.
        deviation: of the good specimens, on the reference's points.
        deviation_floor_mm: spread below which differences mean nothing.
        chances: (m,) what labelled examples of other parts say of each patch; None without.
    """

    patches: PlacedPatches
    scores: np.ndarray
    score_floors: tuple[float, float]
    shape: ReferenceShape
    deviation: GoodDeviation
    deviation_floor_mm: float
    chances: Values | None = None

    def usual_shape(self, without: int | None = None) -> tuple[Values, Values]:
        """Usual deviation and its scale in mm at the reference's points, on request without one specimen."""
        usual, spread = self.deviation.usual_spread(without)
        return usual, spread + self.deviation_floor_mm


@dataclass(frozen=True, eq=False)
class Evidence:
    """Per surface point, (n,) each; NaN where not inspected.

    Args:
        score: what the verdict uses; NaN too in zones that the settings exclude. Where no view sees the surface,
            geometry alone, and only if it is anomalous.
        raw: fused 1 - cosine similarity.
        appearance: fused, in standard deviations of good specimens at that place.
        geometry: |deviation| in standard deviations, of the mean over `deviation.EVEN_MM` around.
        deviation_mm: signed, to the good mean; of the point itself.
        agreement: share of views that find the point anomalous.
        views_seen: how many views see it.
        gone_mm2: area of the reference's surface that is gone, unlike on good specimens, and told at this point.
    """

    score: Values
    raw: Values
    appearance: Values
    geometry: Values
    deviation_mm: Values
    agreement: Values
    views_seen: np.ndarray
    gone_mm2: Values


@dataclass(frozen=True, eq=False)
class PatchScores:
    """What retrieval says of a specimen's patches, (n, h, w) each; NaN off the part.

    Args:
        raw: 1 - cosine similarity.
        looks: how unusual they are, in standard deviations of good specimens at that place.
        ink: by how much colour is more unusual than `ANOMALOUS`; 0 or less where it is not.
    """

    raw: ScoreMap
    looks: ScoreMap
    ink: ScoreMap

    def unusual(self, most_ink: float = np.inf) -> ScoreMap:
        """What tells more, looks or ink; of ink no more than `most_ink`."""
        ink = np.minimum(self.ink, most_ink)
        return np.asarray(np.where((ink > 0) & (ink > self.looks), ink, self.looks))

    def all_usual(self) -> "PatchScores":
        """The same patches, found usual: where looks cannot be compared."""
        return PatchScores(self.raw, np.where(np.isnan(self.looks), np.nan, np.float32(0)), np.zeros_like(self.ink))


def judge_patches(
    observation: Observation,
    remembered: Remembered,
    settings: Settings,
    good: int | None = None,
    chances: ScoreMap | None = None,
) -> PatchScores:
    """Compare a specimen's patches with what is remembered.

    Args:
        observation: the specimen in the part frame.
        remembered: the good specimens.
        settings: of the inspector.
        good: the specimen's own index among the remembered ones, which is then left out.
        chances: (n, h, w) what labelled examples of other parts say of the specimen's patches.
    """
    query = PlacedPatches.of_query(observation.patches)
    own = None if good is None else remembered.patches.specimen == good
    others = None if own is None else ~own
    if own is None:
        raw = surface_scores(query, remembered.patches, settings.surface).raw
        view = observation.patches.view_index[query.position[:, 0]]
        colour = colour_scores(query, view, remembered.patches, settings.surface)
    else:
        raw, colour = remembered.scores[:, own]
    usual, spread = usual_scores(query, remembered.patches, remembered.scores, others)
    unusual, off_colour = (np.stack([raw, colour]) - usual) / (spread + np.array(remembered.score_floors)[:, None])
    if chances is not None and remembered.chances is not None:
        usual, spread = usual_scores(query, remembered.patches, remembered.chances, others)
        floor = 0.5 * float(np.std(remembered.chances))
        unusual += LABELLED_WEIGHT * (chances[tuple(query.position.T)] - usual) / (spread + floor)
    level = levelled(_grid(observation, query, unusual), observation.patches.view_index)
    return PatchScores(_grid(observation, query, raw), level, _grid(observation, query, off_colour - ANOMALOUS))


def levelled(unusual: ScoreMap, view_index: Indices) -> ScoreMap:
    """Scores (n, h, w) of patches less what most of their view is more than usual: that is light, no defect.

    No more than `ANOMALOUS` is taken away: a part of another colour stays anomalous.

    >>> levelled(np.array([[[2.0, 2.0, 9.0]], [[-1.0, 0.0, np.nan]]]), np.array([0, 1]))
    array([[[ 0.,  0.,  7.]],
    <BLANKLINE>
           [[-1.,  0., nan]]])
    """
    result = unusual.copy()
    for view in np.unique(view_index):
        rows = view_index == view
        if np.isfinite(unusual[rows]).any():
            result[rows] -= np.clip(np.nanmedian(unusual[rows]), 0, ANOMALOUS)
    return result


def gather(
    observation: Observation,
    patch_scores: PatchScores,
    remembered: Remembered,
    settings: Settings,
    good: int | None = None,
) -> Evidence:
    """Bring what is known of a specimen's patches and of its shape together on its surface.

    Args:
        observation: the specimen in the part frame.
        patch_scores: of its patches.
        remembered: the good specimens.
        settings: of the inspector.
        good: the specimen's own index among the remembered ones, which is then left out.
    """
    grids = [patch_scores.unusual(STRONGEST_INK), patch_scores.raw]
    seen = back_project(observation.views, observation.patches, grids, observation.surface, settings.fusion)
    appearance = fuse(seen[0], settings.fusion.rule, ANOMALOUS)
    raw = fuse(seen[1], "mean").score
    deviation, geometry, judged, gone_mm2 = _geometry(observation, remembered, settings.verdict, good)
    # Surface that no view shows is never good, but where its shape is anomalous, that is told.
    unseen = np.where(geometry > ANOMALOUS, geometry, np.nan)
    looks = averaged(observation.surface, np.maximum(appearance.score, 0), np.isfinite(appearance.score))
    score = np.where(np.isfinite(looks), looks + geometry, unseen)
    return Evidence(
        score=np.where(judged, score, np.nan).astype(np.float32),
        raw=raw,
        appearance=appearance.score,
        geometry=np.where(judged & np.isfinite(score), geometry, np.nan).astype(np.float32),
        deviation_mm=deviation.astype(np.float32),
        agreement=appearance.agreement,
        views_seen=appearance.views_seen,
        gone_mm2=gone_mm2,
    )


def _unjudged(surface: Surface, shape: ReferenceShape, verdict: VerdictSettings) -> Flags:
    """(n,) which points lie in zones that the settings exclude."""
    points = surface.points_mm
    result = np.zeros(len(points), bool)
    for box in verdict.unjudged_boxes_mm:
        corners = np.reshape(box, (2, 3))
        result |= ((points >= corners.min(axis=0)) & (points <= corners.max(axis=0))).all(axis=1)
    colours = shape.surface.colours
    if verdict.unjudged_colour is not None and colours is not None:
        apart = np.abs(colours.astype(int) - np.array(verdict.unjudged_colour)).max(axis=1)
        result |= (apart <= SAME_COLOUR)[shape.tree.query(points, workers=-1)[1]]
    return result


def _grid(observation: Observation, query: PlacedPatches, values: Values) -> ScoreMap:
    """Values of the placed patches (q,) back in the grids (n, h, w) they came from, NaN elsewhere."""
    grid = np.full(observation.patches.points_mm.shape[:3], np.nan, np.float32)
    grid[tuple(query.position.T)] = values
    return grid


def _geometry(
    observation: Observation, remembered: Remembered, verdict: VerdictSettings, good: int | None
) -> tuple[Values, Values, Flags, Values]:
    """Signed deviation from the good mean (n,) in mm, its size in standard deviations, where it is judged, and the
    area that is gone in mm2.

    What is gone from zones that are not judged is not told, and what is gone beside them is told within them too.
    """
    surface, shape = observation.surface, remembered.shape
    judged = ~_unjudged(surface, shape, verdict)
    # what deviates in a zone that is not judged is not to count beside it
    even_mm = observation.even_mm if judged.all() else averaged(surface, observation.distance_mm, judged)
    usual, spread = remembered.usual_shape(good)
    _, nearest = shape.tree.query(surface.points_mm, workers=-1)
    deviation = observation.distance_mm - usual[nearest]
    geometry = np.abs(even_mm - usual[nearest]) / spread[nearest]
    lost = np.isfinite(observation.gone_mm)
    if not lost.any():
        return deviation, geometry, judged, np.zeros(len(deviation))
    # what is missing has no surface of its own: it is told where it was rooted
    rows, at = np.flatnonzero(lost), roots(shape.surface, lost, surface)
    asked = remembered.deviation.known(without=good) & ~_unjudged(shape.surface, shape, verdict)
    kept = np.flatnonzero(asked[rows])
    kept = kept[np.argsort(observation.gone_mm[rows[kept]])]  # of several at one point the last one stays, the furthest
    rows, at = rows[kept], at[kept]
    missing = -observation.gone_mm[rows] - usual[rows]
    unusual = np.abs(missing) / spread[rows]
    gone_mm2 = np.bincount(at, shape.surface.areas_mm2[rows] * (unusual > ANOMALOUS), len(deviation))
    on_reference = np.zeros(len(usual))
    on_reference[rows] = unusual
    together = averaged(shape.surface, on_reference)[rows] > ANOMALOUS  # a lone point is noise
    told = together & ~(unusual <= geometry[at])  # NaN where nothing else is judged
    at = at[told]
    deviation[at], geometry[at], judged[at] = missing[told], unusual[told], True
    return deviation, geometry, judged, gone_mm2
