"""Views -> patches: the frozen ViT's tokens, each with its place on the surface."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image as PilImage

from rad3d.arrays import Image, Indices, Mask, Pixels, ScoreMap
from rad3d.encoder import Encoder
from rad3d.geometry import unit
from rad3d.threads import each
from rad3d.view import BACKGROUND, View

ARTEFACT_FACTOR, ARTEFACT_DEVIATIONS = 1.25, 6.0
"""Of `clip-b16-q8` 0.3 to 5 % of a part's patches have 0.6 times the usual norm, and next to none 0.7 to 0.9 times."""
SAMPLES_PER_PATCH = 4
"""Surface samples along each side of a patch, of which the one nearest its middle places it."""
CHROMA_SAMPLES = 8
"""Pixels along each side of a patch over which its colour is averaged."""
LEAST_SHOWN = 0.25
"""Share of a patch that has to show the part for its colour to count."""


@dataclass(frozen=True)
class Window:
    """The rectangle of an image that one encoder input shows; may reach beyond the image."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, eq=False)
class Patches:
    """Encoder inputs (windows of views) of one specimen, one row each.

    Args:
        descriptors: (n, l, c) float32 CLS tokens, unit length.
        features: (n, l, h, w, c) float32 patch tokens, unit length.
        points_mm: (n, h, w, 3) float32 surface position, NaN where the patch shows no surface.
        normals: (n, h, w, 3) float32.
        chroma: (n, h, w, 2) float32 shares of red and green in the part's colour, NaN where the patch hardly shows it.
        directions: (n, 3) float32 unit vector from the part to the camera, NaN for an image without a cloud.
        windows: where each row lies in its view's image.
        view_index: (n,) which view each row shows.
    """

    descriptors: torch.Tensor
    features: torch.Tensor
    points_mm: np.ndarray
    normals: np.ndarray
    chroma: np.ndarray
    directions: np.ndarray
    windows: tuple[Window, ...]
    view_index: np.ndarray


def windows_of(view: View, input_hw: tuple[int, int], patch: int, mm_per_patch: float | None) -> list[Window]:
    """Cut a view into encoder inputs of true aspect, overlapping by a patch where one alone is too coarse.

    A rendered view is framed already and stays whole; of a captured one the part with a margin of a patch counts.
    Either is split evenly until a patch covers no more than `mm_per_patch` on the part.
    """
    rows, columns = np.nonzero(view.mask)
    if not len(rows):
        return []
    if view.kind == "rendered":
        centre_y, centre_x = view.size_hw[0] / 2, view.size_hw[1] / 2
        scale = max(view.size_hw[0] / input_hw[0], view.size_hw[1] / input_hw[1])
    else:
        centre_y, centre_x = (rows.min() + rows.max() + 1) / 2, (columns.min() + columns.max() + 1) / 2
        scale = max(np.ptp(rows) / (input_hw[0] - 2 * patch), np.ptp(columns) / (input_hw[1] - 2 * patch))
    count = 1 if mm_per_patch is None else int(np.ceil(scale * patch * mm_per_pixel(view) / mm_per_patch - 1e-6))
    count = max(count, 1)
    overlap = 1 + (count - 1) * patch / input_hw[0]
    tile_h, tile_w = (scale * size * overlap / count for size in input_hw)
    steps = np.arange(count) - (count - 1) / 2
    step_h, step_w = (scale * (size - size * overlap / count) / max(count - 1, 1) for size in input_hw)
    tiles = [
        Window(centre_x + dx * step_w - tile_w / 2, centre_y + dy * step_h - tile_h / 2, tile_w, tile_h)
        for dy in steps
        for dx in steps
    ]
    return [tile for tile in tiles if _shows_part(view, tile)]


def mm_per_pixel(view: View) -> float:
    """Median distance on the part between the rays of neighbouring pixels."""
    if view.camera is None or view.points_mm is None:
        return 0.0
    depth = np.linalg.norm(view.points_mm[view.mask] - view.camera.centre_mm, axis=1)
    return float(np.median(depth) / view.camera.intrinsics[0, 0])


def _shows_part(view: View, window: Window) -> bool:
    rows = slice(max(0, int(window.top)), max(0, int(window.top + window.height)))
    columns = slice(max(0, int(window.left)), max(0, int(window.left + window.width)))
    return bool(view.mask[rows, columns].any())


def cut(view: View, window: Window, size_hw: tuple[int, int]) -> Image:
    """The window's pixels at `size_hw`; beyond the image and off the part it is grey."""
    image = view.image
    if view.kind == "captured" and view.points_mm is not None:
        image = np.where(near_part(view)[..., None], image, np.uint8(BACKGROUND))
    margin = int(np.ceil(max(window.width, window.height)))
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), constant_values=BACKGROUND)
    box = (
        window.left + margin,
        window.top + margin,
        window.left + window.width + margin,
        window.top + window.height + margin,
    )
    resized = PilImage.fromarray(padded).resize(size_hw[::-1], PilImage.Resampling.BICUBIC, box=box)
    return np.asarray(resized)


