"""Scans from files and folders: units, bad input, and which files are specimens."""

import contextlib
import logging
import os
import random
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import trimesh
from PIL import Image

from rad3d.errors import Rad3dError, ScanError, UnitError
from rad3d.io import find_scans, read_scan, read_scans, specimen_name, write_ply
from rad3d.result import Inspection
from rad3d.scan import Unit
from rad3d.terminal import show_table

BOX = trimesh.creation.box((10, 20, 60))
CLOUD = "0 0 0\n10 0 0\n0 20 5\n"


def box(path: Path, scale: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    mesh = BOX.copy()
    mesh.apply_scale(scale)
    mesh.export(path)
    return path


@pytest.mark.parametrize("suffix", ["ply", "stl", "obj", "off", "glb", "gltf", "PLY", "STL"])
def test_every_mesh_format(tmp_path: Path, suffix: str) -> None:
    if suffix == "gltf":
        for name, data in BOX.scene().export(file_type="gltf").items():
            (tmp_path / name.replace("model.gltf", "gear.gltf")).write_bytes(data)
    else:
        box(tmp_path / f"gear.{suffix.lower()}").rename(tmp_path / f"gear.{suffix}")
    scan = read_scan(tmp_path / f"gear.{suffix}")
    wanted = BOX.vertices[BOX.faces.ravel()] if suffix.lower() == "stl" else BOX.vertices
    np.testing.assert_allclose(scan.vertices_mm, wanted, atol=1e-5)
    assert scan.faces is not None
    np.testing.assert_allclose(scan.vertices_mm[scan.faces], BOX.triangles, atol=1e-5)
    assert scan.vertices_mm.dtype == np.float64
    assert (scan.kind, scan.specimen, scan.unit) == ("mesh", "gear", "mm")
    assert len(scan.source_sha256) == 64


@pytest.mark.parametrize("suffix", ["xyz", "txt", "csv", "ply", "pcd"])
def test_every_cloud_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"gear.{suffix}"
    points = np.array(CLOUD.split(), float).reshape(-1, 3)
    if suffix == "ply":
        write_ply(path, points)
    elif suffix == "pcd":
        path.write_text(
            f"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 3\nHEIGHT 1\nDATA ascii\n{CLOUD}", encoding="ascii"
        )
    else:
        path.write_text(CLOUD)
    scan = read_scan(path)
    assert scan.vertices_mm.tolist() == points.tolist()
    assert (scan.kind, scan.faces) == ("cloud", None)


def test_scored_ply_can_be_inspected_again(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (8, 3), dtype=np.uint8)
    write_ply(
        tmp_path / "a.ply", BOX.vertices, BOX.faces, {"nx": np.ones(8), "ny": np.zeros(8), "nz": np.zeros(8)}, colours
    )
    scan = read_scan(tmp_path / "a.ply")
    assert scan.colours is not None
    np.testing.assert_array_equal(scan.colours, colours)
    assert scan.normals is not None
    assert scan.normals.tolist() == [[1, 0, 0]] * 8


@pytest.mark.parametrize("names", [("texture_u", "texture_v"), ("s", "t")])
def test_ply_texture_by_vertex(tmp_path: Path, names: tuple[str, str]) -> None:
    uv = np.random.default_rng(0).random((8, 2)).astype(np.float32)
    write_ply(tmp_path / "a.ply", BOX.vertices, BOX.faces, dict(zip(names, uv.T, strict=True)))
    data = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "a.ply").write_bytes(data.replace(b"1.0\n", b"1.0\ncomment TextureFile my paint.png\n", 1))
    assert read_scan(tmp_path / "a.ply").texture is None  # the picture is not there
    Image.new("RGB", (2, 2), (1, 2, 3)).save(tmp_path / "my paint.png")
    texture = read_scan(tmp_path / "a.ply").texture
    assert texture is not None
    np.testing.assert_allclose(texture.corner_uv, uv[BOX.faces])
    assert texture.images[0].tolist() == [[[1, 2, 3]] * 2] * 2
    assert set(texture.image_index) == {0}


