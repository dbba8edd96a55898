"""Fit and inspect, end to end, with real features on a small machine element."""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from io import BytesIO
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
import tifffile
import trimesh
from PIL import Image

from rad3d import Inspector, Scan, load_result
from rad3d.camera import Camera
from rad3d.datasets.machine_elements import make_specimen
from rad3d.deviation import ReferenceShape, averaged, on_reference
from rad3d.errors import MemoryFormatError, ResultError, ScanError
from rad3d.fitting import TOLERANCE_MM, fine_enough, look_of, more_complete, seen_by, usable_together
from rad3d.geometry import look_at, random_rotation, transform_directions, transform_points, translation
from rad3d.inspector import every_view, specimen_score
from rad3d.patches import cut, place, windows_of
from rad3d.ply import read_ply, write_ply
from rad3d.render import renderer_for
from rad3d.result import ViewScores
from rad3d.scan import Surface
from rad3d.settings import EncoderSettings, Settings, VerdictSettings, ViewSettings
from rad3d.view import BACKGROUND, View
from rad3d.viewpoints import cameras_from, image_size

PART = "bracket"
SMALL = Settings(encoder=EncoderSettings(input_hw=(224, 224)), views=ViewSettings(count=8))


@pytest.fixture(scope="module")
def dented():
    return make_specimen(PART, 7, ("hole",), sizes_mm=(5.0, 6.0))


@pytest.fixture(scope="module")
def found(inspector, dented):
    return inspector.inspect(dented.scan)


def test_a_defect_is_found_where_it_was_made(found, dented):
    made = dented.instances[0]
    assert found.verdict == "fail"
    assert np.linalg.norm(np.subtract(found.defects[0].centroid_mm, made.centroid_mm)) < 3.0
    score = np.nan_to_num(found.points.anomaly_score, nan=-1)
    assert dented.vertex_instance[int(score.argmax())] == made.id
    assert found.defects[0].peak_score > 3 * found.threshold / 2
    assert np.nanmin(found.points.deviation_mm[dented.vertex_instance > 0]) < -1.0  # material is missing


def test_good_specimens_that_are_all_alike_do_not_make_little_a_defect(inspector, dented):
    verdict = inspector.settings.verdict
    alike = replace(inspector, good_scores=np.array([0.3, 0.31, 0.3, 0.32]))
    assert alike.threshold[0] == verdict.min_score == 3.0

    def at_least(score):
        return replace(alike, settings=replace(alike.settings, verdict=replace(verdict, min_score=score)))

    assert 0.32 <= at_least(0.0).threshold[0] < 1.0
    assert at_least(1e4).inspect(dented.scan).verdict == "pass"
    assert alike.inspect(dented.scan).verdict == "fail"


def with_a_gap(scan, at, radius_mm):
    """The mesh without the triangles around a point."""
    middle = scan.vertices_mm[scan.faces].mean(axis=1)
    return replace(scan, faces=scan.faces[np.linalg.norm(middle - at, axis=1) > radius_mm])


def test_a_reference_with_a_gap_gives_way_to_a_complete_one(good_scans, dented, caplog):
    at = np.array(dented.instances[0].centroid_mm)
    at = good_scans[0].vertices_mm[np.linalg.norm(good_scans[0].vertices_mm - at, axis=1).argmin()]
    fitted = Inspector.fit([with_a_gap(good_scans[0], at, 4.0), *good_scans[1:3]], SMALL, part=PART)
    assert "lacks surface that others have" in caplog.text
    result = fitted.inspect(dented.scan)
    assert result.verdict == "fail"
    assert np.linalg.norm(np.subtract(result.defects[0].centroid_mm, dented.instances[0].centroid_mm)) < 3.0


