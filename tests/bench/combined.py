"""What labels of other parts add to good specimens of a part (rad3d+mrad), by their weight; writes combined.json.

    OMP_NUM_THREADS=1 python tests/bench/combined.py SET

SET is machine_elements, size small, track meshes; coarse settings (224 x 224, 8 views). Two dev parts teach MRAD, the
third is fitted with 4 good specimens and judged on good and defective ones, in turn. Nothing else differs.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from stations import station_of

from rad3d import evidence
from rad3d.auxiliary import Auxiliary, Lessons
from rad3d.calibration import specimen_threshold
from rad3d.datasets import load_samples
from rad3d.datasets.sample import Choice
from rad3d.deviation import GoodDeviation
from rad3d.encoder import Encoder
from rad3d.fitting import leave_one_out, memory_of, remember
from rad3d.inspector import specimen_score
from rad3d.io import read_scan
from rad3d.memory import Memory
from rad3d.metrics import rank
from rad3d.progress import silently
from rad3d.settings import EncoderSettings, Settings, ViewSettings
from rad3d.surface import PlacedPatches, surface_scores

PARTS = ("spur_gear", "flange", "bracket")
SETTINGS = Settings(encoder=EncoderSettings(input_hw=(224, 224)), views=ViewSettings(count=8))
WEIGHTS = (0.0, 0.25, 0.5, 1.0)
GOOD, DEFECTIVE = 2, 6


def stop(error):
    raise error


def some(samples, good, defective):
    return [s for s in samples if s.label == 0][:good] + [s for s in samples if s.label == 1][:defective]


def measure(root, part, encoder, experts):
    """Rows by method and weight."""
    samples = load_samples("machine_elements", root, Choice(parts=(part,), track="meshes"))
    train = [sample for sample in samples if sample.split == "train"]
    test = some([sample for sample in samples if sample.split == "test"], GOOD, DEFECTIVE)
    nominal = read_scan(train[0].nominal)
    station, _ = station_of(nominal, SETTINGS)
    shape = station.shape
    seen = [station.observe(s.load_scan()) for s in (*train, *test)]
    good, judged = seen[: len(train)], seen[len(train) :]
    memory = Memory.merged([memory_of(one, part, encoder) for one in good])
    patch_scores = leave_one_out(memory, good, SETTINGS, silently)
    deviation = GoodDeviation(np.stack([one.on_reference(shape) for one in good]))
    placed = PlacedPatches.of_memory(memory)
    raw = {id(one): surface_scores(PlacedPatches.of_query(one.patches), placed, SETTINGS.surface) for one in judged}
    rows = {}
    for name, expert in experts.items():
        grids = {id(one): expert.judge_patches(one.views, one.patches)[0] for one in seen}
        chances = np.concatenate([grids[id(one)] for one in good])[tuple(placed.position.T)]
        remembered = remember(memory, patch_scores, shape, deviation, chances)
        for weight in WEIGHTS if name == "MRAD-FT" else WEIGHTS[2:3]:
            evidence.LABELLED_WEIGHT = weight
            own = [gathered(one, remembered, grids, good=index) for index, one in enumerate(good)]
            found = []
            for one in judged:
                evidence.surface_scores = lambda *_, one=one: raw[id(one)]  # the same for every weight
                found.append(gathered(one, remembered, grids))
            rows[f"{name} x {weight:g}" if weight else "rad3d alone"] = row(own, found, judged, test)
    return rows


def gathered(observation, remembered, grids, good=None):
    scores = evidence.judge_patches(observation, remembered, SETTINGS, good=good, chances=grids[id(observation)])
    return evidence.gather(observation, scores, remembered, SETTINGS, good=good)


def row(own, found, judged, test):
    labels = np.array([sample.label for sample in test])
    scores = np.array([specimen_score(one) for one in found])
    specimens = rank([scores], [labels])
    values, regions, areas, appearance = [], [], [], []
    for one, observation, sample in zip(found, judged, test, strict=True):
        vertex = observation.scan.surface_from_vertex
        area = observation.surface.areas_mm2 / np.maximum(np.bincount(vertex, minlength=len(one.score)), 1)
        values.append(one.score[vertex])
        appearance.append(one.appearance[vertex])
        regions.append(sample.load_point_labels().instance)
        areas.append(area[vertex])
    points, seen = rank(values, regions, areas), rank(appearance, regions, areas)
    calibrated, _ = specimen_threshold(np.array([specimen_score(one) for one in own]), 0.05)
    threshold = max(calibrated, SETTINGS.verdict.min_score)
    return {
        "specimen AUROC": specimens.auroc(),
        "missed": int(((scores <= threshold) & (labels == 1)).sum()),
        "false rejects": int(((scores > threshold) & (labels == 0)).sum()),
        "point AP by area": points.average_precision(),
        "AUPRO@0.05 by area": points.aupro()[1],
        "point AP of appearance alone": seen.average_precision(),
    }


def main():
    root = Path(sys.argv[1])
    encoder = Encoder.load(SETTINGS.encoder)
    teaching = {}
    for part in PARTS:
        auxiliary = Auxiliary.at(root, Choice(parts=(part,), track="meshes"))
        samples = some(auxiliary.samples, 3, 8)
        few = replace(SETTINGS, views=ViewSettings(count=4))
        teaching[part] = Lessons.of(samples, root, encoder, few, silently, stop)
    result = {"settings": SETTINGS.to_dict(), "judged": f"{GOOD} good, {DEFECTIVE} defective"}
    for part in PARTS[::-1]:
        lessons = Lessons.joined([teaching[other] for other in PARTS if other != part])
        experts = {"MRAD-FT": lessons.expert("mrad-ft", encoder), "MRAD-TF": lessons.expert("mrad-tf", encoder)}
        result[part] = measure(root, part, encoder, experts)
        Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        print(part, json.dumps(result[part], indent=1), flush=True)


if __name__ == "__main__":
    main()
