"""Retrieval as RAD does it: choose remembered views, then compare patches (arXiv 2601.22763), exactly and batched."""

import importlib.util

import numpy as np
import torch
import torch.nn.functional as F

from rad3d.arrays import Flags, Indices
from rad3d.memory import Memory
from rad3d.patches import Patches
from rad3d.settings import RetrievalSettings

FAISS_FROM = 20_000
"""Remembered views from which the descriptor search goes through FAISS (exact inner product; same result)."""


def choose_views(
    descriptor: torch.Tensor,
    direction: np.ndarray,
    memory: Memory,
    settings: RetrievalSettings,
    allowed: Flags | None = None,
) -> Indices:
    """Rows of the memory that may answer a query.

    Args:
        descriptor: (l, c) unit CLS tokens of the query; the last layer decides, as in RAD.
        direction: (3,) from the part to the query's camera; NaN = unknown, then the descriptor decides alone.
        memory: what is remembered.
        settings: `views_by` and `k_views`.
        allowed: (n,) rows that may answer at all, e.g. without the query's own specimen.
    """
    candidates = np.arange(len(memory)) if allowed is None else np.flatnonzero(allowed)
    if settings.views_by == "all" or len(candidates) <= settings.k_views:
        return candidates
    if settings.views_by != "descriptor" and np.isfinite(direction).all():
        by_angle = np.argsort(-(memory.directions[candidates] @ direction), kind="stable")
        wanted = settings.k_views * (2 if settings.views_by == "both" else 1)
        candidates = np.sort(candidates[by_angle[:wanted]])
        if settings.views_by == "viewpoint":
            return candidates
    nearest = nearest_descriptors(descriptor[-1][None], memory.descriptors[candidates, -1], settings.k_views)[0]
    return np.sort(candidates[nearest])


def nearest_descriptors(queries: torch.Tensor, remembered: torch.Tensor, k: int) -> Indices:
    """(q, k) the rows of `remembered` (n, c) most similar to each query (q, c); both unit length."""
    k = min(k, len(remembered))
    if len(remembered) >= FAISS_FROM and importlib.util.find_spec("faiss"):
        import faiss

        index: faiss.Index = faiss.IndexFlatIP(remembered.shape[1])
        if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus():
            index = faiss.index_cpu_to_all_gpus(index)
        index.add(remembered.float().numpy())
        return np.asarray(index.search(queries.float().numpy(), k)[1])
    return (queries @ remembered.T).topk(k, dim=1).indices.numpy()


def patch_scores(query: torch.Tensor, keys: torch.Tensor, pos_radius: int | None) -> torch.Tensor:
    """1 - best cosine similarity of every query patch to the patches of the chosen views, per layer.

    Args:
        query: (l, h, w, c) unit float32.
        keys: (k, l, h, w, c) unit float32.
        pos_radius: only patches within so many rows and columns count; None = all.

    Returns:
        (l, h, w) float32. RAD, equation of the patch score; its authors loop over patches instead.
    """
    k, layers, h, w, c = keys.shape
    if pos_radius is None:
        flat = keys.permute(1, 4, 0, 2, 3).reshape(layers, c, k * h * w)
        return 1 - (query.reshape(layers, h * w, c) @ flat).amax(dim=-1).reshape(layers, h, w)
    r, side = pos_radius, 2 * pos_radius + 1
    # The memory is read once: each of its positions meets the queries around it.
    padded = F.pad(query, (0, 0, r, r, r, r))
    shifts = [(dy, dx) for dy in range(side) for dx in range(side)]
    around = torch.stack([padded[:, dy : dy + h, dx : dx + w] for dy, dx in shifts], dim=3)
    here = keys.reshape(k, layers * h * w, c).permute(1, 2, 0)
    best_here = torch.bmm(around.reshape(layers * h * w, side * side, c), here).amax(dim=2).reshape(layers, h, w, -1)
    best = torch.full((layers, h + 2 * r, w + 2 * r), -torch.inf)
    for number, (dy, dx) in enumerate(shifts):
        target = best[:, dy : dy + h, dx : dx + w]
        torch.maximum(target, best_here[..., number], out=target)
    return 1 - best[:, r : r + h, r : r + w]


def rad_scores(
    query: Patches, memory: Memory, settings: RetrievalSettings, allowed: Flags | None = None
) -> torch.Tensor:
    """Raw scores (n, h, w) of all patches of a specimen: the mean over layers of `patch_scores`."""
    scores = []
    cached_rows: Indices = np.empty(0, int)
    keys = torch.empty(0)
    for row in range(len(query.features)):
        rows = choose_views(query.descriptors[row], query.directions[row], memory, settings, allowed)
        if not np.array_equal(rows, cached_rows):
            keys, cached_rows = memory.features_of(rows).float(), rows
        scores.append(patch_scores(query.features[row], keys, settings.pos_radius).mean(dim=0))
    return torch.stack(scores)


def score_map(scores: torch.Tensor, size_hw: tuple[int, int] = (256, 256)) -> torch.Tensor:
    """RAD's map of an image: grid (n, h, w) -> bilinear to `size_hw` -> Gaussian 5 x 5, sigma 1, zero padding."""
    enlarged = F.interpolate(scores[:, None], size_hw, mode="bilinear", align_corners=False)
    tap = torch.exp(-0.5 * torch.arange(-2.0, 3.0) ** 2)
    kernel = torch.outer(tap, tap) / tap.sum() ** 2
    return F.conv2d(enlarged, kernel[None, None], padding=2)[:, 0]


def image_score(maps: torch.Tensor, top_share: float = 0.01) -> torch.Tensor:
    """RAD's score of an image: the mean of the top share of its map (n, h, w); the maximum at 0."""
    flat = maps.flatten(1)
    count = max(1, int(flat.shape[1] * top_share))
    return flat.topk(count, dim=1).values.mean(dim=1)
