"""Mesh files other than PLY, with every vertex in the order of the file (general loaders merge and reorder them)."""

import codecs
import json
import logging
import re
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from rad3d.arrays import Faces
from rad3d.errors import ScanError
from rad3d.files import Contents, read_bytes
from rad3d.ply import as_colours, fan_triangles
from rad3d.scan import Texture

_log = logging.getLogger(__name__)

_REMEDY = "export or copy the file again"
_COMPRESSIONS = {"KHR_draco_mesh_compression", "EXT_meshopt_compression"}
_PLAIN = 200
"""Grey of what has no colour beside coloured geometry."""


def read_stl(path: Path) -> Contents:
    """STL, binary or ascii: three vertices per facet, as they stand in the file.

    Raises:
        ScanError: truncated, or not STL.
    """
    data = read_bytes(path, "an STL mesh")
    count = struct.unpack_from("<I", data, 80)[0] if len(data) >= 84 else -1
    text = data.removeprefix(codecs.BOM_UTF8).lstrip()
    is_text = text[:5].lower() == b"solid" and re.search(rb"facet|endsolid", text[:2048].lower())
    if count >= 0 and (len(data) == 84 + 50 * count or (84 + 50 * count < len(data) and not is_text)):
        rows = np.frombuffer(data, [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("flags", "<u2")], count, 84)
        vertices = rows["corners"].reshape(-1, 3)
    elif is_text:
        text = text.replace(b"\r", b"\n")
        found = re.findall(rb"^\s*vertex\s+(\S+)\s+(\S+)\s+(\S+)\s*$", text, re.MULTILINE | re.IGNORECASE)
        solids, ends = (len(re.findall(rb"^\s*%s\b" % word, text, re.M | re.I)) for word in (b"solid", b"endsolid"))
        if ends < solids or len(found) % 3:
            raise ScanError(
                path,
                expected="facets of three vertices up to 'endsolid'",
                got=f"a truncated file with {len(found)} vertices",
                remedy=_REMEDY,
            )
        vertices = _numbers(path, found).reshape(-1, 3)
    else:
        got = f"{len(data)} bytes" if count < 0 else f"{len(data)} bytes for {count} triangles (truncated, or no STL)"
        raise ScanError(path, expected="84 bytes and 50 more per triangle", got=got, remedy=_REMEDY)
    return Contents(vertices.astype(np.float64), np.arange(len(vertices)).reshape(-1, 3))


def read_off(path: Path) -> Contents:
    """OFF in ascii, with normals (N) or colours (C) where its first word says so, as in COFF or CNOFF.

    Raises:
        ScanError: truncated, or not OFF.
    """
    lines = [line.split(b"#")[0].split() for line in read_bytes(path, "an OFF mesh").splitlines()]
    lines = [line for line in lines if line]
    keyword = lines[0][0].upper() if lines else b""
    if not re.fullmatch(b"C?N?OFF", keyword):
        raise ScanError(
            path, expected="an OFF file (first word OFF, COFF, NOFF or CNOFF)", got=f"{keyword!r}", remedy=_REMEDY
        )
    counts, *body = [words for words in (lines[0][1:], *lines[1:]) if words] or [[]]
    try:
        vertex_count, face_count = (int(number) for number in counts[:2])
        if min(vertex_count, face_count) < 0:
            raise ValueError
    except ValueError as error:
        raise ScanError(
            path, expected="a line with the numbers of vertices and faces", got=str(counts), remedy=_REMEDY
        ) from error
    if len(body) < vertex_count + face_count:
        raise ScanError(
            path,
            expected=f"{vertex_count} vertices and {face_count} faces as its header says",
            got=f"a truncated file with {len(body)} rows",
            remedy=_REMEDY,
        )
    table = _numbers(path, body[:vertex_count] or np.empty((0, 3)))
    if vertex_count and table.shape[1] < 3:
        raise ScanError(path, expected="vertices with x, y, z", got=f"{table.shape[1]} numbers", remedy=_REMEDY)
    try:
        rows = body[vertex_count:][:face_count]
        polygons = [np.array(row[1 : 1 + int(row[0])], np.int64) for row in rows]
        if wrong := [row for row, polygon in zip(rows, polygons, strict=True) if len(polygon) != int(row[0])]:
            raise ValueError(b" ".join(wrong[0]))
    except (ValueError, OverflowError) as error:
        raise ScanError(path, expected="faces as a count and vertex indices", got=str(error), remedy=_REMEDY) from error
    faces = _triangles(path, polygons, vertex_count)
    first = 6 if b"N" in keyword else 3  # normals stand before colours
    normals = table[:, 3:6] if first == 6 <= table.shape[1] else None
    has_colours = b"C" in keyword and table.shape[1] >= first + 3
    return Contents(table[:, :3], faces, as_colours(table[:, first : first + 3]) if has_colours else None, normals)


def _numbers(path: Path, rows: Any) -> np.ndarray:
    try:
        return np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise ScanError(path, expected="rows of numbers of one length", got=str(error), remedy=_REMEDY) from error


