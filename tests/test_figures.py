"""Figures, PDF and the colours they share, read back from what was drawn."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import find_objects, label
from skimage.color import rgb2lab

from rad3d.camera import Camera
from rad3d.errors import ResultError
from rad3d.geometry import look_at
from rad3d.result import Defect, Inspection, PointScores, ViewScores
from rad3d.viewers import figures
from rad3d.viewers.colours import (
    STAGE,
    UNSEEN,
    VERDICT_COLOURS,
    Quantity,
    deviation_reach,
    mapped_colours,
    quantities,
    rgb,
)
from rad3d.viewers.display import Display
from rad3d.viewers.measures import defect_measures, percent
from rad3d.viewers.pdf import write_pdf
from rad3d.viewers.pictures import close_up, drawn, on_stage, outlined, overlay


@pytest.fixture(scope="module")
def inspection():
    """Synthetic: a grid of points, and one view whose right quarter is anomalous."""
    x, y = np.meshgrid(np.arange(20.0), np.arange(20.0))
    vertices = np.stack([x.ravel(), y.ravel(), np.zeros(400)], axis=1)
    score = np.linspace(0, 2, 400).astype(np.float32)
    score[:10] = np.nan
    heat = np.full((40, 60), 0.2, np.float32)
    heat[10:30, 45:] = 3.0
    heat[:, :5] = np.nan
    camera = np.eye(4)
    camera[:3, 3] = (10, 10, -50)
    view = ViewScores(
        "a$b$", np.full((40, 60, 3), 90, np.uint8), heat, camera, np.array([[50.0, 0, 30], [0, 50, 20], [0, 0, 1]])
    )
    at = (31.0, 10.0, 0.0)
    return Inspection(
        specimen="$x^$ <b>",
        source="s",
        unit="mm",
        verdict="fail",
        reason="1 defect above the threshold",
        score=3.0,
        threshold=1.5,
        point_threshold=1.0,
        coverage=0.9,
        coverage_total=0.5,
        false_reject={"asked": 0.05, "guaranteed": None, "n_good": 4},
        settings={},
        fingerprint="f",
        timings_s={"encode": 1.0},
        defects=(Defect(1, at, at, (0, 0, -1.0), 12.0, (4.0, 3.0, 0.1), 3.0, 2.0),),
        vertices_mm=vertices,
        faces=None,
        points=PointScores(
            score, score, np.clip(score, 0, 1), np.ones(400, np.int32), score - 1, score, np.zeros(400, np.int32)
        ),
        views=(view,),
    )


def test_contact_sheet_shows_image_and_heat_map(inspection, tmp_path):
    picture = np.asarray(Image.open(figures.contact_sheet(inspection, tmp_path / "v.png")).convert("RGB")).astype(int)
    assert (np.abs(picture - 90).max(axis=2) < 3).sum() > 10_000  # the bare image
    red = (picture[..., 0] > picture[..., 1] + 60) & (picture[..., 0] > picture[..., 2] + 20)
    assert red.sum() > 1_000  # the anomalous region
    assert figures.contact_sheet(inspection, tmp_path / "v.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("count", [0, 1, 3, 16])
def test_contact_sheet_holds_every_view(inspection, count):
    views = tuple(replace(inspection.views[0], name=f"view {k}") for k in range(count))
    figure = figures.contact_sheet_figure(replace(inspection, views=views)).figure
    titles = [text.get_text() for text in figure.texts]
    assert [title for title in titles if title.startswith("view")] == [view.name for view in views]
    paper = figure.axes[-1].images[0].get_array()
    drawn, _ = label((paper != 255).any(axis=2))
    assert len(find_objects(drawn)) == 2 * count


@pytest.mark.parametrize(
    ("shapes", "pages"),
    [([(90, 30)], 1), ([(120, 20)] * 2, 1), ([(75, 100)] * 12 + [(160, 100)] * 12, 2), ([(40, 60)] * 15, 2)],
)
def test_contact_sheet_fits_its_pages(inspection, shapes, pages):
    (view,) = inspection.views
    views = tuple(
        replace(view, name=f"view {k}", image=np.zeros((*shape, 3), np.uint8), score=np.zeros(shape, np.float32))
        for k, shape in enumerate(shapes)
    )
    sheets = figures.contact_sheet_pages(replace(inspection, views=views), (8.27, 11.69))
    assert len(sheets) == pages
    drawn = [label((sheet.axes[-1].images[0].get_array() != 255).any(axis=2))[0] for sheet in sheets]
    sizes = [
        (rows.stop - rows.start, columns.stop - columns.start) for page in drawn for rows, columns in find_objects(page)
    ]
    assert len(sizes) == 2 * len(shapes)
    for shape in set(shapes):
        alike = np.array(
            [size for size, own in zip(sizes, np.repeat(shapes, 2, axis=0), strict=True) if tuple(own) == shape]
        )
        assert np.ptp(alike, axis=0).max() <= 2  # as large on the last page as on the first


def test_contact_sheet_keeps_the_shape_of_each_view(inspection):
    (view,) = inspection.views
    tall = replace(view, image=view.image.swapaxes(0, 1), score=view.score.T)
    paper = figures.contact_sheet_figure(replace(inspection, views=(view, tall))).images[0].get_array()
    drawn, _ = label((paper != 255).any(axis=2))
    sizes = [(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in find_objects(drawn)]
    for (height, width), ratio in zip(
        sorted(sizes, key=lambda size: -size[1]), (1.5, 1.5, 1 / 1.5, 1 / 1.5), strict=True
    ):
        assert width / height == pytest.approx(ratio, rel=0.02)


def test_contact_sheet_says_what_was_not_inspected(inspection):
    (view,) = inspection.views
    lost = replace(view, name="lost", score=np.full((40, 60), np.nan, np.float32), part_from_camera=None)
    figure = figures.contact_sheet_figure(replace(inspection, views=(lost, view))).figure
    assert [text.get_text() for text in figure.texts][:2] == ["lost, not inspected", view.name]


def test_overlay_colours_only_what_was_judged(inspection):
    (view,) = inspection.views
    picture = overlay(view, 1.0)
    assert (picture[:, :5] == 90).all()
    assert (picture[20, 20] != 90).any()
    region = view.score > 1.0
    assert region[10:30, 45].all()
    assert not region[10:30, 44].any()
    assert (picture[10:30, 44] == 255).all()  # the pixels next to its left side
    assert (picture[10:30, 43] == 0).all()
    assert (outlined(picture, region)[region] == picture[region]).all()


@pytest.mark.parametrize("cloud", [False, True])
def test_drawn_colours_are_those_of_the_surface_seen(cloud):
    """A slope of values on a flat square, seen from straight above."""
    x, y = (v.ravel() for v in np.meshgrid(np.linspace(0, 20, 41), np.linspace(0, 20, 41)))
    corner = np.arange(41 * 41).reshape(41, 41)
    a, b, c, d = (
        corner[rows, columns].ravel() for rows in (np.s_[:-1], np.s_[1:]) for columns in (np.s_[:-1], np.s_[1:])
    )
    faces = None if cloud else np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)])
    slope = Quantity("deviation_mm", "", "mm", "diverging", (x / 10 - 1).astype(np.float32), -1.0, 1.0)
    display = Display(np.stack([x, y, 0 * x], 1).astype(np.float32), faces, (slope,), len(x))
    pose = np.array([[1.0, 0, 0, 10], [0, -1, 0, 10], [0, 0, -1, 50], [0, 0, 0, 1]])
    ((picture,),) = drawn(display, [Camera.from_field_of_view((80, 80), 0.5, pose)], [slope])
    seen = picture[..., 3] > 0
    rows, columns = np.nonzero(seen)
    side = 80 * 20 / (2 * 50 * np.tan(0.25))
    assert seen.sum() == pytest.approx(side**2, rel=0.1)
    place = 10 + (columns + 0.5 - 40) * 20 / side
    expected = mapped_colours(place / 10 - 1, -1, 1, "diverging").astype(float)
    colours = picture[seen][:, :3].astype(float)
    light = colours.sum(axis=1) / expected.sum(axis=1)
    assert np.abs(colours - light[:, None] * expected).max() < 12
    inside = (np.abs(rows - 40) < 0.4 * side) & (np.abs(columns - 40) < 0.4 * side)
    assert np.ptp(light[inside]) < 0.06


def test_close_up_finds_the_defect_in_its_view(inspection):
    view, (rows, columns) = close_up(inspection, inspection.defects[0])
    # 21 mm right of the camera's axis at 50 mm: 50 * 21 / 50 + 30 = pixel 51
    assert (columns.start + columns.stop) / 2 == pytest.approx(51, abs=1)
    assert (rows.start + rows.stop) / 2 == pytest.approx(20, abs=1)
    assert np.nanmax(view.score[rows, columns]) == 3.0
    behind = replace(inspection.defects[0], centroid_part_mm=(31.0, 10.0, -90.0))
    assert close_up(inspection, behind) is None


def test_curves_draw_their_data_and_areas():
    rate = np.array([0, 0, 0.5, 1.0])
    hit = np.array([0, 0.5, 1.0, 1.0])
    ax = figures.roc_curve(rate, hit, label="ours")
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), np.stack([rate, hit], axis=1))
    assert ax.get_legend().get_texts()[0].get_text() == "ours: AUROC 0.875"  # 1 - 0.5 * 0.5 / 2
    ax = figures.precision_recall_curve(np.array([0.5, 1.0]), np.array([1.0, 0.5]))
    assert ax.get_legend().get_texts()[0].get_text() == "AP 0.750"
    # overlap = rate up to 0.3: the triangle is half the square, and what lies beyond does not count
    ax = figures.pro_curve(np.array([0, 0.2, 0.6, 1.0]), np.array([0, 0.2, 0.6, 1.0]))
    assert ax.get_legend().get_texts()[0].get_text() == "AUPRO@0.3 0.150"


def test_curves_name_an_exact_value_where_it_is_known():
    """Curves are drawn through few points; the table's number is the one to read."""
    rate, hit = np.array([0, 0.5, 1.0]), np.array([0, 0.9, 1.0])
    for draw, name in ((figures.roc_curve, "AUROC"), (figures.precision_recall_curve, "AP")):
        assert draw(rate, hit, area=0.123).get_legend().get_texts()[0].get_text() == f"{name} 0.123"
    assert figures.pro_curve(rate, hit, area=0.123).get_legend().get_texts()[0].get_text() == "AUPRO@0.3 0.123"


