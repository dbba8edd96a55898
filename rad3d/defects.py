"""Scores on a surface -> connected regions, measured in millimetres, and the verdict."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from rad3d.arrays import Flags, Indices, Points, Pose, Values
from rad3d.deviation import ReferenceShape
from rad3d.geometry import cell_keys, group_means, pieces, transform_directions, transform_points, unit
from rad3d.result import Defect, PointScores
from rad3d.scan import Surface

LINK_MM = 1.0
"""Anomalous points this near belong together, more where the surface is sampled more coarsely."""

PEAK_SHARE = 0.5
"""A defect ends at half its peak's score: around a strong one the blur of its appearance exceeds any threshold."""

JOIN_SIZE = 3.0
"""A vanished piece up to so many times the size of the regions that it touches is what became of them."""

BLUR_MM = 3.0
"""What is anomalous this near a defect is its blur."""

HALO_SHARE = 1 / 3
"""Up to twice as far so is what looks anomalous, unlike in shape, at less than this share of the defect's peak: a
transformer's patches know their neighbours."""


def regions(
    surface: Surface,
    scores: Values,
    geometry: Values,
    low: float,
    high: float,
    min_area_mm2: float = 0.0,
    gone_mm2: Values | None = None,
) -> Indices:
    """Number the anomalous regions: 1, 2, ... by falling peak score; 0 elsewhere (n,).

    From the highest point on: the connected surface around it above `low` that scores above `PEAK_SHARE` of it, or
    whose shape alone (`geometry`, which does not blur) is above `high`, is a region, and what lies around it is
    its blur (`BLUR_MM` on the same piece, `HALO_SHARE` on the same side); until no point above `high` is left. A region
    within `BLUR_MM` of an earlier one on the same side, or twice that on the same piece, is more of it: a scratch that
    fades in its middle is one. What is gone at a region (`gone_mm2`, (n,)) counts as its area too where it is compared
    with `min_area_mm2`: of a thin pin hardly anything is left.
    """
    above = np.flatnonzero(np.nan_to_num(scores, nan=-np.inf) > low)
    labels = np.zeros(len(scores), np.int32)
    if not len(above):
        return labels
    points, normals = surface.points_mm[above], surface.normals[above]
    area = surface.areas_mm2[above] + (0.0 if gone_mm2 is None else gone_mm2[above])
    links = _links(surface, above)
    piece = links.pieces()
    left, shaped = scores[above].astype(float), geometry[above] > high
    found = np.zeros(len(above), np.int32)
    number = 0
    while left.max() > high:
        peak = int(left.argmax())
        strong = left > max(low, PEAK_SHARE * left[peak])
        region = links.connected(strong | (shaped & np.isfinite(left)), peak)
        top = left[peak]
        if area[region].sum() < min_area_mm2:  # then as far as it is above the threshold
            region = links.connected(left > high, peak)
        apart, nearest = cKDTree(points[region]).query(points, distance_upper_bound=2 * BLUR_MM, workers=-1)
        normal = normals[region[np.minimum(nearest, len(region) - 1)]]
        same_side = np.einsum("ni,ni->n", normals, normal) > 0
        halo = np.isfinite(apart) & same_side & ~shaped & (left < HALO_SHARE * top)
        left[halo | ((apart <= BLUR_MM) & (piece == piece[peak]))] = -np.inf
        if area[region].sum() >= min_area_mm2:
            near = (same_side & (apart <= BLUR_MM)) | ((piece == piece[peak]) & (apart <= 2 * BLUR_MM))
            beside = found[near & (found > 0)]
            number += not len(beside)
            found[region] = beside.min() if len(beside) else number
    labels[above] = found
    return labels


@dataclass(frozen=True, eq=False)
class _Links:
    """Which points are connected surface. Those in one cell always are, so that a dense scan costs no more memory.

    Args:
        cell: (n,) of each point.
        linked: (c, c) which cells are connected.
    """

    cell: Indices
    linked: csr_matrix

    def pieces(self) -> Indices:
        """(n,) number of the connected piece of each point."""
        return np.asarray(connected_components(self.linked, directed=False)[1][self.cell])

    def connected(self, chosen: Flags, start: int) -> Indices:
        """The chosen points that are connected with one of them over chosen ones."""
        members = np.flatnonzero(chosen)
        cells, cell = np.unique(self.cell[members], return_inverse=True)
        _, component = connected_components(self.linked[cells][:, cells], directed=False)
        return np.asarray(members[component[cell] == component[cell[np.searchsorted(members, start)]]])


