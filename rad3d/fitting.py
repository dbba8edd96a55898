"""What fitting is made of: from good specimens to what is remembered of them."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rad3d.arrays import Flags, Values
from rad3d.backproject import visible
from rad3d.camera import Camera
from rad3d.deviation import GoodDeviation, ReferenceShape
from rad3d.encoder import Encoder
from rad3d.errors import ScanError
from rad3d.evidence import Remembered
from rad3d.geometry import bounding_sphere, cell_keys, rotation_about
from rad3d.golden import golden
from rad3d.likeness import picture_of
from rad3d.memory import Memory, provenance
from rad3d.observe import Observation, has_poses
from rad3d.patches import cut
from rad3d.pigment import colour_scores
from rad3d.progress import Progress
from rad3d.reference import Reference
from rad3d.scan import Scan, Surface
from rad3d.settings import Settings
from rad3d.settle import up_to_symmetry
from rad3d.surface import PlacedPatches, surface_scores
from rad3d.symmetry import Symmetries
from rad3d.viewpoints import INSPECTABLE_INCIDENCE, choose_viewpoints, whole_mm_per_patch

logger = logging.getLogger(__name__)


def check_names(scans: Sequence[Scan]) -> None:
    """Refuse an empty list and two specimens of one name."""
    names = [scan.specimen for scan in scans]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if len({bool(scan.views) for scan in scans}) > 1:
        raise ScanError(
            "fit",
            expected="good specimens that were all captured in views, or none",
            got="both kinds",
            remedy="fit a memory for each: their views do not look alike",
        )
    if not scans or repeated:
        raise ScanError(
            "fit",
            expected="good specimens, each with a name of its own",
            got=f"several called {', '.join(repeated)}" if repeated else "none",
            remedy="rename them" if repeated else "name at least one good scan",
        )


def look_of(scan: Scan) -> str:
    """How a scan looks when it is seen, whatever it shows: meshes and clouds are not shaded in the same way."""
    coloured = scan.colours is not None or scan.texture is not None
    return f"coloured {scan.kind}" if coloured else scan.kind


def without_colours(scan: Scan) -> Scan:
    """The bare shape."""
    return replace(scan, colours=None, texture=None)


def usable_together(scans: Sequence[Scan]) -> list[Scan]:
    """The scans without copies of one another, which would tell nothing of how specimens vary; all coloured or none."""
    first: dict[str, Scan] = {}
    for scan in scans:
        textures = () if scan.texture is None else scan.texture.images
        arrays = (scan.vertices_mm, scan.faces, scan.colours, *textures, *(view.image for view in scan.views))
        digest = hashlib.sha256()
        for array in arrays:
            digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
        known = first.setdefault(digest.hexdigest(), scan)
        if known is not scan:
            logger.warning("%s is a copy of %s and was left out", scan.source or scan.specimen, known.specimen)
    kept = list(first.values())
    looks = sorted({look_of(scan) for scan in kept})
    if len(looks) > 1 and any(look.startswith("coloured") for look in looks):
        logger.warning("some of the good specimens have no colours: no colours are compared")
        kept = [without_colours(scan) for scan in kept]
    if len({scan.kind for scan in kept}) > 1:
        logger.warning("meshes and clouds do not look alike: fit a memory for each, or thresholds will be loose")
    return kept


def reference_surface(scans: Sequence[Scan], nominal: Scan | None) -> tuple[Surface, Symmetries | None, Sequence[Scan]]:
    """What registration and deviations refer to, its symmetries if known, and the specimens, captured ones with poses.

    The nominal, or else the first good mesh or cloud, or else the mean of the captured specimens.
    """
    if nominal is not None or not scans[0].views:
        return (nominal or scans[0]).surface, None, scans
    return golden(scans)


FAR_MM = 1.0
"""Good specimens do not vary by more: what is further from the reference is surface that the reference lacks."""
CUBE_MM = 2.0
GAP_MM2 = 4.0
"""Less surface than this is no gap."""


def more_complete(surfaces: Sequence[Surface], distances_mm: Sequence[Values]) -> int | None:
    """Which good specimen to take as the reference instead of the first one, where that has a gap; None where not.

    A gap is surface that more than half of the others have, cube by cube, and the reference has not.

    Args:
        surfaces: of the good specimens in the part frame, the reference's own first.
        distances_mm: of each one's points to the reference.
    """
    far = [np.abs(distance) > FAR_MM for distance in distances_mm[1:]]
    if not any(rows.any() for rows in far):
        return None
    others = surfaces[1:]
    points = np.concatenate([surface.points_mm[rows] for surface, rows in zip(others, far, strict=True)])
    area = np.concatenate([surface.areas_mm2[rows] for surface, rows in zip(others, far, strict=True)])
    owner = np.repeat(np.arange(len(others)), [int(rows.sum()) for rows in far])
    _, cube = np.unique(cell_keys(points, CUBE_MM), return_inverse=True)
    shown = np.zeros((len(others), cube.max() + 1))
    np.add.at(shown, (owner, cube), area)
    agreed = (shown > 0).sum(axis=0) > len(others) / 2
    found = shown[:, agreed].sum(axis=1)
    return 1 + int(found.argmax()) if found.max() > GAP_MM2 else None


COARSE_MM = 6.0
"""Patches that cover more are cut finer, and where that is not enough it is told: 2 mm is what parts of 60 mm have."""
MOST_TILES = 2
"""Along each side of a view: time and memory grow with their square."""
MOST_TILED = 8
"""Good specimens that are tiled: learning from four of a plate of 400 mm took 7 GB."""


def fine_enough(settings: Settings, reference: Scan, encoder: Encoder, specimens: int) -> Settings:
    """The settings; of a part of which patches would be coarse, rendered views are tiled unless `mm_per_patch` is set.

    A patch blurs what it sees over its whole width, and the outlines of defects with it.
    """
    if settings.views.mm_per_patch is not None:
        return settings
    whole_mm = whole_mm_per_patch(reference.surface.points_mm, settings.encoder.input_hw, encoder.patch_size)
    tiles = min(int(np.ceil(whole_mm / COARSE_MM)), MOST_TILES) if specimens <= MOST_TILED else 1
    if whole_mm > 1.5 * COARSE_MM * tiles:
        logger.warning(
            "a patch covers %.0f mm of the part: smaller defects that have no depth may be missed; with"
            " --views.mm-per-patch %.0f the part is looked at more closely, which takes more time and memory",
            whole_mm / tiles,
            COARSE_MM,
        )
    if tiles < 2:
        return settings
    return replace(settings, views=replace(settings.views, mm_per_patch=whole_mm / tiles))


def look_from(reference: Scan, settings: Settings, encoder: Encoder) -> tuple[tuple[Camera, ...], Flags]:
    """Cameras for rendered views, and the surface that can be inspected from anywhere.

    Raises:
        ScanError: nothing can be seen.
    """
    size_hw = settings.encoder.input_hw
    viewpoints = choose_viewpoints(reference, settings.views, size_hw, encoder.patch_size)
    if not viewpoints.cameras or not viewpoints.inspectable.any():
        raise ScanError(
            reference.source or reference.specimen,
            expected="a surface that can be seen from outside",
            got="one of which no camera sees the front",
            remedy="export it with its normals pointing outwards",
        )
    return viewpoints.cameras, viewpoints.inspectable


def seen_by(observations: Sequence[Observation], surface: Surface, reference: Reference, settings: Settings) -> Flags:
    """What the captured views of at least half of the good specimens see: the inspectable surface of captures.

    What few of them happened to show is not asked of a new specimen, and hardly anything is known of it.

    Raises:
        ScanError: they showed different sides.
    """
    specimens = np.zeros(len(surface.points_mm), int)
    for observation in observations:
        seen = np.zeros(len(surface.points_mm), bool)
        for view in observation.views:
            flags, _, cosine = visible(view, surface, settings.fusion)
            seen |= flags & (cosine >= np.cos(INSPECTABLE_INCIDENCE))
        specimens += seen if has_poses(observation.scan) else up_to_symmetry(seen, surface, reference)
    asked, shown = 2 * specimens >= max(len(observations), 1), specimens > 0
    share = float(surface.areas_mm2[asked].sum() / max(surface.areas_mm2[shown].sum(), 1e-9))
    said = f"{share:.0%} of the surface that good specimens showed was shown by at least half of them"
    if share < LEAST_SHARED:
        raise ScanError(
            "good specimens",
            expected=f"at least {LEAST_SHARED:.0%} in common",
            got=said,
            remedy="capture each of them from all sides that are to be inspected",
        )
    if share < 0.5:
        logger.warning("%s; the rest is not inspected", said)
    return asked


LEAST_SHARED = 0.1
"""Share of the surface that any good specimen showed below which there is nothing to inspect."""


def memory_of(observation: Observation, part: str, encoder: Encoder) -> Memory:
    """A memory of one specimen."""
    scan = observation.scan
    origin = provenance(scan.specimen, part, str(scan.source or ""), scan.source_sha256)
    patches, views = observation.patches, observation.views
    pictures = [
        picture_of(cut(views[index], window, encoder.settings.input_hw))
        for index, window in zip(patches.view_index, patches.windows, strict=True)
    ]
    return Memory.of(patches, origin, [view.name for view in views], encoder.fingerprint, pictures)


SEEN_AGAIN = 0.1
"""Radians by which the cameras turn to see a single specimen a second time."""


def seen_twice(scan: Scan, cameras: Sequence[Camera], shape: ReferenceShape) -> list[tuple[Scan, tuple[Camera, ...]]]:
    """A single good specimen as two, so that it can be scored at all: each a scan with its cameras.

    A mesh or cloud is seen again by slightly turned cameras; of captured views every other one makes the second.
    """
    logger.warning("one good specimen: how much good ones vary is not known, so thresholds are guesses")
    second = f"{scan.specimen} (seen again)"
    if len(scan.views) == 1:
        raise ScanError(
            scan.source or scan.specimen,
            expected="several good specimens, or several views of the only one",
            got="a single view",
            remedy="capture more views or more good specimens",
        )
    if scan.views:
        halves = scan.views[::2], scan.views[1::2]
        return [(replace(scan, specimen=n, views=v), ()) for n, v in zip((scan.specimen, second), halves, strict=True)]
    axis = np.array([1.0, 1.0, 1.0])
    turn = rotation_about(axis, SEEN_AGAIN, bounding_sphere(shape.surface.points_mm)[0])
    turned = tuple(camera.moved(turn) for camera in cameras)
    return [(scan, tuple(cameras)), (replace(scan, specimen=second), turned)]


def leave_one_out(
    memory: Memory, observations: Sequence[Observation], settings: Settings, track: Progress
) -> np.ndarray:
    """(2, m) raw score and colour score of every remembered patch against the other specimens.

    A patch that hardly shows the part has no colour; it counts as the others do in the middle.
    """
    remembered = PlacedPatches.of_memory(memory)
    scores = np.full((2, len(remembered)), np.nan, np.float32)
    for index, observation in enumerate(track(observations, "comparing")):
        own = remembered.specimen == index
        query = PlacedPatches.of_query(observation.patches)
        view = observation.patches.view_index[query.position[:, 0]]
        scores[0, own] = np.nan_to_num(surface_scores(query, remembered, settings.surface, ~own).raw)
        scores[1, own] = colour_scores(query, view, remembered, settings.surface, ~own)
    known = scores[1, np.isfinite(scores[1])]
    scores[1] = np.nan_to_num(scores[1], nan=float(np.median(known)) if len(known) else 0.0)
    return scores


LEAST_DEVIATION_MM = 0.02
"""Deviations below this are measurement noise whatever the good specimens say."""
LEAST_COLOUR = 0.2
"""So are colour scores that vary by less: they are in units of how much colours vary."""
TOLERANCE_MM = 0.05
"""How much shapes are taken to vary where a single good specimen does not tell: three times this is the fine general
tolerance of 30 to 120 mm (0.15 mm, ISO 2768-1)."""


def remember(
    memory: Memory,
    patch_scores: np.ndarray,
    shape: ReferenceShape,
    deviation: GoodDeviation,
    chances: Values | None = None,
    least_deviation_mm: float = LEAST_DEVIATION_MM,
) -> Remembered:
    """Bring memory and calibration together; the floors are half the usual spread of good specimens.

    Args:
        memory: of all good specimens.
        patch_scores: of `leave_one_out`.
        shape: the reference.
        deviation: of the good specimens.
        chances: what labelled examples of other parts say of each patch.
        least_deviation_mm: how much shapes are taken to vary at least.
    """
    patches = PlacedPatches.of_memory(memory)
    _, spread = deviation.usual_spread()
    return Remembered(
        patches=patches,
        scores=patch_scores,
        score_floors=(0.5 * float(np.std(patch_scores[0])), max(0.5 * float(np.std(patch_scores[1])), LEAST_COLOUR)),
        shape=shape,
        deviation=deviation,
        deviation_floor_mm=max(float(np.median(spread)), least_deviation_mm),
        chances=chances,
    )
