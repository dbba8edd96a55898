"""What was measured of a specimen, and the surface on which it is judged."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from rad3d.arrays import Colours, Faces, Flags, Indices, Points, Pose, Values
from rad3d.errors import ScanError
from rad3d.geometry import (
    cell_keys,
    face_normals_areas,
    group_means,
    sphere,
    transform_directions,
    transform_points,
    unit,
)
from rad3d.view import View

logger = logging.getLogger(__name__)

Unit = Literal["mm", "m", "inch"]
MM_PER_UNIT: dict[Unit, float] = {"mm": 1.0, "m": 1000.0, "inch": 25.4}

MAX_EDGE_MM = 1.0
"""Triangles with longer edges get extra surface points, so that a coarse mesh is judged as densely as a fine one."""
MAX_SURFACE_POINTS = 1_000_000


@dataclass(frozen=True, eq=False)
class Texture:
    """Colours by texture coordinates.

    Args:
        images: the textures, each (H, W, 3) uint8.
        corner_uv: (m, 3, 2) float, per face corner; v points up, as in OBJ.
        image_index: (m,) which image a face uses, -1 = none.
    """

    images: tuple[np.ndarray, ...]
    corner_uv: np.ndarray
    image_index: Indices


@dataclass(frozen=True, eq=False)
class Surface:
    """Points that stand for a surface: where scores are sampled and defects are measured.

    Args:
        points_mm: (n, 3) float64.
        normals: (n, 3) unit, outwards (clouds: towards the sensor where known).
        areas_mm2: (n,) the surface each point stands for.
        faces: (m, 3) triangles over the points, None for clouds.
        colours: (n, 3) uint8, or None.
    """

    points_mm: Points
    normals: Points
    areas_mm2: Values
    faces: Faces | None = None
    colours: Colours | None = None

    @cached_property
    def tree(self) -> cKDTree:
        """For the nearest points."""
        return cKDTree(self.points_mm)

    @cached_property
    def is_closed(self) -> bool:
        """Whether its triangles enclose a body: it then claims to be all of the specimen's surface."""
        return self.faces is not None and _closed(self.faces, len(self.points_mm))

    def moved(self, target_from_source: Pose) -> "Surface":
        """The same surface in another frame."""
        return replace(
            self,
            points_mm=transform_points(target_from_source, self.points_mm),
            normals=transform_directions(target_from_source, self.normals),
        )


@dataclass(frozen=True, eq=False)
class Scan:
    """What was measured of one specimen: a mesh, a point cloud, or captured views.

    Vertices are those of the input file, all of them in file order, in millimetres.

    Args:
        specimen: name of the physical piece.
        source: file or folder it came from.
        vertices_mm: (n, 3) float64; empty for captured views.
        faces: (m, 3) int, or None for clouds.
        colours: (n, 3) uint8, or None.
        normals: (n, 3) from the file, or None.
        texture: texture of the faces, or None.
        views: captured views, each in its own camera's frame unless the capture came with poses.
        unit: unit of the source file; vertices are already converted.
        source_sha256: of the source file, empty for folders and in-memory scans.
    """

    specimen: str
    source: Path | None = None
    vertices_mm: Points = field(default_factory=lambda: np.empty((0, 3)))
    faces: Faces | None = None
    colours: Colours | None = None
    normals: Points | None = None
    texture: Texture | None = None
    views: tuple[View, ...] = ()
    unit: Unit = "mm"
    source_sha256: str = ""

    def __post_init__(self) -> None:
        where = self.source or self.specimen
        if not len(self.vertices_mm) and not self.views:
            raise ScanError(
                where, expected="surface points or views", got="neither", remedy="check that the export wrote geometry"
            )
        if not np.isfinite(self.vertices_mm).all():
            bad = int((~np.isfinite(self.vertices_mm).all(axis=1)).sum())
            raise ScanError(
                where,
                expected="finite coordinates",
                got=f"{bad} of {len(self.vertices_mm)} vertices NaN or infinite",
                remedy="export again without invalid points",
            )
        faces = np.empty((0, 3), int) if self.faces is None else self.faces
        outside = faces[(faces < 0) | (faces >= len(self.vertices_mm))]
        if len(outside):
            raise ScanError(
                where,
                expected=f"faces over {len(self.vertices_mm)} vertices",
                got=f"vertex index {int(outside[0])}",
                remedy="export the mesh again; the file is damaged",
            )

    @property
    def kind(self) -> Literal["mesh", "cloud", "captured"]:
        """What was measured."""
        if self.views:
            return "captured"
        return "mesh" if self.faces is not None else "cloud"

    def moved(self, target_from_source: Pose) -> "Scan":
        """The same scan in another frame; its surface moves with it, its points in their order.

        Raises:
            ScanError: it has no surface, as where no triangle has any area.
        """
        result = replace(
            self,
            vertices_mm=transform_points(target_from_source, self.vertices_mm),
            normals=None if self.normals is None else transform_directions(target_from_source, self.normals),
            views=tuple(view.moved(target_from_source) for view in self.views),
        )
        if self.kind != "captured":
            surface, surface_from_vertex = self._welded
            result.__dict__["_welded"] = surface.moved(target_from_source), surface_from_vertex
        return result

    @cached_property
    def degenerate_faces(self) -> int:
        """How many triangles have no area; they are left out of the surface."""
        if self.faces is None:
            return 0
        return int((face_normals_areas(self.vertices_mm, self.faces)[1] <= 0).sum())

    @cached_property
    def _welded(self) -> tuple[Surface, Indices]:
        """The surface, and for every vertex of the file the surface point that stands for it."""
        if self.kind == "captured":
            raise ScanError(
                self.source or self.specimen,
                expected="a mesh or a cloud",
                got="captured views",
                remedy="give a scan or CAD file in place of the folder",
            )
        if self.kind == "mesh":
            return _mesh_surface(self)
        return _cloud_surface(self)

    @property
    def surface(self) -> Surface:
        """The surface to judge, of a mesh or cloud; that of captured views comes from `merged_surface`.

        Raises:
            ScanError: the scan is captured views.
        """
        return self._welded[0]

    @property
    def surface_from_vertex(self) -> Indices:
        """(n,) for every vertex of the file the surface point that stands for it."""
        return self._welded[1]


