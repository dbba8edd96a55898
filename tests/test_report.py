"""The report: what it says, that it is one file that asks nothing, and that a real browser draws it.

Results are synthetic here: a plate with a hub, scores made up as smooth noise with one or two peaks.
"""

import html
import json
import re
import time
from base64 import b64decode
from dataclasses import fields, replace
from io import BytesIO

import numpy as np
import pytest
import trimesh
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from rad3d.camera import Camera
from rad3d.errors import ResultError
from rad3d.geometry import look_at
from rad3d.render.raycast import RayCaster
from rad3d.result import Defect, Inspection, PatchPair, PointScores, ViewScores, load_result
from rad3d.viewers.display import display_of, thinned
from rad3d.viewers.exports import write_csv
from rad3d.viewers.figures import contact_sheet
from rad3d.viewers.measures import defect_measures, number
from rad3d.viewers.pdf import _summary, pages_of, write_pdf
from rad3d.viewers.pictures import close_up, overlay
from rad3d.viewers.report import inspection_html, report_html, write_report

PEAKS = (((22.0, 5.0, 5.0), 2.4), ((-12.0, 8.0, 5.0), 1.7))
HOSTILE = ("<img src=x onerror=alert(1)>.ply", "../../x", "</script><script>alert(1)</script>", "a$b$\"'&amp;")


RED, GREEN = (np.full((40, 40, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 160, 0)))


def plate():
    mesh = trimesh.creation.box((60, 40, 10)).difference(trimesh.creation.cylinder(7, 40, sections=24))
    return trimesh.Trimesh(*trimesh.remesh.subdivide_to_size(mesh.vertices, mesh.faces, 4.0, max_iter=12))


def inspection(name="plate-1", peaks=PEAKS, cloud=False, seen=True, views=2):
    mesh = plate()
    vertices = np.asarray(mesh.vertices)
    score = 0.25 + 0.15 * np.sin(vertices[:, 0] / 6) * np.cos(vertices[:, 1] / 5)
    for centre, height in peaks:
        score = score + height * np.exp(-((vertices - centre) ** 2).sum(axis=1) / 18)
    score = np.where(seen & (vertices[:, 2] > -4.9), score, np.nan).astype(np.float32)
    judged = np.isfinite(score)
    points = PointScores(
        anomaly_score=score,
        raw_score=0.2 * score,
        agreement=np.where(judged, score > 1, np.nan).astype(np.float32),
        views_seen=np.where(judged, 3, 0).astype(np.int32),
        deviation_mm=np.where(judged, 0.1 * np.sin(vertices[:, 1] / 4), np.nan).astype(np.float32),
        geometry_score=np.where(judged, np.abs(np.sin(vertices[:, 1] / 4)), np.nan).astype(np.float32),
        defect_id=np.where(np.nan_to_num(score) > 1, np.where(vertices[:, 0] > 5, 1, 2), 0).astype(np.int32),
    )
    caster, shots = RayCaster(vertices, np.asarray(mesh.faces)), []
    for k in range(views):
        angle = 0.7 + 2 * np.pi * k / max(views, 1)
        eye = np.array([110 * np.cos(angle), 110 * np.sin(angle), 90])
        camera = Camera.from_field_of_view((96, 128), 0.6, look_at(eye, np.zeros(3)))
        (view,) = caster.render([camera])
        surface = np.isfinite(view.points_mm).all(axis=2)
        heat = np.full(surface.shape, np.nan, np.float32)
        heat[surface] = 0.3
        for centre, height in peaks if seen else ():
            heat += height * np.exp(-((view.points_mm - centre) ** 2).sum(axis=2) / 18)
        shots.append(ViewScores(f"view_{k}", view.image, heat, camera.part_from_camera, camera.intrinsics))
    defects = tuple(
        Defect(k + 1, centre, centre, (0.0, 0.0, 1.0), 21.47, (7.013, 5.2, 0.31), height, height / 2)
        for k, (centre, height) in enumerate(peaks)
    )
    return Inspection(
        specimen=name,
        source=f"scans/{name}",
        unit="mm",
        verdict="fail" if peaks else "pass" if seen else "incomplete",
        reason=f"{len(peaks)} defects above the threshold" if peaks else "no defect above the threshold",
        score=max([h for _, h in peaks], default=0.4) if seen else float("nan"),
        threshold=1.0,
        point_threshold=1.0,
        coverage=0.978 if seen else 0.0,
        coverage_total=0.78 if seen else 0.0,
        false_reject={"asked": 0.05, "guaranteed": 0.0625, "n_good": 15, "method": "leave one out"},
        settings={"encoder": {"name": "made-up-encoder"}, "verdict": {"min_coverage": 0.95, "min_area_mm2": 0.5}},
        fingerprint="abc123",
        timings_s={"encode": 1.234567},
        defects=defects,
        vertices_mm=vertices,
        faces=None if cloud else np.asarray(mesh.faces),
        points=points,
        views=tuple(shots),
        part_from_scan=np.eye(4),
        good_scores=np.array([0.7, 0.8, 1.1]),
        evidence=tuple(
            PatchPair(k + 1, "view_0", "good_3", "view_7", 0.3141, RED, GREEN if k == 0 else None)
            for k in range(len(peaks))
        ),
    )


