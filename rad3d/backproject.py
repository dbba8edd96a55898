"""Scores of views -> surface points: each point gets a score from every view that sees it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import distance_transform_edt, minimum_filter
from scipy.spatial import cKDTree

from rad3d.arrays import Flags, Mask, ScoreMap, Values
from rad3d.geometry import lengths, unit
from rad3d.patches import Patches, mm_per_pixel, near_part, sample_scores
from rad3d.scan import Surface
from rad3d.settings import FusionSettings
from rad3d.threads import each
from rad3d.view import View

BESIDE_MM = 1.0
"""So near the part a pixel without a depth may show it: the edge of a burr often returns none."""

LEAST_FACING = 0.17
"""Cosine of incidence (80 degrees) down to which a view shows what others judged; steeper normals are too unsure."""

HIDING_PIXELS = 5
"""Side of the square within which a measured point hides what lies behind it."""


@dataclass(frozen=True, eq=False)
class PointViews:
    """What each view says of each surface point.

    Args:
        score: (v, n) float32, NaN where the view does not see the point.
        incidence: (v, n) float32 cosine between normal and line of sight; 0 where not seen.
    """

    score: np.ndarray
    incidence: np.ndarray


def visible(view: View, surface: Surface, settings: FusionSettings) -> tuple[Flags, np.ndarray, np.ndarray]:
    """Which surface points (n, 3) a view sees: flags (n,), pixels_xy (n, 2), cosine of incidence (n,).

    A point is seen when the view's own surface, at the point's pixel or one beside it, lies within
    `depth_tolerance_mm` of it along the line of sight, and the incidence is within the limit. On steep surface the
    tolerance grows by what a pixel covers in depth.
    """
    count = len(surface.points_mm)
    if view.camera is None or view.points_mm is None:
        return np.zeros(count, bool), np.full((count, 2), np.nan), np.zeros(count)
    pixels, depth = view.camera.project(surface.points_mm)
    row, column, inside = view.camera.in_image(pixels)
    towards = unit(view.camera.centre_mm - surface.points_mm)
    cosine = np.einsum("ij,ij->i", towards, surface.normals)
    height, width = view.size_hw
    inside &= cosine >= np.cos(settings.max_incidence)
    own_depth = lengths(view.points_mm - view.camera.centre_mm.astype(np.float32))
    candidates = np.flatnonzero(inside)
    distance = lengths(surface.points_mm[candidates] - view.camera.centre_mm)
    pixel_mm = depth[candidates] / view.camera.intrinsics[0, 0]
    tolerance = settings.depth_tolerance_mm + pixel_mm * _slope(cosine[candidates])
    agrees = np.zeros(len(candidates), bool)
    for dy, dx in ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)):
        y = np.clip(row[candidates] + dy, 0, height - 1)
        x = np.clip(column[candidates] + dx, 0, width - 1)
        with np.errstate(invalid="ignore"):
            agrees |= np.abs(own_depth[y, x] - distance) <= tolerance
    seen = np.zeros(count, bool)
    seen[candidates[agrees]] = True
    return seen, pixels, np.where(seen, cosine, 0.0)


def _slope(cosine: Values) -> Values:
    """How far surface at such incidence recedes along the line of sight per distance across it."""
    return np.asarray(np.sqrt(1 - np.minimum(cosine**2, 1)) / np.maximum(cosine, 1e-3))


def back_project(
    views: Sequence[View], patches: Patches, scores: Sequence[ScoreMap], surface: Surface, settings: FusionSettings
) -> list[PointViews]:
    """Patch scores (n, h, w) of a specimen's views -> scores (v, points) of its surface, for each kind of score."""
    incidence = np.zeros((len(views), len(surface.points_mm)), np.float32)
    projected = np.full((len(scores), *incidence.shape), np.nan, np.float32)

    def look(index: int) -> None:
        seen, pixels, cosine = visible(views[index], surface, settings)
        incidence[index, seen] = cosine[seen]
        for kind, of_kind in zip(projected, scores, strict=True):
            kind[index, seen] = sample_scores(patches, of_kind, index, pixels[seen])

    each(look, range(len(views)))
    return [PointViews(kind, np.where(np.isnan(kind), np.float32(0), incidence)) for kind in projected]


def completed(view: View, surface: Surface, overlooked: Mask | None, settings: FusionSettings) -> View:
    """A captured view with points where its sensor measured no depth but other views did: in its projector's shadow.

    Args:
        view: part frame.
        surface: what all views measured, part frame.
        overlooked: (H, W) pixels without a depth; None where the view was rendered and stays as it is.
        settings: how far surface may lie behind what is in front of it.
    """
    if view.camera is None or view.points_mm is None or overlooked is None or not view.mask.any():
        return view
    facing = np.einsum("ij,ij->i", unit(view.camera.centre_mm - surface.points_mm), surface.normals)
    pixels, depth = view.camera.project(surface.points_mm)
    row, column, inside = view.camera.in_image(pixels)
    rows = np.flatnonzero(inside)
    rows = rows[np.argsort(-depth[rows])]  # of several at one pixel the last one stays, the nearest
    front = np.full(view.size_hw, np.inf)
    front[row[rows], column[rows]] = depth[rows]
    front = minimum_filter(front, size=HIDING_PIXELS)
    rows = rows[overlooked[row[rows], column[rows]] & (facing[rows] >= LEAST_FACING)]
    pixel_mm = depth[rows] / view.camera.intrinsics[0, 0]
    tolerance = settings.depth_tolerance_mm + pixel_mm * _slope(facing[rows]) * HIDING_PIXELS / 2
    rows = rows[depth[rows] <= front[row[rows], column[rows]] + tolerance]
    points = view.points_mm.copy()
    points[row[rows], column[rows]] = surface.points_mm[rows]
    return replace(view, points_mm=points)


def view_map(
    view: View, surface_tree: cKDTree, point_scores: np.ndarray, reach_mm: float, overlooked: Mask | None = None
) -> ScoreMap:
    """Scores of a surface's points as a map (H, W) over a view: the nearest point's, NaN without one within reach.

    Args:
        view: part frame.
        surface_tree: of the surface's points.
        point_scores: (n,) of the surface's points.
        reach_mm: no point beyond this counts.
        overlooked: (H, W) pixels without a depth; those amid the part, or less than `BESIDE_MM` beside it, have the
            score of the nearest pixel in reach.
    """
    result = np.full(view.size_hw, np.nan, np.float32)
    if view.points_mm is None or not surface_tree.n:
        return result
    mask = view.mask
    distance, index = surface_tree.query(view.points_mm[mask], distance_upper_bound=reach_mm, workers=-1)
    found = np.isfinite(distance)
    result[mask] = np.where(found, point_scores[np.where(found, index, 0)], np.nan)
    if overlooked is not None and np.isfinite(result).any():
        away, (row, column) = distance_transform_edt(np.isnan(result), return_indices=True)
        away_mm = away * mm_per_pixel(view)
        filled = overlooked & np.isnan(result) & (away_mm <= np.where(near_part(view), reach_mm, BESIDE_MM))
        result[filled] = result[row[filled], column[filled]]
    return result