@pytest.mark.parametrize(("unit", "scale"), [("mm", 1.0), ("m", 1e-3), ("inch", 1 / 25.4)])
def test_units_convert(tmp_path: Path, unit: Unit, scale: float) -> None:
    scan = read_scan(box(tmp_path / "a.ply", scale), unit=unit)
    np.testing.assert_allclose(scan.vertices_mm, BOX.vertices, atol=1e-5)
    assert scan.unit == unit


def test_a_gear_in_metres_is_asked_about(tmp_path: Path) -> None:
    with pytest.raises(UnitError) as caught:
        read_scan(box(tmp_path / "a.ply", 1e-3))
    text = str(caught.value)
    for piece in ("a.ply", "0.06 mm if in mm", "60 mm if in m,", "1.524 mm if in inch", "--unit m", "--unit inch"):
        assert piece in text


def test_a_gear_of_60_metres_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnitError) as caught:
        read_scan(box(tmp_path / "a.ply"), unit="m")
    assert "6e+04 mm if in m" in caught.value.got
    assert caught.value.remedy == "give --unit mm or --unit inch"
    with pytest.raises(UnitError, match="scale the file"):
        read_scan(box(tmp_path / "b.ply", 1e3))


def bad(path: Path, content: bytes | str) -> Rad3dError:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ScanError) as caught:
        read_scan(path)
    assert caught.value.source == str(path)
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize("suffix", "ply stl obj off glb gltf pcd xyz txt csv las laz".split())
def test_empty_and_meaningless_files(tmp_path: Path, suffix: str) -> None:
    assert "0 bytes" in bad(tmp_path / f"a.{suffix}", b"").got
    bad(tmp_path / f"b.{suffix}", "this is not a scan\n" * 20)
    bad(tmp_path / f"c.{suffix}", bytes(range(256)))


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_vertices_that_are_not_finite_are_counted(tmp_path: Path, value: str) -> None:
    header = "ply\nformat ascii 1.0\nelement vertex 4\n" + "".join(f"property float {axis}\n" for axis in "xyz")
    error = bad(tmp_path / "a.ply", f"{header}end_header\n0 0 {value}\n{value} {value} 0\n0 9 0\n9 0 0\n")
    assert "2 of 4 vertices" in error.got
    bad(tmp_path / "a.xyz", f"0 0 {value}\n1 2 3\n")


OFF = "OFF\n{}\n0 0 0\n9 0 0\n0 9 0\n{}\n"
ASCII = (
    "ply\nformat ascii 1.0\nelement vertex {}\nproperty float x\nproperty float y\nproperty float z\nelement face {}\n"
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.off", OFF.format("-3 1 0", "3 0 1 2")),
        ("a.off", OFF.format("3 -1 0", "3 0 1 2")),
        ("a.off", OFF.format("3 1 0", "0")),
        ("a.off", OFF.format("3 1 0", "4 0 1 2")),
        ("a.off", OFF.format("3 1 0", "-1 0 1 2")),
        ("a.ply", f"{ASCII.format(-3, 0)}property list uchar int vertex_indices\nend_header\n"),
        ("a.ply", f"{ASCII.format(1, -1)}property list uchar int vertex_indices\nend_header\n0 0 0\n"),
        ("a.ply", f"{ASCII.format(1, 1)}property list uchar int vertex_indices\nend_header\n0 0 0\nnan 0 0 0\n"),
    ],
)
def test_counts_that_cannot_be(tmp_path: Path, name: str, content: str) -> None:
    bad(tmp_path / name, content)


@pytest.mark.parametrize("damage", [lambda data: data[:40], lambda data: b"no picture at all"])
def test_a_damaged_texture_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    uv = np.zeros(8, np.float32)
    write_ply(tmp_path / "a.ply", BOX.vertices, BOX.faces, {"s": uv, "t": uv})
    data = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "a.ply").write_bytes(data.replace(b"1.0\n", b"1.0\ncomment TextureFile paint.png\n", 1))
    Image.new("RGB", (2, 2), (1, 2, 3)).save(tmp_path / "paint.png")
    (tmp_path / "paint.png").write_bytes(damage((tmp_path / "paint.png").read_bytes()))
    with pytest.raises(ScanError, match=r"paint\.png"):
        read_scan(tmp_path / "a.ply")


