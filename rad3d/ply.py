"""PLY files: the one format that scans arrive in and results leave in.

Reads ascii and binary of both byte orders with any scalar vertex properties; writes binary little endian.
Format: Turk, The PLY Polygon File Format (1994).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rad3d.arrays import Colours, Faces, Points
from rad3d.errors import ResultError, ScanError
from rad3d.files import atomic_file, read_bytes

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8",
}  # fmt: skip
_NAMES = {"f4": "float", "f8": "double", "i4": "int", "u1": "uchar"}
_COLOURS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
_REMEDY = "export or copy the file again"


@dataclass(frozen=True, eq=False)
class PlyData:
    """What a PLY file holds.

    Args:
        vertices: (n, 3) float32 or float64 as in the file, in the file's unit.
        faces: (m, 3) int, polygons cut into triangles; None without faces.
        colours: (n, 3) uint8, or None.
        fields: the other scalar properties of the vertices by name, each (n,).
        corner_uv: (m, 3, 2) texture coordinates per face corner, or None.
        texture_index: (m,) number of the texture of each face, or None.
        texture_files: names of the textures.
        comments: the header's comment and obj_info lines.
    """

    vertices: Points
    faces: Faces | None = None
    colours: Colours | None = None
    fields: Mapping[str, np.ndarray] = field(default_factory=dict)
    corner_uv: np.ndarray | None = None
    texture_index: np.ndarray | None = None
    texture_files: tuple[str, ...] = ()
    comments: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Property:
    """A column of an element; `count_type` is set for lists."""

    name: str
    type: str
    count_type: str | None = None


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    properties: tuple[_Property, ...]


@dataclass(frozen=True)
class _Lists:
    """A list property: the items of all rows one after the other."""

    counts: np.ndarray
    items: np.ndarray


_Table = dict[str, np.ndarray | _Lists]


def read_ply(path: str | Path) -> PlyData:
    """Read a PLY file.

    Raises:
        ScanError: not a PLY file, truncated, without vertices, or with lists on its vertices.
    """
    path = Path(path)
    data = read_bytes(path, "a PLY file")
    kind, elements, comments, start = _parse_header(path, data)
    tables: dict[str, _Table] = {}
    if kind == "ascii":
        try:
            numbers = np.array(data[start:].split(), dtype=np.float64)
        except ValueError as error:
            raise ScanError(path, expected="numbers after the header", got=str(error), remedy=_REMEDY) from error
        position = 0
        for element in elements:
            tables[element.name], position = _ascii_table(path, element, numbers, position)
    else:
        order = "<" if kind == "binary_little_endian" else ">"
        for element in elements:
            tables[element.name], start = _binary_table(path, element, data, start, order)
    if tables.get("tristrips") and "face" not in tables:
        raise ScanError(path, expected="faces or points", got="triangle strips", remedy="export the triangles as faces")
    return _ply_data(path, tables, comments)


def ply_header(path: Path) -> tuple[dict[str, int], tuple[str, ...]]:
    """Number of rows by element, and the comments, read from the header alone.

    Raises:
        ScanError: missing, or not a PLY file.
    """
    _, elements, comments, _ = _parse_header(path, read_bytes(path, "a PLY file", 65536))
    return {element.name: element.count for element in elements}, comments


def _parse_header(path: Path, data: bytes) -> tuple[str, list[_Element], tuple[str, ...], int]:
    """Format, elements, comments, and where the body starts."""
    if not data.startswith(b"ply"):
        raise ScanError(
            path, expected="a PLY file (first line 'ply')", got=f"{data[:12]!r}", remedy="check the file's format"
        )
    found = re.search(rb"^end_header(\r\n|\n|\r|\Z)", data[:65536], re.MULTILINE)
    if found is None:
        raise ScanError(path, expected="a PLY header up to end_header", got="a truncated one", remedy=_REMEDY)
    kind, comments = "", []
    elements: list[tuple[str, int, list[_Property]]] = []
    for line in data[: found.start()].decode("utf-8", "replace").splitlines()[1:]:
        words = line.split()
        try:
            match words:
                case ["format", kind, _]:
                    pass
                case ["comment" | "obj_info", *_]:
                    comments.append(line.strip().partition(" ")[2])
                case ["element", name, count] if int(count) >= 0 and name not in (known for known, _, _ in elements):
                    elements.append((name, int(count), []))
                case ["property", *_, name] if name in (known.name for known in elements[-1][2]):
                    raise ValueError(line)
                case ["property", "list", count_type, item_type, name]:
                    elements[-1][2].append(_Property(name, _TYPES[item_type], _TYPES[count_type]))
                case ["property", type_, name]:
                    elements[-1][2].append(_Property(name, _TYPES[type_]))
                case []:
                    pass
                case _:
                    raise ValueError(line)
        except (ValueError, KeyError, IndexError) as error:
            raise ScanError(path, expected="a PLY header", got=f"the line {line!r}", remedy=_REMEDY) from error
    if kind not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise ScanError(path, expected="format ascii or binary", got=f"format {kind!r}", remedy=_REMEDY)
    return kind, [_Element(n, c, tuple(p)) for n, c, p in elements], tuple(comments), found.end()


def _truncated(path: Path, element: _Element) -> ScanError:
    return ScanError(
        path,
        expected=f"{element.count} rows of '{element.name}' as its header says",
        got="a truncated file",
        remedy=_REMEDY,
    )


def _binary_table(path: Path, element: _Element, data: bytes, start: int, order: str) -> tuple[_Table, int]:
    """The columns of one element, and where the next one starts."""
    if not element.count or not element.properties:
        return _empty_table(element), start
    sizes: dict[str, int] = {}
    position = start
    for prop in element.properties:  # most files: every row has lists as long as the first row's
        if prop.count_type is not None:
            sizes[prop.name] = _list_length(path, element, data, position, order + prop.count_type)
            position += np.dtype(prop.count_type).itemsize
        position += np.dtype(prop.type).itemsize * sizes.get(prop.name, 1)
    if position > len(data):
        raise _truncated(path, element)
    row = np.dtype(
        [
            item
            for prop in element.properties
            for item in (
                [(prop.name, order + prop.type)]
                if prop.count_type is None
                else [
                    (f"{prop.name} count", order + prop.count_type),
                    (prop.name, order + prop.type, (sizes[prop.name],)),
                ]
            )
        ]
    )
    end = start + row.itemsize * element.count
    if end <= len(data):
        rows = np.frombuffer(data, row, element.count, start)
        if all((rows[f"{name} count"] == size).all() for name, size in sizes.items()):
            table: _Table = {}
            for prop in element.properties:
                column = rows[prop.name].astype(prop.type)
                if prop.count_type is None:
                    table[prop.name] = column
                else:
                    table[prop.name] = _Lists(np.full(element.count, sizes[prop.name]), column.ravel())
            return table, end
    elif not sizes:
        raise _truncated(path, element)
    return _binary_rows(path, element, data, start, order)


def _binary_rows(path: Path, element: _Element, data: bytes, start: int, order: str) -> tuple[_Table, int]:
    """As `_binary_table`, row by row, for lists of different lengths."""
    values: dict[str, list[np.ndarray]] = {prop.name: [] for prop in element.properties}
    types = [
        (prop.name, np.dtype(order + prop.type), prop.count_type and np.dtype(order + prop.count_type))
        for prop in element.properties
    ]
    for _ in range(element.count):
        for name, type_, count_type in types:
            count = 1
            if count_type:
                count = _list_length(path, element, data, start, count_type)
                start += count_type.itemsize
            if start + count * type_.itemsize > len(data):
                raise _truncated(path, element)
            values[name].append(np.frombuffer(data, type_, count, start))
            start += count * type_.itemsize
    return _table_of_rows(element, values), start


def _list_length(path: Path, element: _Element, data: bytes, start: int, type_: str | np.dtype) -> int:
    """The length of a list."""
    number = int(np.frombuffer(data, type_, 1, start)[0]) if start + np.dtype(type_).itemsize <= len(data) else -1
    if number < 0:
        raise _truncated(path, element)
    return number


def _ascii_table(path: Path, element: _Element, numbers: np.ndarray, start: int) -> tuple[_Table, int]:
    """The columns of one element of an ascii file, and where the next one starts."""
    if not element.count or not element.properties:
        return _empty_table(element), start
    if all(prop.count_type is None for prop in element.properties):
        end = start + element.count * len(element.properties)
        if end > len(numbers):
            raise _truncated(path, element)
        columns = numbers[start:end].reshape(element.count, -1).T
        return {p.name: c.astype(p.type) for p, c in zip(element.properties, columns, strict=True)}, end
    values: dict[str, list[np.ndarray]] = {prop.name: [] for prop in element.properties}
    for _ in range(element.count):
        for prop in element.properties:
            count = 1
            if prop.count_type is not None:
                if start >= len(numbers):
                    raise _truncated(path, element)
                count = int(numbers[start]) if 0 <= numbers[start] <= len(numbers) else len(numbers)
                start += 1
            if start + count > len(numbers):
                raise _truncated(path, element)
            values[prop.name].append(numbers[start : start + count])
            start += count
    return _table_of_rows(element, values), start


def _table_of_rows(element: _Element, values: dict[str, list[np.ndarray]]) -> _Table:
    table: _Table = {}
    for prop in element.properties:
        items = np.concatenate(values[prop.name]).astype(prop.type)
        counts = np.array([len(value) for value in values[prop.name]])
        table[prop.name] = items if prop.count_type is None else _Lists(counts, items)
    return table


def _empty_table(element: _Element) -> _Table:
    empty = {prop.name: np.empty(0, prop.type) for prop in element.properties}
    return {
        prop.name: empty[prop.name] if prop.count_type is None else _Lists(np.empty(0, int), empty[prop.name])
        for prop in element.properties
    }


def _ply_data(path: Path, tables: dict[str, _Table], comments: tuple[str, ...]) -> PlyData:
    columns = tables.get("vertex", {})
    lists = [name for name, column in columns.items() if isinstance(column, _Lists)]
    if lists:
        raise ScanError(
            path,
            expected="vertices with scalar properties",
            got=f"the list property '{lists[0]}'",
            remedy="export the points without lists",
        )
    scalars = {name: column for name, column in columns.items() if isinstance(column, np.ndarray)}
    if not {"x", "y", "z"} <= set(scalars):
        raise ScanError(
            path,
            expected="an element 'vertex' with x, y, z",
            got=f"{sorted(scalars) or 'none'}",
            remedy="export the file as a mesh or cloud",
        )
    vertices = np.stack([scalars.pop(axis) for axis in "xyz"], axis=1)
    if vertices.dtype.kind != "f":
        vertices = vertices.astype(np.float64)
    colours = None
    for names in _COLOURS:
        if set(names) <= set(scalars):
            colours = as_colours(np.stack([scalars.pop(name) for name in names], axis=1))
            break
    faces, corner_uv, texture_index = _faces(path, tables.get("face", {}), len(vertices))
    textures = tuple(c.split(maxsplit=1)[1].strip() for c in comments if c.lower().startswith("texturefile "))
    return PlyData(vertices, faces, colours, scalars, corner_uv, texture_index, textures, comments)


def as_colours(values: np.ndarray) -> Colours:
    """Colours of any number type -> uint8: floats are 0..1 (or 0..255 if any exceeds 1), 16-bit is scaled down."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return (values >> 8).astype(np.uint8)
    scale = 255.0 if values.dtype.kind == "f" and (not values.size or np.nanmax(values) <= 1) else 1.0
    return np.clip(np.nan_to_num(values * scale), 0, 255).round().astype(np.uint8)