def _mesh_surface(scan: Scan) -> tuple[Surface, Indices]:
    """Weld coincident vertices, drop degenerate triangles, refine long edges."""
    assert scan.faces is not None
    size = float(np.ptp(scan.vertices_mm, axis=0).max())
    grid = np.round((scan.vertices_mm - scan.vertices_mm.min(axis=0)) / max(1e-6 * size, 1e-9)).astype(np.int64)
    key = (grid[:, 0] << 42) | (grid[:, 1] << 21) | grid[:, 2]  # 20 bits hold a millionth of the extent
    _, first, surface_from_vertex = np.unique(key, return_index=True, return_inverse=True)
    points = scan.vertices_mm[first]
    colours = None if scan.colours is None else scan.colours[first]
    faces = surface_from_vertex[scan.faces]
    normals, areas = face_normals_areas(points, faces)
    faces = faces[areas > 0]
    inside_out = _inside_out(points, faces)
    if inside_out.any():
        what = "its faces" if inside_out.all() else "the faces of one of its bodies"
        logger.warning("%s: %s look inwards; they were turned", scan.source or scan.specimen, what)
        faces = np.where(inside_out[:, None], faces[:, ::-1], faces)
    if not len(faces):
        raise ScanError(
            scan.source or scan.specimen,
            expected="triangles with area",
            got=f"{len(scan.faces)} degenerate ones",
            remedy="export the mesh again, or remove its faces to read it as a cloud",
        )
    total = float(areas.sum())
    edge_mm = max(MAX_EDGE_MM, 2 * np.sqrt(total / MAX_SURFACE_POINTS))
    used, faces = np.unique(faces, return_inverse=True)
    faces = faces.reshape(-1, 3)
    if len(used) < len(points):  # a vertex of no triangle is no surface: the nearest that is one stands for it
        surface_from_vertex = cKDTree(points[used]).query(points, workers=-1)[1][surface_from_vertex]
        points, colours = points[used], None if colours is None else colours[used]
    points, faces, colours = _refine(points, faces, colours, edge_mm)
    normals, areas = face_normals_areas(points, faces)
    point_normals, point_areas = np.zeros_like(points), np.zeros(len(points))
    for corner in range(3):
        for axis in range(3):
            point_normals[:, axis] += np.bincount(
                faces[:, corner], weights=normals[:, axis] * areas, minlength=len(points)
            )
        point_areas += np.bincount(faces[:, corner], weights=areas / 3, minlength=len(points))
    return Surface(points, unit(point_normals), point_areas, faces, colours), surface_from_vertex


