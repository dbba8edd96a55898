"""How a surface looks: smooth normals with sharp edges, vertex colours, textures, and two lights on the camera."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rad3d.arrays import Colours, Faces, Indices, Mask, Pixels, Points, Pose, ScoreMap, Values
from rad3d.camera import Camera
from rad3d.geometry import face_normals_areas, transform_directions, unit
from rad3d.scan import Scan, Texture
from rad3d.view import BACKGROUND, View

CREASE = 0.5235987755982988
"""Radians between neighbouring triangles (30 degrees) from which an edge is a machined edge and stays sharp."""
GREY = 0.75
"""Albedo of a surface without colours."""
AMBIENT = 0.2
LIGHTS = (((-0.5, -0.7, -1.0), 0.55), ((0.8, 0.3, -0.7), 0.3))
"""Directions towards the lights in the camera's frame, and their strength."""
WRAP = 0.25
"""How far light reaches round the terminator; what makes the lights soft."""
AA_CONTRAST = 0.02
"""Pixels that differ more than this from a neighbour are sampled 2 x 2 for the image."""

Hits = Callable[[Pixels, int], tuple[Indices, Points]]
"""pixels_xy (n, 2), and how many of them there are along a pixel's side -> face (n,), -1 = background, and
barycentric coordinates (n, 3). The positions are the centres of pixels of an image so many times finer."""


def shade(albedo: Points, normals: Points, part_from_camera: Pose) -> Points:
    """Colours 0-1 (n, 3) of surfaces with `normals` in the part frame, lit by two soft lights on the camera."""
    directions = unit(np.array([direction for direction, _ in LIGHTS]))
    towards = transform_directions(part_from_camera, directions).astype(normals.dtype)
    cosine = np.einsum("ni,li->nl", normals, towards)
    strength = np.array([strength for _, strength in LIGHTS], normals.dtype)
    light = AMBIENT + np.einsum("nl,l->n", np.clip((cosine + WRAP) / (1 + WRAP), 0, None), strength)
    return np.asarray(np.minimum(albedo * light[:, None], 1))