@pytest.fixture(scope="module")
def failed():
    return inspection()


@pytest.fixture(scope="module")
def page(failed):
    return report_html([failed])


def text_of(page):
    """What a reader sees, without scripts, styles and tags."""
    page = re.sub(r"<(script|style|svg)\b.*?</\1>", " ", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def test_says_what_was_found_with_units(page):
    text = text_of(page)
    assert "FAIL 2 defects above the threshold" in text
    assert text.index("FAIL") < text.index("Defects")  # the verdict comes first
    for said in (
        "21.5 mm²",
        "7.01 × 5.2 × 0.31 mm",
        "22.0, 5.0, 5.0 mm",
        "97.8%",
        "78.0%",
        "made-up-encoder",
        "abc123",
    ):
        assert said in text
    assert "asked 5.0%, at most 6.2% guaranteed, from 15 good specimens" in text
    assert "7.013" not in text  # digits nobody measured


def test_shows_the_evidence_beside_the_nearest_good_patch(page):
    text = text_of(page)
    said = "Its patch least like any good one, in view_0, {} view_7 of good_3; raw score 0.314"
    assert said.format("beside the good patch most like it, in") in text
    assert said.format("most like") in text  # a memory without pictures
    shown = re.findall(r'<img src="data:image/webp;base64,([^"]+)" alt="(A patch of|The good patch)', page)
    pictures = [np.asarray(Image.open(BytesIO(b64decode(data)))).astype(int) for data, _ in shown]
    assert [name for _, name in shown] == ["A patch of", "The good patch", "A patch of"]
    for picture, colour in zip(pictures, (RED, GREEN, RED), strict=True):
        assert np.abs(picture[1:6, 1:6] - colour[0, 0]).max() < 25
        assert np.abs(picture[18:22, 18:22] - colour[0, 0]).max() < 40
        assert picture[15, 20].min() > 150  # outlined in white


REGISTERED = {
    "view": None,
    "fitness": 0.9976,
    "rmse_mm": 0.01625,
    "overlap": 0.9,
    "margin": 1.0,
    "free_directions": ["turning about its axis"],
    "trusted": True,
    "reason": "",
}


def traced(item):
    """With all that a result knows of where it comes from: one view was placed, another was not."""
    lost = {"view": "view_1", "fitness": 0.2, "rmse_mm": float("nan"), "free_directions": [], "trusted": False}
    return replace(
        item,
        memory={"folder": "/memories/plate", "identity": "0123abcd", "judgements": [2, 5]},
        registration=(
            {**REGISTERED, "view": "view_0"},
            {**REGISTERED, **lost, "reason": "too little of the part is seen"},
        ),
        date="2026-03-01T09:30:00+00:00",
        versions={"rad3d": "0.0.7", "python": "3.11.2"},
    )


TRACES = (
    "/memories/plate",
    "0123abcd",
    "judgements 2, 5",
    "Registration of view_0",
    "fitness 0.998, RMSE 0.0163 mm, free: turning about its axis",
    "Registration of view_1",
    "not used: too little of the part is seen",
    "2026-03-01 09:30 UTC",
    "rad3d 0.0.7, python 3.11.2",
    "made-up-encoder",
    "encoder.name",
)


def said_in_pdf(item):
    return " ".join(text.get_text() for page in pages_of(item) for text in page.texts)


def with_every_measure(item, count=5):
    """So many defects of which everything is known, with long words wherever words can be long."""
    known = {"kind": "missing material", "deviation_mm": -1234.5, "volume_mm3": -12345.6, "geometry_share": 0.875}
    one = replace(item.defects[0], **known, agreement=0.9878, views_seen=16, p_value=0.00195)
    pair = item.evidence[0]
    return replace(
        item,
        specimen="a_long_name_of_a_specimen_" * 4,
        reason="17.3% of the inspectable surface was judged, 95% are asked; " * 5,
        defects=tuple(replace(one, id=k + 1) for k in range(count)),
        evidence=tuple(replace(pair, defect=k + 1, specimen="good_specimen_3" * 3) for k in range(count)),
        views=tuple(replace(item.views[0], name=f"view_{k}") for k in range(14)),
    )


def test_words_of_a_printed_page_lie_apart_and_within_it(failed):
    long = with_every_measure(traced(failed))
    for page in [*pages_of(long), _summary([long, failed, long], 0, "Lot 7")]:
        width, height = page.get_size_inches()
        assert (width, height) == pytest.approx((8.27, 11.69), abs=0.01)
        renderer = FigureCanvasAgg(page).get_renderer()
        boxes = [(text, text.get_window_extent(renderer)) for text in page.texts if text.get_text()]
        for index, (text, box) in enumerate(boxes):
            assert box.x0 >= 0
            assert box.x1 <= page.bbox.x1
            assert box.y0 >= 0, text
            for other, beside in boxes[index + 1 :]:
                apart = [
                    min(box.x1, beside.x1) - max(box.x0, beside.x0),
                    min(box.y1, beside.y1) - max(box.y0, beside.y0),
                ]
                assert min(apart) <= 1, (text, other)


def test_printed_pages_hold_every_measure_and_picture(failed):
    item = with_every_measure(failed)
    findings, *defects, views, more_views, _ = pages_of(item)
    printed = " ".join(text.get_text() for page in defects for text in page.texts)
    for name, value in defect_measures(item.defects[0], item):
        assert printed.count(f"{name}: {value}") == 5
    drawn = [image.get_array() for page in [findings, *defects] for ax in page.axes for image in ax.images]
    close = [picture for picture in drawn if picture.shape == (200, 260, 3)]
    assert len(close) == 5
    assert sum(picture.shape[0] == 480 for picture in drawn) == 4  # score and deviation from two sides
    assert sum((picture[6, 6] == RED[0, 0]).all() for picture in drawn if picture.shape == (40, 80, 3)) == 5
    for picture in close:
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100  # neither blank nor in one colour
    assert [sum("view_" in text.get_text() for text in page.texts) for page in (views, more_views)] == [12, 2]
    view, window = close_up(item, item.defects[0])
    seen = np.concatenate([view.image[window], overlay(view, item.threshold)[window]], axis=1)
    assert sum(picture.shape == seen.shape and (picture == seen).all() for picture in drawn) == 5
    assert printed.count("beside its heat map") == 5


def test_a_printed_summary_says_why(failed):
    good = replace(inspection("good", peaks=()), reason="$no$ defect above the threshold")
    page = _summary([failed, good], 0, "Lot 7")
    said = [text.get_text() for text in page.texts]
    assert "2 specimens: 1 fail, 1 pass" in said
    for item in (failed, good):
        assert item.reason in said
    assert not any(text.get_parse_math() for text in page.texts)


def test_deviations_have_a_histogram_where_there_are_any(failed):
    assert "signed deviation [mm]" in report_html([failed])
    charts = [ax for ax in pages_of(failed)[0].axes if ax.get_xlabel() == "signed deviation [mm]"]
    assert len(charts) == 1
    unknown = np.full_like(failed.points.deviation_mm, np.nan)
    bare = replace(failed, points=replace(failed.points, deviation_mm=unknown))
    assert "signed deviation [mm]" not in report_html([bare])
    assert not any(ax.get_xlabel() == "signed deviation [mm]" for ax in pages_of(bare)[0].axes)


def test_says_where_it_comes_from(failed):
    item = traced(failed)
    for said in (text_of(report_html([item])), " ".join(said_in_pdf(item).split())):
        for trace in TRACES:
            assert trace in said
    (one,) = item.registration[:1]
    whole = text_of(report_html([replace(item, registration=({**one, "view": None},))]))
    assert "Registration fitness 0.998" in whole


def test_what_an_older_result_does_not_know_is_not_made_up(failed):
    assert failed.date is None
    text = text_of(report_html([failed]))
    assert "inspected 20" not in text
    assert "inspected 2026-01-02 03:04 UTC" in text_of(report_html([replace(failed, date="2026-01-02T03:04:05+00:00")]))
    _, *cells = (text.get_text() for text in pages_of(failed)[-1].texts)
    printed = dict(zip(cells[::2], cells[1::2], strict=True))
    for name in ("Inspected", "Versions", "Memory", "Registration"):
        assert f"{name} not known" in text
        assert printed[name] == "not known"


def test_histogram_has_the_good_specimens(page):
    chart = page[page.index('class="chart"') : page.index("What was looked at")]
    assert "highest of each of 3 good specimens" in chart


def test_asks_for_nothing_outside_itself(page):
    outside = re.findall(
        r"""(?:src|href|srcset|action|data)\s*=\s*["']?(?!data:|#)[^\s"'>]+""", page.split("<script")[0]
    )
    assert not outside
    assert not re.search(r"@import|url\(", page.split("</style>")[0])
    assert "default-src 'none'" in page


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text(failed, tmp_path, name):
    path = write_report(
        [replace(failed, specimen=name, source=name, reason=name, fingerprint=name)], tmp_path / "r.html"
    )
    assert [item.name for item in tmp_path.iterdir()] == ["r.html"]
    page = path.read_text()
    assert f"<h1>{html.escape(name, quote=False)}</h1>" in page.replace("&#34;", '"').replace("&#39;", "'")
    body = page[page.index("<body>") :]
    assert "<img src=x" not in body
    assert body.count("<script") == 3  # the scene, three.js, and the page's own


def test_three_dimensional_scene_is_the_result(failed, page):
    scene = json.loads(re.search(r'class="scene">(.*?)</script>', page, re.S).group(1))
    assert scene["count"] == len(np.unique(failed.vertices_mm, axis=0))
    assert [quantity["name"] for quantity in scene["quantities"]][:2] == ["anomaly_score", "deviation_mm"]
    assert [defect["at"] for defect in scene["defects"]] == [list(centre) for centre, _ in PEAKS]
    deviation = scene["quantities"][1]
    assert deviation["from"] == -deviation["to"]  # white is 0


def scenes(page):
    return [json.loads(scene) for scene in re.findall(r'class="scene">(.*?)</script>', page, re.S)]


def test_one_range_of_deviations_for_all_specimens_of_a_report(failed):
    wide = replace(failed, points=replace(failed.points, deviation_mm=5 * failed.points.deviation_mm))
    reach = [scene["quantities"][1]["to"] for scene in scenes(report_html([failed, wide]))]
    assert reach[0] == reach[1] > scenes(report_html([failed]))[0]["quantities"][1]["to"]


def test_heat_maps_stand_beside_the_views(failed):
    """Of the views and of the defects: the picture, and the same picture in the colours of the scores."""
    page = report_html([failed])
    views = page[page.index('class="views"') :]
    pairs = re.findall(r'src="data:[^,]*,([^"]*)" alt="[^"]*"><img[^>]*src="data:[^,]*,([^"]*)" alt="(.*?)"', page)
    maps = [pair for pair in pairs if "heat map" in pair[2].lower()]
    assert len(maps) == len(failed.defects) + len(failed.views)
    assert views.count("Heat map of") == len(failed.views)
    for plain, heat, _ in maps:
        grey, coloured = (
            np.asarray(Image.open(BytesIO(b64decode(data))).convert("RGB")).astype(int) for data in (plain, heat)
        )
        assert np.ptp(grey, axis=2).max() < 40  # the plate has no colours
        assert (np.ptp(coloured, axis=2) > 60).mean() > 0.005


def test_a_peak_survives_thinning():
    rng = np.random.default_rng(0)
    vertices = rng.uniform(0, 100, (20000, 3)) * [1, 1, 0.01]
    rank = rng.uniform(0, 1, 20000)
    rank[1234] = 9.0
    kept, faces = thinned(vertices, None, rank, 500)
    assert faces is None
    assert 250 < len(kept) <= 500
    assert 1234 in kept
    assert len(set(kept.tolist())) == len(kept)


def test_thinned_faces_span_kept_vertices():
    mesh = trimesh.creation.icosphere(5)
    kept, faces = thinned(mesh.vertices, mesh.faces, np.zeros(len(mesh.vertices)), 800)
    assert len(kept) <= 800
    thin = trimesh.Trimesh(mesh.vertices[kept], faces, process=False)
    assert thin.area == pytest.approx(mesh.area, rel=0.1)
    assert set(faces.ravel().tolist()) == set(range(len(kept)))


def test_display_says_when_it_is_thinned(failed):
    assert display_of(failed, 10**6).note == ""
    assert f"of {len(failed.vertices_mm):,} points" in display_of(failed, 300).note


def test_large_cloud_stays_small(tmp_path, failed):
    rng = np.random.default_rng(1)
    n = 210_000
    score = rng.gamma(2, 0.1, n).astype(np.float32)
    seen = rng.integers(1, 9, n).astype(np.int32)
    large = replace(
        failed,
        vertices_mm=trimesh.unitize(rng.standard_normal((n, 3))) * 40,
        faces=None,
        points=PointScores(score, score / 5, score / 3, seen, score - 0.2, score, 0 * seen),
        defects=(),
    )
    path = write_report([large], tmp_path / "large.html")
    assert path.stat().st_size < 15e6
    assert "of 210,000 points" in text_of(path.read_text())


def test_a_large_mesh_with_views_and_defects_stays_small(tmp_path, failed):
    """As full as a result gets: every vertex has scores of its own, which no compression makes small."""
    mesh = trimesh.creation.icosphere(7, radius=40).subdivide()
    rng, n = np.random.default_rng(1), len(mesh.vertices)
    assert n > 200_000
    score, noise = (rng.gamma(2, 0.1, n).astype(np.float32) for _ in range(2))
    seen = rng.integers(1, 9, n).astype(np.int32)
    pixels = rng.normal(120, 12, (448, 448, 3)).clip(0, 255).astype(np.uint8)  # noisier than any camera's
    heat = rng.gamma(2, 0.3, (448, 448)).astype(np.float32)
    views = tuple(replace(failed.views[0], name=f"{k:03d}", image=pixels, score=heat) for k in range(16))
    large = replace(
        failed,
        vertices_mm=np.asarray(mesh.vertices),
        faces=np.asarray(mesh.faces),
        points=PointScores(score, noise, score / 3, seen, score - 0.2, noise, 0 * seen),
        views=views,
    )
    assert large.defects
    assert write_report([large], tmp_path / "large.html").stat().st_size < 15e6


def test_fifty_specimens_make_one_file_that_can_be_sent(tmp_path, failed):
    """Each with more views than are shown of it, noisier than any camera's."""
    rng = np.random.default_rng(1)
    pixels = rng.normal(120, 12, (448, 448, 3)).clip(0, 255).astype(np.uint8)
    heat = rng.gamma(2, 0.3, (448, 448)).astype(np.float32)
    views = tuple(replace(failed.views[0], name=f"{k:03d}", image=pixels, score=heat) for k in range(16))
    many = [replace(failed, specimen=f"part {k}", views=views) for k in range(50)]
    start = time.process_time()
    path = write_report(many, tmp_path / "many.html")
    assert path.stat().st_size < 60e6
    assert time.process_time() - start < 60
    assert path.read_text().count('class="page specimen"') == 50


def test_many_specimens_have_a_summary(failed):
    good, unseen = inspection("good", peaks=()), inspection("unseen", peaks=(), seen=False)
    page = report_html([failed, good, unseen])
    summary = page[page.index('id="summary"') : page.index('id="specimen-0"')]
    assert text_of(summary).count("coverage") == 0
    for verdict in ("✕ 1 fail", "? 1 incomplete", "✓ 1 pass"):
        assert verdict in text_of(summary)
    assert re.findall(r'href="#(specimen-\d)"', summary) == ["specimen-0", "specimen-1", "specimen-2"]
    order = [text_of(summary).index(name) for name in ("plate-1", "unseen", "good")]
    assert order == sorted(order)  # the worst first
    fills = [float(width) for width in re.findall(r'class="fill" style="width: ([\d.]+)%', summary)]
    assert fills == pytest.approx([50 + 50 * np.log10(2.4), 0, 50 + 50 * np.log10(0.4)], abs=0.1)


def test_views_with_numbers_for_names_are_called_views(failed):
    numbered = replace(failed, views=(replace(failed.views[0], name="010"),))
    assert "View 010" in text_of(report_html([numbered]))
    assert "View 010" in said_in_pdf(numbered)


def test_stills_have_a_scale_with_numbers(page):
    stills = page[page.index('class="stills"') : page.index('class="plot"')]
    assert re.findall(r"<span>(.*?)</span>", stills)[:3] == ["0", "1", "2"]
    assert stills.count("linear-gradient(") == 2


def test_nothing_inspected_is_no_number():
    text = text_of(report_html([inspection(peaks=(), seen=False)]))
    assert "Score –" in text
    assert "nan" not in text.lower().replace("finance", "")
    assert "None found where the surface was judged" in text


def lost(view):
    """A captured view that could not be registered."""
    score = np.full(view.score.shape, np.nan, np.float32)
    return replace(view, score=score, part_from_camera=None, intrinsics=None)


def one_view_lost(item):
    first, second = item.views
    return replace(item, views=(lost(first), second))


def unregistered(item):
    """A capture of which no view could be registered: its images are all there is."""
    return replace(emptied(item), views=tuple(lost(view) for view in item.views))


def emptied(item):
    """A capture that was not registered: no surface, no views, nothing judged."""
    points = PointScores.unknown(0)
    bare = replace(item, vertices_mm=np.empty((0, 3)), faces=None, points=points, views=(), defects=(), evidence=())
    return replace(
        bare, verdict="incomplete", reason="not registered: too few points", score=float("nan"), coverage=0.0
    )


def all_anomalous(item):
    """Every point far above the threshold, so that the part is one defect."""
    points = replace(item.points, anomaly_score=np.full(len(item.vertices_mm), 9.0, np.float32))
    whole = replace(item.defects[0], extent_mm=(60.0, 40.0, 10.0), area_mm2=9000.0, centroid_mm=(0.0, 0.0, 0.0))
    hot = tuple(replace(view, score=np.where(np.isfinite(view.score), 9.0, np.nan)) for view in item.views)
    return replace(item, points=points, defects=(whole,), views=hot, score=9.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (one_view_lost, ("view_0 not inspected", "view_1 peak")),
        (unregistered, ("INCOMPLETE not registered: too few points", "view_0 not inspected", "view_1 not inspected")),
        (emptied, ("INCOMPLETE not registered: too few points", "None found where the surface was judged", "Score –")),
        (all_anomalous, ("9,000 mm²", "Score 9 ", "60 × 40 × 10 mm")),
        (lambda item: replace(item, threshold=float("nan"), point_threshold=0.0), ("fails above –",)),
        (lambda item: replace(item, false_reject={}, settings={}, timings_s={}, fingerprint=""), ("asked –",)),
    ],
)
def test_extremes_are_shown(failed, tmp_path, change, said):
    item = change(failed)
    text = text_of(report_html([item, failed]))
    for words in said:
        assert words in text
    assert write_pdf([item], tmp_path / "r.pdf").stat().st_size > 5000
    contact_sheet(item, tmp_path / "views.png")
    assert write_csv([item], tmp_path / "d.csv").read_text().count("\n") == 1 + len(item.defects)
    again = load_result(item.save(tmp_path / "out"))
    assert again.report() == item.report()


