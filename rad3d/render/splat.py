"""Renders point clouds: every point a small rectangle in its tangent plane, seen by the ray caster."""

import numpy as np
from scipy.spatial import cKDTree

from rad3d.arrays import Points, Values
from rad3d.render.raycast import RayCaster
from rad3d.render.shading import ShadedMesh
from rad3d.scan import Scan, Surface

NEIGHBOURS = 16
REACH = 1.5
"""Half a rectangle's side in spacings: of points that lie at random hardly a gap stays open."""
LEAST = 0.3
"""Half a rectangle's side at the very edge of a face."""
SAME_PLANE = 0.5
"""Neighbours up to so many spacings off the tangent plane lie on the same face."""
CLEARANCE = 2.0
"""Spacings above the surface at which visibility rays start: over the rectangles of the neighbours."""
BATCH = 1 << 16


class Splatter(RayCaster):
    """Splats the points of a cloud, with the normals of its surface."""

    def __init__(self, scan: Scan) -> None:
        spacing_mm = np.sqrt(scan.surface.areas_mm2)
        self._build(splats(scan.surface, spacing_mm), CLEARANCE * float(np.median(spacing_mm)))


def splats(surface: Surface, spacing_mm: Values) -> ShadedMesh:
    """Two triangles per point. A rectangle ends where the point's neighbours in its plane do, so that outlines and
    sharp edges stay where they are; its sides follow the edge, being the main axes of those neighbours.
    """
    points, normals = surface.points_mm, surface.normals
    spacing_mm = np.maximum(spacing_mm, 1e-6 * max(float(np.ptp(points, axis=0).max()), 1.0))
    tree = cKDTree(points)
    corners = np.empty((len(points), 4, 3))
    for start in range(0, len(points), BATCH):
        rows = slice(start, start + BATCH)
        index = tree.query(points[rows], k=min(NEIGHBOURS, len(points)), workers=-1)[1].reshape(len(points[rows]), -1)
        offsets = points[index] - points[rows, None]
        corners[rows] = points[rows, None] + _rectangles(offsets, normals[rows], spacing_mm[rows, None])
    first = 4 * np.arange(len(points))[:, None]
    faces = np.concatenate([first + (0, 1, 2), first + (0, 2, 3)], axis=1).reshape(-1, 3)  # noqa: RUF005
    colours = None if surface.colours is None else np.repeat(surface.colours, 4, axis=0)
    return ShadedMesh(corners.reshape(-1, 3), faces, colours, normals=np.repeat(normals, 4, axis=0))


def _rectangles(offsets: np.ndarray, normals: Points, spacing_mm: np.ndarray) -> np.ndarray:
    """Corners (n, 4, 3) about the points, counter-clockwise round the normals, from offsets (n, k, 3) to neighbours."""
    across = np.cross(normals, np.eye(3)[np.abs(normals).argmin(axis=1)])
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    frame = np.stack([across, np.cross(normals, across), normals], axis=2)
    local = offsets @ frame
    on_face = np.abs(local[..., 2]) <= SAME_PLANE * spacing_mm
    u, v = np.where(on_face, local[..., 0], 0), np.where(on_face, local[..., 1], 0)
    turn = np.arctan2(2 * (u * v).sum(axis=1), (u * u - v * v).sum(axis=1)) / 2
    cosine, sine = np.cos(turn), np.sin(turn)
    along, beside = u * cosine[:, None] + v * sine[:, None], v * cosine[:, None] - u * sine[:, None]
    least, most = LEAST * spacing_mm[:, 0], REACH * spacing_mm[:, 0]
    a0, b0 = (-np.clip(-values.min(axis=1), least, most) for values in (along, beside))
    a1, b1 = (np.clip(values.max(axis=1), least, most) for values in (along, beside))
    a, b = np.stack([a0, a1, a1, a0], axis=1), np.stack([b0, b0, b1, b1], axis=1)
    turned = np.stack([a * cosine[:, None] - b * sine[:, None], a * sine[:, None] + b * cosine[:, None]], axis=2)
    return np.asarray(turned @ frame[:, :, :2].transpose(0, 2, 1))
