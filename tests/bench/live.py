"""How long the live viewer takes with a million points in a headless Chromium, which draws WebGL in software.

    python -P tests/bench/live.py    # writes tests/bench/live.json

A synthetic ball with two places of high score. Frames are those that the page draws while the part is turned with the
mouse; on a machine with a graphics card there are many more.
"""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from rad3d.geometry import sphere
from rad3d.result import Inspection, PointScores
from rad3d.viewers.live import serve

POINTS = 1_000_000
RADIUS_MM = 20.0
PEAKS = ((np.array([1.0, 0, 0]), 4.0), (np.array([0, -1.0, 0]), 2.0))
TURNED_S = 20.0
FRAMES = """() => { window.frames = 0; const count = () => { window.frames += 1; requestAnimationFrame(count); };
  requestAnimationFrame(count); }"""


def ball() -> Inspection:
    """A result of a cloud whose score rises around the peaks."""
    directions = sphere(POINTS)
    score = np.full(POINTS, 0.2, np.float32)
    for towards, height in PEAKS:
        score += (height * np.exp(-20 * ((directions - towards) ** 2).sum(axis=1))).astype(np.float32)
    nothing = np.zeros(POINTS, np.float32)
    points = PointScores(score, score, nothing, np.ones(POINTS, np.int32), nothing, nothing, np.zeros(POINTS, np.int32))
    return Inspection(
        specimen="ball",
        source="",
        unit="mm",
        verdict="fail",
        reason="",
        score=4.2,
        threshold=1.0,
        point_threshold=1.0,
        coverage=1.0,
        coverage_total=1.0,
        false_reject={},
        settings={"verdict": {"min_area_mm2": 0.5}},
        fingerprint="",
        timings_s={},
        defects=(),
        vertices_mm=RADIUS_MM * directions,
        faces=None,
        good_scores=np.array([0.3, 0.5, 0.8]),
        points=points,
    )


def main() -> None:
    """Open, turn, move the slider."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    result, started = ball(), time.perf_counter()
    viewer = serve([result], block=False)
    measured: dict[str, object] = {"points": POINTS, "started_s": time.perf_counter() - started}
    flags = ["--no-sandbox", "--use-gl=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        tab = browser.new_page(viewport={"width": 1280, "height": 800})
        tab.set_default_timeout(120_000)
        received: list[int] = []
        tab.on("websocket", lambda socket: socket.on("framereceived", lambda data: received.append(len(data))))
        started = time.perf_counter()
        tab.goto(viewer.url)
        tab.get_by_text("0 defects").wait_for()  # none is listed until the slider moves
        measured["opened_s"] = time.perf_counter() - started
        while viewer.threshold.disabled:
            tab.wait_for_timeout(100)
        measured["slider_ready_s"] = time.perf_counter() - started
        measured["received_mb"] = sum(received) / 1e6

        tab.evaluate(FRAMES)
        started = time.perf_counter()
        tab.mouse.move(400, 400)
        tab.mouse.down()
        while time.perf_counter() - started < TURNED_S:
            tab.mouse.move(400 + 150 * np.sin(time.perf_counter()), 400)
        tab.mouse.up()
        measured["frames_per_s"] = tab.evaluate("window.frames") / (time.perf_counter() - started)

        started = time.perf_counter()
        viewer.threshold.value = 3.0
        viewer._resegment()
        measured["slider_moved_s"] = time.perf_counter() - started
        tab.get_by_text("1 defect", exact=True).wait_for()
        measured["list_changed_s"] = time.perf_counter() - started
        browser.close()
    viewer.stop()
    measured = {name: round(value, 2) if isinstance(value, float) else value for name, value in measured.items()}
    measured |= {"cores": os.cpu_count(), "load": [round(value, 1) for value in os.getloadavg()[:2]]}
    Path(__file__).with_suffix(".json").write_text(json.dumps(measured, indent=1) + "\n")
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