def test_no_results_is_an_error(tmp_path):
    with pytest.raises(ResultError, match="at least one"):
        write_report([], tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


def test_notebook_view_is_shut_off(failed):
    shown = inspection_html(replace(failed, specimen="\"><b id='out'>"))
    assert shown.startswith("<iframe srcdoc=")
    assert shown.count("<") == 2  # the frame and its end: the report is escaped as a whole
    assert 'sandbox="allow-scripts' in shown
    assert "allow-same-origin" not in shown


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (1e-7, "1e-07"), (999.4, "999"), (1000, "1,000"), (-2.345, "-2.35"), (np.inf, "–")]
)
def test_numbers_are_readable(value, text):
    assert number(value) == text


# In a browser


SIZES = ((1280, 800), (390, 844))
PATIENCE_MS = 120_000


@pytest.fixture
def opened(browser):
    """Open a page: errors and requests for anything but the file itself are collected, and must be none."""
    wrong, contexts = [], []

    def opening(path, size=SIZES[0], ready="[data-ready]", fragment="", **context):
        contexts.append(browser.new_context(viewport=dict(zip(("width", "height"), size, strict=True)), **context))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(PATIENCE_MS)
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        tab.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        own = (path.as_uri(), "data:", "blob:")
        tab.on("request", lambda request: None if request.url.startswith(own) else wrong.append(request.url))
        tab.goto(path.as_uri() + fragment)
        tab.wait_for_selector(ready, state="attached")
        return tab

    yield opening
    for context in contexts:
        context.close()
    assert wrong == []


