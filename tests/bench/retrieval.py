"""Batched patch retrieval against loops over patches, at RAD's 3D-ADAM settings.

    python tests/bench/retrieval.py    # writes tests/bench/retrieval.json

784 patches, 768 channels, 4 layers, 48 views, position radius 1, float32, all in one run; seconds per query image. Two
rivals: `plain loop`, tests/reference.py on tokens normalised beforehand, and `loop as published`, which gathers and
normalises the neighbouring patches of every query patch anew, as the published method's description has it.
"""

import importlib.util
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from rad3d.retrieval import patch_scores

LAYERS, SIDE, CHANNELS, VIEWS, RADIUS = 4, 28, 768, 48, 1
REPEATS = 7


def reference_scores():
    path = Path(__file__).parents[1] / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.rad_patch_scores


def loop_as_published(query, keys, radius):
    """Query (l, h, w, c) and keys (k, l, h, w, c), tokens as the encoder gives them -> scores (l, h, w)."""
    _, layers, h, w, c = keys.shape
    scores = torch.empty(layers, h, w)
    for layer in range(layers):
        for row in range(h):
            for column in range(w):
                rows = slice(max(0, row - radius), row + radius + 1)
                columns = slice(max(0, column - radius), column + radius + 1)
                near = torch.nn.functional.normalize(keys[:, layer, rows, columns].reshape(-1, c), dim=-1)
                own = torch.nn.functional.normalize(query[layer, row, column], dim=-1)
                scores[layer, row, column] = 1 - (near @ own).max()
    return scores


def seconds(run, repeats):
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return taken


def main():
    generator = torch.Generator().manual_seed(0)
    normalise = torch.nn.functional.normalize
    query = normalise(torch.randn(LAYERS, SIDE, SIDE, CHANNELS, generator=generator), dim=-1)
    keys = normalise(torch.randn(VIEWS, LAYERS, SIDE, SIDE, CHANNELS, generator=generator), dim=-1)
    loop = reference_scores()
    slow, fast = loop_as_published(query, keys, RADIUS).numpy(), patch_scores(query, keys, RADIUS).numpy()
    batched = seconds(lambda: patch_scores(query, keys, RADIUS), REPEATS)
    looped = seconds(lambda: loop(query.numpy(), keys.numpy(), RADIUS), 2)
    published = seconds(lambda: loop_as_published(query, keys, RADIUS), 2)
    result = {
        "largest_difference": float(np.abs(slow - fast).max()),
        "batched_s": {"median": statistics.median(batched), "min": min(batched), "max": max(batched)},
        "plain_loop_s": {"median": statistics.median(looped), "min": min(looped), "max": max(looped)},
        "published_loop_s": {"median": statistics.median(published), "min": min(published), "max": max(published)},
        "ratio_to_plain_loop": statistics.median(looped) / statistics.median(batched),
        "ratio_to_published_loop": statistics.median(published) / statistics.median(batched),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
