"""PLY, against files written out by hand and by trimesh."""

import errno
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rad3d import ply
from rad3d.errors import ResultError, ScanError
from rad3d.ply import as_colours, fan_triangles, read_ply, write_ply

TRIANGLE = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0.5]])
floats = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(0, 30))
def test_round_trip_of_everything(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, n: int) -> None:
    path = tmp_path_factory.mktemp("ply") / "a.ply"
    vertices = data.draw(hnp.arrays(np.float32, (n, 3), elements=floats))
    faces = data.draw(st.none() | hnp.arrays(np.int64, (7, 3), elements=st.integers(0, n - 1))) if n else None
    colours = data.draw(st.none() | hnp.arrays(np.uint8, (n, 3)))
    fields = {
        "score": data.draw(hnp.arrays(np.float32, n, elements=st.floats(width=32))),
        "views_seen": data.draw(hnp.arrays(np.int32, n)),
        "flag": data.draw(hnp.arrays(np.uint8, n)),
    }
    write_ply(path, vertices, faces, fields, colours)
    back = read_ply(path)
    assert back.vertices.dtype == np.float32
    np.testing.assert_array_equal(back.vertices, vertices)
    assert set(back.fields) == set(fields)
    for name, values in fields.items():
        assert back.fields[name].dtype == values.dtype
        np.testing.assert_array_equal(back.fields[name], values)
    for got, wanted in ((back.faces, faces), (back.colours, colours)):
        assert (got is None) == (wanted is None)
        if wanted is not None:
            np.testing.assert_array_equal(got, wanted)


def test_precise_coordinates_far_from_the_origin_stay_precise(tmp_path: Path) -> None:
    vertices = TRIANGLE * 0.01 + 123456.0
    write_ply(tmp_path / "a.ply", vertices)
    np.testing.assert_array_equal(read_ply(tmp_path / "a.ply").vertices, vertices)
    write_ply(tmp_path / "b.ply", TRIANGLE * 100)
    assert read_ply(tmp_path / "b.ply").vertices.dtype == np.float32


def test_other_readers_see_the_same(tmp_path: Path) -> None:
    box = trimesh.creation.box((10, 20, 30))
    colours = np.random.default_rng(0).integers(0, 256, (8, 3), dtype=np.uint8)
    scores = np.linspace(0, 1, 8, dtype=np.float32)
    scores[3] = np.nan
    write_ply(tmp_path / "a.ply", box.vertices, box.faces, {"anomaly_score": scores}, colours)
    loaded = trimesh.load(tmp_path / "a.ply", process=False)
    np.testing.assert_array_equal(loaded.vertices, box.vertices)
    np.testing.assert_array_equal(loaded.faces, box.faces)
    np.testing.assert_array_equal(loaded.visual.vertex_colors[:, :3], colours)
    raw = loaded.metadata["_ply_raw"]["vertex"]["data"]["anomaly_score"]
    np.testing.assert_array_equal(raw, scores)


@pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian"])
def test_reads_what_trimesh_writes(tmp_path: Path, encoding: str) -> None:
    ball = trimesh.creation.icosphere(subdivisions=2)
    ball.visual.vertex_colors = np.random.default_rng(0).integers(0, 256, (len(ball.vertices), 4), dtype=np.uint8)
    ball.export(tmp_path / "a.ply", encoding=encoding.split("_", maxsplit=1)[0], vertex_normal=True)
    back = read_ply(tmp_path / "a.ply")
    np.testing.assert_allclose(back.vertices, ball.vertices, atol=1e-6)
    np.testing.assert_array_equal(back.faces, ball.faces)
    np.testing.assert_array_equal(back.colours, ball.visual.vertex_colors[:, :3])
    np.testing.assert_allclose(back.fields["nx"], ball.vertex_normals[:, 0], atol=1e-6)


HEADER = """ply
format {kind} 1.0
comment made by hand
element vertex 4
property double x
property double y
property double z
property short quality
element face 2
property uchar flags
property list {counts} int vertex_index
property list uchar float texcoord
element edge 1
property int vertex1
property int vertex2
end_header
"""
ROWS = [(0, 0, 0, -5), (1, 0, 0, 300), (1, 1, 0, 0), (0, 1, 0, 7)]
POLYGONS = [(3, (0, 1, 2, 3)), (9, (0, 2, 3))]


