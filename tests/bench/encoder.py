"""What bfloat16 gains and costs: images per second, and how far RAD's patch scores move, against float32.

    RAD3D_TEST_TIRE=DIR python tests/bench/encoder.py  # writes tests/bench/encoder.json

The photographs are those of MVTec 3D-AD's tire. Memory: 8 good ones; queries: 8 others, half of them defective. The
score of a patch is 1 - best cosine over all remembered patches, mean over layers, without the position option.
Processor seconds (one thread) are given beside the wall's, because they do not suffer from what else the machine does.
"""

import json
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from scipy.stats import spearmanr

from rad3d.encoder import Encoder, Features, resize
from rad3d.settings import EncoderSettings, Precision

REPEATS = 3


def scores(memory: Features, queries: Features) -> np.ndarray:
    """(queries, h, w)"""
    normalise = torch.nn.functional.normalize
    layers = []
    for layer in range(memory.patches.shape[1]):
        keys = normalise(memory.patches[:, layer].flatten(0, 2), dim=-1)
        values = normalise(queries.patches[:, layer], dim=-1)
        layers.append(torch.stack([1 - (value @ keys.T).amax(-1) for value in values]))
    return torch.stack(layers).mean(0).numpy()


def measure(
    name: str, precision: Precision, memory: np.ndarray, queries: np.ndarray
) -> tuple[np.ndarray, list[float], list[float]]:
    encoder = Encoder.load(EncoderSettings(name, precision=precision, device="cpu"))
    found = scores(encoder.encode(memory), encoder.encode(queries))  # the warm-up as well
    wall, processor = [], []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        encoder.encode(queries)
        wall.append((time.perf_counter() - begin) / len(queries))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(REPEATS):
        begin = time.process_time()
        encoder.encode(queries)
        processor.append((time.process_time() - begin) / len(queries))
    torch.set_num_threads(threads)
    return found, wall, processor


def spread(slow: list[float], fast: list[float]) -> dict[str, object]:
    return {
        "float32": round(1 / statistics.median(slow), 2),
        "bfloat16": round(1 / statistics.median(fast), 2),
        "ratio": round(statistics.median(slow) / statistics.median(fast), 2),
        "ratio_spread": [round(min(slow) / max(fast), 2), round(max(slow) / min(fast), 2)],
    }


def main() -> None:
    root = Path(os.environ["RAD3D_TEST_TIRE"])
    good = sorted((root / "train" / "good").rglob("*.png"))
    bad = [path for path in sorted((root / "test" / "hole").rglob("*.png")) if "gt" not in path.parts]
    photographs = [resize(np.asarray(Image.open(path).convert("RGB")), (448, 448)) for path in good[:12] + bad[:4]]
    memory, queries = np.stack(photographs[:8]), np.stack(photographs[8:])
    results = {}
    for name in ("clip-b16-q8", "dinov2-s-saliency"):
        full, slow, slow_cpu = measure(name, "float32", memory, queries)
        half, fast, fast_cpu = measure(name, "bfloat16", memory, queries)
        results[name] = {
            "images_per_s": spread(slow, fast),
            "images_per_processor_second": spread(slow_cpu, fast_cpu),
            "patch_scores": {
                "mean_float32": float(full.mean()),
                "spread_float32": float(full.std()),
                "mean_shift": float((half - full).mean()),
                "spread_of_difference": float((half - full).std()),
                "largest_difference": float(np.abs(half - full).max()),
                "rank_correlation": float(spearmanr(half.ravel(), full.ravel()).statistic),
            },
            "top_1_percent_per_image": {
                kind: [round(float(np.sort(image.ravel())[-len(image.ravel()) // 100 :].mean()), 4) for image in found]
                for kind, found in (("float32", full), ("bfloat16", half))
            },
        }
    report = {
        "machine": {
            "processor": torch.cpu.get_capabilities().get("cpu_name", platform.processor()),
            "bfloat16_units": [unit for unit in ("amx_bf16", "avx512_bf16") if torch.cpu.get_capabilities().get(unit)],
            "load_average": os.getloadavg(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
        },
        "input_hw": [448, 448],
        "results": results,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
