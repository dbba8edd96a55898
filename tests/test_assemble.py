"""Views of one specimen find together without a reference, modulo exact symmetry; what does not belong is left out."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations

import numpy as np
import pytest

from rad3d.arrays import Pose
from rad3d.assemble import Assembled, assemble, undisputed
from rad3d.camera import Camera
from rad3d.datasets.machine_capture import Capture, make_capture
from rad3d.datasets.machine_specimen import make_specimen
from rad3d.deviation import ReferenceShape
from rad3d.errors import RegistrationError
from rad3d.geometry import inverse, rotation_about, rotation_angle, transform_points
from rad3d.golden import golden, with_poses
from rad3d.icp import Samples, sample_surface
from rad3d.joint import refine_together
from rad3d.observe import placed
from rad3d.scan import Scan, merged_surface

MIXED = (3, 0, 4, 2, 1)
"""Five of the eight views of a turn, in no order; the furthest are 180 degrees apart."""

specimen = cache(make_specimen)


@cache
def capture(part: str, seed: int = 1) -> Capture:
    return make_capture(specimen(part, seed), seed)


@cache
def gear() -> Assembled:
    return assemble([capture("spur_gear").views[i] for i in MIXED])


def pair_errors(part: str, poses: Sequence[Pose | None], truth: Sequence[Camera]) -> np.ndarray:
    """(pairs, 2) displacement of the part in mm (root mean square) and degrees, for the best exact symmetry."""
    made = specimen(part, 1)
    points = made.nominal.vertices_mm[:: max(1, len(made.nominal.vertices_mm) // 200)]
    found = []
    for (a, at_a), (b, at_b) in combinations(zip(poses, truth, strict=True), 2):
        if a is not None and b is not None:
            motion = at_a.part_from_camera @ inverse(a) @ b @ inverse(at_b.part_from_camera)
            moved = [motion @ symmetry for symmetry in made.symmetries]
            shift = [np.sqrt(np.mean(np.sum((transform_points(m, points) - points) ** 2, axis=1))) for m in moved]
            best = int(np.argmin(shift))
            found.append((shift[best], np.degrees(rotation_angle(moved[best]))))
    return np.array(found)


def assert_right(part: str, poses: Sequence[Pose | None], truth: Sequence[Camera]) -> None:
    errors = pair_errors(part, poses, truth)
    assert np.median(errors[:, 0]) < 0.1
    assert np.median(errors[:, 1]) < 0.3
    assert errors[:, 0].max() < 0.2, "a tooth of the gear further would be 5 mm"


def test_views_of_a_keyed_gear_in_any_order() -> None:
    """20 teeth, one keyway, which some pairs of views cannot see: the right tooth for all of five views."""
    found = gear()
    assert found.reasons == ("",) * 5
    assert_right("spur_gear", found.poses, [capture("spur_gear").cameras[i] for i in MIXED])
    assert found.confirmed > 0.5


def test_the_frame_stands_on_the_table() -> None:
    """z is up, z = 0 the table: the gear's highest surface is at 14 mm wherever the camera looked from."""
    found = gear()
    for pose, index in zip(found.poses, MIXED, strict=True):
        assert pose is not None
        truth = capture("spur_gear").cameras[index].part_from_camera
        motion = pose @ inverse(truth)
        np.testing.assert_allclose(motion[2, :3], [0, 0, 1], atol=0.01)
        assert motion[2, 3] == pytest.approx(0, abs=0.2)


def test_views_of_a_bracket_and_strangers_among_them() -> None:
    """One view of another part and one without depth: each is left out, says why, and disturbs nothing."""
    bracket = capture("bracket")
    blind = bracket.views[7]
    assert blind.points_mm is not None
    blind = replace(blind, name="blind", points_mm=np.full_like(blind.points_mm, np.nan))
    stranger = replace(capture("spur_gear").views[5], name="stranger")
    chosen = (6, 7, 0, 1)
    views = [*(bracket.views[i] for i in chosen), stranger, blind]
    found = assemble(views)
    assert found.reasons[:4] == ("",) * 4
    assert found.poses[4] is None
    assert "fits nowhere" in found.reasons[4]
    assert found.poses[5] is None
    assert "depth" in found.reasons[5]
    assert_right("bracket", found.poses[:4], [bracket.cameras[i] for i in chosen])


