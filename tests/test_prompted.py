"""MRAD-CLIP end to end on a small text tower with random weights: it learns, it is what the paper says, it is kept.

No accuracy is claimed: the published text towers are at the model hub. Not run with published weights.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rad3d import prompted
from rad3d.encoder import ClipFeatures
from rad3d.errors import DependencyError, MemoryFormatError, SettingsError, WeightsError
from rad3d.labelled import LabelledImage, LabelledMemory
from rad3d.mrad import Examples, Training, TunedMaps, score_tuned, train_tuned
from rad3d.prompted import (
    DynamicPrompts,
    TextTower,
    projected,
    prompts_fingerprint,
    score_prompted,
    train_prompted,
)
from rad3d.weights import fetch

GRID, WIDTH, SHARED, WORD = 6, 12, 8, 16
FINGERPRINT = "clip/96x96/l0/float32/0"


@pytest.fixture(scope="module")
def tower() -> TextTower:
    from open_clip.transformer import TextTransformer

    with torch.random.fork_rng():
        torch.manual_seed(7)
        return TextTower.of(TextTransformer(width=WORD, heads=2, layers=11, output_dim=SHARED))


@pytest.fixture(scope="module")
def projection() -> torch.Tensor:
    return torch.randn(SHARED, WIDTH, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def examples() -> Examples:
    """Defective patches lean to one direction, good ones to another; every second image has a defect."""
    generator = torch.Generator().manual_seed(1)
    patches = torch.randn(16, GRID, GRID, WIDTH, generator=generator) * 0.5
    patches[..., 0] += 1
    masks = np.zeros((16, 96, 96), bool)
    for number in range(1, 16, 2):
        row, column = torch.randint(0, GRID - 2, (2,), generator=generator).tolist()
        patches[number, row : row + 3, column : column + 3, 1] += 3
        masks[number, 16 * row : 16 * row + 48, 16 * column : 16 * column + 48] = True
    image = torch.randn(16, SHARED, generator=generator)
    return Examples(ClipFeatures(torch.nn.functional.normalize(image, dim=-1), patches), masks)


@pytest.fixture(scope="module")
def trained(examples: Examples) -> tuple[LabelledMemory, TunedMaps]:
    names = [LabelledImage(f"i{n}", f"s{n}", "made", "made", "", "own", "2025-01-01") for n in range(16)]
    memory = LabelledMemory.of(examples.features, list(examples.masks), names, FINGERPRINT)
    maps, _ = train_tuned(memory, examples, Training(epochs=20, rate=1e-2))
    return memory, maps


@pytest.fixture(scope="module")
def prompts(
    tower: TextTower, trained: tuple[LabelledMemory, TunedMaps], examples: Examples, projection: torch.Tensor
) -> Iterator[tuple[DynamicPrompts, list[float]]]:
    memory, maps = trained
    return train_prompted(tower, maps, memory, examples, projection, Training(epochs=15, rate=1e-2))


def slow_map(prompts: DynamicPrompts, tower: TextTower, patches: np.ndarray, tuned: np.ndarray) -> np.ndarray:
    """One image, the tower's whole context of 77 words, patch by patch."""
    state = {name: value.detach() for name, value in prompts.state_dict().items()}
    sides = {0: [], 1: []}
    for row, line in zip(patches, tuned, strict=True):
        for token, value in zip(row, line, strict=True):
            sides[int(value > 0.5)].append(token)
    texts = []
    for label, word in enumerate(("normal", "anomalous")):
        mean = np.mean(sides[label], axis=0) if sides[label] else np.zeros(patches.shape[-1])
        mean = torch.tensor(mean, dtype=torch.float32)
        shift = state[f"shift_{word}.weight"] @ mean + state[f"shift_{word}.bias"]
        ids = [tower.start] + [0] * 12 + list(tower.phrases[label])
        words = tower.model.token_embedding(torch.tensor(ids + [0] * (77 - len(ids))))
        words[1:13] = state["context"][label] + shift
        x = (words + tower.model.positional_embedding)[None]
        for number, block in enumerate(tower.model.transformer.resblocks):
            if number in range(1, 10):
                x[0, 1:5] = state["deep"][number - 1]
            x = block(x, attn_mask=tower.model.attn_mask)
        text = (tower.model.ln_final(x)[0, len(ids) - 1] @ tower.model.text_projection).numpy()
        texts.append(text / np.linalg.norm(text))
    result = np.zeros(patches.shape[:2])
    for index in np.ndindex(*result.shape):
        normal, anomalous = (np.exp(float(patches[index] @ text) / 0.07) for text in texts)
        total = normal + anomalous
        result[index] = (anomalous / total + 1 - normal / total) / 2
    return result


def test_the_loss_falls(prompts: tuple[DynamicPrompts, list[float]]) -> None:
    _, losses = prompts
    assert len(losses) == 15
    assert losses[-1] < 0.8 * losses[0]


