"""Point cloud files other than PLY: PCD, text, LAS."""

import codecs
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rad3d.errors import DependencyError, ScanError
from rad3d.files import Contents, read_bytes
from rad3d.ply import as_colours

_REMEDY = "export or copy the file again"


@dataclass(frozen=True, eq=False)
class PcdData:
    """What a PCD file holds; `size_hw` is (1, n) unless the cloud is organised."""

    size_hw: tuple[int, int]
    columns: dict[str, np.ndarray]


def read_pcd(path: Path) -> PcdData:
    """PCD 0.7: ascii, binary and binary_compressed (https://pointclouds.org/documentation/tutorials/pcd_file_format.html).

    Raises:
        ScanError: not a PCD file, or truncated.
    """
    data = read_bytes(path, "a PCD cloud")
    header: dict[str, list[str]] = {}
    end = 0
    while "DATA" not in header:
        newline = data.find(b"\n", end)
        if newline < 0 or newline > 65536:
            raise ScanError(path, expected="a PCD header up to DATA", got="another or a truncated one", remedy=_REMEDY)
        key, *words = data[end:newline].split(b"#")[0].decode("latin-1").split() or [""]
        header[key] = words
        end = newline + 1
    try:
        sizes = [int(size) for size in header["SIZE"]]
        counts = [int(count) for count in header.get("COUNT", ["1"] * len(sizes))]
        kinds = [kind.lower() + str(size) for kind, size in zip(header["TYPE"], sizes, strict=True)]
        width, height = int(header["WIDTH"][0]), int(header["HEIGHT"][0])
        if min(width, height) < 0 or min(counts) < 1:
            raise ValueError(f"{width} x {height} points with fields of {counts}")
        encoding = header["DATA"][0]
        names = [f"{name}.{i}" if name == "_" else name for i, name in enumerate(header["FIELDS"])]
        row = np.dtype([(n, "<" + k, (c,)) for n, k, c in zip(names, kinds, counts, strict=True)])
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ScanError(path, expected="a PCD 0.7 header", got=f"a damaged one ({error})", remedy=_REMEDY) from error
    number = width * height
    truncated = ScanError(path, expected=f"{number} points as its header says", got="a truncated file", remedy=_REMEDY)
    if encoding == "ascii":
        try:
            flat = np.array(data[end:].split(), dtype=np.float64)
        except ValueError as error:
            raise ScanError(path, expected="numbers after the header", got=str(error), remedy=_REMEDY) from error
        if len(flat) < number * sum(counts):
            raise truncated
        table = flat[: number * sum(counts)].reshape(number, sum(counts))
        starts = np.cumsum([0, *counts])
        columns = {n: table[:, s].astype(k) for n, k, s in zip(names, kinds, starts, strict=False)}
    elif encoding == "binary":
        if len(data) < end + number * row.itemsize:
            raise truncated
        rows = np.frombuffer(data, row, number, end)
        columns = {name: np.ascontiguousarray(rows[name][:, 0]) for name in names}
    elif encoding == "binary_compressed":
        packed, unpacked = struct.unpack_from("<II", data, end) if len(data) >= end + 8 else (1, 0)
        if len(data) < end + 8 + packed or unpacked != number * row.itemsize:
            raise truncated
        body = _lzf_decompress(path, data[end + 8 : end + 8 + packed], unpacked)
        columns, start = {}, 0
        for name, kind, count in zip(names, kinds, counts, strict=True):  # one field after the other
            columns[name] = np.frombuffer(body, "<" + kind, number * count, start)[::count]
            start += number * count * np.dtype(kind).itemsize
    else:
        raise ScanError(path, expected="DATA ascii, binary or binary_compressed", got=encoding, remedy=_REMEDY)
    if not {"x", "y", "z"} <= set(columns):
        raise ScanError(path, expected="fields x, y, z", got=", ".join(columns), remedy=_REMEDY)
    return PcdData((height, width), columns)


def _lzf_decompress(path: Path, data: bytes, size: int) -> bytes:
    """LZF (Lehmann): literal runs and back references."""
    out = bytearray()
    position = 0
    try:
        while position < len(data):
            control = data[position]
            position += 1
            if control < 32:
                out += data[position : position + control + 1]
                position += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += data[position]
                position += 1
            start = len(out) - ((control & 31) << 8) - data[position] - 1
            position += 1
            if start < 0:
                raise IndexError
            piece = out[start : start + length + 2]
            while len(piece) < length + 2:  # the reference runs into what it writes itself
                piece += piece[: length + 2 - len(piece)]
            out += piece
    except IndexError:
        position = -1
    if position < 0 or len(out) != size:
        raise ScanError(path, expected="LZF compressed points", got="damaged ones", remedy=_REMEDY)
    return bytes(out)


