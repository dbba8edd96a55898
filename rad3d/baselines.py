"""What can be evaluated: RAD as published, RAD cropped to the part, MRAD, rad3d itself, and geometry alone.

A method learns from the good samples of one or of all parts, then predicts one test sample at a time. Predictions are
written to disk, so that metrics can be computed again without inference.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from rad3d.arrays import Image
from rad3d.auxiliary import Auxiliary, look_at
from rad3d.backproject import completed
from rad3d.datasets.sample import Sample
from rad3d.errors import Rad3dError, RegistrationError, ScanError, SettingsError, UnitError
from rad3d.expert import Expert, MradName
from rad3d.inspector import Inspector, every_view, view_scores
from rad3d.looks import cropped, load_views, need_images, part_of
from rad3d.observe import register, seen_of_part
from rad3d.prediction import WHOLE, Box, PointPrediction, Prediction, ViewPrediction
from rad3d.progress import Progress
from rad3d.register import Registration
from rad3d.result import ViewScores
from rad3d.scan import Scan, merged_surface
from rad3d.settings import FusionSettings, RetrievalSettings, Settings
from rad3d.view import View

MethodName = Literal["rad", "rad-roi", "rad3d", "deviation", "mrad-tf", "mrad-ft", "mrad-clip", "rad3d+mrad"]
RADS = ("rad", "rad-roi")
RAD_CROP: Box = (1 / 16, 1 / 16, 7 / 8, 7 / 8)
"""What the middle 448 of 512 pixels show."""
TOP_SHARE = 0.01


class Method(Protocol):
    """Learns from good samples, then judges others."""

    fingerprint: str
    """What predictions depend on, for people and for resuming."""

    def fit(self, samples: Sequence[Sample], folder: Path, track: Progress, bad: Callable[[Rad3dError], None]) -> None:
        """Learn; what is learned may be kept in `folder`, so that a second call is quick.

        `bad` is called with the error of each sample that cannot be read; it raises unless they may be skipped.
        """

    def predict(self, sample: Sample) -> Prediction:
        """Judge a sample."""


class Rad:
    """RAD on images: float32, whole image squashed (published), or cropped to the part at true aspect (roi).

    Features of the good images stay on disk, row by row, and are read as they are asked for; a fit that was
    interrupted goes on where it stopped.
    """

    def __init__(self, settings: Settings, retrieval: RetrievalSettings, *, roi: bool) -> None:
        from rad3d.encoder import Encoder

        if retrieval.views_by in ("viewpoint", "both"):
            raise SettingsError(
                "retrieval.views_by",
                expected="descriptor, or all",
                got=retrieval.views_by,
                remedy="images alone do not tell their viewpoint; in Python, rad_scores knows that of placed patches",
            )
        self._encoder = Encoder.load(replace(settings.encoder, input_hw=(448, 448), precision="float32"))
        self._roi = roi
        self._retrieval = replace(retrieval, pos_radius=None) if roi else retrieval
        self.fingerprint = f"{self._encoder.fingerprint}{'/roi' if roi else ''}"

    def fit(self, samples: Sequence[Sample], folder: Path, track: Progress, bad: Callable[[Rad3dError], None]) -> None:
        """Encode the good images."""
        import torch

        from rad3d.memory import Memory

        names = [f"{s.part}/{s.specimen}/{v.name}" for s in samples for v in s.views]
        need_images(samples)
        layers, channels, grid = len(self._encoder.settings.layers), self._encoder.channels, self._encoder.grid_hw
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "rows.json"
        done = _rows_done(log, self.fingerprint, names)
        mode: Literal["r+", "w+"] = "r+" if done else "w+"
        shapes = {"features": (len(names), layers, *grid, channels), "descriptors": (len(names), layers, channels)}
        stored = {
            name: np.lib.format.open_memmap(folder / f"{name}.npy", mode, np.float32, shape)
            for name, shape in shapes.items()
        }
        row = 0
        for sample in track(samples, "remembering"):
            rows = range(row, row + len(sample.views))
            row += len(sample.views)
            if rows.stop <= len(done):
                continue
            try:
                inputs = [self._look(view) for view in load_views(sample)]
            except (ScanError, UnitError) as error:
                bad(error)
                inputs = [None] * len(rows)
            seen = [i for i, given in enumerate(inputs) if given is not None]
            cls, patches = self._encode([given[0] for given in inputs if given is not None])
            for i, one, many in zip(seen, cls, patches, strict=True):
                stored["descriptors"][rows[i]], stored["features"][rows[i]] = one.numpy(), many.numpy()
            done = [*done[: rows.start], *(given is not None for given in inputs)]
            if rows.stop // 8 != rows.start // 8 or rows.stop == len(names):
                for array in stored.values():
                    array.flush()
                log.write_text(json.dumps({"fingerprint": self.fingerprint, "names": names, "done": done}))
        del stored
        if not any(done):
            raise ScanError(folder, expected="good images to learn from", got="none", remedy="check the data set")
        features, descriptors = (torch.from_numpy(np.load(folder / f"{n}.npy", mmap_mode="c")) for n in shapes)
        nowhere = np.broadcast_to(np.float32(np.nan), (len(names), *grid, 3))
        self._memory = Memory(
            self.fingerprint, (), np.zeros(len(names), int), tuple(names), descriptors, nowhere, nowhere,
            nowhere[..., :2], np.full((len(names), 3), np.nan, np.float32), features,
        )  # fmt: skip
        self._allowed = np.array(done, bool)

    def predict(self, sample: Sample) -> Prediction:
        """Score every image; the specimen's score is that of its worst image."""
        import torch

        from rad3d.patches import Patches
        from rad3d.retrieval import image_score, rad_scores, score_map

        need_images([sample])
        views = load_views(sample)
        inputs = [self._look(view) for view in views]
        cls, patches = self._encode([given[0] for given in inputs if given is not None])
        empty = np.empty((len(cls), 0, 0, 3), np.float32)
        nowhere = np.full((len(cls), 3), np.nan, np.float32)
        query = Patches(cls, patches, empty, empty, empty[..., :2], nowhere, (), np.arange(len(cls)))
        grids = rad_scores(query, self._memory, self._retrieval, self._allowed) if len(cls) else torch.empty(0, 1, 1)
        maps = score_map(grids)
        found = iter(zip(maps.numpy(), image_score(maps, TOP_SHARE).tolist(), strict=True))
        predicted = []
        for view, given in zip(views, inputs, strict=True):
            scores, score = next(found) if given is not None else (np.full((1, 1), np.nan, np.float32), np.nan)
            box = WHOLE if given is None else given[1]
            predicted.append(ViewPrediction(view.name, score, scores, box, part_of(view)))
        return _worst(predicted)

    def _encode(self, images: Sequence[Image]) -> tuple[Any, Any]:
        """Unit CLS tokens (n, l, c) and patch tokens (n, l, h, w, c)."""
        from torch.nn.functional import normalize

        tokens = self._encoder.encode(np.stack(images) if images else np.empty((0, 448, 448, 3), np.uint8))
        return normalize(tokens.cls, dim=-1), normalize(tokens.patches, dim=-1)

    def _look(self, view: View) -> tuple[Image, Box] | None:
        """The encoder's input and what of the image it shows; None when the part is not in the image."""
        from rad3d.encoder import rad_input

        return cropped(view, self._encoder) if self._roi else (rad_input(view.image), RAD_CROP)