def test_a_set_that_cannot_be_assembled_is_refused() -> None:
    """One view each of different parts, and nothing but blind ones."""
    views = [capture("bracket").views[0], capture("spur_gear").views[0]]
    with pytest.raises(RegistrationError, match=r"1 of 2.*--nominal FILE"):
        assemble(views, "mixed up")
    blind = [replace(view, points_mm=np.full(view.image.shape, np.nan, np.float32)) for view in views]
    with pytest.raises(RegistrationError, match=r"0 of 2.*no depth.*--nominal FILE"):
        assemble(blind)


def test_known_poses_are_kept() -> None:
    """A capture that brings its poses is not assembled but taken as it is."""
    made = capture("bracket")
    views = tuple(
        replace(view, camera=replace(camera, part_from_camera=np.eye(4))).moved(camera.part_from_camera)
        for view, camera in zip(made.views[:2], made.cameras[:2], strict=True)
    )
    assert with_poses(Scan("posed", views=views)).views == views


def test_golden_surface_of_posed_specimens_is_their_mean() -> None:
    """Two specimens, the second seen from one more side: the reference has that too, in the first one's frame."""
    made = [capture("bracket", seed) for seed in (1, 2)]
    scans = []
    for number, (each, chosen) in enumerate(zip(made, ((6, 7, 0), (6, 7, 0, 1)), strict=True)):
        views = tuple(
            replace(each.views[i], camera=replace(each.cameras[i], part_from_camera=np.eye(4))).moved(
                each.cameras[i].part_from_camera
            )
            for i in chosen
        )
        scans.append(Scan(f"posed {number}", views=views))
    surface, _, posed = golden(scans)
    alone = merged_surface([placed(view, np.eye(4)) for view in scans[0].views])
    assert surface.areas_mm2.sum() > 1.03 * alone.areas_mm2.sum()
    assert [len(scan.views) for scan in posed] == [3, 4]
    nominal = specimen("bracket", 1).nominal.surface
    distance = np.abs(ReferenceShape(nominal).signed_distance(surface.points_mm))
    assert np.median(distance) < 0.1


@pytest.mark.parametrize(
    ("part", "degrees", "exact"), [("flange", 60, True), ("flange", 45, False), ("spur_gear", 18, False)]
)
def test_views_tell_exact_symmetries_from_near_ones(part: str, degrees: float, exact: bool) -> None:
    """Six sectors of the flange are the same; a tooth further the gear's keyway is elsewhere."""
    made = capture(part)
    views = [
        replace(made.views[i], camera=replace(made.cameras[i], part_from_camera=np.eye(4))).moved(
            made.cameras[i].part_from_camera
        )
        for i in (2, 4)
    ]
    surface = sample_surface(specimen(part, 1).scan.surface, 20_000)
    motions = np.stack([rotation_about(np.array([0, 0, 1.0]), np.radians(turn)) for turn in (0, degrees, -degrees)])
    np.testing.assert_array_equal(undisputed(views, surface, motions), [True, exact, exact])


def test_refining_together_closes_the_loop() -> None:
    """Noisy views of a prism with 12 sides, each overlapping its neighbours, disturbed: all come back without drift."""
    rng = np.random.default_rng(0)
    azimuth = np.repeat(np.arange(12) * np.pi / 6, 1500)
    out = np.stack([np.cos(azimuth), np.sin(azimuth), np.zeros_like(azimuth)], axis=1)
    side = np.stack([-out[:, 1], out[:, 0], out[:, 2]], axis=1)
    across, up = rng.uniform(-5.3, 5.3, (len(azimuth), 1)), rng.uniform(-10, 10, (len(azimuth), 1))
    top = np.concatenate([rng.uniform(-14, 14, (3000, 2)), np.full((3000, 1), 10.0)], axis=1)
    points = np.concatenate([20 * out + across * side + up * np.array([0, 0, 1.0]), top])
    directions = np.concatenate([out, np.tile([0, 0, 1.0], (3000, 1))])
    samples, start = [], []
    for angle in np.arange(6) * np.pi / 3:
        seen = rng.permutation(np.flatnonzero(directions @ np.array([np.cos(angle), np.sin(angle), 0.6]) > 0.1))
        noisy = points[seen] + rng.normal(0, 0.03, (len(seen), 1)) * directions[seen]
        samples.append(Samples(noisy, directions[seen], True, 1500.0))
        moved = np.eye(4)
        moved[:3, 3] = rng.normal(0, 0.1, 3) if angle else 0
        start.append(moved)
    found = refine_together(samples, start, 0.4)
    np.testing.assert_array_equal(found[0], start[0])
    for pose in found:
        np.testing.assert_allclose(pose, np.eye(4), atol=0.01)