def test_scores_equal_the_slow_version(
    tower: TextTower,
    trained: tuple[LabelledMemory, TunedMaps],
    prompts: tuple[DynamicPrompts, list[float]],
    examples: Examples,
    projection: torch.Tensor,
) -> None:
    memory, maps = trained
    found = score_prompted(prompts[0], tower, maps, memory, examples.features, projection, FINGERPRINT)
    tuned = score_tuned(maps, memory, examples.features, FINGERPRINT)
    patches = projected(examples.features, projection).numpy()
    generator = torch.Generator().manual_seed(2)
    cuts = torch.rand(3, GRID, GRID, generator=generator) * torch.tensor([1.0, 0.6, 0.4])[:, None, None]
    assert [int((cut > 0.5).sum()) > 0 for cut in cuts] == [True, True, False]  # the last has an empty side
    with torch.inference_mode():
        split = prompts[0](tower, torch.from_numpy(patches[:3]), cuts)
        for number in range(3):
            expected = slow_map(prompts[0], tower, patches[number], tuned.maps[number].numpy())
            np.testing.assert_allclose(found.maps[number], expected, atol=1e-5)
            expected = slow_map(prompts[0], tower, patches[number], cuts[number].numpy())
            np.testing.assert_allclose(split[number], expected, atol=1e-5)
    assert torch.equal(found.image, tuned.image)
    inside = torch.from_numpy(examples.masks[:, 8::16, 8::16])
    assert found.maps[inside].mean() > found.maps[~inside].mean() + 0.2


def test_the_image_shifts_its_own_prompts(
    tower: TextTower, prompts: tuple[DynamicPrompts, list[float]], examples: Examples, projection: torch.Tensor
) -> None:
    """The same patch is judged differently beside another anomalous side."""
    patches = projected(examples.features, projection)[:1]
    other = patches.clone()
    other[0, 0] = -other[0, 0]
    cut = torch.zeros(1, GRID, GRID)
    cut[0, 0] = 1.0
    with torch.inference_mode():
        one, two = (prompts[0](tower, tokens, cut)[0, 3, 3] for tokens in (patches, other))
    assert abs(float(one.logit() - two.logit())) > 0.1


def test_prompts_survive_the_disk_and_belong_to_their_tower(
    tmp_path: Path, tower: TextTower, prompts: tuple[DynamicPrompts, list[float]]
) -> None:
    from open_clip.transformer import TextTransformer

    own = prompts_fingerprint(FINGERPRINT, tower)
    path = prompts[0].save(tmp_path / "prompts.safetensors")
    loaded = DynamicPrompts.load(path, fingerprint=own)
    assert loaded.fingerprint == own
    for name, value in prompts[0].state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    stranger = TextTower.of(TextTransformer(width=WORD, heads=2, layers=11, output_dim=SHARED))
    with pytest.raises(MemoryFormatError, match="text-"):
        DynamicPrompts.load(path, fingerprint=prompts_fingerprint(FINGERPRINT, stranger))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(MemoryFormatError, match=r"prompts\.safetensors"):
        DynamicPrompts.load(path, fingerprint=own)


def test_a_tower_is_loaded_from_the_file_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole small CLIP as the hub keeps it, brought along; its image tower plays no part."""
    import open_clip

    size = {"embed_dim": SHARED, "vision_cfg": {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8}}
    size["text_cfg"] = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    (tmp_path / "tiny-clip.json").write_text(json.dumps(size))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    original = open_clip.create_model("tiny-clip", pretrained=None)
    save_file({name: value.contiguous() for name, value in original.state_dict().items()}, tmp_path / "f.safetensors")
    monkeypatch.setenv("RAD3D_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RAD3D_OFFLINE", "1")
    monkeypatch.setitem(prompted.TOWERS, "clip-b16-q8", ("tiny-clip", "clip-b16-text"))
    with pytest.raises(WeightsError, match=r"open_clip_model\.safetensors.*--from FILE"):
        TextTower.load("clip-b16-q8")
    fetch("clip-b16-text", tmp_path / "f.safetensors")
    loaded = TextTower.load("clip-b16-q8")
    assert loaded.fingerprint == TextTower.of(original).fingerprint
    assert loaded.width == 64
    with torch.inference_mode():  # with the tower's own words in place of learned ones it is CLIP
        ids = torch.zeros(2, 77, dtype=torch.long)
        for row, phrase in zip(ids, loaded.phrases, strict=True):
            row[: 13 + len(phrase)] = torch.tensor([loaded.start, *[320] * 12, *phrase])
        context = original.token_embedding(torch.full((1, 2, 12), 320))
        found = loaded.encode(context, torch.zeros(0, 4, 64))
        torch.testing.assert_close(found[0], original.encode_text(ids, normalize=True), atol=1e-5, rtol=1e-4)
    save_file({"token_embedding.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    monkeypatch.setenv("RAD3D_CACHE", str(tmp_path / "cache2"))
    fetch("clip-b16-text", tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="tiny-clip"):
        TextTower.load("clip-b16-q8")


def test_only_clip_encoders_have_a_text_tower() -> None:
    with pytest.raises(SettingsError, match="clip-l336"):
        TextTower.load("dinov3-b")


def test_without_open_clip_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(DependencyError, match=r"rad3d\[mrad\]"):
        TextTower.load("clip-l336")
