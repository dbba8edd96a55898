"""Data sets as lists of samples (installed as ``rad3d.datasets``)."""

if not __name__.startswith("rad3d."):
    raise ImportError("rad3d's data sets are imported as `rad3d.datasets`: install with `pip install .`")

import os
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from rad3d.errors import DatasetError

if TYPE_CHECKING:
    from rad3d.datasets.sample import Choice, DatasetInfo, Sample

DATASETS: dict[str, str] = {
    "adam3d": "rad3d.datasets.adam3d",
    "mvtec3d": "rad3d.datasets.mvtec3d",
    "real3d": "rad3d.datasets.real3d",
    "shapenet_anomaly": "rad3d.datasets.shapenet_anomaly",
    "machine_elements": "rad3d.datasets.machine_tracks",
    "folder": "rad3d.datasets.folder",
}
"""Loaders by name: modules with INFO and load(root, choice), imported when first asked for."""


def dataset_info(name: str) -> "DatasetInfo":
    """What a user has to know about a data set.

    Raises:
        DatasetError: no such name.
    """
    info: DatasetInfo = _loader(name).INFO
    return info


def dataset_root(name: str, root: str | Path | None = None) -> Path:
    """Where a data set is: `root`, else `$RAD3D_DATA/<name>`.

    Raises:
        DatasetError: it is not there; says where to get it, its licence and size.
    """
    info = dataset_info(name)
    data = os.environ.get("RAD3D_DATA")
    folder = Path(root) if root is not None else Path(data) / name if data else None
    if folder is not None and folder.is_dir():
        return folder
    raise DatasetError(
        folder or name,
        expected=f"{info.title} ({info.layout})",
        got="no such folder" if folder else "neither --root nor the environment variable RAD3D_DATA",
        remedy=f"get it from {info.source} (licence: {info.licence}; size: {info.size}), then give --root, "
        f"or put it into $RAD3D_DATA/{name}",
    )


def load_samples(name: str, root: str | Path | None = None, choice: "Choice | None" = None) -> list["Sample"]:
    """List the samples of a data set; nothing but names (and small headers) is read.

    Raises:
        DatasetError: not there, or not as its format says.
    """
    from rad3d.datasets.sample import Choice

    folder = dataset_root(name, root)
    samples: list[Sample] = _loader(name).load(folder, choice or Choice())
    return samples


def _loader(name: str) -> ModuleType:
    if name not in DATASETS:
        raise DatasetError(
            name, expected=f"one of {', '.join(DATASETS)}", got="another name", remedy="see `rad3d datasets list`"
        )
    return import_module(DATASETS[name])
