"""A whole inspection against the encoder's own time for the same views, with the share of each stage and peak memory.

    python tests/bench/inspection.py    # writes tests/bench/inspection.json

The demo's part and settings (bracket, 16 views of 448 x 448, clip-b16-q8), two good specimens; median of several runs
in one process, after a warm-up.
"""

import json
import os
import resource
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rad3d import Inspector
from rad3d.datasets.machine_elements import make_specimen
from rad3d.patches import cut, windows_of
from rad3d.render import renderer_for

REPEATS = 3


def main():
    good = [replace(make_specimen("bracket", seed).scan, specimen=f"good_{seed}") for seed in (1, 2)]
    inspector = Inspector.fit(good)
    scan = make_specimen("bracket", 12, ("hole",)).scan
    views = renderer_for(scan).render(inspector.cameras)
    size_hw, patch = inspector.encoder.settings.input_hw, inspector.encoder.patch_size
    images = np.stack(
        [cut(view, window, size_hw) for view in views for window in windows_of(view, size_hw, patch, None)]
    )
    inspector.inspect(scan)
    encoder, whole, stages = [], [], []
    for _ in range(REPEATS):
        start = time.perf_counter()
        inspector.encoder.encode(images)
        encoder.append(time.perf_counter() - start)
        start = time.perf_counter()
        stages.append(inspector.inspect(scan).timings_s)
        whole.append(time.perf_counter() - start)
    ratios = [total / alone for total, alone in zip(whole, encoder, strict=True)]
    result = {
        "encoder_s": statistics.median(encoder),
        "inspection_s": statistics.median(whole),
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "stages_s": {name: statistics.median(stage[name] for stage in stages) for name in stages[0]},
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "views": len(views),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