def small_files() -> dict[str, bytes]:
    """A readable file of every format and encoding."""
    made: dict[str, str | bytes] = {
        f"a.{kind}": BOX.export(file_type=kind) for kind in ("ply", "stl", "obj", "off", "glb")
    }
    made |= {"b.ply": BOX.export(file_type="ply", encoding="ascii"), "b.stl": BOX.export(file_type="stl_ascii")}
    made["a.xyz"] = "0 0 0 255 0 0\n10 0 0 0 255 0\n0 20 5 0 0 255\n"
    made["a.csv"] = "x,y,z\n" + CLOUD.replace(" ", ",")
    head = "FIELDS x y z rgb\nSIZE 4 4 4 4\nTYPE F F F F\nCOUNT 1 1 1 1\nWIDTH 3\nHEIGHT 1\nPOINTS 3\nDATA "
    made["a.pcd"] = f"{head}ascii\n0 0 0 1\n9 0 0 2\n0 9 0 3\n"
    body = np.array([[0, 9, 0], [0, 0, 9], [0, 1, 2], [1, 2, 3]], np.float32).tobytes()
    packed = bytes([31]) + body[:32] + bytes([15]) + body[32:]  # LZF: two literal runs
    made["b.pcd"] = f"{head}binary\n".encode() + body
    made["c.pcd"] = f"{head}binary_compressed\n".encode() + struct.pack("<II", len(packed), len(body)) + packed
    with contextlib.suppress(ImportError):
        made["a.las"] = small_las()
    return {name: data.encode() if isinstance(data, str) else data for name, data in made.items()}


