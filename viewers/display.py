"""A surface light enough to be drawn in a browser; what is measured and judged is never this one."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree

from rad3d.arrays import Faces, Indices, Points, Values
from rad3d.geometry import bounding_sphere
from rad3d.result import Inspection
from rad3d.viewers.colours import Quantity, quantities
from rad3d.viewers.outlook import Outlook

WELD = 1e-6
"""Vertices nearer than this share of the part's size are one."""


@dataclass(frozen=True, eq=False)
class Display:
    """An inspection's surface, thinned for display.

    Args:
        vertices_mm: (n, 3) float32, a subset of the inspection's.
        faces: (m, 3), None for clouds.
        quantities: values of the same vertices; the score first.
        original: how many vertices the inspection has.
    """

    vertices_mm: Points
    faces: Faces | None
    quantities: tuple[Quantity, ...]
    original: int

    @property
    def note(self) -> str:
        """What the viewer has to know about the difference, empty where there is none worth telling."""
        shown = len(self.vertices_mm)
        if shown > 0.99 * self.original:
            return ""
        return f"Drawn with {shown:,} of {self.original:,} points, the worst of each place; measures use all of them."

    @cached_property
    def sphere(self) -> tuple[Points, float]:
        """Centre and radius in mm."""
        centre, radius = bounding_sphere(self.vertices_mm.astype(float))
        return centre, radius or 1.0

    @cached_property
    def outlook(self) -> Outlook:
        """Finds where a place of it is seen from."""
        return Outlook(self.vertices_mm, self.faces)

    @cached_property
    def tree(self) -> cKDTree:
        """Of the vertices."""
        return cKDTree(self.vertices_mm)


def display_of(inspection: Inspection, limit: int, reach_mm: float | None = None) -> Display:
    """The inspection's surface with at most `limit` vertices; `reach_mm` as for `quantities`."""
    rank = np.nan_to_num(inspection.points.anomaly_score, nan=-np.inf)
    kept, faces = thinned(inspection.vertices_mm, inspection.faces, rank, limit)
    shown = tuple(replace(quantity, values=quantity.values[kept]) for quantity in quantities(inspection, reach_mm))
    vertices = inspection.vertices_mm[kept].astype(np.float32)
    return Display(vertices, faces, shown, len(inspection.vertices_mm))


def thinned(vertices: Points, faces: Faces | None, rank: Values, limit: int) -> tuple[Indices, Faces | None]:
    """One vertex per cell of a cubic grid, the one of highest rank: a peak is never thinned away.

    Vertex clustering (Rossignac and Borrel 1993) with the finest cells that leave at most `limit` vertices, to
    within some percent.

    Returns:
        kept: (k,) indices of vertices.
        faces: (m, 3) over the kept ones, without those that collapsed or doubled.
    """
    low = vertices.min(axis=0)
    size = float(np.ptp(vertices, axis=0).max()) or 1.0
    cell = WELD * size
    while True:
        grid = ((vertices - low) / cell).astype(np.int64)
        span = grid.max(axis=0) + 1
        key = (grid[:, 0] * span[1] + grid[:, 1]) * span[2] + grid[:, 2]
        count = 1 + int((np.diff(np.sort(key)) > 0).sum())
        if count <= limit:
            break
        # a surface has some (size / cell)^2 cells; one that is finer than its points says nothing about the next
        cell = max(1.03 * cell * np.sqrt(count / limit), size / (4 * np.sqrt(limit)))
    order = np.lexsort((-rank, key))
    first = np.r_[True, np.diff(key[order]) > 0]
    kept = order[first]
    if faces is None:
        return kept, None
    kept_of = np.empty(len(vertices), np.int64)
    kept_of[order] = np.cumsum(first) - 1
    new = kept_of[faces]
    new = new[(new[:, 0] != new[:, 1]) & (new[:, 1] != new[:, 2]) & (new[:, 2] != new[:, 0])]
    if len(kept) == len(vertices):
        return kept, new
    one, two, three = np.sort(new, axis=1).T
    _, unique = np.unique((one * len(kept) + two) * len(kept) + three, return_index=True)
    return kept, new[unique]
