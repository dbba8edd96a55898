"""RAD's retrieval against the slow loop of its paper."""

import numpy as np
import pytest
import torch

from rad3d.memory import Memory, Provenance
from rad3d.patches import Patches, Window
from rad3d.retrieval import choose_views, image_score, nearest_descriptors, patch_scores, rad_scores, score_map
from rad3d.settings import RetrievalSettings


def random_patches(rng, rows=3, layers=2, hw=(5, 4), channels=8):
    h, w = hw
    normal = torch.nn.functional.normalize
    return Patches(
        descriptors=normal(torch.from_numpy(rng.standard_normal((rows, layers, channels))).float(), dim=-1),
        features=normal(torch.from_numpy(rng.standard_normal((rows, layers, h, w, channels))).float(), dim=-1),
        points_mm=rng.standard_normal((rows, h, w, 3)).astype(np.float32),
        normals=rng.standard_normal((rows, h, w, 3)).astype(np.float32),
        chroma=rng.random((rows, h, w, 2)).astype(np.float32),
        directions=np.float32(np.eye(3)[np.arange(rows) % 3]),
        windows=(Window(0, 0, w, h),) * rows,
        view_index=np.arange(rows),
    )


def memory_of(patches, name="a"):
    return Memory.of(patches, Provenance(name, "part", "", "", ""), [f"v{i}" for i in patches.view_index], "f")


@pytest.mark.parametrize("pos_radius", [None, 0, 1, 3])
def test_scores_equal_the_loop_over_patches(reference, pos_radius):
    rng = np.random.default_rng(0)
    query, keys = random_patches(rng, 1, hw=(6, 5)).features[0], random_patches(rng, 7, hw=(6, 5)).features
    slow = reference.rad_patch_scores(query.numpy(), keys.numpy(), pos_radius)
    np.testing.assert_allclose(patch_scores(query, keys, pos_radius).numpy(), slow, atol=1e-5)


def test_position_limit_looks_at_the_same_place_not_its_mirror():
    """A grid whose height and width, or shift directions, are swapped finds the planted patch elsewhere."""
    query, keys = torch.zeros(1, 4, 6, 2), torch.zeros(1, 1, 4, 6, 2)
    query[..., 0], keys[..., 1] = 1, 1
    keys[0, 0, 1, 4] = torch.tensor([1.0, 0.0])
    found = patch_scores(query, keys, 1)[0] < 0.5
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[0:3, 3:6] = True
    assert torch.equal(found, expected)


def test_own_specimen_scores_zero_and_others_do_not():
    rng = np.random.default_rng(1)
    patches = random_patches(rng, 4)
    memory = Memory.merged([memory_of(patches, "a"), memory_of(random_patches(rng, 4), "b")])
    settings = RetrievalSettings(k_views=1)
    assert rad_scores(patches, memory, settings).abs().max() < 1e-3
    assert rad_scores(patches, memory, settings, allowed=~memory.rows_of("a")).min() > 1e-2


def test_views_are_chosen_by_descriptor_by_viewpoint_or_both():
    rng = np.random.default_rng(2)
    patches = random_patches(rng, 9)
    memory = memory_of(patches)
    descriptor = patches.descriptors[4]
    chosen = {
        by: choose_views(descriptor, np.array([0.0, 1.0, 0.0]), memory, RetrievalSettings(by, 3)).tolist()
        for by in ("descriptor", "viewpoint", "both", "all")
    }
    assert chosen["viewpoint"] == [1, 4, 7]  # directions repeat x, y, z
    assert chosen["all"] == list(range(9))
    similarity = (memory.descriptors[:, -1] @ descriptor[-1]).numpy()
    assert chosen["descriptor"] == sorted(np.argsort(-similarity)[:3].tolist())
    assert set(chosen["both"]) <= set(np.argsort(-(memory.directions[:, 1]), kind="stable")[:6].tolist())


def test_faiss_finds_what_the_product_finds(monkeypatch):
    pytest.importorskip("faiss")
    rng = np.random.default_rng(3)
    remembered = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((500, 16))).float(), dim=1)
    queries = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((6, 16))).float(), dim=1)
    plain = nearest_descriptors(queries, remembered, 10)
    monkeypatch.setattr("rad3d.retrieval.FAISS_FROM", 1)
    assert np.array_equal(np.sort(nearest_descriptors(queries, remembered, 10)), np.sort(plain))


def test_map_and_image_score_equal_the_reference(reference):
    scores = torch.from_numpy(np.random.default_rng(4).random((2, 28, 21))).float()
    maps = score_map(scores)
    for row in range(2):
        slow = reference.rad_score_map(scores[row].numpy())
        np.testing.assert_allclose(maps[row].numpy(), slow, atol=1e-5)
        assert image_score(maps)[row].item() == pytest.approx(np.sort(slow.ravel())[-655:].mean(), abs=1e-5)
    assert image_score(maps, 0)[0] == maps[0].max()