def rad_k_views(memories: Path, retrieval: RetrievalSettings) -> int | None:
    """How many good images answer an image, in the memory that has the fewest; None where RAD learned nothing."""
    counts: list[int] = [sum(json.loads(log.read_text())["done"]) for log in memories.glob("*/rows.json")]
    if not counts:
        return None
    return min(counts) if retrieval.views_by == "all" else min(retrieval.k_views, *counts)


def _rows_done(log: Path, fingerprint: str, names: list[str]) -> list[bool]:
    """Which rows an earlier fit of the same images wrote; [] when it was another."""
    try:
        found = json.loads(log.read_text())
        same = found["fingerprint"] == fingerprint and found["names"] == names
        return list(found["done"]) if same else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


class Mrad:
    """MRAD: labels of other parts judge images one by one; meshes and clouds on their surface. Nothing is fitted."""

    def __init__(self, name: MradName, settings: Settings, auxiliary: Auxiliary) -> None:
        from rad3d.encoder import Encoder
        from rad3d.prompted import TextTower

        if name == "mrad-clip":
            TextTower.load(settings.encoder.name)  # refused here, not after minutes of encoding
        encoder = Encoder.load(settings.encoder)
        self._name, self._settings, self._auxiliary, self._patch = name, settings, auxiliary, encoder.patch_size
        self.fingerprint = f"{encoder.fingerprint}/{auxiliary.digest}"

    def fit(self, samples: Sequence[Sample], folder: Path, track: Progress, bad: Callable[[Rad3dError], None]) -> None:
        """Remember the labels, and train on them; the part's own good samples are not looked at."""
        self._expert = _learned(self._name, self._settings, self._auxiliary, folder, track, bad)

    def predict(self, sample: Sample) -> Prediction:
        """Judge every image; the specimen's score is that of its worst image."""
        from rad3d.mrad import image_scores, pixel_maps

        if not sample.views:
            return self._on_surface(sample.load_scan())
        views = load_views(sample)
        looks = [look_at(view, self._expert.encoder) for view in views]
        found = self._expert.judge([look[0] for look in looks if look is not None])
        maps = pixel_maps(found.maps, self._expert.settings.input_hw) if len(found.maps) else np.empty((0, 1, 1))
        scored = iter(zip(maps, image_scores(maps, found.image).tolist(), strict=True))
        predicted = []
        for view, look in zip(views, looks, strict=True):
            scores, score = next(scored) if look is not None else (np.full((1, 1), np.nan, np.float32), np.nan)
            predicted.append(
                ViewPrediction(view.name, score, scores, WHOLE if look is None else look[1], part_of(view))
            )
        return _worst(predicted)

    def _on_surface(self, scan: Scan) -> Prediction:
        from rad3d.zeroshot import inspect_zero_shot

        found = inspect_zero_shot(self._expert, scan, self._settings)
        return Prediction(found.score, points=PointPrediction.of(scan, found.points.anomaly_score))


