"""Defects of a finished inspection at another threshold, as `rad3d.inspector` finds them from the same scores.

What needs the reference, which a result does not hold, differs: defects have no volume, the two ends of a filled
hole stay two, and what is gone does not count towards the least area.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree

from rad3d.calibration import p_value
from rad3d.defects import deep_enough, measure, regions
from rad3d.geometry import inverse
from rad3d.result import Defect, Inspection, PointScores
from rad3d.scan import Scan, Surface


@dataclass(frozen=True, eq=False)
class Segmenter:
    """Segments one inspection again; what does not depend on the threshold is prepared once."""

    inspection: Inspection

    @cached_property
    def _scored(self) -> tuple[Surface, PointScores]:
        """The surface that is judged, and its scores: refined points take those of the nearest vertex."""
        inspection = self.inspection
        surface = Scan("shown", vertices_mm=inspection.vertices_mm, faces=inspection.faces).surface
        _, nearest = cKDTree(inspection.vertices_mm).query(surface.points_mm)
        return surface, inspection.points.at(nearest)

    def prepare(self) -> None:
        """What the first `defects` at another threshold would wait for: some ten seconds for a million points."""
        _ = self._scored

    @property
    def usual(self) -> float:
        """The threshold that the inspection itself used."""
        return self.inspection.threshold

    @property
    def highest(self) -> float:
        """No surface scores higher; above it there is no defect."""
        scores = self.inspection.points.anomaly_score
        return float(np.nanmax(scores)) if np.isfinite(scores).any() else 0.0

    def defects(self, threshold: float) -> tuple[Defect, ...]:
        """Defects with a peak above `threshold`, worst first, along the axes of the inspection's vertices."""
        if threshold == self.usual:
            return self.inspection.defects
        surface, points = self._scored
        tolerated = self.inspection.settings.get("verdict", {})
        least_area = tolerated.get("min_area_mm2", 0.0)
        low = min(self.inspection.point_threshold, threshold)
        pose = self.inspection.part_from_scan
        part_from_scan = np.eye(4) if pose is None else pose
        labels = regions(surface, points.anomaly_score, points.geometry_score, low, threshold, least_area)
        points = replace(points, defect_id=labels)
        measured = measure(surface.moved(part_from_scan), points, inverse(part_from_scan))
        kept, _ = deep_enough(measured, points, tolerated.get("min_depth_mm", 0.0))
        good = self.inspection.good_scores
        if good is None:
            return kept
        return tuple(replace(defect, p_value=p_value(good, defect.peak_score)) for defect in kept)