def pixels(tab, file):
    tab.locator(".specimen:not([hidden]) canvas").screenshot(path=file, timeout=PATIENCE_MS)
    return np.asarray(Image.open(file).convert("RGB")).astype(int)


def boxes(tab, selector):
    return [box for item in tab.locator(selector).all() if (box := item.bounding_box()) is not None]


def centre(box):
    return np.array([box["x"] + box["width"] / 2, box["y"] + box["height"] / 2])


def test_part_is_drawn_recoloured_and_flown_to(opened, failed, tmp_path):
    tab = opened(write_report([failed], tmp_path / "r.html"), reduced_motion="reduce")
    score = pixels(tab, tmp_path / "score.png")
    red = (score[..., 0] > 120) & (score[..., 1] < 60) & (score[..., 2] < 70)
    yellow = (score[..., 0] > 200) & (score[..., 1] > 180) & (score[..., 2] < 190)
    assert red.sum() > 50  # the peaks
    assert yellow.mean() > 0.03  # the normal surface
    tab.get_by_label("Signed deviation [mm]").check()
    deviation = pixels(tab, tmp_path / "deviation.png")
    assert (np.abs(deviation - score).max(axis=2) > 20).mean() > 0.03
    blue = (deviation[..., 2] > deviation[..., 0] + 25).mean()
    assert blue > 0.01
    assert "Signed deviation [mm]" in tab.locator(".legend").inner_text()

    stage = centre(tab.locator(".stage").bounding_box())
    marker = tab.locator(".marker").first
    before = centre(marker.bounding_box())
    tab.locator(".fly").first.click()
    tab.wait_for_function("document.querySelector('.fly').getAttribute('aria-pressed') === 'true'")
    after = centre(marker.bounding_box()), centre(tab.locator(".stage").bounding_box())
    assert np.linalg.norm(before - stage) > 30
    assert np.linalg.norm(after[0] - after[1]) < 4
    assert (np.abs(pixels(tab, tmp_path / "near.png") - deviation).max(axis=2) > 20).mean() > 0.1


