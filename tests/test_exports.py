"""Exports, read back by the software they are for or by its rules."""

import builtins
import csv
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import trimesh

from rad3d import cli, read_scan
from rad3d.errors import DependencyError, ResultError
from rad3d.result import Defect, Inspection, PointScores, heat_colours
from rad3d.viewers.exports import COLUMNS, to_open3d, write_csv, write_export, write_glb

PLACE = (1.5, -2.0, 1234.56789)


@pytest.fixture(scope="module")
def inspection():
    """Synthetic: a box of 60 x 40 x 10 mm, one corner anomalous, one not inspected."""
    mesh = trimesh.creation.box((60, 40, 10))
    score = np.array([0.1, 0.4, 0.8, 1.2, 1.6, 2.0, 5.0, np.nan], np.float32)
    return Inspection(
        specimen="=1+1",
        source="box.stl",
        unit="inch",
        verdict="fail",
        reason="1 defect above the threshold",
        score=5.0,
        threshold=1.5,
        point_threshold=1.0,
        coverage=1.0,
        coverage_total=1.0,
        false_reject={},
        settings={},
        fingerprint="",
        timings_s={},
        defects=(Defect(1, PLACE, (9.0, 8.0, 7.0), (0.0, 0.0, 1.0), 2.5, (2.0, 1.0, float("nan")), 5.0, 2.0),),
        vertices_mm=np.array(mesh.vertices),
        faces=np.array(mesh.faces),
        points=PointScores(score, score, score, np.ones(8, np.int32), score, score, np.zeros(8, np.int32)),
    )


