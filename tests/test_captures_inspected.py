"""Captured specimens from folders to results and back, by the command line: the layout of 3D-ADAM's sensors."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import trimesh
from PIL import Image

from rad3d import Inspector, load_result, read_scan
from rad3d.cli import main
from rad3d.datasets.machine_capture import make_capture
from rad3d.datasets.machine_elements import make_specimen
from rad3d.datasets.machine_layouts import png_bytes, write_raw_view
from rad3d.deviation import ReferenceShape
from rad3d.errors import ScanError
from rad3d.geometry import transform_points
from rad3d.ply import read_ply
from rad3d.result import Inspection

VIEWS = 4


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return int(exit_.value.code or 0)


def capture(folder: Path, seed: int, defects: tuple[str, ...] = (), sizes_mm: tuple[float, float] = (7.0, 8.0)):
    """A bracket as the sensors' folders have it: every other of its views."""
    made = make_specimen("bracket", seed, defects, sizes_mm=sizes_mm)
    shown = make_capture(made, seed)
    for number in range(0, 2 * VIEWS, 2):
        view, stem = shown.views[number], f"{folder.name}_Nano_{number:03d}"
        image, kinds = png_bytes(view.image), [label.kind for label in made.instances]
        write_raw_view(folder / "Nano", stem, view, image, shown.instances[number], kinds)
    return made, shown


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captures")
    made, _ = capture(folder / "bracket_C001_Good", 1)
    capture(folder / "bracket_C002_Good", 2)
    nominal = trimesh.Trimesh(made.nominal.vertices_mm, made.nominal.faces, process=False)
    nominal.export(folder / "nominal.stl")
    good = (folder / "bracket_C001_Good", folder / "bracket_C002_Good")
    coarse = ("--encoder.input-hw", 224, 224)
    assert run("fit", *good, "--nominal", folder / "nominal.stl", "-o", folder / "memory", *coarse) == 0
    return folder


@pytest.fixture(scope="module")
def holed(fitted: Path):
    """A specimen with a hole, one of its views without any depth, inspected."""
    folder = fitted / "bracket_C003_Hole"
    made, shown = capture(folder, 3, ("hole",))
    cloud = folder / "Nano" / "xyz" / f"{folder.name}_Nano_000_cloud.ply"
    blind = read_ply(cloud)
    lost = replace(shown.views[0], points_mm=np.full((*shown.views[0].size_hw, 3), np.nan))
    write_raw_view(
        folder / "Nano", f"{folder.name}_Nano_000", lost, png_bytes(lost.image), shown.instances[0], ["hole"]
    )
    assert len(read_ply(cloud).vertices) == len(blind.vertices)
    assert run("inspect", fitted / "memory", folder, "-o", fitted / "out") == 1
    return made, shown, fitted / "out" / folder.name


def test_a_hole_is_found_in_millimetres_on_the_part(holed):
    made, _, out = holed
    report = json.loads((out / "report.json").read_text())
    assert report["verdict"] == "fail"
    apart = np.subtract(report["defects"][0]["centroid_part_mm"], made.instances[0].centroid_mm)
    assert np.linalg.norm(apart) < 3.0
    found = load_result(out)
    assert isinstance(found, Inspection)
    assert found.vertices_mm.shape[0] == len(read_ply(out / "scored.ply").vertices) > 1000
    off = np.abs(ReferenceShape(made.nominal.surface).signed_distance(found.vertices_mm[::100]))
    assert np.median(off) < 0.2  # the merged surface lies on the part


def test_maps_are_as_large_as_the_images_and_poses_are_told(holed):
    _made, shown, out = holed
    report = json.loads((out / "report.json").read_text())
    assert [one["trusted"] for one in report["registration"]] == [False, True, True, True]
    assert all(one["rmse_mm"] < 0.3 for one in report["registration"][1:])
    for number in (2, 4, 6):
        stem = f"bracket_C003_Hole_Nano_{number:03d}_image"
        map_ = tifffile.imread(out / "maps" / f"{stem}.tiff")
        assert map_.shape == shown.views[number].size_hw
        assert map_.dtype == np.float32
        assert np.isnan(map_[:20]).all()  # the table is not the part
        assert 0.02 < np.isfinite(map_).mean() < 0.5
    found = load_result(out)
    for view in found.views:
        if view.part_from_camera is not None:
            number = int(view.name.split("_")[-2])
            true = shown.cameras[number].part_from_camera
            corners = np.array([[0.0, 0, 330], [40, 0, 360], [0, 40, 340]])
            apart = transform_points(view.part_from_camera, corners) - transform_points(true, corners)
            assert np.abs(apart).max() < 0.6


def test_a_single_view_is_judged_as_far_as_it_sees(fitted, holed):
    _made, _shown, _ = holed
    folder = fitted / "bracket_C004_Good"
    specimen = make_specimen("bracket", 4)
    view = make_capture(specimen, 4).views[4]
    blank = np.zeros(view.size_hw, int)
    write_raw_view(folder / "Nano", "bracket_C004_Good_Nano_004", view, png_bytes(view.image), blank, [])
    assert run("inspect", fitted / "memory", folder, "-o", fitted / "out") == 3
    report = json.loads((fitted / "out" / folder.name / "report.json").read_text())
    assert report["verdict"] == "incomplete"
    assert "of the inspectable surface was judged" in report["reason"]
    assert 0.1 < report["coverage"] < 0.9


def test_a_single_view_of_a_single_specimen_is_not_enough_to_learn_from(fitted, holed, capsys):
    assert run("fit", fitted / "bracket_C004_Good", "-o", fitted / "never", "--nominal", fitted / "nominal.stl") == 2
    assert "several views of the only one" in capsys.readouterr().err
    assert not (fitted / "never").exists()


def test_images_alone_are_refused_with_what_to_do(fitted, tmp_path, capsys):
    images = tmp_path / "photographs" / "images"
    images.mkdir(parents=True)
    for number in range(3):
        Image.fromarray(np.full((64, 80, 3), 40 * number, np.uint8)).save(images / f"{number}.png")
    for command in (("fit",), ("inspect", fitted / "memory")):
        assert run(*command, images.parent, "-o", tmp_path / "out") == 2
        said = capsys.readouterr().err
        assert "images alone" in said
        assert "--method rad" in said
    with pytest.raises(ScanError, match="images alone"):
        Inspector.fit([read_scan(images.parent)])


def test_a_capture_with_poses_of_which_no_view_has_depth_is_incomplete(fitted, holed):
    _, shown, _ = holed
    inspector = Inspector.load(fitted / "memory")
    scan = read_scan(fitted / "bracket_C002_Good")
    blind = tuple(
        replace(view, camera=camera, points_mm=np.full((*view.size_hw, 3), np.nan, np.float32))
        for view, camera in zip(scan.views, shown.cameras[::2], strict=True)
    )
    found = inspector.inspect(replace(scan, views=blind))
    assert found.verdict == "incomplete"
    assert "not registered" in found.reason