@pytest.mark.parametrize(("side_mm", "tiles", "told"), [(30, 1, False), (80, 2, False), (400, 2, True)])
def test_large_parts_are_looked_at_more_closely(side_mm, tiles, told, caplog):
    box = trimesh.creation.box((side_mm, side_mm, side_mm / 4))
    scan = Scan("box", vertices_mm=np.array(box.vertices), faces=np.array(box.faces))
    encoder = SimpleNamespace(patch_size=16)
    settings = fine_enough(SMALL, scan, encoder, 4)
    size_hw = image_size(scan.vertices_mm, settings.views, SMALL.encoder.input_hw, 16)
    assert size_hw == tuple(tiles * side for side in SMALL.encoder.input_hw)
    cameras = cameras_from(np.array([[0.0, 0.0, 1.0]]), scan.vertices_mm, size_hw)
    view = renderer_for(scan).render(cameras)[0]
    assert len(windows_of(view, SMALL.encoder.input_hw, 16, settings.views.mm_per_patch)) == tiles**2
    assert ("--views.mm-per-patch" in caplog.text) == told
    asked = replace(SMALL, views=replace(SMALL.views, mm_per_patch=50.0))
    assert fine_enough(asked, scan, encoder, 4) == asked
    assert fine_enough(SMALL, scan, encoder, 20) == SMALL


def test_what_one_of_several_has_more_is_no_gap_of_the_reference(good_scans):
    surfaces = [scan.surface for scan in good_scans[:1] * 4]
    near = [np.zeros(len(surface.points_mm)) for surface in surfaces]
    far = near[0].copy()
    far[np.linalg.norm(surfaces[0].points_mm - surfaces[0].points_mm[0], axis=1) < 5] = 3.0
    assert more_complete(surfaces, near) is None
    assert more_complete(surfaces, [near[0], far, near[0], near[0]]) is None
    assert more_complete(surfaces, [near[0], near[0], far, far]) == 2


def captured_from(scan, *eyes):
    """What `seen_by` needs of an observation; with poses, so that no symmetry is asked."""
    poses = [look_at(np.array(eye, float), np.zeros(3), np.array([0.3, 1.0, 0.2])) for eye in eyes]
    cameras = [Camera.from_field_of_view((80, 80), 0.5, pose) for pose in poses]
    views = renderer_for(scan).render(cameras)
    return SimpleNamespace(views=views, scan=SimpleNamespace(views=views))


def box_of(x, y, z):
    box = trimesh.creation.box((x, y, z)).subdivide().subdivide()
    return Scan("box", vertices_mm=np.array(box.vertices), faces=np.array(box.faces))


def test_good_specimens_that_show_different_sides_are_not_enough_to_learn_from(caplog):
    scan = box_of(30, 30, 30)
    sides = [captured_from(scan, 100.0 * eye) for eye in (*np.eye(3), -np.eye(3)[0])]
    with pytest.raises(ScanError, match="of the surface that good specimens showed"):
        seen_by(sides[:3], scan.surface, None, SMALL)
    assert not caplog.text
    assert seen_by([*sides, sides[0], sides[0]], scan.surface, None, SMALL).any()
    assert "% of the surface" in caplog.text


@pytest.mark.parametrize(("shown_from_above", "asked"), [(0, False), (1, False), (2, True)])
def test_captures_have_to_show_what_half_of_the_good_ones_showed(shown_from_above, asked):
    scan = box_of(30, 30, 20)
    below, above = (0, 0, -100), (0, 0, 100)
    both, one = captured_from(scan, below, above), captured_from(scan, below)
    good = [both] * shown_from_above + [one] * (4 - shown_from_above)
    seen, normals = seen_by(good, scan.surface, None, SMALL), scan.surface.normals
    inside = np.abs(scan.surface.points_mm[:, :2]).max(axis=1) < 14
    assert seen[inside & (normals[:, 2] < -0.9)].all()
    assert (seen[inside & (normals[:, 2] > 0.9)] == asked).all()


def test_a_remembered_specimen_looks_like_itself(inspector, good_scans):
    assert np.nanmax(inspector.inspect(good_scans[0]).points.raw_score) < 1e-2


def test_a_fresh_good_specimen_passes(inspector):
    result = inspector.inspect(make_specimen(PART, 21).scan)
    assert result.verdict == "pass"
    assert result.coverage > 0.95
    assert not result.defects
    np.testing.assert_array_equal(result.good_scores, inspector.good_scores)
    assert result.threshold >= result.good_scores.max()


