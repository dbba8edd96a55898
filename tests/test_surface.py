"""Surface-conditioned retrieval against a loop over all pairs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rad3d.geometry import random_rotation, transform_directions, transform_points, translation
from rad3d.settings import SurfaceSettings
from rad3d.surface import PlacedPatches, surface_scores, usual_scores


def placed(rng, count, size_mm=20.0, specimens=3):
    def directions():
        vectors = rng.standard_normal((count, 3)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    features = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((count, 2, 8))).float(), dim=-1)
    points = (rng.random((count, 3)) * size_mm).astype(np.float32)
    views = rng.integers(0, 4, count)  # patches of one view share its line of sight
    position = np.stack([views, np.zeros(count, int), np.zeros(count, int)], axis=1)
    return PlacedPatches(
        points,
        directions(),
        rng.random((count, 2)),
        directions()[views],
        features,
        rng.integers(0, specimens, count),
        position,
    )


@pytest.mark.parametrize(
    "limits",
    [SurfaceSettings(4.0, 5, 1.0, 1.2), SurfaceSettings(0.5, 8, 1.0, 1.0), SurfaceSettings(100.0, 1, 0.5, 3.2)],
)
def test_scores_equal_the_loop_over_pairs(reference, limits):
    rng = np.random.default_rng(0)
    query, remembered = placed(rng, 150), placed(rng, 400)
    allowed = remembered.specimen != 1
    found = surface_scores(query, remembered, limits, allowed)
    raw, nearest = reference.surface_scores(query, remembered, limits, allowed)
    np.testing.assert_allclose(found.raw, raw, atol=1e-5)
    assert np.array_equal(found.nearest, nearest)


def test_a_patch_from_elsewhere_on_the_part_is_no_answer():
    """The same look at another place is what a misplaced feature is; only image-wide retrieval forgives it."""
    rng = np.random.default_rng(1)
    remembered = placed(rng, 200)
    far = int(np.argmax(remembered.points_mm[:, 0]))
    elsewhere = remembered.points_mm[far] - np.float32([15, 0, 0])
    moved = PlacedPatches(
        elsewhere[None],
        remembered.normals[far][None],
        remembered.chroma[far][None],
        remembered.directions[far][None],
        remembered.features[far][None],
        np.array([-1]),
        np.zeros((1, 3), int),
    )
    here = surface_scores(moved, remembered, SurfaceSettings(3.0, 1, 3.2, 3.2)).raw[0]
    anywhere = surface_scores(moved, remembered, SurfaceSettings(100.0, 1, 3.2, 3.2)).raw[0]
    assert anywhere == pytest.approx(0, abs=1e-5)
    assert here > 0.1


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_a_rigid_motion_of_part_and_memory_and_the_order_of_patches_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    query, remembered = placed(rng, 40), placed(rng, 120)
    limits = SurfaceSettings(6.0, 5, 1.0, 1.2)
    still = surface_scores(query, remembered, limits).raw
    pose = translation(rng.uniform(-50, 50, 3)) @ random_rotation(rng)
    order = rng.permutation(120)

    def moved(patches, rows):
        return PlacedPatches(
            transform_points(pose, patches.points_mm[rows]).astype(np.float32),
            transform_directions(pose, patches.normals[rows]).astype(np.float32),
            patches.chroma[rows],
            transform_directions(pose, patches.directions[rows]).astype(np.float32),
            patches.features[rows],
            patches.specimen[rows],
            patches.position[rows],
        )

    after = surface_scores(moved(query, np.arange(40)), moved(remembered, order), limits).raw
    # a patch on the very border of a limit may fall to either side of it by rounding
    assert (np.abs(after - still) < 1e-5).mean() > 0.97


def test_nothing_remembered_is_no_score():
    rng = np.random.default_rng(2)
    query, remembered = placed(rng, 4), placed(rng, 6)
    found = surface_scores(query, remembered, SurfaceSettings(), np.zeros(6, bool))
    assert np.isnan(found.raw).all()
    assert (found.nearest == -1).all()


def test_usual_scores_are_those_of_the_same_place_seen_alike():
    """Two places with different good scores, and one place whose score depends on the line of sight."""
    rng = np.random.default_rng(3)
    remembered = placed(rng, 300)
    left = remembered.points_mm[:, 0] < 10
    remembered.points_mm[left, 0] -= 200
    scores = np.where(left, 0.1, 0.5).astype(np.float32)
    usual, spread = usual_scores(remembered, remembered, scores)
    np.testing.assert_allclose(usual, scores, atol=1e-6)
    np.testing.assert_allclose(spread, 0, atol=1e-6)
    up = remembered.directions[:, 2] > 0
    remembered.directions[:] = np.where(up[:, None], [0, 0, 9], [0, 0, -9])  # far apart in line of sight alone
    usual, _ = usual_scores(remembered, remembered, up.astype(np.float32))
    np.testing.assert_allclose(usual, up, atol=1e-6)


def test_a_specimen_is_not_its_own_usual():
    rng = np.random.default_rng(4)
    remembered = placed(rng, 200)
    own = remembered.specimen == 0
    usual, _ = usual_scores(remembered, remembered, own.astype(np.float32), ~own)
    assert (usual == 0).all()
