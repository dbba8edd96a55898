"""Labelled pixels of captured views become regions on the part, in the frame of what was found."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rad3d.camera import Camera
from rad3d.datasets.machine_layouts import png_bytes
from rad3d.datasets.sample import MaskFile, Sample, ViewFiles
from rad3d.geometry import look_at
from rad3d.instances import _shown, labelled_regions
from rad3d.prediction import Prediction, ViewPrediction
from rad3d.scoring import _instances
from rad3d.view import View

SIZE = (60, 80)
TILTS = (0.0, 0.6)


def camera(tilt):
    eye = np.array([100 * np.sin(tilt), 0.0, 100 * np.cos(tilt)])
    return Camera.from_field_of_view(SIZE, 0.5, look_at(eye, np.zeros(3)))


def plane_seen(tilt):
    """The plane z = 0 of the part, in the camera's frame, and its points on the part."""
    seen = camera(tilt)
    rows, columns = np.indices(SIZE) + 0.5
    f, (cx, cy) = seen.intrinsics[0, 0], seen.intrinsics[:2, 2]
    rays = np.stack([(columns - cx) / f, (rows - cy) / f, np.ones(SIZE)], axis=2)
    rotation, centre = seen.part_from_camera[:3, :3], seen.part_from_camera[:3, 3]
    along = rays @ rotation.T
    points = rays * (-centre[2] / along[..., 2])[..., None]
    return points.astype(np.float32), points @ rotation.T + centre


def sample_of(folder: Path, monkeypatch: pytest.MonkeyPatch, numbered: bool):
    """Two square defects of 6 x 6 and 4 x 4 mm, seen in two views; the second view sees the first defect only."""
    squares = {"1": ((-10.0, 0.0), 3.0), "2": ((8.0, 4.0), 2.0)}
    views, files = [], []
    for number, tilt in enumerate(TILTS):
        in_camera, on_part = plane_seen(tilt)
        views.append(View(f"v{number}", "captured", np.zeros((*SIZE, 3), np.uint8), in_camera))
        image = folder / f"v{number}.png"
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(image)
        seen = {name: s for name, s in squares.items() if number == 0 or name == "1"}
        masks = {n: (np.abs(on_part[..., :2] - at) < half).all(axis=2) for n, (at, half) in seen.items()}
        if not numbered:
            masks = {"": np.any(list(masks.values()), axis=0)}
        paths = []
        for name, mask in masks.items():
            path = folder / f"v{number}_{name}_mask.png"
            path.write_bytes(png_bytes(255 * mask.astype(np.uint8)))
            paths.append(MaskFile(path, "hole", name))
        files.append(ViewFiles(f"v{number}", image, None, tuple(paths)))
    sample = Sample("d", "part", "s", "test", 1, "hole", views=tuple(files))
    monkeypatch.setattr("rad3d.instances.load_views", lambda _: tuple(views))
    return sample


def prediction(poses, centroids=(), areas=()):
    blank = np.zeros(SIZE, np.float32)
    views = tuple(ViewPrediction(f"v{n}", 0.0, blank, part_from_camera=pose) for n, pose in enumerate(poses))
    found = np.array(centroids, float).reshape(-1, 3)
    return Prediction(1.0, views=views, centroids_mm=found, defect_areas_mm2=np.array(areas, float))


POSES = tuple(camera(tilt).part_from_camera for tilt in TILTS)


def test_what_one_view_shows_of_a_defect_and_another_does_not_counts_once():
    """A wall of 10 x 4 mm: some views show its left 6 mm, some its right 6 mm, each moved as its pose is wrong."""
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(0.1, 10, 0.2), np.arange(0.1, 4, 0.2)))
    wall = np.stack([x, y, 0 * x], axis=1)
    rng = np.random.default_rng(0)
    for moved, rel in ((0.05, 0.12), (0.2, 0.12)):
        views = [wall[(x < 6) if view % 2 else (x > 4)] + rng.normal(0, moved, 3) for view in range(8)]
        assert _shown(views, [np.full(len(view), 0.04) for view in views]) == pytest.approx(40, rel=rel)
    left = wall[x < 6]
    areas = np.full(len(left), 0.04)
    assert _shown([left, left], [areas, areas]) == pytest.approx(24)
    assert _shown([left[:0], left], [areas[:0], areas]) == pytest.approx(24)
    assert _shown([left[:0]], [areas[:0]]) == 0


@pytest.mark.parametrize("numbered", [True, False])
def test_defects_lie_where_and_are_as_large_as_they_were_made(tmp_path, monkeypatch, numbered):
    sample = sample_of(tmp_path, monkeypatch, numbered)
    regions, areas = labelled_regions(sample, prediction(POSES))
    order = np.argsort(-areas)
    assert len(regions) == 2
    np.testing.assert_allclose(areas[order], [36, 16], rtol=0.15)
    for index, at in zip(order, ((-10, 0, 0), (8, 4, 0)), strict=True):
        np.testing.assert_allclose(regions[index].mean(axis=0), at, atol=0.5)
        assert np.abs(regions[index][:, 2]).max() < 0.01


def test_found_defects_are_counted_against_them(tmp_path, monkeypatch):
    sample = sample_of(tmp_path, monkeypatch, numbered=True)
    counts = _instances(sample, prediction(POSES, [(-9, 0, 0), (20, 20, 0)], [30, 30]))
    assert (counts.matched, counts.false_alarms, counts.missed) == (1, 1, 1)


def test_what_no_placed_view_shows_is_missed(tmp_path, monkeypatch):
    sample = sample_of(tmp_path, monkeypatch, numbered=True)
    counts = _instances(sample, prediction((None, POSES[1]), [(-10, 0, 0), (8, 4, 0)], [36, 16]))
    assert (counts.matched, counts.false_alarms, counts.missed) == (1, 1, 1)
    assert _instances(sample, prediction((None, None), [(-10, 0, 0)], [36])).missed == 2


def test_a_good_specimens_defects_are_all_false_alarms():
    good = Sample("d", "part", "s", "test", 0, "good", views=(ViewFiles("v0", Path("none.png")),))
    assert _instances(good, prediction(POSES[:1], [(0, 0, 0)], [9])).false_alarms == 1