def test_a_scan_in_any_pose_gives_the_same_result(inspector, dented, found):
    rng = np.random.default_rng(0)
    pose = translation((40.0, -25.0, 90.0)) @ random_rotation(rng)
    moved = inspector.inspect(dented.scan.moved(pose))
    assert moved.verdict == "fail"
    expected = transform_points(pose, np.array([found.defects[0].centroid_mm]))[0]
    assert np.linalg.norm(np.subtract(moved.defects[0].centroid_mm, expected)) < 0.5
    assert np.linalg.norm(np.subtract(moved.defects[0].centroid_part_mm, found.defects[0].centroid_part_mm)) < 0.5
    np.testing.assert_allclose(
        transform_points(moved.part_from_scan, np.array([moved.defects[0].centroid_mm]))[0],
        moved.defects[0].centroid_part_mm,
        atol=1e-6,
    )
    turned = transform_directions(moved.part_from_scan, np.array([moved.defects[0].normal]))[0]
    np.testing.assert_allclose(turned, moved.defects[0].normal_part, atol=1e-6)
    assert np.dot(moved.defects[0].normal_part, found.defects[0].normal_part) > 0.95
    both = np.isfinite(moved.points.anomaly_score) & np.isfinite(found.points.anomaly_score)
    assert np.corrcoef(moved.points.anomaly_score[both], found.points.anomaly_score[both])[0, 1] > 0.95


def placed_in(picture, crop):
    """Row and column at which `crop` lies in a picture that is grey beyond its border, and how far off it is there."""
    margin = crop.shape[0] // 5 * 2
    padded = np.pad(picture.astype(float), ((margin, margin), (margin, margin), (0, 0)), constant_values=BACKGROUND)
    step = crop.shape[0] // 5
    off = {
        (top, left): np.abs(padded[top : top + len(crop), left : left + len(crop)] - crop).mean()
        for top in range(0, picture.shape[0], step)
        for left in range(0, picture.shape[1], step)
    }
    best = min(off, key=off.get)
    return best[0] + step // 2, best[1] + step // 2, off[best]


