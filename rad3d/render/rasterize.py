"""Renders meshes on a GPU with PyTorch3D (extra `pytorch3d`).

Compared with the ray caster on a processor, with PyTorch3D's own CPU rasteriser (`tests/bench/rasterize_agreement.py`);
not run on a GPU yet.
"""

from collections.abc import Sequence

import numpy as np
import torch
from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
from pytorch3d.structures import Meshes

from rad3d.arrays import Flags, Indices, Pixels, Points
from rad3d.camera import Camera
from rad3d.render.raycast import RayCaster
from rad3d.render.shading import view_of_mesh
from rad3d.scan import Scan
from rad3d.view import View


class Rasterizer:
    """Rasterises a mesh; looks and visibility are those of the ray caster.

    `visible` asks the ray caster: a depth buffer answers only as finely as its pixels.
    """

    def __init__(self, scan: Scan, device: str) -> None:
        self._device = device
        self._caster = RayCaster.from_scan(scan)

    def visible(self, points_mm: Points, normals: Points, camera: Camera, max_incidence: float) -> Flags:
        """Which surface points (n, 3) the camera sees at no more than `max_incidence` radians from their normal."""
        return self._caster.visible(points_mm, normals, camera, max_incidence)

    def render(self, cameras: Sequence[Camera]) -> list[View]:
        """One view per camera."""
        return [self._view(camera, f"{number:03d}") for number, camera in enumerate(cameras)]

    def _view(self, camera: Camera, name: str) -> View:
        def hits(pixels_xy: Pixels, per_side: int) -> tuple[Indices, Points]:
            face, barycentric = self._raster(camera, per_side)
            column, row = np.floor(pixels_xy * per_side).astype(int).T
            return face[row, column], barycentric[row, column]

        return view_of_mesh(self._caster.mesh, camera, hits, name)

    def _raster(self, camera: Camera, per_side: int) -> tuple[np.ndarray, np.ndarray]:
        """Face (h, w), -1 = none, and barycentric coordinates (h, w, 3) at an image `per_side` times as fine."""
        mesh = self._caster.mesh
        height, width = (per_side * size for size in camera.size_hw)
        pixels, depth = camera.project(mesh.vertices_mm)
        # PyTorch3D's normalised coordinates: x left, y up, the shorter side from -1 to 1
        scale = 2 * per_side / min(height, width)
        x = width / min(height, width) - scale * np.nan_to_num(pixels[:, 0])
        y = height / min(height, width) - scale * np.nan_to_num(pixels[:, 1])
        vertices = torch.tensor(np.stack([x, y, depth], axis=1), dtype=torch.float32, device=self._device)
        faces = torch.tensor(mesh.faces, device=self._device)
        face, _, barycentric, _ = rasterize_meshes(
            Meshes([vertices], [faces]),
            image_size=(height, width),
            blur_radius=0.0,
            faces_per_pixel=1,
            perspective_correct=True,
            cull_to_frustum=False,
            z_clip_value=1e-3,
        )
        return face[0, :, :, 0].cpu().numpy(), barycentric[0, :, :, 0].cpu().numpy()
