"""Real3D-AD: full prototypes to learn from, one-sided scans to test, labels that bring their own points.

`<part>/train/*.pcd` (the README calls them prototypes, the code wants "template" in the name: here any will do),
`<part>/test/<number>_<good|defect>*.pcd`, `<part>/gt/<stem>.txt` with rows `x y z label`. What is scored on a defective
scan are the points of its labels, whose order is not that of the PCD.
"""

import re
from pathlib import Path

from rad3d.datasets.sample import GOOD_NAMES, Choice, DatasetInfo, Sample, Split, list_files, part_folders
from rad3d.errors import DatasetError

INFO = DatasetInfo(
    name="real3d",
    title="Real3D-AD",
    source="https://github.com/M-3LAB/Real3D-AD",
    licence="see the repository; published for research",
    size="12 parts, 1,254 scans; the repository lists the archives",
    layout="<part>/train/*.pcd, <part>/test/*.pcd, <part>/gt/<stem>.txt",
)

_SPLITS: tuple[Split, ...] = ("train", "test")


def load(root: Path, choice: Choice) -> list[Sample]:
    """List the samples."""
    return list_clouds(root, choice, INFO.name, label_folder="gt", scale=1.0)


def list_clouds(
    root: Path, choice: Choice, dataset: str, *, label_folder: str, scale: float, depth: int = 1
) -> list[Sample]:
    """Samples of a set of PCD files with labels that bring their own points.

    A defective scan whose labels are missing is listed without them.

    Raises:
        DatasetError: no parts.
    """
    samples = []
    for part, folder in part_folders(root, depth=depth).items():
        if not choice.wants(part):
            continue
        labels = list_files(folder / label_folder, (".txt",))
        for split in _SPLITS:
            for stem, path in list_files(folder / split, (".pcd",)).items():
                kind = "good" if split == "train" else defect_type_of(stem, part)
                if kind == "template":  # copied there by the authors' preprocessing
                    continue
                samples.append(
                    Sample(
                        dataset=dataset,
                        part=part,
                        specimen=stem,
                        split=split,
                        label=0 if kind == "good" else 1,
                        defect_type=kind,
                        scan=path,
                        labels=None if kind == "good" else labels.get(stem),
                        labels_are_points=True,
                        unit=choice.unit or "mm",
                        scale=scale,
                    )
                )
    if not samples:
        raise DatasetError(root, expected=f"the parts {', '.join(choice.parts)}", got="others", remedy="check --parts")
    return samples


def defect_type_of(stem: str, part: str) -> str:
    """The kind of scan its name tells.

    >>> [defect_type_of(s, p) for s, p in (("3_good", "fish"), ("12_sink_cut", "fish"), ("cap3_bulge10", "cap3"))]
    ['good', 'sink', 'bulge']
    """
    words = [word for word in re.split(r"[_\W\d]+", stem.removeprefix(part).lower()) if word]
    if any(word.startswith("temp") for word in words):
        return "template"
    kinds = [word for word in words if word not in ("cut", "copy")]
    if any(word in GOOD_NAMES for word in kinds):
        return "good"
    return kinds[0] if kinds else "unknown"
