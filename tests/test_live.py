"""The live viewer: what it serves, and that a real browser shows it.

Results are synthetic here: a ball with made-up scores.
"""

import logging
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import pairwise
from urllib.request import urlopen

import numpy as np
import pytest
import trimesh
from PIL import Image
from scipy.spatial import cKDTree

from rad3d.calibration import p_value
from rad3d.camera import Camera
from rad3d.defects import PEAK_SHARE
from rad3d.errors import ResultError
from rad3d.geometry import inverse, look_at, random_rotation, transform_points, translation
from rad3d.ply import write_ply
from rad3d.result import Defect, Inspection, PatchPair, PointScores, ViewScores
from rad3d.scan import Scan
from rad3d.view import View
from rad3d.viewers.colours import UNSEEN, mapped_colours, rgb
from rad3d.viewers.display import thinned
from rad3d.viewers.lighting import BRIGHTEST, FULL, before_tone_mapping
from rad3d.viewers.pictures import close_up, overlay
from rad3d.viewers.segmenting import Segmenter

pytest.importorskip("viser", reason="the extra `viewer` is not installed")
import viser.transforms as vtf

from rad3d.viewers.live import CLOUD_POINTS, OWN_COLOUR, PANEL_PIXELS, serve, shown

PEAKS = ((np.array([20.0, 0, 0]), 4.0), (np.array([0, -20.0, 0]), 2.0))


def inspection(name="ball", cloud=False):
    mesh = trimesh.creation.icosphere(4, radius=20)
    vertices = np.asarray(mesh.vertices)
    score = np.full(len(vertices), 0.2, np.float32)
    for centre, height in PEAKS:
        score += (height * np.exp(-((vertices - centre) ** 2).sum(axis=1) / 18)).astype(np.float32)
    defects = tuple(
        Defect(k + 1, tuple(at), tuple(at), tuple(at / 20), 60.0, (9.0, 9.0, 0.5), 0.2 + height, height / 2)
        for k, (at, height) in enumerate(PEAKS)
    )
    return Inspection(
        specimen=name,
        source="",
        unit="mm",
        verdict="fail",
        reason="2 defects above the threshold",
        score=4.2,
        threshold=1.0,
        point_threshold=1.0,
        coverage=1.0,
        coverage_total=1.0,
        false_reject={},
        settings={"verdict": {"min_area_mm2": 0.5}},
        fingerprint="",
        timings_s={},
        defects=defects,
        vertices_mm=vertices,
        faces=None if cloud else np.asarray(mesh.faces),
        good_scores=np.array([0.3, 0.5, 0.8]),
        points=PointScores(
            score,
            score,
            score / 5,
            np.ones(len(score), np.int32),
            vertices[:, 2].astype(np.float32),
            0 * score,
            np.zeros(len(score), np.int32),
        ),
    )


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def served():
    viewers = []

    def serving(items, **options):
        viewers.append(serve(items, port=options.pop("port", None) or free_port(), block=False, **options))
        return viewers[-1]

    yield serving
    for viewer in viewers:
        viewer.stop()