def test_boxes_stand_around_the_defects_when_asked_for(opened, failed, tmp_path):
    page = report_html([failed])
    scene = json.loads(re.search(r'class="scene">(.*?)</script>', page, re.S).group(1))
    for found in scene["defects"]:
        own, box = failed.vertices_mm[failed.points.defect_id == found["id"]], np.array(found["box"])
        edges = box[[1, 2, 4]] - box[0]
        along = (own - box[0]) @ edges.T / np.maximum((edges**2).sum(axis=1), 1e-9)
        assert along.min() > -1e-2  # corners are rounded to a micrometre
        assert along.max() < 1 + 1e-2
        np.testing.assert_allclose(box[7], box[0] + edges.sum(axis=0), atol=5e-3)
    tab = opened(write_report([failed], tmp_path / "r.html"), reduced_motion="reduce")
    plain = pixels(tab, tmp_path / "plain.png")
    tab.get_by_role("button", name="Boxes").press("Enter")
    boxed = pixels(tab, tmp_path / "boxed.png")
    lines = (boxed[..., 2] > boxed[..., 0] + 80) & (plain[..., 2] < plain[..., 0] + 40)
    assert lines.sum() > 60
    tab.get_by_role("button", name="Boxes").click()
    assert (np.abs(pixels(tab, tmp_path / "again.png") - plain).max(axis=2) > 60).mean() < 0.002
    unknown = replace(failed, points=replace(failed.points, defect_id=0 * failed.points.defect_id))
    tab = opened(write_report([unknown], tmp_path / "u.html"))
    assert not tab.get_by_role("button", name="Boxes").is_visible()