def by_hand(kind: str, polygons: list[tuple[int, tuple[int, ...]]], newline: str = "\n") -> bytes:
    """A file with polygons and texture coordinates (u, v) = (number of the vertex, 0.5)."""
    count_type = "uint" if kind == "binary_big_endian" else "uchar"
    head = HEADER.format(kind=kind, counts=count_type).replace("\n", newline).encode()
    if kind == "ascii":
        lines = [" ".join(map(str, row)) for row in ROWS]
        for flags, corners in polygons:
            uv = " ".join(f"{corner} 0.5" for corner in corners)
            lines.append(f"{flags} {len(corners)} {' '.join(map(str, corners))} {2 * len(corners)} {uv}")
        return head + newline.join([*lines, "0 1", ""]).encode()
    order = "<" if kind == "binary_little_endian" else ">"
    body = b"".join(struct.pack(f"{order}dddh", *row) for row in ROWS)
    for flags, corners in polygons:
        body += struct.pack(f"{order}B{'I' if count_type == 'uint' else 'B'}", flags, len(corners))
        body += struct.pack(f"{order}{len(corners)}i", *corners)
        uv = [number for corner in corners for number in (corner, 0.5)]
        body += struct.pack(f"{order}B{len(uv)}f", len(uv), *uv)
    return head + body + struct.pack(f"{order}ii", 0, 1)


KINDS = ["ascii", "binary_little_endian", "binary_big_endian"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_mixed_polygons_lists_and_byte_orders(tmp_path: Path, kind: str, newline: str) -> None:
    (tmp_path / "a.ply").write_bytes(by_hand(kind, POLYGONS, newline))
    back = read_ply(tmp_path / "a.ply")
    assert back.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert back.fields["quality"].tolist() == [-5, 300, 0, 7]
    assert back.faces is not None
    assert back.faces.tolist() == [[0, 1, 2], [0, 2, 3], [0, 2, 3]]
    assert back.corner_uv is not None
    np.testing.assert_array_equal(back.corner_uv[..., 0], back.faces)
    assert (back.corner_uv[..., 1] == 0.5).all()
    assert back.comments == ("made by hand",)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("polygons", [POLYGONS, [POLYGONS[0]] * 2], ids=["mixed", "quads"])
def test_every_truncation_is_noticed(tmp_path: Path, kind: str, polygons: list[tuple[int, tuple[int, ...]]]) -> None:
    data = by_hand(kind, polygons)
    step = 7 if kind == "ascii" else 5
    for length in range(3, len(data) - (4 if kind == "ascii" else 0), step):
        (tmp_path / "a.ply").write_bytes(data[:length])
        with pytest.raises(ScanError) as caught:
            read_ply(tmp_path / "a.ply")
        assert "a.ply" in str(caught.value)


def test_organised_cloud_with_28_byte_vertices(tmp_path: Path) -> None:
    names = ["x", "y", "z", "nx", "ny", "nz"]
    head = "ply\nformat binary_little_endian 1.0\nelement vertex 6\n"
    head += "".join(f"property float {name}\n" for name in names)
    head += "".join(f"property uchar {name}\n" for name in ("red", "green", "blue", "alpha")) + "end_header\n"
    rows = np.zeros(6, [(name, "<f4") for name in names] + [(c, "u1") for c in "rgba"])
    assert rows.itemsize == 28
    rows["x"], rows["g"], rows["nz"] = np.arange(6), 10 * np.arange(6), -1
    (tmp_path / "a.ply").write_bytes(head.encode() + rows.tobytes())
    back = read_ply(tmp_path / "a.ply")
    assert back.vertices[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert back.colours is not None
    assert back.colours[:, 1].tolist() == [0, 10, 20, 30, 40, 50]
    assert set(back.fields) == {"nx", "ny", "nz", "alpha"}


def damaged(tmp_path: Path, text: str) -> str:
    (tmp_path / "bad.ply").write_text(text)
    with pytest.raises(ScanError) as caught:
        read_ply(tmp_path / "bad.ply")
    return str(caught.value)


XYZ = "property float x\nproperty float y\nproperty float z\n"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "0 bytes"),
        ("solid x\n", "first line 'ply'"),
        ("ply\nformat ascii 1.0\nelement vertex 1\n", "truncated"),
        ("ply\nformat ascii 1.0\nelement vertex many\nend_header\n", "element vertex many"),
        ("ply\nformat ascii 1.0\nproperty float x\nend_header\n", "property float x"),
        ("ply\nformat ascii 1.0\nelement vertex 1\nproperty quad x\nend_header\n", "property quad x"),
        ("ply\nformat morse 1.0\nelement vertex 0\nend_header\n", "morse"),
        ("ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n", "x, y, z"),
        ("ply\nformat ascii 1.0\nelement face 0\nproperty list uchar int vertex_index\nend_header\n", "'vertex'"),
        (f"ply\nformat ascii 1.0\nelement vertex 1\n{XYZ}end_header\n1 2 three\n", "three"),
        (
            f"ply\nformat ascii 1.0\nelement vertex 1\n{XYZ}property list uchar int n\nend_header\n1 2 3 1 1\n",
            "list property 'n'",
        ),
        (
            f"ply\nformat ascii 1.0\nelement vertex 1\n{XYZ}element face 1\nproperty list uchar int vertex_indices\n"
            "end_header\n1 2 3\n3 0 0 1\n",
            "vertex indices from 0 to 1",
        ),
        (
            f"ply\nformat ascii 1.0\nelement vertex 3\n{XYZ}element tristrips 1\nproperty list int int vertex_indices\n"
            "end_header\n0 0 0\n9 0 0\n0 9 0\n3 0 1 2\n",
            "triangle strips",
        ),
        (f"ply\nformat binary_big_endian 1.0\nelement vertex 1\n{XYZ}property int x\nend_header\n{'0' * 16}", "int x"),
        (f"ply\nformat ascii 1.0\nelement vertex 1\n{XYZ}element vertex 0\nend_header\n1 2 3\n", "element vertex 0"),
    ],
)
def test_damaged_files_say_what_is_wrong(tmp_path: Path, text: str, wanted: str) -> None:
    assert wanted in damaged(tmp_path, text)