def test_evidence_shows_the_defect_and_the_good_patch_most_like_it(inspector, dented, found):
    memory, defect = inspector.memory, found.defects[0]
    assert [pair.defect for pair in found.evidence] == [defect.id for defect in found.defects]
    pair = found.evidence[0]
    assert pair.raw_score > 0.1  # a remembered specimen's own patches differ by less than 0.01

    views = renderer_for(dented.scan.moved(found.part_from_scan)).render(inspector.cameras)
    view = next(view for view in views if view.name == pair.view)
    grid_hw, patch = inspector.encoder.grid_hw, inspector.encoder.patch_size
    windows = windows_of(view, SMALL.encoder.input_hw, patch, SMALL.views.mm_per_patch)
    found_in = [placed_in(cut(view, window, SMALL.encoder.input_hw), pair.image) for window in windows]
    (row, column, off), window = min(zip(found_in, windows, strict=True), key=lambda at: at[0][2])
    assert off < 1  # rendered again from a pose that went through a file
    at = place(view, window, grid_hw)[0][row // patch, column // patch]
    assert np.linalg.norm(at - defect.centroid_part_mm) < defect.extent_mm[0]

    rows = np.flatnonzero(memory.rows_of(pair.specimen) & (np.array(memory.view_names) == pair.good_view))
    pictures = [np.asarray(Image.open(BytesIO(memory.pictures[row])).convert("RGB")) for row in rows]
    found_in = [placed_in(picture, pair.good_image) for picture in pictures]
    (row, column, off), number = min(zip(found_in, rows, strict=True), key=lambda at: at[0][2])
    assert off == 0.0
    apart = memory.points_mm[number, row // patch, column // patch] - at
    assert np.linalg.norm(apart) < SMALL.surface.radius_mm


def test_a_memory_keeps_small_pictures_of_what_was_seen(inspector, good_scans):
    assert len(inspector.memory.pictures) == len(inspector.memory)
    assert max(len(picture) for picture in inspector.memory.pictures) < 100_000
    picture = np.asarray(Image.open(BytesIO(inspector.memory.pictures[0])).convert("RGB")).astype(float)
    (view,) = renderer_for(good_scans[0]).render(inspector.cameras[:1])  # it is the reference: its pose is known
    (window, *_) = windows_of(view, SMALL.encoder.input_hw, inspector.encoder.patch_size, SMALL.views.mm_per_patch)
    assert np.abs(picture - cut(view, window, SMALL.encoder.input_hw)).mean() < 4


def test_every_vertex_of_the_file_is_scored_in_its_order(tmp_path, inspector, dented, found):
    folder = found.save(tmp_path / "out")
    ply = read_ply(folder / "scored.ply")
    np.testing.assert_allclose(ply.vertices, dented.scan.vertices_mm, atol=1e-3)
    assert np.array_equal(ply.faces, dented.scan.faces)
    assert {name: str(values.dtype) for name, values in ply.fields.items()} == {
        "anomaly_score": "float32",
        "raw_score": "float32",
        "agreement": "float32",
        "views_seen": "int32",
        "deviation_mm": "float32",
        "geometry_score": "float32",
        "defect_id": "int32",
        "quality": "float32",
    }
    loaded = trimesh.load(folder / "scored.ply", process=False)
    assert loaded.vertices.shape == dented.scan.vertices_mm.shape


def test_the_report_fits_its_schema_and_reads_back(tmp_path, found):
    folder = found.save(tmp_path / "out")
    report = json.loads((folder / "report.json").read_text())
    schema = json.loads(files("rad3d").joinpath("report.schema.json").read_text())
    jsonschema.validate(report, schema)
    assert datetime.now(UTC) - datetime.fromisoformat(report["date"]) < timedelta(hours=1)
    assert report["versions"]["numpy"] == np.__version__
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**report, "verdict": "maybe"}, schema)
    again = load_result(folder)
    assert again.report() == found.report()
    np.testing.assert_array_equal(again.points.anomaly_score, found.points.anomaly_score)
    np.testing.assert_array_equal(again.views[0].score, found.views[0].score)
    (folder / "report.json").write_text(json.dumps({**report, "schema_version": 0}))
    with pytest.raises(ResultError, match="schema_version"):
        load_result(folder)


def test_saved_and_loaded_inspects_alike(tmp_path, inspector, dented, found):
    again = Inspector.load(inspector.save(tmp_path / "memory")).inspect(dented.scan)
    np.testing.assert_allclose(again.points.anomaly_score, found.points.anomaly_score, rtol=1e-3, atol=1e-3)
    assert again.defects[0].area_mm2 == pytest.approx(found.defects[0].area_mm2, rel=0.01)
    assert again.threshold == found.threshold


def test_a_memory_of_another_encoder_is_refused(tmp_path, inspector, dented):
    folder = inspector.save(tmp_path / "memory")
    header = json.loads((folder / "memory.json").read_text())
    (folder / "memory.json").write_text(json.dumps({**header, "fingerprint": "other"}))
    with pytest.raises(MemoryFormatError, match="other") as caught:
        Inspector.load(folder).inspect(dented.scan)
    assert caught.value.source == str(folder)
    (folder / "inspector.json").unlink()
    with pytest.raises(MemoryFormatError, match="fit again"):
        Inspector.load(folder)