def test_markers_behind_the_part_are_faint(opened, failed, tmp_path):
    """The same plate under a lid: both defects face the camera, and neither is seen."""
    lid = trimesh.creation.box((80, 60, 2), trimesh.transformations.translation_matrix((0, 0, 15)))
    vertices = np.concatenate([failed.vertices_mm, lid.vertices])
    faces = np.concatenate([failed.faces, lid.faces + len(failed.vertices_mm)])
    values = {
        field.name: np.concatenate([old, np.zeros(len(lid.vertices), old.dtype)])
        for field in fields(failed.points)
        if (old := getattr(failed.points, field.name)) is not None
    }
    under = replace(failed, specimen="under", vertices_mm=vertices, faces=faces, points=PointScores(**values))
    path = write_report([failed, under], tmp_path / "r.html")
    tab = opened(path, ready="#specimen-0[data-ready]", fragment="#specimen-0")
    tab.wait_for_timeout(1500)
    assert tab.locator("#specimen-0 .marker").count() == 2
    assert tab.locator("#specimen-0 .marker.covered").count() == 0
    tab = opened(path, ready="#specimen-1[data-ready]", fragment="#specimen-1")
    tab.locator("#specimen-1 .marker.covered").nth(1).wait_for()
    assert tab.locator("#specimen-1 .marker.behind").count() == 0


