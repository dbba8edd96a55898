"""MRAD without training against slow loops on real features; with training, that it learns and what it keeps."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from rad3d.encoder import ClipFeatures, Encoder, resize
from rad3d.errors import DatasetError, MemoryFormatError
from rad3d.labelled import LabelledImage, LabelledMemory, pooled
from rad3d.mrad import (
    Examples,
    Training,
    TunedMaps,
    focal_and_dice,
    image_scores,
    pixel_maps,
    score_train_free,
    score_tuned,
    train_tuned,
)
from rad3d.settings import EncoderSettings

SIZE = 128


def scenes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth backgrounds, every second one with a striped square as its defect; (images, masks)."""
    generator = np.random.default_rng(seed)
    images, masks = [], np.zeros((count, SIZE, SIZE), bool)
    for number in range(count):
        image = resize(generator.integers(90, 160, (5, 5, 3), dtype=np.uint8), (SIZE, SIZE)).copy()
        if number % 2:
            row, column = generator.integers(0, SIZE - 64, 2)
            stripes = np.where(np.arange(64) // 4 % 2, 255, 0).astype(np.uint8)
            image[row : row + 64, column : column + 64] = stripes[:, None, None]
            masks[number, row : row + 64, column : column + 64] = True
        images.append(image)
    return np.stack(images), masks


def names(count: int) -> list[LabelledImage]:
    return [LabelledImage(f"i{n}", f"s{n}", "made", "made", "", "own", "2025-01-01") for n in range(count)]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(EncoderSettings("clip-b16-q8", input_hw=(SIZE, SIZE), precision="float32"))


@pytest.fixture(scope="module")
def auxiliary(encoder: Encoder) -> tuple[LabelledMemory, Examples]:
    images, masks = scenes(16, seed=1)
    features = encoder.encode_clip(images)
    return LabelledMemory.of(features, list(masks), names(16), encoder.fingerprint), Examples(features, masks)


@pytest.fixture(scope="module")
def target(encoder: Encoder) -> Examples:
    images, masks = scenes(8, seed=2)
    return Examples(encoder.encode_clip(images), masks)


def test_train_free_equals_the_loops_on_real_features(
    encoder: Encoder, auxiliary: tuple[LabelledMemory, Examples], target: Examples, reference: ModuleType
) -> None:
    memory, examples = auxiliary
    queries = ClipFeatures(target.features.image[:3], target.features.patches[:3])
    found = score_train_free(memory, queries, encoder.fingerprint)

    def pairs(features: ClipFeatures) -> list[tuple[np.ndarray, np.ndarray]]:
        return list(zip(features.image.double().numpy(), features.patches.double().numpy(), strict=True))

    expected = reference.mrad_train_free(pairs(examples.features), list(examples.masks), pairs(queries))
    for number, (patch_map, probability) in enumerate(expected):
        np.testing.assert_allclose(found.maps[number], patch_map, atol=1e-5)
        np.testing.assert_allclose(found.image[number], probability, atol=1e-5)
    assert found.maps.std() > 1e-3  # equal, and not because all is flat


def test_pixel_maps_and_image_scores_are_the_papers() -> None:
    grid = torch.zeros(1, 4, 4)
    grid[0, 1, 2] = 1.0
    maps = pixel_maps(grid, (200, 200))
    assert maps.shape == (1, 200, 200)
    assert np.unravel_index(maps[0].argmax(), (200, 200)) == pytest.approx((75, 125), abs=1)
    no_blur = pixel_maps(grid, (200, 200), sigma=0)
    assert no_blur[0, 74:76, 124:126].mean() > maps[0, 74:76, 124:126].mean()
    wide = pixel_maps(torch.ones(1, 4, 4) * 0.25, (200, 200))
    np.testing.assert_allclose(wide, 0.25, atol=1e-6)
    values = np.zeros((1, 20, 20), np.float32)
    values[0, 0, :4] = 0.8  # the top 1 % of 400 pixels
    np.testing.assert_allclose(image_scores(values, torch.tensor([0.5])), [0.3 * 0.8 + 0.7 * 0.5], atol=1e-6)


def test_training_beats_chance_and_keeps_the_best(
    encoder: Encoder, auxiliary: tuple[LabelledMemory, Examples], target: Examples
) -> None:
    memory, examples = auxiliary
    maps, losses = train_tuned(memory, examples, Training(epochs=12, rate=2e-3))
    assert losses[-1] < 0.8 * losses[0]
    found = score_tuned(maps, memory, target.features, encoder.fingerprint)
    plain = score_train_free(memory, target.features, encoder.fingerprint)
    inside = torch.from_numpy(target.masks[:, 8::16, 8::16])
    assert found.maps[inside].mean() > found.maps[~inside].mean() + 0.2
    # sharper than without training, where the softmax has no temperature
    assert found.maps[inside].mean() - found.maps[~inside].mean() > 2 * (
        plain.maps[inside].mean() - plain.maps[~inside].mean()
    )


def test_features_of_a_bfloat16_encoder_are_float32_and_train() -> None:
    encoder = Encoder.load(EncoderSettings("clip-b16-q8", input_hw=(SIZE, SIZE), precision="bfloat16"))
    images, masks = scenes(4, seed=1)
    features = encoder.encode_clip(images)
    assert features.image.dtype == features.patches.dtype == torch.float32
    assert features.image.norm(dim=-1) == pytest.approx(1.0, abs=1e-5)
    memory = LabelledMemory.of(features, list(masks), names(4), encoder.fingerprint)
    maps, losses = train_tuned(memory, Examples(features, masks))
    assert np.isfinite(losses).all()
    assert torch.isfinite(score_tuned(maps, memory, features, encoder.fingerprint).maps).all()


def test_the_seed_decides_all(auxiliary: tuple[LabelledMemory, Examples]) -> None:
    memory, examples = auxiliary

    def weights(seed: int) -> list[float]:
        maps, losses = train_tuned(memory, examples, Training(epochs=1, seed=seed))
        return [*losses, *(float(value.double().sum()) for value in maps.state_dict().values())]

    torch.manual_seed(0)
    first = weights(4)
    torch.manual_seed(1)
    assert weights(4) == first
    assert weights(5) != first


def test_held_out_examples_decide_which_epoch_is_kept(
    auxiliary: tuple[LabelledMemory, Examples], target: Examples
) -> None:
    """Held-out labels turned round: learning makes them worse at once, so the first epoch stays and it stops."""
    memory, examples = auxiliary
    turned = Examples(target.features, ~target.masks)
    training = Training(epochs=12, patience=2, rate=2e-3)
    maps, losses = train_tuned(memory, examples, training, held_out=turned)
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + training.patience < training.epochs
    once, _ = train_tuned(memory, examples, training, held_out=turned)
    assert torch.equal(once.patch_key.weight, maps.patch_key.weight)
    kept, last = _loss_of(maps, memory, turned), losses[-1]
    assert kept == pytest.approx(losses[best], abs=1e-5)
    assert kept < last


def _loss_of(maps: TunedMaps, memory: LabelledMemory, examples: Examples) -> float:
    from rad3d.mrad import _held_out_loss

    return _held_out_loss(maps, memory, examples)


def test_near_duplicates_do_not_answer_while_training() -> None:
    """Five keys; the one equal to the query has the largest similarity and falls to the 0.8 quantile."""
    keys = torch.eye(5)
    labels = np.array([1, 0, 0, 0, 0])
    image = LabelledImage("i", "s", "p", "x", "", "", "")
    images = tuple(replace(image, image=f"i{n}") for n in range(5))
    memory = LabelledMemory("f", images, keys, labels, keys, labels, np.arange(5))
    maps = TunedMaps("f", 5, 5)
    for layer in (maps.image_query, maps.image_key, maps.patch_query, maps.patch_key):
        torch.nn.init.eye_(layer.weight)
    query = torch.tensor([[1.0, 0, 0, 0, 0]])
    with torch.inference_mode():
        grid, whole = maps(memory, query, query[:, None, None], without_duplicates=False)
        assert float(grid) == pytest.approx(np.e / (np.e + 4))
        grid, whole = maps(memory, query, query[:, None, None], without_duplicates=True)
    assert float(grid) == 0.0
    assert float(whole) == 0.0


def test_losses_against_their_definitions() -> None:
    maps = torch.tensor([[[0.9, 0.2]], [[0.4, 0.6]]])
    masks = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    focal = np.mean([-((1 - p) ** 2) * np.log(p) for p in (0.9, 0.8, 0.4, 0.4)])
    dice = np.mean([1 - (2 * 0.9 + 1) / (1.1 + 1 + 1), 1 - (2 * 0.4 + 1) / (1.0 + 1 + 1)])
    normal = np.mean([1 - (2 * 0.8 + 1) / (0.9 + 1 + 1), 1 - (2 * 0.4 + 1) / (1.0 + 1 + 1)])
    assert float(focal_and_dice(maps, masks)) == pytest.approx(focal + dice, abs=1e-6)
    assert float(focal_and_dice(maps, masks, both=True)) == pytest.approx(focal + dice + normal, abs=1e-6)


def test_maps_survive_the_disk(
    tmp_path: Path, encoder: Encoder, auxiliary: tuple[LabelledMemory, Examples], target: Examples
) -> None:
    memory, examples = auxiliary
    maps, _ = train_tuned(memory, examples)
    path = maps.save(tmp_path / "maps.safetensors")
    loaded = TunedMaps.load(path, fingerprint=encoder.fingerprint)
    one, other = (score_tuned(m, memory, target.features, encoder.fingerprint) for m in (maps, loaded))
    assert torch.equal(one.maps, other.maps)
    assert torch.equal(one.image, other.image)
    with pytest.raises(MemoryFormatError, match="another"):
        TunedMaps.load(path, fingerprint="another")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(MemoryFormatError, match=r"maps\.safetensors"):
        TunedMaps.load(path, fingerprint=encoder.fingerprint)


def test_other_features_and_one_label_are_refused(
    encoder: Encoder, auxiliary: tuple[LabelledMemory, Examples], target: Examples
) -> None:
    memory, examples = auxiliary
    with pytest.raises(MemoryFormatError, match="another"):
        score_train_free(memory, target.features, "another")
    good = np.flatnonzero(~examples.masks.any(axis=(1, 2)))
    features = ClipFeatures(examples.features.image[good], examples.features.patches[good])
    one_sided = LabelledMemory.of(features, list(examples.masks[good]), names(len(good)), encoder.fingerprint)
    with pytest.raises(DatasetError, match="anomalous"):
        score_train_free(one_sided, target.features, encoder.fingerprint)
    with pytest.raises(DatasetError, match="anomalous"):
        train_tuned(one_sided, Examples(features, examples.masks[good]))


def test_queries_are_normalised_and_keys_are_not_twice(auxiliary: tuple[LabelledMemory, Examples]) -> None:
    memory, examples = auxiliary
    scaled = ClipFeatures(examples.features.image, examples.features.patches * 7)
    again = LabelledMemory.of(scaled, list(examples.masks), names(16), memory.fingerprint)
    torch.testing.assert_close(again.region_keys, memory.region_keys)
    one, other = (score_train_free(memory, f, memory.fingerprint).maps for f in (scaled, examples.features))
    torch.testing.assert_close(one, other)
    assert pooled(scaled.patches).norm(dim=-1).mean() > 2
