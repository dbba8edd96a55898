"""Exact AUPRO against anomalib's exact one, on the same maps with regions labelled once; and peak memory at size.

    pip install anomalib==2.7.0    # the rival; not a dependency of rad3d
    python tests/bench/metrics.py  # writes tests/bench/metrics.json

anomalib's AUPRO labels regions itself (kornia); here both get ids made beforehand, so that what is timed is sorting and
integration, at one limit (0.3). rad3d computes three limits in the same pass; that time is given as well.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from rad3d.metrics import AUPRO_LIMITS, label_regions, rank

REPEATS = 7
MAPS, SIZE_HW = 48, (512, 512)
LARGE_PIXELS = 200_000_000


def made_maps(count: int, size_hw: tuple[int, int], seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Smooth noise with round defects in half of the maps (below 1 % of the pixels) that stand out by chance."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    rows, columns = np.indices(size_hw)
    scores, masks = [], []
    for i in range(count):
        score = gaussian_filter(rng.standard_normal(size_hw, np.float32), 2)
        mask = np.zeros(size_hw, bool)
        for _ in range(rng.integers(1, 5) if i % 2 else 0):
            r, c, radius = rng.integers(0, size_hw[0]), rng.integers(0, size_hw[1]), rng.uniform(4, 25)
            spot = (rows - r) ** 2 + (columns - c) ** 2 < radius**2
            score[spot] += rng.uniform(0, 0.5)
            mask |= spot
        scores.append(score.astype(np.float32))
        masks.append(mask)
    return scores, masks


def timed(run, repeats=REPEATS):
    """One warm-up, then the seconds of each run, and the last value."""
    value = run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        value = run()
        seconds.append(time.perf_counter() - start)
    return {"median_s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds)}, value


def rival(scores, regions):
    """anomalib's exact AUPRO on ids that count on over the maps."""
    import anomalib
    import torch
    from anomalib.metrics.aupro import _AUPRO
    from torchmetrics.utilities.compute import auc

    offset, ids = 0, []
    for region in regions:
        ids.append(np.where(region > 0, region + offset, 0))
        offset += int(region.max())
    labels, preds = torch.from_numpy(np.stack(ids)), torch.from_numpy(np.stack(scores))
    metric = _AUPRO(fpr_limit=0.3)

    def run() -> float:
        rate, overlap = metric.compute_pro(labels, preds)
        return float(auc(rate, overlap, reorder=True) / rate[-1])

    return f"anomalib {anomalib.__version__}", run


def exact(scores, regions, limit):
    """The same definition once more, in float64 with one global sort, to see who is right."""
    flat, offset, names = np.concatenate([s.ravel() for s in scores]), 0, []
    for region in regions:
        names.append(np.where(region > 0, region + offset, 0).ravel())
        offset += int(region.max())
    ids = np.concatenate(names)
    order = np.argsort(-flat)
    ends = np.r_[np.flatnonzero(np.diff(flat[order])), len(flat) - 1]
    sizes = np.bincount(ids)
    rate = np.r_[0, np.cumsum(ids[order] == 0)[ends] / sizes[0]]
    lift = np.where(ids > 0, 1 / (sizes[ids] * offset), 0.0)
    overlap = np.r_[0, np.cumsum(lift[order])[ends]]
    last = np.searchsorted(rate, limit, "right")
    at_limit = np.interp(limit, rate[last - 1 : last + 1], overlap[last - 1 : last + 1])
    return float(np.trapezoid(np.r_[overlap[:last], at_limit], np.r_[rate[:last], limit]) / limit)


def large(pixels: int) -> dict[str, float]:
    """Peak memory of all metrics on many pixels, in a process of its own (this one)."""
    size_hw = (1000, 1000)
    tiles, tile_masks = made_maps(10, size_hw, seed=1)
    rng = np.random.default_rng(2)
    scores = [tiles[i % 10] + rng.random(dtype=np.float32) for i in range(pixels // (size_hw[0] * size_hw[1]))]
    masks = [tile_masks[i % 10].copy() for i in range(len(scores))]
    start = time.perf_counter()
    ranking = rank(scores, (label_regions(mask) for mask in masks))
    values = [ranking.auroc(), ranking.average_precision(), *ranking.f1_max(), *ranking.aupro()]
    return {
        "pixels": sum(s.size for s in scores),
        "defective_share": float(np.mean([m.mean() for m in masks])),
        "seconds": time.perf_counter() - start,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "auroc": values[0],
    }


def main() -> None:
    """Run and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true", help="only the memory measurement, printed as JSON")
    if parser.parse_args().large:
        print(json.dumps(large(LARGE_PIXELS)))
        return
    scores, masks = made_maps(MAPS, SIZE_HW, seed=0)
    regions = [label_regions(mask) for mask in masks]
    theirs_name, their_run = rival(scores, regions)
    ours, our_value = timed(lambda: rank(scores, regions).aupro((0.3,))[0])
    three, _ = timed(lambda: rank(scores, regions).aupro(AUPRO_LIMITS))
    theirs, their_value = timed(their_run)
    right = exact(scores, regions, 0.3)
    memory = json.loads(
        subprocess.run([sys.executable, __file__, "--large"], check=True, capture_output=True, text=True).stdout
    )
    report = {
        "question": "is exact AUPRO at least as fast as a public exact one, and does 200 million pixels fit in 3 GB?",
        "maps": MAPS,
        "size_hw": SIZE_HW,
        "pixels": MAPS * SIZE_HW[0] * SIZE_HW[1],
        "regions": int(sum(r.max() for r in regions)),
        "repeats": REPEATS,
        "rad3d": {**ours, "value": our_value, "error": abs(our_value - right)},
        "rad3d_three_limits": three,
        theirs_name: {**theirs, "value": their_value, "error": abs(their_value - right)},
        "rival_over_rad3d": theirs["median_s"] / ours["median_s"],
        "memory": memory,
        "machine": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "cpus": os.cpu_count(),
            "platform": platform.platform(),
        },
    }
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
