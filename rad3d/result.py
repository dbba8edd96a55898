"""The outcome of an inspection, as a value that can be saved and read back."""

import glob
import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any, Literal

import numpy as np
import tifffile
from PIL import Image as PilImage

from rad3d.arrays import Colours, Faces, Image, Indices, Matrix3, Points, Pose, ScoreMap, Values
from rad3d.errors import Rad3dError, ResultError
from rad3d.files import atomic_folder
from rad3d.ply import read_ply, write_ply
from rad3d.scan import MM_PER_UNIT, Unit
from rad3d.view import check_file_name

SCHEMA_VERSION = 3
_SINCE_3: Mapping[str, Any] = {"date": None, "versions": None}
ADDED_SINCE: Mapping[int, Mapping[str, Any]] = {
    1: {"part_from_scan": None, "good_scores": None, "registration": [], "evidence": [], **_SINCE_3},
    2: _SINCE_3,
    SCHEMA_VERSION: {},
}
"""What reports of the versions that can be read lack: it is not known."""

REGISTRATION = ("fitness", "rmse_mm", "overlap", "margin", "free_directions", "trusted", "reason")
"""What a report has of `rad3d.register.Registration`."""

RESULT_FILES = ("scored.ply", "report.json", "views", "maps", "evidence", "views.png")
"""What may be in the folder of a result."""

Verdict = Literal["pass", "fail", "incomplete"]
DefectKind = Literal["missing material", "excess material", "surface only"]


@dataclass(frozen=True)
class Defect:
    """One connected anomalous region of the surface.

    `centroid_mm` and `normal` are along the input file's axes, `centroid_part_mm` and `normal_part` in the part frame;
    `extent_mm` are the sides of the oriented box, largest first; `deviation_mm` is the height (positive) or depth
    (negative) that 5 % of it exceed, `volume_mm3` the material in excess or missing (see `rad3d.defects.measure`);
    `geometry_share` is the part of the score that the shape has, the rest is appearance; `agreement` a mean,
    `views_seen` the most that saw a point of it; `p_value` how often a good specimen scores as high (NaN: one good
    specimen does not tell).
    """

    id: int
    centroid_mm: tuple[float, float, float]
    centroid_part_mm: tuple[float, float, float]
    normal: tuple[float, float, float]
    area_mm2: float
    extent_mm: tuple[float, float, float]
    peak_score: float
    mean_score: float
    kind: DefectKind | None = None
    deviation_mm: float = math.nan
    volume_mm3: float = math.nan
    geometry_share: float = math.nan
    agreement: float = math.nan
    views_seen: int = 0
    p_value: float = math.nan
    normal_part: tuple[float, float, float] = (math.nan, math.nan, math.nan)


@dataclass(frozen=True, eq=False)
class PatchPair:
    """A defect's patch least like any good one, beside the good patch most like it.

    Args:
        defect: its id.
        view: the view that shows it.
        specimen: the good specimen.
        good_view: the view of it.
        raw_score: 1 - cosine similarity of the two.
        image: (s, s, 3) what the encoder saw; the patch is the middle fifth.
        good_image: (s, s, 3) the same of the good one, None where the memory keeps no pictures.
    """

    defect: int
    view: str
    specimen: str
    good_view: str
    raw_score: float
    image: Image
    good_image: Image | None = None

    def picture(self) -> Image:
        """Both side by side (s, 2 s, 3), or the defect's alone."""
        return self.image if self.good_image is None else np.concatenate([self.image, self.good_image], axis=1)


@dataclass(frozen=True, eq=False)
class ViewScores:
    """A view as it was judged.

    Args:
        name: the view's name.
        image: (H, W, 3) uint8.
        score: (H, W) float32, NaN where not inspected.
        part_from_camera: (4, 4), None for an image without a cloud, or one that could not be registered.
        intrinsics: (3, 3), None as well.
    """

    name: str
    image: Image
    score: ScoreMap
    part_from_camera: Pose | None = None
    intrinsics: Matrix3 | None = None

    def __post_init__(self) -> None:
        check_file_name(self.name)