def _triangles(path: Path, polygons: list[np.ndarray], vertex_count: int) -> Faces:
    """Polygons as triangles."""
    items = np.concatenate([np.empty(0, np.int64), *polygons])
    if not len(items):
        return np.empty((0, 3), np.int64)
    if not 0 <= items.min() <= items.max() < vertex_count:
        raise ScanError(
            path,
            expected=f"faces over {vertex_count} vertices",
            got=f"vertex indices from {items.min()} to {items.max()}",
            remedy=_REMEDY,
        )
    faces: Faces = items[fan_triangles(np.array([len(polygon) for polygon in polygons]))[0]]
    return faces


def read_obj(path: Path) -> Contents:
    """OBJ: the `v` lines in file order, whatever seams the texture has; textures from the material file.

    Raises:
        ScanError: lines that are not OBJ, or faces without their vertices.
    """
    text = read_bytes(path, "an OBJ mesh").decode("utf-8-sig", "replace")
    positions: list[list[str]] = []
    uvs: list[list[str]] = []
    polygons: list[list[str]] = []
    so_far: list[tuple[int, int]] = []
    material_of: list[str] = []
    material, libraries = "", []
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        key, rest = [*line.split(None, 1), "", ""][:2]
        words = rest.partition("#")[0].split()
        if key == "v":
            positions.append(words)
        elif key == "vt":
            uvs.append(words[:2])
        elif key == "f":
            polygons.append(words)
            so_far.append((len(positions), len(uvs)))
            material_of.append(material)
        elif key == "usemtl":
            material = rest.strip()
        elif key == "mtllib":
            libraries.append(rest.strip())
    if len({len(position) for position in positions}) > 1:
        _log.warning("%s: its v lines have different lengths: colours are left out", path)
        positions = [position[:3] for position in positions]
    table = _numbers(path, positions or np.empty((0, 3)))
    if len(table) and table.shape[1] < 3:
        raise ScanError(path, expected="v lines with x, y, z", got=f"{table.shape[1]} numbers", remedy=_REMEDY)
    colours = as_colours(table[:, 3:6]) if table.shape[1] in (6, 7) else None
    if not polygons:
        return Contents(table[:, :3], None, colours)
    counts = np.array([len(polygon) for polygon in polygons])
    corners, polygon_of = fan_triangles(counts)
    corner_v, corner_vt = _obj_corners(path, polygons, np.array(so_far), (len(table), len(uvs)))
    texture = None
    if uvs and (corner_vt >= 0).any():
        texture = _obj_texture(
            path, libraries, _numbers(path, uvs), corner_vt[corners], [material_of[i] for i in polygon_of]
        )
    return Contents(table[:, :3], corner_v[corners], colours, None, texture)


