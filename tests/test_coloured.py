"""What is printed on a symmetric part tells how it lies; light and stains do not."""

import numpy as np
import pytest
import trimesh

from rad3d.coloured import turned_by_colour
from rad3d.deviation import ReferenceShape
from rad3d.geometry import rotation_about, transform_points
from rad3d.reference import build_reference
from rad3d.scan import Scan

UP = np.array([0.0, 0, 1])


def square():
    return trimesh.creation.box((30, 30, 8)).subdivide_to_size(1.5)


def disc():
    return trimesh.creation.cylinder(15, 8, sections=128).subdivide_to_size(1.5)


def printed(mesh, at=(10.0, 0.0), colour=(20, 20, 30), light=1.0, stain=None):
    """The part with a print of 5 x 5 mm on its upper face."""
    vertices = np.array(mesh.vertices)
    colours = np.full((len(vertices), 3), 180.0)
    top = vertices[:, 2] > 3.9
    colours[top & (np.abs(vertices[:, :2] - at) < 2.5).all(axis=1)] = colour
    if stain is not None:
        colours[top & (np.linalg.norm(vertices[:, :2] - stain, axis=1) < 3)] = (200, 60, 60)
    return Scan("s", vertices_mm=vertices, faces=np.array(mesh.faces), colours=(light * colours).astype(np.uint8))


def turned(scan, angle):
    return scan.moved(rotation_about(UP, angle, np.zeros(3)))


def found_for(reference_scan, scan):
    shape = ReferenceShape(reference_scan.surface)
    symmetries = build_reference(shape.surface).symmetries
    return turned_by_colour(np.eye(4), scan.surface, shape, symmetries)


@pytest.mark.parametrize("light", [1.0, 0.8])
@pytest.mark.parametrize("stain", [None, (-8.0, -8.0)])
def test_a_print_tells_which_quarter_turn_it_is(light, stain):
    scan = turned(printed(square(), light=light, stain=stain), np.pi / 2)
    pose = found_for(printed(square()), scan)
    np.testing.assert_allclose(transform_points(pose, np.array([[0.0, 10, 4]])), [[10, 0, 4]], atol=0.3)


def test_a_print_tells_how_a_disc_is_turned():
    pose = found_for(printed(disc()), turned(printed(disc()), 1.234))
    at = transform_points(rotation_about(UP, 1.234, np.zeros(3)), np.array([[10.0, 0, 4]]))
    np.testing.assert_allclose(transform_points(pose, at), [[10, 0, 4]], atol=0.4)


def test_nothing_turns_without_a_reason():
    bare = Scan("bare", vertices_mm=np.array(square().vertices), faces=np.array(square().faces))
    assert (found_for(printed(square()), printed(square())) == np.eye(4)).all()
    assert (found_for(printed(square()), bare) == np.eye(4)).all()
    assert (found_for(bare, turned(printed(square()), np.pi / 2)) == np.eye(4)).all()
    plain = printed(square(), colour=(180, 180, 180))
    noisy = printed(square(), colour=(180, 180, 180), stain=(-8.0, -8.0))
    assert (found_for(plain, turned(noisy, np.pi / 2)) == np.eye(4)).all()  # a stain fits nowhere
