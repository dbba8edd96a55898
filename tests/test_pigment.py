"""Colour: ink is told whatever the lamp; what the lamp alone does is not."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rad3d.evidence import ANOMALOUS, STRONGEST_INK, Remembered, judge_patches
from rad3d.geometry import random_rotation, transform_directions, transform_points, translation
from rad3d.memory import Memory, Provenance
from rad3d.patches import Patches, Window
from rad3d.pigment import colour_scores
from rad3d.settings import Settings, SurfaceSettings
from rad3d.surface import PlacedPatches

BLUE = np.array([0.22, 0.31])
LAMP = np.array([1 / 3, 1 / 3])
SIDE = 16


def cube(rng, lamp=(0.0, 0.0), specimen=-1, row=0):
    """Three faces of a blue cube of 32 mm, each with its share of the lamp's own colour; (k, 2) patches of 2 mm."""
    grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), axis=-1).reshape(-1, 2) * 2.0
    points, normals, chroma = [], [], []
    for axis, share in enumerate((*lamp, 0.0)):
        face = np.insert(grid, axis, 0.0, axis=1)
        points.append(face)
        normals.append(np.tile(-np.eye(3)[axis], (len(face), 1)))
        chroma.append((1 - share) * BLUE + share * LAMP + 0.003 * rng.standard_normal((len(face), 2)))
    count = 3 * SIDE * SIDE
    return PlacedPatches(
        points_mm=(np.concatenate(points) + 0.1 * rng.standard_normal((count, 3))).astype(np.float32),
        normals=np.concatenate(normals).astype(np.float32),
        chroma=np.concatenate(chroma).astype(np.float32),
        directions=np.tile(np.float32([0.6, 0.6, 0.53]), (count, 1)),
        features=torch.zeros(count, 1, 1),
        specimen=np.full(count, specimen),
        position=np.stack([np.full(count, row), np.arange(count), np.zeros(count, int)], axis=1),
    )


def joined(parts):
    names = ("points_mm", "normals", "chroma", "directions", "specimen", "position")
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return PlacedPatches(features=torch.cat([part.features for part in parts]), **arrays)


@pytest.fixture
def remembered():
    rng = np.random.default_rng(0)
    return joined([cube(rng, (0.1 * k, 0.05), specimen=k, row=k) for k in range(4)])


def scores(query, remembered, allowed=None):
    return colour_scores(query, query.position[:, 0], remembered, SurfaceSettings(), allowed)


def test_a_lamp_that_no_good_specimen_saw_is_no_ink(remembered):
    good = scores(cube(np.random.default_rng(1), (0.9, 0.6)), remembered)
    assert np.isfinite(good).all()
    assert good.max() < 1.5


def test_ink_is_told_under_that_lamp(remembered):
    query = cube(np.random.default_rng(1), (0.3, 0.5))
    spot = np.array([40, 41, 56, 57])
    query.chroma[spot] = (0.45, 0.30)
    found = scores(query, remembered)
    assert found[spot].min() > 4 * np.delete(found, spot).max()


def test_a_patch_without_a_normal_does_not_hide_the_facets_of_the_others(remembered):
    query = cube(np.random.default_rng(1), (0.3, 0.5))
    spot = np.array([40, 41, 56, 57])
    query.chroma[spot] = (0.45, 0.30)
    before = scores(query, remembered)
    query.normals[8] = np.nan
    np.testing.assert_allclose(np.delete(scores(query, remembered), 8), np.delete(before, 8), rtol=0.2, atol=0.05)


def test_what_light_explains_is_sought_in_the_whole_view_not_in_a_tile(remembered):
    query = cube(np.random.default_rng(1), (0.8, 0.0))
    query.chroma[SIDE * SIDE + 40] = 0.3 * BLUE + 0.7 * LAMP
    query.position[SIDE * SIDE :, 0] = 1  # the face that mirrors the lamp was cut into another window
    one_view = np.zeros(len(query), int)
    assert colour_scores(query, one_view, remembered, SurfaceSettings()).max() < 1.5


def test_a_white_mark_is_told_where_the_lamp_is_weaker_than_the_mark(remembered):
    query = cube(np.random.default_rng(1), (0.3, 0.2))
    query.chroma[[300, 301]] = LAMP
    found = scores(query, remembered)
    assert found[[300, 301]].min() > 2 * np.delete(found, [300, 301]).max()