def test_keyboard_turns_and_chooses(opened, failed, tmp_path):
    tab = opened(write_report([failed], tmp_path / "r.html"), reduced_motion="reduce")
    start = pixels(tab, tmp_path / "a.png")
    tab.locator(".stage").focus()
    for _ in range(4):
        tab.keyboard.press("ArrowRight")
    turned = pixels(tab, tmp_path / "b.png")
    assert (np.abs(turned - start).max(axis=2) > 20).mean() > 0.02
    tab.keyboard.press("Home")
    assert np.abs(pixels(tab, tmp_path / "c.png") - start).max() <= 2
    tab.locator(".modes input").first.focus()
    tab.keyboard.press("ArrowRight")
    assert tab.locator(".modes input:checked").get_attribute("value") == "deviation_mm"


def test_pointing_reads_the_values(opened, failed, tmp_path):
    tab = opened(write_report([failed], tmp_path / "r.html"), reduced_motion="reduce")
    tab.locator(".fly").first.click()
    x, y = centre(tab.locator(".stage").bounding_box())
    tab.mouse.move(x + 25, y)
    tab.wait_for_function("document.querySelector('.readout').textContent.startsWith('At ')")
    said = tab.locator(".readout").inner_text()
    place = np.array([float(v) for v in re.match(r"At (.*?) mm", said).group(1).split(",")])
    assert np.linalg.norm(place - PEAKS[0][0]) < 8
    assert float(re.search(r"Anomaly score ([\d.]+)", said).group(1)) > 0.3