@dataclass(frozen=True, eq=False)
class PointScores:
    """Scores of every vertex of the scan, in the order of its file.

    Args:
        anomaly_score: (n,) float32, the fused score that the verdict uses; higher is worse, NaN = not inspected. Where
            no view sees the surface it is that of its shape, and only if that is anomalous.
        raw_score: (n,) float32, 1 - cosine similarity, fused.
        agreement: (n,) float32, share of the views that see the point and find it anomalous; NaN = unseen.
        views_seen: (n,) int32.
        deviation_mm: (n,) float32, signed distance to where good specimens are; negative = material is missing.
        geometry_score: (n,) float32, its size in standard deviations of good specimens.
        defect_id: (n,) int32, the defect that the vertex belongs to; 0 = none.
    """

    anomaly_score: Values
    raw_score: Values
    agreement: Values
    views_seen: np.ndarray
    deviation_mm: Values
    geometry_score: Values
    defect_id: Indices

    @staticmethod
    def unknown(count: int) -> "PointScores":
        """Of vertices that were not judged."""
        nothing, none = np.full(count, np.nan, np.float32), np.zeros(count, np.int32)
        return PointScores(nothing, nothing, nothing, none, nothing, nothing, none)

    def at(self, rows: Indices) -> "PointScores":
        """Those of some vertices, in another order."""
        return PointScores(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass(frozen=True, eq=False)
class Inspection:
    """What was found on one specimen.

    Args:
        specimen: its name.
        source: the file or folder it was read from.
        unit: unit of the source file.
        verdict: pass, fail, or incomplete.
        reason: why, in a sentence.
        score: the specimen's score; above `threshold` it fails, unless what is above is smaller than settings allow.
        threshold: specimen threshold.
        point_threshold: around a peak above `threshold`, surface points above this may belong to its defect.
        coverage: share of the inspectable surface that was judged.
        coverage_total: share of the whole surface that was judged.
        false_reject: asked and guaranteed rate, n_good, method.
        settings: `Settings.to_dict()` of the inspector.
        fingerprint: of the encoder and its features.
        timings_s: seconds per stage.
        defects: worst first.
        vertices_mm: (n, 3) every vertex of the scan in file order, in mm (captured: the merged surface, part frame).
        faces: (m, 3), None for clouds.
        points: scores per vertex.
        views: the views as they were judged; of a capture all, in its order.
        part_from_scan: (4, 4) where the vertices lie in the part frame, which the views are in; None = not registered.
        good_scores: (g,) leave-one-out scores of the good specimens, None = not known.
        registration: of the scan, or of each captured view: its name and `REGISTRATION`; () = not registered.
        memory: what it was inspected with: folder, identity, and the numbers of the judgements that counted.
        evidence: of the defects whose patches were compared.
        date: when it was inspected, ISO 8601 in UTC; None = not known.
        versions: of what it was inspected with, by package; None = not known.
    """

    specimen: str
    source: str
    unit: Unit
    verdict: Verdict
    reason: str
    score: float
    threshold: float
    point_threshold: float
    coverage: float
    coverage_total: float
    false_reject: Mapping[str, Any]
    settings: Mapping[str, Any]
    fingerprint: str
    timings_s: Mapping[str, float]
    defects: tuple[Defect, ...]
    vertices_mm: Points
    faces: Faces | None
    points: PointScores
    views: tuple[ViewScores, ...] = field(default=())
    part_from_scan: Pose | None = None
    good_scores: Values | None = None
    registration: tuple[Mapping[str, Any], ...] = field(default=())
    memory: Mapping[str, Any] | None = None
    evidence: tuple[PatchPair, ...] = field(default=())
    date: str | None = None
    versions: Mapping[str, str] | None = None

    def report(self) -> dict[str, Any]:
        """The content of `report.json` (see report.schema.json); numbers that do not exist are None."""
        values = {
            name: getattr(self, name)
            for name in (
                "specimen",
                "source",
                "unit",
                "verdict",
                "reason",
                "score",
                "threshold",
                "point_threshold",
                "coverage",
                "coverage_total",
                "false_reject",
                "settings",
                "fingerprint",
                "timings_s",
            )
        }
        views = [
            {
                "name": view.name,
                "part_from_camera": None if view.part_from_camera is None else view.part_from_camera.tolist(),
                "intrinsics": None if view.intrinsics is None else view.intrinsics.tolist(),
            }
            for view in self.views
        ]
        known = {
            "part_from_scan": None if self.part_from_scan is None else self.part_from_scan.tolist(),
            "good_scores": None if self.good_scores is None else self.good_scores.tolist(),
            "registration": [dict(one) for one in self.registration],
            "memory": None if self.memory is None else dict(self.memory),
            "evidence": [{name: getattr(pair, name) for name in _PAIR} for pair in self.evidence],
            "date": self.date,
            "versions": None if self.versions is None else dict(self.versions),
        }
        report = {"schema_version": SCHEMA_VERSION, **values, **known, "views": views}
        cleaned: dict[str, Any] = _without_nan({**report, "defects": [asdict(defect) for defect in self.defects]})
        return cleaned

    def _repr_html_(self) -> str:
        """The report with its 3D view, for notebooks."""
        # asked for by name: viewers stand above results and are loaded only to look
        return str(importlib.import_module("rad3d.viewers.report").inspection_html(self))

    def save(self, folder: str | Path, extra: Callable[[Path], object] | None = None) -> Path:
        """Write scored.ply, report.json, views/, maps/ and evidence/, all or nothing; an older result is replaced.

        Args:
            folder: where to.
            extra: called with the folder before it is in place, to add files of its own.
        """
        folder = Path(folder)
        with atomic_folder(folder, RESULT_FILES) as new:
            per_unit = MM_PER_UNIT[self.unit]
            # the one scalar that MeshLab reads, and NaN in it makes MeshLab crash
            quality = np.nan_to_num(self.points.anomaly_score, nan=NOT_INSPECTED)
            write_ply(
                new / "scored.ply",
                self.vertices_mm / per_unit,
                self.faces,
                fields={f.name: getattr(self.points, f.name) for f in fields(self.points)} | {"quality": quality},
                colours=heat_colours(self.points.anomaly_score, self.threshold),
            )
            (new / "report.json").write_text(json.dumps(self.report(), indent=1, allow_nan=False) + "\n")
            for kind in ("views", "maps") if self.views else ():
                (new / kind).mkdir()
            for view in self.views:
                PilImage.fromarray(view.image).save(new / "views" / f"{view.name}.png")
                tifffile.imwrite(new / "maps" / f"{view.name}.tiff", view.score.astype(np.float32), compression="zlib")
            for pair in self.evidence:
                (new / "evidence").mkdir(exist_ok=True)
                PilImage.fromarray(pair.picture()).save(new / "evidence" / f"{pair.defect}.png")
            if extra is not None:
                extra(new)
        return folder


def stamp() -> dict[str, Any]:
    """`date` and `versions` of an inspection that is made now."""
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions()}