def crease_normals(vertices: Points, faces: Faces) -> np.ndarray:
    """Normals per face corner (m, 3, 3), averaged round each vertex up to the edges that are creases."""
    normals, areas = face_normals_areas(vertices, faces)
    corner = np.arange(3 * len(faces)).reshape(-1, 3)
    ends = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 3, 2), axis=2).reshape(-1, 2)
    corner_ends = corner[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    swap = faces[:, [0, 1, 2]].ravel() != ends[:, 0]
    corner_ends[swap] = corner_ends[swap, ::-1]
    order = np.lexsort(ends.T)
    a, b = order[:-1], order[1:]
    same = (ends[a] == ends[b]).all(axis=1)
    a, b = a[same], b[same]
    smooth = np.einsum("ij,ij->i", normals[a // 3], normals[b // 3]) > np.cos(CREASE)
    a, b = corner_ends[a[smooth]].ravel(), corner_ends[b[smooth]].ravel()
    links = coo_array((np.ones(len(a), bool), (a, b)), shape=(corner.size, corner.size))
    count, fan = connected_components(links, directed=False)
    weighted = np.repeat(normals * areas[:, None], 3, axis=0)
    total = np.stack([np.bincount(fan, weights=weighted[:, i], minlength=count) for i in range(3)], axis=1)
    return np.asarray(unit(total)[fan].reshape(-1, 3, 3))


@dataclass(frozen=True, eq=False)
class ShadedMesh:
    """A welded mesh without degenerate triangles, and what colours it.

    Args:
        vertices_mm: (n, 3).
        faces: (m, 3).
        colours: (n, 3) uint8 per vertex, or None.
        texture: per face of `faces`, or None; goes before colours.
        normals: (n, 3) per vertex; None = averaged from the triangles up to the creases.
    """

    vertices_mm: Points
    faces: Faces
    colours: Colours | None = None
    texture: Texture | None = None
    normals: Points | None = None

    @staticmethod
    def from_scan(scan: Scan) -> "ShadedMesh":
        """The scan's own triangles over its welded vertices.

        Not the refined faces of the surface: they are the same planes, but normals averaged at the refined
        points inside a flat facet would show the facets of a coarse cylinder.
        """
        assert scan.faces is not None
        points = scan.surface.points_mm
        faces = scan.surface_from_vertex[scan.faces]
        keep = face_normals_areas(points, faces)[1] > 0
        texture = scan.texture
        if texture is not None:
            texture = Texture(texture.images, texture.corner_uv[keep], texture.image_index[keep])
        return ShadedMesh(points, faces[keep], scan.surface.colours, texture)

    @cached_property
    def face_normals(self) -> Points:
        """(m, 3) float64."""
        return face_normals_areas(self.vertices_mm, self.faces)[0]

    @cached_property
    def plane_mm(self) -> Values:
        """(m,) distance of each face's plane from the origin along its normal."""
        return _dot(self.face_normals, self.vertices_mm[self.faces[:, 0]])

    @cached_property
    def corner_normals(self) -> np.ndarray:
        """(m, 3, 3) float32."""
        normals = crease_normals(self.vertices_mm, self.faces) if self.normals is None else self.normals[self.faces]
        return np.asarray(normals, np.float32)

    def normals_at(self, face: Indices, barycentric: Points, rays: Points) -> Points:
        """Smooth normals (n, 3) on the side that the rays come from."""
        normals = _blend(barycentric, self.corner_normals[face])
        normals[_dot(self.face_normals[face], rays) > 0] *= -1
        # near the silhouette of a coarse mesh the smooth normal may look past the camera: turn it to grazing
        behind = np.maximum(_dot(normals, rays), 0) / _dot(rays, rays)
        normals -= behind[:, None] * rays
        normals /= np.sqrt(_dot(normals, normals))[:, None]
        return normals

    def albedo_at(self, face: Indices, barycentric: Points) -> Points:
        """Colours 0-1 (n, 3) before lighting."""
        if self.colours is None:
            albedo: Points = np.full((len(face), 3), GREY, np.float32)
        else:
            albedo = _blend(barycentric, self.colours[self.faces[face]]) / np.float32(255)
        if self.texture is not None:
            uv = _blend(barycentric, self.texture.corner_uv[face].astype(np.float32))
            image_of = self.texture.image_index[face]
            for index, image in enumerate(self.texture.images):
                albedo[image_of == index] = sample_texture(image, uv[image_of == index])
        return albedo

    def points_at(self, face: Indices, origin_mm: Points, rays: Points) -> tuple[Points, Values]:
        """Where rays meet the planes of their faces, in double precision: points (n, 3) and distance along rays."""
        normals = self.face_normals[face]
        origins = np.broadcast_to(origin_mm, rays.shape)
        distance = (self.plane_mm[face] - _dot(normals, origins)) / _dot(rays, normals)
        return origin_mm + distance[:, None] * rays, distance


def _dot(a: Points, b: Points) -> Values:
    return np.asarray(np.einsum("ni,ni->n", a, b))


def _blend(barycentric: Points, corners: np.ndarray) -> np.ndarray:
    """Values of the corners (n, 3, c) weighted by barycentric coordinates (n, 3)."""
    return np.asarray(sum(barycentric[:, corner, None] * corners[:, corner] for corner in range(3)))


def sample_texture(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Bilinear texture colours 0-1 (n, 3) at (n, 2) coordinates; v points up and the texture repeats."""
    height, width = image.shape[:2]
    x, y = uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    left, right, top, bottom = left % width, (left + 1) % width, top % height, (top + 1) % height
    upper = image[top, left] * (1 - fx) + image[top, right] * fx
    lower = image[bottom, left] * (1 - fx) + image[bottom, right] * fx
    return np.asarray((upper * (1 - fy) + lower * fy) / 255)


def pixel_rays(camera: Camera, pixels_xy: Pixels) -> Points:
    """Rays (n, 3) through image positions in the part frame, scaled to depth 1, as precise as the positions."""
    matrix = (camera.part_from_camera[:3, :3] @ np.linalg.inv(camera.intrinsics)).astype(pixels_xy.dtype)
    # not a matrix product: BLAS would wake threads for it, which then wait in the way of the other renderings
    x, y = pixels_xy.T
    return np.stack([across * x + down * y + ahead for across, down, ahead in matrix], axis=1)


def view_of_mesh(mesh: ShadedMesh, camera: Camera, hits: Hits, name: str) -> View:
    """The view whose pixels are where `hits` says: point map from pixel centres, image antialiased."""
    height, width = camera.size_hw
    x, y = np.meshgrid(np.arange(width, dtype=np.float32) + 0.5, np.arange(height, dtype=np.float32) + 0.5)
    centres = np.stack([x.ravel(), y.ravel()], axis=1)

    def look(pixels_xy: Pixels, per_side: int) -> tuple[Indices, Indices, Points, Points]:
        """Of the positions that show surface: their rows, faces, normals and colours."""
        face, barycentric = hits(pixels_xy, per_side)
        hit = np.flatnonzero(face >= 0)
        face, barycentric = face[hit], barycentric[hit]
        normals = mesh.normals_at(face, barycentric, pixel_rays(camera, pixels_xy[hit]))
        colours = shade(mesh.albedo_at(face, barycentric), normals, camera.part_from_camera)
        return hit, face, normals, np.asarray(colours * np.float32(255))

    def whole(rows: Indices, values: Points, empty: float) -> np.ndarray:
        full = np.full((height * width, 3), empty, np.float32)
        full[rows] = values
        return full

    hit, face, normals, colours = look(centres, 1)
    points, _ = mesh.points_at(face, camera.centre_mm, pixel_rays(camera, centres[hit].astype(float)))
    image = whole(hit, colours, BACKGROUND)
    grey = np.full(height * width, -255, np.float32)
    grey[hit] = colours.mean(axis=1)
    rough = np.flatnonzero(contrast(grey.reshape(height, width)))
    offsets = np.array([[-0.25, -0.25], [0.25, -0.25], [-0.25, 0.25], [0.25, 0.25]], np.float32)
    finer, _, _, finer_colours = look((centres[rough, None] + offsets).reshape(-1, 2), 2)
    image[rough] = BACKGROUND
    np.add.at(image, rough[finer // 4], (finer_colours - BACKGROUND) / 4)
    return View(
        name=name,
        kind="rendered",
        image=(image + 0.5).astype(np.uint8).reshape(height, width, 3),
        points_mm=whole(hit, points, np.nan).reshape(height, width, 3),
        normals=whole(hit, normals, np.nan).reshape(height, width, 3),
        camera=camera,
    )


def contrast(grey: ScoreMap) -> Mask:
    """Pixels (h, w) that differ from the one beside, above or below them."""
    result = np.zeros(grey.shape, bool)
    for one, other in (((slice(1, None),), (slice(-1),)), ((slice(None), slice(1, None)), (slice(None), slice(-1)))):
        differs = np.abs(grey[one] - grey[other]) > AA_CONTRAST * 255
        result[one] |= differs
        result[other] |= differs
    return result
