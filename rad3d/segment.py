"""Which pixels of a captured view show the part, and which the table it lies on or anything else."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, label
from scipy.spatial import cKDTree

from rad3d.arrays import Flags, Indices, Mask, Points, Vector
from rad3d.errors import RegistrationError
from rad3d.view import View

PLANE_TRIES = 400
PLANE_MM = 0.6
"""Surface within this distance of the support plane belongs to it."""
PLANE_SHARE = 0.15
"""A support plane holds at least this share of the view's points."""
BELOW_SHARE = 0.02
"""Nothing but stray points lies behind a support."""
BORDER_SHARE = 0.5
"""A support reaches at least this share of the edge of what was measured."""
GAP_SHARE = 0.12
"""Surface further apart than this share of the larger piece's extent belongs to different things."""
BORDER_LENGTH = 0.5
"""A nearer piece hides what joins it to one beside it in the image: their common border, relative to the root of the
smaller one's pixels, is longer than this."""
HIDDEN_SHARE = 0.65
"""... and they stand no further apart than this share of the larger one's extent."""
SECOND_SHARE = 0.4
"""A second piece of at least this share of the largest is another specimen, not clutter."""


@dataclass(frozen=True)
class Plane:
    """Points with normal . point = offset_mm; the normal points to the camera (the origin)."""

    normal: Vector
    offset_mm: float

    def height_mm(self, points_mm: Points) -> np.ndarray:
        """Signed distance of points (..., 3), positive on the camera's side."""
        return np.asarray(points_mm @ self.normal - self.offset_mm)


def foreground(view: View) -> Mask:
    """The pixels with surface of the specimen: not of the support plane, nor of smaller things apart from it.

    Empty when the view has no depth. Works in the camera's frame as well as in any other that has the camera.

    Raises:
        RegistrationError: two things of similar size stand apart: which one is the specimen?
    """
    mask = view.mask.copy()
    if view.points_mm is None or not mask.any():
        return np.zeros(view.size_hw, bool)
    points = view.points_mm[mask].astype(np.float64)
    eye = np.zeros(3) if view.camera is None else view.camera.centre_mm
    plane = support_of(view)
    above = np.ones(len(points), bool) if plane is None else plane.height_mm(points - eye) > PLANE_MM
    if not above.any():
        return np.zeros(view.size_hw, bool)
    mask[mask] = above
    mask[mask] = _largest_piece(points[above], mask, view.mask, view.name)
    return mask


def support_of(view: View) -> Plane | None:
    """The plane on which the specimen stands, relative to the camera; None if the view shows none."""
    mask = view.mask
    if view.points_mm is None or not mask.any():
        return None
    eye = np.zeros(3) if view.camera is None else view.camera.centre_mm
    return support_plane(view.points_mm[mask].astype(np.float64) - eye, _edge_of(mask)[mask])


def _edge_of(mask: Mask) -> Mask:
    """The outermost measured pixels of every row and column."""
    edge = np.zeros_like(mask)
    for flags, out in ((mask, edge), (mask.T, edge.T)):
        rows = np.flatnonzero(flags.any(axis=1))
        out[rows, flags[rows].argmax(axis=1)] = True
        out[rows, flags.shape[1] - 1 - flags[rows, ::-1].argmax(axis=1)] = True
    return edge


def support_plane(points_mm: Points, at_edge: Flags) -> Plane | None:
    """The plane on which things stand, seen from the origin; None if there is none.

    A part's own flat face is no support: surface lies behind it, or it does not surround what is measured.

    Args:
        points_mm: (n, 3) all that was measured.
        at_edge: (n,) which of them lie at the edge of what was measured.
    """
    rng = np.random.default_rng(0)
    some = points_mm[rng.permutation(len(points_mm))[:4000]]
    if len(some) < 100:
        return None
    corners = some[rng.integers(0, len(some), (PLANE_TRIES, 3))]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1)
    normals, corners = normals[length > 0] / length[length > 0, None], corners[length > 0]
    offsets = np.einsum("ti,ti->t", normals, corners[:, 0])
    inliers = (np.abs(some @ normals.T - offsets) < PLANE_MM).sum(axis=0)
    for best in np.argsort(-inliers)[:20]:
        plane = _fitted(some, Plane(normals[best], float(offsets[best])))
        height = plane.height_mm(points_mm)
        on = np.abs(height) < PLANE_MM
        if (
            on.mean() > PLANE_SHARE
            and (height < -3 * PLANE_MM).mean() < BELOW_SHARE
            and on[at_edge].mean() > BORDER_SHARE
        ):
            return plane
    return None