def near_part(view: View) -> Mask:
    """A captured part's pixels (H, W) with holes in its cloud filled: a missing depth is no background."""
    from scipy import ndimage

    background, _ = ndimage.label(~ndimage.binary_closing(np.pad(view.mask, 8), iterations=4))
    return np.asarray(background != background[0, 0])[8:-8, 8:-8]


def patch_centres(window: Window, grid_hw: tuple[int, int], per_side: int = 1) -> Pixels:
    """Image positions (h * per_side, w * per_side, 2) of evenly spaced samples, `per_side` along each patch side."""
    rows, columns = grid_hw[0] * per_side, grid_hw[1] * per_side
    y = window.top + (np.arange(rows) + 0.5) * window.height / rows
    x = window.left + (np.arange(columns) + 0.5) * window.width / columns
    return np.stack(np.meshgrid(x, y), axis=-1)


def place(view: View, window: Window, grid_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Surface position and normal (h, w, 3) of each patch: of the surface pixel nearest its middle, NaN where none."""
    (h, w), s = grid_hw, SAMPLES_PER_PATCH
    empty = np.full((h, w, 3), np.nan, np.float32)
    if view.points_mm is None:
        return empty, empty
    x, y, inside = _samples(view, window, grid_hw, s)
    offset = (np.arange(s) + 0.5 - s / 2) ** 2
    order = np.argsort((offset[:, None] + offset[None]).ravel(), kind="stable")

    def per_patch(values: np.ndarray) -> np.ndarray:
        return values.reshape(h, s, w, s, -1).swapaxes(1, 2).reshape(h, w, s * s, -1)[:, :, order]

    found = per_patch(inside & view.mask[y, x])[..., 0]
    best = found.argmax(axis=2)[:, :, None, None]
    shown = np.asarray(found.any(axis=2))[..., None]
    results = []
    for values in (view.points_mm, view.normals if view.normals is not None else np.full_like(view.points_mm, np.nan)):
        chosen = np.take_along_axis(per_patch(values[y, x]), best, axis=2)[:, :, 0]
        results.append(np.where(shown, chosen, np.nan).astype(np.float32))
    return results[0], results[1]


def _samples(view: View, window: Window, grid_hw: tuple[int, int], per_side: int) -> tuple[Indices, Indices, Mask]:
    """Column and row of the pixels at evenly spaced samples of each patch, and which lie in the image."""
    pixels = np.floor(patch_centres(window, grid_hw, per_side)).astype(int)
    inside = ((pixels >= 0) & (pixels < np.array(view.size_hw[::-1]))).all(axis=-1)
    return np.where(inside, pixels[..., 0], 0), np.where(inside, pixels[..., 1], 0), inside


def chroma(view: View, shown: Mask, window: Window, grid_hw: tuple[int, int]) -> np.ndarray:
    """Shares (h, w, 2) of red and green in the colour of each patch's `shown` pixels, NaN where there are few."""
    (h, w), s = grid_hw, CHROMA_SAMPLES
    x, y, inside = _samples(view, window, grid_hw, s)
    counted = inside & shown[y, x]
    colours = np.where(counted[..., None], view.image[y, x].astype(np.float32), 0)
    count, total = (values.reshape(h, s, w, s, -1).sum(axis=(1, 3)) for values in (counted, colours))
    light = total.sum(axis=-1, keepdims=True)
    enough = (count >= LEAST_SHOWN * s * s) & (light > 0)
    return np.asarray(np.divide(total[..., :2], light, out=np.full((h, w, 2), np.nan, np.float32), where=enough))


def within_part(view: View) -> Mask:
    """Pixels (H, W) that show the part and nothing else: at its outline colours mix with what lies behind."""
    from scipy import ndimage

    if view.points_mm is None:
        return np.zeros(view.size_hw, bool)
    return np.asarray(ndimage.binary_erosion(near_part(view)) & view.mask)


def artefacts(norms: np.ndarray, on_part: np.ndarray) -> np.ndarray:
    """(n, h, w) patches that the transformer uses to keep what it knows of the whole image.

    They tell nothing of their place, and their norm gives them away (Darcet et al., ICLR 2024): here those whose norm
    is in any layer further from the median than `ARTEFACT_FACTOR` and `ARTEFACT_DEVIATIONS`.

    Args:
        norms: (n, l, h, w) of the patch tokens in each layer.
        on_part: (n, h, w) patches that count.
    """
    if not on_part.any():
        return np.zeros(on_part.shape, bool)
    logs = np.log(np.maximum(np.moveaxis(norms, 1, -1), 1e-12))
    off = np.abs(logs - np.median(logs[on_part], axis=0))
    spread = 1.4826 * np.median(off[on_part], axis=0)
    limit = np.maximum(np.log(ARTEFACT_FACTOR), ARTEFACT_DEVIATIONS * spread)
    return np.asarray(on_part & (off > limit).any(axis=-1))


def encode_views(views: Sequence[View], encoder: Encoder, mm_per_patch: float | None = None) -> Patches:
    """All windows of all views through the encoder, with the surface positions of their patches.

    Patches off the part, and the transformer's `artefacts`, have no position.
    """
    input_hw, grid_hw = encoder.settings.input_hw, encoder.grid_hw
    chosen = [
        (index, window)
        for index, view in enumerate(views)
        for window in windows_of(view, input_hw, encoder.patch_size, mm_per_patch)
    ]
    images = each(lambda one: cut(views[one[0]], one[1], input_hw), chosen)
    tokens = encoder.encode(np.stack(images) if images else np.empty((0, *input_hw, 3), np.uint8))
    placed = each(lambda one: place(views[one[0]], one[1], grid_hw), chosen)
    on_part = np.array([np.isfinite(points).all(axis=-1) for points, _ in placed], bool).reshape(-1, *grid_hw)
    norms = tokens.patches.norm(dim=-1)
    for (points, _), out in zip(placed, artefacts(norms.numpy(), on_part), strict=True):
        points[out] = np.nan
    within = each(within_part, views)
    directions = [_direction(views[index], points) for (index, _), (points, _) in zip(chosen, placed, strict=True)]
    colours = each(lambda one: chroma(views[one[0]], within[one[0]], one[1], grid_hw), chosen)
    shape = (len(chosen), *grid_hw, 3)
    return Patches(
        descriptors=torch.nn.functional.normalize(tokens.cls, dim=-1),
        features=tokens.patches.div_(norms.clamp_min(1e-12)[..., None]),  # in place: tokens are half a gigabyte
        points_mm=np.array([points for points, _ in placed], np.float32).reshape(shape),
        normals=np.array([normals for _, normals in placed], np.float32).reshape(shape),
        chroma=np.array(colours, np.float32).reshape(*shape[:3], 2),
        directions=np.array(directions, np.float32).reshape(-1, 3),
        windows=tuple(window for _, window in chosen),
        view_index=np.array([index for index, _ in chosen], int),
    )


def _direction(view: View, points_mm: np.ndarray) -> np.ndarray:
    if view.camera is None or np.isnan(points_mm).all():
        return np.full(3, np.nan)
    return np.asarray(unit(view.camera.centre_mm - np.nanmean(points_mm.reshape(-1, 3), axis=0)))


def sample_scores(patches: Patches, scores: ScoreMap, view: int, pixels_xy: Pixels) -> np.ndarray:
    """Patch scores (n, h, w) at positions (p, 2) of one view's image: bilinear between patch centres.

    Patches without a score (NaN) do not take part; where tiles overlap the mean counts; NaN outside all of them.
    """
    total, weight = np.zeros(len(pixels_xy)), np.zeros(len(pixels_xy))
    h, w = scores.shape[1:]
    for row in np.flatnonzero(patches.view_index == view):
        window = patches.windows[row]
        x = (pixels_xy[:, 0] - window.left) / window.width * w - 0.5
        y = (pixels_xy[:, 1] - window.top) / window.height * h - 0.5
        inside = (x >= -0.5) & (x <= w - 0.5) & (y >= -0.5) & (y <= h - 0.5)
        x, y = np.clip(np.nan_to_num(x), 0, w - 1), np.clip(np.nan_to_num(y), 0, h - 1)
        x0, y0 = np.minimum(x.astype(int), max(w - 2, 0)), np.minimum(y.astype(int), max(h - 2, 0))
        for dy in range(min(2, h)):
            for dx in range(min(2, w)):
                share = np.abs(1 - dx - (x - x0)) * np.abs(1 - dy - (y - y0)) * inside
                value = scores[row, y0 + dy, x0 + dx]
                known = np.isfinite(value) & (share > 1e-6)
                total[known] += share[known] * value[known]
                weight[known] += share[known]
    return np.asarray(np.divide(total, weight, out=np.full(len(pixels_xy), np.nan), where=weight > 0))
