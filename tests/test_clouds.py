"""Cloud files, against files written by hand, by Open3D and by laspy."""

import base64
import builtins
from pathlib import Path
from types import ModuleType
from typing import Any

import laspy
import numpy as np
import pytest

from rad3d.clouds import looks_like_points, read_las, read_pcd, read_pcd_cloud, read_text_cloud
from rad3d.errors import DependencyError, ScanError

# 20 points of a 5 x 4 grid at z = 7 with colours (x, y, 7) / 10, written by Open3D 0.20 with compressed=True
OPEN3D_COMPRESSED = base64.b64decode(
    "IyAuUENEIHYwLjcgLSBQb2ludCBDbG91ZCBEYXRhIGZpbGUgZm9ybWF0ClZFUlNJT04gMC43CkZJRUxEUyB4IHkgeiByZ2IKU0laRSA0IDQgNCA0"
    "ClRZUEUgRiBGIEYgVQpDT1VOVCAxIDEgMSAxCldJRFRIIDIwCkhFSUdIVCAxClZJRVdQT0lOVCAwIDAgMCAxIDAgMCAwClBPSU5UUyAyMApEQVRB"
    "IGJpbmFyeV9jb21wcmVzc2VkCoMAAABAAQAAAQAAQAABgD8gBQBAIAIgAwCAIANAAOAzE+AHAEBL4AcDQG/gBwNAf+AHAwDgII/gQQMAsyB0ArMA"
    "GiADADMgAwBNIAMDZgCzGiATABogEwAaIBMAGiATABogEwAzIBMAMyATADMgEwAzIBMAMyATAE0gEwBNIBMATSATAE0gEwJNZgA="
)
GRID = np.stack(np.meshgrid(np.arange(5.0), np.arange(4.0), [7.0]), -1).reshape(-1, 3)


def pcd(data: bytes, encoding: str, width: int = 3, height: int = 2) -> bytes:
    return (
        "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z normal_x normal_y normal_z rgb extra\nSIZE 4 4 8 4 4 4 4 2\n"
        f"TYPE F F F F F F F U\nCOUNT 1 1 1 1 1 1 1 2\nWIDTH {width}\nHEIGHT {height}\nVIEWPOINT 0 0 0 1 0 0 0\n"
        f"POINTS {width * height}\nDATA {encoding}\n"
    ).encode() + data


ROW = np.dtype(
    [(n, "<f8" if n == "z" else "<f4") for n in ("x", "y", "z", "nx", "ny", "nz", "rgb")] + [("extra", "<u2", (2,))]
)


def rows() -> np.ndarray:
    table = np.zeros(6, ROW)
    table["x"], table["y"], table["z"], table["nz"] = np.arange(6), 10, 20.5, -1
    table["rgb"] = np.array([0x00FF8001 + i for i in range(6)], "<u4").view("<f4")
    table["extra"] = 7
    return table


def test_open3d_compressed_pcd(tmp_path: Path) -> None:
    (tmp_path / "a.pcd").write_bytes(OPEN3D_COMPRESSED)
    cloud = read_pcd_cloud(tmp_path / "a.pcd")
    np.testing.assert_array_equal(cloud.vertices, GRID)
    assert cloud.colours is not None
    np.testing.assert_allclose(cloud.colours, GRID * 25.5, atol=1)
    for length in range(len(OPEN3D_COMPRESSED) - 140, len(OPEN3D_COMPRESSED), 7):
        (tmp_path / "a.pcd").write_bytes(OPEN3D_COMPRESSED[:length])
        with pytest.raises(ScanError, match=r"a\.pcd"):
            read_pcd(tmp_path / "a.pcd")


def test_damaged_compressed_pcd(tmp_path: Path) -> None:
    start = OPEN3D_COMPRESSED.index(b"compressed\n") + 19
    (tmp_path / "a.pcd").write_bytes(OPEN3D_COMPRESSED[:start] + b"\xff" * (len(OPEN3D_COMPRESSED) - start))
    with pytest.raises(ScanError, match="damaged"):
        read_pcd(tmp_path / "a.pcd")


@pytest.mark.parametrize("encoding", ["binary", "ascii"])
def test_pcd_fields_of_all_kinds(tmp_path: Path, encoding: str) -> None:
    table = rows()
    if encoding == "binary":
        data = table.tobytes()
    else:
        lines = [" ".join(repr(float(row[name])) for name in ROW.names[:7]) + " 7 7" for row in table]
        data = "\n".join(lines).encode()
    (tmp_path / "a.pcd").write_bytes(pcd(data, encoding))
    assert read_pcd(tmp_path / "a.pcd").size_hw == (2, 3)
    cloud = read_pcd_cloud(tmp_path / "a.pcd")
    assert cloud.vertices.tolist() == [[i, 10, 20.5] for i in range(6)]
    assert cloud.normals is not None
    assert cloud.normals.tolist() == [[0, 0, -1]] * 6
    assert cloud.colours is not None
    assert cloud.colours.tolist() == [[255, 128, 1 + i] for i in range(6)]
    (tmp_path / "a.pcd").write_bytes(pcd(data[:-9], encoding))
    with pytest.raises(ScanError, match="truncated"):
        read_pcd(tmp_path / "a.pcd")