class Inspectors:
    """rad3d itself: one inspector, of the samples' part; with labels of other parts beside its good specimens."""

    def __init__(self, settings: Settings, auxiliary: Auxiliary | None = None) -> None:
        from rad3d.encoder import Encoder

        self._settings, self._auxiliary = settings, auxiliary
        self.fingerprint = Encoder.load(settings.encoder).fingerprint
        if auxiliary is not None:
            self.fingerprint += f"/{auxiliary.digest}"

    def fit(self, samples: Sequence[Sample], folder: Path, track: Progress, bad: Callable[[Rad3dError], None]) -> None:
        """Fit and save, or load what an earlier run saved."""
        if (folder / "inspector.json").exists():
            self._inspector = Inspector.load(folder)
            return
        expert = None
        if self._auxiliary is not None:
            labelled = folder.parent / "labelled"
            expert = _learned("mrad-ft", self._settings, self._auxiliary, labelled, track, bad)
        scans = list(_readable(samples, bad))
        nominal = _nominal(samples)
        part = samples[0].part
        self._inspector = Inspector.fit(scans, self._settings, part=part, nominal=nominal, expert=expert, track=track)
        self._inspector.save(folder)

    def predict(self, sample: Sample) -> Prediction:
        """Inspect; a specimen that cannot be registered or judged is incomplete."""
        scan = sample.load_scan()
        try:
            found = self._inspector.inspect(scan)
        except (RegistrationError, ScanError) as error:
            return _failed(scan, str(error), finds=True)
        return Prediction(
            score=found.score,
            complete=found.verdict != "incomplete",
            reason=found.reason,
            views=_with_maps(scan, found.views) if scan.views else (),
            points=None if scan.views else PointPrediction.of(scan, found.points.anomaly_score, found.points.defect_id),
            fails=found.verdict == "fail",
            centroids_mm=np.array([d.centroid_mm for d in found.defects], float).reshape(-1, 3),
            defect_areas_mm2=np.array([d.area_mm2 for d in found.defects], float),
        )


class Deviation:
    """Geometry alone: distance to the nominal, or to the first good specimen, after registration to it."""

    fingerprint = "deviation"

    def fit(self, samples: Sequence[Sample], folder: Path, track: Progress, bad: Callable[[Rad3dError], None]) -> None:
        """Take the reference."""
        from rad3d.deviation import ReferenceShape
        from rad3d.reference import build_reference

        reference = _nominal(samples) or next(_readable(samples, bad), None)
        if reference is None or reference.views:
            raise SettingsError(
                "deviation",
                expected="a nominal, or good specimens that are meshes or clouds",
                got="captured views" if reference is not None else "none",
                remedy="use --method rad3d, which registers and merges views",
            )
        self._shape = ReferenceShape(reference.surface)
        self._reference = build_reference(reference.surface)

    def predict(self, sample: Sample) -> Prediction:
        """Absolute distance per vertex or pixel; the specimen's score is the mean of the largest hundredth."""
        scan = sample.load_scan()
        try:
            found = register(scan, self._reference)
        except RegistrationError as error:
            return _failed(scan, str(error), finds=False)
        if scan.views:
            return self._of_views(scan, found)
        distance = np.abs(self._shape.signed_distance(scan.surface.moved(found[0].part_from_scan).points_mm))
        scores = distance[scan.surface_from_vertex]
        return Prediction(score=_top_mean(scores), points=PointPrediction.of(scan, scores))

    def _of_views(self, scan: Scan, found: Sequence[Registration]) -> Prediction:
        seen = seen_of_part(scan, found, self._shape)
        surface = merged_surface(seen)
        distance = np.abs(self._shape.signed_distance(surface.points_mm))
        captured = [view for view, one in zip(scan.views, found, strict=True) if one.trusted]
        maps = []
        for view, whole in zip(seen, captured, strict=True):
            shown = completed(view, surface, ~whole.mask, FusionSettings())
            maps.append(view_scores(shown, surface.tree, distance, ~whole.mask))
        return Prediction(score=_top_mean(distance), views=_with_maps(scan, maps))