def test_two_curves_share_axes_in_two_colours():
    ax = Figure().subplots()
    for name in ("a", "b"):
        assert figures.roc_curve(np.array([0, 1.0]), np.array([0, 1.0]), label=name, ax=ax) is ax
    assert ax.lines[0].get_color() != ax.lines[1].get_color()


def test_calibration_counts_the_good_above():
    good = np.array([3.0, 1.0, 2.0, 4.0])
    ax = figures.calibration_plot(good, 3.5, others=np.array([9.0]), false_reject=0.25)
    x, y = ax.lines[0].get_data()
    for score, share in zip(x, y, strict=True):
        assert share == np.mean(good > score)
    assert "asked 25.0%" in [text.get_text() for text in ax.get_legend().get_texts()]


LINE = np.array([0, 0.5, 1.0])


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: figures.roc_curve(LINE, LINE, ax=ax),
        lambda ax: figures.precision_recall_curve(LINE, LINE, ax=ax),
        lambda ax: figures.pro_curve(LINE, LINE, ax=ax),
        lambda ax: figures.calibration_plot(LINE, 0.5, ax=ax),
        lambda ax: figures.few_shot_curve([1, 2, 4], LINE, ax=ax),
    ],
)
def test_figures_are_drawn_on_given_axes(draw):
    ax = Figure().subplots()
    assert draw(ax) is ax
    assert ax.lines