@pytest.mark.parametrize("data", [b"ply\n", b"VERSION 0.7\nFIELDS x y z\n", b"FIELDS x\nDATA ascii\n", b"\n" * 70000])
def test_not_a_pcd(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.pcd").write_bytes(data)
    with pytest.raises(ScanError, match="header"):
        read_pcd(tmp_path / "a.pcd")


def read_text(tmp_path: Path, text: str) -> Any:
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert looks_like_points(tmp_path / "a.txt")
    return read_text_cloud(tmp_path / "a.txt")


@pytest.mark.parametrize(
    "text",
    [
        "1 2 3\n-4.5 5e1 .6\n",
        "1,2,3\n-4.5,5e1,.6\n",
        "1, 2, 3\r\n-4.5, 5e1, .6\r\n",
        "1\t2\t3\n\n-4.5\t50\t0.6\n",
        "1;2;3\n-4,5;50;0,6\n",
        "1;2;3;\n-4,5;50;0,6;\n",
        "\ufeffX;Y;Z\n1;2;3\n-4,5;50;0,6\n",
        "# made by hand\n1 2 3\n# more\n-4.5 50 0.6\n",
        "2\n1 2 3\n-4.5 50 0.6\n",
        "x,y,z\n1,2,3\n-4.5,50,0.6\n",
        "//X Y Z\n1 2 3\n-4.5 50 0.6\n",
        "z,y,intensity,x\n3,2,99,1\n0.6,50,98,-4.5\n",
        '"x [mm]";"y [mm]";"z [mm]"\n1;2;3\n-4,5;50;0,6\n',
        "1 2 3 0.7\n-4.5 50 0.6 0.9\n",
        "1,00\t2,00\t3,00\n-4,5\t50\t0,6\n",
        "1,0 2,0 3,0\n-4,5 50 0,6\n",
        "1 2 3\n-4,5 50 0,6\n",
        '"x","y","z"\n"1.0","2","3"\n"-4.5","50","0.6"\n',
        '"1,00", "2,00", "3,00"\n"-4,50", "50,00", "0,60"\n',
        "".join(f"Header line {i}\n" for i in range(30)) + "1 2 3\n-4.5 50 0.6\n",
        "y,x,z\n# units: mm\n2,1,3\n50,-4.5,0.6\n",
        "id,Y_mm,X_mm,Z_mm\n1,2,1,3\n2,50,-4.5,0.6\n",
        "z,y,intensity,x\n3,2,,1\n0.6,50,98,-4.5\n",
    ],
)
def test_text_clouds_however_they_are_written(tmp_path: Path, text: str) -> None:
    cloud = read_text(tmp_path, text)
    assert cloud.vertices.tolist() == [[1, 2, 3], [-4.5, 50, 0.6]]
    assert cloud.colours is None
    assert cloud.normals is None
    assert cloud.faces is None


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_text_in_the_encodings_that_windows_writes(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.csv").write_bytes("y;x;z\r\n1,5;2;3\r\n".encode(encoding))
    assert looks_like_points(tmp_path / "a.csv")
    assert read_text_cloud(tmp_path / "a.csv").vertices.tolist() == [[2, 1.5, 3]]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", True),
        ("\n \n", True),
        ("P1;1,5;2;3\nP2;4;5;6\n", True),
        ("1.0D0 2 3 4\n", True),
        ("Scanned on Monday, by Jim, in mm.\n", False),
        ("Scan 3 of 10, at 2 mm\n", False),
        ("name,verdict,score\ngear,pass,1.5\n", False),
        ("1\n0\n1\n", False),
    ],
)
def test_which_text_may_be_a_cloud(tmp_path: Path, text: str, wanted: bool) -> None:
    (tmp_path / "a.txt").write_text(text)
    assert looks_like_points(tmp_path / "a.txt") == wanted