def _inside_out(points: Points, faces: Faces) -> Flags:
    """(m,) which faces belong to a closed body with its normals inside; a cavity lies within another body, and may.

    Of an open body nothing tells.
    """
    result = np.zeros(len(faces), bool)
    if not len(faces):
        return result
    corners = points[faces] - points.mean(axis=0)
    six_volumes = np.einsum("ni,ni->n", corners[:, 0], np.cross(corners[:, 1], corners[:, 2]))
    if six_volumes.sum() < 0 and _closed(faces, len(points)):
        return ~result
    links = coo_matrix(
        (np.ones(2 * len(faces)), (faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel())), (len(points),) * 2
    )
    count, body_of = connected_components(links, directed=False)
    body = body_of[faces[:, 0]]
    volume = np.bincount(body, six_volumes, count)
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    np.minimum.at(low, body_of, points)
    np.maximum.at(high, body_of, points)
    for number in np.flatnonzero(volume < 0):
        around = (low <= low[number]).all(axis=1) & (high >= high[number]).all(axis=1)
        if around.sum() == 1 and _closed(faces[body == number], len(points)):
            result |= body == number
    return result


def _closed(faces: Faces, points: int) -> bool:
    """Whether every edge is walked once in each direction."""
    edges = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    there, back = (np.sort(edges[:, i] * points + edges[:, 1 - i]) for i in (0, 1))
    return bool(np.array_equal(there, back))