def test_calibration_shows_scores_of_any_size():
    ax = figures.calibration_plot(np.array([1.0, 2.0]), 3.0, others=np.array([90.0]))
    assert ax.get_xscale() == "log"
    assert figures.calibration_plot(np.array([0.0, 2.0]), 3.0, others=np.array([90.0])).get_xscale() == "linear"


def test_few_shot_curve_names_its_shots():
    ax = figures.few_shot_curve([1, 2, 4], np.array([0.7, 0.8, 0.9]), spread=np.array([0.1, 0.05, 0.01]))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "4"]
    assert len(ax.collections) == 1


def test_memory_map_shows_patches_and_from_where_they_were_seen(small_memory, tmp_path):
    placed = small_memory.points_mm.reshape(-1, 3)[5:]
    ax = figures.memory_map(small_memory, surface_mm=placed)
    assert "55 remembered patches of 3 views" in ax.get_title()
    box = np.ptp([ax.get_xlim(), ax.get_ylim(), ax.get_zlim()], axis=1)
    assert np.ptp(box / ax.get_box_aspect()) == pytest.approx(0, abs=1e-6 * box.max())
    assert np.ptp(ax.get_xlim()) < 300  # the part fills its box
    _, patches, cameras = ax.collections
    np.testing.assert_allclose(np.stack(patches._offsets3d, axis=1), placed)
    beside = np.stack(cameras._offsets3d, axis=1) - placed.mean(axis=0)
    assert (beside.argmax(axis=1) == np.arange(3)).all()
    assert len(np.unique(np.asarray(patches.get_array())[:15])) == 1  # a view's patches have one colour, its camera's
    np.testing.assert_array_equal(np.unique(patches.get_array()), cameras.get_array())
    same = Figure().add_subplot(projection="3d")
    assert figures.memory_map(small_memory, ax=same) is same
    same.figure.savefig(tmp_path / "map.svg")