def small_las() -> bytes:
    import io

    import laspy

    las, file = laspy.create(point_format=2, file_version="1.2"), io.BytesIO()
    las.xyz = np.array(CLOUD.split(), float).reshape(-1, 3)
    las.write(file, do_compress=False)
    return file.getvalue()


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to three of: a byte, a gap, an insertion, another number in the text, two lines swapped, an integer."""
    for _ in range(rng.randint(1, 3)):
        at, kind = rng.randrange(max(len(data), 1)), rng.randrange(6)
        if kind == 0:
            data = data[:at] + rng.randbytes(1) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + data[at + rng.randint(1, 20) :]
        elif kind == 2:
            data = data[:at] + rng.randbytes(rng.randint(1, 8)) + data[at:]
        elif kind == 3 and (numbers := list(re.finditer(rb"-?\d+(\.\d+)?", data[:2000]))):
            one = rng.choice(numbers)
            other = rng.choice([b"-1", b"0", b"99999999999", b"nan", b"1e400", b"x", b"", b"2", b"-0.5", b"4294967296"])
            data = data[: one.start()] + other + data[one.end() :]
        elif kind == 4:
            lines = data.split(b"\n")
            one_, two = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[one_], lines[two] = lines[two], lines[one_]
            data = b"\n".join(lines)
        elif kind == 5:
            at %= 200
            data = data[:at] + struct.pack("<i", rng.choice([-1, 0, 1, 2**31 - 1, -(2**31), 7])) + data[at + 4 :]
    return data


@pytest.mark.parametrize("name", small_files())
def test_damaged_bytes_are_told_or_read(tmp_path: Path, name: str) -> None:
    path, data, rng = tmp_path / name, small_files()[name], random.Random(zlib.crc32(name.encode()))
    path.write_bytes(data)
    assert len(read_scan(path).vertices_mm) >= 3
    for _ in range(150):
        damaged = mutated(data, rng)
        path.write_bytes(damaged)
        try:
            read_scan(path)
        except Rad3dError:
            pass
        except Exception as error:
            pytest.fail(f"{type(error).__name__}: {error} of {damaged!r}")


def test_no_faces_and_no_points(tmp_path: Path) -> None:
    assert "none" in bad(tmp_path / "a.stl", "solid a\nendsolid a\n").got
    assert "none" in bad(tmp_path / "b.obj", "# nothing\n").got
    assert "no faces" in bad(tmp_path / "c.off", "OFF\n3 0 0\n0 0 0\n9 0 0\n0 9 0\n").got
    assert "one place" in bad(tmp_path / "d.xyz", "1 2 3\n1 2 3\n").got


def test_an_image_is_not_a_mesh(tmp_path: Path) -> None:
    for suffix in ("png", "jpg", "tiff"):
        Image.new("RGB", (9, 9)).save(tmp_path / f"a.{suffix}")
        with pytest.raises(ScanError, match="got an image"):
            read_scan(tmp_path / f"a.{suffix}")
    (tmp_path / "a.png").rename(tmp_path / "disguised.ply")
    with pytest.raises(ScanError, match="got an image"):
        read_scan(tmp_path / "disguised.ply")


def test_unknown_and_missing_files(tmp_path: Path) -> None:
    assert ".step" in bad(tmp_path / "a.step", "ISO-10303-21;").got
    with pytest.raises(ScanError, match="nothing there"):
        read_scan(tmp_path / "b.ply")
    with pytest.raises(ScanError, match="nothing there"):
        find_scans([tmp_path / "b.ply"])
    with pytest.raises(ScanError, match="nothing there"):
        find_scans([str(tmp_path / "*.ply")])


def test_degenerate_triangles_are_counted_not_fatal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    faces = np.concatenate([BOX.faces, [[0, 0, 1], [2, 2, 2]]])
    write_ply(tmp_path / "a.ply", BOX.vertices, faces)
    with caplog.at_level(logging.WARNING):
        scan = read_scan(tmp_path / "a.ply")
    assert scan.degenerate_faces == 2
    assert scan.faces is not None
    assert len(scan.faces) == 14
    assert "2 triangles" in caplog.text


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("gear-01", "gear-01"),
        ("Zahnrad ä (2)", "Zahnrad ä (2)"),
        ("..", "specimen"),
        (".hidden", "hidden"),
        ("a/../b", "a_.._b"),
        ("..\\..\\x", "x"),
        ("line\nbreak\0", "line_break"),
        ("con:stream", "con_stream"),
        ("x" * 300, "x" * 120),
        ("漢" * 300, "漢" * 40),
        ("a\udcff\udcfe.b", "a__.b"),
        ("", "specimen"),
        ("trailing. ", "trailing"),
    ],
)
def test_names_are_safe_as_folders(tmp_path: Path, name: str, wanted: str) -> None:
    assert specimen_name(name) == wanted
    (tmp_path / specimen_name(name)).mkdir()
    assert len(list(tmp_path.iterdir())) == 1


def captured(folder: Path, *parts: str) -> Path:
    for part in parts or ("images", "xyz"):
        (folder / part).mkdir(parents=True)
    return folder


def found(*paths: str | Path, sensor: str | None = None) -> dict[str, str]:
    return {source.specimen: source.kind for source in find_scans(paths, sensor=sensor)}


def test_a_directory_of_files(tmp_path: Path) -> None:
    box(tmp_path / "b.stl")
    box(tmp_path / "a.ply")
    write_ply(tmp_path / "c.ply", BOX.vertices)
    (tmp_path / "d.xyz").write_text(CLOUD)
    (tmp_path / "points.csv").write_text(CLOUD.replace(" ", ","))
    (tmp_path / "README.txt").write_text("Scanned on Monday.\n")
    (tmp_path / ".a.ply").write_text("")
    (tmp_path / "picture.png").write_text("")
    found_here = found(tmp_path)
    assert list(found_here) == ["a", "b", "c", "d", "points"]
    assert list(found_here.values()) == ["mesh", "mesh", "cloud", "cloud", "cloud"]


def test_files_that_may_be_scans_are_found_or_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    box(tmp_path / "a.ply")
    (tmp_path / "b.csv").write_text("")
    (tmp_path / "c.csv").write_text('"x","y","z"\n"1","2","3"\n')
    (tmp_path / "d.csv").write_bytes("x;y;z\r\n1;2;3\r\n".encode("utf-16"))
    (tmp_path / "e.txt").write_text("A line of the header\n" * 20 + CLOUD)
    (tmp_path / "f.csv").write_text("P1;1,5;2;3\n")
    for name in ("g.3mf", "h.STEP", "deeper/i.e57", "j.json", "k.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("something")
    assert list(found(tmp_path)) == ["a", "b", "c", "d", "e", "f"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: not read, convert to PLY what is a scan: deeper/i.e57, g.3mf, h.STEP"
    ]
    with pytest.raises(ScanError, match=r"but i\.e57.*convert"):
        find_scans([tmp_path / "deeper"])


def test_results_are_no_scans_but_folders_with_another_report_are(tmp_path: Path) -> None:
    captured(tmp_path / "a")
    box(tmp_path / "b" / "c.stl")
    box(tmp_path / "result" / "scored.ply")
    for name in ("a", "b", "result"):
        (tmp_path / name / "report.json").write_text("{}")
    assert found(tmp_path) == {"a": "captured", "c": "mesh"}


def test_links_that_lead_back_are_followed_once(tmp_path: Path) -> None:
    box(tmp_path / "sub" / "a.ply")
    for name in ("l1", "l2", "sub/up"):
        (tmp_path / name).symlink_to(tmp_path)
    assert list(found(tmp_path)) == ["a"]


@pytest.mark.parametrize("target", ["lost", "a.ply", "a.csv"])
@pytest.mark.parametrize("name", ["a.ply", "a.csv"])
def test_a_link_that_leads_nowhere_is_told_when_it_is_read(tmp_path: Path, target: str, name: str) -> None:
    (tmp_path / name).symlink_to(target)
    (source,) = find_scans([tmp_path])
    with pytest.raises(ScanError, match="nothing there"):
        read_scan(source.path)


def test_groups_and_captured_specimens(tmp_path: Path) -> None:
    captured(tmp_path / "s1")
    captured(tmp_path / "s2", "rgb", "xyz")
    captured(tmp_path / "s3", "images")
    captured(tmp_path / "s4.v2" / "MechMind-Nano")
    box(tmp_path / "good" / "a.ply")
    captured(tmp_path / "good" / "deep" / "s5", "xyz")
    assert found(tmp_path) == {
        "a": "mesh",
        "s5": "captured",
        "s1": "captured",
        "s2": "captured",
        "s3": "captured",
        "s4.v2": "captured",
    }
    assert found(tmp_path / "s1") == {"s1": "captured"}


def test_several_sensors_need_a_choice(tmp_path: Path) -> None:
    for sensor in ("MechMind-LSRL", "MechMind-Nano", "RS", "Zed"):
        captured(tmp_path / "1M2_B_Hole" / sensor, "images", "masks", "xyz")
    with pytest.raises(ScanError, match="MechMind-LSRL, MechMind-Nano, RS, Zed") as caught:
        find_scans([tmp_path])
    assert "--sensor MechMind-LSRL" in caught.value.remedy
    assert found(tmp_path, sensor="MechMind-Nano") == {"1M2_B_Hole": "captured"}
    with pytest.raises(ScanError, match="'Kinect'"):
        find_scans([tmp_path], sensor="Kinect")


def test_a_sensor_of_any_name_can_be_chosen(tmp_path: Path) -> None:
    captured(tmp_path / "piece" / "left_head")
    captured(tmp_path / "piece" / "right_head")
    assert found(tmp_path / "piece") == {"left_head": "captured", "right_head": "captured"}
    assert found(tmp_path / "piece", sensor="left_head") == {"piece": "captured"}


def test_a_directory_without_scans(tmp_path: Path) -> None:
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    (tmp_path / "empty" / "notes.txt").write_text("nothing")
    for read in (find_scans, read_scans):
        with pytest.raises(ScanError, match="got none"):
            read([tmp_path / "empty"])
    with pytest.raises(ScanError, match="folder"):
        read_scan(tmp_path / "empty")


def test_a_scan_named_twice_is_taken_once_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    box(tmp_path / "gear.ply")
    assert len(find_scans([tmp_path])) == 1
    assert not caplog.records
    assert len(find_scans([tmp_path, tmp_path / "gear.ply"])) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'gear.ply'} is named more than once and taken once"
    ]


def test_clashing_names(tmp_path: Path) -> None:
    for name in ("mon/gear.ply", "tue/gear.ply", "tue/flange.ply", "wed/Gear.stl", "wed/gear.ply", "x/wed/gear.ply"):
        box(tmp_path / name)
    names = [source.specimen for source in find_scans([tmp_path])]
    assert names[:3] == ["mon__gear", "flange", "tue__gear"]
    assert len({name.casefold() for name in names}) == 6
    assert all("wed" in name for name in names[3:])


def test_clashing_names_fit_a_folder(tmp_path: Path) -> None:
    for part in "一二三":
        box(tmp_path / (part + "漢" * 60) / ("子" * 60) / ("字" * 60 + ".ply"))
    names = [source.specimen for source in find_scans([tmp_path])]
    assert len(set(names)) == 3
    for name in names:
        assert "字" * 40 in name
        (tmp_path / f"{name}.partial").mkdir()


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    box(tmp_path / os.fsdecode(b"\xff\xfe.ply"))
    box(tmp_path / os.fsdecode(b"gear \xe4.ply"))
    assert [scan.specimen for scan in read_scans([tmp_path])] == ["gear", "specimen"]


def test_names_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    inspection = SimpleNamespace(
        specimen="[red]x", verdict="incomplete", score=1.0, threshold=2.0, defects=[], reason="[b]y", coverage=0.5
    )
    show_table([cast(Inspection, inspection)])
    shown = capsys.readouterr().out
    assert "[red]x" in shown
    assert "[b]y" in shown


def test_globs_order_and_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("good/a.ply", "good/b.ply", "bad/c.stl", "bad/[d].stl"):
        box(tmp_path / name)
    assert list(found(tmp_path / "bad" / "c.stl", tmp_path / "good" / "*.ply")) == ["c", "a", "b"]
    assert list(found(str(tmp_path / "**" / "*.stl"))) == ["[d]", "c"]
    assert list(found(tmp_path / "bad" / "[d].stl")) == ["[d]"]
    monkeypatch.chdir(tmp_path / "good")
    assert list(found("b.ply", ".", "../good/a.ply")) == ["b", "a"]
    assert [scan.specimen for scan in read_scans(["*.ply"])] == ["a", "b"]


def test_a_link_keeps_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "gear.ply").symlink_to(box(tmp_path / "store" / "0a1b.ply"))
    assert list(found(tmp_path / "gear.ply")) == ["gear"]


def test_a_measured_surface_as_another_reader_has_it(tmp_path: Path) -> None:
    """The topography that matplotlib ships, as a mesh of 15,000 triangles, against trimesh."""
    import matplotlib.cbook

    elevation = np.asarray(matplotlib.cbook.get_sample_data("jacksboro_fault_dem.npz")["elevation"], float)[::8, ::8]
    rows, columns = np.indices(elevation.shape)
    vertices = np.stack([columns.ravel(), rows.ravel(), elevation.ravel() / 30], axis=1)
    corner = (rows * elevation.shape[1] + columns)[:-1, :-1].ravel()
    width = elevation.shape[1]
    faces = np.concatenate(
        [
            np.stack([corner, corner + 1, corner + width], 1),
            np.stack([corner + 1, corner + width + 1, corner + width], 1),
        ]
    )
    write_ply(tmp_path / "a.ply", vertices, faces)
    loaded = trimesh.load(tmp_path / "a.ply", process=False)
    scan = read_scan(tmp_path / "a.ply")
    np.testing.assert_array_equal(scan.vertices_mm, loaded.vertices)
    np.testing.assert_array_equal(scan.faces, loaded.faces)