def tone_mapped(light):
    """What three.js shows of linear light with its filmic tone mapping, 0..255."""
    into = np.array([[0.59719, 0.35458, 0.04823], [0.07600, 0.90834, 0.01566], [0.02840, 0.13383, 0.83777]])
    out = np.array([[1.60475, -0.53108, -0.07367], [-0.10208, 1.10813, -0.00605], [-0.00327, -0.07276, 1.07602]])
    v = light / 0.6 @ into.T
    fitted = (v * (v + 0.0245786) - 0.000090537) / (v * (0.983729 * v + 0.4329510) + 0.238081)
    share = np.clip(fitted @ out.T, 0, 1)
    return 255 * np.where(share <= 0.0031308, 12.92 * share, 1.055 * share ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("scale", ["heat", "diverging", "sequential"])
def test_fully_lit_colours_are_those_of_the_legend(scale):
    colours = mapped_colours(np.r_[np.linspace(-1, 1, 256), np.nan], -1, 1, scale)
    shown = tone_mapped(before_tone_mapping(colours) * FULL / 255)
    wrong = np.abs(shown - BRIGHTEST * colours)
    assert np.percentile(wrong, 90) < 4
    assert wrong.mean() < 4


@pytest.mark.parametrize("cloud", [False, True])
def test_segments_again_as_the_peaks_are(cloud):
    segmenter = Segmenter(inspection(cloud=cloud))
    assert segmenter.defects(1.0) == segmenter.inspection.defects
    assert [len(segmenter.defects(t)) for t in (1.5, 2.5, 5.0)] == [2, 1, 0]
    (worst,) = segmenter.defects(2.5)
    assert worst.peak_score == pytest.approx(4.2, abs=0.05)
    assert np.linalg.norm(np.array(worst.centroid_mm) - PEAKS[0][0]) < 1.5
    assert worst.p_value == p_value(segmenter.inspection.good_scores, worst.peak_score)
    # where 4 exp(-r^2 / 18) + 0.2 exceeds the share of its peak at which a defect ends; some 2 mm^2 a point
    assert worst.area_mm2 == pytest.approx(np.pi * 18 * np.log(4 / (PEAK_SHARE * 4.2 - 0.2)), rel=0.2)


def test_slider_changes_list_and_markers(served):
    viewer = served([inspection()])
    assert len(viewer.defects) == 2
    viewer.threshold.value = 2.5
    assert len(viewer.defects) == 1
    viewer.threshold.value = 1.0
    assert len(viewer.defects) == 2


def test_cameras_stand_where_they_stood_before_registration(served):
    scan_from_part = translation((300.0, -40.0, 7.0)) @ random_rotation(np.random.default_rng(3))
    eye = np.array([60.0, 20.0, 30.0])
    camera = Camera.from_field_of_view((30, 40), 0.6, look_at(eye, np.zeros(3)))
    picture = np.zeros((30, 40, 3), np.uint8)
    view = ViewScores("v", picture, np.zeros((30, 40), np.float32), camera.part_from_camera, camera.intrinsics)
    item = inspection()
    moved = replace(
        item,
        vertices_mm=transform_points(scan_from_part, item.vertices_mm),
        part_from_scan=inverse(scan_from_part),
        views=(view,),
    )
    viewer = served([moved])
    viewer._show_views.value = True
    (frustum,) = viewer._frames
    np.testing.assert_allclose(frustum.position, transform_points(scan_from_part, eye[None])[0], atol=1e-4)
    segmented = viewer.items[0].segmenter.defects(1.5)[0]
    np.testing.assert_allclose(
        transform_points(scan_from_part, np.array([segmented.centroid_part_mm]))[0], segmented.centroid_mm, atol=1e-6
    )
    assert np.linalg.norm(segmented.centroid_part_mm - PEAKS[0][0]) < 1.5


def test_a_view_that_was_not_registered_stands_nowhere(served):
    picture, blank = np.zeros((30, 40, 3), np.uint8), np.full((30, 40), np.nan, np.float32)
    camera = Camera.from_field_of_view((30, 40), 0.6, look_at(np.array([60.0, 20, 30]), np.zeros(3)))
    lost = ViewScores("lost", picture, blank)
    seen = ViewScores("seen", picture, blank, camera.part_from_camera, camera.intrinsics)
    viewer = served([replace(inspection(), views=(lost, seen))])
    viewer._show_views.value = True
    assert len(viewer._frames) == 1
    assert served([replace(inspection(), views=(lost,))])._show_views is None


def test_side_by_side_without_touching(served):
    viewer = served([inspection("a"), inspection("b", cloud=True), Scan("c", vertices_mm=inspection().vertices_mm)])
    spans = sorted((o[0] + s.vertices_mm[:, 0].min(), o[0] + s.vertices_mm[:, 0].max()) for s, o in viewer._placed())
    assert all(right < left for (_, right), (left, _) in pairwise(spans))
    assert [index for index, _ in viewer.defects] == [0, 0, 1, 1]


def test_one_range_for_all_that_is_shown(served):
    """The legend speaks of every item: the same value has the same colour in each."""
    first, second = inspection("a", cloud=True), inspection("b", cloud=True)
    wide = replace(second.points, deviation_mm=4 * second.points.deviation_mm)
    viewer = served([first, replace(second, points=wide, threshold=3.0)])
    for mode, field in (("Signed deviation [mm]", "deviation_mm"), ("Anomaly score", "anomaly_score")):
        viewer.mode.value = mode
        values = np.concatenate([item.quantities[mode].values for item in viewer.items])
        colours = np.concatenate([drawn.colors for drawn in viewer._drawn])
        order = np.argsort(values)
        near = np.diff(values[order]) < 1e-3 * np.ptp(values)
        jumps = np.abs(np.diff(colours[order].astype(int), axis=0)).max(axis=1)
        assert jumps[near].max() < 20, field
    assert ">6<" in viewer._legend.content  # twice the higher threshold


def test_an_item_without_deviations_does_not_widen_the_range_of_the_others(served):
    flat = inspection("a")
    bare = replace(
        inspection("b"), points=replace(flat.points, deviation_mm=np.full_like(flat.points.deviation_mm, np.nan))
    )
    near = replace(flat, points=replace(flat.points, deviation_mm=0.01 * flat.points.deviation_mm), threshold=0.01)
    alone = served([near]).items[0].quantities["Signed deviation [mm]"].high
    assert alone < 0.5
    assert [item.quantities["Signed deviation [mm]"].high for item in served([near, bare]).items] == [alone, alone]


def test_nominal_stands_where_each_item_was_before_registration(served):
    scan_from_part = translation((300.0, -40.0, 7.0)) @ random_rotation(np.random.default_rng(3))
    item = inspection("a")
    moved = replace(
        item, vertices_mm=transform_points(scan_from_part, item.vertices_mm), part_from_scan=inverse(scan_from_part)
    )
    nominal = Scan("nominal", vertices_mm=item.vertices_mm, faces=item.faces)
    viewer = served([moved, item], nominal=nominal)
    for ghost, drawn in zip(viewer._ghosts, viewer.items, strict=True):
        assert 0 < ghost.opacity < 0.5  # the part is seen through it
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = vtf.SO3(np.asarray(ghost.wxyz)).as_matrix(), ghost.position
        where = transform_points(pose, ghost.vertices.astype(float))
        offset = viewer._offsets[viewer.items.index(drawn)]
        assert cKDTree(where).query(drawn.vertices_mm + offset)[0].max() < 1e-3


def test_a_memory_is_shown_as_its_patches(served, small_memory):
    points = small_memory.points_mm
    viewer = served([small_memory])
    (item,) = viewer.items
    assert item.name == "gear: 55 remembered patches"
    placed = points.reshape(-1, 3)[5:]
    where = np.lexsort(item.vertices_mm.T)
    np.testing.assert_array_equal(item.vertices_mm[where], placed[np.lexsort(placed.T)])
    colours = viewer._drawn[0].colors[where]
    of_second = (np.arange(60) >= 40)[5:][np.lexsort(placed.T)]
    assert len(np.unique(colours[of_second], axis=0)) == len(np.unique(colours[~of_second], axis=0)) == 1
    assert (colours[of_second][0] != colours[~of_second][0]).any()
    assert viewer.defects == []


def test_a_captured_scan_is_shown_with_what_its_views_saw(served):
    rng = np.random.default_rng(0)
    points = rng.uniform(-10, 10, (2, 4, 5, 3)).astype(np.float32)
    points[0, 0] = np.nan
    images = rng.integers(0, 255, (2, 4, 5, 3), np.uint8)
    views = [View(str(k), "captured", image, seen) for k, (image, seen) in enumerate(zip(images, points, strict=True))]
    views.append(View("bare", "captured", images[0]))
    viewer = served([Scan("capture", vertices_mm=np.empty((0, 3)), views=tuple(views))])
    (item,) = viewer.items
    seen = np.isfinite(points).all(axis=3)
    order = np.lexsort(item.vertices_mm.T)
    np.testing.assert_array_equal(item.vertices_mm[order], points[seen][np.lexsort(points[seen].T)])
    np.testing.assert_array_equal(viewer._drawn[0].colors[order], images[seen][np.lexsort(points[seen].T)])


def seen_from(eye, name="v"):
    """A view of the ball from there, with made-up pixels."""
    camera = Camera.from_field_of_view((64, 64), 0.7, look_at(np.array(eye), np.zeros(3)))
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    heat = np.full((64, 64), 0.2, np.float32)
    heat[20:44, 20:44] = 4.0
    return ViewScores(name, image, heat, camera.part_from_camera, camera.intrinsics)


def test_a_click_on_a_camera_shows_its_image_and_heat_map(served):
    view = seen_from((80.0, 0.0, 0.0), "<b>v")
    viewer = served([replace(inspection(), views=(view,))])
    viewer._show_views.value = True
    (frustum,) = viewer._frames
    (clicked,) = frustum._impl.click_cb
    assert not viewer._detail.visible
    clicked.callback(None)
    assert viewer._detail.visible
    assert "&lt;b&gt;v" in viewer._words.content
    shown_image = viewer._image.image[:: PANEL_PIXELS // 128, :: PANEL_PIXELS // 128]
    np.testing.assert_array_equal(shown_image[:, :64], view.image)
    np.testing.assert_array_equal(shown_image[:, 64:], overlay(view, 1.0))


def test_evidence_of_a_defect_is_shown_beside_the_good_patch(served):
    patch, good = (np.full((20, 20, 3), value, np.uint8) for value in (40, 200))
    pair = PatchPair(1, "v", "good_3", "w", 0.25, patch, good)
    item = replace(inspection(), views=(seen_from((80.0, 0.0, 0.0)),), evidence=(pair,))
    viewer = served([replace(item, part_from_scan=np.eye(4))])
    viewer._explain(0, item.defects[0])
    assert viewer._image.visible
    assert viewer._patches.visible
    assert "good patch most like it, in w of good_3; raw score 0.25" in viewer._compared.content
    pictures = viewer._patches.image
    assert (pictures[0, 0] == 40).all()
    assert (pictures[0, -1] == 200).all()
    viewer._explain(0, item.defects[1])  # has none
    assert not viewer._patches.visible
    assert not viewer._compared.visible


def test_what_is_shown_close_up_follows_the_slider(served):
    item = inspection()
    views = seen_from((80.0, 0.0, 0.0)), seen_from((0.0, -80.0, 0.0), "w")
    views = tuple(replace(view, score=np.where(view.score > 1, np.linspace(1, 5, 64), 0.2)) for view in views)
    pairs = tuple(PatchPair(k, "v", "good", "w", 0.25, np.full((20, 20, 3), 40 * k, np.uint8), None) for k in (1, 2))
    # numbered otherwise than by their peaks, as where a defect was joined or judged: numbers are no names
    swapped = tuple(replace(defect, id=3 - defect.id) for defect in item.defects[::-1])
    near = np.stack([np.linalg.norm(item.vertices_mm - at, axis=1) < 4 for at, _ in PEAKS])
    marked = replace(item.points, defect_id=np.select(list(near), [2, 1], 0).astype(np.int32))
    item = replace(item, points=marked, defects=swapped, views=views, evidence=pairs, part_from_scan=np.eye(4))
    viewer = served([item])
    viewer.threshold.value = 2.5
    ((_, worst),) = viewer.defects
    assert worst.id == 1
    viewer._explain(0, worst)
    assert (viewer._patches.image[0, 0] == 80).all(), "the evidence found at its place, not the one of its number"
    window = close_up(item, worst)[1]
    outlined = overlay(views[0], 2.5)[window]
    assert (outlined != overlay(views[0], 1.0)[window]).any()
    times = viewer._image.image.shape[0] // outlined.shape[0]
    np.testing.assert_array_equal(viewer._image.image[::times, ::times][:, -outlined.shape[1] :], outlined)
    viewer.threshold.value = 1.5
    assert not viewer._detail.visible, "it showed a defect of another segmentation"
    viewer._show_views.value = True
    (clicked,) = viewer._frames[0]._impl.click_cb
    clicked.callback(None)
    before = viewer._image.image.copy()
    viewer.threshold.value = 3.0
    assert viewer._detail.visible
    assert (viewer._image.image != before).any()


def test_all_anomalous_and_nothing_judged_are_shown(served):
    item = inspection()
    hot = replace(item.points, anomaly_score=np.full(len(item.vertices_mm), 9.0, np.float32))
    blank = PointScores.unknown(len(item.vertices_mm))
    unseen = replace(item, points=blank, defects=(), score=float("nan"), coverage=0.0, verdict="incomplete")
    viewer = served([replace(item, points=hot, score=9.0), unseen])
    assert viewer.threshold.max > 9
    viewer.threshold.value = 2.0
    ((index, whole),) = viewer.defects
    assert index == 0
    assert whole.area_mm2 == pytest.approx(4 * np.pi * 20**2, rel=0.01)
    viewer.threshold.value = viewer.threshold.max
    assert viewer.defects == []
    assert (viewer.items[1].colours["Anomaly score"]() == rgb(UNSEEN)).all()
    for mode in viewer.items[1].colours:
        viewer.mode.value = mode


def test_taken_port_moves_on_and_says_so(served, caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with caplog.at_level(logging.WARNING):
            viewer = served([inspection()], port=port)
    assert viewer.server.get_port() != port
    assert f"port {port} is taken, using {viewer.server.get_port()}" in caplog.text


def test_only_this_machine_unless_told(served, caplog):
    with caplog.at_level(logging.WARNING):
        viewer = served([inspection()])
        assert viewer.server.get_host() == "127.0.0.1"
        assert "everybody" not in caplog.text
        served([inspection()], host="0.0.0.0")
    assert "everybody who reaches this machine can see the parts" in caplog.text


def test_an_address_of_all_is_told_as_one_to_open(served, caplog):
    with caplog.at_level(logging.INFO):
        viewer = served([inspection()], host="0.0.0.0")
    port = viewer.server.get_port()
    assert viewer.url == f"http://localhost:{port}"
    assert f"showing at http://localhost:{port}, elsewhere at http://{socket.gethostname()}:{port} " in caplog.text


def test_the_slider_waits_until_its_moves_are_quick(served, monkeypatch):
    held, prepare = threading.Event(), Segmenter.prepare
    monkeypatch.setattr(Segmenter, "prepare", lambda segmenter: (held.wait(60), prepare(segmenter)))
    viewer = served([inspection()])
    assert viewer.threshold.disabled
    assert viewer._preparing.visible
    held.set()
    for _ in range(600):
        if not viewer.threshold.disabled:
            break
        time.sleep(0.05)
    assert not viewer.threshold.disabled
    assert not viewer._preparing.visible
    assert "_scored" in vars(viewer.items[0].segmenter)


def test_legend_names_the_quantity_with_its_unit(served):
    viewer = served([inspection()])
    viewer.mode.value = "Signed deviation [mm]"
    assert "Signed deviation [mm]" in viewer._legend.content
    assert UNSEEN in viewer._legend.content


def test_large_meshes_are_thinned_and_it_is_said(served):
    mesh = trimesh.creation.icosphere(8, radius=20)
    viewer = served([Scan("big", vertices_mm=mesh.vertices, faces=mesh.faces)])
    (item,) = viewer.items
    assert len(mesh.vertices) > 600_000
    assert 100_000 < len(item.vertices_mm) <= 250_000
    assert len(viewer._drawn[0].glb_data) < 20e6
    assert f"drawn with {len(item.vertices_mm):,} of {len(mesh.vertices):,} points" in viewer._heading()
    assert "drawn with" not in served([inspection()])._heading()


def test_more_points_than_a_browser_draws_are_thinned(served):
    vertices = np.random.default_rng(0).uniform(0, 100, (1_200_000, 3)) + 4000.0
    viewer = served([Scan("big", vertices_mm=vertices)])
    (item,), (sent,) = viewer.items, viewer._drawn
    assert item.original == 1_200_000
    assert 300_000 < len(item.vertices_mm) <= 1_000_000
    assert sent.points.nbytes + sent.colors.nbytes < 20e6
    # far from the origin 16 bits would put points into layers 2 mm apart
    assert np.abs(sent.points - item.vertices_mm).max() < 1e-3


def test_what_a_browser_draws_is_shared_by_all_items(served):
    rng = np.random.default_rng(0)
    clouds = [Scan(f"big {k}", vertices_mm=rng.uniform(0, 100, (400_000, 3))) for k in range(3)]
    viewer = served(clouds)
    assert all(100_000 < len(item.vertices_mm) <= 333_333 for item in viewer.items)
    assert sum(sent.points.nbytes + sent.colors.nbytes for sent in viewer._drawn) < 20e6
    assert viewer._heading().count("of 400,000 points") == 3


def test_ten_million_points_are_thinned_and_their_peak_is_kept():
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((10_000_000, 3), np.float32)
    vertices = 50 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    rank = np.zeros(len(vertices), np.float32)
    rank[1234567] = 9.0
    kept, faces = thinned(vertices, None, rank, CLOUD_POINTS)
    assert faces is None
    assert 300_000 < len(kept) <= CLOUD_POINTS
    assert 1234567 in kept


def test_own_colours_come_from_the_scan_while_it_is_there(tmp_path, caplog):
    item = replace(inspection(), source=str(tmp_path / "ball.ply"))
    assert OWN_COLOUR not in shown(item).colours  # the file is missing
    own = np.random.default_rng(0).integers(0, 255, (len(item.vertices_mm), 3), np.uint8)
    write_ply(tmp_path / "ball.ply", item.vertices_mm, item.faces, colours=own)
    display = shown(item)
    nearest = np.linalg.norm(display.vertices_mm[:, None] - item.vertices_mm[None, ::50], axis=2).argmin(axis=0)
    np.testing.assert_array_equal(display.colours[OWN_COLOUR]()[nearest], own[::50])
    write_ply(tmp_path / "ball.ply", item.vertices_mm[:99], colours=own[:99])
    assert OWN_COLOUR not in shown(item).colours  # another scan by now
    (tmp_path / "ball.ply").write_bytes(b"ply\n")
    assert OWN_COLOUR not in shown(item).colours
    assert "ball.ply" in caplog.text


def test_ends_cleanly_on_ctrl_c(tmp_path):
    folder, port = inspection().save(tmp_path / "out"), free_port()
    code = "import sys; from rad3d.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "view", str(folder), "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        said = next(line for line in process.stderr if "showing at" in line)
        with urlopen(f"http://127.0.0.1:{port}", timeout=60) as page:
            assert b"<html" in page.read()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert f"http://127.0.0.1:{port}" in said
    assert process.returncode == 0
    assert "viewer ended" in rest
    assert "Traceback" not in rest
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_scan_and_a_memory_are_shown_from_the_command_line(small_memory, tmp_path):
    ball, memory = tmp_path / "ball.ply", tmp_path / "memory"
    small_memory.save(memory)
    mesh = trimesh.creation.icosphere(2, radius=20)
    write_ply(ball, np.asarray(mesh.vertices), np.asarray(mesh.faces))
    port = free_port()
    command = [sys.executable, "-m", "rad3d", "view", ball, memory, "--nominal", ball, "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        next(line for line in process.stderr if "showing at" in line)
        with urlopen(f"http://127.0.0.1:{port}", timeout=60) as page:
            assert b"<html" in page.read()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in rest


def unregistered(name="lost"):
    """A capture of which no view could be placed."""
    empty, points = np.empty((0, 3)), PointScores.unknown(0)
    bare = replace(inspection(name, cloud=True), vertices_mm=empty, points=points, defects=())
    return replace(bare, verdict="incomplete", reason="not registered: too few points", score=float("nan"))


def test_what_has_no_surface_is_left_out(served, caplog):
    with caplog.at_level(logging.WARNING):
        viewer = served([unregistered(), inspection("a"), unregistered("other")])
    assert [item.name for item in viewer.items] == ["a"]
    assert "lost: expected a surface to show" in caplog.text
    assert "other: expected a surface to show" in caplog.text
    with pytest.raises(ResultError, match="a surface to show"):
        served([unregistered()])


def test_nothing_to_show_is_an_error():
    with pytest.raises(ResultError, match="at least one thing"):
        serve([])
    nothing = replace(Scan("x", vertices_mm=np.zeros((1, 3))), specimen="x")
    object.__setattr__(nothing, "vertices_mm", np.empty((0, 3)))
    with pytest.raises(ResultError, match="a surface to show"):
        shown(nothing)


# In a browser


PATIENCE_MS = 150_000
CLIP = {"x": 0, "y": 160, "width": 600, "height": 440}
"""The part, without what viser says about software rendering above it."""


def coloured(tab, file, enough):
    """Wait until the page shows what is asked; the picture."""
    for _ in range(60):
        tab.screenshot(path=file, timeout=PATIENCE_MS, clip=CLIP)
        picture = np.asarray(Image.open(file).convert("RGB")).astype(int)
        if enough(picture):
            return picture
        tab.wait_for_timeout(500)
    raise AssertionError(f"never seen; the last picture is {file}")


def red(picture):
    return (picture[..., 0] > 110) & (picture[..., 1] < 70) & (picture[..., 2] < 80)


def blue(picture):
    return picture[..., 2] > picture[..., 0] + 40


def drag_threshold(tab, viewer, value):
    """Move the slider's thumb, as a user does."""
    track = tab.locator(".mantine-Slider-track").bounding_box()
    share = (value - viewer.threshold.min) / (viewer.threshold.max - viewer.threshold.min)
    tab.get_by_role("slider").hover()
    tab.mouse.down()
    tab.mouse.move(track["x"] + share * track["width"], track["y"] + track["height"] / 2, steps=5)
    tab.mouse.up()


OVERLAPPING = """(scene) => {
  const shown = [...document.querySelectorAll(
    scene + "button, input, img, table, [role=slider], .rad3d-names, .rad3d-legend, .rad3d-count")]
    .filter((e) => e.checkVisibility({ opacityProperty: true, visibilityProperty: true }))
    .map((e) => [e, e.getBoundingClientRect()]).filter(([, r]) => r.width > 1 && r.height > 1);
  return shown.flatMap(([a, p], i) => shown.slice(i + 1).filter(([b, q]) =>
    !a.contains(b) && !b.contains(a) && !(a.tagName === "CANVAS" && b.tagName === "CANVAS")
    && Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1
    && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 1)
    .map(([b]) => a.outerHTML.slice(0, 90) + " / " + b.outerHTML.slice(0, 90))); }"""


def test_nothing_overlaps_at_a_desk(browser, served, pictures):
    patch = np.full((20, 20, 3), 90, np.uint8)
    evidence = (PatchPair(2, "v", "good_3", "w", 0.25, patch, patch),)
    first = replace(inspection("a part with a long name_" * 3), views=(seen_from((0, -80.0, 0)),), evidence=evidence)
    viewer = served([replace(first, part_from_scan=np.eye(4)), inspection("b", cloud=True)])
    tab = browser.new_page(viewport={"width": 1280, "height": 800})
    tab.set_default_timeout(PATIENCE_MS)
    tab.goto(viewer.url)
    tab.get_by_text("4 defects").wait_for()
    for button in tab.locator("[class*=Notification-closeButton]").all():  # says that WebGL is drawn in software
        button.click()
    tab.locator("[class*=Notification-root]").first.wait_for(state="detached")
    tab.get_by_role("button", name=re.compile("^2: 60 mm², peak 2.2, a part")).click()
    tab.locator("table").wait_for()
    tab.wait_for_timeout(1000)  # the flight
    tab.screenshot(path=pictures / "live-1280x800.png", timeout=PATIENCE_MS)
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.evaluate(OVERLAPPING, "canvas, ") == []
    tab.close()


def test_browser_shows_switches_and_flies(browser, served, tmp_path, pictures):
    name = "<img src=x onerror=alert(1)>"
    viewer = served([inspection(name)])
    wrong = []
    tab = browser.new_page(viewport={"width": 900, "height": 640})
    tab.set_default_timeout(PATIENCE_MS)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    tab.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    own = (viewer.url, viewer.url.replace("http", "ws"), "data:", "blob:")
    tab.on("request", lambda request: None if request.url.startswith(own) else wrong.append(request.url))
    tab.goto(viewer.url)
    tab.get_by_text("2 defects").wait_for()
    assert tab.get_by_text(name).count() == 1
    far = coloured(tab, tmp_path / "far.png", lambda picture: red(picture).sum() > 20)

    tab.get_by_role("button", name=re.compile(r"^1: 60 mm², peak 4\.2")).click()
    middle = tab.viewport_size["height"] / 2, tab.locator("canvas").first.bounding_box()["width"] / 2

    def flown_to(picture):
        if red(picture).sum() <= 1.3 * red(far).sum():
            return False
        row, column = (axis.mean() for axis in np.nonzero(red(picture)))
        return abs(row + CLIP["y"] - middle[0]) < 60 and abs(column - middle[1]) < 60

    coloured(tab, tmp_path / "near.png", flown_to)
    assert tab.get_by_text("9 × 9 × 0.5 mm").count() == 1

    drag_threshold(tab, viewer, 2.5)
    tab.get_by_text("1 defect", exact=True).wait_for()
    assert 2.2 < viewer.threshold.value < 4.2
    tab.get_by_role("combobox").and_(tab.locator("[value='Anomaly score']")).click()
    tab.get_by_role("option", name="Signed deviation [mm]").click()
    coloured(tab, tmp_path / "deviation.png", lambda picture: blue(picture).mean() > 0.02)

    with tab.expect_download(timeout=PATIENCE_MS) as download:
        tab.get_by_role("button", name="Save picture").click()
    download.value.save_as(tmp_path / "saved.png")
    saved = np.asarray(Image.open(tmp_path / "saved.png").convert("RGB")).astype(int)
    assert saved.shape[0] == tab.viewport_size["height"]  # as it is seen
    assert blue(saved).mean() > 0.02

    tab.set_viewport_size({"width": 390, "height": 844})
    tab.get_by_role("button", name="Save picture").wait_for()
    tab.screenshot(path=pictures / "live-390x844.png", timeout=PATIENCE_MS)
    panel = tab.locator(".mantine-Paper-root", has=tab.get_by_text("rad3d", exact=True)).bounding_box()
    assert panel is not None
    assert panel["y"] >= 0.69 * 844, "beneath the part, which stands in the middle"
    assert (panel["x"], panel["width"]) == (0, 390)
    assert tab.evaluate(OVERLAPPING, "") == [], "in the panel, which is laid over the scene"
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert wrong == []
    tab.close()
