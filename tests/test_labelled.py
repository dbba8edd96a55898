"""The labelled memory: right keys with right labels, and nothing lost on the way to disk."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rad3d.encoder import ClipFeatures
from rad3d.errors import DatasetError, MemoryFormatError
from rad3d.labelled import ANOMALOUS, NORMAL, LabelledImage, LabelledMemory, pooled

GRID, WIDTH, SHARED = 6, 5, 4
FINGERPRINT = "clip/96x96/l0/float32/0"


def random_features(count: int, seed: int = 0) -> ClipFeatures:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(count, SHARED, generator=generator)
    patches = torch.randn(count, GRID, GRID, WIDTH, generator=generator)
    return ClipFeatures(torch.nn.functional.normalize(image, dim=-1), patches)


def names(count: int, start: int = 0) -> list[LabelledImage]:
    return [
        LabelledImage(f"i{n}", f"s{n // 2}", "gear", "set", f"{n:064}", "CC BY 4.0", "2025-01-01")
        for n in range(start, start + count)
    ]


def square(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((96, 96), bool)
    mask[rows, columns] = True
    return mask


EMPTY = square(slice(0), slice(0))
DEFECT = square(slice(16, 64), slice(48, 96))  # patches 1-3 down, 3-5 across


def memory(count: int = 4, start: int = 0) -> LabelledMemory:
    masks = [DEFECT if n % 2 else EMPTY for n in range(count)]
    return LabelledMemory.of(random_features(count, start), masks, names(count, start), FINGERPRINT)


def same(one: LabelledMemory, other: LabelledMemory) -> bool:
    return (
        one.fingerprint == other.fingerprint
        and one.images == other.images
        and torch.equal(one.image_keys, other.image_keys)
        and torch.equal(one.region_keys, other.region_keys)
        and one.image_labels.tolist() == other.image_labels.tolist()
        and one.region_labels.tolist() == other.region_labels.tolist()
        and one.region_image.tolist() == other.region_image.tolist()
    )


def test_pooling_against_the_loop(reference: object) -> None:
    patches = random_features(2).patches
    for image, expected in zip(pooled(patches), patches.numpy(), strict=True):
        np.testing.assert_allclose(image, reference.mrad_pooled(expected), atol=1e-6)  # type: ignore[attr-defined]


def test_regions_are_the_patches_wholly_inside_and_wholly_outside() -> None:
    features = random_features(1)
    found = LabelledMemory.of(features, [DEFECT], names(1), FINGERPRINT)
    tokens = pooled(features.patches)[0]
    inside = torch.zeros(GRID, GRID, dtype=torch.bool)
    inside[1:4, 3:6] = True
    assert found.region_labels.tolist() == [NORMAL, ANOMALOUS]
    for key, where in zip(found.region_keys, (~inside, inside), strict=True):
        mean = tokens[where].mean(0)
        torch.testing.assert_close(key, mean / mean.norm())
    assert found.image_labels.tolist() == [ANOMALOUS]


def test_patches_on_the_border_of_a_defect_belong_to_neither() -> None:
    """A mask that ends in the middle of a patch: with 16 pixels a patch the bilinear value there is one half."""
    features = random_features(1)
    found = LabelledMemory.of(features, [square(slice(16, 72), slice(48, 96))], names(1), FINGERPRINT)
    tokens = pooled(features.patches)[0]
    outside = torch.ones(GRID, GRID, dtype=torch.bool)
    outside[1:5, 3:6] = False
    mean = tokens[outside].mean(0)
    torch.testing.assert_close(found.region_keys[0], mean / mean.norm())


def test_masks_of_any_resolution_mean_the_same() -> None:
    fine = np.kron(DEFECT, np.ones((7, 7), bool))
    coarse = DEFECT[8::16, 8::16]
    found = [LabelledMemory.of(random_features(1), [m], names(1), FINGERPRINT) for m in (DEFECT, fine, coarse)]
    assert same(found[0], found[1])
    assert same(found[0], found[2])


def test_a_defect_smaller_than_a_patch_labels_the_image_only(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = LabelledMemory.of(random_features(1), [square(slice(30, 34), slice(30, 34))], names(1), FINGERPRINT)
    assert found.image_labels.tolist() == [ANOMALOUS]
    assert found.region_labels.tolist() == [NORMAL]
    assert "i0" in caplog.text
    with pytest.raises(DatasetError, match="larger than an encoder's patch"):
        found.check_labels()


def test_one_label_only_is_refused() -> None:
    memory().check_labels()
    only_good = LabelledMemory.of(random_features(2), [EMPTY, EMPTY], names(2), FINGERPRINT)
    with pytest.raises(DatasetError, match="no anomalous image among 2"):
        only_good.check_labels()
    full = np.ones((96, 96), bool)
    with pytest.raises(DatasetError, match="no normal image"):
        LabelledMemory.of(random_features(1), [full], names(1), FINGERPRINT).check_labels()
    with pytest.raises(DatasetError, match="no normal image among 0"):
        LabelledMemory.of(random_features(0), [], [], FINGERPRINT).check_labels()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 5), st.integers(0, 5), st.data())
def test_merge_and_remove_undo_each_other(first: int, second: int, data: st.DataObject) -> None:
    one, other = memory(first), memory(second, start=10)
    both = one.add(other)
    assert len(both) == first + second
    undone = both
    for entry in data.draw(st.permutations([image.image for image in other.images])):
        undone = undone.remove(image=entry)
    assert same(undone, one)
    rest = both
    for specimen in {image.specimen for image in one.images}:
        rest = rest.remove(specimen=specimen)
    assert same(rest, other)


def test_keys_stay_with_their_images() -> None:
    """After a removal in the middle every region still points at its own image."""
    whole = memory(6)
    left = whole.remove(specimen="s1")
    assert [image.image for image in left.images] == ["i0", "i1", "i4", "i5"]
    for row, image in enumerate(left.images):
        expected = whole.region_keys[torch.as_tensor(whole.region_image == int(image.image[1:]))]
        torch.testing.assert_close(left.region_keys[torch.as_tensor(left.region_image == row)], expected)


def test_merge_refuses_another_encoder_and_the_same_image_twice() -> None:
    with pytest.raises(MemoryFormatError, match="other"):
        memory().add(replace(memory(start=10), fingerprint="other"))
    with pytest.raises(MemoryFormatError, match="i0"):
        memory().add(memory())
    with pytest.raises(MemoryFormatError, match="nobody"):
        memory().remove(specimen="nobody")


@pytest.mark.parametrize("field", ["image_keys", "region_keys"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_keys_that_are_no_numbers_are_refused(field: str, value: float) -> None:
    keys = getattr(memory(), field).clone()
    keys[1, 2] = value
    with pytest.raises(MemoryFormatError, match="NaN"):
        replace(memory(), **{field: keys})


@pytest.mark.parametrize("count", [0, 5])
def test_save_and_load(tmp_path: Path, count: int) -> None:
    memory(count).save(tmp_path / "m")
    memory(count).save(tmp_path / "m")  # over an older one
    assert same(LabelledMemory.load(tmp_path / "m", fingerprint=FINGERPRINT), memory(count))
    with pytest.raises(MemoryFormatError, match="another"):
        LabelledMemory.load(tmp_path / "m", fingerprint="another")


@pytest.mark.parametrize("damage", ["no json", "no tensors", "truncated", "version", "field", "NaN"])
def test_damaged_files_are_said(tmp_path: Path, damage: str) -> None:
    folder = memory().save(tmp_path / "m")
    header, tensors = folder / "labelled.json", folder / "labelled.safetensors"
    if damage == "no json":
        header.unlink()
    elif damage == "no tensors":
        tensors.unlink()
    elif damage == "truncated":
        tensors.write_bytes(tensors.read_bytes()[:-9])
    elif damage == "version":
        header.write_text(header.read_text().replace('"format_version": 1', '"format_version": 99'))
    elif damage == "NaN":
        stored = load_file(tensors)
        save_file({**stored, "image_keys": stored["image_keys"] * float("nan")}, tensors)
    else:
        header.write_text(header.read_text().replace('"licence"', '"license"'))
    with pytest.raises(MemoryFormatError, match=str(folder)):
        LabelledMemory.load(folder)
