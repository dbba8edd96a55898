"""MVTec 3D-AD, and every set in its layout: one photograph with an organised cloud is one sample.

`<part>/{train,validation}/good/`, `<part>/test/<defect>/`, each with `rgb/*.png`, `xyz/*.tiff` (float32, metres, 0 =
missing) and `gt/*.png` (or `ground_truth/`). `validation/` and `xyz/` may be missing: then only the images are used.
"""

import logging
from pathlib import Path

from rad3d.datasets.sample import (
    CLOUD_SUFFIXES,
    GOOD_NAMES,
    IMAGE_SUFFIXES,
    Choice,
    DatasetInfo,
    MaskFile,
    Sample,
    Split,
    ViewFiles,
    folders_in,
    list_files,
    part_folders,
)
from rad3d.errors import DatasetError
from rad3d.scan import Unit

_log = logging.getLogger(__name__)

INFO = DatasetInfo(
    name="mvtec3d",
    title="MVTec 3D-AD",
    source="https://www.mvtec.com/company/research/datasets/mvtec-3d-ad",
    licence="CC BY-NC-SA 4.0, not for commercial use",
    size="about 12 GB, 10 parts, 4,147 scans",
    layout="<part>/{train,validation}/good/{rgb,xyz,gt}/ and <part>/test/<defect>/{rgb,xyz,gt}/",
)
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
MASK_FOLDERS = ("gt", "ground_truth")


def load(root: Path, choice: Choice) -> list[Sample]:
    """List the samples. Which view shows which specimen is not known in this layout: every image is its own."""
    return list_layout(root, choice, INFO.name, choice.unit or "m")


def list_layout(root: Path, choice: Choice, dataset: str, unit: Unit) -> list[Sample]:
    """Samples of a set in this layout.

    Raises:
        DatasetError: no parts, none of the wanted ones, or a part without train images.
    """
    parts = part_folders(root)
    missing = sorted(set(choice.parts) - set(parts))
    if missing:
        raise DatasetError(
            root, expected=f"the parts {', '.join(missing)}", got=", ".join(parts), remedy="check --parts and --root"
        )
    samples = []
    for part, folder in parts.items():
        if choice.wants(part):
            samples += _list_part(folder, part, dataset, unit)
    without = sum(1 for sample in samples if sample.views[0].cloud is None)
    if without:
        _log.warning("%s: %d of %d images have no xyz: only the images are used", root, without, len(samples))
    return samples


def _list_part(folder: Path, part: str, dataset: str, unit: Unit) -> list[Sample]:
    samples = []
    for split in _SPLITS:
        for group in folders_in(folder / split):
            is_good = group.name.lower() in GOOD_NAMES
            clouds = list_files(group / "xyz", CLOUD_SUFFIXES)
            masks: dict[str, Path] = {}
            for name in MASK_FOLDERS:
                masks |= list_files(group / name, IMAGE_SUFFIXES)
            images = list_files(group / "rgb", IMAGE_SUFFIXES)
            if not images:
                _log.warning("%s: no images in its rgb/", group)
            for stem, image in images.items():
                labelled = () if is_good or stem not in masks else (MaskFile(masks[stem], group.name),)
                samples.append(
                    Sample(
                        dataset=dataset,
                        part=part,
                        specimen=f"{split}_{group.name}_{stem}",
                        split=split,
                        label=0 if is_good else 1,
                        defect_type="good" if is_good else group.name,
                        views=(ViewFiles(stem, image, clouds.get(stem), labelled),),
                        unit=unit,
                    )
                )
    if not any(sample.split == "train" for sample in samples):
        raise DatasetError(
            folder,
            expected="images in train/good/rgb/",
            got="none",
            remedy="check that the set was unpacked completely",
        )
    return samples
