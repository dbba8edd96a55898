"""Synthetic machine elements with defects whose place, size and shape are known exactly."""

from rad3d.datasets.machine_defects import KINDS, DefectKind
from rad3d.datasets.machine_specimen import DEMO_DEFECTS, DefectLabel, Specimen, make_specimen

__all__ = ["DEMO_DEFECTS", "KINDS", "DefectKind", "DefectLabel", "Specimen", "make_specimen"]
