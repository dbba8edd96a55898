"""Scans from files and folders, and the files that results are written to."""

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from rad3d.captured import is_captured, read_captured, read_image, sensor_folder
from rad3d.clouds import looks_like_points, read_las, read_pcd_cloud, read_text_cloud
from rad3d.errors import ScanError, UnitError
from rad3d.files import Contents, atomic_file, atomic_folder, read_bytes, sha256_of
from rad3d.meshes import read_gltf, read_obj, read_off, read_stl
from rad3d.ply import PlyData, ply_header, read_ply, write_ply
from rad3d.scan import MM_PER_UNIT, Scan, Texture, Unit

__all__ = [
    "PlyData",
    "ScanSource",
    "atomic_file",
    "atomic_folder",
    "find_scans",
    "read_ply",
    "read_scan",
    "read_scans",
    "write_ply",
]

_log = logging.getLogger(__name__)

SMALLEST_MM, LARGEST_MM = 0.5, 5000.0
"""Largest extent that a scanned part can have; outside, the unit must be wrong."""

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp"}
_IMAGE_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"GIF8")


@dataclass(frozen=True)
class ScanSource:
    """A scan that was found but not read.

    Args:
        path: its file or folder.
        specimen: the specimen's name, unique among those found together and safe as a folder name.
        kind: what it seems to be.
    """

    path: Path
    specimen: str
    kind: Literal["mesh", "cloud", "captured"]


def read_scan(path: str | Path, *, unit: Unit | None = None, sensor: str | None = None) -> Scan:
    """Read one specimen: a mesh or cloud file, or the folder of a captured one.

    Args:
        path: the file or folder.
        unit: unit of its coordinates; None = millimetres, refused where the size shows that they are not.
        sensor: which sensor folder of a captured specimen.

    Raises:
        ScanError: nothing there, not a scan, damaged, or without usable surface.
        UnitError: the size makes no sense in that unit.
        DependencyError: the format needs a package that is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise ScanError(path, expected="a scan file or folder", got="nothing there", remedy="check the path")
    if path.is_dir():
        views = read_captured(path, sensor=sensor, unit=unit)
        return Scan(specimen_name(_absolute(path).name), path, views=views, unit=unit or "mm")
    suffix = path.suffix.lower()
    looks_like_image = read_bytes(path, "a scan file", 4).startswith(_IMAGE_MAGIC)
    if suffix in _IMAGE_SUFFIXES or (looks_like_image and suffix in _READERS):
        raise ScanError(
            path,
            expected="a mesh or point cloud",
            got="an image",
            remedy="give the scan file, or the folder that holds images/ and xyz/",
        )
    if suffix not in _READERS:
        raise ScanError(
            path,
            expected=f"a scan file ({' '.join(sorted(_READERS))})",
            got=f"the suffix '{suffix}'",
            remedy="convert it to PLY",
        )
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is counted and refused below
        contents = _READERS[suffix](path)
    return _scan(path, contents, unit)


def _scan(path: Path, contents: Contents, unit: Unit | None) -> Scan:
    """Check what was read, and convert it to millimetres."""
    if not len(contents.vertices):
        raise ScanError(path, expected="vertices or points", got="none", remedy="check that the export wrote geometry")
    if contents.faces is not None and not len(contents.faces):
        raise ScanError(
            path,
            expected="faces or points",
            got=f"a mesh of {len(contents.vertices)} vertices and no faces",
            remedy="export the faces, or save the points as a cloud (PLY, XYZ)",
        )
    scan = Scan(
        specimen_name(path.stem),
        path,
        np.asarray(contents.vertices, np.float64) * MM_PER_UNIT[unit or "mm"],
        contents.faces,
        contents.colours,
        contents.normals,
        contents.texture,
        unit=unit or "mm",
        source_sha256=sha256_of(path),
    )
    _check_size(scan, contents)
    if scan.degenerate_faces:
        _log.warning("%s: %d triangles without area are left out", path, scan.degenerate_faces)
    return scan


def _check_size(scan: Scan, contents: Contents) -> None:
    extent = float(np.ptp(contents.vertices, axis=0).max())
    if extent == 0:
        raise ScanError(
            scan.source or scan.specimen,
            expected="a surface",
            got=f"{len(contents.vertices)} vertices at one place",
            remedy="check the export",
        )
    if SMALLEST_MM <= extent * MM_PER_UNIT[scan.unit] <= LARGEST_MM:
        return
    plausible = [u for u, factor in MM_PER_UNIT.items() if SMALLEST_MM <= extent * factor <= LARGEST_MM]
    remedy = "give " + " or ".join(f"--unit {u}" for u in plausible) if plausible else "scale the file to millimetres"
    readings = ", ".join(f"{extent * factor:.4g} mm if in {u}" for u, factor in MM_PER_UNIT.items())
    raise UnitError(
        scan.source or scan.specimen,
        expected=f"a part between {SMALLEST_MM:g} and {LARGEST_MM:g} mm (read as {scan.unit})",
        got=f"a largest extent of {readings}",
        remedy=remedy,
    )


def _read_ply_scan(path: Path) -> Contents:
    ply = read_ply(path)
    columns = ply.fields
    normals = None
    if {"nx", "ny", "nz"} <= set(columns):
        normals = np.stack([columns["nx"], columns["ny"], columns["nz"]], axis=1).astype(np.float64)
    return Contents(ply.vertices, ply.faces, ply.colours, normals, _ply_texture(path, ply))


def _ply_texture(path: Path, ply: PlyData) -> Texture | None:
    """Texture by coordinates per corner (MeshLab) or per vertex (Blender)."""
    files = [path.parent / name for name in ply.texture_files]
    if ply.faces is None or not files or not all(file.is_file() for file in files):
        return None
    corner_uv = ply.corner_uv
    for u, v in (("texture_u", "texture_v"), ("s", "t"), ("u", "v")):
        if corner_uv is None and {u, v} <= set(ply.fields):
            corner_uv = np.stack([ply.fields[u], ply.fields[v]], axis=1).astype(np.float64)[ply.faces]
    if corner_uv is None:
        return None
    images = tuple(read_image(file) for file in files)
    index = np.zeros(len(ply.faces), np.int64) if ply.texture_index is None else ply.texture_index
    return Texture(images, corner_uv, np.where((index >= 0) & (index < len(images)), index, -1))


_READERS: dict[str, Callable[[Path], Contents]] = {
    ".ply": _read_ply_scan,
    ".stl": read_stl,
    ".obj": read_obj,
    ".off": read_off,
    ".glb": read_gltf,
    ".gltf": read_gltf,
    ".pcd": read_pcd_cloud,
    ".xyz": read_text_cloud,
    ".txt": read_text_cloud,
    ".csv": read_text_cloud,
    ".las": read_las,
    ".laz": read_las,
}
_CLOUD_SUFFIXES = {".pcd", ".xyz", ".txt", ".csv", ".las", ".laz"}
_UNREAD_SUFFIXES = {
    ".3dm", ".3ds", ".3mf", ".amf", ".asc", ".blend", ".brep", ".catpart", ".dae", ".dxf", ".e57", ".fbx", ".fls",
    ".iges", ".igs", ".ipt", ".jt", ".pts", ".ptx", ".sldprt", ".step", ".stp", ".usdz", ".vrml", ".vtk", ".vtp",
    ".vtu", ".wrl", ".x3d", ".x_t",
}  # fmt: skip
"""Geometry in formats that are not read."""
_LONGEST_PART, _LONGEST_NAME = 120, 200
"""Bytes of a specimen's name and of one with its parents; file systems allow 255, and some files add to it."""