def versions() -> dict[str, str]:
    """Of the packages that scores depend on, as installed here."""
    return {**{name: _version(name) for name in ("rad3d", "torch", "timm", "numpy")}, "python": python_version()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def load_result(folder: str | Path) -> Inspection:
    """Read back what `Inspection.save` wrote, by this version or an earlier one; what those did not know is None.

    Raises:
        ResultError: no result there, a damaged one, or one of a version that cannot be read.
    """
    folder = Path(folder)
    try:
        report = json.loads((folder / "report.json").read_text())
    except (OSError, ValueError) as error:
        raise ResultError(
            folder, expected="the folder of a result with report.json", got=f"{error}", remedy="inspect again"
        ) from error
    schema = report.pop("schema_version", None) if isinstance(report, dict) else None
    if not isinstance(schema, int) or schema not in ADDED_SINCE:
        *earlier, newest = ADDED_SINCE
        raise ResultError(
            folder / "report.json",
            expected=f"schema_version {', '.join(map(str, earlier))} or {newest}",
            got=f"{schema}",
            remedy="read it with the version of rad3d that wrote it, or inspect again",
        )
    try:
        return _read({**ADDED_SINCE[schema], **report}, folder)
    except Rad3dError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultError(
            folder,
            expected="a complete result: report.json, scored.ply, views/ and maps/",
            got=f"{type(error).__name__}: {error}",
            remedy="inspect again; files are missing or damaged",
        ) from error


def _read(report: dict[str, Any], folder: Path) -> Inspection:
    for view in report["views"]:
        check_file_name(view["name"])
    ply = read_ply(folder / "scored.ply")
    defects = tuple(Defect(**{**_with_nan(defect), "kind": defect.get("kind")}) for defect in report.pop("defects"))
    views = tuple(
        ViewScores(
            view["name"],
            np.asarray(PilImage.open(folder / "views" / f"{view['name']}.png")),
            tifffile.imread(folder / "maps" / f"{view['name']}.tiff"),
            _array(view["part_from_camera"]),
            _array(view["intrinsics"]),
        )
        for view in report.pop("views")
    )
    evidence = tuple(
        _pair(pair, np.asarray(PilImage.open(folder / "evidence" / f"{int(pair['defect'])}.png")))
        for pair in report.pop("evidence")
    )
    arrays = {name: _array(report.pop(name)) for name in ("part_from_scan", "good_scores")}
    numbers = {k: _with_nan(report[k]) for k in ("score", "threshold", "point_threshold", "coverage", "coverage_total")}
    registration = tuple({**_with_nan(one), "view": one["view"]} for one in report.pop("registration"))
    return Inspection(
        **{**report, **numbers},
        registration=registration,
        **arrays,
        defects=defects,
        vertices_mm=ply.vertices.astype(np.float64) * MM_PER_UNIT[report["unit"]],
        faces=ply.faces,
        points=replace(PointScores.unknown(len(ply.vertices)), **_known_fields(ply.fields)),
        views=views,
        evidence=evidence,
    )


def _known_fields(found: Mapping[str, Values]) -> dict[str, Values]:
    """Of a scored file's fields those of `PointScores`; the ones that came with version 2 may be missing."""
    later = ("geometry_score", "defect_id")
    return {f.name: found[f.name] for f in fields(PointScores) if f.name in found or f.name not in later}


_PAIR = ("defect", "view", "specimen", "good_view", "raw_score")


def _pair(values: Mapping[str, Any], picture: Image) -> PatchPair:
    size = picture.shape[0]
    return PatchPair(
        **values, image=picture[:, :size], good_image=picture[:, size:] if picture.shape[1] > size else None
    )


def find_results(paths: Sequence[str | Path]) -> list[Path]:
    """The result folders among paths, globs and folders of results, in order.

    Raises:
        ResultError: a path that holds none.
    """
    found: list[Path] = []
    for given in paths:
        here = _results_in(given)
        if not here:
            raise ResultError(given, expected="results of `rad3d inspect`", got="none", remedy="check the path")
        found += here
    return list(dict.fromkeys(found))


def holds_results(path: str | Path) -> bool:
    """Whether `find_results` finds any there."""
    return bool(_results_in(path))


def _results_in(given: str | Path) -> list[Path]:
    expanded = sorted(Path(path) for path in glob.glob(str(given))) or [Path(given)]  # noqa: PTH207 (absolute)
    return [
        report.parent
        for path in expanded
        for report in sorted((*path.glob("report.json"), *path.glob("*/report.json")))
    ]


UNSEEN_GREY = 128
NOT_INSPECTED = -1.0
"""In `quality`, where NaN cannot stand; below every score."""


def heat_colours(score: Values, threshold: float) -> Colours:
    """Light where normal, dark red from twice the threshold on, grey where not inspected; readable in print.

    >>> heat_colours(np.array([0.0, np.nan]), 1.0)
    array([[255, 255, 204],
           [128, 128, 128]], dtype=uint8)
    """
    return table_colours("YlOrRd", score, 0.0, 2 * threshold if threshold > 0 else 1.0)


def table_colours(name: str, values: Values, low: float, high: float) -> Colours:
    """Values in the colours of a map of matplotlib from `low` to `high`; grey for NaN."""
    share = np.clip((np.nan_to_num(values) - low) / (high - low if high > low else 1.0), 0, 1)
    colours = colour_table(name)[np.minimum(256 * share, 255).astype(int)]
    colours[np.isnan(values)] = UNSEEN_GREY
    return np.asarray(colours)


@cache
def colour_table(name: str) -> Colours:
    """The 256 colours of a map of matplotlib, (256, 3)."""
    from matplotlib import colormaps

    return np.asarray((colormaps[name](np.arange(256))[:, :3] * 255).round().astype(np.uint8))


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: None in its place, numpy numbers as Python's."""
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(value: Any) -> Any:
    """The inverse of `_without_nan` for one defect or number."""
    if isinstance(value, dict):
        return {key: _with_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_with_nan(item) for item in value)
    return math.nan if value is None else value


def _array(value: Any) -> Any:
    return None if value is None else np.array(value, float)