def displayed(linear):
    """What a screen shows of linear light, 0..255 (IEC 61966-2-1)."""
    share = linear / 255.0
    return 255 * np.where(share <= 0.0031308, 12.92 * share, 1.055 * share ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("cloud", [False, True])
def test_glb_opens_in_metres_with_the_reports_colours(inspection, tmp_path, cloud):
    item = replace(inspection, faces=None) if cloud else inspection
    write_glb(item, tmp_path / "part.glb")
    plain = trimesh.load_scene(tmp_path / "part.glb", process=False, skip_materials=True)
    (shape,) = plain.geometry.values()
    np.testing.assert_allclose(shape.vertices, item.vertices_mm / 1000, atol=1e-7)
    colours = np.asarray(shape.colors if cloud else shape.visual.vertex_colors)
    expected = heat_colours(item.points.anomaly_score, item.threshold)
    # eight bits of linear light leave up to 6 steps where it is darkest
    assert np.abs(displayed(colours[:, :3].astype(float)) - expected).max() <= 6
    assert (colours[:, 3] == 255).all()
    if not cloud:
        assert np.array_equal(shape.faces, item.faces)


def test_glb_is_not_bare_metal(inspection, tmp_path):
    write_glb(inspection, tmp_path / "part.glb")
    (shape,) = trimesh.load_scene(tmp_path / "part.glb", process=False).geometry.values()
    assert shape.visual.material.metallicFactor == 0.0
    assert shape.visual.material.doubleSided
    assert len(np.unique(shape.visual.vertex_attributes["color"], axis=0)) == 8


def test_glb_reads_back_as_a_scan(inspection, tmp_path):
    scan = read_scan(write_glb(inspection, tmp_path / "part.glb"), unit="m")
    np.testing.assert_allclose(scan.vertices_mm, inspection.vertices_mm, atol=1e-4)
    assert scan.colours[-1].tolist() == [55, 55, 55]  # the grey 128 of what was not inspected, as light


def test_csv_has_a_line_per_defect(inspection, tmp_path):
    none = replace(inspection, defects=(), specimen="good")
    with write_csv([none, inspection, none], tmp_path / "defects.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == COLUMNS
    assert (row["x_mm"], row["y_mm"], row["z_mm"]) == ("1.5", "-2", "1234.57")
    assert (row["part_x_mm"], row["part_z_mm"], row["normal_z"]) == ("9", "7", "1")
    assert (row["length_mm"], row["width_mm"], row["height_mm"]) == ("2", "1", "")
    assert (row["verdict"], row["defect"], row["area_mm2"], row["peak_score"]) == ("fail", "1", "2.5", "5")
    assert row["source"] == "box.stl"
    assert row["specimen"] == "'=1+1"  # a spreadsheet would have computed 2


def test_no_defects_is_a_header(inspection, tmp_path):
    path = write_csv([replace(inspection, defects=())], tmp_path / "defects.csv")
    assert path.read_text().splitlines() == [",".join(COLUMNS)]


def test_names_with_commas_quotes_and_lines_stay_one_cell(inspection, tmp_path):
    name = 'a,"b"\nc;d'
    with write_csv([replace(inspection, specimen=name)], tmp_path / "d.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["specimen"] == name


@pytest.mark.parametrize("cloud", [False, True])
def test_open3d_gets_every_vertex_in_millimetres_and_heat_colours(inspection, cloud):
    open3d = pytest.importorskip("open3d", reason="Open3D cannot be imported here", exc_type=ImportError)
    item = replace(inspection, faces=None) if cloud else inspection
    shape = to_open3d(item)
    assert isinstance(shape, open3d.geometry.PointCloud if cloud else open3d.geometry.TriangleMesh)
    np.testing.assert_array_equal(np.asarray(shape.points if cloud else shape.vertices), item.vertices_mm)
    colours = np.asarray(shape.colors if cloud else shape.vertex_colors)
    np.testing.assert_allclose(colours * 255, heat_colours(item.points.anomaly_score, item.threshold), atol=1e-9)
    if not cloud:
        np.testing.assert_array_equal(np.asarray(shape.triangles), item.faces)


@pytest.mark.parametrize("error", [ImportError("no module"), OSError("libGL.so.1: cannot open shared object file")])
def test_open3d_that_cannot_be_imported_is_told(inspection, monkeypatch, error):
    """Not installed, or without its system libraries."""
    load = builtins.__import__

    def blocked(name, *rest):
        if name == "open3d":
            raise error
        return load(name, *rest)

    monkeypatch.delitem(sys.modules, "open3d", raising=False)
    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(DependencyError, match=r"rad3d\[open3d\]") as caught:
        to_open3d(inspection)
    assert str(error) in caught.value.got
    assert "libgl1" in caught.value.remedy


@pytest.mark.parametrize(("name", "count"), [("part.stl", 1), ("part", 1), ("part.glb", 2)])
def test_another_format_is_refused(inspection, tmp_path, name, count):
    with pytest.raises(ResultError, match=r"\.glb \(for one result\) or \.csv"):
        write_export([inspection] * count, tmp_path / name)
    assert not list(tmp_path.iterdir())


def run(*arguments):
    """The exit code of `rad3d ARGUMENTS`."""
    with pytest.raises(SystemExit) as done:
        cli.main([str(argument) for argument in arguments])
    return done.value.code


def test_commands_write_what_they_are_asked_for(inspection, tmp_path, capsys):
    for name in ("a", "b"):
        replace(inspection, specimen=name).save(tmp_path / "out" / name)
    assert run("export", tmp_path / "out", "-o", tmp_path / "defects.csv") == 0
    assert len((tmp_path / "defects.csv").read_text().splitlines()) == 3
    assert run("export", tmp_path / "out" / "a", "-o", tmp_path / "new" / "a.glb") == 0
    assert (tmp_path / "new" / "a.glb").read_bytes().startswith(b"glTF")
    assert run("report", tmp_path / "out", "-o", tmp_path / "r.html", "--pdf") == 0
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "r.pdf").read_bytes().startswith(b"%PDF-")
    assert "r.html and" in capsys.readouterr().err


def test_commands_refuse_what_they_cannot_write(inspection, tmp_path, capsys):
    inspection.save(tmp_path / "out")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert run("report", tmp_path / "out", "-o", tmp_path / "r.pdf") == 2
    assert "--pdf" in capsys.readouterr().err
    assert run("export", tmp_path / "out", "-o", tmp_path / "part.step") == 2
    assert "part.step" in capsys.readouterr().err
    assert run("export", tmp_path / "nothing", "-o", tmp_path / "d.csv") == 2
    (tmp_path / "folder.csv").mkdir()
    assert run("export", tmp_path / "out", "-o", tmp_path / "folder.csv") == 2
    assert "folder.csv" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "folder.csv"])


def test_exports_load_no_network():
    code = (
        "import sys; from rad3d.viewers import exports; print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
