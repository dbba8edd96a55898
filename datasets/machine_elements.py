"""Synthetic machine elements with defects whose place, size and shape are known exactly: single ones, and a benchmark.

    OUT/machine_elements.json    what was made, with which imaging constants
    OUT/meshes/<part>/           a folder of one's own (rad3d.datasets.folder), half of the scans in a random pose
    OUT/clouds/<part>/           the same specimens as noisy coloured clouds
    OUT/captures/raw/            views of a part of them, as 3D-ADAM's sensors write them
    OUT/captures/mvtec/          the same views in 3D-ADAM's MVTec layout (tiffs: x, y, z in mm, 0 = missing), without
                                 views of defective specimens that show no defect
    OUT/extreme/raw|mvtec/       the same training specimens, others under other light and from other viewpoints
    OUT/truth/                   poses, instances, symmetries, and which file shows which specimen

Methods may read everything but truth/.
"""

import csv
import json
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import trimesh

from rad3d.datasets.machine_capture import IMAGING, Capture, Imaging, make_capture
from rad3d.datasets.machine_defects import KINDS, DefectKind
from rad3d.datasets.machine_layouts import png_bytes, write_mvtec_view, write_raw_view
from rad3d.datasets.machine_specimen import DEMO_DEFECTS, DefectLabel, Specimen, make_specimen
from rad3d.errors import DatasetError
from rad3d.files import atomic_folder
from rad3d.ply import write_ply
from rad3d.progress import Progress, silently

__all__ = [
    "DEMO_DEFECTS",
    "IMAGING",
    "KINDS",
    "SPLIT",
    "Capture",
    "DefectKind",
    "DefectLabel",
    "Imaging",
    "Specimen",
    "make_capture",
    "make_specimen",
    "write",
]

Split = Literal["dev", "test"]
SPLIT: dict[Split, tuple[str, ...]] = {
    "dev": ("spur_gear", "flange", "bracket"),
    "test": ("helical_gear", "rack", "pulley", "coupling", "lever", "hex_nut"),
}
"""Choose, ablate and tune on `dev`; run `test` for published tables only. Their seeds differ too."""

SIZES_MM = (1.5, 10.0)
CLOUD_POINTS = 40_000
CLOUD_NOISE_MM = 0.03


@dataclass(frozen=True)
class Plan:
    """How many specimens of each part.

    Args:
        train: good ones to learn from; all are captured too.
        good: good ones to test.
        defects: kinds of each defective one.
        captured_good, captured_defective: how many of the tested ones are captured too.
        extreme_good, extreme_defective: how many of those also under extreme conditions.
    """

    train: int
    good: int
    defects: tuple[tuple[DefectKind, ...], ...]
    captured_good: int
    captured_defective: int
    extreme_good: int
    extreme_defective: int


_PAIRS: tuple[tuple[DefectKind, ...], ...] = (
    ("hole", "scratch"),
    ("cut", "mark"),
    ("crack", "bulge"),
    ("burr", "under_extrusion"),
    ("missing_feature", "warp"),
)
PLANS: dict[Literal["small", "full"], Plan] = {
    "small": Plan(4, 4, (*_PAIRS, ("crack",), ("bulge",), ("scratch",)), 2, 5, 1, 2),
    "full": Plan(6, 8, (*_PAIRS, *((kind,) for kind in KINDS), *_PAIRS), 4, 15, 2, 10),
}


@dataclass(frozen=True)
class _Job:
    """One specimen to make and write."""

    part: str
    seed: int
    number: int
    folder: Literal["train", "good", "test"]
    defects: tuple[DefectKind, ...]
    captured: bool
    extreme: bool

    @property
    def kind(self) -> str:
        return self.defects[0] if self.defects else "good"

    @property
    def stem(self) -> str:
        return f"{self.part}_{self.number:03d}"


def write(
    out: str | Path,
    size: Literal["small", "full"] = "small",
    *,
    seed: int = 0,
    parts: Sequence[str] = (),
    progress: Progress = silently,
) -> None:
    """Write the benchmark; the same arguments give the same bytes.

    Args:
        out: folder to make, all or nothing.
        size: `small` has the dev parts, `full` all.
        seed: of everything random.
        parts: only these.
        progress: shows it.

    Raises:
        DatasetError: an unknown part or size.
        ResultError: the folder cannot be written.
    """
    known = (*SPLIT["dev"], *SPLIT["test"])
    for what, got, allowed in [("size", size, tuple(PLANS)), *(("part", part, known) for part in parts)]:
        if got not in allowed:
            raise DatasetError(
                "machine_elements", expected=f"a {what} of {', '.join(allowed)}", got=got, remedy="use one of these"
            )
    chosen = tuple(parts) or (SPLIT["dev"] if size == "small" else known)
    with atomic_folder(out) as folder:
        manifest = {
            "name": "machine_elements",
            "size": size,
            "seed": seed,
            "parts": {part: "dev" if part in SPLIT["dev"] else "test" for part in chosen},
            "imaging": asdict(IMAGING),
        }
        _write_json(folder / "machine_elements.json", manifest)
        for part in chosen:
            _write_part(folder, part, _jobs(part, PLANS[size], seed), progress)
        for track in ("captures", "extreme"):
            _write_specimen_map(folder, track)