def _links(surface: Surface, rows: Indices) -> _Links:
    """How the given points are connected; a cell is a quarter of a link wide and holds normals of one octant."""
    points, normals = surface.points_mm[rows], surface.normals[rows]
    link_mm = max(LINK_MM, 2.0 * float(np.sqrt(np.median(surface.areas_mm2[rows]))))
    _, cube = np.unique(cell_keys(points, link_mm / 4), return_inverse=True)
    _, cell = np.unique(8 * cube + (normals > 0) @ np.array([1, 2, 4]), return_inverse=True)
    middle, facing = group_means(points, cell), unit(group_means(normals, cell))
    pairs = cKDTree(middle).query_pairs(link_mm, output_type="ndarray")
    # The two sides of a thin wall are near each other but not connected.
    pairs = pairs[np.einsum("ij,ij->i", facing[pairs[:, 0]], facing[pairs[:, 1]]) > -0.5]
    return _Links(cell, csr_matrix((np.ones(len(pairs), bool), pairs.T), shape=(len(middle),) * 2))


def joined(
    labels: Indices,
    points_mm: Points,
    vanished_mm: Points,
    reach_mm: float | Values = BLUR_MM,
    most: float = JOIN_SIZE,
) -> Indices:
    """Regions (n,) that the same piece of vanished surface connects, as one: both ends of a hole that was filled.

    A piece much larger than the regions it touches joins nothing: it may be what the scanner missed.

    Args:
        labels: (n,) numbers of regions, 0 elsewhere.
        points_mm: (n, 3) of the specimen's surface.
        vanished_mm: (m, 3) points of the reference of which the specimen has nothing.
        reach_mm: how near a region they touch; (m,) each or one for all.
        most: a piece is at most so many times the size of a region; infinite where it is known to be gone.
    """
    rows = np.flatnonzero(labels)
    if labels.max(initial=0) < 2 or not len(vanished_mm):
        return labels
    piece = pieces(vanished_mm, LINK_MM)
    count = int(piece.max()) + 1
    beyond = np.nextafter(np.max(reach_mm), np.inf)
    apart, nearest = cKDTree(points_mm[rows]).query(vanished_mm, distance_upper_bound=beyond, workers=-1)
    numbers = int(labels.max())
    size_of_piece = np.array([_size(vanished_mm[piece == number]) for number in range(count)])
    size_of_region = np.array([_size(points_mm[labels == number]) for number in range(1, numbers + 1)])
    touching = np.flatnonzero(apart <= reach_mm)
    regions_of = labels[rows[nearest[touching]]] - 1
    fits = size_of_piece[piece[touching]] <= most * (size_of_region[regions_of] + LINK_MM)
    touching, regions_of = touching[fits], regions_of[fits]
    ends = np.stack([regions_of, numbers + piece[touching]])
    graph = csr_matrix((np.ones(ends.shape[1], bool), ends), shape=(numbers + count,) * 2)
    _, of_region = connected_components(graph, directed=False)
    _, first = np.unique(of_region[:numbers], return_inverse=True)
    order = np.unique(first, return_index=True)[1]  # the strongest of each keeps its place in the order
    new = np.argsort(np.argsort(order))[first] + 1
    return np.where(labels > 0, new[np.maximum(labels, 1) - 1], 0).astype(np.int32)


def _size(points_mm: Points) -> float:
    """Diagonal of the box around points."""
    return float(np.linalg.norm(np.ptp(points_mm, axis=0)))


TELLING, CLEAR = 3.0, 6.0
"""Standard deviations of shape from which a defect is one of material: on average over its area, or at the quantile
`EXTREME` of its points. Looks blur a defect beyond the surface that deviates."""
EXTREME = 0.95
"""Quantile that stands for a defect's depth or height: single points are noise."""