def _fitted(points: Points, plane: Plane) -> Plane:
    """Least squares over the plane's points, its normal towards the origin."""
    for _ in range(3):
        on = points[np.abs(plane.height_mm(points)) < PLANE_MM]
        if len(on) < 3:
            break
        middle = on.mean(axis=0)
        normal = np.linalg.eigh((on - middle).T @ (on - middle))[1][:, 0]
        plane = Plane(normal, float(normal @ middle))
    if plane.offset_mm > 0:  # the origin would be below
        plane = Plane(-plane.normal, -plane.offset_mm)
    return plane


def _largest_piece(points: Points, mask: Mask, measured: Mask, name: str) -> Flags:
    """The largest connected piece (n,) of the points (n, 3) at the pixels of a mask, with what is near it."""
    thin = points[:: max(1, len(points) // 20_000)]
    extent = float(np.ptp(np.percentile(thin, [5, 95], axis=0), axis=0).max())
    cell = max(GAP_SHARE * extent, 1e-3)
    low = thin.min(axis=0)
    place = np.floor((points - low) / cell).astype(int)
    place = np.clip(place, 0, None)
    size = place.max(axis=0) + 1
    if np.prod(size.astype(float)) > 1e7:  # stray points far out: the cells would be countless
        kept = np.abs(points - np.median(thin, axis=0)).max(axis=1) < 5 * extent
        result, mask = kept.copy(), mask.copy()
        mask[mask] = kept
        result[kept] = _largest_piece(points[kept], mask, measured, name)
        return np.asarray(result)
    filled = np.bincount(np.ravel_multi_index(tuple(place.T), tuple(size)), minlength=int(np.prod(size)))
    pieces, count = label((filled > 0).reshape(tuple(size)), np.ones((3, 3, 3)))
    piece = pieces[tuple(place.T)]
    if count > 1:
        piece = _joined_behind(piece, points, mask, measured)
    counts = np.bincount(piece, minlength=count + 1)
    order = np.argsort(-counts)
    if count > 1 and counts[order[1]] > SECOND_SHARE * counts[order[0]]:
        raise RegistrationError(
            f"view {name}",
            expected="one specimen",
            got="two things of similar size that stand apart",
            remedy="scan one specimen at a time",
        )
    return np.asarray(piece == order[0])


def _joined_behind(piece: Indices, points: Points, mask: Mask, measured: Mask) -> Indices:
    """The pieces (n,) with those as one of which the nearer hides what joins them: a wall in front of its base.

    They meet in the image, at once or over pixels that were not measured.
    """
    image = np.zeros(mask.shape, int)
    image[mask] = piece
    image = image[tuple(distance_transform_edt(~measured, return_distances=False, return_indices=True))]
    pairs = [np.stack([a.ravel(), b.ravel()]) for a, b in ((image[1:], image[:-1]), (image[:, 1:], image[:, :-1]))]
    met = np.sort(np.concatenate(pairs, axis=1), axis=0)
    borders, lengths = np.unique(met[:, (met[0] > 0) & (met[0] != met[1])], axis=1, return_counts=True)
    result = piece.copy()
    for (one, other), length in zip(borders.T, lengths, strict=True):
        first, second = (points[piece == number] for number in (one, other))
        if length > BORDER_LENGTH * np.sqrt(min(len(first), len(second))):
            reach = HIDDEN_SHARE * max(float(np.ptp(some, axis=0).max()) for some in (first, second))
            if np.isfinite(cKDTree(first).query(second[::5], distance_upper_bound=reach)[0]).any():
                result[result == result[piece == other][0]] = result[piece == one][0]
    return result