def _jobs(part: str, plan: Plan, seed: int) -> list[_Job]:
    first = 1000 * seed + (0 if part in SPLIT["dev"] else 500)
    jobs = [_Job(part, first + k, k, "train", (), True, False) for k in range(plan.train)]
    for k in range(plan.good):
        number = plan.train + k
        jobs.append(_Job(part, first + number, number, "good", (), k < plan.captured_good, k < plan.extreme_good))
    for k, kinds in enumerate(plan.defects):
        number = plan.train + plan.good + k
        captured, extreme = k < plan.captured_defective, k < plan.extreme_defective
        jobs.append(_Job(part, first + number, number, "test", kinds, captured, extreme))
    return jobs


def _write_part(root: Path, part: str, jobs: Sequence[_Job], progress: Progress) -> None:
    """All tracks of one part, specimen by specimen, and what is true of them."""
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda job: _write_specimen(root, job), jobs)
        truths = [next(made) for _ in progress(jobs, f"making {part}")]
    specimen = make_specimen(part, 0)
    for track in ("meshes", "clouds"):
        nominal = trimesh.Trimesh(specimen.nominal.vertices_mm, specimen.nominal.faces, process=False)
        (root / track / part / "nominal.stl").write_bytes(trimesh.exchange.stl.export_stl(nominal))
    truth = {
        "symmetries": [pose.tolist() for pose in specimen.symmetries],
        "specimens": {job.stem: truth for job, truth in zip(jobs, truths, strict=True)},
    }
    _write_json(root / "truth" / f"{part}.json", truth)


def _write_specimen(root: Path, job: _Job) -> dict[str, object]:
    """One specimen in all its tracks; returns its truth."""
    specimen = make_specimen(job.part, job.seed, job.defects, sizes_mm=SIZES_MM, random_pose=job.number % 2 == 1)
    where = Path(job.part) / ("train" if job.folder == "train" else f"test/{job.kind}") / f"{job.stem}.ply"
    scan = specimen.scan
    write_ply(root / "meshes" / where, scan.vertices_mm, scan.faces, colours=scan.colours)
    points, colours, labels = sample_cloud(specimen, job.seed)
    write_ply(root / "clouds" / where, points, colours=colours)
    if job.defects:
        for track, instance in (("meshes", specimen.vertex_instance), ("clouds", labels)):
            file = root / track / job.part / "test" / "gt" / f"{job.stem}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(map(str, instance.tolist())) + "\n")
    truth: dict[str, object] = {
        "seed": job.seed,
        "part_from_scan": specimen.part_from_scan.tolist(),
        "instances": [asdict(label) for label in specimen.instances],
    }
    if job.captured:
        capture = make_capture(specimen, job.seed)
        tracks = ("captures", "extreme") if job.folder == "train" else ("captures",)
        truth["captures"] = _write_capture(root, tracks, job, specimen, capture)
    if job.extreme:
        capture = make_capture(specimen, job.seed, extreme=True)
        truth["extreme"] = _write_capture(root, ("extreme",), job, specimen, capture)
    return truth


def sample_cloud(specimen: Specimen, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (n, 3) in the scan's frame with noise and uneven density, their colours, and their instances (n,)."""
    scan = specimen.scan
    assert scan.faces is not None
    assert scan.colours is not None
    rng = np.random.default_rng([zlib.crc32(specimen.part.encode()), seed, 5])
    corners = scan.vertices_mm[scan.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    wave = corners.mean(axis=1) @ rng.normal(0, 0.08, 3) + rng.uniform(0, 2 * np.pi)
    density = area * (1 + 0.6 * np.sin(wave))
    face = rng.choice(len(area), CLOUD_POINTS, p=density / density.sum())
    weights = rng.dirichlet((1, 1, 1), CLOUD_POINTS)
    points = np.einsum("nc,nci->ni", weights, corners[face]) + rng.normal(0, CLOUD_NOISE_MM, (CLOUD_POINTS, 3))
    colours = np.einsum("nc,nci->ni", weights, scan.colours[scan.faces[face]].astype(float))
    return points, np.round(colours).astype(np.uint8), specimen.face_instance[face].astype(np.int32)


def _write_capture(
    root: Path, tracks: Sequence[str], job: _Job, specimen: Specimen, capture: Capture
) -> dict[str, object]:
    """The views in both layouts of each track; returns the true cameras."""
    kinds = [label.kind for label in specimen.instances]
    split = {"train": "train/good", "good": "validation/good", "test": f"test/{job.kind}"}[job.folder]
    name = f"{job.part}_C{job.number:03d}_{job.kind.title()}"
    for number, (view, instance) in enumerate(zip(capture.views, capture.instances, strict=True)):
        image, stem = png_bytes(view.image), f"{IMAGING.views * job.number + number:03d}"
        for track in tracks:
            raw = root / track / "raw" / name / "Nano"
            write_raw_view(raw, f"{name}_Nano_{view.name}", view, image, instance, kinds)
            if not job.defects or instance.any():  # there the label is the image's: it must show what it is filed under
                write_mvtec_view(root / track / "mvtec" / job.part / split, stem, view, image, instance)
    return {
        "intrinsics": capture.cameras[0].intrinsics.tolist(),
        "part_from_camera": [camera.part_from_camera.tolist() for camera in capture.cameras],
    }


def _write_specimen_map(root: Path, track: str) -> None:
    """`truth/<track>_specimens.csv`: which specimen a file of the MVTec layout shows."""
    files = sorted((root / track / "mvtec").glob("*/*/*/rgb/*.png"))
    path = root / "truth" / f"{track}_specimens.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("file", "specimen"))
        for image in files:
            relative = image.relative_to(root / track / "mvtec")
            rows.writerow((relative.as_posix(), f"{relative.parts[0]}_{int(image.stem) // IMAGING.views:03d}"))


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
