"""How often, how exactly and how fast scans find their pose: prints JSON.

    python -P tests/bench/register.py --parts spur_gear flange bracket --seeds 4

Per part and seed one mesh, one noisy cloud and eight captured views, each with a hole, none with its pose. Right
means under 0.08 mm (root mean square over the part) and under 0.3 degrees, modulo the part's exact symmetries.
"""

import argparse
import json
import time
from dataclasses import dataclass

import numpy as np

from rad3d.arrays import Points, Pose
from rad3d.datasets.machine_capture import make_capture
from rad3d.datasets.machine_specimen import Specimen, make_specimen
from rad3d.geometry import inverse, rotation_angle, transform_points
from rad3d.icp import sample_surface
from rad3d.reference import Reference, build_reference
from rad3d.register import Registration, register_surface, register_views
from rad3d.scan import Scan

GOAL_MM, GOAL_DEGREES = 0.08, 0.3
NOISE_MM = 0.03


@dataclass(frozen=True)
class Trial:
    """One scan registered."""

    kind: str
    error_mm: float
    error_degrees: float
    trusted: bool
    seconds: float


def trial(kind: str, result: Registration, truth: Pose, specimen: Specimen, points: Points, seconds: float) -> Trial:
    """Compare with the truth, modulo the part's symmetries."""
    motions = [symmetry @ result.part_from_scan @ inverse(truth) for symmetry in specimen.symmetries]
    shifts = [float(np.sqrt(np.mean(np.sum((transform_points(m, points) - points) ** 2, axis=1)))) for m in motions]
    best = int(np.argmin(shifts))
    return Trial(kind, shifts[best], float(np.rad2deg(rotation_angle(motions[best]))), result.trusted, seconds)


def trials(part: str, seed: int, reference: Reference) -> list[Trial]:
    """A mesh and a cloud in a random pose, and the views of a capture."""
    marks = reference.marks_mm
    placed = make_specimen(part, seed, ("hole",), random_pose=True)
    points = sample_surface(placed.scan.surface, 12_000).points_mm
    points = points + np.random.default_rng(seed).normal(0, NOISE_MM, points.shape)
    cloud = Scan("cloud", vertices_mm=points).surface
    found = []
    for kind, surface in (("mesh", placed.scan.surface), ("cloud", cloud)):
        start = time.perf_counter()
        result = register_surface(surface, reference)
        found.append(trial(kind, result, placed.part_from_scan, placed, marks, time.perf_counter() - start))
    standing = make_specimen(part, seed, ("hole",))
    capture = make_capture(standing, seed)
    start = time.perf_counter()
    results = register_views(capture.views, reference)
    seconds = (time.perf_counter() - start) / len(results)
    return found + [
        trial("view", result, camera.part_from_camera, standing, marks, seconds)
        for result, camera in zip(results, capture.cameras, strict=True)
    ]


def summary(done: list[Trial]) -> dict[str, float]:
    """Shares and medians."""
    right = [t.error_mm < GOAL_MM and t.error_degrees < GOAL_DEGREES for t in done]
    return {
        "scans": len(done),
        "right": float(np.mean(right)),
        "trusted": float(np.mean([t.trusted for t in done])),
        "trusted_but_wrong": float(np.mean([t.trusted and not ok for t, ok in zip(done, right, strict=True)])),
        "median_mm": float(np.median([t.error_mm for t in done])),
        "median_degrees": float(np.median([t.error_degrees for t in done])),
        "median_seconds": float(np.median([t.seconds for t in done])),
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", default=["spur_gear", "flange", "bracket"])
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    done: list[Trial] = []
    building: list[float] = []
    for part in arguments.parts:
        nominal = make_specimen(part, 0).nominal.surface
        start = time.perf_counter()
        reference = build_reference(nominal)
        building.append(time.perf_counter() - start)
        for seed in range(100, 100 + arguments.seeds):
            done += trials(part, seed, reference)
    report = {kind: summary([t for t in done if t.kind == kind]) for kind in ("mesh", "cloud", "view")}
    print(json.dumps({**report, "median_seconds_build_reference": float(np.median(building))}, indent=2))


if __name__ == "__main__":
    main()