def _faces(path: Path, table: _Table, vertex_count: int) -> tuple[Faces | None, np.ndarray | None, np.ndarray | None]:
    """Triangles, their texture coordinates per corner and texture numbers."""
    polygons = table.get("vertex_indices", table.get("vertex_index"))
    if not isinstance(polygons, _Lists) or not len(polygons.counts):
        return None, None, None
    if len(polygons.items) and not 0 <= polygons.items.min() <= polygons.items.max() < vertex_count:
        raise ScanError(
            path,
            expected=f"faces over {vertex_count} vertices",
            got=f"vertex indices from {polygons.items.min()} to {polygons.items.max()}",
            remedy=_REMEDY,
        )
    corners, polygon_of = fan_triangles(polygons.counts)
    faces = polygons.items[corners].astype(np.int64)
    uv, number = table.get("texcoord"), table.get("texnumber")
    corner_uv = None
    if isinstance(uv, _Lists) and (uv.counts == 2 * polygons.counts).all():
        corner_uv = uv.items.reshape(-1, 2)[corners].astype(np.float64)
    return faces, corner_uv, number[polygon_of].astype(np.int64) if isinstance(number, np.ndarray) else None


def fan_triangles(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut polygons into fans: (m, 3) positions in the list of all corners, and (m,) the polygon of each triangle.

    >>> fan_triangles(np.array([3, 4]))[0].tolist()
    [[0, 1, 2], [3, 4, 5], [3, 5, 6]]
    """
    triangles = np.maximum(counts - 2, 0)
    polygon_of = np.repeat(np.arange(len(counts)), triangles)
    first = (np.cumsum(counts) - counts)[polygon_of]
    step = np.arange(len(polygon_of)) - (np.cumsum(triangles) - triangles)[polygon_of]
    return np.stack([first, first + step + 1, first + step + 2], axis=1), polygon_of


def write_ply(
    path: str | Path,
    vertices: Points,
    faces: Faces | None = None,
    fields: Mapping[str, np.ndarray] | None = None,
    colours: Colours | None = None,
) -> None:
    """Write a binary PLY file that mesh viewers show, all or nothing.

    Positions are float32 unless that moves them by more than a millionth of the extent; fields become float32,
    int32 or uchar.

    Args:
        path: where to.
        vertices: (n, 3).
        faces: (m, 3) triangles, or None.
        fields: scalars per vertex by name, each (n,).
        colours: (n, 3) uint8, or None.

    Raises:
        ResultError: a field does not fit the vertices, or the file cannot be written.
    """
    vertices = np.asarray(vertices)
    single = vertices.astype(np.float32)
    exact = not len(vertices) or np.abs(single - vertices).max() <= 1e-6 * np.ptp(vertices, axis=0).max()
    columns = dict(zip("xyz", (single if exact else vertices.astype(np.float64)).T, strict=True))
    if colours is not None:
        columns.update(zip(("red", "green", "blue"), np.asarray(colours, np.uint8).T, strict=True))
    for name, values in (fields or {}).items():
        if len(values) != len(vertices) or name in columns or not name.isidentifier():
            raise ResultError(
                path,
                expected=f"a new field name and {len(vertices)} values",
                got=f"'{name}' with {len(values)}",
                remedy="pass one value per vertex",
            )
        kind = "u1" if values.dtype in (np.uint8, np.bool_) else "i4" if values.dtype.kind in "iu" else "f4"
        columns[name] = values.astype(kind)
    rows = np.empty(len(vertices), [(name, values.dtype.newbyteorder("<")) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    header += [f"property {_NAMES[values.dtype.str[1:]]} {name}" for name, values in columns.items()]
    triangles = np.empty(0 if faces is None else len(faces), [("count", "u1"), ("corners", "<i4", (3,))])
    if faces is not None:
        header += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
        triangles["count"], triangles["corners"] = 3, faces
    with atomic_file(path) as partial, partial.open("wb") as file:
        file.write("\n".join([*header, "end_header\n"]).encode())
        file.write(rows.data)
        file.write(triangles.data)
