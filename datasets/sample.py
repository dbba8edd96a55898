"""One specimen of a data set with its labels, listed without reading it."""

import csv
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image as PilImage
from PIL import UnidentifiedImageError

from rad3d.arrays import Flags, Indices, Mask, Points
from rad3d.camera import Camera
from rad3d.errors import DatasetError, ScanError
from rad3d.geometry import pieces
from rad3d.scan import MM_PER_UNIT, Scan, Unit
from rad3d.view import View

_log = logging.getLogger(__name__)

Split = Literal["train", "validation", "test"]
Protocol = Literal["rad", "anomalib", "specimen"]
Track = Literal["meshes", "clouds", "captures", "extreme"]

GOOD_NAMES = {"good", "ok", "normal", "positive"}
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
CLOUD_SUFFIXES = (".tiff", ".tif", ".ply", ".pcd")
SOFT_MASK_VALUES = 16
"""A mask with more distinct values than this has soft borders: then defective is above half of its type's largest
value. Otherwise, as values may tell instance or type of a defect, it is everything above 0."""


@dataclass(frozen=True)
class DatasetInfo:
    """What a user has to know about a data set.

    Args:
        name: as in `$RAD3D_DATA/<name>` and on the command line.
        title: its name in the literature.
        source: where to get it.
        licence: under which it is published.
        size: roughly, to download.
        layout: what stands below its root.
    """

    name: str
    title: str
    source: str
    licence: str
    size: str
    layout: str


@dataclass(frozen=True)
class Choice:
    """What of a data set is wanted.

    Args:
        parts: only these; empty = all.
        protocol: which images train and which test, where a set leaves that open; see the loaders.
        sensor: part of the name of the sensor's folder; only 3D-ADAM raw has several.
        specimens: a CSV file with rows `file,specimen` where file names do not tell the specimen.
        unit: of the coordinates, where it is not what the data set's description says.
        track: of machine_elements.
    """

    parts: tuple[str, ...] = ()
    protocol: Protocol = "rad"
    sensor: str = "Nano"
    specimens: Path | None = None
    unit: Unit | None = None
    track: Track = "captures"

    def wants(self, part: str) -> bool:
        """Whether a part is among the wanted ones."""
        return not self.parts or part in self.parts


@dataclass(frozen=True)
class MaskFile:
    """A mask image, of one defect instance or (instance "") of all defects in the image."""

    path: Path
    defect_type: str
    instance: str = ""


@dataclass(frozen=True)
class ViewFiles:
    """The files of one view.

    Args:
        name: unique within its specimen.
        image: the photograph.
        cloud: its organised cloud, or None.
        masks: empty where nothing is labelled.
        clean: somebody looked, and no defect of the specimen can be seen.
    """

    name: str
    image: Path
    cloud: Path | None = None
    masks: tuple[MaskFile, ...] = ()
    clean: bool = False


@dataclass(frozen=True, eq=False)
class ViewLabels:
    """Labelled pixels of one view.

    Args:
        instance: (H, W) int32, 0 = good, else the number of the defect.
        types: the defect type of each number.
    """

    instance: np.ndarray
    types: Mapping[int, str]

    @property
    def mask(self) -> Mask:
        """(H, W) where anything is labelled defective."""
        return self.instance > 0


@dataclass(frozen=True, eq=False)
class PointLabels:
    """Labelled points of a cloud or mesh.

    Args:
        points_mm: (n, 3) the points that are scored, in the order of the labels.
        instance: (n,) int32, 0 = good, else the number of the defect.
    """

    points_mm: Points
    instance: Indices


