"""Of what differs in colour from good specimens, what no light explains: ink, coloured burns.

A camera sees the body's own colour mixed with light that the surface mirrors (the dichromatic model: S. A. Shafer,
Using color to separate reflection components, 1985). Brightness is left out at once. What is mirrored tints a facet as
a whole, for all its patches face the lamps alike, and between none of it and the strongest in the view anything can
occur, where the lamp reaches only part of a facet. Only what differs from all that is told.
"""

import numpy as np
from scipy.spatial import cKDTree

from rad3d.arrays import Flags, Indices, Points, Values
from rad3d.settings import SurfaceSettings
from rad3d.surface import PlacedPatches

NEIGHBOURS = 48
"""Remembered patches nearest in place whose colours say what is usual there."""
FACET_STEP = 4
"""Every fourth patch stands for a facet; the others take the tint of the one that faces most nearly as they do."""
FACET_ANGLE = 0.45
"""Radians within which patches face the lamps alike."""
FEWEST = 12
"""Patches that tell the tint of a facet; of one with fewer it is that of the whole view."""
STRONGEST_TINT = 0.98
"""Quantile of a view's tints that counts as the strongest."""
LEAST_CHROMA = 0.006
"""What cameras tell apart: one or two of 255 steps in one channel of a middling grey."""


def colour_scores(
    query: PlacedPatches,
    view_index: Indices,
    remembered: PlacedPatches,
    settings: SurfaceSettings,
    allowed: Flags | None = None,
) -> Values:
    """How much each query patch's colour differs from all that is remembered there, light apart; NaN where nothing is.

    In units of how much its facet varies by itself.

    Args:
        query: patches to be judged.
        view_index: (q,) the view that each is of.
        remembered: patches of the memory.
        settings: how far apart on the part, and how differently turned, remembered patches may be.
        allowed: (n,) remembered patches that may answer at all.
    """
    scores = np.full(len(query), np.nan, np.float32)
    known = np.isfinite(remembered.chroma).all(axis=1)
    kept = np.flatnonzero(known if allowed is None else known & allowed)
    asked = np.flatnonzero(np.isfinite(query.chroma).all(axis=1))
    if not len(kept) or not len(asked):
        return scores
    k = min(NEIGHBOURS, len(kept))
    apart, nearest = cKDTree(remembered.points_mm[kept]).query(query.points_mm[asked], k=k, workers=-1)
    rows = kept[nearest.reshape(len(asked), k)]
    facing = np.einsum("qc,qkc->qk", query.normals[asked], remembered.normals[rows])
    alike = (apart.reshape(len(asked), k) <= settings.radius_mm) & ~(facing < np.cos(settings.max_normal_angle))
    differs = np.where(alike[..., None], query.chroma[asked, None] - remembered.chroma[rows], np.nan)
    view = view_index[asked]
    for one in np.unique(view):
        members = np.flatnonzero((view == one) & alike.any(axis=1))
        if len(members):
            scores[asked[members]] = _beyond_light(differs[members], query.normals[asked[members]])
    return scores


def _beyond_light(differs: np.ndarray, normals: Points) -> Values:
    """What light leaves (m,) of one view's differences in chromaticity (m, k, 2) to remembered patches (NaN = to none).

    Of the remembered ones that counts which explains most.
    """
    tints, varies = _tints(np.nanmedian(differs, axis=1), normals)
    order = np.argsort(np.linalg.norm(tints, axis=1))
    strongest = tints[order[int(STRONGEST_TINT * (len(order) - 1))]]
    share = np.clip(differs @ strongest / max(float(strongest @ strongest), 1e-12), 0, 1)
    explained = (tints[:, None], share[..., None] * strongest)
    left = np.minimum(*(np.nanmin(np.linalg.norm(differs - tint, axis=2), axis=1) for tint in explained))
    return np.asarray(left / (varies + LEAST_CHROMA))


def _tints(differs: Points, normals: Points) -> tuple[Points, Values]:
    """By what (m, 2) the patches of one view that face as each does differ from the usual, and how much they vary (m,).

    >>> facing = np.repeat([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], FEWEST, axis=0)
    >>> tints, varies = _tints(np.where(facing[:, :1] > 0, 0.25, [0.0, 0.5]), facing)
    >>> tints[[0, -1]].tolist(), float(varies.max())
    ([[0.0, 0.5], [0.25, 0.25]], 0.0)
    """
    known = np.isfinite(normals).all(axis=1)
    some = np.concatenate([np.zeros((1, 3)), normals[known][::FACET_STEP]])  # the first stands for the whole view
    normals = np.nan_to_num(normals)
    like = some @ normals.T >= np.cos(FACET_ANGLE)
    like |= like.sum(axis=1, keepdims=True) < FEWEST
    tints = np.stack([_median(values, like) for values in differs.T], axis=1)
    varies = 1.4826 * _median(np.linalg.norm(differs - tints[:, None], axis=2), like)
    facet = (normals @ some.T).argmax(axis=1)
    return tints[facet], varies[facet]


def _median(values: np.ndarray, chosen: Flags) -> Values:
    """Of the chosen ones (f, m) among values (m,) or (f, m): the lower of two in the middle."""
    ordered = np.sort(np.where(chosen, values, np.inf), axis=1)
    return np.asarray(np.take_along_axis(ordered, (chosen.sum(axis=1)[:, None] - 1) // 2, axis=1)[:, 0])
