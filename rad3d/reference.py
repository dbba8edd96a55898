"""A part's surface, prepared for scans to be registered with it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rad3d.arrays import Points, Pose, Vector
from rad3d.errors import RegistrationError
from rad3d.geometry import inverse, sphere
from rad3d.icp import Samples, Target, sample_surface
from rad3d.scan import Surface
from rad3d.symmetry import EXACT_AREA_SHARE, Symmetries, difference, find_symmetries, truncation_mm

REFERENCE_SAMPLES = 40_000
JUDGED = 4_000
"""Samples at which rival poses are compared."""
VIEW_DIRECTIONS = 200
INLIER_SHARE = 0.5
"""Inlier distance as a share of the truncation distance."""
MIN_SAMPLES = 100


@dataclass(frozen=True, eq=False)
class Reference:
    """A part's surface prepared for registration; `build_reference` makes it."""

    target: Target
    symmetries: Symmetries

    @property
    def truncation_mm(self) -> float:
        """Distances beyond this count as this."""
        return truncation_mm(self.target.radius_mm)

    @property
    def inlier_mm(self) -> float:
        """Surface nearer than this to its counterpart fits."""
        return INLIER_SHARE * self.truncation_mm

    @cached_property
    def marks_mm(self) -> Points:
        """A few points of the surface, by whose displacement poses are compared."""
        return self.target.samples.points_mm[:200]

    def difference_mm(self, a: Pose, b: Pose) -> float:
        """How far two poses part_from_scan put the part apart (root mean square), modulo exact symmetries."""
        return difference(a, b, self.symmetries, self.marks_mm)

    def interchangeable(self, a: Pose, b: Pose) -> bool:
        """Whether two poses part_from_scan put the same surface at every place, as far as registration can tell."""
        motion = a @ inverse(b)
        distance = self.target.residuals(self.target.samples.thinned(JUDGED), motion[None], exact=True)[3]
        return bool((distance > self.inlier_mm).mean() <= EXACT_AREA_SHARE)

    @cached_property
    def seen_from(self) -> tuple[Points, Points]:
        """Directions all round (k, 3), and the middle of what is seen of the part from far out there (k, 3)."""
        directions = sphere(VIEW_DIRECTIONS)
        return directions, np.stack([self._seen_middle(direction) for direction in directions])

    def _seen_middle(self, direction: Vector) -> Vector:
        points = self.target.samples.points_mm[:4000]
        points = points[np.argsort(points @ direction)]  # the last in a cell is the one that is seen
        axes = np.linalg.svd(direction[None])[2][1:]
        cells = np.floor((points - self.target.centre_mm) @ axes.T / (self.target.radius_mm / 12)).astype(int) + 50
        seen = np.full(10_000, -1)
        seen[cells[:, 0] * 100 + cells[:, 1]] = np.arange(len(points))
        return np.asarray(points[seen[seen >= 0]].mean(axis=0))


def build_reference(surface: Surface, symmetries: Symmetries | None = None) -> Reference:
    """Prepare a surface, given in the part frame, to be registered with.

    Args:
        surface: of the part.
        symmetries: of the part, where they were found before; finding them takes seconds.

    Raises:
        RegistrationError: it has too few points to say where anything is.
    """
    target = Target(samples_of(surface, REFERENCE_SAMPLES, "reference"))
    return Reference(target, find_symmetries(target) if symmetries is None else symmetries)


def samples_of(surface: Surface, count: int, name: str) -> Samples:
    """Evenly spread samples of a surface.

    Raises:
        RegistrationError: it has too few points to say where anything is.
    """
    samples = sample_surface(surface, count) if len(surface.points_mm) >= MIN_SAMPLES else None
    if samples is None or len(samples.points_mm) < MIN_SAMPLES:
        raise RegistrationError(
            name,
            expected=f"at least {MIN_SAMPLES} surface points that are not isolated",
            got=f"{len(surface.points_mm) if samples is None else len(samples.points_mm)} points",
            remedy="scan the part more densely",
        )
    return samples