@dataclass(frozen=True)
class Sample:
    """One specimen (or one view of it, where a set does not tell which views belong together).

    Args:
        dataset: name of the data set.
        part: the category.
        specimen: the physical piece; unique within part and split.
        split: train, validation or test.
        label: 0 good, 1 defective.
        defect_type: "good", or as the set calls it.
        views: files of the views of captured sets, with their masks.
        scan: mesh or cloud file, or a captured folder as `rad3d.read_scan` takes it; None = made of `views`.
        labels: file with point labels, or None.
        labels_are_points: the labels' own points are the ones to score, not those of the scan's file; they say of each
            only whether it is defective, so that connected ones make an instance.
        unit: unit of the files' coordinates.
        scale: further factor to millimetres, for sets without a physical unit.
        nominal: CAD of the part, where there is one.
    """

    dataset: str
    part: str
    specimen: str
    split: Split
    label: int
    defect_type: str
    views: tuple[ViewFiles, ...] = ()
    scan: Path | None = None
    labels: Path | None = None
    labels_are_points: bool = False
    unit: Unit = "mm"
    scale: float = 1.0
    nominal: Path | None = None

    def load_scan(self) -> Scan:
        """Read it.

        Raises:
            ScanError: a file is missing or damaged.
        """
        from rad3d.io import read_scan

        if self.labels is not None and self.labels_are_points:
            return Scan(self.specimen, self.labels, self._read_point_labels().points_mm, unit="mm")
        if self.scan is not None:
            return _renamed(read_scan(self.scan, unit=self.unit), self.specimen, self.scale)
        views = tuple(read_view(files, self.unit) for files in self.views)
        return Scan(self.specimen, self.views[0].image.parent, views=views, unit=self.unit)

    def load_view_labels(self) -> tuple[ViewLabels | None, ...]:
        """Per view its labelled pixels; None for a view of a defective specimen that nobody labelled."""
        if self.label == 0:
            sizes = (image_size_hw(files.image) for files in self.views)
            return tuple(ViewLabels(np.zeros(size, np.int32), {}) for size in sizes)
        return tuple(read_view_labels(files) if files.masks or files.clean else None for files in self.views)

    def load_point_labels(self) -> PointLabels | None:
        """Labels of points; all good for a good specimen's cloud, None where a defective one has none.

        Raises:
            DatasetError: labels that do not fit the scan.
        """
        if self.labels is not None:
            return self._read_point_labels()
        if self.label == 1 or self.views:
            return None
        points = self.load_scan().vertices_mm
        return PointLabels(points, np.zeros(len(points), np.int32))

    def _read_point_labels(self) -> PointLabels:
        assert self.labels is not None
        table = read_label_table(self.labels)
        if self.labels_are_points:
            if table.shape[1] < 4:
                raise _bad_labels(self.labels, f"rows of {table.shape[1]} numbers", "rows x y z label")
            points = table[:, :3] * MM_PER_UNIT[self.unit] * self.scale
            return PointLabels(points, regions_of_points(points, table[:, 3].round() > 0))
        from rad3d.io import read_scan

        assert self.scan is not None
        points = read_scan(self.scan, unit=self.unit).vertices_mm
        if table.shape[1] == 1 and len(table) != len(points):
            raise _bad_labels(self.labels, f"{len(table)} labels", f"one label for each of {len(points)} vertices")
        if table.shape[1] == 1:
            return PointLabels(points, table[:, 0].round().astype(np.int32))
        from scipy.spatial import cKDTree

        nearest = cKDTree(table[:, :3] * MM_PER_UNIT[self.unit]).query(points)[1]
        return PointLabels(points, table[nearest, -1].round().astype(np.int32))


def _renamed(scan: Scan, specimen: str, scale: float) -> Scan:
    return replace(scan, specimen=specimen, vertices_mm=scan.vertices_mm * scale if scale != 1 else scan.vertices_mm)


REGION_SPACINGS = 3.0
"""Labelled points no further apart than this, in median spacings, belong to one region."""


