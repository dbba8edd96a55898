"""Iterative closest point on many poses at once, against a surface given by samples.

Chen and Medioni 1991 (point to plane), with Tukey's weight on the distance, so that surface only one side has
does not pull.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from rad3d.arrays import Flags, Points, Pose
from rad3d.geometry import cross, lengths
from rad3d.scan import Surface

Poses: TypeAlias = Float[ndarray, "h 4 4"]

GRID_CELLS = 112
"""Cells of the lookup grid along the longest side: cells of about half a millimetre on a part of 60 mm."""
POINT_SHARE, POINT_SHARE_EXACT = 0.02, 1e-5
"""Weight of point-to-point beside point-to-plane: leads from far off, and in the end only holds what planes leave free.
"""
ISOLATED = 4.0
"""A point whose neighbours are further than this many times the median is no surface."""
SPARSE, SCATTERED = 1.4, 0.05
"""From this many times the median on, neighbours have to lie in a plane but for this share of their variance."""


MIN_AGREEMENT = 0.3
"""Cosine between the normals of a point and of the sample it is taken for."""
NEIGHBOURS = 4
FAR_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Samples:
    """Points spread evenly over a surface, so that each stands for the same area.

    Args:
        points_mm: (n, 3).
        normals: (n, 3) unit.
        signed: whether the normals' signs can be relied on (they cannot for clouds that came without).
        area_mm2: of the surface they stand for.
    """

    points_mm: Points
    normals: Points
    signed: bool
    area_mm2: float

    def thinned(self, count: int) -> "Samples":
        """`count` of them (all if there are fewer), spread over the whole; samples are in random order."""
        return Samples(self.points_mm[:count], self.normals[:count], self.signed, self.area_mm2)

    @cached_property
    def spacing_mm(self) -> float:
        """Typical distance between neighbours."""
        return float(np.sqrt(self.area_mm2 / max(len(self.points_mm), 1)))

    @cached_property
    def tree(self) -> cKDTree:
        """For nearest neighbours."""
        return cKDTree(self.points_mm)


def sample_surface(surface: Surface, count: int) -> Samples:
    """About `count` samples of a surface, always the same ones.

    Triangles are sampled by area, with their own normals, so that edges stay sharp. Of a cloud one point per voxel
    is taken, after isolated points are left out.
    """
    if surface.faces is None:
        return _thin_cloud(surface, count)
    rng = np.random.default_rng(0)
    corners = surface.points_mm[surface.faces]
    along = cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    double_area = lengths(along)
    total = np.cumsum(double_area)
    # equal steps through the running area: evener than independent draws
    face = np.searchsorted(total, (np.arange(count) + rng.random(count)) / count * total[-1])
    face = rng.permutation(np.minimum(face, len(corners) - 1))
    u, v = np.sqrt(rng.random(count))[:, None], rng.random(count)[:, None]
    points = (1 - u) * corners[face, 0] + u * (1 - v) * corners[face, 1] + u * v * corners[face, 2]
    return Samples(points, along[face] / double_area[face, None], True, float(total[-1] / 2))


def _thin_cloud(surface: Surface, count: int) -> Samples:
    kept = ~outliers(surface)
    points, normals, areas = surface.points_mm[kept], surface.normals[kept], surface.areas_mm2[kept]
    return thin(points, normals, float(areas.sum()), count, signed=False)


def thin(points_mm: Points, normals: Points, area_mm2: float, count: int, *, signed: bool) -> Samples:
    """About `count` of the points of a surface of that area: one per voxel, in random order, always the same ones."""
    rng = np.random.default_rng(0)
    order = rng.permutation(len(points_mm))
    voxel = np.floor(points_mm[order] / max(np.sqrt(area_mm2 / count), 1e-6)).astype(np.int64)
    _, first = np.unique(voxel, axis=0, return_index=True)
    chosen = order[rng.permutation(first)]
    return Samples(points_mm[chosen], normals[chosen], signed, area_mm2)


def outliers(surface: Surface) -> Flags:
    """Points of a cloud that lie on no surface: far from their neighbours, or apart and not in a plane with them."""
    radius = np.sqrt(surface.areas_mm2)  # a point's area is that of the disc its neighbours fill
    radius = radius / np.median(radius)
    result = radius > ISOLATED
    doubtful = np.flatnonzero(~result & (radius > SPARSE))
    if len(doubtful):
        tree = cKDTree(surface.points_mm)
        near = surface.points_mm[tree.query(surface.points_mm[doubtful], k=min(12, len(radius)), workers=-1)[1]]
        spread = near - near.mean(axis=1, keepdims=True)
        values = np.linalg.eigvalsh(np.einsum("nki,nkj->nij", spread, spread))
        result[doubtful] = values[:, 0] > SCATTERED * values.sum(axis=1)
    return np.asarray(result)


@dataclass(frozen=True, eq=False)
class Target:
    """Samples to align with, and a voxel grid that gives the nearest of them at once.

    The grid is exact to a cell, which a plane's distance does not notice; where that matters the tree is asked.
    """

    samples: Samples

    @cached_property
    def centre_mm(self) -> Points:
        """The samples' mean (3,)."""
        return np.asarray(self.samples.points_mm.mean(axis=0))

    @cached_property
    def radius_mm(self) -> float:
        """The furthest sample's distance from the centre."""
        return float(np.linalg.norm(self.samples.points_mm - self.centre_mm, axis=1).max())

    @cached_property
    def grid(self) -> tuple[Points, float, Int[ndarray, "x y z"]]:
        """Corner (3,), cell side in mm, and the index of a nearest sample per cell."""
        low, high = self.samples.points_mm.min(axis=0), self.samples.points_mm.max(axis=0)
        cell = float((high - low).max()) / (GRID_CELLS - 12)
        corner = low - 6 * cell
        shape = tuple(np.ceil((high - low) / cell).astype(int) + 12)
        place = np.floor((self.samples.points_mm - corner) / cell).astype(int)
        sample = np.full(shape, -1, np.int32)
        sample[tuple(place.T)] = np.arange(len(place))
        nearest = distance_transform_edt(sample < 0, return_distances=False, return_indices=True)
        return corner, cell, sample[tuple(nearest)]

    def nearest_in_grid(self, points_mm: np.ndarray) -> np.ndarray:
        """Indices of samples near points (..., 3)."""
        corner, cell, sample = self.grid
        place = ((points_mm - corner.astype(points_mm.dtype)) * points_mm.dtype.type(1 / cell)).astype(np.int32)
        x, y, z = (np.clip(place[..., axis], 0, sample.shape[axis] - 1) for axis in range(3))
        return np.asarray(sample[x, y, z])

    @cached_property
    def _float32(self) -> tuple[Points, Points]:
        return self.samples.points_mm.astype(np.float32), self.samples.normals.astype(np.float32)

    def residuals(
        self, source: Samples, poses: Poses, exact: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Per pose and source point: where it comes to lie, the way to its sample, that one's normal, distance.

        The distance is to the sample's plane as long as the point is over the disc the sample stands for. Points
        whose normal disagrees by more than 72 degrees are infinitely far.
        """
        rotation, shift = poses[:, :3, :3], poses[:, None, :3, 3]
        signed = source.signed and self.samples.signed
        if exact:
            at = source.points_mm @ rotation.transpose(0, 2, 1) + shift
            turned = source.normals @ rotation.transpose(0, 2, 1)
            # beside an edge the nearest sample may be around the corner: look at a few, prefer one that agrees
            # (far points need no search: nothing is asked about distances beyond FAR_SHARE of the radius)
            far = FAR_SHARE * self.radius_mm
            apart, index = self.samples.tree.query(at, k=NEIGHBOURS, distance_upper_bound=far, workers=-1)
            index = np.minimum(index, len(self.samples.points_mm) - 1)
            delta = self.samples.points_mm[index] - at[:, :, None]
            normal = self.samples.normals[index]
            spacing = self.samples.spacing_mm
            distance = _distance(delta, normal, turned[:, :, None], signed, spacing, edge_mm=1.5 * spacing)
            distance = np.where(np.isfinite(apart), distance, np.inf)
            best = np.argmin(distance, axis=2)[..., None]
            delta, normal = (np.take_along_axis(a, best[..., None], axis=2)[:, :, 0] for a in (delta, normal))
            return at, delta, normal, np.take_along_axis(distance, best, axis=2)[..., 0]
        rotation, shift = rotation.astype(np.float32), shift.astype(np.float32)
        at = source.points_mm.astype(np.float32) @ rotation.transpose(0, 2, 1) + shift
        turned = source.normals.astype(np.float32) @ rotation.transpose(0, 2, 1)
        index = self.nearest_in_grid(at)
        points, normals = self._float32
        delta, normal = points[index] - at, normals[index]
        disc = self.samples.spacing_mm + self.grid[1]
        return at, delta, normal, _distance(delta, normal, turned, signed, disc, edge_mm=0.0)

    def cost(self, source: Samples, poses: Poses, reach_mm: float, exact: bool = False) -> np.ndarray:
        """Mean distance in mm of the source to the target, none counted as more than `reach_mm`; per pose."""
        return np.asarray(
            np.concatenate(
                [
                    np.minimum(self.residuals(source, block, exact)[3], reach_mm).mean(axis=1)
                    for block in _blocks(poses, source)
                ]
            )
        )

    def refine(self, source: Samples, poses: Poses, reaches_mm: Iterable[float], exact: bool = False) -> Poses:
        """One step of ICP per reach: samples further away than the reach do not count."""
        return np.concatenate([self._refine(source, block, reaches_mm, exact) for block in _blocks(poses, source)])

    def _refine(self, source: Samples, poses: Poses, reaches_mm: Iterable[float], exact: bool) -> Poses:
        for reach in reaches_mm:
            share = POINT_SHARE_EXACT if exact else POINT_SHARE
            poses = _step([self.residuals(source, poses, exact)], reach, self.radius_mm, share) @ poses
        return poses


def refine_jointly(targets: Sequence[Target], source: Samples, pose: Pose, reaches_mm: Iterable[float]) -> Pose:
    """As `Target.refine`, exact, for one pose against several targets in one frame: each pulls as it matches."""
    poses = pose[None]
    for reach in reaches_mm:
        found = [target.residuals(source, poses, exact=True) for target in targets]
        poses = _step(found, reach, targets[0].radius_mm, POINT_SHARE_EXACT) @ poses
    return np.asarray(poses[0])


def _step(residuals: Sequence[tuple[np.ndarray, ...]], reach_mm: float, radius_mm: float, point_share: float) -> Poses:
    at, delta, normal, distance = (np.concatenate(parts, axis=1) for parts in zip(*residuals, strict=True))
    weight = np.clip(1 - (distance / reach_mm) ** 2, 0, None) ** 2
    return _solve(at, delta, normal, weight, radius_mm, point_share)


def _distance(
    delta: np.ndarray, normal: np.ndarray, turned: np.ndarray, signed: bool, disc_mm: float, edge_mm: float
) -> np.ndarray:
    """Distance to a sample's plane within its disc, growing outside of it; infinite where the normals disagree.

    Beside an edge the nearest samples may all be around the corner: within `edge_mm` normals do not matter.
    """
    along = np.einsum("...i,...i", delta, normal)
    square = np.einsum("...i,...i", delta, delta)
    aside = np.sqrt(np.maximum(square - along**2, 0))
    agree = np.einsum("...i,...i", turned, normal)
    distance = np.hypot(along, np.maximum(aside - 1.5 * disc_mm, 0))
    trusted = ((agree if signed else np.abs(agree)) > MIN_AGREEMENT) | (square < edge_mm**2)
    return np.where(trusted, distance, np.inf)


def _blocks(poses: Poses, source: Samples) -> list[Poses]:
    """Poses in groups small enough for the cache and the memory."""
    size = max(1, 60_000 // max(len(source.points_mm), 1))
    return [poses[start : start + size] for start in range(0, len(poses), size)]


def _solve(
    at: np.ndarray, delta: np.ndarray, normal: np.ndarray, weight: np.ndarray, radius_mm: float, point_share: float
) -> Poses:
    """The small motions (h, 4, 4) that bring weighted points nearest to their samples."""
    centre = at.mean(axis=1, keepdims=True)
    arm = (at - centre) / radius_mm  # rotations in units of the part's radius, for condition
    jacobian = np.concatenate([cross(arm, normal), normal], axis=-1)
    along = np.einsum("hpi,hpi->hp", delta, normal)
    weighted = (jacobian * weight[..., None]).transpose(0, 2, 1)
    matrix = (weighted @ jacobian).astype(np.float64)
    right = (weighted @ along[..., None])[..., 0].astype(np.float64)
    # point to point, in closed form
    total = weight.sum(axis=1)
    weighted_arm = (arm * weight[..., None]).transpose(0, 2, 1)
    spread = weighted_arm @ arm
    mean = weighted_arm.sum(axis=2)
    skew = np.zeros((len(at), 3, 3))
    skew[:, [2, 0, 1], [1, 2, 0]] = mean
    skew[:, [1, 2, 0], [2, 0, 1]] = -mean
    eye = np.eye(3)
    matrix[:, :3, :3] += point_share * (np.trace(spread, axis1=1, axis2=2)[:, None, None] * eye - spread)
    matrix[:, :3, 3:] += point_share * skew
    matrix[:, 3:, :3] += point_share * skew.transpose(0, 2, 1)
    matrix[:, 3:, 3:] += point_share * total[:, None, None] * eye
    right[:, :3] += point_share * (weight[:, None] @ cross(arm, delta))[:, 0]
    right[:, 3:] += point_share * (weight[:, None] @ delta)[:, 0]
    matrix += (1e-7 * total + 1e-9)[:, None, None] * np.eye(6)
    motion = np.linalg.solve(matrix, right[..., None])[..., 0]
    turn = Rotation.from_rotvec(motion[:, :3] / radius_mm).as_matrix()
    result = np.tile(np.eye(4), (len(at), 1, 1))
    result[:, :3, :3] = turn
    middle = centre[:, 0].astype(np.float64)
    result[:, :3, 3] = middle + motion[:, 3:] - np.einsum("hij,hj->hi", turn, middle)
    return result
