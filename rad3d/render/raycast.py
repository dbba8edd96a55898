"""Ray casting with Embree: renders meshes on the processor and tells what is visible."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from rad3d.arrays import Colours, Faces, Flags, Indices, Pixels, Points, Values
from rad3d.camera import Camera
from rad3d.geometry import face_normals_areas, unit
from rad3d.render.shading import ShadedMesh, pixel_rays, view_of_mesh
from rad3d.scan import Scan
from rad3d.threads import each
from rad3d.view import View

CHUNK = 1 << 16
"""Rays per thread and turn."""
CLEARANCE = 1e-4
"""Visibility rays start this share of the part's size above the surface, well over float32's rounding."""


class RayCaster:
    """Casts rays at a triangle mesh. Embree computes in float32, so the mesh is centred first.

    Args:
        vertices_mm: (n, 3).
        faces: (m, 3); triangles without area are never hit.
        colours: (n, 3) uint8 per vertex, or None.

    >>> quad = np.array([[-1.0, -1, 5], [1, -1, 5], [1, 1, 5], [-1, 1, 5]])
    >>> caster = RayCaster(quad, np.array([[0, 1, 2], [0, 2, 3]]))
    >>> face, distance_mm, barycentric = caster.cast(np.zeros((1, 3)), np.array([[0.02, 0.1, 1.0]]))
    >>> face, np.round(distance_mm, 4)
    (array([1]), array([5.0259]))
    """

    def __init__(self, vertices_mm: Points, faces: Faces, colours: Colours | None = None) -> None:
        keep = face_normals_areas(vertices_mm, faces)[1] > 0
        self._build(ShadedMesh(np.asarray(vertices_mm, float), faces[keep], colours))

    @classmethod
    def from_scan(cls, scan: Scan) -> "RayCaster":
        """A ray caster over the scan's welded mesh, with its colours and textures."""
        caster = cls.__new__(cls)
        caster._build(ShadedMesh.from_scan(scan))
        return caster

    def _build(self, mesh: ShadedMesh, clearance_mm: float = 0.0) -> None:
        self.mesh = mesh
        used = mesh.vertices_mm[np.unique(mesh.faces)]
        self._centre = (used.min(axis=0) + used.max(axis=0)) / 2
        self._clearance_mm = max(clearance_mm, CLEARANCE * float(np.ptp(used, axis=0).max()))
        self._scene = EmbreeScene(robust=True)
        local = (mesh.vertices_mm - self._centre).astype(np.float32)
        self._geometry = TriangleMesh(self._scene, local, mesh.faces.astype(np.int32))
        # builds the tree now, so that later calls may come from several threads
        self._scene.run(np.zeros((1, 3), np.float32), np.array([[0, 0, 1]], np.float32), query="OCCLUDED")

    def _run(self, origins: Points, directions: Points, query: Callable[[Any, Any], Any]) -> list[Any]:
        starts = range(0, len(directions), CHUNK)
        local = np.broadcast_to((origins - self._centre).astype(np.float32), directions.shape)

        def part(start: int) -> Any:
            rows = slice(start, start + CHUNK)
            return query((local[rows].copy(), np.ascontiguousarray(directions[rows], dtype=np.float32)), rows)

        return each(part, starts)

    def _cast(self, origins: Points, directions: Points) -> tuple[Indices, Points]:
        def query(rays: Any, rows: Any) -> Any:
            found = self._scene.run(*rays, query="INTERSECT", output=True)
            return found["primID"].astype(np.int64), np.stack([1 - found["u"] - found["v"], found["u"], found["v"]], 1)

        parts = self._run(origins, directions, query)
        if not parts:
            return np.empty(0, np.int64), np.empty((0, 3), np.float32)
        return np.concatenate([face for face, _ in parts]), np.concatenate([weights for _, weights in parts])

    def cast(self, origins: Points, directions: Points) -> tuple[Indices, Values, Points]:
        """First hits of rays (n, 3).

        Returns:
            face (n,) into `mesh.faces`, -1 = none; distance in mm (n,), inf = none, computed in float64 from the
            face's plane; barycentric coordinates of the face's corners (n, 3).
        """
        directions = unit(np.asarray(directions, float))
        face, barycentric = self._cast(origins, directions)
        hit = face >= 0
        distance = np.full(len(face), np.inf)
        distance[hit] = self.mesh.points_at(
            face[hit], np.broadcast_to(origins, directions.shape)[hit], directions[hit]
        )[1]
        return face, distance, barycentric

    def occluded(self, origins: Points, directions: Points, max_distance: float | Values = np.inf) -> Flags:
        """Whether rays (n, 3) meet any surface within `max_distance` mm; those that start on it need an offset."""
        directions = unit(np.asarray(directions, float))
        limit = np.broadcast_to(np.minimum(max_distance, 1e36), len(directions)).astype(np.float32)

        def query(rays: Any, rows: Any) -> Any:
            return self._scene.run(*rays, dists=limit[rows].copy(), query="OCCLUDED") >= 0

        found: list[Flags] = self._run(origins, directions, query)
        return np.concatenate([np.empty(0, bool), *found])

    def visible(self, points_mm: Points, normals: Points, camera: Camera, max_incidence: float) -> Flags:
        """Which surface points (n, 3) the camera sees at no more than `max_incidence` radians from their normal."""
        to_camera = camera.centre_mm - points_mm
        facing = np.einsum("ni,ni->n", normals, to_camera)
        distance = np.sqrt(np.einsum("ni,ni->n", to_camera, to_camera))
        seen = np.flatnonzero(facing >= np.cos(max_incidence) * distance)
        pixels_xy, depth = camera.project(points_mm[seen])
        height, width = camera.size_hw
        x, y = pixels_xy.T
        seen = seen[(depth > 0) & (x >= 0) & (x <= width) & (y >= 0) & (y <= height)]
        # off the surface along the normal: the first step towards the camera must not meet the point's own triangle
        starts = points_mm[seen] + self._clearance_mm * normals[seen]
        result = np.zeros(len(points_mm), bool)
        result[seen] = ~self.occluded(starts, camera.centre_mm - starts, distance[seen])
        return result

    def render(self, cameras: Sequence[Camera]) -> list[View]:
        """One view per camera, several at once."""

        def view(number: int) -> View:
            camera = cameras[number]

            def hits(pixels_xy: Pixels, per_side: int) -> tuple[Indices, Points]:
                return self._cast(camera.centre_mm, pixel_rays(camera, pixels_xy))

            return view_of_mesh(self.mesh, camera, hits, f"{number:03d}")

        return each(view, range(len(cameras)))
