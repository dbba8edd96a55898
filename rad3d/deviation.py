"""Geometry: signed distance of a surface to a reference, in millimetres, and how unusual it is there.

Positive = material beyond the reference (excess), negative = below it (missing).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from rad3d.arrays import Flags, Indices, Points, Values
from rad3d.geometry import cell_keys, face_normals_areas, inverse, lengths, pieces, transform_points, unit
from rad3d.scan import Surface
from rad3d.threads import each
from rad3d.view import View

REACH_MM = 2.0
"""A point of the reference was judged when a judged point of the specimen lies this near."""

GONE_MM = 1.0
"""Surface is missing when nothing of the specimen is this near; what moved by less is a deviation."""
MIN_FACING = 0.35
"""Cosine of incidence below which a small error of the pose lets a camera look past a surface."""
MIN_PIXELS = 5

BLOCK = 1 << 12
"""Points measured at once: each takes some 4 kB, which is to stay in the processor's cache."""
EVEN_MM = 0.7
"""Radius over which distances and scores are averaged before they are judged: a lone noisy point is no defect."""
CANDIDATE_FACES = 8
"""Triangles tried per point: those with the nearest centroids, beside the largest at the nearest vertex."""


def sided(points_mm: Points, normals: Points, reach_mm: float) -> np.ndarray:
    """Positions (n, 6) in which the two sides of a thin wall lie further apart than `reach_mm`."""
    return np.concatenate([points_mm, 0.75 * reach_mm * normals], axis=1)


@dataclass(frozen=True, eq=False)
class _Triangles:
    """What finds the triangle nearest a point.

    Args:
        corners: (m, 3, 3) mm.
        normals: (m, 3).
        middles: tree of their centroids.
        vertices: tree of the surface points.
        largest_at: (n, 3) the largest triangles at each surface point; at a point with fewer some twice.
    """

    corners: Points
    normals: Points
    middles: cKDTree
    vertices: cKDTree
    largest_at: Indices

    @staticmethod
    def of(surface: Surface) -> "_Triangles":
        faces = surface.faces
        assert faces is not None
        corners = surface.points_mm[faces]
        normals, areas = face_normals_areas(surface.points_mm, faces)
        corner, face = faces.ravel(), np.repeat(np.arange(len(faces)), 3)
        order = np.lexsort([-areas[face], corner])
        first = np.searchsorted(corner[order], np.arange(len(surface.points_mm)))
        count = np.bincount(corner, minlength=len(first))
        rank = np.minimum(np.arange(3), np.maximum(count[:, None] - 1, 0))
        largest_at = face[order][np.minimum(first[:, None] + rank, len(order) - 1)]
        return _Triangles(corners, normals, cKDTree(corners.mean(axis=1)), surface.tree, largest_at)

    def signed_distance(self, points_mm: Points) -> Values:
        """(n,) mm to the nearest of the triangles tried."""
        _, index = self.middles.query(points_mm, k=min(CANDIDATE_FACES, len(self.corners)))
        corner = self.vertices.query(points_mm)[1]
        # a large triangle beside small ones is nobody's nearest middle, but one of its corners is near
        index = np.concatenate([index.reshape(len(points_mm), -1), self.largest_at[corner]], axis=1)
        k = index.shape[1]
        closest = trimesh.triangles.closest_point(self.corners[index.ravel()], np.repeat(points_mm, k, axis=0))
        offset = points_mm[:, None] - closest.reshape(-1, k, 3)
        distance = lengths(offset)
        nearest = distance.min(axis=1, keepdims=True)
        # On an edge two triangles are equally near; the one faced more squarely tells inside from outside.
        along = np.einsum("nki,nki->nk", offset, self.normals[index])
        along[distance > nearest + 1e-6] = 0
        side = np.take_along_axis(along, np.abs(along).argmax(axis=1)[:, None], axis=1)[:, 0]
        return np.asarray(nearest[:, 0] * np.where(side < 0, -1.0, 1.0))


@dataclass(frozen=True, eq=False)
class _Cloud:
    """What finds the points of a cloud nearest a point.

    Args:
        surface: without triangles.
        tree: of its points.
    """

    surface: Surface
    tree: cKDTree

    def signed_distance(self, points_mm: Points) -> Values:
        """(n,) mm along the normals of the points nearest; their median."""
        _, nearest = self.tree.query(points_mm, k=min(CANDIDATE_FACES, len(self.surface.points_mm)))
        offset = points_mm[:, None] - self.surface.points_mm[nearest].reshape(len(points_mm), -1, 3)
        along = np.einsum("nki,nki->nk", offset, self.surface.normals[nearest].reshape(offset.shape))
        return np.asarray(np.median(along, axis=1))