def test_colours_of_other_types() -> None:
    assert as_colours(np.array([[0.0, 0.5, 1.0]])).tolist() == [[0, 128, 255]]
    assert as_colours(np.array([[0.0, 127.6, 300.0]])).tolist() == [[0, 128, 255]]
    assert as_colours(np.array([[0, 256, 65535]], np.uint16)).tolist() == [[0, 1, 255]]
    assert as_colours(np.array([[0, 1, 255]], np.int32)).tolist() == [[0, 1, 255]]


@given(st.lists(st.integers(0, 6), max_size=20))
def test_fans_as_written_out(counts: list[int]) -> None:
    wanted, polygons, first = [], [], 0
    for polygon, count in enumerate(counts):
        for step in range(1, count - 1):
            wanted.append([first, first + step, first + step + 1])
            polygons.append(polygon)
        first += count
    corners, polygon_of = fan_triangles(np.array(counts, int))
    assert corners.tolist() == wanted
    assert polygon_of.tolist() == polygons


@pytest.mark.parametrize(
    "fields", [{"short": np.zeros(2)}, {"x": np.zeros(3)}, {"two words": np.zeros(3)}], ids=["length", "taken", "name"]
)
def test_fields_that_do_not_fit_are_refused(tmp_path: Path, fields: dict[str, np.ndarray]) -> None:
    with pytest.raises(ResultError, match=next(iter(fields))):
        write_ply(tmp_path / "a.ply", TRIANGLE, fields=fields)
    assert not list(tmp_path.iterdir())


def test_disk_full_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ply.Path, "replace", full)
    with pytest.raises(ResultError, match="No space left"):
        write_ply(tmp_path / "a.ply", TRIANGLE)
    assert not list(tmp_path.iterdir())
