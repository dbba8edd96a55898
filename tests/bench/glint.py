"""Whether a highlight in one view becomes a defect, by the rule that fuses the views; writes glint.json.

    python tests/bench/glint.py [PART...]

Synthetic: machine_elements as meshes, coarse settings (224 x 224, 12 views). Every judged specimen, good or with one
defect of a kind that hardly has any depth, has a bright spot painted into one of its views at a random place on the
part; the good ones to learn from have none. Each rule has its own calibration. The same observations serve all rules.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from stations import station_of

from rad3d import Inspector
from rad3d.datasets.machine_elements import make_specimen
from rad3d.metrics import rank
from rad3d.observe import Clock
from rad3d.patches import encode_views
from rad3d.settings import EncoderSettings, FusionSettings, Settings, ViewSettings

SETTINGS = Settings(encoder=EncoderSettings(input_hw=(224, 224)), views=ViewSettings(count=12))
PARTS = ("bracket", "flange")
RULES = ("consistent", "mean", "max", "median", "second")
KINDS = ("mark", "scratch", "crack")
LEARNED, GOOD, DEFECTIVE = 4, 10, 12
SPOT_PIXELS = (5.0, 9.0)
"""Radius of the spot, of images 224 pixels wide."""


def with_glint(observation, station, seed):
    """The specimen as it looks with a highlight in one view."""
    rng = np.random.default_rng(seed)
    views = list(observation.views)
    chosen = int(rng.integers(len(views)))
    view = views[chosen]
    y, x = rng.permutation(np.argwhere(view.mask))[0]
    rows, columns = np.indices(view.size_hw)
    radius = rng.uniform(*SPOT_PIXELS)
    light = np.clip(1.5 - np.hypot(rows - y, columns - x) / radius, 0, 1)[..., None] * view.mask[..., None]
    image = (view.image * (1 - light) + 255 * light).round().astype(np.uint8)
    views[chosen] = replace(view, image=image)
    patches = encode_views(views, station.encoder, SETTINGS.views.mm_per_patch)
    return replace(observation, views=tuple(views), patches=replace(patches, features=patches.features.half()))


def measure(part):
    """A row for every rule."""
    station, inspectable = station_of(make_specimen(part, 0).nominal, SETTINGS)
    learned = [station.observe(make_specimen(part, 40_000 + seed).scan) for seed in range(LEARNED)]
    judged = []
    for number in range(GOOD + DEFECTIVE):
        kinds = KINDS[number % len(KINDS) :][:1] if number >= GOOD else ()
        made = make_specimen(part, 41_000 + number, kinds)
        judged.append((made, with_glint(station.observe(made.scan), station, number)))
        print(part, number, flush=True)
    rows = {}
    for rule in RULES:
        settings = replace(SETTINGS, fusion=FusionSettings(rule=rule))
        inspector = Inspector.of(learned, replace(station, settings=settings), inspectable, part=part)
        found = [inspector.judged(observation, Clock()) for _, observation in judged]
        scores, labels = np.array([one.score for one in found]), np.array([bool(m.instances) for m, _ in judged])
        verdicts = np.array([one.verdict == "fail" for one in found])
        points = rank(
            [one.points.anomaly_score for one, bad in zip(found, labels, strict=True) if bad],
            [made.vertex_instance for (made, _), bad in zip(judged, labels, strict=True) if bad],
        )
        rows[rule] = {
            "specimen AUROC": round(rank([scores], [labels.astype(int)]).auroc(), 3),
            "good rejected": f"{int(verdicts[~labels].sum())} of {GOOD}",
            "defective failed": f"{int(verdicts[labels].sum())} of {DEFECTIVE}",
            "point AP": round(points.average_precision(), 3),
            "threshold": round(inspector.threshold[0], 2),
        }
        print(part, rule, json.dumps(rows[rule]), flush=True)
    return rows


def main():
    result = {"settings": SETTINGS.to_dict()} | {part: measure(part) for part in sys.argv[1:] or PARTS}
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
