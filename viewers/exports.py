"""Results for other software: GLB to show and send on, CSV of the defects for a spreadsheet, Open3D's own objects."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rad3d.arrays import Colours, Faces, Points, Values
from rad3d.errors import DependencyError, ResultError
from rad3d.files import atomic_file
from rad3d.result import Defect, Inspection, heat_colours

MM_PER_METRE = 1000.0
COLUMNS = (
    *("specimen", "verdict", "defect", "x_mm", "y_mm", "z_mm", "part_x_mm", "part_y_mm", "part_z_mm"),
    *("normal_x", "normal_y", "normal_z", "part_normal_x", "part_normal_y", "part_normal_z"),
    *("area_mm2", "length_mm", "width_mm", "height_mm", "peak_score", "mean_score"),
    *("kind", "deviation_mm", "volume_mm3", "geometry_share", "agreement", "views_seen", "p_value", "source"),
)
MATERIAL = {"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.9}, "doubleSided": True}
"""Without one, glTF's default is bare metal, which hides the colours."""


def write_export(results: Sequence[Inspection], path: str | Path) -> Path:
    """Write results in the format of the suffix: .glb (one result) or .csv (the defects of all).

    Raises:
        ResultError: another suffix, several results for one GLB, or the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".glb" and len(results) == 1:
        return write_glb(results[0], path)
    if suffix == ".csv":
        return write_csv(results, path)
    raise ResultError(
        path,
        expected="a name that ends in .glb (for one result) or .csv",
        got=f"'{path.name}' for {len(results)} result{'' if len(results) == 1 else 's'}",
        remedy="the suffix chooses the format; write a GLB for each result",
    )


def write_glb(inspection: Inspection, path: str | Path) -> Path:
    """Write the surface in heat colours as GLB: every vertex, along the file's axes, in metres as glTF demands.

    Colours are linear light (glTF 2.0, 3.7.2.1), so that viewers show those of the report.
    """
    path = Path(path)
    light = linear_light(heat_colours(inspection.points.anomaly_score, inspection.threshold))
    with atomic_file(path) as partial:
        partial.write_bytes(glb(inspection.vertices_mm / MM_PER_METRE, inspection.faces, light))
    return path


def glb(vertices: Points, faces: Faces | None, light: Colours) -> bytes:
    """A mesh, or a cloud where there are no faces, coated in colours of linear light (n, 3) uint8."""
    import trimesh
    from trimesh.exchange.gltf import export_glb

    if faces is None:
        shape = trimesh.PointCloud(vertices, colors=light)
    else:
        shape = trimesh.Trimesh(vertices, faces, vertex_colors=light, process=False)
    return bytes(export_glb(trimesh.Scene(shape), tree_postprocessor=_coated))


def to_open3d(inspection: Inspection) -> Any:
    """The surface in heat colours as an `open3d.geometry.TriangleMesh`, or a `PointCloud` where it has no faces.

    Every vertex in its order, in millimetres along the file's axes.

    Raises:
        DependencyError: Open3D, or a system library that it loads, is missing.
    """
    try:
        import open3d
    except (ImportError, OSError) as error:  # OSError: a system library
        raise DependencyError(
            "to_open3d",
            expected="the package open3d",
            got=str(error),
            remedy="pip install 'rad3d[open3d]'; on a bare Debian or Ubuntu also "
            "apt-get install libegl1 libgl1 libx11-6 libudev1 libidn2-0 libusb-1.0-0",
        ) from error
    vertices = open3d.utility.Vector3dVector(inspection.vertices_mm)
    colours = heat_colours(inspection.points.anomaly_score, inspection.threshold) / 255.0
    if inspection.faces is None:
        cloud = open3d.geometry.PointCloud(vertices)
        cloud.colors = open3d.utility.Vector3dVector(colours)
        return cloud
    mesh = open3d.geometry.TriangleMesh(vertices, open3d.utility.Vector3iVector(inspection.faces.astype(np.int32)))
    mesh.vertex_colors = open3d.utility.Vector3dVector(colours)
    return mesh


def linear_light(colours: np.ndarray) -> np.ndarray:
    """Display colours (n, 3) uint8 as linear light, uint8 (IEC 61966-2-1).

    >>> linear_light(np.array([[0, 128, 255]], np.uint8))
    array([[  0,  55, 255]], dtype=uint8)
    """
    return np.asarray((255 * light_of(colours / 255.0)).round().astype(np.uint8))


def light_of(share: Values) -> Values:
    """Linear light of display colours, both 0-1."""
    return np.asarray(np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4))


def _coated(tree: dict[str, Any]) -> None:
    tree["materials"] = [MATERIAL]
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            primitive["material"] = 0


def write_csv(results: Sequence[Inspection], path: str | Path) -> Path:
    """Write a line per defect, with measures in mm along the file's axes and in the part frame."""
    path = Path(path)
    with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(_row(inspection, defect) for inspection in results for defect in inspection.defects)
    return path


def _row(inspection: Inspection, defect: Defect) -> list[str | int]:
    places = (*defect.centroid_mm, *defect.centroid_part_mm, *defect.normal, *defect.normal_part)
    measures = (defect.area_mm2, *defect.extent_mm, defect.peak_score, defect.mean_score)
    material = (defect.deviation_mm, defect.volume_mm3, defect.geometry_share, defect.agreement)
    return [
        _plain(inspection.specimen),
        inspection.verdict,
        defect.id,
        *map(_number, (*places, *measures)),
        defect.kind or "",
        *map(_number, material),
        defect.views_seen,
        _number(defect.p_value),
        _plain(inspection.source or ""),
    ]


def _number(value: float) -> str:
    return f"{value:.6g}" if np.isfinite(value) else ""


def _plain(name: str) -> str:
    """A name that a spreadsheet does not run as a formula (OWASP, CSV injection)."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name