def read_pcd_cloud(path: Path) -> Contents:
    """A PCD file as a cloud."""
    columns = read_pcd(path).columns
    vertices = np.stack([columns[axis] for axis in "xyz"], axis=1).astype(np.float64)
    normals = None
    if {"normal_x", "normal_y", "normal_z"} <= set(columns):
        normals = np.stack([columns[f"normal_{axis}"] for axis in "xyz"], axis=1).astype(np.float64)
    colours = None
    packed = columns.get("rgb", columns.get("rgba"))
    if packed is not None:  # 0xRRGGBB, often stored in the bits of a float
        bits = packed.astype(np.float32).view(np.uint32) if packed.dtype.kind == "f" else packed.astype(np.uint32)
        colours = np.stack([bits >> 16 & 255, bits >> 8 & 255, bits & 255], axis=1).astype(np.uint8)
    return Contents(vertices, None, colours, normals)


_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|[-+]?nan|[-+]?inf", re.IGNORECASE)
_COLUMN_NAMES = {
    "red": "r", "green": "g", "blue": "b", "normal_x": "nx", "normal_y": "ny", "normal_z": "nz",
}  # fmt: skip
_HEAD_BYTES, _HEAD_LINES = 65536, 100
_TEXT_REMEDY = "write one point per line: 1.5 2.0 3.0, or 1,5;2,0;3,0"


def looks_like_points(path: Path) -> bool:
    """Whether a text file may be a cloud: it is empty, or most words of one of its first lines are numbers, >= 3."""
    try:
        with path.open("rb") as file:
            text = _decoded(file.read(_HEAD_BYTES))
    except OSError:  # reading it will say what is wrong with it
        return True
    return not text.strip() or any(_holds_numbers(line) for line in text.splitlines()[:_HEAD_LINES])


def _holds_numbers(line: str) -> bool:
    words = re.split(r"[\s,;]+", line.strip())
    numbers = sum(_NUMBER.fullmatch(word) is not None for word in words)
    return numbers >= 3 and 2 * numbers > len(words)


def _decoded(data: bytes) -> str:
    """The text of a file, without quotation marks; a comma between them is a decimal one."""
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    text = data.decode(encoding, "replace")
    return re.sub(r'"([^"\n]*)"', lambda quoted: quoted[1].replace(",", "."), text)


def _separator(line: str) -> str | None:
    """What stands between the cells; None = blanks or tabs.

    >>> [_separator(line) for line in ("1 2 3", "1,5 2,5 3,5", "1.5, 2.5, 3.5", "1,5;2,5;3,5")]
    [None, None, ',', ';']
    """
    if ";" in line:
        return ";"
    words = re.sub(r"(?<=\d),(?=\d)", ".", line).split()
    decimal = "." not in line and len(words) >= 3 and _are_numbers(words)
    return None if "," not in line.strip()[:-1] or decimal else ","


def _cells(line: str, separator: str | None) -> list[str]:
    """The cells of a line: "nan" where one is empty, decimal commas as points where the line has no points."""
    if separator is None:
        cells = line.strip().rstrip(",").split()
    else:
        cells = [cell.strip() or "nan" for cell in line.strip().rstrip(separator).split(separator)]
    return cells if "." in line else [cell.replace(",", ".") for cell in cells]


def _is_row(line: str) -> bool:
    cells = _cells(line, _separator(line))
    return len(cells) >= 3 and _are_numbers(cells)


def _are_numbers(words: list[str]) -> bool:
    return all(map(_NUMBER.fullmatch, words))


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith(("#", "//"))


def read_text_cloud(path: Path) -> Contents:
    """XYZ, TXT and CSV: rows of numbers, delimiter and header found out; colours and normals where recognised.

    Without a header, columns 4 to 6 (of seven columns 5 to 7) are colours if they are whole numbers from 0 to 255,
    and columns 4 to 6 normals if they have length 1.

    Raises:
        ScanError: rows that are not numbers, of different lengths, or that can be read in several ways.
    """
    text = _decoded(read_bytes(path, "a text file with rows x y z"))
    lines = [line for line in text.splitlines() if line.strip()]
    start = next((i for i, line in enumerate(lines[:_HEAD_LINES]) if _is_row(line)), None)
    if start is None:
        got = f"{lines[0][:40]!r}" if lines else "blank lines"
        raise ScanError(path, expected="rows of numbers x y z", got=got, remedy=_TEXT_REMEDY)
    rows = [line for line in lines[start:] if not _is_comment(line)]
    separator = _separator(rows[0])
    _check_commas(path, rows, separator)
    cells = [_cells(line, separator) for line in rows]
    try:
        table = np.array(cells, dtype=np.float64)
    except ValueError as error:
        bad = next((i for i, row in enumerate(cells) if len(row) != len(cells[0]) or not _are_numbers(row)), 0)
        raise ScanError(
            path,
            expected=f"rows of {len(cells[0])} numbers",
            got=f"the row {rows[bad][:60]!r}",
            remedy="remove or mend that row",
        ) from error
    names = _header_names(path, lines[:start], table.shape[1]) or _guessed_names(table)
    column = {name: table[:, i] for i, name in enumerate(names)}

    def group(*wanted: str) -> np.ndarray | None:
        return np.stack([column[name] for name in wanted], axis=1) if set(wanted) <= set(column) else None

    colours = group("r", "g", "b")
    vertices = group("x", "y", "z")
    assert vertices is not None
    return Contents(vertices, None, None if colours is None else as_colours(colours), group("nx", "ny", "nz"))