@dataclass(frozen=True, eq=False)
class ReferenceShape:
    """A surface to measure distances to: the nominal, or the first good specimen."""

    surface: Surface

    @property
    def tree(self) -> cKDTree:
        """Of the surface points."""
        return self.surface.tree

    @cached_property
    def _measured(self) -> _Triangles | _Cloud:
        return _Cloud(self.surface, self.tree) if self.surface.faces is None else _Triangles.of(self.surface)

    def signed_distance(self, points_mm: Points) -> Values:
        """(n,) mm from the reference to each point: to the triangle nearest it, or along the normal of a cloud's."""
        blocks = [points_mm[start : start + BLOCK] for start in range(0, len(points_mm), BLOCK)]
        return np.concatenate([np.empty(0), *each(self._measured.signed_distance, blocks)])

    def encloses(self, points_mm: Points) -> Flags:
        """(n,) which points lie inside; none of a surface that is not closed."""
        low, high = self.surface.points_mm.min(axis=0), self.surface.points_mm.max(axis=0)
        inside = ((points_mm > low) & (points_mm < high)).all(axis=1) & self.surface.is_closed
        inside[inside] = self.signed_distance(points_mm[inside]) < 0
        return np.asarray(inside)


@dataclass(frozen=True, eq=False)
class GoodDeviation:
    """How good specimens deviate, at each point of the reference.

    Args:
        deviation_mm: (g, n) signed deviation of each good specimen; NaN where it has no surface.
    """

    deviation_mm: np.ndarray

    def known(self, without: int | None = None) -> Flags:
        """(n,) where at least one of the good specimens has surface, on request without one of them."""
        return np.asarray(np.isfinite(self._kept(without)).any(axis=0))

    def _kept(self, without: int | None) -> np.ndarray:
        return self.deviation_mm if without is None else np.delete(self.deviation_mm, without, axis=0)

    def usual_spread(self, without: int | None = None) -> tuple[Values, Values]:
        """Mean and standard deviation (n,) over the good specimens, on request without one of them.

        Where fewer than two have surface, nothing is known of how they vary: the median of the spread elsewhere counts.
        """
        kept = self._kept(without)
        known = np.isfinite(kept)
        count = np.maximum(known.sum(axis=0), 1)
        values = np.where(known, kept, 0)
        usual = values.sum(axis=0) / count
        spread = np.sqrt((np.where(known, kept - usual, 0) ** 2).sum(axis=0) / count)
        several = known.sum(axis=0) > 1
        return usual, np.where(several, spread, np.median(spread[several]) if several.any() else 0.0)


def averaged(surface: Surface, values: Values, known: Flags | None = None) -> Values:
    """The mean of the values (n,) by area over `EVEN_MM` around each known point, on its side of a wall; NaN elsewhere.

    Points in one cube of a quarter of that share their mean, so that a dense scan costs no more than its surface.

    Args:
        surface: of n points.
        values: of its points.
        known: (n,) which of them count; all where None.
    """
    rows = np.arange(len(values)) if known is None else np.flatnonzero(known)
    result = np.full(len(values), np.nan)
    if not len(rows):
        return result
    points, normals, area = surface.points_mm[rows], surface.normals[rows], surface.areas_mm2[rows]
    _, owner = np.unique(cell_keys(points, EVEN_MM / 4), return_inverse=True)

    def summed(weights: Values) -> Values:
        return np.asarray(np.bincount(owner, weights=weights))

    weight = summed(area)
    middle, normal = (
        np.stack([summed(area * axis) for axis in vectors.T], axis=1) / weight[:, None] for vectors in (points, normals)
    )
    pairs = cKDTree(middle).query_pairs(EVEN_MM, output_type="ndarray")
    pairs = pairs[np.einsum("ij,ij->i", normal[pairs[:, 0]], normal[pairs[:, 1]]) > 0]

    def around(total: Values) -> Values:
        """Each cube's sum and its neighbours'."""
        result = total.copy()
        for a, b in ((0, 1), (1, 0)):
            result += np.bincount(pairs[:, a], weights=total[pairs[:, b]], minlength=len(total))
        return result

    result[rows] = (around(summed(area * values[rows])) / around(weight))[owner]
    return result


def on_reference(reference: Surface, surface: Surface, values: Values) -> Values:
    """Values of a specimen's surface points at the reference's points: the nearest's on that side, NaN beyond reach."""
    wanted = sided(reference.points_mm, reference.normals, REACH_MM)
    own = cKDTree(sided(surface.points_mm, surface.normals, REACH_MM))
    distance, index = own.query(wanted, distance_upper_bound=REACH_MM, workers=-1)
    found = np.isfinite(distance)
    return np.where(found, values[np.where(found, index, 0)], np.nan)