def method_named(
    name: MethodName,
    settings: Settings,
    auxiliary: Auxiliary | None = None,
    retrieval: RetrievalSettings = RetrievalSettings(),  # noqa: B008
) -> Method:
    """The method with that name; those of MRAD need labels of other parts, those of RAD are told what answers.

    Raises:
        SettingsError: labels are missing, or labels or retrieval given to a method that reads none; RAD is to choose
            views by viewpoint.
    """
    if ("mrad" in name) != (auxiliary is not None):
        raise SettingsError(
            name,
            expected="labelled samples" if auxiliary is None else "no labelled samples",
            got="none" if auxiliary is None else str(auxiliary.root),
            remedy="give --auxiliary ROOT with the methods of MRAD, and with no other",
        )
    if name not in RADS and retrieval != RetrievalSettings():
        raise SettingsError(
            name,
            expected="no settings of RAD's retrieval",
            got=str(retrieval),
            remedy="leave --retrieval.* out, or use --method rad or rad-roi",
        )
    if auxiliary is not None:
        return Inspectors(settings, auxiliary) if name == "rad3d+mrad" else Mrad(name, settings, auxiliary)  # type: ignore[arg-type]
    makers: dict[str, Callable[[], Method]] = {
        "rad": lambda: Rad(settings, retrieval, roi=False),
        "rad-roi": lambda: Rad(settings, retrieval, roi=True),
        "rad3d": lambda: Inspectors(settings),
        "deviation": Deviation,
    }
    return makers[name]()


def _learned(
    name: MradName, settings: Settings, auxiliary: Auxiliary, folder: Path, track: Progress, bad: Callable[..., None]
) -> Expert:
    """What an earlier run kept in the folder, or else learned now and kept."""
    if (folder / "labelled.json").exists():
        return Expert.load(folder, name)
    expert = auxiliary.learned(name, settings, track, bad)
    expert.save(folder)
    return expert


def _worst(views: Sequence[ViewPrediction]) -> Prediction:
    """A specimen is as anomalous as its worst image."""
    known = [view.score for view in views if not np.isnan(view.score)]
    return Prediction(
        score=max(known, default=np.nan),
        complete=bool(known),
        reason="" if known else "no view shows the part",
        views=tuple(views),
    )


def _readable(samples: Sequence[Sample], bad: Callable[[Rad3dError], None]) -> Iterator[Scan]:
    for sample in samples:
        try:
            yield sample.load_scan()
        except (ScanError, UnitError) as error:
            bad(error)


def _nominal(samples: Sequence[Sample]) -> Scan | None:
    from rad3d.io import read_scan

    path = samples[0].nominal if samples else None
    return None if path is None else read_scan(path, unit=samples[0].unit)


def _with_maps(scan: Scan, found: Sequence[ViewScores]) -> tuple[ViewPrediction, ...]:
    """A capture's views with their maps and poses; one that has none was not inspected."""
    return tuple(
        ViewPrediction(v.name, _top_mean(v.score), v.score, WHOLE, part_of(view), v.part_from_camera)
        for v, view in zip(every_view(scan, tuple(found)), scan.views, strict=True)
    )


def _failed(scan: Scan, reason: str, *, finds: bool) -> Prediction:
    """Nothing inspected: every labelled place counts as missed, and every defect if the method finds any."""
    views = tuple(
        ViewPrediction(view.name, np.nan, np.full((1, 1), np.nan, np.float32), WHOLE, part_of(view))
        for view in scan.views
    )
    unknown, none = np.full(len(scan.vertices_mm), np.nan, np.float32), np.zeros(len(scan.vertices_mm), int)
    points = None if scan.views else PointPrediction.of(scan, unknown, none if finds else None)
    places, areas = (np.empty((0, 3)), np.empty(0)) if finds else (None, None)
    return Prediction(np.nan, False, reason, views, points, centroids_mm=places, defect_areas_mm2=areas)


def _top_mean(scores: np.ndarray) -> float:
    """Mean of the largest hundredth of what was inspected, as RAD scores an image."""
    known = scores[np.isfinite(scores)]
    count = max(1, int(known.size * TOP_SHARE))
    return float(np.partition(known, known.size - count)[-count:].mean()) if known.size else np.nan
