"""3D-ADAM, as published by its sensors (raw) and as its Nano subset in MVTec layout.

Raw: `<Part>_<Loc>_<Defect|Good>/<Sensor>/{images,masks,binary_masks,defect_masks,xyz}/`; a folder is one specimen seen
from about 16 viewpoints, and one sample. There is no split: protocol `specimen` (the only one) trains on good specimens
but the last fifth of them by name, which test beside all defective ones.

MVTec layout: every image is a sample. Protocols: `rad` takes validation/good as test/good, as RAD's authors do;
`anomalib` moves a random fifth of train (seed 0; anomalib's own draw is another) to test, where other views of the same
specimens have trained; `specimen` needs a map of files to specimens (`--specimens`) and splits as for raw.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rad3d.datasets import mvtec3d
from rad3d.datasets.sample import (
    CLOUD_SUFFIXES,
    IMAGE_SUFFIXES,
    Choice,
    DatasetInfo,
    MaskFile,
    Sample,
    ViewFiles,
    folders_in,
    image_of_mask,
    list_files,
    read_specimen_map,
    split_good_specimens,
)
from rad3d.errors import DatasetError

_log = logging.getLogger(__name__)

INFO = DatasetInfo(
    name="adam3d",
    title="3D-ADAM",
    source="https://huggingface.co/datasets/pmchard/3D-ADAM (raw), .../pmchard/3D-ADAM_anomalib (Nano, MVTec layout)",
    licence="CC BY-NC-SA 4.0, not for commercial use",
    size="14,120 scans of 217 parts; look at the hub's page for the size of the subset you want",
    layout="<Part>_<Loc>_<Defect|Good>/<Sensor>/{images,xyz,...}/ or <part>/{train,validation,test}/...",
)

_MASK_FOLDERS = ("defect_masks", "masks", "binary_masks")
_FOLDER = re.compile(r"(?P<part>.+?)_(?P<place>[A-Za-z]\d*)_(?P<kind>[A-Za-z]+(?:[_ -][A-Za-z]+)*)")
_INSTANCE = re.compile(r"_?(?P<type>[a-z]+(?:[_-][a-z]+)*?)(?:_defect)?_(?P<number>\d+)", re.IGNORECASE)


def load(root: Path, choice: Choice) -> list[Sample]:
    """List the samples of either layout.

    Raises:
        DatasetError: neither layout, an unknown part or sensor, or a protocol that the layout does not allow.
    """
    if is_raw(root):
        return _load_raw(root, choice)
    samples = mvtec3d.list_layout(root, choice, INFO.name, choice.unit or "mm")
    if choice.protocol == "rad":
        return [replace(s, split="test") if s.split == "validation" else s for s in samples]
    if choice.protocol == "anomalib":
        return _a_fifth_to_test(samples)
    return _by_specimen(root, samples, choice)


def is_raw(root: Path) -> bool:
    """Whether the folder holds specimens as the sensors wrote them (or is one part of them)."""
    return any(parse_folder(folder.name) and _sensor_folders(folder) for folder in folders_in(root))


def parse_folder(name: str) -> tuple[str, str] | None:
    """Part and defect type that a raw folder's name tells, None if it does not parse.

    >>> parse_folder("1M3_C1_Good"), parse_folder("Gripper_Closed_A_Over_Extrusion"), parse_folder("notes")
    (('1M3', 'good'), ('Gripper_Closed', 'over_extrusion'), None)
    """
    match = _FOLDER.fullmatch(name)
    return (match["part"], re.sub("[ -]", "_", match["kind"].lower())) if match else None


def _sensor_folders(folder: Path) -> list[Path]:
    return [child for child in folders_in(folder) if (child / "images").is_dir()]


def _load_raw(root: Path, choice: Choice) -> list[Sample]:
    samples, seen = [], set()
    for folder in folders_in(root):
        parsed = parse_folder(folder.name)
        if parsed is None:
            _log.warning("%s: the name tells no part and defect; left out (see `rad3d datasets check`)", folder)
            continue
        part, kind = parsed
        if not choice.wants(part):
            continue
        sensors = _sensor_folders(folder)
        seen |= {sensor.name for sensor in sensors}
        for sensor in sensors:
            if choice.sensor.lower() in sensor.name.lower():
                views = list_raw_views(sensor, kind)
                samples.append(
                    Sample(
                        dataset=INFO.name,
                        part=part,
                        specimen=folder.name,
                        split="train",
                        label=0 if kind == "good" else 1,
                        defect_type=kind,
                        views=views,
                        scan=sensor,
                        unit=choice.unit or "mm",
                    )
                )
    if not samples:
        wanted = f" of {', '.join(choice.parts)}" if choice.parts else ""
        raise DatasetError(
            root,
            expected=f"specimens{wanted} from sensor '{choice.sensor}'",
            got=f"the sensors {', '.join(sorted(seen)) or 'none'}",
            remedy="check --parts and --sensor",
        )
    return _split_by_specimen(root, samples)


def list_raw_views(sensor: Path, kind: str) -> tuple[ViewFiles, ...]:
    """The views of one sensor's folder with their masks; the type of a defect is told by its mask's name."""
    masks: dict[str, list[MaskFile]] = defaultdict(list)
    images = list_files(sensor / "images", IMAGE_SUFFIXES)
    for name in _MASK_FOLDERS if kind != "good" else ():
        found: dict[str, list[MaskFile]] = defaultdict(list)
        for stem, path in list_files(sensor / name, IMAGE_SUFFIXES).items():
            image = image_of_mask(stem, images)
            match = None if image is None else _INSTANCE.fullmatch(stem.removeprefix(image))
            if image is not None:
                found[image].append(
                    MaskFile(path, match["type"].lower(), match["number"]) if match else MaskFile(path, kind)
                )
        for image, files in found.items():  # one mask per defect, where there are such, rather than one for all
            if not any(file.instance for file in masks[image]) and (
                not masks[image] or any(file.instance for file in files)
            ):
                masks[image] = [file for file in files if file.instance] or files
    clouds = {view_number(stem): path for stem, path in list_files(sensor / "xyz", CLOUD_SUFFIXES).items()}
    return tuple(
        ViewFiles(stem, image, clouds.get(view_number(stem)), tuple(masks[stem])) for stem, image in images.items()
    )


def view_number(stem: str) -> str:
    """The last number in a file's name, which pairs clouds with images however the rest is spelt.

    >>> view_number("1M2_C1_Good_Zed_Good_Zed_010_image"), view_number("1M2_C1_Good_Zed_010_cloud")
    ('10', '10')
    """
    numbers = re.findall(r"(?<![A-Za-z0-9])\d+", stem)
    return str(int(numbers[-1])) if numbers else stem


def _a_fifth_to_test(samples: list[Sample]) -> list[Sample]:
    rng = np.random.default_rng(0)
    result = list(samples)
    for part in sorted({sample.part for sample in samples}):
        train = [i for i, s in enumerate(samples) if s.part == part and s.split == "train"]
        for i in rng.permutation(train)[: max(1, len(train) // 5)]:
            result[i] = replace(samples[i], split="test")
    return result


def _by_specimen(root: Path, samples: list[Sample], choice: Choice) -> list[Sample]:
    """Group the views of each specimen, then split by specimen."""
    if choice.specimens is None:
        raise DatasetError(
            root,
            expected="a map of files to specimens, for this layout's names do not tell them",
            got="none",
            remedy="give --specimens map.csv (rows file,specimen), use the raw layout, or protocol rad",
        )
    return _split_by_specimen(root, grouped_by_specimen(root, samples, choice.specimens))


def grouped_by_specimen(root: Path, samples: Sequence[Sample], specimens: Path) -> list[Sample]:
    """The views of each specimen as one sample, in the split of its first view.

    Raises:
        DatasetError: an image that the map does not name.
    """
    specimen_of = read_specimen_map(specimens)
    groups: dict[tuple[str, str, int], list[Sample]] = defaultdict(list)
    for sample in samples:
        file = sample.views[0].image
        name = next((specimen_of[key] for key in _keys(root, sample.part, file) if key in specimen_of), None)
        if name is None:
            raise DatasetError(
                specimens,
                expected="the specimen of every image",
                got=f"none for {file.relative_to(root)}",
                remedy="add the row",
            )
        groups[sample.part, name, sample.label].append(sample)
    grouped = []
    for (_, name, label), members in groups.items():
        views = tuple(
            replace(member.views[0], name=member.specimen) for member in sorted(members, key=lambda m: m.specimen)
        )
        kinds = sorted({member.defect_type for member in members})
        grouped.append(
            replace(members[0], specimen=name, views=views, defect_type="+".join(kinds) if label else "good")
        )
    return grouped


def _keys(root: Path, part: str, file: Path) -> tuple[str, str]:
    """How the map may name a file: from the root, or from the root's parent when the root is one category."""
    relative = file.relative_to(root).as_posix()
    return relative, f"{part}/{relative}"


def _split_by_specimen(root: Path, samples: list[Sample]) -> list[Sample]:
    """Defective specimens test, and the last fifth of the good ones of each part.

    Raises:
        DatasetError: no part has good specimens.
    """
    good: dict[str, list[str]] = {sample.part: [] for sample in samples}
    for sample in samples:
        if sample.label == 0:
            good[sample.part].append(sample.specimen)
    for part in sorted(part for part, names in good.items() if not names):
        _log.warning("%s: part %s has no good specimens to learn from; left out", root, part)
    testing = {part: split_good_specimens(names) for part, names in good.items()}
    result = [
        replace(s, split="test" if s.label or s.specimen in testing[s.part] else "train")
        for s in samples
        if good[s.part]
    ]
    if not result:
        raise DatasetError(
            root, expected="good specimens to learn from", got="none", remedy="check --parts and --sensor"
        )
    return result
