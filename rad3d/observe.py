"""A scan, brought into the part frame and seen: what fit and inspect both start from."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from rad3d.arrays import Flags, Mask, Pose, Values
from rad3d.camera import Camera
from rad3d.coloured import turned_by_colour
from rad3d.deviation import ReferenceShape, averaged, gone, on_reference
from rad3d.encoder import Encoder
from rad3d.errors import RegistrationError, ScanError
from rad3d.geometry import inverse, transform_directions, transform_points
from rad3d.icp import outliers
from rad3d.organised import estimate_intrinsics, normals_of
from rad3d.patches import Patches, encode_views
from rad3d.reference import Reference
from rad3d.register import Registration, nowhere, register_surface, register_views
from rad3d.render import renderer_for
from rad3d.scan import Scan, Surface, merged_surface
from rad3d.segment import foreground
from rad3d.settings import Settings
from rad3d.view import View


class Clock:
    """Seconds spent in each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


PART_MARGIN_MM = 6.0
"""What lies further outside of the registered part than this is background; defects stand out less."""


@dataclass(frozen=True, eq=False)
class Observation:
    """One specimen in the part frame, with its views and their patches.

    Args:
        scan: as it was read.
        registrations: of the mesh or cloud, or of each captured view.
        surface: part frame.
        views: rendered or captured, part frame; a captured view that could not be registered is not among them.
        patches: of the views.
        distance_mm: (n,) signed distance of the surface points to the reference.
        gone_mm: (m,) how far the reference's points are from the surface, where they are missing; NaN elsewhere.
    """

    scan: Scan
    registrations: tuple[Registration, ...]
    surface: Surface
    views: tuple[View, ...]
    patches: Patches
    distance_mm: Values
    gone_mm: Values

    def on_reference(self, shape: ReferenceShape) -> Values:
        """(m,) signed deviation at the reference's points, NaN where nothing is known of them."""
        deviation = on_reference(shape.surface, self.surface, self.even_mm)
        return np.where(np.isnan(self.gone_mm), deviation, -self.gone_mm)

    def vanished(self, shape: ReferenceShape) -> Flags:
        """(m,) the reference's points of which the specimen has nothing, be they gone or buried."""
        return np.asarray(np.isnan(on_reference(shape.surface, self.surface, self.distance_mm)))

    @cached_property
    def even_mm(self) -> Values:
        """(n,) the signed distance without the scatter of single points: see `deviation.averaged`."""
        return averaged(self.surface, self.distance_mm)

    @property
    def scatter_mm(self) -> float:
        """By how much a single point of the scan lies beside the surface that it is of: 1.48 times the median."""
        return float(1.4826 * np.median(np.abs(self.distance_mm - self.even_mm)))

    @property
    def overlooked(self) -> tuple[Mask | None, ...]:
        """Of each view the pixels (H, W) whose depth the sensor missed; None where views were rendered."""
        if not self.scan.views:
            return (None,) * len(self.views)
        pairs = zip(self.scan.views, self.registrations, strict=True)
        return tuple(~view.mask for view, registration in pairs if registration.trusted)

    @property
    def part_from_scan(self) -> Pose:
        """Where the scan lies; captured views each have their own pose and report in the part frame."""
        return self.registrations[0].part_from_scan if self.scan.kind != "captured" else np.eye(4)


