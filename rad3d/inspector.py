"""The method, as one page: fit on good specimens, inspect others.

scan -> register -> views -> encoder -> patches                                          (observe)
fit:     patches of good specimens -> memory -> leave-one-out scores -> calibration
inspect: patches -> retrieval on the surface -> calibrated -> back-projected -> fused    (evidence)
         -> defects in mm -> verdict
"""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.spatial import cKDTree

from rad3d.arrays import Flags, Values
from rad3d.backproject import view_map, visible
from rad3d.calibration import FalseReject, point_threshold, specimen_threshold
from rad3d.camera import Camera
from rad3d.defects import measure, regions
from rad3d.deviation import GoodDeviation, ReferenceShape, on_reference
from rad3d.encoder import Encoder
from rad3d.errors import MemoryFormatError, RegistrationError, ScanError
from rad3d.evidence import Evidence, Remembered, gather
from rad3d.files import atomic_folder
from rad3d.geometry import inverse
from rad3d.memory import Memory, check_fingerprint, provenance
from rad3d.observe import Observation, observe
from rad3d.register import Reference, build_reference
from rad3d.result import Inspection, PointScores, Verdict, ViewScores
from rad3d.scan import Scan, Surface
from rad3d.settings import Settings
from rad3d.surface import PlacedPatches, surface_scores
from rad3d.view import View
from rad3d.viewpoints import choose_viewpoints

T = TypeVar("T")

FORMAT_VERSION = 1

REACH_MM = 2.0
"""A point of the reference was judged when a judged point of the specimen lies this near."""

INSPECTABLE_COSINE = 0.5
"""Surface counts as inspectable when it can be seen at an incidence of at most 60 degrees."""


class Track(Protocol):
    """Goes through items while somebody shows the progress."""

    def __call__(self, items: Sequence[T], description: str) -> Iterable[T]: ...


def silently(items: Sequence[T], description: str) -> Iterable[T]:
    """Nobody shows the progress."""
    return items