def test_deviations_are_counted_by_sign_and_none_is_lost(inspection):
    rng = np.random.default_rng(0)
    deviation = rng.normal(0.1, 0.05, len(inspection.points.deviation_mm)).astype(np.float32)
    deviation[:3] = np.nan
    deviation[3] = 9.0  # further than the last colour
    settings = {"verdict": {"min_depth_mm": 0.15}}
    item = replace(inspection, points=replace(inspection.points, deviation_mm=deviation), settings=settings)
    ax = figures.deviation_histogram(item, 0.5)
    (bars,) = ax.collections
    corners = [path.vertices for path in bars.get_paths()]
    assert sum(bar[:, 1].max() for bar in corners) == len(deviation) - 3
    assert max(bar[:, 0].max() for bar in corners) == pytest.approx(0.5)
    red, blue = (bars.get_facecolors()[[bar[:, 0].mean() * sign > 0.2 for bar in corners]] for sign in (1, -1))
    assert (red[:, 0] > red[:, 2]).all()
    assert (blue[:, 0] < blue[:, 2]).all()
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    low, high = np.nanpercentile(deviation, [2.5, 97.5])
    assert f"95 % from {low:.2g} to {high:.2g} mm" in labels
    assert "least depth of a defect 0.15 mm" in labels
    unknown = replace(item, points=replace(item.points, deviation_mm=np.full_like(deviation, np.nan)))
    assert figures.deviation_histogram(unknown).get_legend() is None


def test_contact_sheet_is_drawn_on_given_axes_too(inspection, tmp_path):
    ax = Figure().subplots()
    assert figures.contact_sheet_figure(inspection, ax=ax) is ax
    written = np.asarray(Image.open(figures.contact_sheet(inspection, tmp_path / "sheet.png")))
    np.testing.assert_array_equal(ax.images[0].get_array(), written)


def test_histogram_counts_all_judged_points(inspection):
    ax = figures.score_histogram(replace(inspection, good_scores=np.array([0.5, 0.6])))
    (bars,) = ax.collections
    heights = [path.vertices[:, 1].max() for path in bars.get_paths()]
    assert sum(heights) == 390
    assert max(heights) < ax.get_ylim()[1]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "defect threshold 1.5" in labels
    assert "region threshold 1" in labels
    assert "highest of each of 2 good specimens" in labels
    (ticks,) = (line for line in ax.lines if line.get_label().startswith("highest"))
    np.testing.assert_array_equal(ticks.get_xdata(), [0.5, 0.6])
    unknown = figures.score_histogram(inspection)
    assert not any("good" in text.get_text() for text in unknown.get_legend().get_texts())


def test_no_state_of_pyplot():
    code = "import sys; from rad3d.viewers import figures, pdf, report; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_pdf_has_a_page_per_finding_and_a_summary(inspection, tmp_path):
    one = write_pdf([inspection], tmp_path / "one.pdf").read_bytes()
    three = write_pdf([inspection] * 3, tmp_path / "three.pdf").read_bytes()
    assert one.startswith(b"%PDF-")
    pages = [document.count(b"/Type /Page ") + document.count(b"/Type /Page\n") for document in (one, three)]
    assert pages == [4, 13]  # findings, defects, views, where it comes from; and the summary
    with pytest.raises(ResultError, match="at least one"):
        write_pdf([], tmp_path / "none.pdf")
    assert not (tmp_path / "none.pdf").exists()


def test_quantities_are_found_by_name_with_units(inspection):
    found = quantities(inspection)
    assert [quantity.name for quantity in found][:2] == ["anomaly_score", "deviation_mm"]
    assert found[1].title == "Signed deviation [mm]"
    assert found[1].low == -found[1].high
    assert (found[0].colours()[:10] == rgb(UNSEEN)).all()  # not inspected is grey, whatever the quantity


def test_a_good_specimen_is_not_painted_in_full_colours(inspection):
    """0.05 mm where good ones spread by 0.03 mm and defects begin at 5 of them: the last colour is 10 of them."""
    deviation = np.linspace(-0.05, 0.05, 400).astype(np.float32)
    points = replace(inspection.points, deviation_mm=deviation, geometry_score=np.abs(deviation) / 0.03)
    good = replace(inspection, points=points, threshold=5.0)
    assert deviation_reach([good]) == pytest.approx(0.3, rel=0.01)
    dented = replace(good, points=replace(points, deviation_mm=40 * deviation))
    assert deviation_reach([good, dented]) == pytest.approx(12.0, rel=0.01)  # of the one that deviates most
    least = {"verdict": {"min_depth_mm": 0.5}}
    assert deviation_reach([replace(good, settings=least)]) == 1.0
    assert deviation_reach([replace(good, points=replace(points, deviation_mm=np.full(400, np.nan)))]) == 1.0