@dataclass(frozen=True, eq=False)
class Station:
    """Where specimens of a part are observed: what each is registered to, seen from and encoded by.

    Args:
        shape: the part's reference.
        reference: the same, prepared for registration.
        cameras: where a mesh or cloud is looked at from; empty for captured specimens.
        encoder: of the memory.
        settings: of the inspector.
    """

    shape: ReferenceShape
    reference: Reference
    cameras: tuple[Camera, ...]
    encoder: Encoder
    settings: Settings

    def observe(
        self,
        scan: Scan,
        stage: Clock | None = None,
        registrations: tuple[Registration, ...] = (),
        ambiguous: bool = False,
    ) -> Observation:
        """Register the scan, look at it, and encode what is seen; patches are kept as float16, as in a memory.

        Args:
            scan: mesh, cloud or captured views.
            stage: keeps the time.
            registrations: of the scan, where they are known.
            ambiguous: captured views that fit in several poses are looked at too, for `rad3d.arrange` to settle.

        Raises:
            RegistrationError: the scan cannot be brought into the part frame reliably; the message says why.
        """
        stage = stage or Clock()
        check_depth(scan)
        with stage("registration"):
            registrations = registrations or register(scan, self.reference)
            if ambiguous:
                registrations = tuple(replace(one, trusted=True) if one.rivals else one for one in registrations)
            if not scan.views:
                (found,), symmetries = registrations, self.reference.symmetries
                pose = turned_by_colour(found.part_from_scan, scan.surface, self.shape, symmetries)
                registrations = (replace(found, part_from_scan=pose),)
        with stage("rendering"):
            if scan.views:
                views = seen_of_part(scan, registrations, self.shape)
            else:
                placed_scan = scan.moved(registrations[0].part_from_scan)
                views = tuple(renderer_for(placed_scan, self.encoder.device).render(self.cameras))
        with stage("encoding"):
            patches = encode_views(views, self.encoder, self.settings.views.mm_per_patch)
        with stage("deviation"):
            kept = replace(patches, features=patches.features.half())
            return observed(scan, registrations, views, kept, self.shape)


def observed(
    scan: Scan,
    registrations: tuple[Registration, ...],
    views: tuple[View, ...],
    patches: Patches,
    shape: ReferenceShape,
) -> Observation:
    """A specimen that was registered and looked at, measured against the reference."""
    if scan.views:
        surface = merged_surface(views)
    else:  # in the order that `surface_from_vertex` speaks of
        surface = scan.surface.moved(registrations[0].part_from_scan)
    whole = [
        replace(view, camera=camera_of(view)).moved(registration.part_from_scan)
        for view, registration in zip(scan.views, registrations, strict=bool(scan.views))
        if registration.trusted and not registration.rivals
    ]
    return Observation(
        scan=scan,
        registrations=registrations,
        surface=surface,
        views=views,
        patches=patches,
        distance_mm=shape.signed_distance(surface.points_mm),
        gone_mm=gone(shape.surface, surface, whole),
    )


def check_depth(scan: Scan) -> None:
    """Refuse images without clouds: nothing tells where on the part they show something."""
    if scan.views and all(view.points_mm is None for view in scan.views):
        raise ScanError(
            scan.source or scan.specimen,
            expected="an organised cloud with the images",
            got="images alone, which show no surface in millimetres",
            remedy="capture depth too; `rad3d evaluate folder --method rad` compares images alone",
        )


def has_poses(scan: Scan) -> bool:
    """Whether the views of a captured specimen are in one frame."""
    cameras = (view.camera for view in scan.views)
    return any(camera is not None and not np.allclose(camera.part_from_camera, np.eye(4)) for camera in cameras)


MAX_RIVALS = 3
"""Poses beside the best one in which an ambiguous specimen is judged."""


class AmbiguousPoseError(RegistrationError):
    """A scan that fits the part equally well in several poses; `choices` are the registrations of each."""

    choices: tuple[tuple[Registration, ...], ...] = ()


