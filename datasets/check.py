"""What in a data set on disk would corrupt a result, or is worth knowing: `check(root)` reads all of it."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from rad3d.datasets import load_samples
from rad3d.datasets.adam3d import _MASK_FOLDERS, is_raw, parse_folder, view_number
from rad3d.datasets.mvtec3d import MASK_FOLDERS
from rad3d.datasets.sample import (
    CLOUD_SUFFIXES,
    IMAGE_SUFFIXES,
    SOFT_MASK_VALUES,
    Choice,
    Sample,
    Track,
    ViewFiles,
    folders_in,
    image_of_mask,
    is_soft,
    list_files,
    part_folders,
    read_mask,
    read_specimen_map,
)
from rad3d.errors import DatasetError, Rad3dError, ScanError, UnitError
from rad3d.organised import NotOrganisedError, organised_points
from rad3d.progress import Progress, silently

Severity = Literal["corrupts", "notice"]

TRAPS: dict[str, tuple[Severity, str]] = {
    "damaged file": ("corrupts", "cannot be read"),
    "tiff is not xyz": ("corrupts", "a depth picture in three equal channels: no positions; only the image is used"),
    "image and cloud differ in size": ("corrupts", "no point per pixel; only the image is used"),
    "unit looks wrong": ("corrupts", "the size or distance makes no sense in this unit"),
    "defective without mask": ("corrupts", "not in pixel or point metrics, though labelled defective"),
    "empty mask": ("corrupts", "a defective image whose mask marks nothing counts as good pixels"),
    "mask of another size": ("corrupts", "cannot be compared with its image"),
    "good with mask": ("corrupts", "a good specimen whose mask marks a defect"),
    "specimen on both sides": ("corrupts", "the same piece, or the same file, trains and tests"),
    "name does not parse": ("corrupts", "left out, or its label is lost"),
    "empty class": (
        "corrupts",
        "nothing is read from a class's folder, as where a copy was broken off",
    ),
    "soft mask": ("notice", f"more than {SOFT_MASK_VALUES} values: defective is above half of the largest possible"),
    "missing pixels are 0 and NaN": ("notice", "both habits in one set; both are read as missing"),
    "one class only": ("notice", "a part without good or without defective test samples: its metrics are undefined"),
    "no cloud": ("notice", "only the image is used"),
}
"""What is looked for, whether it corrupts results, and what it means."""

_HABIT_SAMPLE = 200


@dataclass(frozen=True)
class Finding:
    """One kind of trap that was met.

    Args:
        trap: a key of TRAPS.
        severity: "corrupts" or "notice".
        count: how often.
        files: where; as many as `count` unless it names a part.
    """

    trap: str
    severity: Severity
    count: int
    files: tuple[str, ...]


_Met = Iterator[tuple[str, str]]


def check(
    root: str | Path,
    name: str | None = None,
    specimens: Path | None = None,
    progress: Progress = silently,
) -> list[Finding]:
    """Look for everything in TRAPS; corrupting findings first.

    Args:
        root: the set, or one of its categories.
        name: its name in DATASETS; None = found out from the layout.
        specimens: map of files to specimens, to find pieces on both sides of the split.
        progress: shows it.

    Raises:
        DatasetError: nothing there that could be listed.
    """
    root = Path(root)
    name = name or detect(root)
    met: dict[str, set[str]] = defaultdict(set)

    def gather(found: _Met) -> None:
        for trap, where in found:
            met[trap].add(where)

    for folder, samples in _listed(root, name):
        with ThreadPoolExecutor() as pool:
            results = pool.map(lambda sample: list(_check_sample(sample)), samples)
            for _ in progress(samples, f"checking {folder.name}"):
                gather(iter(next(results)))
        gather(_good_with_masks(samples))
        gather(_both_sides(root, samples, specimens))
        gather(_one_class(samples))
        gather(_mixed_habits(samples))
        gather(_empty_classes(folder, samples))
    gather(_unparsed(root))
    findings = [Finding(trap, TRAPS[trap][0], len(files), tuple(sorted(files))) for trap, files in met.items()]
    return sorted(findings, key=lambda f: (f.severity != "corrupts", list(TRAPS).index(f.trap)))


def corrupts(findings: Sequence[Finding]) -> bool:
    """Whether results on the set could not be trusted."""
    return any(finding.severity == "corrupts" for finding in findings)


def detect(root: Path) -> str:
    """Which of DATASETS a folder is by its layout; the last resort is a folder of one's own.

    Raises:
        DatasetError: no such folder.
    """
    if not root.is_dir():
        raise DatasetError(root, expected="the folder of a data set", got="no such folder", remedy="check the path")
    if (root / "machine_elements.json").is_file():
        return "machine_elements"
    if is_raw(root):
        return "adam3d"
    try:
        folders = part_folders(root, depth=3).values()
    except DatasetError:
        return "folder"
    for folder in folders:
        if (folder / "train" / "good" / "rgb").is_dir():
            return "adam3d" if any(folder.glob("*/*/ground_truth")) else "mvtec3d"
        if list_files(folder / "train", (".pcd",)) and (folder / "test").is_dir():
            names = {child.name for child in folders_in(folder)}  # the file system may ignore case
            if names & {"gt", "GT"}:
                return "shapenet_anomaly" if "GT" in names else "real3d"
    return "folder"


def _listed(root: Path, name: str) -> Iterator[tuple[Path, list[Sample]]]:
    """The samples, with the folder that holds their parts; of machine_elements those of every track."""
    if is_raw(root):
        yield root, _raw_samples(root)
    elif name == "machine_elements":
        for track in get_args(Track):
            if (root / track).is_dir():  # of captures the raw folders are read, not the same views in another layout
                raw = root / track / "raw"
                yield raw if raw.is_dir() else root / track, load_samples(name, root, Choice(track=track))
    else:
        yield root, load_samples(name, root, Choice())


def _raw_samples(root: Path) -> list[Sample]:
    """Raw specimens of all sensors, also where there are too few to be split."""
    from rad3d.datasets.adam3d import list_raw_views

    samples = []
    for folder in folders_in(root):
        part, kind = parse_folder(folder.name) or ("", "")
        for sensor in folders_in(folder) if part else ():
            views = list_raw_views(sensor, kind)
            label = 0 if kind == "good" else 1
            samples.append(Sample("adam3d", part, folder.name, "train", label, kind, views, sensor))
    return samples


def _check_sample(sample: Sample) -> _Met:
    met = [(files, trap, where) for files in sample.views for trap, where in _check_view(sample, files)]
    empty = {files.name for files, trap, _ in met if trap == "empty mask"}
    some_marked = len(empty) < sum(bool(files.masks) for files in sample.views)
    for _, trap, where in met:
        if trap != "empty mask" or len(sample.views) == 1 or not some_marked:  # a defect need not be in every view
            yield trap, where
    if sample.views or sample.scan is None:
        return
    try:
        scan = sample.load_scan()
        labels = sample.load_point_labels() if sample.split == "test" else None
    except UnitError:
        yield "unit looks wrong", str(sample.scan)
    except Rad3dError as error:
        yield "damaged file", error.source
    else:
        if sample.label and labels is None:
            yield "defective without mask", str(sample.scan)
        elif labels is not None and sample.label and not (labels.instance > 0).any():
            yield "empty mask", str(sample.labels)
        elif labels is not None and len(labels.instance) != len(scan.vertices_mm):
            yield "mask of another size", str(sample.labels)


def _check_view(sample: Sample, files: ViewFiles) -> _Met:
    from rad3d.captured import read_image

    try:
        size_hw = read_image(files.image).shape[:2]
    except ScanError:
        yield "damaged file", str(files.image)
        return
    cloud = files.cloud
    if cloud is None:
        yield "no cloud", str(files.image)
    else:
        yield from _check_cloud(cloud, (size_hw[0], size_hw[1]), sample)
    if sample.label and not files.masks and not files.clean:
        yield "defective without mask", str(files.image)
    marked = False
    for mask_file in files.masks:
        try:
            mask = read_mask(mask_file.path)
            soft = is_soft(_values(mask_file.path))
        except DatasetError:
            yield "damaged file", str(mask_file.path)
            marked = True
            continue
        if mask.shape != size_hw:
            yield "mask of another size", str(mask_file.path)
        if soft:
            yield "soft mask", str(mask_file.path)
        marked |= bool(mask.any())
        if mask_file.instance and not mask.any():
            yield "empty mask", str(mask_file.path)
    if files.masks and not marked and not all(mask.instance for mask in files.masks):
        yield "empty mask", str(files.masks[0].path)


def _is_raw_sample(sample: Sample) -> bool:
    return sample.dataset == "adam3d" and sample.scan is not None


def _values(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def _check_cloud(cloud: Path, size_hw: tuple[int, int], sample: Sample) -> _Met:
    try:
        organised_points(cloud, size_hw, unit=sample.unit)
    except NotOrganisedError as error:
        same = "identical channels" in error.got
        yield ("tiff is not xyz" if same else "image and cloud differ in size"), str(cloud)
    except UnitError:
        yield "unit looks wrong", str(cloud)
    except ScanError:
        yield "damaged file", str(cloud)


def _good_with_masks(samples: Sequence[Sample]) -> _Met:
    """The loaders ignore masks of good specimens; a mask that marks something says that one of the two is wrong."""
    good: dict[Path, set[str]] = defaultdict(set)
    for sample in samples:
        for files in sample.views if not sample.label else ():
            good[files.image.parent.parent].add(files.image.stem)
    for holder, images in good.items():
        for folder in {*_MASK_FOLDERS, *MASK_FOLDERS}:
            for stem, path in list_files(holder / folder, IMAGE_SUFFIXES).items():
                if image_of_mask(stem, images) is not None and _marks(path):
                    yield "good with mask", str(path)


def _marks(path: Path) -> bool:
    try:
        return bool(read_mask(path).any())
    except DatasetError:
        return False


def _both_sides(root: Path, samples: Sequence[Sample], specimens: Path | None) -> _Met:
    """The same file in train and test, or (with a map) the same piece."""
    files: dict[int, list[tuple[Path, Sample]]] = defaultdict(list)
    for sample in samples:
        paths = [v.image for v in sample.views] or [p for p in (sample.scan,) if p is not None and p.is_file()]
        for path in paths:
            files[path.stat().st_size].append((path, sample))
    for same_size in files.values():
        if len({sample.split == "train" for _, sample in same_size}) < 2:
            continue
        sides: dict[tuple[str, str], dict[bool, Path]] = defaultdict(dict)
        for path, sample in same_size:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            sides[sample.part, digest][sample.split == "train"] = path
        yield from (("specimen on both sides", str(two[False])) for two in sides.values() if len(two) == 2)
    if specimens is None:
        return
    named = read_specimen_map(specimens)
    trains: dict[tuple[str, str], set[bool]] = defaultdict(set)
    where: dict[tuple[str, str], list[tuple[bool, str]]] = defaultdict(list)
    for sample in samples:
        for files_ in sample.views:
            piece = named.get(files_.image.relative_to(root).as_posix())
            if piece is not None:
                trains[sample.part, piece].add(sample.split == "train")
                where[sample.part, piece].append((sample.split == "train", str(files_.image)))
    for key, both in trains.items():
        if len(both) == 2:
            yield from (("specimen on both sides", file) for in_train, file in where[key] if not in_train)


def _one_class(samples: Sequence[Sample]) -> _Met:
    for part in sorted({sample.part for sample in samples}):
        labels = {s.label for s in samples if s.part == part and (s.split == "test" or _is_raw_sample(s))}
        if len(labels) < 2:
            yield "one class only", part


def _empty_classes(root: Path, samples: Sequence[Sample]) -> _Met:
    """Folders of a class from which no sample comes."""
    files = [path for s in samples for path in (s.scan, s.labels, *(v.image for v in s.views)) if path is not None]
    used = {folder for path in files for folder in (path, *path.parents)}
    try:
        parts = part_folders(root, ("train", "good"), depth=3)
    except DatasetError:  # no layout with a folder a class
        return
    for folder in parts.values():
        for split in ("train", "validation", "test"):
            yield from (("empty class", str(group)) for group in folders_in(folder / split) if group not in used)


def _unparsed(root: Path) -> _Met:
    """Raw 3D-ADAM: folders without part and defect, images without a number, masks that belong to no image."""
    if not is_raw(root):
        return
    for folder in folders_in(root):
        if parse_folder(folder.name) is None:
            yield "name does not parse", str(folder)
            continue
        for sensor in folders_in(folder):
            images = list_files(sensor / "images", IMAGE_SUFFIXES)
            yield from (
                ("name does not parse", str(p)) for stem, p in images.items() if not view_number(stem).isdigit()
            )
            for name in _MASK_FOLDERS:
                for stem, path in list_files(sensor / name, IMAGE_SUFFIXES).items():
                    if image_of_mask(stem, images) is None:
                        yield "name does not parse", str(path)


def _mixed_habits(samples: Sequence[Sample]) -> _Met:
    """Clouds with NaN and clouds with 0 for missing pixels, among up to 200 spread over the set."""
    clouds = [files.cloud for sample in samples for files in sample.views if files.cloud is not None]
    with_nan, with_zero = [], []
    for cloud in clouds[:: max(1, len(clouds) // _HABIT_SAMPLE)]:
        points = _raw_points(cloud)
        if np.isnan(points).any():
            with_nan.append(str(cloud))
        if (points == 0).all(axis=-1).any():
            with_zero.append(str(cloud))
    if with_nan and with_zero:
        fewer = min(with_nan, with_zero, key=len)
        yield from (("missing pixels are 0 and NaN", name) for name in fewer)


def _raw_points(cloud: Path) -> np.ndarray:
    """Coordinates as they stand in the file; none where it cannot be read (which is reported elsewhere)."""
    import tifffile

    from rad3d.ply import read_ply

    try:
        if cloud.suffix.lower() == ".ply":
            return np.asarray(read_ply(cloud).vertices)
        values = np.asarray(tifffile.imread(cloud), float) if cloud.suffix.lower() in CLOUD_SUFFIXES[:2] else None
    except (ScanError, tifffile.TiffFileError, ValueError, OSError):
        values = None
    return np.ones((1, 3)) if values is None or values.ndim != 3 else values