def test_a_comma_may_end_a_line(tmp_path: Path) -> None:
    for text in ("1.0 2.0 3.0,\n4.0 5.0 6.0,\n", "1 2 3,\n4 5 6,\n", "1,2,3,\n4,5,6,\n"):
        assert read_text(tmp_path, text).vertices.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_an_intensity_before_the_colours_is_none_of_them(tmp_path: Path) -> None:
    after = read_text(tmp_path, "1 2 3 77 255 0 9\n4 5 6 78 7 8 255\n")
    opaque = read_text(tmp_path, "1 2 3 255 0 9 255\n4 5 6 7 8 255 255\n")
    with_normals = read_text(tmp_path, "1 2 3 0 0 1 77 255 0 9\n4 5 6 0 1 0 78 7 8 255\n")
    for cloud in (after, opaque, with_normals):
        assert cloud.colours.tolist() == [[255, 0, 9], [7, 8, 255]]
    assert with_normals.normals.tolist() == [[0, 0, 1], [0, 1, 0]]


def test_text_colours_and_normals(tmp_path: Path) -> None:
    by_guess = read_text(tmp_path, "1 2 3 255 0 9 0 0 1\n4 5 6 7 8 255 0.6 0.8 0\n")
    by_name = read_text(tmp_path, "nx,ny,nz,x,y,z,Red,Green,Blue\n0,0,1,1,2,3,255,0,9\n.6,.8,0,4,5,6,7,8,255\n")
    for cloud in (by_guess, by_name):
        assert cloud.vertices.tolist() == [[1, 2, 3], [4, 5, 6]]
        assert cloud.colours.tolist() == [[255, 0, 9], [7, 8, 255]]
        assert cloud.normals.tolist() == [[0, 0, 1], [0.6, 0.8, 0]]
    only_normals = read_text(tmp_path, "1 2 3 0 0 1\n4 5 6 .6 .8 0\n")
    assert only_normals.colours is None
    assert only_normals.normals is not None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1 2 3\n4 5\n", "4 5"),
        ("1 2 3\n4 5 x\n", "4 5 x"),
        ("hello\nworld\n", "hello"),
        ("1 2\n3 4\n", "1 2"),
        ("\n \n", "blank"),
        ("19,99,-5,52,1,30\n19,05,-5,52,1,30\n", "19,05,-5,52,1,30.*semicolons"),
        ("1.234,5 2 3\n", r"1\.234,5.*1,5;2,0;3,0"),
        ("1,5 2,5\n", "1,5 2,5"),
        ("x y z\n1 0.1 0.2 0.3\n", "each of the 4 columns.*x y z"),
        ("1 2 3\n1, 2.5, 3\n", "1, 2.5, 3"),
        ("no number\n" * 200 + "1 2 3\n", "no number"),
    ],
)
def test_text_that_is_no_cloud(tmp_path: Path, text: str, wanted: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ScanError, match=wanted) as caught:
        read_text_cloud(tmp_path / "a.txt")
    assert caught.value.source.endswith("a.txt")


def las_file(path: Path) -> np.ndarray:
    header = laspy.LasHeader(point_format=2, version="1.2")
    header.scales, header.offsets = [0.001] * 3, [100, 0, 0]
    las = laspy.LasData(header)
    points = np.random.default_rng(0).random((50, 3)).round(3) * 100
    las.x, las.y, las.z = points.T
    las.red, las.green, las.blue = np.arange(50) * 256, np.arange(50) * 512, np.full(50, 65535)
    las.write(path)
    return points


def test_las(tmp_path: Path) -> None:
    points = las_file(tmp_path / "a.las")
    cloud = read_las(tmp_path / "a.las")
    np.testing.assert_allclose(cloud.vertices, points, atol=1e-3)
    assert cloud.colours is not None
    assert cloud.colours[:, 0].tolist() == list(range(50))
    assert cloud.colours[3].tolist() == [3, 6, 255]
    data = (tmp_path / "a.las").read_bytes()
    for length in (5, 200, len(data) - 10, len(data) - 26):
        (tmp_path / "a.las").write_bytes(data[:length])
        with pytest.raises(ScanError, match=r"a\.las"):
            read_las(tmp_path / "a.las")


def test_laz_without_its_decompressor_names_the_package(tmp_path: Path) -> None:
    las_file(tmp_path / "a.las")
    data = bytearray((tmp_path / "a.las").read_bytes())
    data[104] |= 0x80  # the format's bit for compressed points
    (tmp_path / "a.laz").write_bytes(data)
    if laspy.LazBackend.detect_available():
        pytest.skip("a decompressor is installed")
    with pytest.raises(DependencyError, match="lazrs"):
        read_las(tmp_path / "a.laz")


def test_las_without_laspy_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    las_file(tmp_path / "a.las")
    real_import = builtins.__import__

    def no_laspy(name: str, *args: Any) -> ModuleType:
        if name == "laspy":
            raise ImportError("No module named 'laspy'")
        return real_import(name, *args)

    monkeypatch.setattr(builtins, "__import__", no_laspy)
    with pytest.raises(DependencyError, match=r"rad3d\[las\]"):
        read_las(tmp_path / "a.las")
