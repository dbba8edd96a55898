"""The reference of a part from its good specimens' captured views alone: assembled, grown and averaged."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rad3d.arrays import Pose
from rad3d.assemble import assemble, undisputed
from rad3d.errors import RegistrationError
from rad3d.observe import camera_of, has_poses, register, usable
from rad3d.reference import Reference, build_reference
from rad3d.scan import Scan, Surface, merged_surface
from rad3d.symmetry import Symmetries
from rad3d.view import View

logger = logging.getLogger(__name__)


def golden(scans: Sequence[Scan]) -> tuple[Surface, Symmetries, list[Scan]]:
    """The mean surface of captured good specimens, its symmetries, and the specimens with poses in its frame.

    The first specimen whose views hold together gives the frame; the others are registered to it view by view, and add
    what it did not show.

    Raises:
        RegistrationError: no specimen's views hold together, or a specimen does not fit the others.
    """
    found: dict[int, Scan] = {}
    problem: RegistrationError | None = None
    for index, scan in enumerate(scans):
        try:
            found[index] = with_poses(scan)
            break
        except RegistrationError as error:
            problem = problem or error
            logger.warning("%s", error)
    if not found:
        assert problem is not None
        raise problem
    (first,) = found.values()
    reference = build_reference(_surface([first]))
    symmetries = _symmetries(reference, first)
    reference = replace(reference, symmetries=symmetries)
    for index, scan in enumerate(scans):
        if index not in found:
            registrations = register(scan, reference)
            found[index] = _moved(scan, [r.part_from_scan if r.trusted else None for r in registrations])
    posed = [found[index] for index in range(len(scans))]
    return _surface(posed), symmetries, posed


def with_poses(scan: Scan) -> Scan:
    """A captured specimen with the poses it was given, or else with those at which its views fit together.

    Views that do not fit are left out.
    """
    if has_poses(scan):
        return scan
    return _moved(scan, assemble(scan.views, str(scan.source or scan.specimen)).poses)


def _symmetries(reference: Reference, scan: Scan) -> Symmetries:
    """Of the near symmetries, those count as exact that no view disputes: noise and gaps hide them from the surface."""
    samples, near = reference.target.samples, reference.symmetries.near
    exact = near[undisputed(scan.views, samples, near)]
    if len(exact) > 1:  # the identity comes first
        reaches = [reference.truncation_mm, reference.inlier_mm, reference.inlier_mm]
        refined = reference.target.refine(samples.thinned(1500), exact[1:], reaches, exact=True)
        exact = np.concatenate([exact[:1], refined])
    return replace(reference.symmetries, exact=exact)


def _surface(posed: Sequence[Scan]) -> Surface:
    views = [usable(view) for scan in posed for view in scan.views]
    shown = [view for view in views if isinstance(view, View)]
    if not shown:
        raise RegistrationError(
            posed[0].source or posed[0].specimen,
            expected="views that show the specimen",
            got="; ".join(sorted({str(reason) for reason in views})),
            remedy="capture it alone, with depth",
        )
    return merged_surface(shown)


def _moved(scan: Scan, poses: Sequence[Pose | None]) -> Scan:
    moved = (
        replace(view, camera=camera_of(view)).moved(pose)
        for view, pose in zip(scan.views, poses, strict=True)
        if pose is not None
    )
    return replace(scan, views=tuple(moved))
