"""What a defect looks like, beside the good patch most like it: the evidence that a person can judge."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import torch
from PIL import Image as PilImage
from scipy.spatial import cKDTree

from rad3d.arrays import Image, Indices
from rad3d.memory import Memory
from rad3d.observe import Observation
from rad3d.patches import cut
from rad3d.result import PatchPair
from rad3d.settings import Settings
from rad3d.surface import PlacedPatches, surface_scores
from rad3d.view import BACKGROUND

NEAR_MM = 3.0
"""Patches placed this near a defect's surface show it."""

AROUND = 2
"""Patches shown on each side of the one that is compared."""


def patch_pairs(
    observation: Observation,
    labels: Indices,
    remembered: PlacedPatches,
    memory: Memory,
    settings: Settings,
) -> tuple[PatchPair, ...]:
    """For each defect its patch least like any good one, and the good patch most like that.

    Args:
        observation: the specimen in the part frame.
        labels: (n,) number of the defect of each surface point, 0 elsewhere.
        remembered: placed patches of the memory.
        memory: where they come from; pictures of it are shown where it keeps them.
        settings: of the inspector.
    """
    query = PlacedPatches.of_query(observation.patches)
    pairs = []
    for number in range(1, int(labels.max(initial=0)) + 1):
        region = cKDTree(observation.surface.points_mm[labels == number])
        apart = region.query(query.points_mm, workers=-1)[0]
        rows = np.flatnonzero(apart <= NEAR_MM)
        if not len(rows):
            continue
        scores = surface_scores(_rows(query, rows), remembered, settings.surface)
        if not np.isfinite(scores.raw).any():
            continue
        worst = int(np.nanargmax(scores.raw))
        row, *place = (int(value) for value in query.position[rows[worst]])
        good_row, *good_place = (int(value) for value in remembered.position[scores.nearest[worst]])
        patches = observation.patches
        view = observation.views[patches.view_index[row]]
        grid_hw = patches.points_mm.shape[1:3]
        seen = cut(view, patches.windows[row], settings.encoder.input_hw)
        picture = memory.pictures[good_row] if memory.pictures else b""
        pairs.append(
            PatchPair(
                defect=number,
                view=view.name,
                specimen=memory.specimens[memory.specimen_index[good_row]].specimen,
                good_view=memory.view_names[good_row],
                raw_score=float(scores.raw[worst]),
                image=around(seen, place, grid_hw),
                good_image=around(_decoded(picture), good_place, grid_hw) if picture else None,
            )
        )
    return tuple(pairs)


def picture_of(image: Image) -> bytes:
    """An encoder input (H, W, 3) as the memory keeps it: WebP, some 5 kB of a rendered view."""
    file = BytesIO()
    PilImage.fromarray(image).save(file, "WEBP", quality=85, method=2)
    return file.getvalue()


def around(image: Image, place: list[int], grid_hw: tuple[int, int]) -> Image:
    """The patch (row, column) of an encoder input with `AROUND` patches on each side; grey beyond the input."""
    size = image.shape[0] // grid_hw[0]
    margin = AROUND * size
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), constant_values=BACKGROUND)
    top, left = (size * index for index in place)
    return padded[top : top + size + 2 * margin, left : left + size + 2 * margin]


def _decoded(picture: bytes) -> Image:
    return np.asarray(PilImage.open(BytesIO(picture)).convert("RGB"))


def _rows(patches: PlacedPatches, rows: Indices) -> PlacedPatches:
    return replace(
        patches,
        points_mm=patches.points_mm[rows],
        normals=patches.normals[rows],
        directions=patches.directions[rows],
        features=patches.features[torch.as_tensor(rows)],
        specimen=patches.specimen[rows],
        position=patches.position[rows],
    )