@dataclass(frozen=True, eq=False)
class Inspector:
    """A fitted part: what its good specimens look like, and when a specimen fails.

    Args:
        part: name of the part.
        settings: all settings.
        memory: patches and descriptors of the good specimens.
        shape: the reference in the part frame.
        inspectable: (n,) which of its points can be seen at an incidence of at most 60 degrees.
        cameras: where rendered views look from; empty for captured specimens.
        patch_scores: (m,) of each remembered patch against the other specimens.
        deviation: of the good specimens, on the reference's points.
        good_scores: (g,) leave-one-out scores of the good specimens.
        point_threshold: surface points above it belong to a defect.
    """

    part: str
    settings: Settings
    memory: Memory
    shape: ReferenceShape
    inspectable: Flags
    cameras: tuple[Camera, ...]
    patch_scores: Values
    deviation: GoodDeviation
    good_scores: Values
    point_threshold: float

    @cached_property
    def encoder(self) -> Encoder:
        """The frozen ViT, loaded when first needed.

        Raises:
            MemoryFormatError: this machine's encoder gives other features than the memory holds.
        """
        encoder = Encoder.load(self.settings.encoder)
        check_fingerprint(self.memory.fingerprint, encoder.fingerprint)
        return encoder

    @cached_property
    def threshold(self) -> tuple[float, FalseReject]:
        """The specimen threshold and the rate it guarantees."""
        return specimen_threshold(self.good_scores, self.settings.verdict.false_reject)

    @cached_property
    def reference(self) -> Reference:
        """The part, prepared for registration."""
        return build_reference(self.shape.surface)

    @cached_property
    def remembered(self) -> Remembered:
        """The good specimens, ready to be compared with."""
        return remember(self.memory, self.patch_scores, self.shape, self.deviation)

    @staticmethod
    def fit(
        scans: Sequence[Scan],
        settings: Settings | None = None,
        *,
        part: str = "part",
        nominal: Scan | None = None,
        track: Track = silently,
    ) -> "Inspector":
        """Learn what good specimens of a part look like.

        Args:
            scans: at least one good specimen; more give tighter thresholds.
            settings: defaults where None.
            part: its name.
            nominal: CAD of the part, the reference for deviations; without it the first specimen is.
            track: shows progress.

        Raises:
            ScanError: no scan, or two of one name.
        """
        settings = settings or Settings()
        _check_names(scans)
        encoder = Encoder.load(settings.encoder)
        settings = replace(settings, encoder=encoder.settings)
        shape = ReferenceShape(_reference_scan(scans, nominal).surface)
        reference = build_reference(shape.surface)
        cameras, inspectable = (
            _look_from(_reference_scan(scans, nominal), settings, encoder) if not scans[0].views else ((), None)
        )
        observations = [
            observe(scan, shape, reference, cameras, encoder, settings) for scan in track(scans, "looking at")
        ]
        if inspectable is None:
            inspectable = _seen_by(observations, shape.surface, settings)

        memory = Memory.merged([_memory_of(observation, part, encoder) for observation in observations])
        patch_scores = _leave_one_out(memory, observations, settings, track)
        deviation = GoodDeviation(
            np.stack([on_reference(shape, o.surface, o.distance_mm, REACH_MM) for o in observations])
        )
        remembered = remember(memory, patch_scores, shape, deviation)
        evidence = [
            gather(observation, remembered, settings, good=index)
            for index, observation in enumerate(track(observations, "calibrating"))
        ]
        return Inspector(
            part=part,
            settings=settings,
            memory=memory,
            shape=shape,
            inspectable=inspectable,
            cameras=cameras,
            patch_scores=patch_scores,
            deviation=deviation,
            good_scores=np.array([specimen_score(e) for e in evidence]),
            point_threshold=point_threshold([e.score for e in evidence]),
        )

    def inspect(self, scan: Scan) -> Inspection:
        """Find what differs on a specimen."""
        clock = Clock()
        with clock("start"):
            encoder, reference, remembered = self.encoder, self.reference, self.remembered
        try:
            observation = observe(scan, self.shape, reference, self.cameras, encoder, self.settings, clock)
        except RegistrationError as error:
            return self._not_registered(scan, error, clock)
        with clock("retrieval"):
            evidence = gather(observation, remembered, self.settings)
        with clock("defects"):
            threshold = self.threshold[0]
            labels = regions(
                observation.surface,
                evidence.score,
                min(self.point_threshold, threshold),
                threshold,
                self.settings.verdict.min_area_mm2,
            )
            defects = measure(observation.surface, evidence.score, labels, inverse(observation.part_from_scan))
            coverage, coverage_total = self._coverage(observation, evidence)
            verdict, reason = self._verdict(len(defects), coverage)
            views = tuple(_view_scores(view, observation.surface, evidence.score) for view in observation.views)
        if scan.views:  # the merged surface, in the part frame
            vertices, vertex = observation.surface.points_mm, np.arange(len(evidence.score))
        else:
            vertices, vertex = scan.vertices_mm, scan.surface_from_vertex
        points = PointScores(
            anomaly_score=evidence.score[vertex],
            raw_score=evidence.raw[vertex],
            agreement=evidence.agreement[vertex],
            views_seen=evidence.views_seen[vertex],
            deviation_mm=evidence.deviation_mm[vertex],
        )
        blank = self._blank(scan, clock)
        return replace(
            blank,
            verdict=verdict,
            reason=reason,
            score=specimen_score(evidence),
            coverage=coverage,
            coverage_total=coverage_total,
            defects=defects,
            vertices_mm=vertices,
            points=points,
            views=views,
        )

    def _blank(self, scan: Scan, clock: "Clock") -> Inspection:
        """A result before anything was judged."""
        threshold, false_reject = self.threshold
        unknown = np.full(len(scan.vertices_mm), np.nan, np.float32)
        return Inspection(
            specimen=scan.specimen,
            source=str(scan.source or ""),
            unit="mm" if scan.views else scan.unit,
            verdict="incomplete",
            reason="",
            score=np.nan,
            threshold=threshold,
            point_threshold=self.point_threshold,
            coverage=0.0,
            coverage_total=0.0,
            false_reject=false_reject.to_dict(),
            settings=self.settings.to_dict(),
            fingerprint=self.memory.fingerprint,
            timings_s=clock.seconds,
            defects=(),
            vertices_mm=scan.vertices_mm,
            faces=scan.faces,
            points=PointScores(unknown, unknown, unknown, np.zeros(len(unknown), np.int32), unknown),
        )

    def _not_registered(self, scan: Scan, error: RegistrationError, clock: "Clock") -> Inspection:
        return replace(self._blank(scan, clock), reason=f"not registered: {error.got}")

    def _coverage(self, observation: Observation, evidence: Evidence) -> tuple[float, float]:
        """Judged area shares of the inspectable and of the whole reference."""
        judged = observation.surface.points_mm[np.isfinite(evidence.score)]
        if not len(judged):
            return 0.0, 0.0
        reached = np.isfinite(
            cKDTree(judged).query(self.shape.surface.points_mm, distance_upper_bound=REACH_MM, workers=-1)[0]
        )
        area = self.shape.surface.areas_mm2
        inspectable = float((area * self.inspectable).sum())
        covered = float((area * (reached & self.inspectable)).sum())
        own = observation.surface.areas_mm2
        total = float(own[np.isfinite(evidence.score)].sum() / own.sum())
        return covered / inspectable if inspectable else 0.0, total

    def _verdict(self, defects: int, coverage: float) -> tuple[Verdict, str]:
        least = self.settings.verdict.min_coverage
        if defects:
            return "fail", f"{defects} defect{'s' if defects > 1 else ''} above the threshold"
        if coverage < least:
            return "incomplete", f"{coverage:.0%} of the inspectable surface was judged, {least:.0%} are asked"
        return "pass", "no defect above the threshold"

    def save(self, folder: str | Path) -> Path:
        """Write memory and calibration into `folder`, all or nothing."""
        folder = Path(folder)
        surface = self.shape.surface
        arrays = {
            "points_mm": surface.points_mm,
            "normals": surface.normals,
            "areas_mm2": surface.areas_mm2,
            "inspectable": self.inspectable,
            "patch_scores": self.patch_scores,
            "deviation_mm": self.deviation.deviation_mm.astype(np.float32),
            "good_scores": self.good_scores,
        }
        if surface.faces is not None:
            arrays["faces"] = surface.faces
        if surface.colours is not None:
            arrays["colours"] = surface.colours
        header = {
            "format_version": FORMAT_VERSION,
            "part": self.part,
            "settings": self.settings.to_dict(),
            "point_threshold": self.point_threshold,
            "cameras": [
                {
                    "size_hw": camera.size_hw,
                    "intrinsics": camera.intrinsics.tolist(),
                    "part_from_camera": camera.part_from_camera.tolist(),
                }
                for camera in self.cameras
            ],
        }
        with atomic_folder(folder) as new:
            self.memory.write_into(new)
            save_file(
                {name: np.ascontiguousarray(array) for name, array in arrays.items()}, new / "inspector.safetensors"
            )
            (new / "inspector.json").write_text(json.dumps(header, indent=1) + "\n")
        return folder

    @staticmethod
    def load(folder: str | Path) -> "Inspector":
        """Read what `save` wrote; patches stay on disk until they are asked for.

        Raises:
            MemoryFormatError: missing, damaged, or of another version.
        """
        folder = Path(folder)
        memory = Memory.load(folder)
        try:
            header = json.loads((folder / "inspector.json").read_text())
            arrays = load_file(folder / "inspector.safetensors")
            if header["format_version"] != FORMAT_VERSION:
                raise KeyError(f"format version {header['format_version']}")
            surface = Surface(
                arrays["points_mm"],
                arrays["normals"],
                arrays["areas_mm2"],
                arrays.get("faces"),
                arrays.get("colours"),
            )
            return Inspector(
                part=header["part"],
                settings=Settings.from_dict(header["settings"]),
                memory=memory,
                shape=ReferenceShape(surface),
                inspectable=arrays["inspectable"],
                cameras=tuple(
                    Camera(tuple(c["size_hw"]), np.array(c["intrinsics"]), np.array(c["part_from_camera"]))
                    for c in header["cameras"]
                ),
                patch_scores=arrays["patch_scores"],
                deviation=GoodDeviation(arrays["deviation_mm"]),
                good_scores=arrays["good_scores"],
                point_threshold=header["point_threshold"],
            )
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise MemoryFormatError(
                folder,
                expected=f"a fitted memory of format version {FORMAT_VERSION}",
                got=f"{type(error).__name__}: {error}",
                remedy="fit again; the files are missing, damaged or of another version",
            ) from error


