"""A folder of one's own, without a manifest.

    train/ (or good/)   good scans: mesh and cloud files, or captured folders (images/ with xyz/)
    test/good/          good scans to test with (optional)
    test/<defect>/      defective ones, the folder's name being the defect's
    test/               or directly here: those with labels are defective, the others good
    nominal.*           the CAD model (optional)

The same one level deeper makes several parts. Labels are optional: for a captured folder `masks/` (also gt/,
ground_truth/, defect_masks/) in it, named like its images; for a file `<stem>.txt`, `.csv` or `.npy` beside it, or in
labels/, gt/ or ground_truth/ beside it, with one number per vertex or rows x y z number; 0 is good, other numbers tell
defects apart.
"""

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

from rad3d.captured import is_captured, sensor_folder
from rad3d.clouds import looks_like_points
from rad3d.datasets.sample import (
    GOOD_NAMES,
    IMAGE_SUFFIXES,
    Choice,
    DatasetInfo,
    MaskFile,
    Sample,
    Split,
    ViewFiles,
    image_of_mask,
    list_files,
    part_folders,
)
from rad3d.errors import DatasetError
from rad3d.io import ScanSource, find_scans

_log = logging.getLogger(__name__)

INFO = DatasetInfo(
    name="folder",
    title="a folder of your own",
    source="your scanner",
    licence="yours",
    size="any",
    layout="train/ (or good/) and test/ with scans as files or captured folders",
)

_LABEL_SUFFIXES = (".txt", ".csv", ".npy")
_LABEL_FOLDERS = ("labels", "gt", "GT", "ground_truth")
_MASK_FOLDERS = ("defect_masks", "masks", "gt", "ground_truth")
_NOMINAL = ("nominal.stl", "nominal.ply", "nominal.obj", "nominal.off", "nominal.glb", "nominal.gltf")


def load(root: Path, choice: Choice) -> list[Sample]:
    """List the samples.

    Raises:
        DatasetError: no train/ or good/ with scans, or test scans of which nothing tells whether they are good.
    """
    samples = []
    for part, folder in part_folders(root, ("train", "good")).items():
        if choice.wants(part):
            samples += _list_part(folder, part, choice)
    if not samples:
        raise DatasetError(root, expected=f"the parts {', '.join(choice.parts)}", got="others", remedy="check --parts")
    return samples


def _list_part(folder: Path, part: str, choice: Choice) -> list[Sample]:
    nominal = next((folder / name for name in _NOMINAL if (folder / name).is_file()), None)
    training = folder / "train" if (folder / "train").is_dir() else folder / "good"

    def samples(where: Path, split: Split, kind: str | None) -> list[Sample]:
        return [_sample(source, part, split, kind, nominal, choice) for source in _scans(where)]

    found = samples(training, "train", "good") + samples(folder / "validation", "validation", "good")
    if not found:
        raise DatasetError(
            training,
            expected="good scans: mesh or cloud files, or captured folders with images/ and xyz/",
            got="none",
            remedy="put at least one good scan there",
        )
    test = folder / "test"
    for group in sorted(child for child in test.iterdir() if child.is_dir()) if test.is_dir() else []:
        if group.name not in _LABEL_FOLDERS and not _is_captured(group):
            kind = "good" if group.name.lower() in GOOD_NAMES else group.name
            of_kind = samples(group, "test", kind)
            if not of_kind:
                _log.warning("%s: no scans there", group)
            found += of_kind
    flat = [_sample(source, part, "test", None, nominal, choice) for source in _scans(test, deep=False)]
    if flat and not any(sample.label for sample in flat) and not any(s.split == "test" for s in found):
        raise DatasetError(
            test,
            expected="test/good/ and test/<defect>/, or labels beside the defective scans",
            got=f"{len(flat)} scans that nothing tells apart",
            remedy="sort them into test/good and test/<defect>",
        )
    return _with_unique_names(found + flat, folder)


def _scans(folder: Path, deep: bool = True) -> list[ScanSource]:
    """The scans in a folder (not deep: without those in groups), label files left out."""
    if not folder.is_dir():
        return []
    if _is_captured(folder):
        return find_scans([folder])
    items = [item for item in sorted(folder.iterdir()) if not item.name.startswith((".", "nominal."))]
    stems = {item.stem for item in items if item.is_file() and item.suffix.lower() not in _LABEL_SUFFIXES}
    found: list[ScanSource] = []
    for item in items:
        if _is_captured(item) or (item.is_file() and _is_scan(item, stems)):
            found += find_scans([item])
        elif deep and item.is_dir() and item.name not in _LABEL_FOLDERS:
            found += _scans(item)
    return found


def _is_captured(folder: Path) -> bool:
    return folder.is_dir() and is_captured(folder)


def _is_scan(item: Path, scan_stems: set[str]) -> bool:
    """Whether a file is a scan rather than the labels of one or something else."""
    suffix = item.suffix.lower()
    if suffix in _LABEL_SUFFIXES:
        return suffix != ".npy" and item.stem not in scan_stems and looks_like_points(item)
    return suffix in (".ply", ".stl", ".obj", ".off", ".glb", ".gltf", ".pcd", ".xyz", ".las", ".laz")


def _sample(
    source: ScanSource, part: str, split: Split, kind: str | None, nominal: Path | None, choice: Choice
) -> Sample:
    labels: Path | None = None
    views: tuple[ViewFiles, ...] = ()
    if source.kind == "captured":
        views = _views(source.path, "defect" if kind is None else kind)
    elif split == "test" and kind != "good":
        labels = _labels_of(source.path)
    if kind is None:  # directly in test/: labels tell
        kind = "defect" if labels is not None or any(view.masks for view in views) else "good"
    return Sample(
        dataset=INFO.name,
        part=part,
        specimen=source.specimen,
        split=split,
        label=0 if kind == "good" else 1,
        defect_type=kind,
        views=views,
        scan=source.path,
        labels=labels,
        unit=choice.unit or "mm",
        nominal=nominal,
    )


def _labels_of(scan: Path) -> Path | None:
    folders = [scan.parent, *(parent / name for parent in (scan.parent, scan.parent.parent) for name in _LABEL_FOLDERS)]
    candidates = (folder / f"{scan.stem}{suffix}" for folder in folders for suffix in _LABEL_SUFFIXES)
    return next((path for path in candidates if path.is_file() and path != scan), None)


def _views(folder: Path, kind: str) -> tuple[ViewFiles, ...]:
    """The images of a captured folder (of its one sensor) and their masks, if it has any."""
    holder = sensor_folder(folder)
    images = list_files(holder / "images", IMAGE_SUFFIXES) or list_files(holder / "rgb", IMAGE_SUFFIXES)
    masks: dict[str, list[MaskFile]] = {name: [] for name in images}
    for where in _MASK_FOLDERS if kind != "good" else ():
        files = list_files(holder / where, IMAGE_SUFFIXES) or list_files(folder / where, IMAGE_SUFFIXES)
        for stem, path in files.items():
            image = image_of_mask(stem, images)
            if image is not None:
                masks[image].append(MaskFile(path, kind, stem.removeprefix(image).strip("_")))
        if any(masks.values()):
            break
    return tuple(ViewFiles(name, image, None, tuple(masks[name])) for name, image in images.items())


def _with_unique_names(samples: list[Sample], folder: Path) -> list[Sample]:
    """Specimens of one name in different groups get the path to them before it."""
    count = Counter(sample.specimen for sample in samples)
    return [
        replace(s, specimen="__".join(s.scan.relative_to(folder).with_suffix("").parts))
        if count[s.specimen] > 1 and s.scan is not None
        else s
        for s in samples
    ]