def _obj_corners(
    path: Path, polygons: list[list[str]], so_far: np.ndarray, counts: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """0-based vertex and texture indices of all corners; -1 = no texture coordinate."""
    corners = [corner.split("/") for polygon in polygons for corner in polygon]
    try:
        v = np.array([int(corner[0]) for corner in corners])
        vt = np.array([int(corner[1]) if len(corner) > 1 and corner[1] else 0 for corner in corners])
    except ValueError as error:
        raise ScanError(path, expected="faces as v/vt/vn", got=str(error), remedy=_REMEDY) from error
    so_far = np.repeat(so_far, [len(polygon) for polygon in polygons], axis=0)
    v = np.where(v < 0, v + so_far[:, 0], v - 1)  # negative numbers count back from the line where they stand
    vt = np.where(vt < 0, vt + so_far[:, 1], vt - 1)
    for name, index, count in (("v", v, counts[0]), ("vt", vt, counts[1])):
        if len(index) and (index.max() >= count or index.min() < (0 if name == "v" else -1)):
            raise ScanError(
                path,
                expected=f"faces over {count} '{name}' lines",
                got=f"an index outside of them (0-based {index.min()} to {index.max()})",
                remedy=_REMEDY,
            )
    return v, vt


def _obj_texture(
    path: Path, libraries: list[str], uvs: np.ndarray, corner_vt: np.ndarray, material_of: list[str]
) -> Texture | None:
    """The images of the materials; None where none can be read."""
    from trimesh.exchange.obj import parse_mtl
    from trimesh.resolvers import FilePathResolver

    resolver = FilePathResolver(str(path))
    images: list[np.ndarray] = []
    index_of: dict[str, int] = {}
    for library in libraries:
        if not (path.parent / library).is_file():
            continue
        for name, values in parse_mtl((path.parent / library).read_bytes(), resolver=resolver).items():
            if values.get("image") is not None:
                index_of[name] = len(images)
                images.append(np.asarray(values["image"].convert("RGB")))
    if not images:
        return None
    image_index = np.array([index_of.get(name, -1) for name in material_of])
    image_index[(corner_vt < 0).any(axis=1)] = -1
    return Texture(tuple(images), uvs[corner_vt], image_index)


def read_gltf(path: Path) -> Contents:
    """GLB and glTF: the meshes of all nodes of the scene, in the order of the nodes, moved to where the scene has them.

    Raises:
        ScanError: truncated, or not glTF.
    """
    import trimesh

    data = read_bytes(path, "a glTF mesh")
    try:
        data = _with_numbered_nodes(data, path.suffix.lower() == ".glb")
        scene = trimesh.load_scene(
            BytesIO(data), file_type=path.suffix.lower()[1:], resolver=trimesh.resolvers.FilePathResolver(str(path))
        )
        parts = _gltf_parts(scene)
    except Exception as error:  # trimesh lets through whatever its decoders meet
        raise ScanError(
            path, expected="a glTF 2.0 file", got=f"one that cannot be read ({error})", remedy=_REMEDY
        ) from error
    if any(part.faces is not None for part in parts):
        parts = [part for part in parts if part.faces is not None]
    return _joined(parts)


def _gltf_parts(scene: Any) -> list[Contents]:
    """What the nodes of a scene hold, in their order."""
    import trimesh

    parts = []
    for frame in sorted(scene.graph.nodes_geometry, key=lambda name: int(str(name).split("_")[0])):
        matrix, name = scene.graph[frame]
        geometry = scene.geometry[name]
        if isinstance(geometry, trimesh.Trimesh | trimesh.PointCloud):
            parts.append(_gltf_part(geometry, np.asarray(matrix)))
    return parts


def _with_numbered_nodes(data: bytes, binary: bool) -> bytes:
    """The same file with nodes named by their number, because trimesh returns them in another order."""
    if not binary:
        header = json.loads(data)
    else:
        magic, _, length, json_length, _ = struct.unpack_from("<4sIIII", data)
        if magic != b"glTF" or length > len(data):
            raise ValueError(f"truncated: {len(data)} of {length} bytes" if magic == b"glTF" else "not a GLB file")
        header = json.loads(data[20 : 20 + json_length])
    if compressed := _COMPRESSIONS & set(header.get("extensionsRequired", [])):
        raise ValueError(f"compressed with {compressed.pop()}: export it without")
    for number, node in enumerate(header.get("nodes", [])):
        node["name"] = str(number)
    text = json.dumps(header).encode()
    if not binary:
        return text
    text += b" " * (-len(text) % 4)
    rest = data[20 + json_length :]
    return struct.pack("<4sIII4s", b"glTF", 2, 20 + len(text) + len(rest), len(text), b"JSON") + text + rest


def _gltf_part(geometry: Any, matrix: np.ndarray) -> Contents:
    vertices = np.asarray(geometry.vertices, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    if not hasattr(geometry, "faces"):
        colours = geometry.colors
        return Contents(vertices, None, as_colours(np.asarray(colours))[:, :3] if len(colours) else None)
    faces = np.asarray(geometry.faces, np.int64)
    if np.linalg.det(matrix[:3, :3]) < 0:  # a mirroring node turns the triangles inside out
        faces = faces[:, ::-1]
    visual = geometry.visual
    colours = visual.vertex_attributes.get("color") if visual.kind == "texture" else visual.vertex_colors
    if visual.kind is None or (visual.kind == "texture" and colours is None):
        colours = None
    if visual.kind != "texture":
        return Contents(vertices, faces, None if colours is None else as_colours(np.asarray(colours))[:, :3])
    image = getattr(visual.material, "baseColorTexture", None)
    if image is None or visual.uv is None:
        if colours is None:
            colours = np.tile(np.asarray(visual.material.main_color, np.uint8), (len(vertices), 1))
        return Contents(vertices, faces, as_colours(np.asarray(colours))[:, :3])
    texture = Texture(
        (np.asarray(image.convert("RGB")),), np.asarray(visual.uv, np.float64)[faces], np.zeros(len(faces), np.int64)
    )
    return Contents(vertices, faces, None if colours is None else as_colours(np.asarray(colours))[:, :3], None, texture)


def _joined(parts: list[Contents]) -> Contents:
    """Several meshes, or several clouds, as one."""
    if not parts:
        return Contents(np.empty((0, 3)))
    first_vertex = np.cumsum([0, *(len(part.vertices) for part in parts)])
    faces = [part.faces + first for part, first in zip(parts, first_vertex, strict=False) if part.faces is not None]
    colours = None
    if any(part.colours is not None for part in parts):
        plain = [np.full((len(part.vertices), 3), _PLAIN, np.uint8) for part in parts]
        colours = np.concatenate(
            [grey if part.colours is None else part.colours for part, grey in zip(parts, plain, strict=True)]
        )
    texture = None
    if any(part.texture is not None for part in parts):
        images: list[np.ndarray] = []
        uvs, indices = [], []
        for part in parts:
            count = 0 if part.faces is None else len(part.faces)
            if part.texture is None:
                uvs.append(np.zeros((count, 3, 2)))
                indices.append(np.full(count, -1))
            else:
                uvs.append(part.texture.corner_uv)
                indices.append(part.texture.image_index + len(images))
                images += part.texture.images
        texture = Texture(tuple(images), np.concatenate(uvs), np.concatenate(indices))
    return Contents(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate(faces) if faces else None,
        colours,
        None,
        texture,
    )