def test_half_a_scan_or_another_part_never_passes(inspector, good_scans):
    scan = good_scans[1]
    middle = scan.vertices_mm[:, 0].mean()
    kept = scan.faces[(scan.vertices_mm[scan.faces, 0] < middle).all(axis=1)]
    half = inspector.inspect(replace(scan, specimen="half", faces=kept))
    assert half.verdict != "pass"
    assert "of the inspectable surface was judged, 95% are asked" in half.reason
    assert half.coverage == pytest.approx(0.5, abs=0.15)
    assert half.coverage_total == pytest.approx(0.5, abs=0.15)  # of the part, not of what is left of it
    (found,) = half.registration
    assert found["trusted"]
    assert found["overlap"] < 0.8 < found["fitness"]
    ball = trimesh.creation.icosphere(4, 30.0)
    other = inspector.inspect(Scan("ball", vertices_mm=np.array(ball.vertices), faces=np.array(ball.faces)))
    assert other.verdict == "incomplete"
    assert "not registered" in other.reason
    assert other.part_from_scan is None


def test_a_cloud_full_of_stray_points_is_not_judged(inspector, good_scans):
    points = good_scans[1].surface.points_mm
    rng = np.random.default_rng(0)
    stray = rng.uniform(points.min(axis=0) - 5, points.max(axis=0) + 5, (len(points) // 3, 3))
    noisy = inspector.inspect(Scan("noisy", vertices_mm=np.concatenate([points, stray])))
    assert noisy.verdict == "incomplete"
    assert "of the points lie on no surface" in noisy.reason
    assert np.isnan(noisy.points.anomaly_score).all()


def swollen(scan, by_mm):
    """The mesh with a gentle bulge, 20 mm wide, on the flat top of the base."""
    top = scan.vertices_mm[np.argmax(scan.vertices_mm @ [0, 0, 1])]
    away = scan.vertices_mm - top
    height = by_mm * np.exp(-0.5 * (away**2).sum(axis=1) / 5.0**2)
    return replace(
        scan, vertices_mm=scan.vertices_mm + height[:, None] * scan.surface.normals[scan.surface_from_vertex]
    )


def test_one_good_specimen_is_enough_to_begin_with_and_says_what_it_cannot_know(good_scans, dented, caplog, tmp_path):
    fitted = Inspector.fit(good_scans[:1], SMALL, part=PART)
    single = Inspector.load(fitted.save(tmp_path / "memory"))
    assert single.remembered.deviation_floor_mm == fitted.remembered.deviation_floor_mm >= TOLERANCE_MM
    header = tmp_path / "memory" / "inspector.json"
    written = header.read_text()
    header.write_text(json.dumps({**json.loads(written), "format_version": 3}))
    with pytest.raises(MemoryFormatError, match="fit again"):  # its thresholds are of other scores
        Inspector.load(tmp_path / "memory")
    header.write_text(written)
    assert "one good specimen" in caplog.text
    rate = single.threshold[1]
    assert (rate.n_good, rate.guaranteed, rate.method) == (1, None, "extrapolated")
    assert single.inspect(dented.scan).verdict == "fail"
    assert single.inspect(good_scans[1]).verdict == "pass"
    # what a tolerance allows says nothing where nobody knows how good ones vary; what it does not allow is found
    assert single.inspect(swollen(good_scans[1], 0.12)).verdict == "pass"
    assert single.inspect(swollen(good_scans[1], 0.4)).verdict == "fail"


def test_captured_views_and_rendered_ones_are_not_compared(inspector, good_scans):
    pixels = np.zeros((4, 4, 3), np.uint8)
    capture = Scan("c", vertices_mm=np.empty((0, 3)), views=(View("v", "captured", pixels, np.zeros((4, 4, 3))),))
    with pytest.raises(ScanError, match="rendered views, got one that is seen in captured"):
        inspector.inspect(capture)
    with pytest.raises(ScanError, match="both kinds"):
        Inspector.fit([capture, *good_scans])


def captured(*names):
    pictures = np.random.default_rng(0).integers(0, 255, (len(names), 6, 8, 3), np.uint8)
    nothing = np.full((6, 8, 3), np.nan, np.float32)
    views = tuple(View(name, "captured", picture, nothing) for name, picture in zip(names, pictures, strict=True))
    return Scan("c", vertices_mm=np.empty((0, 3)), views=views)


def test_every_captured_view_has_a_map_in_the_scans_order():
    scan = captured("000", "001", "002")
    seen = ViewScores("001", scan.views[1].image, np.ones((6, 8), np.float32), np.eye(4), np.eye(3))
    found = every_view(scan, (seen,))
    assert [view.name for view in found] == ["000", "001", "002"]
    assert found[1] is seen
    for view, lost in ((scan.views[k], found[k]) for k in (0, 2)):
        np.testing.assert_array_equal(lost.image, view.image)
        assert lost.score.shape == (6, 8)
        assert lost.score.dtype == np.float32
        assert np.isnan(lost.score).all()
        assert lost.part_from_camera is None
        assert lost.intrinsics is None
    rendered = Scan("r", vertices_mm=np.zeros((3, 3)))
    assert every_view(rendered, (seen,)) == (seen,)


def test_a_capture_of_which_nothing_registers_keeps_its_views(tmp_path, inspector):
    result = replace(inspector, cameras=()).inspect(captured("000", "001"))
    assert result.verdict == "incomplete"
    assert "not registered" in result.reason
    assert [view.name for view in result.views] == ["000", "001"]
    folder = result.save(tmp_path / "out")
    assert np.isnan(tifffile.imread(folder / "maps" / "001.tiff")).all()


def test_of_a_scan_that_looks_unlike_the_good_ones_only_the_shape_is_compared(inspector, dented):
    """A bare mesh or a cloud is no defect, though every patch of it looks other than a coloured mesh."""
    assert inspector.looks == ("coloured mesh",)
    good = make_specimen(PART, 22).scan
    cloud = Scan("cloud", vertices_mm=good.surface.points_mm)
    for scan, name in ((replace(good, colours=None), "mesh"), (cloud, "cloud")):
        result = inspector.inspect(scan)
        assert result.verdict == "pass"
        assert f"only the shape was compared: this is a {name}, not a coloured mesh" in result.reason
        assert np.isfinite(result.points.anomaly_score).mean() > 0.9
    bad = inspector.inspect(replace(dented.scan, colours=None))
    assert bad.verdict == "fail"
    assert np.linalg.norm(np.subtract(bad.defects[0].centroid_mm, dented.instances[0].centroid_mm)) < 3.0
    assert not bad.evidence, "its patches do not look like any good one"


def test_colours_that_the_good_ones_lack_are_not_looked_at(inspector, dented):
    result = replace(inspector, looks=("mesh",)).inspect(dented.scan)
    assert "only the shape" not in result.reason
    for view in result.views:
        assert (view.image.max(axis=2) == view.image.min(axis=2)).all(), "grey"


def test_copies_count_once_and_colours_only_where_all_have_them(good_scans, caplog):
    first, second, third = good_scans[:3]
    repainted = replace(first, specimen="repainted", colours=255 - first.colours)
    assert len(usable_together([first, repainted])) == 2, "another colour is another specimen"
    kept = usable_together([first, replace(first, specimen="copy"), replace(second, colours=None), third])
    assert [scan.specimen for scan in kept] == [first.specimen, second.specimen, third.specimen]
    assert "copy of" in caplog.text
    assert "no colours are compared" in caplog.text
    assert [look_of(scan) for scan in kept] == ["mesh"] * 3
    assert usable_together(good_scans) == list(good_scans)


def test_nothing_judged_is_no_score_and_one_side_of_a_sheet_is_half_of_it(inspector, good_scans):
    axis = np.arange(0, 20, 0.5)
    x, y = (v.ravel() for v in np.meshgrid(axis, axis))
    top = np.stack([x, y, np.full(x.size, 0.5)], axis=1)
    points = np.concatenate([top, top * (1, 1, 0)])
    up = np.array([0.0, 0.0, 1.0])
    normals = np.concatenate([np.tile(up, (len(top), 1)), np.tile(-up, (len(top), 1))])
    sheet = Surface(points, normals, np.full(len(points), 0.25))
    shape = ReferenceShape(sheet)
    seen = np.repeat([3, 0], len(top))
    values = np.where(seen > 0, 1.0, np.nan)
    stained = np.where((np.abs(x - 10) < 1.5) & (np.abs(y - 10) < 1.5), 10.0, 0.0)
    observation = SimpleNamespace(surface=sheet, scan=SimpleNamespace(views=()))
    evidence = SimpleNamespace(score=values, views_seen=seen)
    flat = replace(inspector, shape=shape, inspectable=np.ones(len(points), bool))
    assert flat._coverage(observation, evidence) == (0.5, 0.5)
    once = on_reference(sheet, Surface(top, normals[: len(top)], np.full(len(top), 0.25)), x)
    assert np.isfinite(once[: len(top)]).all()
    assert np.isnan(once[len(top) :]).all()
    both = averaged(sheet, np.concatenate([stained, np.zeros(len(top))]))
    assert both[len(top) :].max() == 0
    assert both.max() == pytest.approx(10)
    assert np.isnan(specimen_score(SimpleNamespace(score=np.full(3, np.nan))))


def test_specimens_need_names_of_their_own(good_scans):
    with pytest.raises(ScanError, match="good_1"):
        Inspector.fit([good_scans[0], good_scans[0]])
    with pytest.raises(ScanError, match="none"):
        Inspector.fit([])


def red_around(shape, place, radius):
    points = shape.surface.points_mm
    colours = np.full((len(points), 3), 180, np.uint8)
    colours[(np.abs(points - place) < radius).all(axis=1)] = (255, 2, 0)
    return ReferenceShape(replace(shape.surface, colours=colours))


def test_tolerances_are_settings(inspector, dented):
    tolerant = replace(inspector, settings=replace(inspector.settings, verdict=VerdictSettings(min_area_mm2=1e6)))
    assert tolerant.inspect(dented.scan).verdict == "pass"
    hole, place = dented.instances[0], np.array(dented.instances[0].centroid_mm)
    deeper = replace(inspector, settings=replace(inspector.settings, verdict=VerdictSettings(min_depth_mm=50.0)))
    shallow = deeper.inspect(dented.scan)
    assert shallow.verdict == "pass"
    assert not shallow.points.defect_id.any()
    around = (*(place - 2 * hole.size_mm), *(place + 2 * hole.size_mm))
    blind = replace(
        inspector, settings=replace(inspector.settings, verdict=VerdictSettings(unjudged_boxes_mm=(around,)))
    )
    unjudged = blind.inspect(dented.scan)
    inside = np.abs(dented.scan.vertices_mm - place).max(axis=1) < 1.9 * hole.size_mm
    assert np.isnan(unjudged.points.anomaly_score[inside]).all()
    assert not unjudged.points.defect_id[inside].any()
    painted = replace(inspector, shape=red_around(inspector.shape, place, 2 * hole.size_mm))
    painted = replace(painted, settings=replace(painted.settings, verdict=VerdictSettings(unjudged_colour=(255, 0, 0))))
    assert painted.inspect(dented.scan).points.defect_id[inside].max() == 0
    strict = replace(inspector, settings=replace(inspector.settings, verdict=VerdictSettings(min_coverage=1.0)))
    whole = strict.inspect(make_specimen(PART, 21).scan)
    assert whole.verdict == ("pass" if whole.coverage == 1.0 else "incomplete")


def test_fit_and_inspect_work_where_open3d_cannot_be_imported(tmp_path, good_scans, dented):
    for name, scan in (("a", good_scans[0]), ("b", good_scans[1]), ("new", dented.scan)):
        write_ply(tmp_path / f"{name}.ply", scan.vertices_mm, scan.faces, colours=scan.colours)
    code = """
import sys
sys.modules["open3d"] = None
from rad3d.cli import main
arguments = sys.argv[1:]
small = ["--encoder.input-hw", "224", "224", "--views.count", "4"]
try:
    main(["fit", "a.ply", "b.ply", "-o", "memory", *small])
except SystemExit as done:
    assert done.code == 0, done.code
main(["inspect", "memory", "new.ply", "-o", "out"])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert (tmp_path / "out" / "new" / "scored.ply").exists()
    assert (tmp_path / "out" / "new" / "views.png").exists()