def _check_commas(path: Path, rows: list[str], separator: str | None) -> None:
    """Refuse 19,05,-5,52,1,30, where commas are decimal ones and stand between the numbers too."""
    cut = next((row for row in rows if re.search(r",0\d", row)), None) if separator == "," else None
    if cut is not None and not any("." in row for row in rows):
        raise ScanError(
            path,
            expected="commas that are either decimal ones or between numbers",
            got=f"the row {cut[:60]!r}",
            remedy="export with decimal points, or with semicolons between the numbers",
        )


def _header_names(path: Path, lines: list[str], columns: int) -> list[str] | None:
    """Names of the columns from the last line above the rows that names x, y and z; None where there is none."""
    for line in reversed(lines):
        separator = _separator(line)
        cells = [re.sub(r"\(.*|\[.*|_mm$", "", cell.lower()) for cell in _cells(line, separator)]
        names = [re.sub(r"[^a-z_]", "", cell) for cell in cells]
        names = [_COLUMN_NAMES.get(name, name) for name in names if name or separator][:columns]
        if not {"x", "y", "z"} <= set(names):
            continue
        if len(names) == columns:
            return names
        if not _is_comment(line):
            raise ScanError(
                path,
                expected=f"a header with a name for each of the {columns} columns",
                got=f"{line[:60]!r}",
                remedy="name every column, and write decimal points rather than commas",
            )
    return None


def _guessed_names(table: np.ndarray) -> list[str]:
    count = table.shape[1]
    names = ["x", "y", "z", *[f"column{i}" for i in range(3, count)]]
    first = 3
    while first + 3 <= count:
        four_left = first + 4 == count and not (table[:, -1] == 255).all()  # 255 is opacity: r, g, b, a
        if np.allclose(np.linalg.norm(table[:, first : first + 3], axis=1), 1, atol=0.01):
            names[first : first + 3] = ["nx", "ny", "nz"]
        elif four_left and _are_colours(table[:, first + 1 :]):  # an intensity stands before them
            names[first + 1 :] = ["r", "g", "b"]
            break
        elif _are_colours(table[:, first : first + 3]):
            names[first : first + 3] = ["r", "g", "b"]
        first += 3
    return names


def _are_colours(block: np.ndarray) -> bool:
    return bool((block == block.round()).all() and (block >= 0).all() and (block <= 255).all() and block.max() > 1)


def _check_las_header(path: Path, header: bytes) -> None:
    """Refuse counts that the file cannot hold, for which laspy would reserve memory or read forever (LAS 1.4, 2.4)."""
    try:
        start, records = struct.unpack_from("<II", header, 96)
        form, size, count = struct.unpack_from("<BHI", header, 104)
        count = struct.unpack_from("<Q", header, 247)[0] if header[25] >= 4 else count
    except struct.error as error:
        raise ScanError(path, expected="the header of a LAS file", got="a truncated one", remedy=_REMEDY) from error
    there = path.stat().st_size
    least = start + (0 if form & 0xC0 else size * count)  # the points of LAZ are compressed
    if least > there or 54 * records > there:
        raise ScanError(path, expected=f"{count} points as its header says", got=f"{there} bytes", remedy=_REMEDY)


def read_las(path: Path) -> Contents:
    """LAS and LAZ, through laspy.

    Raises:
        DependencyError: laspy (or, for LAZ, its decompressor) is missing.
        ScanError: not a LAS file, or truncated.
    """
    _check_las_header(path, read_bytes(path, "a LAS cloud", 255))
    try:
        import laspy
    except ImportError as error:
        raise DependencyError(
            path, expected="the package laspy for LAS files", got=str(error), remedy="pip install 'rad3d[las]'"
        ) from error
    try:
        las = laspy.read(path)
    except Exception as error:  # laspy lets through whatever it meets in a damaged file
        if isinstance(error, laspy.errors.LaspyException) and "backend" in str(error).lower():
            raise DependencyError(
                path, expected="a decompressor for LAZ", got=str(error), remedy="pip install 'laspy[lazrs]'"
            ) from error
        raise ScanError(path, expected="a LAS file", got=f"a damaged one ({error})", remedy=_REMEDY) from error
    if len(las.points) != las.header.point_count:
        raise ScanError(
            path,
            expected=f"{las.header.point_count} points",
            got=f"a truncated file with {len(las.points)}",
            remedy=_REMEDY,
        )
    colours = None
    if {"red", "green", "blue"} <= set(las.point_format.dimension_names):
        colours = np.stack([np.asarray(las.red), np.asarray(las.green), np.asarray(las.blue)], axis=1)
        colours = as_colours(colours if colours.size and colours.max() > 255 else colours.astype(np.uint8))
    return Contents(np.asarray(las.xyz, np.float64), None, colours)