def regions_of_points(points_mm: Points, labelled: Flags) -> Indices:
    """(n,) int32 number of the region each labelled point belongs to, 0 = good.

    >>> row = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [9, 0, 0], [10, 0, 0]], float)
    >>> regions_of_points(row, np.array([True, True, False, True, True]))
    array([1, 1, 0, 2, 2], dtype=int32)
    """
    from scipy.spatial import cKDTree

    result = np.zeros(len(points_mm), np.int32)
    rows = np.flatnonzero(labelled)
    if len(rows):
        places = np.unique(points_mm[rows], axis=0)  # some files repeat points
        spacing = np.median(cKDTree(places).query(places, k=[min(2, len(places))])[0])
        result[rows] = pieces(points_mm[rows], REGION_SPACINGS * float(spacing)) + 1
    return result


def _bad_labels(path: Path, got: str, expected: str) -> DatasetError:
    return DatasetError(path, expected=expected, got=got, remedy="check that the labels belong to this scan")


def read_label_table(path: Path) -> np.ndarray:
    """Rows of a label file as (n, k) float64: .npy, or text separated by blanks, commas or semicolons.

    Raises:
        DatasetError: rows that are not numbers, or of different lengths.
    """
    try:
        if path.suffix == ".npy":
            table = np.load(path, allow_pickle=False)
        else:
            rows = [line.replace(",", " ").replace(";", " ").split() for line in path.read_text().splitlines()]
            rows = [row for row in rows if row and not row[0].startswith("#")]
            table = np.array(rows[1:] if rows and not _is_number(rows[0][0]) else rows, float)
    except (ValueError, OSError) as error:
        raise _bad_labels(path, str(error), "a table of numbers") from error
    table = np.asarray(table, float).reshape(len(table), -1)
    if not table.size or not np.isfinite(table[:, -1]).all():
        raise _bad_labels(path, "none" if not table.size else "labels that are not finite", "a label per row")
    return table


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def image_size_hw(path: Path) -> tuple[int, int]:
    """Height and width from the file's header.

    Raises:
        DatasetError: not an image.
    """
    try:
        with PilImage.open(path) as image:
            return image.height, image.width
    except (OSError, UnidentifiedImageError) as error:
        raise _damaged_image(path, error) from error


def _damaged_image(path: Path, error: Exception) -> DatasetError:
    return DatasetError(
        path, expected="an image", got=str(error), remedy="copy it again; --skip-bad goes on without it"
    )


def read_mask(path: Path) -> np.ndarray:
    """(H, W) integers of a mask image: 0 good, other values as in the file; soft masks become 0 and 1.

    Raises:
        DatasetError: not an image.
    """
    try:
        with PilImage.open(path) as image:
            values = np.asarray(image.convert("L") if image.mode in ("RGB", "RGBA", "LA", "CMYK", "YCbCr") else image)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise _damaged_image(path, error) from error
    if is_soft(values):
        values = values > (np.iinfo(values.dtype).max / 2 if values.dtype.kind in "iu" else values.max() / 2)
    return values.astype(np.int32)


def is_soft(values: np.ndarray) -> bool:
    """Whether a mask has soft borders (see SOFT_MASK_VALUES)."""
    return len(np.unique(values)) > SOFT_MASK_VALUES


def read_view_labels(files: ViewFiles) -> ViewLabels:
    """The labelled pixels of one view: each mask file a defect, or each 8-connected region of a mask for all.

    Raises:
        DatasetError: a damaged mask, or one of another size than the image.
    """
    from rad3d.metrics import label_regions

    size_hw = image_size_hw(files.image)
    instance = np.zeros(size_hw, np.int32)
    types: dict[int, str] = {}
    for mask_file in files.masks:
        mask = read_mask(mask_file.path) > 0
        if mask.shape != size_hw:
            raise DatasetError(
                mask_file.path,
                expected=f"a mask of its image's size {size_hw} (height, width)",
                got=f"{mask.shape}",
                remedy="export image and mask at one size",
            )
        regions = mask.astype(np.int32) if mask_file.instance else label_regions(mask)
        count, known = int(regions.max(initial=0)), len(types)
        instance[mask] = regions[mask] + known
        types |= {known + i: mask_file.defect_type for i in range(1, count + 1)}
    return ViewLabels(instance, types)