def gone(reference: Surface, surface: Surface, views: Sequence[View]) -> Values:
    """(n,) how far the reference's points are from a specimen on which they are missing; NaN where they are not.

    Missing is what is further than `GONE_MM` from the specimen although it could not have been overlooked: it lies
    outside of a closed mesh, or a camera looks through the place at something behind it. What was only never seen is
    not missing, nor what is buried in the specimen, like the wall of a hole that was filled.

    Args:
        reference: the part's surface.
        surface: the specimen's, in the part frame.
        views: captured ones of the specimen, in the part frame, with their background.
    """
    points = reference.points_mm
    apart = surface.tree.query(points, workers=-1)[0]
    missing = apart > GONE_MM
    rows = np.flatnonzero(missing)
    if surface.is_closed and len(rows):
        reach_mm = float(apart[rows].max()) + GONE_MM  # more than the furthest: rounding is not to lose its triangle
        nearby = within_reach(surface, points[rows], reach_mm)
        missing[rows] = ReferenceShape(nearby).signed_distance(points[rows]) > 0
    else:
        through = np.zeros(len(rows), bool)
        for view in views:
            through |= looks_through(view, points[rows], reference.normals[rows])
        missing[rows[~through]] = False
    return np.where(missing, apart, np.nan)


def roots(reference: Surface, lost: Flags, surface: Surface) -> Indices:
    """(k,) the specimen's point at which each lost point of the reference is told: at the root of what it was part of.

    What is gone at once left the reference along a border. The surface nearest to that is where a pin stood; the
    surface nearest to the pin itself may be the next pin's. What has no border is told at the nearest surface.

    Args:
        reference: the part's surface, n points.
        lost: (n,) k of them of which the specimen has nothing.
        surface: the specimen's, in the part frame.
    """
    points, normals = reference.points_mm[lost], reference.normals[lost]
    reach_mm = max(GONE_MM, 2.0 * float(np.sqrt(np.median(reference.areas_mm2))))
    piece = pieces(points, reach_mm)
    rest = np.flatnonzero(~lost)
    apart, nearest = cKDTree(points).query(reference.points_mm[rest], distance_upper_bound=reach_mm, workers=-1)
    beside = np.isfinite(apart)
    rest, nearest = rest[beside], nearest[beside]
    along = np.einsum("ni,ni->n", reference.normals[rest], normals[nearest]) > 0  # not the next pin's wall
    border, border_piece = reference.points_mm[rest[along]], piece[nearest[along]]
    if len(border):
        # pieces lie far from each other along a fourth axis: the nearest border is their own
        far = 2 * float(np.ptp(reference.points_mm, axis=0).sum())
        tree = cKDTree(np.column_stack([border, far * border_piece]))
        apart, at = tree.query(np.column_stack([points, far * piece]), distance_upper_bound=far / 2, workers=-1)
        rooted = np.isfinite(apart)
        points[rooted] = border[at[rooted]]
    return np.asarray(surface.tree.query(points, workers=-1)[1])


def within_reach(surface: Surface, points_mm: Points, reach_mm: float) -> Surface:
    """The surface with those of its triangles that come within `reach_mm` of the points' box, and some more."""
    assert surface.faces is not None
    corners = surface.points_mm[surface.faces]
    low, high = points_mm.min(axis=0) - reach_mm, points_mm.max(axis=0) + reach_mm
    near = ((corners.max(axis=1) >= low) & (corners.min(axis=1) <= high)).all(axis=1)
    return replace(surface, faces=surface.faces[near])


def looks_through(view: View, points_mm: Points, normals: Points) -> Flags:
    """(n,) whether all that a view saw at a point's pixel and beside it lies behind where the point would face it."""
    if view.camera is None or view.points_mm is None:
        return np.zeros(len(points_mm), bool)
    camera_from_part = inverse(view.camera.part_from_camera)
    pixels, depth = view.camera.project(points_mm)
    row, column, inside = view.camera.in_image(pixels)
    height, width = view.size_hw
    inside &= (column > 0) & (column < width - 1) & (row > 0) & (row < height - 1)
    facing = np.einsum("ni,ni->n", unit(view.camera.centre_mm - points_mm), normals) > MIN_FACING
    rows = np.flatnonzero(inside & facing)
    seen_z = transform_points(camera_from_part, view.points_mm)[..., 2]
    around = [seen_z[row[rows] + j, column[rows] + i] for i in (-1, 0, 1) for j in (-1, 0, 1)]
    behind = np.stack(around) - depth[rows]
    known = np.isfinite(behind)
    through = np.zeros(len(points_mm), bool)
    through[rows] = ((behind > GONE_MM) | ~known).all(axis=0) & (known.sum(axis=0) >= MIN_PIXELS)
    return through
