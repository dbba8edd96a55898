"""Images of a part from given cameras, with a surface point per pixel."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal, Protocol

from rad3d.arrays import Flags, Points
from rad3d.camera import Camera
from rad3d.errors import ScanError
from rad3d.scan import Scan
from rad3d.view import View


class Renderer(Protocol):
    """Anything that turns cameras into views of one scan."""

    def render(self, cameras: Sequence[Camera]) -> list[View]:
        """One view per camera; points and normals are in the cameras' part frame."""
        ...

    def visible(self, points_mm: Points, normals: Points, camera: Camera, max_incidence: float) -> Flags:
        """Which surface points (n, 3) the camera sees at no more than `max_incidence` radians from their normal."""
        ...


def renderer_for(scan: Scan, device: Literal["cpu", "cuda"] = "cpu") -> Renderer:
    """The renderer for a scan: splats for clouds; ray casting for meshes, or PyTorch3D on a GPU where installed.

    Raises:
        ScanError: the scan holds captured views only.
    """
    if scan.kind == "captured":
        raise ScanError(
            scan.source or scan.specimen,
            expected="a mesh or a point cloud to render",
            got="captured views",
            remedy="use its views as they are, or merge them into a cloud first",
        )
    if scan.kind == "cloud":
        from rad3d.render.splat import Splatter

        return Splatter(scan)
    if device == "cuda" and find_spec("pytorch3d") is not None:
        from rad3d.render.rasterize import Rasterizer

        return Rasterizer(scan, device)
    from rad3d.render.raycast import RayCaster

    return RayCaster.from_scan(scan)