def specimen_name(name: str) -> str:
    """A name made safe as that of a folder.

    >>> specimen_name("../a:b"), specimen_name("..")
    ('a_b', 'specimen')
    """
    text = name.encode("utf-8", "replace").decode()  # a name that is not UTF-8 holds surrogates, which nothing writes
    safe = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]', "_", text).strip(". _")
    return safe.encode()[:_LONGEST_PART].decode(errors="ignore").rstrip(". _") or "specimen"


def find_scans(
    paths: Sequence[str | Path], *, sensor: str | None = None, spare: Callable[[ScanError], None] | None = None
) -> list[ScanSource]:
    """All specimens that `paths` name, in order, without reading them.

    Globs are expanded. A directory is one captured specimen if it holds `images/`, `rgb/` or `xyz/`, or sensor
    folders that do; otherwise each mesh or cloud file in it is a specimen, each captured sub-directory is one, and
    other sub-directories are groups. Geometry in formats that are not read is left out with a warning.

    Args:
        paths: files, directories, globs.
        sensor: which sensor folder of captured specimens.
        spare: told why a path has no scans, and the others are found all the same; None raises it.

    Raises:
        ScanError: a path or directory without scans, or several sensors and none chosen.
    """
    found: list[Path] = []
    for given in paths:
        try:
            of_path: list[Path] = []
            for path in _expanded(given):
                of_path += _scans_in(path, sensor) if path.is_dir() else [path]
            found += of_path
        except ScanError as error:
            if spare is None:
                raise
            spare(error)
    first: dict[Path, Path] = {}
    for path in found:
        if first.setdefault(_real(path), path) is not path:
            _log.warning("%s is named more than once and taken once", path)
    unique = list(first.values())
    names = _unique_names(unique)
    return [ScanSource(path, name, _kind(path)) for path, name in zip(unique, names, strict=True)]