class Clock:
    """Seconds spent in each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def remember(memory: Memory, patch_scores: Values, shape: ReferenceShape, deviation: GoodDeviation) -> Remembered:
    """Bring memory and calibration together; the floors are half the usual spread of good specimens."""
    patches = PlacedPatches.of_memory(memory)
    _, spread = deviation.usual_spread()
    return Remembered(
        patches=patches,
        scores=patch_scores,
        score_floor=0.5 * float(np.std(patch_scores)),
        shape=shape,
        deviation=deviation,
        deviation_floor_mm=max(float(np.median(spread)), LEAST_DEVIATION_MM),
    )


LEAST_DEVIATION_MM = 0.02
"""Deviations below this are measurement noise whatever the good specimens say."""


def specimen_score(evidence: Evidence) -> float:
    """One number per specimen: the highest fused score on its surface; 0 where nothing was judged."""
    return float(np.nanmax(evidence.score)) if np.isfinite(evidence.score).any() else 0.0


def _check_names(scans: Sequence[Scan]) -> None:
    names = [scan.specimen for scan in scans]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not scans or repeated:
        raise ScanError(
            "fit",
            expected="good specimens, each with a name of its own",
            got=f"several called {', '.join(repeated)}" if repeated else "none",
            remedy="rename them" if repeated else "name at least one good scan",
        )


def _reference_scan(scans: Sequence[Scan], nominal: Scan | None) -> Scan:
    if nominal is None and scans[0].views:
        raise ScanError(
            scans[0].source or scans[0].specimen,
            expected="a nominal (CAD) or a mesh or cloud of the whole part to register captured views with",
            got="captured views alone",
            remedy="give it with --nominal FILE",
        )
    return nominal or scans[0]


def _look_from(reference: Scan, settings: Settings, encoder: Encoder) -> tuple[tuple[Camera, ...], Flags]:
    """Cameras for rendered views, and the surface that can be inspected from anywhere."""
    viewpoints = choose_viewpoints(reference, settings.views, settings.encoder.input_hw, encoder.patch_size)
    return viewpoints.cameras, viewpoints.inspectable


def _seen_by(observations: Sequence[Observation], surface: Surface, settings: Settings) -> Flags:
    seen = np.zeros(len(surface.points_mm), bool)
    for observation in observations:
        for view in observation.views:
            flags, _, cosine = visible(view, surface, settings.fusion)
            seen |= flags & (cosine >= INSPECTABLE_COSINE)
    return seen


def _memory_of(observation: Observation, part: str, encoder: Encoder) -> Memory:
    scan = observation.scan
    origin = provenance(scan.specimen, part, str(scan.source or ""), scan.source_sha256)
    return Memory.of(observation.patches, origin, [view.name for view in observation.views], encoder.fingerprint)


def _leave_one_out(memory: Memory, observations: Sequence[Observation], settings: Settings, track: Track) -> Values:
    """Raw score of every remembered patch against the other specimens; a single specimen's are 0."""
    remembered = PlacedPatches.of_memory(memory)
    scores = np.zeros(len(remembered), np.float32)
    for index, observation in enumerate(track(observations, "comparing")):
        own = remembered.specimen == index
        query = PlacedPatches.of_query(observation.patches)
        scores[own] = np.nan_to_num(surface_scores(query, remembered, settings.surface, ~own).raw)
    return scores


def _view_scores(view: View, surface: Surface, scores: Values) -> ViewScores:
    camera = view.camera
    return ViewScores(
        name=view.name,
        image=view.image,
        score=view_map(view, surface.points_mm, scores, REACH_MM),
        part_from_camera=None if camera is None else camera.part_from_camera,
        intrinsics=None if camera is None else camera.intrinsics,
    )
