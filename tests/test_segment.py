"""Object and background of captured views."""

import numpy as np
import pytest

from rad3d.camera import Camera
from rad3d.datasets.machine_capture import make_capture
from rad3d.datasets.machine_specimen import make_specimen
from rad3d.errors import RegistrationError
from rad3d.geometry import inverse, look_at
from rad3d.render.raycast import RayCaster
from rad3d.segment import foreground
from rad3d.view import View


@pytest.mark.parametrize("part", ["coupling", "bracket"])
def test_part_on_the_table(part: str) -> None:
    capture = make_capture(make_specimen(part, 0), 1)
    for view, on_part in zip(capture.views[3:5], capture.on_part[3:5], strict=True):
        found, truth = foreground(view), on_part & view.mask
        assert (found & truth).sum() > 0.95 * truth.sum()
        assert (found & truth).sum() > 0.99 * found.sum()


def captured(*parts: np.ndarray) -> View:
    """A view of bracket copies displaced by these offsets, with nothing around them."""
    mesh = make_specimen("bracket", 0).nominal
    assert mesh.faces is not None
    vertices = np.concatenate([mesh.vertices_mm + offset for offset in parts])
    faces = np.concatenate([mesh.faces + i * len(mesh.vertices_mm) for i in range(len(parts))])
    pose = look_at(np.array([150.0, -200, 250]), vertices.mean(axis=0))
    camera = Camera.from_field_of_view((256, 320), 0.5, pose)
    view = RayCaster(vertices, faces).render([camera])[0].moved(inverse(pose))
    return View("000", "captured", view.image, view.points_mm, view.normals, view.camera)


def test_without_a_table_everything_is_the_part() -> None:
    """The part's own faces are planes too, and none of them is a table."""
    view = captured(np.zeros(3))
    assert foreground(view).sum() > 0.99 * view.mask.sum()


def test_two_specimens_are_an_error() -> None:
    with pytest.raises(RegistrationError, match="two things"):
        foreground(captured(np.zeros(3), np.array([90.0, 10, 0])))


def test_no_depth_no_part() -> None:
    view = captured(np.zeros(3))
    assert view.points_mm is not None
    assert not foreground(View("a", "captured", view.image, np.full_like(view.points_mm, np.nan))).any()
    assert not foreground(View("b", "captured", view.image)).any()


def test_a_wall_that_hides_where_it_stands_is_no_second_thing() -> None:
    """From behind and above, the upright of a bracket hides the corner that joins it to its base."""
    made = make_specimen("bracket", 0)
    vertices = made.nominal.vertices_mm
    assert made.nominal.faces is not None
    for eye in ((-120.0, 20, 260), (120.0, 20, 260)):
        pose = look_at(np.array(eye), vertices.mean(axis=0))
        camera = Camera.from_field_of_view((256, 320), 0.5, pose)
        view = RayCaster(vertices, made.nominal.faces).render([camera])[0].moved(inverse(pose))
        shown = View("000", "captured", view.image, view.points_mm, view.normals, view.camera)
        assert foreground(shown).sum() > 0.99 * shown.mask.sum()
