"""Renders point clouds: every point a small disc, the nearest one wins."""

from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

from rad3d.arrays import Flags, Points, ScoreMap
from rad3d.camera import Camera
from rad3d.geometry import inverse, transform_directions, unit
from rad3d.render.shading import BACKGROUND, GREY, shade
from rad3d.scan import Scan
from rad3d.view import View

OVERLAP = 1.2
"""A disc's radius in spacings of the cloud: large enough that a closed surface shows no holes."""

DEPTH_SPACINGS = 3.0
"""A point is hidden when the nearest splat at its pixel lies this many spacings in front of it."""

MAX_RADIUS_PX = 12
SPACING_SAMPLES = 5000


class Splatter:
    """Splats the points of a cloud, with the normals of its surface."""

    def __init__(self, scan: Scan) -> None:
        self.surface = scan.surface
        points = self.surface.points_mm
        sample = points[:: max(1, len(points) // SPACING_SAMPLES)]
        self.spacing_mm = float(np.median(cKDTree(points).query(sample, k=[min(4, len(points))], workers=-1)[0]))

    def render(self, cameras: Sequence[Camera]) -> list[View]:
        """One view per camera; a pixel shows the point whose disc is nearest to the camera there."""
        return [self._view(camera, f"{number:03d}") for number, camera in enumerate(cameras)]

    def visible(self, points_mm: Points, normals: Points, camera: Camera, max_incidence: float) -> Flags:
        """Which surface points (n, 3) the camera sees at no more than `max_incidence` radians from their normal."""
        facing = np.einsum("ni,ni->n", normals, unit(camera.centre_mm - points_mm))
        pixels, depth = camera.project(points_mm)
        column, row = np.floor(np.nan_to_num(pixels, nan=-1.0)).astype(int).T
        height, width = camera.size_hw
        seen = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (facing >= np.cos(max_incidence))
        nearest = self._nearest(camera)[1]
        limit = nearest[row[seen], column[seen]] + DEPTH_SPACINGS * self.spacing_mm / np.maximum(facing[seen], 0.2)
        seen[seen] = depth[seen] <= limit
        return seen

    def _nearest(self, camera: Camera) -> tuple[np.ndarray, ScoreMap]:
        """Per pixel the index of the point seen (h, w), -1 = none, and its depth in mm, inf = none."""
        pixels, depth = camera.project(self.surface.points_mm)
        height, width = camera.size_hw
        known = np.flatnonzero(depth > 0)
        radius = camera.intrinsics[0, 0] * OVERLAP * self.spacing_mm / np.median(depth[known])
        reach = int(np.clip(np.ceil(radius), 0, MAX_RADIUS_PX))
        order = known[np.argsort(-depth[known], kind="stable")]  # nearest last, so that it is what remains
        column, row = np.floor(pixels[order]).astype(int).T
        index = np.full((height, width), -1)
        best = np.full((height, width), np.inf)
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                if dy * dy + dx * dx > max(radius, 0.5) ** 2:
                    continue
                y, x = row + dy, column + dx
                inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
                layer = np.full((height, width), -1)
                layer[y[inside], x[inside]] = order[inside]
                layer_depth = np.where(layer >= 0, depth[layer], np.inf)
                # a point's own pixel goes before a neighbour's disc of the same surface
                offset = 0.0 if dy == dx == 0 else 0.5 * self.spacing_mm
                nearer = layer_depth + offset < best
                index[nearer], best[nearer] = layer[nearer], layer_depth[nearer] + offset
        return index, np.where(index >= 0, depth[index], np.inf)

    def _view(self, camera: Camera, name: str) -> View:
        index, _ = self._nearest(camera)
        shown = index >= 0
        point = index[shown]
        rays = camera.ray_directions()[shown]
        normals = self.surface.normals[point]
        away = np.einsum("ni,ni->n", normals, rays) > 0
        normals = np.where(away[:, None], -normals, normals)
        # each disc lies in its point's plane; where the ray grazes it, the point itself stands for it
        slope = np.einsum("ni,ni->n", rays, normals)
        offset = np.einsum("ni,ni->n", self.surface.points_mm[point] - camera.centre_mm, normals)
        safe = np.abs(slope) > 0.2 * np.linalg.norm(rays, axis=1)
        on_plane = camera.centre_mm + rays * np.divide(offset, slope, out=np.zeros_like(slope), where=safe)[:, None]
        points = np.where(safe[:, None], on_plane, self.surface.points_mm[point])

        albedo = np.full((len(point), 3), GREY, np.float32)
        if self.surface.colours is not None:
            albedo = self.surface.colours[point].astype(np.float32) / 255
        lit = shade(albedo, transform_directions(inverse(camera.part_from_camera), normals).astype(np.float32))
        image = np.full((*camera.size_hw, 3), BACKGROUND, np.float32)
        image[shown] = lit
        maps = [np.full((*camera.size_hw, 3), np.nan, np.float32) for _ in range(2)]
        maps[0][shown], maps[1][shown] = points, normals
        return View(
            name=name,
            kind="rendered",
            image=np.round(image * 255).astype(np.uint8),
            points_mm=maps[0],
            normals=maps[1],
            camera=camera,
        )
