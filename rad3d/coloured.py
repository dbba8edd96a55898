"""Of the poses that exact symmetry allows, the one in which a scan's colours lie on those of the reference.

Shape cannot tell how a round cap lies; what is printed on it can. Without this a print would be compared with bare
surface, and good specimens in different turns would teach that anything goes anywhere.
"""

import numpy as np

from rad3d.arrays import Colours, Points, Pose
from rad3d.deviation import ReferenceShape
from rad3d.geometry import rotation_about, transform_points
from rad3d.scan import Surface
from rad3d.symmetry import Symmetries

SAMPLES = 8000
DIFFERENT = 48
"""Levels of 255, in any channel, that light and print vary by; more is another colour."""
SURE = 4.0
"""A turn is taken when so many standard deviations fewer points differ than in the pose that was found."""
TURNS = 120
"""About an axis of revolution, and then as many steps between two of them as there are in `FINE`."""
FINE = np.linspace(-1.0, 1.0, 17)


def turned_by_colour(part_from_scan: Pose, surface: Surface, shape: ReferenceShape, symmetries: Symmetries) -> Pose:
    """The pose, or one that exact symmetry makes the same, if the colours clearly fit better there.

    Args:
        part_from_scan: as the shape was registered.
        surface: of the scan, with colours or without.
        shape: the reference.
        symmetries: of the reference.
    """
    known = shape.surface.colours
    if surface.colours is None or known is None or (len(symmetries.exact) < 2 and symmetries.axis is None):
        return part_from_scan
    rows = np.random.default_rng(0).permutation(len(surface.points_mm))[:SAMPLES]
    points, colours = surface.points_mm[rows], surface.colours[rows]

    def differing(poses: list[Pose]) -> np.ndarray:
        return np.array([_differing(transform_points(pose, points), colours, shape, known) for pose in poses])

    equivalent = [symmetry @ part_from_scan for symmetry in symmetries.exact]
    if symmetries.axis is not None:
        centre, axis = symmetries.axis
        step = 2 * np.pi / TURNS
        equivalent = [rotation_about(axis, k * step, centre) @ pose for pose in equivalent for k in range(TURNS)]
        coarse = equivalent[int(differing(equivalent).argmin())]
        equivalent = [part_from_scan, *(rotation_about(axis, k * step, centre) @ coarse for k in FINE)]
    count = differing(equivalent)
    best = int(count.argmin())
    sure = count[0] - count[best] > SURE * np.sqrt(count[0] + count[best])
    return equivalent[best] if sure else part_from_scan


def _differing(points_mm: Points, colours: Colours, shape: ReferenceShape, known: Colours) -> int:
    """How many points have another colour than the reference has there, but for the light."""
    apart = colours.astype(int) - known[shape.tree.query(points_mm, workers=-1)[1]]
    return int((np.abs(apart - np.median(apart, axis=0)).max(axis=1) > DIFFERENT).sum())
