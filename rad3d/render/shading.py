"""How a surface looks: smooth normals with sharp edges, vertex colours, textures, and two lights on the camera."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rad3d.arrays import Colours, Faces, Indices, Pixels, Points, Values
from rad3d.camera import Camera
from rad3d.geometry import face_normals_areas, inverse, transform_directions, unit
from rad3d.scan import Scan, Texture
from rad3d.view import View

CREASE = 0.5235987755982988
"""Radians between neighbouring triangles (30 degrees) from which an edge is a machined edge and stays sharp."""
BACKGROUND = 0.0
GREY = 0.75
"""Albedo of a surface without colours."""
AMBIENT = 0.2
LIGHTS = (((-0.5, -0.7, -1.0), 0.55), ((0.8, 0.3, -0.7), 0.3))
"""Directions towards the lights in the camera's frame, and their strength."""
WRAP = 0.25
"""How far light reaches round the terminator; what makes the lights soft."""
AA_CONTRAST = 0.02
"""Pixels that differ more than this from a neighbour are sampled 2 x 2 for the image."""

Hits = Callable[[Pixels], tuple[Indices, Points]]
"""pixels_xy (n, 2) -> face (n,), -1 = background, and barycentric coordinates (n, 3)."""


def shade(albedo: Points, normals: Points) -> Points:
    """Colours 0-1 (n, 3) of surfaces with `normals` in the camera's frame, lit by two soft lights on the camera."""
    light = np.full(len(normals), AMBIENT, normals.dtype)
    for direction, strength in LIGHTS:
        cosine = normals @ unit(np.array(direction)).astype(normals.dtype)
        light += strength * np.clip((cosine + WRAP) / (1 + WRAP), 0, None)
    return np.clip(albedo * light[:, None], 0, 1)


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
    return unit(total)[fan].reshape(-1, 3, 3)


@dataclass(frozen=True, eq=False)
class ShadedMesh:
    """A welded mesh without degenerate triangles, and what colours it.

    Args:
        vertices_mm: (n, 3).
        faces: (m, 3).
        colours: (n, 3) uint8 per vertex, or None.
        texture: per face of `faces`, or None; goes before colours.
    """

    vertices_mm: Points
    faces: Faces
    colours: Colours | None = None
    texture: Texture | None = None

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
    def corner_normals(self) -> np.ndarray:
        """(m, 3, 3) float32."""
        return crease_normals(self.vertices_mm, self.faces).astype(np.float32)

    def normals_at(self, face: Indices, barycentric: Points, rays: Points) -> Points:
        """Smooth normals (n, 3) on the side that the rays come from."""
        normals = np.einsum("nc,nci->ni", barycentric.astype(np.float32), self.corner_normals[face])
        away = np.einsum("ni,ni->n", self.face_normals[face], rays) > 0
        normals[away] *= -1
        # near the silhouette of a coarse mesh the smooth normal may look past the camera: turn it to grazing
        rays = unit(rays.astype(np.float32))
        behind = np.clip(np.einsum("ni,ni->n", normals, rays), 0, None)
        return unit(normals - behind[:, None] * rays)

    def albedo_at(self, face: Indices, barycentric: Points) -> Points:
        """Colours 0-1 (n, 3) before lighting."""
        barycentric = barycentric.astype(np.float32)
        if self.colours is None:
            albedo = np.full((len(face), 3), GREY, np.float32)
        else:
            albedo = np.einsum("nc,nci->ni", barycentric, self.colours[self.faces[face]].astype(np.float32) / 255)
        if self.texture is not None:
            uv = np.einsum("nc,nci->ni", barycentric, self.texture.corner_uv[face].astype(np.float32))
            image_of = self.texture.image_index[face]
            for index, image in enumerate(self.texture.images):
                albedo[image_of == index] = sample_texture(image, uv[image_of == index])
        return albedo

    def points_at(self, face: Indices, origin_mm: Points, rays: Points) -> tuple[Points, Values]:
        """Where rays meet the planes of their faces, in double precision: points (n, 3) and distance along rays."""
        normals = self.face_normals[face]
        corner = self.vertices_mm[self.faces[face, 0]]
        distance = np.einsum("ni,ni->n", corner - origin_mm, normals) / np.einsum("ni,ni->n", rays, normals)
        return origin_mm + distance[:, None] * rays, distance

    def colours_at(self, camera: Camera, face: Indices, barycentric: Points, rays: Points) -> Points:
        """Lit colours 0-1 (n, 3)."""
        normals = self.normals_at(face, barycentric, rays)
        return shade(self.albedo_at(face, barycentric), transform_directions(inverse(camera.part_from_camera), normals))


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
    """Rays (n, 3) through image positions in the part frame, scaled to depth 1."""
    homogeneous = np.concatenate([pixels_xy, np.ones((len(pixels_xy), 1))], axis=1)
    return transform_directions(camera.part_from_camera, homogeneous @ np.linalg.inv(camera.intrinsics).T)


def view_of_mesh(mesh: ShadedMesh, camera: Camera, hits: Hits, name: str) -> View:
    """The view whose pixels are where `hits` says: point map from pixel centres, image antialiased."""
    height, width = camera.size_hw
    centres = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1).reshape(-1, 2)

    def colours(pixels_xy: Pixels, face: Indices, barycentric: Points, rays: Points) -> Points:
        result = np.full((len(pixels_xy), 3), BACKGROUND, np.float32)
        hit = face >= 0
        result[hit] = mesh.colours_at(camera, face[hit], barycentric[hit], rays[hit])
        return result

    face, barycentric = hits(centres)
    rays = pixel_rays(camera, centres)
    hit = face >= 0
    points = np.full((height * width, 3), np.nan, np.float32)
    normals = np.full((height * width, 3), np.nan, np.float32)
    points[hit] = mesh.points_at(face[hit], camera.centre_mm, rays[hit])[0]
    normals[hit] = mesh.normals_at(face[hit], barycentric[hit], rays[hit])

    image = colours(centres, face, barycentric, rays)
    edge = contrast(image.reshape(height, width, 3), hit.reshape(height, width)).ravel()
    offsets = np.array([[-0.25, -0.25], [0.25, -0.25], [-0.25, 0.25], [0.25, 0.25]])
    finer = (centres[edge, None] + offsets).reshape(-1, 2)
    finer_colours = colours(finer, *hits(finer), pixel_rays(camera, finer))
    image[edge] = finer_colours.reshape(-1, 4, 3).mean(axis=1)
    return View(
        name=name,
        kind="rendered",
        image=np.round(image * 255).astype(np.uint8).reshape(height, width, 3),
        points_mm=points.reshape(height, width, 3),
        normals=normals.reshape(height, width, 3),
        camera=camera,
    )


def contrast(image: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """Pixels (h, w) that differ from a neighbour, or lie on the outline."""
    grey = np.where(hit, image.mean(axis=-1), -1)
    return np.asarray(maximum_filter(grey, 3) - minimum_filter(grey, 3) > AA_CONTRAST)
