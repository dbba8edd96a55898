"""Views of a part with equal sides: what is odd about the specimen's shape lies at one place."""

import numpy as np
import pytest

from rad3d.agree import _odd, agreed
from rad3d.datasets.machine_capture import make_capture
from rad3d.datasets.machine_specimen import make_specimen
from rad3d.geometry import inverse, rotation_angle
from rad3d.query import Seen, seen_of
from rad3d.reference import Reference, build_reference
from rad3d.register import register_views
from rad3d.settle import upright
from rad3d.symmetry import Symmetries

PARTS = {"flange": ("hole",), "helical_gear": ("missing_feature",), "hex_nut": ("bulge",)}


@pytest.fixture(scope="module", params=PARTS)
def part(request):
    """A defective specimen, its capture, and the reference with the part's symmetries as they were made."""
    made = make_specimen(request.param, 3, PARTS[request.param], sizes_mm=(5.0, 6.0))
    exact = Symmetries(np.stack(made.symmetries), np.stack(made.symmetries))
    return made, make_capture(made, 3), build_reference(made.nominal.surface, exact)


@pytest.fixture(scope="module")
def good(part):
    """The same of a good one."""
    made = make_specimen(part[0].part, 4)
    return made, make_capture(made, 4)


def seen(capture) -> list[Seen]:
    queries = [seen_of(view) for view in capture.views]
    return [query for query in queries if isinstance(query, Seen)]


def scattered(made, capture, seed):
    """The true poses, each turned by another of the part's symmetries."""
    turns = np.random.default_rng(seed).integers(0, len(made.symmetries), len(capture.views))
    return [made.symmetries[turn] @ c.part_from_camera for turn, c in zip(turns, capture.cameras, strict=True)]


def turned(turns, poses):
    """The poses after what was found of each; unknown ones as they are."""
    return [pose if turn is None else turn @ pose for turn, pose in zip(turns, poses, strict=True)]


def odd(query: Seen, pose, reference: Reference) -> int:
    return len(_odd(query, pose, reference).there)


def apart(poses, capture, some) -> float:
    """By how much in degrees the views are not turned alike."""
    motions = [poses[i] @ inverse(capture.cameras[i].part_from_camera) for i in some]
    return max(float(np.degrees(rotation_angle(motions[0] @ inverse(motion)))) for motion in motions)


def test_views_that_show_something_odd_lie_as_they_truly_do(part):
    made, capture, reference = part
    queries = seen(capture)
    straight = [camera.part_from_camera for camera in capture.cameras]
    telling = [i for i, (q, pose) in enumerate(zip(queries, straight, strict=True)) if odd(q, pose, reference) > 15]
    assert len(telling) >= 2
    tried = [
        poses for poses in (scattered(made, capture, seed) for seed in range(4)) if apart(poses, capture, telling) > 10
    ]
    assert tried
    for poses in tried:
        found = agreed(queries, [(pose, None) for pose in poses], reference)
        assert apart(turned(found, poses), capture, telling) < 1e-3
        assert all(found[i] is not None for i in telling)


def test_views_of_a_good_specimen_and_unknown_ones_stay(part, good):
    (made, capture), reference = good, part[2]
    poses = scattered(made, capture, 0)
    assert not any(odd(query, pose, reference) for query, pose in zip(seen(capture), poses, strict=True))
    homes = [(pose, None) for pose in poses[:-1]]
    assert agreed(seen(capture), [*homes, None], reference) == [None] * len(poses)


def test_no_view_is_turned_onto_another_side_than_its_table_shows(part):
    """Some were found lying on their backs: none is turned over, though what is odd would then agree."""
    made, capture, reference = part
    poses = scattered(made, capture, 0)
    pairs = zip(poses, capture.cameras, strict=True)
    ups = [(pose @ inverse(camera.part_from_camera))[:3, :3] @ [0.0, 0, 1] for pose, camera in pairs]
    found = agreed(seen(capture), list(zip(poses, ups, strict=True)), reference)
    assert any(turn is not None for turn in found)
    assert all(turn is None or upright(turn[None], up)[0] for turn, up in zip(found, ups, strict=True))
    free = agreed(seen(capture), [(pose, None) for pose in poses], reference)
    turned_over = [turn is not None and not upright(turn[None], up)[0] for turn, up in zip(free, ups, strict=True)]
    assert any(turned_over) == (not upright(np.stack(made.symmetries), np.array([0.0, 0, 1])).all())


def test_what_no_camera_saw_is_not_gone(part, good):
    """Where the sensor measured nothing the part may be."""
    (_, capture), reference = good, part[2]
    query = seen(capture)[0]
    blind = Seen(query.scan, np.full_like(query.depth_mm, np.nan), query.intrinsics)
    through = Seen(query.scan, np.full_like(query.depth_mm, 1e4), query.intrinsics)
    assert not odd(blind, capture.cameras[0].part_from_camera, reference)
    assert odd(through, capture.cameras[0].part_from_camera, reference) > 50


@pytest.mark.parametrize("part", ["hex_nut"], indirect=True)
def test_registered_views_are_compared_where_all_are_and_turned_from_there(part):
    _, capture, reference = part
    found = register_views(capture.views, reference)
    assert all(one.trusted for one in found)
    poses = [one.part_from_scan for one in found]
    telling = [i for i, (q, pose) in enumerate(zip(seen(capture), poses, strict=True)) if odd(q, pose, reference) > 15]
    assert apart(poses, capture, telling) > 10
    assert apart(turned([one.turn for one in found], poses), capture, telling) < 0.5
    for one in found:
        assert one.turn is None or reference.difference_mm(one.turn, np.eye(4)) < 1e-6
