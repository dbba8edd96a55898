"""Retrieval conditioned on the surface: a patch answers to remembered patches of the same place, seen alike.

RAD limits patches by their position in the image; with every patch placed in the part frame, the limit is a radius
on the part instead, over all remembered views and specimens. Exact, and sparse: space is cut into cells, and each
cell's queries meet only the remembered patches within reach.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from rad3d.arrays import Flags, Indices, Points, Values
from rad3d.memory import Memory
from rad3d.patches import Patches
from rad3d.settings import SurfaceSettings


@dataclass(frozen=True, eq=False)
class PlacedPatches:
    """Patches that show surface, one row each.

    Args:
        points_mm: (n, 3) float32.
        normals: (n, 3) float32.
        chroma: (n, 2) float32 shares of red and green, NaN where unknown.
        directions: (n, 3) float32 from the part to the camera.
        features: (n, l, c), unit length; float16 in a memory.
        specimen: (n,) which specimen of the memory; -1 for a query.
        position: (n, 3) row, and patch row and column in the grid they came from.
    """

    points_mm: Points
    normals: Points
    chroma: np.ndarray
    directions: Points
    features: torch.Tensor
    specimen: Indices
    position: np.ndarray

    def __len__(self) -> int:
        return len(self.points_mm)

    @cached_property
    def tree(self) -> cKDTree:
        """For neighbours on the part."""
        return cKDTree(self.points_mm)

    @staticmethod
    def of_query(patches: Patches) -> "PlacedPatches":
        """The placed patches of a specimen to be judged."""
        return _placed(patches, patches.features, np.full(len(patches.view_index), -1))

    @staticmethod
    def of_memory(memory: Memory) -> "PlacedPatches":
        """All placed patches of a memory."""
        features = memory.features_of(np.arange(len(memory)))
        return _placed(memory, features, memory.specimen_index)


def _placed(source: Patches | Memory, features: torch.Tensor, specimen: Indices) -> PlacedPatches:
    position = np.argwhere(np.isfinite(source.points_mm).all(axis=-1))
    row, y, x = position.T
    tokens = features.permute(0, 2, 3, 1, 4)[torch.as_tensor(row), torch.as_tensor(y), torch.as_tensor(x)]
    points, normals, chroma = (values[row, y, x] for values in (source.points_mm, source.normals, source.chroma))
    return PlacedPatches(points, normals, chroma, source.directions[row], tokens, specimen[row], position)


@dataclass(frozen=True, eq=False)
class SurfaceScores:
    """What retrieval says of each query patch.

    Args:
        raw: (q,) 1 - best cosine similarity, mean over layers; NaN where nothing is remembered.
        nearest: (q,) the remembered patch most like it (mean over layers), -1 where none.
    """

    raw: Values
    nearest: Indices


def surface_scores(
    query: PlacedPatches,
    remembered: PlacedPatches,
    settings: SurfaceSettings,
    allowed: Flags | None = None,
) -> SurfaceScores:
    """Compare each query patch with the remembered patches around its place.

    A remembered patch answers when it lies within `radius_mm` (or among the `min_neighbours` nearest, where fewer
    lie within), its normal within `max_normal_angle` and its line of sight within `max_view_angle`; if fewer than
    `min_neighbours` pass, angles do not count.

    Args:
        query: patches to be judged.
        remembered: patches of the memory.
        settings: radius and angles.
        allowed: (n,) remembered patches that may answer at all.
    """
    kept = np.arange(len(remembered)) if allowed is None else np.flatnonzero(allowed)
    raw, nearest = np.full(len(query), np.nan, np.float32), np.full(len(query), -1)
    if not len(kept) or not len(query):
        return SurfaceScores(raw, nearest)
    tree = remembered.tree if allowed is None else cKDTree(remembered.points_mm[kept])
    least = min(settings.min_neighbours, len(kept))
    furthest = tree.query(query.points_mm, k=[least], workers=-1)[0][:, 0]
    radius = np.maximum(settings.radius_mm, furthest * (1 + 1e-6)).astype(np.float32)

    for members, near_rows in _groups(query, tree, radius):
        rows = kept[near_rows]
        near = cdist(query.points_mm[members], remembered.points_mm[rows]) <= radius[members, None]
        alike = near & _within(query.normals[members], remembered.normals[rows], settings.max_normal_angle)
        alike &= _within(query.directions[members], remembered.directions[rows], settings.max_view_angle)
        enough = alike.sum(axis=1) >= least
        answers = np.where(enough[:, None], alike, near)
        answering = answers.any(axis=0)
        rows, silent = rows[answering], torch.from_numpy(~answers[:, answering])
        asked, asking = torch.as_tensor(members), torch.as_tensor(rows)
        best, total = torch.zeros(len(members)), torch.zeros(silent.shape)
        layers = query.features.shape[1]
        for layer in range(layers):
            keys = remembered.features[asking, layer].float()
            similarity = query.features[asked, layer].float() @ keys.T
            similarity.masked_fill_(silent, -torch.inf)
            best += similarity.amax(dim=1)
            total += similarity
        raw[members] = (1 - best / layers).numpy()
        nearest[members] = rows[total.argmax(dim=1).numpy()]
    return SurfaceScores(raw, nearest)


USUAL_PATCHES = 32
VIEW_MM = 6.0
"""A radian between lines of sight counts as much as this distance on the part."""


def usual_scores(
    query: PlacedPatches, remembered: PlacedPatches, scores: Values, allowed: Flags | None = None
) -> tuple[Values, Values]:
    """Mean and standard deviation (..., q) of good patches' scores (..., n) at each query patch's place, seen alike.

    The `USUAL_PATCHES` nearest count, by place on the part and line of sight together.
    """
    kept = np.arange(len(remembered)) if allowed is None else np.flatnonzero(allowed)
    if not len(kept):
        nothing = np.full((*scores.shape[:-1], len(query)), np.nan)
        return nothing, nothing
    tree = cKDTree(_place_and_sight(remembered)[kept])
    k = min(USUAL_PATCHES, len(kept))
    _, nearest = tree.query(_place_and_sight(query), k=k, workers=-1)
    found = scores[..., kept][..., nearest.reshape(len(query), k)]
    return found.mean(axis=-1), found.std(axis=-1)


def _place_and_sight(patches: PlacedPatches) -> np.ndarray:
    return np.concatenate([patches.points_mm, VIEW_MM * patches.directions], axis=1)


def _within(a: Points, b: Points, angle: float) -> np.ndarray:
    """(q, m) whether unit vectors differ by at most `angle`; an unknown one fits any."""
    return np.asarray(~(cdist(a, b) > 2 * np.sin(angle / 2)))


GROUP_MM = 8.0
"""Queries are compared together when they lie in one cube of this side."""


def _groups(query: PlacedPatches, tree: cKDTree, radius: Values) -> list[tuple[Indices, Indices]]:
    """Queries of one cube each, with the tree's points within reach of any of them."""
    key = np.floor(query.points_mm / GROUP_MM).astype(np.int64)
    order = np.lexsort(key.T)
    starts = np.flatnonzero((np.diff(key[order], axis=0) != 0).any(axis=1)) + 1
    groups = []
    for members in np.split(order, starts):
        low, high = query.points_mm[members].min(axis=0), query.points_mm[members].max(axis=0)
        reach = float(np.linalg.norm(high - low) / 2 + radius[members].max()) * (1 + 1e-6)
        groups.append((members, np.array(tree.query_ball_point((low + high) / 2, reach), int)))
    return groups