def read_view(files: ViewFiles, unit: Unit) -> View:
    """Read one image with its organised cloud, in the camera's own frame; the image alone where the cloud is no use.

    Raises:
        ScanError: a damaged file.
    """
    from rad3d.captured import read_image
    from rad3d.organised import NotOrganisedError, estimate_intrinsics, normals_of, organised_points

    image = read_image(files.image)
    if files.cloud is None:
        return View(files.name, "captured", image)
    size_hw = (image.shape[0], image.shape[1])
    try:
        points_mm = organised_points(files.cloud, size_hw, unit=unit)
    except NotOrganisedError as error:
        _log.warning("only the image is used: %s", error)
        return View(files.name, "captured", image)
    try:
        intrinsics, _ = estimate_intrinsics(points_mm)
    except ScanError:  # next to nothing was seen: there is no camera to be found, and no need of one
        return View(files.name, "captured", image, points_mm)
    return View(
        files.name,
        "captured",
        image,
        points_mm,
        normals_of(points_mm, intrinsics),
        Camera(size_hw, intrinsics, np.eye(4)),
    )


def list_files(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Files of a folder by stem, sorted; {} where there is no such folder. Hidden files are left out."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    paths = (folder / name for name in names if name.lower().endswith(tuple(suffixes)))
    return {path.stem: path for path in paths}


def image_of_mask(stem: str, images: Iterable[str]) -> str | None:
    """The image that a mask's name begins with.

    >>> image_of_mask("x_000_image_hole_defect_5", ["x_000_image", "x_001_image"])
    'x_000_image'
    """
    parts = stem.split("_")
    known = images if isinstance(images, set | dict) else set(images)
    return next((name for n in range(len(parts), 0, -1) if (name := "_".join(parts[:n])) in known), None)


def folders_in(folder: Path) -> list[Path]:
    """Sub-folders, sorted, without hidden ones; [] where there is no such folder."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(folder / e.name for e in entries if e.is_dir() and not e.name.startswith((".", "__")))


def part_folders(root: Path, markers: Iterable[str] = ("train",), depth: int = 1) -> dict[str, Path]:
    """Category folders below `root` (those that hold one of `markers`), or `root` itself if it is one.

    Raises:
        DatasetError: none there.
    """
    wanted = tuple(markers)

    def holds(folder: Path) -> bool:
        return any((folder / marker).is_dir() for marker in wanted)

    if holds(root):
        return {root.resolve().name: root}
    level = [root]
    for _ in range(depth):
        level = [child for folder in level for child in folders_in(folder)]
        if found := {folder.name: folder for folder in level if holds(folder)}:
            return found
    raise DatasetError(
        root,
        expected=f"folders of parts that hold {' or '.join(f'{m}/' for m in wanted)}, or one such folder",
        got=", ".join(child.name for child in folders_in(root)[:5]) or "no folders",
        remedy="check --root",
    )


def read_specimen_map(path: Path) -> dict[str, str]:
    """Rows `file,specimen` as a dictionary; files as paths relative to the set's root with forward slashes.

    Raises:
        DatasetError: not readable, or rows of another form.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(path, expected="a CSV file", got=str(error), remedy="check --specimens") from error
    if any(len(row) != 2 for row in rows):
        bad = next(row for row in rows if len(row) != 2)
        raise DatasetError(path, expected="rows file,specimen", got=",".join(bad), remedy="give two columns")
    return {name.strip(): specimen.strip() for name, specimen in rows if name.strip() != "file"}


def split_good_specimens(names: Sequence[str]) -> set[str]:
    """The good specimens that test: the last fifth by name, at least one of two; the others train.

    >>> sorted(split_good_specimens(["a", "b", "c"])), split_good_specimens(["a"])
    (['c'], set())
    """
    names = sorted(set(names))
    return set(names[len(names) - max(len(names) // 5, min(1, len(names) - 1)) :]) if names else set()