def _refine(
    points: Points, faces: Faces, colours: Colours | None, edge_mm: float
) -> tuple[Points, Faces, Colours | None]:
    """Halve edges longer than `edge_mm` until none is left, neighbours together, so that no T-junction appears."""
    values = points if colours is None else np.concatenate([points, colours.astype(float)], axis=1)
    for _ in range(24):
        edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        split = np.linalg.norm(values[edges[:, 0], :3] - values[edges[:, 1], :3], axis=1) > edge_mm
        if not split.any():
            break
        one_key = edges[split, 0] * len(values) + edges[split, 1]  # sorts several times faster than pairs
        unique, edge_of = np.unique(one_key, return_inverse=True)
        middle = np.full(len(edges), -1)
        middle[split] = len(values) + edge_of
        ends = np.stack([unique // len(values), unique % len(values)], axis=1)
        values = np.concatenate([values, values[ends].mean(axis=1)])
        faces = _split_faces(faces, middle.reshape(-1, 3))
    new_colours = None if colours is None else np.round(values[:, 3:]).astype(np.uint8)
    return values[:, :3], faces, new_colours


def _split_faces(faces: Faces, middle: Faces) -> Faces:
    """Split triangles at the edge midpoints given (-1 = edge stays); `middle` follows edges 01, 12, 20."""
    count = (middle >= 0).sum(axis=1)
    pieces = [faces[count == 0]]
    for turn in range(3):  # turn corners so that the pattern starts at corner 0
        a, b, c = (faces[:, (turn + i) % 3] for i in range(3))
        ab, bc, ca = (middle[:, (turn + i) % 3] for i in range(3))
        one = (count == 1) & (ab >= 0)
        pieces += [np.stack([a, ab, c], 1)[one], np.stack([ab, b, c], 1)[one]]
        two = (count == 2) & (ca < 0)
        pieces += [np.stack(t, 1)[two] for t in ((ab, b, bc), (a, ab, bc), (a, bc, c))]
        if turn == 0:
            three = count == 3
            pieces += [np.stack(t, 1)[three] for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
    return np.concatenate(pieces)


VOXEL_MM = 0.4
"""Captured views are merged into one point per cube of this side."""


def merged_surface(views: Sequence[View]) -> Surface:
    """The surface that views of one specimen, in one frame, saw together: means over small cubes.

    Raises:
        ScanError: no view has surface.
    """
    points, normals, colours = (
        np.concatenate([np.empty((0, 3)), *(getattr(view, name)[_complete(view)] for view in views)])
        for name in ("points_mm", "normals", "image")
    )
    if not len(points):
        raise ScanError(
            "captured views", expected="depth in at least one view", got="none", remedy="check the sensor's clouds"
        )
    _, owner = np.unique(cell_keys(points, VOXEL_MM), return_inverse=True)
    mean = [group_means(values, owner) for values in (points, normals, colours)]
    merged = Scan("merged", vertices_mm=mean[0], normals=mean[1], colours=np.round(mean[2]).astype(np.uint8))
    return merged.surface


def _complete(view: View) -> np.ndarray:
    """Pixels with a point and a normal."""
    if view.points_mm is None or view.normals is None:
        raise ScanError(
            f"view {view.name}", expected="points and normals", got="an image alone", remedy="capture depth too"
        )
    return np.asarray(view.mask & np.isfinite(view.normals).all(axis=-1))


NORMAL_NEIGHBOURS = 16
VOTE_DIRECTIONS = 48
VOTE_CELL = 3.0
"""Cells of the depth buffer in spacings of the cloud, so that hardly one of a closed surface stays empty."""
VOTE_MARGIN = 0.3
"""Votes (squared cosines, summed over the directions) from which a normal's side counts as known."""


def _cloud_surface(scan: Scan) -> tuple[Surface, Indices]:
    """A cloud's points with normals (from the file or estimated) and the area each stands for; coincident ones once."""
    points = scan.vertices_mm
    neighbours = min(NORMAL_NEIGHBOURS, len(points))
    distance, index = cKDTree(points).query(points, k=neighbours, workers=-1)
    distance, index = distance.reshape(len(points), -1), index.reshape(len(points), -1)
    if not distance[:, 1:2].all():
        _, first, surface_from_vertex = np.unique(points, axis=0, return_index=True, return_inverse=True)
        if len(first) < len(points):  # not so where squares of distances underflow
            normals, colours = (None if values is None else values[first] for values in (scan.normals, scan.colours))
            once = replace(scan, vertices_mm=points[first], normals=normals, colours=colours)
            return _cloud_surface(once)[0], surface_from_vertex.reshape(-1)
    # the disc out to the furthest of k - 1 others holds k - 1 points on average, wherever points fall at random
    areas = np.pi * distance[:, -1] ** 2 / max(neighbours - 1, 1)
    if scan.normals is not None and np.isfinite(scan.normals).all() and np.any(scan.normals, axis=1).all():
        normals = unit(scan.normals)
    else:  # PCL writes NaN where it could not tell
        normals = outwards(points, estimate_normals(points, index), float(np.sqrt(np.median(areas))))
    return Surface(points, normals, areas, None, scan.colours), np.arange(len(points))


def estimate_normals(points: Points, neighbour_index: np.ndarray) -> Points:
    """Normals of a cloud up to their sign, by planes fitted to the neighbours (n, k) of every point.

    A point takes, of its neighbours' planes, the one that fits its neighbours and itself best: beside an edge that
    is a plane from its own side of the edge, not one across it.
    """
    count = neighbour_index.shape[1]
    middle = points[neighbour_index].mean(axis=1)
    spread = points[neighbour_index] - middle[:, None]
    squares, vectors = np.linalg.eigh(spread.transpose(0, 2, 1) @ spread)
    normals = vectors[:, :, 0]
    off = np.einsum("nki,nki->nk", points[:, None] - middle[neighbour_index], normals[neighbour_index])
    best = (squares[:, 0][neighbour_index] / count + off**2).argmin(axis=1)
    return np.asarray(normals[neighbour_index[np.arange(len(points)), best]])


def outwards(points: Points, normals: Points, spacing_mm: float) -> Points:
    """Turn normals to the side from which their points are seen.

    From each of many directions a point counts as seen when none lies clearly in front of it in its cell of a depth
    buffer. All directions from which it is seen vote; points seen from none follow their nearest neighbours that are.
    """
    cell = max(VOTE_CELL * spacing_mm, 1e-9 * float(np.ptp(points, axis=0).max()), 1e-12)
    votes = np.zeros(len(points))
    for towards in sphere(VOTE_DIRECTIONS):
        side = np.cross(towards, np.eye(3)[np.abs(towards).argmin()])
        side /= np.linalg.norm(side)
        cells = np.floor(points @ np.stack([side, np.cross(towards, side)], axis=1) / cell).astype(np.int64)
        cells -= cells.min(axis=0)
        _, pixel = np.unique(cells[:, 0] * (cells[:, 1].max() + 1) + cells[:, 1], return_inverse=True)
        height = points @ towards
        nearest = np.full(pixel.max() + 1, -np.inf)
        np.maximum.at(nearest, pixel, height)
        facing = normals @ towards
        slope = np.sqrt(np.clip(1 - facing**2, 0, 1)) / np.abs(facing).clip(0.3)
        seen = nearest[pixel] - height <= cell * (0.5 + slope)
        votes += np.where(seen, facing * np.abs(facing), 0)
    known = np.abs(votes) > VOTE_MARGIN
    if known.any() and not known.all():
        _, near = cKDTree(points[known]).query(points[~known], k=min(8, int(known.sum())), workers=-1)
        near = near.reshape(int((~known).sum()), -1)
        turned = (normals * np.sign(votes)[:, None])[known][near].sum(axis=1)
        votes[~known] = (turned * normals[~known]).sum(axis=1)
    return np.asarray(normals * np.where(votes < 0, -1.0, 1.0)[:, None])
