"""Make the README's pictures: `rad3d demo -o DEMO`, `python docs/make_pictures.py DEMO/results/bracket_13_cut_mark`.

Needs Chromium and playwright (the extra `test`), which draw the report as a reader sees it. The curve is drawn from
tests/bench/ablation.json.
"""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import sync_playwright

from rad3d.result import load_result
from rad3d.viewers.figures import contact_sheet, few_shot_curve
from rad3d.viewers.report import write_report

DOCS = Path(__file__).parent
VIEWS = 4
SIZE = {"width": 1280, "height": 1120}
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
CURVES = {
    "defective ones failed": lambda row: row["defective failed"],
    "good ones not rejected": lambda row: 1 - row["good rejected"],
    "point AP by area": lambda row: row["point AP by area"],
    "defect F1": lambda row: row["defect F1"],
}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def report_picture(folder: Path, picture: Path) -> None:
    """The upper part of the report of one result."""
    with TemporaryDirectory() as place, sync_playwright() as running:
        page = write_report([load_result(folder)], Path(place) / "report.html")
        browser = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_page(viewport=SIZE, color_scheme="light")
        tab.goto(page.as_uri())
        tab.wait_for_selector("[data-ready]", state="attached", timeout=120_000)
        tab.screenshot(path=picture, timeout=120_000)
        browser.close()
    Image.open(picture).convert("RGB").quantize(256).save(picture, optimize=True)  # a third of the size


def views_picture(folder: Path, picture: Path) -> None:
    """The beginning of the result's contact sheet, its views.png."""
    result = load_result(folder)
    contact_sheet(replace(result, views=result.views[:VIEWS]), picture)
    Image.open(picture).save(picture, optimize=True)  # all its colours: few would spoil the legend


def few_shot_picture(picture: Path) -> None:
    """What more good specimens give, as the ablation measured it."""
    measured = json.loads((DOCS.parent / "tests" / "bench" / "ablation.json").read_text())["few-shot"]
    ax = None
    for label, of in CURVES.items():
        ax = few_shot_curve([int(n) for n in measured], [of(row) for row in measured.values()], label=label, ax=ax)
    assert ax is not None
    ax.set(title="", ylabel="", ylim=(0, 1.03))
    ax.figure.set_size_inches(5.6, 3.0)
    ax.figure.savefig(picture, dpi=130)


if __name__ == "__main__":
    few_shot_picture(DOCS / "few_shot.png")
    views_picture(Path(sys.argv[1]), DOCS / "demo.png")
    report_picture(Path(sys.argv[1]), DOCS / "report.png")