def read_scans(paths: Sequence[str | Path], *, unit: Unit | None = None, sensor: str | None = None) -> list[Scan]:
    """Read every specimen that `find_scans` finds, named as it names them."""
    return [
        replace(read_scan(source.path, unit=unit, sensor=sensor), specimen=source.specimen)
        for source in find_scans(paths, sensor=sensor)
    ]


def _expanded(given: str | Path) -> list[Path]:
    if Path(given).exists():
        return [Path(given)]
    matches = sorted(glob.glob(str(given), recursive=True))  # noqa: PTH207  (Path.glob takes no absolute pattern)
    if not matches:
        raise ScanError(given, expected="a scan file or folder", got="nothing there", remedy="check the path")
    return [Path(match) for match in matches]


def _scans_in(folder: Path, sensor: str | None) -> list[Path]:
    """The specimens of a directory, in order of their names."""
    found, unread = _walk(folder, sensor, set())
    names = ", ".join(str(path.relative_to(folder)) for path in unread)
    if not found:
        raise ScanError(
            folder,
            expected=f"scans ({' '.join(sorted(_READERS))}) or captured specimens (folders with images/ and xyz/)",
            got=f"none that can be read, but {names}" if unread else "none",
            remedy="convert them to PLY" if unread else "give the folder that holds the scans",
        )
    if unread:
        _log.warning("%s: not read, convert to PLY what is a scan: %s", folder, names)
    return found


def _walk(folder: Path, sensor: str | None, seen: set[Path]) -> tuple[list[Path], list[Path]]:
    """The specimens in a directory, and the geometry that cannot be read; what was `seen` is not entered again."""
    if is_captured(folder, sensor):
        sensor_folder(folder, sensor)  # says now if the sensor has to be chosen
        return [folder], []
    seen.add(_real(folder))
    found: list[Path] = []
    unread: list[Path] = []
    for item in sorted(folder.iterdir()):
        if item.name.startswith(".") or _is_result(item):
            continue
        suffix = item.suffix.lower()
        if item.is_dir():
            if _real(item) not in seen:
                scans, others = _walk(item, sensor, seen)
                found += scans
                unread += others
        elif suffix in _UNREAD_SUFFIXES:
            unread.append(item)
        elif suffix in _READERS and (suffix not in (".txt", ".csv") or looks_like_points(item)):
            found.append(item)
    return found, unread


def _is_result(folder: Path) -> bool:
    """Whether an inspection wrote a folder; a report.json alone may be anybody's."""
    return (folder / "report.json").is_file() and (folder / "scored.ply").is_file()


def _real(path: Path) -> Path:
    """Where links lead, also those that lead round in a circle."""
    return Path(os.path.realpath(path))


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """The stem; on a clash parent__stem; then the whole file name, more parents, and at last a number."""
    levels = [0] * len(paths)
    deepest = max((len(_absolute(path).parts) for path in paths), default=0)
    for _ in range(deepest + 1):
        names = [_name(path, level) for path, level in zip(paths, levels, strict=True)]
        count = Counter(name.casefold() for name in names)
        clashing = [i for i, name in enumerate(names) if count[name.casefold()] > 1]
        for i in clashing:
            levels[i] += 1
        if not clashing:
            return names
    seen: Counter[str] = Counter()
    for i, name in enumerate(names):
        seen[name.casefold()] += 1
        if seen[name.casefold()] > 1:
            names[i] = f"{name}__{seen[name.casefold()]}"
    return names


def _name(path: Path, level: int) -> str:
    path = _absolute(path)
    last = path.stem if level < 2 and path.is_file() else path.name
    parents = list(path.parts[1:-1])[-max(level - 1, 1) :] if level else []
    name = "__".join(specimen_name(part) for part in [*parents, last]).encode()
    return name[-_LONGEST_NAME:].decode(errors="ignore").lstrip(". _")


def _absolute(path: Path) -> Path:
    """Without `.` and `..`, but a link keeps its own name."""
    return Path(os.path.normpath(path.absolute()))


def _kind(path: Path) -> Literal["mesh", "cloud", "captured"]:
    if path.is_dir():
        return "captured"
    if path.suffix.lower() == ".ply":
        try:
            return "mesh" if ply_header(path)[0].get("face") else "cloud"
        except ScanError:  # reading it will say what is wrong with it
            return "mesh"
    return "cloud" if path.suffix.lower() in _CLOUD_SUFFIXES else "mesh"