@pytest.mark.parametrize("cloud", [False, True])
def test_what_was_not_inspected_is_darker_than_any_shadow(cloud):
    """A ball, one half of it without values: the other half is 0, nearly white, and keeps that under the light."""
    ball = trimesh.creation.icosphere(5, radius=10)
    values = np.where(ball.vertices[:, 2] > 0, 0.0, np.nan).astype(np.float32)
    flat = Quantity("deviation_mm", "", "mm", "diverging", values, -1.0, 1.0)
    display = Display(ball.vertices.astype(np.float32), None if cloud else ball.faces, (flat,), len(values))
    camera = Camera.from_field_of_view((90, 90), 0.5, look_at(np.array([0.0, -45, 0]), np.zeros(3)))
    ((picture,),) = drawn(display, [camera], [flat])
    upper, lower = (picture[rows][picture[rows][..., 3] > 0][:, :3] for rows in (np.s_[:40], np.s_[50:]))
    assert upper.min() > 190
    assert lower.max() <= 100
    edge = on_stage(picture)[20]
    assert np.abs(edge.astype(int) - rgb(STAGE)).max(axis=1).max() > 15  # the part can be told from the stage


@pytest.mark.parametrize("scale", ["heat", "sequential"])
def test_maps_order_by_lightness(scale):
    """Readable in grey print and for the colour-blind: lightness alone tells more from less."""
    lightness = rgb2lab(mapped_colours(np.linspace(0, 1, 30), 0, 1, scale)[None])[0, :, 0]
    assert (np.diff(lightness) > 0).all() or (np.diff(lightness) < 0).all()


def test_diverging_map_is_centred_and_symmetric():
    lightness = rgb2lab(mapped_colours(np.linspace(-1, 1, 41), -1, 1, "diverging")[None])[0, :, 0]
    assert lightness.argmax() == 20
    assert np.abs(lightness - lightness[::-1]).max() < 10


def test_verdict_colours_differ_without_red_and_green():
    """Simulated deuteranopia (Vienot, Brettel and Mollon 1999), on sRGB."""
    matrix = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])
    rgb = np.array([[int(c[k : k + 2], 16) / 255 for k in (1, 3, 5)] for c in VERDICT_COLOURS.values()])
    seen = rgb2lab((np.clip(rgb**2.2 @ matrix.T, 0, 1) ** (1 / 2.2))[None])[0]
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=2)
    assert apart[np.triu_indices(3, 1)].min() > 20


def test_measures_carry_units_and_what_is_new(inspection):
    measures = dict(defect_measures(inspection.defects[0], inspection))
    assert measures["Area"] == "12 mm²"
    assert measures["Extent"] == "4 × 3 × 0.1 mm"
    assert "Id" not in measures
    assert not any("–" in value for value in measures.values())  # what is not known is not said
    told = dict(
        defect_measures(
            replace(inspection.defects[0], kind="missing material", deviation_mm=-0.4, volume_mm3=2.0), inspection
        )
    )
    assert (told["Kind"], told["Height or depth"], told["Volume"]) == ("missing material", "-0.4 mm", "2 mm³")


def test_measures_say_no_more_than_is_known(inspection):
    flat = replace(
        inspection.defects[0], extent_mm=(6.89, 6.12, 0.0), centroid_mm=(-0.01, 2.0, -3.0), geometry_share=0.0245
    )
    told = dict(defect_measures(replace(flat, p_value=0.0079, deviation_mm=-0.0), inspection))
    assert told["Extent"] == "6.89 × 6.12 mm"
    assert told["Centre"] == "0.0, 2.0, -3.0 mm"
    assert told["Share of shape"] == "2.5%"  # rounded half to even, of 2.45
    assert told["Height or depth"] == "0 mm"
    assert told["p-value"] == "0.0079"
    tail = replace(inspection, false_reject={"method": "extrapolated"})
    assert dict(defect_measures(replace(flat, p_value=0.0079), tail))["p-value"] == "0.0079 (extrapolated)"


@pytest.mark.parametrize(
    ("share", "text"),
    [(None, "–"), (float("nan"), "–"), (1.0, "100%"), (0.99999, "99.9%"), (0.00001, "0.1%"), (0.0, "0%")],
)
def test_nearly_all_is_not_all(share, text):
    assert percent(share) == text