@pytest.mark.parametrize("size", SIZES, ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overlaps(opened, failed, tmp_path, pictures, size, scheme):
    tab = opened(write_report([failed], tmp_path / "r.html"), size=size, color_scheme=scheme)
    shot = pictures / f"report-{size[0]}x{size[1]}-{scheme}.png"
    tab.screenshot(path=shot, full_page=True, timeout=PATIENCE_MS)
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    blocks = ".specimen > *, .viewer > :not(script):not([hidden]), .defects li, .facts > div, .defects li > *"
    assert (
        tab.evaluate(
            """(selector) => [...document.querySelectorAll(selector)].flatMap((a) =>
             [...a.parentElement.children].filter((b) => b !== a && b.matches(selector)).filter((b) => {
               const [p, q] = [a, b].map((e) => e.getBoundingClientRect());
               return Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1
                 && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 1;
             }).map((b) => a.className + " / " + b.className))""",
            blocks,
        )
        == []
    )
    # ink against paper, WCAG 2.2 1.4.3
    contrast = tab.evaluate(
        """() => { const rgb = (c) => c.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
             .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
           const light = (c) => { const [r, g, b] = rgb(c); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
           const paper = light(getComputedStyle(document.body).backgroundColor);
           return ["body", ".muted", ".banner b", "h1"].map((s) => getComputedStyle(document.querySelector(s)).color)
             .map(light).map((ink) => (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05)); }"""
    )
    assert min(contrast) >= 4.5


@pytest.mark.parametrize("size", SIZES, ids=["desk", "phone"])
def test_nothing_overlaps_in_the_summary(opened, failed, tmp_path, pictures, size):
    long = replace(failed, specimen="a_long_name_of_a_specimen_" * 4, reason="17.3 % of the surface was judged; " * 5)
    results = [failed, long, inspection("good", peaks=()), inspection("unseen", peaks=(), seen=False)]
    tab = opened(write_report(results, tmp_path / "r.html"), size=size, ready="body[data-webgl]")
    tab.screenshot(path=pictures / f"summary-{size[0]}x{size[1]}.png", full_page=True, timeout=PATIENCE_MS)
    assert tab.locator(".list tbody tr").count() == 4
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    overlapping = tab.evaluate(
        """() => [...document.querySelectorAll("#summary .list tr, #summary > *")].flatMap((row) => {
             const cells = row.matches("tr") ? [...row.children].flatMap((cell) => [...cell.children]) : [row];
             const beside = row.matches("tr") ? cells : [...row.parentElement.children];
             return cells.flatMap((a) => beside.filter((b) => a !== b && !a.contains(b)).filter((b) => {
               const [p, q] = [a, b].map((e) => e.getBoundingClientRect());
               return Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1
                 && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 1;
             }).map((b) => a.outerHTML.slice(0, 60) + " / " + b.outerHTML.slice(0, 60))); })"""
    )
    assert overlapping == []


def test_hostile_names_stay_text_in_a_browser(opened, failed, tmp_path):
    named = [replace(failed, specimen=name, reason=name) for name in HOSTILE]
    tab = opened(write_report(named, tmp_path / "r.html"), ready="body[data-webgl]")
    assert [link.inner_text() for link in tab.locator(".list a").all()] == list(HOSTILE)
    assert tab.locator("img[src=x]").count() == 0


def test_one_specimen_at_a_time(opened, failed, tmp_path):
    path = write_report([failed, inspection("cloud", peaks=(), cloud=True)], tmp_path / "r.html")
    tab = opened(path, ready="body[data-webgl]")
    assert tab.locator("canvas").count() == 0  # drawn only when it is looked at
    tab.get_by_role("link", name="cloud").click()
    tab.wait_for_selector("#specimen-1[data-ready]")
    cloud = pixels(tab, tmp_path / "cloud.png")
    yellow = (cloud[..., 0] > 180) & (cloud[..., 1] > 160) & (cloud[..., 2] < 190)
    assert yellow.mean() > 0.02
    tab.get_by_role("link", name="‹ Previous").click()
    tab.wait_for_selector("#specimen-0[data-ready]")
    assert tab.locator("canvas").count() == 1


def test_a_notebook_shows_it_in_3d(opened, failed, tmp_path):
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><body>{failed._repr_html_()}</body>")
    tab = opened(path, ready="iframe")
    frame = tab.frame_locator("iframe")
    frame.locator("[data-ready]").wait_for(state="attached")
    frame.locator("canvas").screenshot(path=tmp_path / "frame.png", timeout=PATIENCE_MS)
    drawn = np.asarray(Image.open(tmp_path / "frame.png").convert("RGB")).astype(int)
    assert ((drawn[..., 0] > 200) & (drawn[..., 1] > 180) & (drawn[..., 2] < 190)).mean() > 0.03
    frame.get_by_label("Signed deviation [mm]").check()
    assert "Signed deviation [mm]" in frame.locator(".legend").inner_text()


def test_without_webgl_there_are_still_pictures(opened, failed, tmp_path):
    path = write_report([failed], tmp_path / "r.html")
    page = path.read_text().replace('getContext("webgl2")', 'getContext("no such context")')
    path.write_text(page)
    tab = opened(path, ready="body[data-webgl=no]")
    assert "does not offer WebGL" in tab.locator(".readout").inner_text()
    assert tab.locator(".fly:enabled").count() == 0  # there is nothing to fly through
    assert all(box["width"] > 100 and box["height"] > 50 for box in boxes(tab, ".still img"))
    assert len(boxes(tab, ".still img")) == 4  # score and deviation from two sides