def measure(
    surface: Surface, points: PointScores, scan_from_part: Pose, shape: ReferenceShape | None = None
) -> tuple[Defect, ...]:
    """Each defect's place, size, material and scores.

    The volume between the defect and the reference is the deviation, integrated over the defect's area as the
    reference's normal sees it; a hole that goes through has no bottom and counts as nothing.

    Args:
        surface: in the part frame.
        points: of the surface's points.
        scan_from_part: pose.
        shape: the reference; without it there is no volume.
    """
    defects = []
    for number in range(1, int(points.defect_id.max(initial=0)) + 1):
        rows = np.flatnonzero(points.defect_id == number)
        area, deviation = surface.areas_mm2[rows], points.deviation_mm[rows]
        centroid = np.average(surface.points_mm[rows], axis=0, weights=area)
        facing_peak = surface.normals[rows] @ surface.normals[rows[points.anomaly_score[rows].argmax()]] > 0
        normal = unit((surface.normals[rows] * (area * facing_peak)[:, None]).sum(axis=0))  # of one side of a wall
        score, geometry = (np.average(v[rows], weights=area) for v in (points.anomaly_score, points.geometry_score))
        clear = points.geometry_score[rows] >= CLEAR
        told = geometry >= TELLING or np.quantile(points.geometry_score[rows], EXTREME) >= CLEAR
        telling = clear if told and geometry < TELLING else np.ones(len(rows), bool)
        side = 1.0 if (deviation * area)[telling].sum() >= 0 else -1.0
        volume = np.nan
        if shape is not None:
            nearest = shape.surface.normals[shape.tree.query(surface.points_mm[rows])[1]]
            facing = np.einsum("ni,ni->n", nearest, surface.normals[rows])
            volume = float((deviation * area * facing.clip(0)).sum())
        defects.append(
            Defect(
                id=number,
                centroid_mm=_triple(transform_points(scan_from_part, centroid)),
                centroid_part_mm=_triple(centroid),
                normal=_triple(transform_directions(scan_from_part, normal)),
                normal_part=_triple(normal),
                area_mm2=float(area.sum()),
                extent_mm=_triple(oriented_extent(surface.points_mm[rows])),
                peak_score=float(points.anomaly_score[rows].max()),
                mean_score=float(score),
                kind=("excess material" if side > 0 else "missing material") if told else "surface only",
                deviation_mm=side * float(np.quantile(side * deviation, EXTREME)),
                volume_mm3=volume,
                geometry_share=float(np.clip(geometry / score, 0, 1)),
                agreement=_mean(points.agreement[rows], area),
                views_seen=int(points.views_seen[rows].max()),
            )
        )
    return tuple(defects)


def deep_enough(
    defects: tuple[Defect, ...], points: PointScores, min_depth_mm: float
) -> tuple[tuple[Defect, ...], PointScores]:
    """Without the defects of material that are less deep or high, numbered anew."""
    kept = [one for one in defects if one.kind == "surface only" or abs(one.deviation_mm) >= min_depth_mm]
    number = np.zeros(len(defects) + 1, np.int32)
    for new, defect in enumerate(kept, start=1):
        number[defect.id] = new
    renamed = tuple(replace(defect, id=int(number[defect.id])) for defect in kept)
    return renamed, replace(points, defect_id=number[points.defect_id])


def _mean(values: Values, weights: Values) -> float:
    """Weighted mean of what is known."""
    known = np.isfinite(values)
    return float(np.average(values[known], weights=weights[known])) if known.any() else np.nan


def oriented_extent(points: Points) -> Points:
    """Sides (3,) of the box along the points' principal axes, largest first."""
    corners = oriented_box(points)
    return np.asarray(np.sort(np.linalg.norm(corners[[1, 2, 4]] - corners[0], axis=1))[::-1])


def oriented_box(points: Points) -> Points:
    """Corners (8, 3) of the box along the points' principal axes; of corner k, bit i says at which end of axis i."""
    middle = points.mean(axis=0)
    centred = points - middle
    _, _, axes = np.linalg.svd(centred, full_matrices=False) if len(points) > 2 else (0, 0, np.eye(3))
    along = centred @ axes.T
    far = np.arange(8)[:, None] >> np.arange(3) & 1
    return np.asarray(middle + np.where(far, along.max(axis=0), along.min(axis=0)) @ axes)


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
