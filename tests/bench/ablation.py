"""What each ingredient is worth, and what more good specimens are: writes ablation.json.

    python tests/bench/ablation.py [PART...]

Synthetic: machine_elements as meshes in the part frame, coarse settings (224 x 224, 12 views), the dev parts. Every
specimen is observed once; what follows (retrieval, calibration, fusion, geometry, defects, verdict) runs once with
everything and once without each ingredient, on the same observations. The interval of a difference is a bootstrap over
the judged specimens of all parts, in pairs. Registration is not taken away: without it nothing can be compared.
"""

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path
from unittest.mock import patch

import numpy as np
from stations import station_of

from rad3d import Inspector, evidence
from rad3d.datasets.machine_elements import KINDS, SPLIT, make_specimen
from rad3d.demo import compare
from rad3d.fitting import seen_twice
from rad3d.metrics import InstanceCounts, rank
from rad3d.observe import Clock
from rad3d.settings import EncoderSettings, FusionSettings, Settings, SurfaceSettings, VerdictSettings, ViewSettings

SETTINGS = Settings(encoder=EncoderSettings(input_hw=(224, 224)), views=ViewSettings(count=12))
FEW = (1, 2, 4, 8)
LEARNED = 4
"""Good specimens, where nothing else is said."""
GOOD = 8
EVERYWHERE = SurfaceSettings(radius_mm=1e6, max_normal_angle=4.0, max_view_angle=4.0)

_usual, _geometry = evidence.usual_scores, evidence._geometry


def nowhere_usual(query, remembered, scores, allowed=None):
    """One mean and one spread for the whole part."""
    known = scores if allowed is None else scores[..., allowed]
    shape = (*scores.shape[:-1], len(query))
    return tuple(np.broadcast_to(found[..., None], shape) for found in (known.mean(axis=-1), known.std(axis=-1)))


def no_colour(query, *_):
    return np.zeros(len(query))


def no_geometry(observation, remembered, verdict, good):
    deviation, _, told = _geometry(observation, remembered, verdict, good)
    return deviation, np.zeros(len(deviation)), told & False


def no_appearance(*arguments, **named):
    found = _judged(*arguments, **named)
    return found.all_usual()


_judged = evidence.judge_patches
ABLATIONS: dict[str, tuple[Settings, dict[str, Callable]]] = {
    "everything": (SETTINGS, {}),
    "without places on the surface": (replace(SETTINGS, surface=EVERYWHERE), {}),
    "without calibration by place": (SETTINGS, {"rad3d.evidence.usual_scores": nowhere_usual}),
    "without geometry": (SETTINGS, {"rad3d.evidence._geometry": no_geometry}),
    "without appearance": (SETTINGS, {"rad3d.inspector.judge_patches": no_appearance}),
    "without colour": (
        SETTINGS,
        {"rad3d.evidence.colour_scores": no_colour, "rad3d.fitting.colour_scores": no_colour},
    ),
    "without a view's level": (SETTINGS, {"rad3d.evidence.levelled": lambda unusual, _: unusual}),
    "mean over views": (replace(SETTINGS, fusion=FusionSettings(rule="mean")), {}),
    "highest view": (replace(SETTINGS, fusion=FusionSettings(rule="max")), {}),
}
NO_LEAST = replace(SETTINGS, verdict=VerdictSettings(min_score=0.0))
FEW_SHOT = {"few-shot": SETTINGS, "few-shot without a least score": NO_LEAST}


def observed(part):
    """What all runs share: the station, the good ones to learn from, and the judged specimens."""
    station, inspectable = station_of(make_specimen(part, 0).nominal, SETTINGS)
    learned = [station.observe(make_specimen(part, 50_000 + seed).scan) for seed in range(max(FEW))]
    made = [make_specimen(part, 51_000 + number) for number in range(GOOD)]
    made += [make_specimen(part, 52_000 + number, (kind,)) for number, kind in enumerate(KINDS)]
    print(part, "observing", flush=True)
    return station, inspectable, learned, [(one, station.observe(one.scan)) for one in made]


def run(part, station, inspectable, learned, judged, settings, replaced=None):
    """What is found on every judged specimen; a single good one is seen twice, as by `Inspector.fit`."""
    count = len(learned)
    if count == 1:
        looks = seen_twice(learned[0].scan, station.cameras, station.shape)
        learned = [replace(station, cameras=cameras).observe(scan) for scan, cameras in looks]
    with ExitStack() as stack:
        for name, other in (replaced or {}).items():
            stack.enter_context(patch(name, other))
        here = replace(station, settings=settings)
        inspector = Inspector.of(learned, here, inspectable, part=part, alone=count == 1)
        results = [inspector.judged(observation, Clock()) for _, observation in judged]
    rows = []
    for (made, _), result in zip(judged, results, strict=True):
        area = made.scan.surface.areas_mm2
        vertex = np.bincount(made.scan.surface_from_vertex, weights=None, minlength=len(area))
        weights = (area / np.maximum(vertex, 1))[made.scan.surface_from_vertex]
        points = (result.points.anomaly_score, made.vertex_instance, weights)
        row = {"defective": bool(made.instances), "score": result.score, "fail": result.verdict == "fail"}
        row["counts"] = compare(result, made)
        row["AP"] = rank(*([one] for one in points)).average_precision() if made.instances else np.nan
        rows.append(row)
    return rows


def summary(rows):
    """Measures over the judged specimens of all parts."""
    defective = np.array([row["defective"] for row in rows])
    failed = np.array([row["fail"] for row in rows])
    scores = np.array([row["score"] for row in rows])
    counts = sum((row["counts"] for row in rows), InstanceCounts(0, 0, 0))
    return {
        "point AP by area": float(np.nanmean([row["AP"] for row in rows])),
        "specimen AUROC": float(rank([np.nan_to_num(scores, nan=-1)], [defective.astype(int)]).auroc()),
        "defect F1": counts.f1,
        "good rejected": float(failed[~defective].mean()),
        "defective failed": float(failed[defective].mean()),
    }


def interval(rows, base):
    """95 % interval of the difference in point AP, specimens drawn in pairs."""
    apart = np.array([a["AP"] - b["AP"] for a, b in zip(rows, base, strict=True)])
    apart = apart[np.isfinite(apart)]
    drawn = np.random.default_rng(0).integers(len(apart), size=(10_000, len(apart)))
    return [round(float(v), 3) for v in (apart.mean(), *np.quantile(apart[drawn].mean(axis=1), (0.025, 0.975)))]


def main():
    parts = tuple(sys.argv[1:]) or SPLIT["dev"]
    found = {name: [] for name in [*ABLATIONS, *product(FEW_SHOT, FEW)]}
    for part in parts:
        station, inspectable, learned, judged = observed(part)
        for name, (settings, replaced) in ABLATIONS.items():
            found[name] += run(part, station, inspectable, learned[:LEARNED], judged, settings, replaced)
            print(part, name, json.dumps(summary(found[name])), flush=True)
        for name, count in product(FEW_SHOT, FEW):
            found[name, count] += run(part, station, inspectable, learned[:count], judged, FEW_SHOT[name])
            print(part, name, count, json.dumps(summary(found[name, count])), flush=True)
        result = {"settings": SETTINGS.to_dict(), "parts": parts, "judged": len(judged), "ablation": {}}
        for name in ABLATIONS:
            difference = {"difference in AP": interval(found[name], found["everything"])}
            result["ablation"][name] = summary(found[name]) | difference
        for name in FEW_SHOT:
            result[name] = {count: summary(found[name, count]) for count in FEW}
        Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
