"""Five false alarms corrected by `rad3d feedback`: what that does to other good specimens and to labelled defects.

    OMP_NUM_THREADS=1 python tests/bench/feedback.py OUT    # writes tests/bench/feedback.json; goes on from OUT/memory

Bracket, 4 good specimens, coarse settings (224 x 224, 8 views), and a false-reject rate of 0.5 asked for, so that there
are false alarms to correct. Good specimens are inspected until five false alarms (the worst defect of each failed one)
were judged good; then others, good and defective, are judged without and with these judgements, at two rates asked.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from rad3d import Inspector
from rad3d.datasets.machine_elements import KINDS, make_specimen
from rad3d.feedback import judge
from rad3d.metrics import match_defects
from rad3d.observe import Clock
from rad3d.settings import EncoderSettings, Settings, VerdictSettings, ViewSettings

SETTINGS = Settings(
    encoder=EncoderSettings(input_hw=(224, 224)),
    views=ViewSettings(count=8),
    verdict=VerdictSettings(false_reject=0.5, min_score=0.0),
)
CORRECTED, GOOD = 5, 8
PART = "bracket"
RATES, NAMES = (0.5, 0.8), ("without", "with five corrections")


def judges(inspector):
    """Inspectors by false-reject rate, without and with the judgements."""
    found = {}
    for rate in RATES:
        verdict = replace(inspector.settings.verdict, false_reject=rate)
        asked = replace(inspector, settings=replace(inspector.settings, verdict=verdict))
        for name, log in zip(NAMES, ((), inspector.log), strict=True):
            found[f"{rate} asked, {name}"] = replace(asked, log=log)
    return found


def matched(made, defects):
    """Which labelled defects were found."""
    centroids = np.array([d.centroid_mm for d in defects]).reshape(-1, 3)
    areas = np.array([d.area_mm2 for d in defects])
    vertex_area = np.bincount(made.scan.surface_from_vertex, minlength=len(made.scan.surface.areas_mm2))
    area = (made.scan.surface.areas_mm2 / np.maximum(vertex_area, 1))[made.scan.surface_from_vertex]
    inside = [made.vertex_instance == one.id for one in made.instances]
    inside = [flags for flags in inside if flags.any()]
    return match_defects(
        centroids, areas, [made.scan.vertices_mm[k] for k in inside], np.array([area[k].sum() for k in inside])
    )[0].matched, len(inside)


def corrected(out):
    """The inspector with five false alarms judged good, and how many good specimens that took."""
    folder = out / "memory"
    if not folder.exists():
        good = [replace(make_specimen(PART, seed).scan, specimen=f"good_{seed}") for seed in range(1, 5)]
        Inspector.fit(good, SETTINGS, part=PART).save(folder)
    inspector = Inspector.load(folder)
    tried = int(inspector.log[-1].specimen.removeprefix("fresh_")) + 1 if inspector.log else 0
    while len(inspector.log) < CORRECTED:
        scan = replace(make_specimen(PART, 100 + tried).scan, specimen=f"fresh_{tried}")
        tried += 1
        result = inspector.inspect(scan)
        if result.verdict == "fail":
            judge(folder, inspector.identity, out / scan.specimen, result, result.defects[0].id, "good")
            inspector = Inspector.load(folder)
            print("corrected", scan.specimen, result.defects[0].peak_score, flush=True)
    return inspector, tried


def main():
    inspector, tried = corrected(Path(sys.argv[1]))
    log, by_name = inspector.log, judges(inspector)
    counts = ("false rejects", "defects found", "defective failed")
    rows = {f"{rate} asked, {name}": dict.fromkeys(counts, 0) for rate in RATES for name in NAMES}
    result = {"part": PART, "good inspected until five false alarms": tried, "rows": rows, "labelled defects": 0,
              "good judged": 0, "defective judged": 0,
              "places corrected (mm)": [[round(v, 1) for v in j.place_mm] for j in log]}  # fmt: skip
    for number in range(max(GOOD, len(KINDS))):
        for kinds in ((), KINDS[number : number + 1]):
            if number >= (len(KINDS) if kinds else GOOD):
                continue
            made = make_specimen(PART, (300 if kinds else 200) + number, kinds)
            observation = inspector.station.observe(made.scan)
            for name, one in by_name.items():
                defects = one.judged(observation, Clock()).defects
                hits, count = matched(made, defects) if kinds else (0, 0)
                rows[name]["false rejects"] += bool(defects) and not kinds
                rows[name]["defective failed"] += bool(defects) and bool(kinds)
                rows[name]["defects found"] += hits
            result["labelled defects"] += count
            result["defective judged" if kinds else "good judged"] += 1
            Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
            print(kinds, json.dumps(rows), flush=True)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
