"""A scan, brought into the part frame and seen: what fit and inspect both start from."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np

from rad3d.arrays import Pose, Values
from rad3d.camera import Camera
from rad3d.deviation import ReferenceShape
from rad3d.encoder import Encoder
from rad3d.patches import Patches, encode_views
from rad3d.render import renderer_for
from rad3d.scan import Scan, Surface
from rad3d.settings import Settings
from rad3d.view import View

Stage = Callable[[str], AbstractContextManager[None]]
"""Times a stage; see `rad3d.inspector.Clock`."""


@dataclass(frozen=True, eq=False)
class Observation:
    """One specimen in the part frame, with its views and their patches.

    Args:
        scan: as it was read.
        part_from_scan: where registration put it.
        surface: part frame.
        views: rendered or captured, part frame.
        patches: of the views.
        distance_mm: (n,) signed distance of the surface points to the reference.
    """

    scan: Scan
    part_from_scan: Pose
    surface: Surface
    views: tuple[View, ...]
    patches: Patches
    distance_mm: Values


def observe(
    scan: Scan,
    shape: ReferenceShape,
    cameras: Sequence[Camera],
    encoder: Encoder,
    settings: Settings,
    stage: Stage = lambda name: nullcontext(),
) -> Observation:
    """Register the scan, look at it, and encode what is seen; patches are kept as float16, as in a memory."""
    with stage("registration"):
        part_from_scan = np.eye(4)
        placed = scan.moved(part_from_scan)
        surface = placed.surface
    with stage("rendering"):
        views = placed.views or tuple(renderer_for(placed).render(cameras))
    with stage("encoding"):
        patches = encode_views(views, encoder, settings.views.mm_per_patch)
    with stage("deviation"):
        distance_mm = shape.signed_distance(surface.points_mm)
    return Observation(
        scan=scan,
        part_from_scan=part_from_scan,
        surface=surface,
        views=tuple(views),
        patches=replace(patches, features=patches.features.half()),
        distance_mm=distance_mm,
    )