def test_light_that_reaches_part_of_a_facet_is_no_ink(remembered):
    """A gleam on the dim face is the lamp that another face mirrors as well; were it stronger, it would be ink."""
    query = cube(np.random.default_rng(1), (0.8, 0.0))
    spot = SIDE * SIDE + np.array([40, 41, 56, 57])
    query.chroma[spot] = 0.3 * BLUE + 0.7 * LAMP
    gleam = scores(query, remembered)[spot]
    query.chroma[: SIDE * SIDE] = BLUE  # no face mirrors anything: nothing explains it
    assert gleam.max() < 1.5
    assert scores(query, remembered)[spot].min() > 4


def test_what_good_specimens_show_in_print_is_usual(remembered):
    logo = np.array([100, 101, 116, 117])
    count = 3 * SIDE * SIDE
    for k in range(4):
        remembered.chroma[k * count + logo] = (0.6, 0.2)
    query = cube(np.random.default_rng(1), (0.2, 0.05))
    query.chroma[logo] = (0.6, 0.2)
    printed = scores(query, remembered)
    query.chroma[logo] = (0.2, 0.6)
    assert scores(query, remembered)[logo].min() > 3 * printed[logo].max()


def test_a_specimen_left_out_does_not_answer(remembered):
    """Alone among the remembered ones it has the ink: against itself it is usual, against the others it is not."""
    spot = np.array([40, 41, 56, 57])
    remembered.chroma[spot] = (0.45, 0.30)
    own = cube(np.random.default_rng(0), (0.0, 0.05), specimen=0)
    own.chroma[spot] = (0.45, 0.30)
    others = remembered.specimen != 0
    assert scores(own, remembered, others)[spot].min() > 1.5 * scores(own, remembered)[spot].max()


def test_without_colours_nothing_is_told(remembered):
    remembered.chroma[:] = np.nan
    assert np.isnan(scores(cube(np.random.default_rng(1)), remembered)).all()
    assert np.isnan(scores(cube(np.random.default_rng(1)), remembered, np.zeros(len(remembered), bool))).all()


def test_the_frame_of_the_part_does_not_matter(remembered):
    query = cube(np.random.default_rng(1), (0.3, 0.5))
    query.chroma[[40, 41, 300]] = (0.45, 0.30)
    pose = translation((30, -20, 5)) @ random_rotation(np.random.default_rng(2))

    def moved(patches):
        return replace(
            patches,
            points_mm=transform_points(pose, patches.points_mm).astype(np.float32),
            normals=transform_directions(pose, patches.normals).astype(np.float32),
        )

    np.testing.assert_allclose(scores(moved(query), moved(remembered)), scores(query, remembered), rtol=1e-4)


def patches_of(cubes):
    """The same as the encoder's patches: a view of 16 x 48 for each cube, which all look alike to the transformer."""
    count, shape = len(cubes), (len(cubes), SIDE, 3 * SIDE)
    features = torch.zeros(count, 1, *shape[1:], 4)
    features[..., 0] = 1
    return Patches(
        descriptors=torch.zeros(count, 1, 4),
        features=features,
        points_mm=np.stack([one.points_mm for one in cubes]).reshape(*shape, 3),
        normals=np.stack([one.normals for one in cubes]).reshape(*shape, 3),
        chroma=np.stack([one.chroma for one in cubes]).reshape(*shape, 2),
        directions=np.stack([one.directions[0] for one in cubes]),
        windows=(Window(0, 0, 48, 16),) * count,
        view_index=np.arange(count),
    )


def test_ink_counts_where_the_transformer_sees_nothing_and_never_beyond_its_limit():
    rng = np.random.default_rng(0)
    good = [Memory.of(patches_of([cube(rng, (0.1 * k, 0.05))]), Provenance(str(k), "", "", "", ""), ["v"], "f")
            for k in range(4)]  # fmt: skip
    placed = PlacedPatches.of_memory(Memory.merged(good))
    left_out = [scores(placed, placed, placed.specimen != k) for k in range(4)]
    usual = np.choose(placed.specimen, left_out)
    remembered = Remembered(placed, np.stack([0 * usual, usual]), (0.02, 0.2), None, None, 0.02)
    query = patches_of([cube(rng, (0.2, 0.05))])
    query.chroma[0, 5, 5:8] = (0.45, 0.30)  # ink
    query.features[0, 0, 12, 40] = torch.tensor([0.0, 1, 0, 0])  # what only the transformer sees
    scores_of = judge_patches(SimpleNamespace(patches=query), remembered, Settings())
    assert scores_of.unusual()[0, 5, 5:8].max() > STRONGEST_INK
    unusual = scores_of.unusual(STRONGEST_INK)[0]
    assert unusual[5, 5:8].min() > ANOMALOUS
    assert unusual[5, 5:8].max() <= STRONGEST_INK
    assert unusual[12, 40] > 20
    unusual[5, 5:8] = unusual[12, 40] = 0
    assert np.abs(unusual).max() < 1
