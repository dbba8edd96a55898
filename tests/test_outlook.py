"""A defect is looked at past what stands before it."""

import numpy as np
import pytest
import trimesh

from rad3d.viewers.outlook import UNKNOWN, Outlook

UP = np.array([0.0, 0.0, 1.0])


def two_walls():
    """Two walls, 4 mm apart and 40 mm high, that face each other."""
    walls = [
        trimesh.creation.box((2, 60, 40), trimesh.transformations.translation_matrix((x, 0, 20))) for x in (-3.0, 3.0)
    ]
    return trimesh.util.concatenate(walls)


@pytest.mark.parametrize("cloud", [False, True])
def test_an_open_place_is_seen_from_in_front(cloud):
    plate = trimesh.creation.box((40, 40, 2))
    vertices = trimesh.sample.sample_surface(plate, 20_000, seed=0)[0] if cloud else np.array(plate.vertices)
    side, free = Outlook(vertices, None if cloud else plate.faces).of(np.array([3.0, 4, 1]), UP, 50.0)
    assert side @ UP > 0.9
    assert free == 50.0


@pytest.mark.parametrize("cloud", [False, True])
def test_the_middle_of_a_wide_mark_on_a_bulge_lies_within_the_part(cloud):
    """A mark of 10 mm around a shaft of 10 mm radius: its centroid is more than a millimetre deep."""
    shaft = trimesh.creation.cylinder(10, 60, sections=256)
    vertices = trimesh.sample.sample_surface(shaft, 200_000, seed=0)[0] if cloud else np.array(shaft.vertices)
    angle = np.linspace(-0.5, 0.5, 50)
    centroid = np.array([10 * np.cos(angle).mean(), 0, 0])
    side, free = Outlook(vertices, None if cloud else shaft.faces).of(centroid, np.array([1.0, 0, 0]), 80.0)
    assert free == 80.0
    assert side[0] > 0.9


def test_points_closer_than_a_step_of_the_way_are_not_in_it():
    plate = trimesh.sample.sample_surface(trimesh.creation.box((40, 40, 2)), 1_000_000, seed=0)[0]
    assert Outlook(plate, None).of(np.array([3.0, 4, 1]), UP, 50.0)[1] == 50.0


@pytest.mark.parametrize("cloud", [False, True])
def test_a_wall_in_front_is_looked_past(cloud):
    walls = two_walls()
    vertices = trimesh.sample.sample_surface(walls, 60_000, seed=0)[0] if cloud else np.array(walls.vertices)
    outlook = Outlook(vertices, None if cloud else walls.faces)
    near_rim, normal = np.array([-2.0, 0, 38]), np.array([1.0, 0, 0])
    side, free = outlook.of(near_rim, normal, 50.0)
    assert free == 50.0
    assert side @ normal > 0.45
    assert side[2] > 0.3, "over the rim of the other wall"


def test_where_nothing_is_free_the_camera_stays_before_what_stands_there():
    walls = two_walls()
    _, free = Outlook(np.array(walls.vertices), walls.faces).of(np.array([-2.0, 0, 20]), np.array([1.0, 0, 0]), 50.0)
    assert 3.5 < free < 9


def test_without_a_normal_there_is_still_a_direction():
    plate = trimesh.creation.box((40, 40, 2))
    side, free = Outlook(np.array(plate.vertices), plate.faces).of(np.array([0.0, 0, 1]), np.full(3, np.nan), 50.0)
    assert side @ UNKNOWN > 0.8
    assert free == 50.0
