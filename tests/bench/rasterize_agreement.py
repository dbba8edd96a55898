"""Whether PyTorch3D's rasteriser shows what the ray caster shows, and what each costs.

    pip install -e '.[pytorch3d]'            # an environment of its own: its wheel needs torch 2.12
    python tests/bench/rasterize_agreement.py [cpu|cuda]  # writes tests/bench/rasterize_agreement.json

Fails unless at least 99.5 % of all pixels agree: both background, or the same point within 0.01 mm and an image within
3 grey levels. What is left are pixels whose ray meets an edge.
"""

import json
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
import trimesh

from rad3d.camera import Camera
from rad3d.geometry import look_at
from rad3d.render.rasterize import Rasterizer
from rad3d.render.raycast import RayCaster
from rad3d.scan import Scan

SIZE_HW = (120, 160)
EYES = ((60.0, -100.0, 80.0), (-90.0, 30.0, -100.0), (0.0, 0.0, 140.0))


def part() -> Scan:
    """A ring with a block on it, vertices coloured by place."""
    ring = trimesh.creation.annulus(8.0, 15.0, 8.0, sections=64)
    block = trimesh.creation.box((6, 5, 14), trimesh.transformations.translation_matrix((11, 0, 4)))
    mesh = trimesh.boolean.union([ring, block])
    colours = np.clip(128 + 6 * mesh.vertices, 0, 255).astype(np.uint8)
    return Scan("part", vertices_mm=np.array(mesh.vertices), faces=np.array(mesh.faces), colours=colours)


def main() -> int:
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    scan = part()
    cameras = [Camera.from_field_of_view(SIZE_HW, 0.25, look_at(np.array(eye), np.zeros(3))) for eye in EYES]
    views, seconds = {}, {}
    for name, renderer in (("raycast", RayCaster.from_scan(scan)), ("rasterize", Rasterizer(scan, device))):
        renderer.render(cameras[:1])
        begin = time.perf_counter()
        views[name] = renderer.render(cameras)
        seconds[name] = round((time.perf_counter() - begin) / len(cameras), 4)
    rows = []
    for cast, drawn in zip(views["raycast"], views["rasterize"], strict=True):
        both = cast.mask & drawn.mask
        distance = np.where(both, np.linalg.norm(cast.points_mm - drawn.points_mm, axis=-1), 0)
        grey = np.abs(cast.image.astype(int) - drawn.image).max(axis=-1)
        agree = (cast.mask == drawn.mask) & (distance < 0.01) & (grey <= 3)
        rows.append(
            {
                "pixels_on_part": int(cast.mask.sum()),
                "mask_differs": int((cast.mask != drawn.mask).sum()),
                "point_differs": int((distance >= 0.01).sum()),
                "image_differs": int((grey > 3).sum()),
                "agree": round(float(agree.mean()), 5),
                "median_distance_mm": float(np.median(distance[both])),
            }
        )
    report = {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"cpu ({platform.machine()})",
        "torch": torch.__version__,
        "triangles": len(scan.faces),
        "size_hw": SIZE_HW,
        "seconds_per_view": seconds,
        "views": rows,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    return 0 if min(row["agree"] for row in rows) >= 0.995 else 1


if __name__ == "__main__":
    sys.exit(main())
