"""The method, as one page: fit on good specimens, inspect others.

scan -> register -> views -> encoder -> patches                                          (observe)
fit:     patches of good specimens -> memory -> leave-one-out scores -> calibration
inspect: patches -> retrieval on the surface, and colour that no light explains
         -> calibrated                                                                   (evidence)
         -> captured views of a symmetric part turned until they agree, and compared
            anew where one fits the part in several poses                                (arrange)
         -> back-projected -> fused, with what the shape says                            (evidence)
         -> defects in mm -> verdict
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from scipy.spatial import cKDTree

from rad3d.arrange import arranged, told_by_others
from rad3d.arrays import Flags, Mask, ScoreMap, Values
from rad3d.backproject import completed, view_map
from rad3d.calibration import FalseReject, p_value, point_threshold, specimen_threshold
from rad3d.camera import Camera
from rad3d.defects import LINK_MM, deep_enough, joined, measure, regions
from rad3d.deviation import REACH_MM, GoodDeviation, ReferenceShape, sided
from rad3d.encoder import Encoder
from rad3d.errors import MemoryFormatError, RegistrationError, ScanError, SettingsError
from rad3d.evidence import Evidence, PatchScores, Remembered, gather, judge_patches
from rad3d.expert import Expert
from rad3d.feedback import Judgement, active, check_kept, read_log, respected, write_log
from rad3d.files import atomic_folder, save_tensors
from rad3d.fitting import (
    LEAST_DEVIATION_MM,
    TOLERANCE_MM,
    check_names,
    fine_enough,
    leave_one_out,
    look_from,
    look_of,
    memory_of,
    more_complete,
    reference_surface,
    remember,
    seen_by,
    seen_twice,
    usable_together,
    without_colours,
)
from rad3d.geometry import inverse
from rad3d.likeness import patch_pairs
from rad3d.memory import MEMORY_FILES, Memory, check_fingerprint
from rad3d.observe import AmbiguousPoseError, Clock, Observation, Station, check_depth, has_poses
from rad3d.progress import Progress, silently
from rad3d.reference import Reference, build_reference
from rad3d.result import REGISTRATION, Inspection, PatchPair, PointScores, Verdict, ViewScores, stamp
from rad3d.scan import Scan, Surface
from rad3d.settings import Settings
from rad3d.settle import up_to_symmetry
from rad3d.surface import PlacedPatches
from rad3d.symmetry import Symmetries
from rad3d.threads import each
from rad3d.view import View

logger = logging.getLogger(__name__)

FORMAT_VERSION = 4


@dataclass(frozen=True, eq=False)
class Inspector:
    """A fitted part: what its good specimens look like, and when a specimen fails.

    Args:
        part: name of the part.
        settings: all settings.
        memory: patches and descriptors of the good specimens.
        shape: the reference in the part frame.
        symmetries: motions that map it onto itself.
        inspectable: (n,) which of its points can be seen at an incidence of at most 60 degrees.
        cameras: where rendered views look from; empty for captured specimens.
        looks: how the good specimens look when seen, see `look_of`: as meshes, coloured meshes, clouds, ...
        patch_scores: (2, m) raw and colour score of each remembered patch against the other specimens.
        deviation: of the good specimens, on the reference's points.
        good_scores: (g,) leave-one-out scores of the good specimens.
        point_threshold: surface points above it belong to a defect.
        expert: labelled examples of other parts, which may raise or lower what the good specimens say; None without.
        chances: (m,) what the expert says of each remembered patch.
        log: engineers' judgements of earlier results, oldest first.
        folder: where the memory is on disk; None = nowhere.
        least_deviation_mm: see `fitting.remember`; more where a single good specimen does not tell how shapes vary.
    """

    part: str
    settings: Settings
    memory: Memory
    shape: ReferenceShape
    symmetries: Symmetries
    inspectable: Flags
    cameras: tuple[Camera, ...]
    looks: tuple[str, ...]
    patch_scores: np.ndarray
    deviation: GoodDeviation
    good_scores: Values
    point_threshold: float
    expert: Expert | None = None
    chances: Values | None = None
    log: tuple[Judgement, ...] = ()
    folder: Path | None = None
    least_deviation_mm: float = LEAST_DEVIATION_MM

    @cached_property
    def encoder(self) -> Encoder:
        """The frozen ViT, loaded when first needed.

        Raises:
            MemoryFormatError: this machine's encoder gives other features than the memory holds.
        """
        encoder = Encoder.load(self.settings.encoder) if self.expert is None else self.expert.encoder
        check_fingerprint(self.memory.fingerprint, encoder.fingerprint, self.folder or "memory")
        return encoder

    @cached_property
    def identity(self) -> str:
        """The same for one fit wherever it is copied, another for every other."""
        digest = hashlib.sha256(self.memory.fingerprint.encode())
        for array in (self.patch_scores, self.good_scores, self.shape.surface.points_mm):
            digest.update(np.ascontiguousarray(array, np.float32).tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def threshold(self) -> tuple[float, FalseReject]:
        """The specimen threshold and the rate it guarantees."""
        verdict = self.settings.verdict
        threshold, rate = specimen_threshold(self.good_scores, verdict.false_reject)
        return max(threshold, verdict.min_score), rate

    @cached_property
    def reference(self) -> Reference:
        """The part, prepared for registration."""
        return build_reference(self.shape.surface, self.symmetries)

    @cached_property
    def station(self) -> Station:
        """Where its specimens are observed."""
        return Station(self.shape, self.reference, self.cameras, self.encoder, self.settings)

    @cached_property
    def remembered(self) -> Remembered:
        """The good specimens, ready to be compared with."""
        least_mm = self.least_deviation_mm
        return remember(self.memory, self.patch_scores, self.shape, self.deviation, self.chances, least_mm)

    @staticmethod
    def fit(
        scans: Sequence[Scan],
        settings: Settings | None = None,
        *,
        part: str = "part",
        nominal: Scan | None = None,
        expert: Expert | None = None,
        track: Progress = silently,
    ) -> "Inspector":
        """Learn what good specimens of a part look like.

        Args:
            scans: at least one good specimen; more give tighter thresholds. Copies are left out, and colours unless
                all have them.
            settings: defaults where None.
            part: its name.
            nominal: CAD of the part, the reference for deviations; without it the first mesh or cloud is, or another
                where the first has a gap, or else the mean of the captured ones.
            expert: labelled examples of other parts; its encoder is the one used.
            track: shows progress.

        Raises:
            ScanError: no scan, two of one name, captures among others, images without clouds, or nothing of the surface
                can be seen.
            RegistrationError: a good specimen does not fit the reference.
            SettingsError: zones by colour and a reference without colours.
        """
        settings = settings or Settings()
        check_names(scans)
        for scan in scans:
            check_depth(scan)
        scans = usable_together(scans)
        encoder = Encoder.load(settings.encoder) if expert is None else expert.encoder
        settings = replace(settings, encoder=encoder.settings)
        surface, symmetries, scans = reference_surface(scans, nominal)
        if settings.verdict.unjudged_colour is not None and surface.colours is None:
            raise SettingsError(
                "verdict.unjudged_colour",
                expected="a nominal, or else a first good scan, with vertex colours",
                got="a reference without",
                remedy="colour the vertices of the nominal, or name boxes with verdict.unjudged_boxes_mm",
            )
        shape = ReferenceShape(surface)
        reference = build_reference(shape.surface, symmetries)
        cameras: tuple[Camera, ...] = ()
        inspectable: Flags | None = None
        if not scans[0].views:
            settings = fine_enough(settings, nominal or scans[0], encoder, len(scans))
            cameras, inspectable = look_from(nominal or scans[0], settings, encoder)
        station = Station(shape, reference, cameras, encoder, settings)
        looks = [(scan, cameras) for scan in scans] if len(scans) > 1 else seen_twice(scans[0], cameras, shape)
        observations = [
            replace(station, cameras=from_here).observe(scan) for scan, from_here in track(looks, "looking at")
        ]
        if nominal is None and inspectable is not None:
            better = more_complete([o.surface for o in observations], [o.distance_mm for o in observations])
            if better is not None:
                known, lacking = scans[better], scans[0].specimen
                logger.warning("%s lacks surface that others have: %s is the reference", lacking, known.specimen)
                return Inspector.fit(scans, settings, part=part, nominal=known, expert=expert, track=track)
        if inspectable is None:
            inspectable = seen_by(observations, shape.surface, reference, settings)
        alone = len(scans) == 1
        fitted = Inspector.of(observations, station, inspectable, part=part, expert=expert, alone=alone, track=track)
        _ = fitted.threshold  # says now when there is none
        return fitted

    @staticmethod
    def of(
        observations: Sequence[Observation],
        station: Station,
        inspectable: Flags,
        *,
        part: str = "part",
        expert: Expert | None = None,
        alone: bool = False,
        track: Progress = silently,
    ) -> "Inspector":
        """Learn from good specimens that were observed already, at this station; see `fit`.

        Args:
            observations: of the good specimens.
            station: where they were observed.
            inspectable: (n,) which points of the reference are asked of a new specimen.
            part: its name.
            expert: see `fit`.
            alone: the observations are looks at a single specimen (`fitting.seen_twice`).
            track: shows progress.
        """
        shape, settings = station.shape, station.settings
        memory = Memory.merged([memory_of(observation, part, station.encoder) for observation in observations])
        patch_scores = leave_one_out(memory, observations, settings, track)
        deviation = GoodDeviation(np.stack([o.on_reference(shape) for o in observations]))
        grids = [_chances(expert, observation) for observation in observations]
        chances = None
        if expert is not None:
            remembered_grids = np.concatenate([grid for grid in grids if grid is not None])
            chances = remembered_grids[tuple(PlacedPatches.of_memory(memory).position.T)]
        scatter_mm = float(np.median([observation.scatter_mm for observation in observations]))
        least_mm = max(scatter_mm, TOLERANCE_MM if alone else LEAST_DEVIATION_MM)
        remembered = remember(memory, patch_scores, shape, deviation, chances, least_mm)
        evidence = []
        for index, observation in enumerate(track(observations, "calibrating")):
            patch_scores_of = judge_patches(observation, remembered, settings, good=index, chances=grids[index])
            seen = arranged(observation, patch_scores_of.unusual(), remembered, station.reference, settings.fusion)
            evidence.append(gather(seen, patch_scores_of, remembered, settings, good=index))
        return Inspector(
            part=part,
            settings=settings,
            memory=memory,
            shape=shape,
            symmetries=station.reference.symmetries,
            inspectable=inspectable,
            cameras=station.cameras,
            looks=tuple(sorted({look_of(observation.scan) for observation in observations})),
            patch_scores=patch_scores,
            deviation=deviation,
            good_scores=np.array([specimen_score(e) for e in (evidence[:1] if alone else evidence)]),
            point_threshold=point_threshold([e.score for e in evidence]),
            expert=expert,
            chances=chances,
            least_deviation_mm=least_mm,
        )

    def inspect(self, scan: Scan) -> Inspection:
        """Find what differs on a specimen.

        One that fits the part equally well in several poses, because what tells them apart is missing, is judged in
        each: where it looks best it is what it claims to be. Of a scan that cannot look like the good ones, because
        they are coloured and it is not, or they are meshes and it is a cloud, only the shape is compared; the reason
        says so.

        Raises:
            ScanError: images without clouds; a capture where the good specimens were meshes or clouds, or the other way
                round.
        """
        if bool(scan.views) == bool(self.cameras):
            known, got = ("rendered", "captured") if scan.views else ("captured", "rendered")
            raise ScanError(
                scan.source or scan.specimen,
                expected=f"a scan like the good ones, of which the memory holds {known} views",
                got=f"one that is seen in {got} views",
                remedy="fit on good specimens that were scanned in the same way",
            )
        if look_of(scan) not in self.looks and look_of(without_colours(scan)) in self.looks:
            scan = without_colours(scan)
        clock = Clock()
        with clock("start"):
            station = self.station
            _ = self.remembered  # read now, so that its time is counted here
        try:
            observation = station.observe(scan, clock, ambiguous=True)
            return self.judged(observation, clock)
        except AmbiguousPoseError as error:
            tried = [station.observe(scan, clock, choice) for choice in error.choices]
            found = min(
                (self.judged(one, clock) for one in tried), key=lambda one: np.nan_to_num(one.score, nan=np.inf)
            )
            return replace(found, reason=f"{found.reason}; {error.got}, and it was judged where it looks best")
        except RegistrationError as error:
            return self._not_registered(scan, error, clock)

    def judged(self, observation: Observation, clock: Clock) -> Inspection:
        """A specimen that was registered and looked at, compared with the good ones."""
        scan, remembered = observation.scan, self.remembered
        with clock("retrieval"):
            comparable = look_of(scan) in self.looks
            chances = _chances(self.expert, observation)

            def compared(specimen: Observation) -> tuple[PatchScores, Observation]:
                scores = judge_patches(specimen, remembered, self.settings, chances=chances)
                scores = scores if comparable else scores.all_usual()
                fusion = self.settings.fusion
                return scores, arranged(specimen, scores.unusual(), remembered, self.reference, fusion)

            patch_scores, found = compared(observation)
        with clock("registration"):
            told = told_by_others(observation, found, self.shape, self.reference)
        with clock("retrieval"):
            if told is not observation:
                patch_scores, found = compared(told)
            observation = found
            evidence = gather(observation, patch_scores, remembered, self.settings)
        with clock("defects"):
            threshold, judgements, surface = self.threshold[0], active(self.log), observation.surface
            score = respected(evidence.score, surface.points_mm, surface.normals, judgements, threshold)
            eased = np.divide(score, evidence.score, out=np.ones_like(score), where=evidence.score > 0)
            evidence = replace(evidence, score=score, geometry=evidence.geometry * eased)
            labels = regions(
                observation.surface,
                evidence.score,
                evidence.geometry,
                min(self.point_threshold, threshold),
                threshold,
                self.settings.verdict.min_area_mm2,
                evidence.gone_mm2,
            )
            if labels.max(initial=0) > 1:
                known, reference_mm = self.deviation.known(), self.shape.surface.points_mm
                vanished = observation.vanished(self.shape) & known
                labels = joined(labels, surface.points_mm, reference_mm[vanished])
                # what is gone is told where it was rooted, on both sides of a wall, and of a tooth of which only the
                # tip is known to be gone perhaps at the next one
                gone = np.isfinite(observation.gone_mm) & known
                told_mm = observation.gone_mm[gone] + LINK_MM
                labels = joined(labels, surface.points_mm, reference_mm[gone], told_mm, np.inf)
            points = PointScores(
                anomaly_score=evidence.score,
                raw_score=evidence.raw,
                agreement=evidence.agreement,
                views_seen=evidence.views_seen,
                deviation_mm=evidence.deviation_mm,
                geometry_score=evidence.geometry,
                defect_id=labels,
            )
            measured = measure(observation.surface, points, inverse(observation.part_from_scan), self.shape)
            measured, points = deep_enough(measured, points, self.settings.verdict.min_depth_mm)
            defects = tuple(
                replace(defect, p_value=p_value(self.good_scores, defect.peak_score)) for defect in measured
            )
            coverage, coverage_total = self._coverage(observation, evidence)
            verdict, reason = self._verdict(len(defects), coverage, len(judgements))
            pairs: tuple[PatchPair, ...] = ()
            if comparable:
                pairs = patch_pairs(observation, points.defect_id, remembered.patches, self.memory, self.settings)
            else:
                note = f"only the shape was compared: this is a {look_of(scan)}, not a {' or '.join(self.looks)}"
                logger.warning("%s: %s", scan.source or scan.specimen, note)
                reason = f"{reason}; {note}"
            surface, missed = observation.surface, observation.overlooked
            tree, score = surface.tree, evidence.score

            def shown(number: int) -> ViewScores:
                view, some = observation.views[number], missed[number]
                return view_scores(completed(view, surface, some, self.settings.fusion), tree, score, some)

            views = tuple(each(shown, range(len(observation.views))))
        if scan.views:  # the merged surface, in the part frame
            vertices, vertex = observation.surface.points_mm, np.arange(len(evidence.score))
        else:
            vertices, vertex = scan.vertices_mm, scan.surface_from_vertex
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
            points=points.at(vertex),
            views=every_view(scan, views),
            part_from_scan=observation.part_from_scan,
            registration=_registrations(observation),
            evidence=pairs,
        )

    def _blank(self, scan: Scan, clock: Clock) -> Inspection:
        """A result before anything was judged."""
        threshold, false_reject = self.threshold
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
            points=PointScores.unknown(len(scan.vertices_mm)),
            views=every_view(scan, ()),
            good_scores=self.good_scores[np.isfinite(self.good_scores)],
            memory={
                "folder": None if self.folder is None else str(self.folder.resolve()),
                "identity": self.identity,
                "judgements": [judgement.number for judgement in active(self.log)],
            },
            **stamp(),
        )

    def _not_registered(self, scan: Scan, error: RegistrationError, clock: Clock) -> Inspection:
        return replace(self._blank(scan, clock), reason=f"not registered: {error.got} ({error.remedy})")

    def _coverage(self, observation: Observation, evidence: Evidence) -> tuple[float, float]:
        """Judged area shares of the inspectable and of the whole reference."""
        seen = evidence.views_seen > 0
        judged = observation.surface.points_mm[seen]
        if not len(judged):
            return 0.0, 0.0
        normals = observation.surface.normals[seen]
        wanted = sided(self.shape.surface.points_mm, self.shape.surface.normals, REACH_MM)
        apart = cKDTree(sided(judged, normals, REACH_MM)).query(wanted, distance_upper_bound=REACH_MM, workers=-1)[0]
        reached = np.isfinite(apart)
        area = self.shape.surface.areas_mm2
        total = float((area * reached).sum() / area.sum())
        if observation.scan.views and not has_poses(observation.scan):
            reached = up_to_symmetry(reached, self.shape.surface, self.reference)
        inspectable = float((area * self.inspectable).sum())
        covered = float((area * (reached & self.inspectable)).sum())
        return covered / inspectable if inspectable else 0.0, total

    def _verdict(self, defects: int, coverage: float, judged: int) -> tuple[Verdict, str]:
        least = self.settings.verdict.min_coverage
        known = f"; {judged} place{'s' if judged > 1 else ''} judged by feedback" if judged else ""
        short = np.floor(1000 * coverage) / 1000  # never rounded up to what is asked
        judged_share = f"{short:.1%} of the inspectable surface was judged, {least:.0%} are asked"
        if defects:
            partly = f"; {judged_share}" if coverage < least else ""
            return "fail", f"{defects} defect{'s' if defects > 1 else ''} above the threshold{known}{partly}"
        if coverage < least:
            return "incomplete", judged_share
        return "pass", f"no defect above the threshold{known}"

    def save(self, folder: str | Path) -> Path:
        """Write memory and calibration into `folder`, all or nothing.

        Raises:
            ResultError: a memory is there with judgements that this one does not know.
        """
        folder = Path(folder)
        check_kept(folder, self.log)
        surface = self.shape.surface
        arrays = {
            "points_mm": surface.points_mm,
            "normals": surface.normals,
            "areas_mm2": surface.areas_mm2,
            "near_symmetries": self.symmetries.near,
            "exact_symmetries": self.symmetries.exact,
            "inspectable": self.inspectable,
            "patch_scores": self.patch_scores,
            "deviation_mm": self.deviation.deviation_mm.astype(np.float32),
            "good_scores": self.good_scores,
        }
        if self.chances is not None:
            arrays["chances"] = self.chances
        if self.symmetries.axis is not None:
            arrays["symmetry_axis"] = self.symmetries.axis
        if surface.faces is not None:
            arrays["faces"] = surface.faces
        if surface.colours is not None:
            arrays["colours"] = surface.colours
        header = {
            "format_version": FORMAT_VERSION,
            "part": self.part,
            "settings": self.settings.to_dict(),
            "point_threshold": self.point_threshold,
            "least_deviation_mm": self.least_deviation_mm,
            "expert": None if self.expert is None else self.expert.method,
            "looks": self.looks,
            "cameras": [
                {
                    "size_hw": camera.size_hw,
                    "intrinsics": camera.intrinsics.tolist(),
                    "part_from_camera": camera.part_from_camera.tolist(),
                }
                for camera in self.cameras
            ],
        }
        with atomic_folder(folder, MEMORY_FILES) as new:
            self.memory.write_into(new)
            write_log(new, self.log)
            if self.expert is not None:
                self.expert.write_into(new)
            save_tensors(arrays, new / "inspector.safetensors")
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
                symmetries=Symmetries(
                    arrays["near_symmetries"], arrays["exact_symmetries"], arrays.get("symmetry_axis")
                ),
                inspectable=arrays["inspectable"],
                cameras=tuple(
                    Camera(tuple(c["size_hw"]), np.array(c["intrinsics"]), np.array(c["part_from_camera"]))
                    for c in header["cameras"]
                ),
                looks=tuple(header["looks"]),
                patch_scores=arrays["patch_scores"],
                deviation=GoodDeviation(arrays["deviation_mm"]),
                good_scores=arrays["good_scores"],
                point_threshold=header["point_threshold"],
                expert=Expert.load(folder, header["expert"]) if header.get("expert") else None,
                chances=arrays.get("chances"),
                log=read_log(folder),
                folder=folder,
                least_deviation_mm=header["least_deviation_mm"],
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
            raise MemoryFormatError(
                folder,
                expected=f"a fitted memory of format version {FORMAT_VERSION}",
                got=f"{type(error).__name__}: {error}",
                remedy="fit again; the files are missing, damaged or of another version",
            ) from error


def _chances(expert: Expert | None, observation: Observation) -> ScoreMap | None:
    """What the expert says of a specimen's patches."""
    return None if expert is None else expert.judge_patches(observation.views, observation.patches)[0]


