"""The demo: synthetic machine elements made on the spot, inspected with real features."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rad3d.datasets.machine_elements import DefectKind, Specimen, make_specimen
from rad3d.files import atomic_folder
from rad3d.inspector import Inspector
from rad3d.io import read_scan
from rad3d.metrics import InstanceCounts, match_defects
from rad3d.ply import write_ply
from rad3d.progress import Progress, silently
from rad3d.result import Inspection
from rad3d.settings import Settings

PARTS = ("bracket", "flange", "spur_gear")
GOOD_SEEDS = (1, 2, 3, 4)
INSPECTED: tuple[tuple[int, tuple[DefectKind, ...]], ...] = (
    (11, ()),
    (12, ("hole",)),
    (13, ("cut", "mark")),
    (14, ("bulge",)),
    (15, ("burr", "scratch")),
    (16, ("crack",)),
)


@dataclass(frozen=True, eq=False)
class Shown:
    """One inspected specimen of the demo: what was made, what was found, and how they match."""

    inspection: Inspection
    made: Specimen
    counts: InstanceCounts


def run(part: str, folder: Path, track: Progress = silently, quick: bool = False) -> tuple[Inspector, list[Shown]]:
    """Make scans into `folder`/scans, fit on the good ones, inspect the others; scans and memory are read from files.

    Args:
        part: of `PARTS`.
        folder: where scans and memory are written.
        track: shows progress.
        quick: two good specimens and one to inspect, for a smoke test.
    """
    inspected = INSPECTED[1:2] if quick else INSPECTED
    with atomic_folder(folder / "scans") as new:
        for kind in ("good", "test"):
            (new / kind).mkdir()
        for seed in track(GOOD_SEEDS[: 2 if quick else 4], "making good specimens"):
            _write(make_specimen(part, seed), new / "good" / f"{part}_{seed:02d}.ply")
        made = [make_specimen(part, seed, defects) for seed, defects in track(inspected, "making specimens to inspect")]
        paths = [f"{part}_{seed:02d}_{'_'.join(defects) or 'good'}.ply" for seed, defects in inspected]
        for specimen, name in zip(made, paths, strict=True):
            _write(specimen, new / "test" / name)
    good = [read_scan(path) for path in sorted((folder / "scans" / "good").glob("*.ply"))]
    Inspector.fit(good, Settings(), part=part, track=track).save(folder / "memory")
    inspector = Inspector.load(folder / "memory")
    shown = []
    for specimen, name in track(list(zip(made, paths, strict=True)), "inspecting"):
        inspection = inspector.inspect(read_scan(folder / "scans" / "test" / name))
        shown.append(Shown(inspection, specimen, compare(inspection, specimen)))
    return inspector, shown


def compare(inspection: Inspection, specimen: Specimen) -> InstanceCounts:
    """Match the found defects with the made ones (`rad3d.metrics.match_defects`)."""
    labelled = [specimen.scan.vertices_mm[specimen.vertex_instance == made.id] for made in specimen.instances]
    counts, _ = match_defects(
        np.array([defect.centroid_mm for defect in inspection.defects]).reshape(-1, 3),
        np.array([defect.area_mm2 for defect in inspection.defects]),
        labelled,
        np.array([made.area_mm2 for made in specimen.instances]),
    )
    return counts


def _write(specimen: Specimen, path: Path) -> None:
    scan = specimen.scan
    write_ply(path, scan.vertices_mm, scan.faces, colours=scan.colours)