def register(scan: Scan, reference: Reference) -> tuple[Registration, ...]:
    """One registration of a mesh, cloud or capture with poses; one per view of a capture without.

    Raises:
        RegistrationError: not even one view can be brought into the part frame reliably.
        AmbiguousPoseError: a mesh, cloud or capture with poses fits equally well in several.
    """
    whole: Registration | None = None
    found: tuple[Registration, ...]
    if scan.kind == "cloud":
        _check_noise(scan)
    if not scan.views:
        whole = register_surface(scan.surface, reference)
        found = (whole,)
    elif has_poses(scan):
        shown = [usable(view) for view in scan.views]
        if not any(isinstance(view, View) and view.mask.any() for view in shown):
            raise RegistrationError(
                scan.source or scan.specimen,
                expected="depth of the part in at least one view",
                got="no view has any",
                remedy="check the sensor's clouds",
            )
        whole = register_surface(merged_surface([view for view in shown if isinstance(view, View)]), reference)
        found = tuple(whole if isinstance(view, View) else nowhere(view) for view in shown)
    else:
        found = tuple(register_views(scan.views, reference))
    if any(registration.trusted for registration in found):
        return found
    source, said = (
        scan.source or scan.specimen,
        {
            "expected": "a scan that fits the part",
            "got": "; ".join(sorted({registration.reason for registration in found})),
            "remedy": "check that it is the right part, in the right unit, and shows enough of it",
        },
    )
    if whole is None or not whole.rivals:
        raise RegistrationError(source, **said)
    ambiguous = AmbiguousPoseError(source, **said)
    ambiguous.choices = tuple(
        tuple(replace(one, part_from_scan=pose, trusted=True) if one is whole else one for one in found)
        for pose in (whole.part_from_scan, *whole.rivals[:MAX_RIVALS])
    )
    raise ambiguous


NOISY_SHARE = 0.05
"""More stray points than these spoil the surface between them; of clean clouds up to 3 % looked like strays."""


def _check_noise(scan: Scan) -> None:
    stray = float(outliers(scan.surface).mean())
    if stray > NOISY_SHARE:
        raise RegistrationError(
            scan.source or scan.specimen,
            expected=f"a cloud of which at most {NOISY_SHARE:.0%} lie on no surface",
            got=f"{stray:.0%} of the points lie on no surface",
            remedy="remove stray points in the scanner's software, or scan again",
        )


def usable(view: View) -> View | str:
    """The view without its background, or why it shows nothing of the specimen."""
    try:
        return placed(view, np.eye(4))
    except (RegistrationError, ScanError) as error:
        return error.got


def camera_of(view: View) -> Camera:
    """The view's camera; where the capture brought none, one with the intrinsics that its cloud implies."""
    if view.camera is not None:
        return view.camera
    assert view.points_mm is not None
    return Camera(view.size_hw, estimate_intrinsics(view.points_mm)[0], np.eye(4))


def placed(view: View, part_from_scan: Pose) -> View:
    """The view in the part frame without its background, and with what the capture did not bring.

    The support plane and stray things go; missing normals and intrinsics come from the cloud.
    """
    if view.points_mm is None:
        raise ScanError(
            f"view {view.name}",
            expected="an organised cloud with every image",
            got="an image alone",
            remedy="capture depth too; images alone are compared by `rad3d evaluate --method rad`",
        )
    camera = camera_of(view)
    normals = view.normals
    if normals is None:
        in_camera = transform_points(inverse(camera.part_from_camera), view.points_mm)
        normals = transform_directions(camera.part_from_camera, normals_of(in_camera, camera.intrinsics))
    points = np.where(foreground(view)[..., None], view.points_mm, np.float32(np.nan))
    return replace(view, points_mm=points, camera=camera, normals=normals).moved(part_from_scan)


def seen_of_part(scan: Scan, registrations: Sequence[Registration], shape: ReferenceShape) -> tuple[View, ...]:
    """The captured views that are registered, in the part frame, with nothing but the part."""
    return tuple(
        isolated(placed(view, registration.part_from_scan), shape)
        for view, registration in zip(scan.views, registrations, strict=True)
        if registration.trusted
    )


def isolated(view: View, shape: ReferenceShape) -> View:
    """The view with surface that is not the part's taken away; the floor of a hole in the part is its own."""
    assert view.points_mm is not None
    mask = view.mask
    shown = view.points_mm[mask]
    near = np.isfinite(shape.tree.query(shown, distance_upper_bound=PART_MARGIN_MM, workers=-1)[0])
    near[~near] = shape.encloses(shown[~near])
    points = view.points_mm.copy()
    points[~mask] = np.nan
    rows, columns = np.nonzero(mask)
    points[rows[~near], columns[~near]] = np.nan
    return replace(view, points_mm=points)