def specimen_score(evidence: Evidence) -> float:
    """One number per specimen: the highest fused score on its surface; NaN where nothing was judged."""
    return float(np.nanmax(evidence.score)) if np.isfinite(evidence.score).any() else float("nan")


def _registrations(observation: Observation) -> tuple[dict[str, Any], ...]:
    """For the report: how well the scan, or each of its views, was brought into the part frame."""
    names: list[str | None] = [view.name for view in observation.scan.views]
    return tuple(
        {
            "view": name,
            **{field: getattr(found, field) for field in REGISTRATION},
            "trusted": found.trusted and not found.rivals,
        }
        for name, found in zip(names or [None], observation.registrations, strict=True)
    )


def view_scores(view: View, surface_tree: cKDTree, scores: Values, overlooked: Mask | None = None) -> ViewScores:
    """A view with the scores of the surface that it shows, and of the part's pixels whose depth the sensor missed."""
    camera = view.camera
    return ViewScores(
        name=view.name,
        image=view.image,
        score=view_map(view, surface_tree, scores, REACH_MM, overlooked),
        part_from_camera=None if camera is None else camera.part_from_camera,
        intrinsics=None if camera is None else camera.intrinsics,
    )


def every_view(scan: Scan, judged: tuple[ViewScores, ...]) -> tuple[ViewScores, ...]:
    """Of a capture all views, in its order: one that could not be registered was not inspected and has no pose."""
    if not scan.views:
        return judged
    known = {view.name: view for view in judged}
    return tuple(
        known[view.name]
        if view.name in known
        else ViewScores(view.name, view.image, np.full(view.size_hw, np.nan, np.float32))
        for view in scan.views
    )
