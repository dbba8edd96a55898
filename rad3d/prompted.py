"""MRAD-CLIP (ICLR 2026): text prompts that an image's own normal and anomalous side shift; needs the extra `mrad`.

MRAD-FT's map, cut at 0.5, splits an image's patches. The mean of each side goes through a linear map and is added to
the learned words of the normal and of the anomalous prompt; what the two prompts then resemble is the map.
Where the paper's description leaves a choice: patches are pooled, projected into the shared space and normalised
before they are averaged or compared; the temperature is CLIP's usual 0.07; an image's own probability stays MRAD-FT's.
Not run with published weights: the text towers are at the model hub.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch.nn.functional import interpolate, normalize

from rad3d.encoder import ClipFeatures
from rad3d.errors import DependencyError, MemoryFormatError, SettingsError, WeightsError
from rad3d.files import atomic_file, save_tensors
from rad3d.labelled import LabelledMemory, pooled
from rad3d.memory import check_fingerprint
from rad3d.mrad import Examples, LabelledScores, Training, TunedMaps, focal_and_dice, score_tuned
from rad3d.weights import weights_path

FORMAT_VERSION = 1
CONTEXT_TOKENS, DEEP_TOKENS, DEEP_LAYERS = 12, 4, 9
TEMPERATURE = 0.07
PHRASES = ("object.", "damaged object.")

TOWERS = {
    "clip-l336": ("ViT-L-14-336-quickgelu", "clip-l336-text"),
    "clip-b16-q8": ("ViT-B-16-quickgelu", "clip-b16-text"),
}
"""The text tower of each image tower: open_clip's name for it, and that of its weights (OpenAI's)."""


@dataclass(frozen=True, eq=False)
class TextTower:
    """CLIP's frozen text tower with the words of the two prompts.

    Args:
        model: an open_clip model with a text tower, or its TextTransformer.
        phrases: token ids of "object." and "damaged object.", each ending in end-of-text.
        start: token id of start-of-text.
        fingerprint: a hash of its weights.
    """

    model: Any
    phrases: tuple[tuple[int, ...], tuple[int, ...]]
    start: int
    fingerprint: str

    @staticmethod
    def of(model: Any) -> "TextTower":
        """An open_clip model's text tower, frozen.

        Raises:
            DependencyError: open_clip is not installed.
        """
        tokenizer = _open_clip().SimpleTokenizer()
        normal, anomalous = ((*tokenizer.encode(phrase), tokenizer.eot_token_id) for phrase in PHRASES)
        model = model.float().eval().requires_grad_(False)
        digest = hashlib.sha256()
        for name, value in sorted(model.state_dict().items()):
            if not name.startswith("visual."):
                digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
        return TextTower(model, (normal, anomalous), tokenizer.sot_token_id, digest.hexdigest()[:16])

    @staticmethod
    def load(encoder_name: str) -> "TextTower":
        """The text tower that belongs to a CLIP encoder, from the model hub through open_clip.

        Raises:
            SettingsError: no CLIP encoder.
            DependencyError: open_clip is not installed.
            WeightsError: unreachable, or not these weights.
        """
        if encoder_name not in TOWERS:
            raise SettingsError(
                f"encoder {encoder_name!r}",
                expected=f"one of {', '.join(TOWERS)}",
                got="an encoder without a text tower",
                remedy="choose one of these for mrad-clip, or use mrad-ft",
            )
        open_clip = _open_clip()
        name, weights = TOWERS[encoder_name]
        path = weights_path(weights)
        model = open_clip.create_model(name, pretrained=None)
        try:
            open_clip.load_checkpoint(model, str(path))
        except RuntimeError as error:
            raise WeightsError(
                path, expected=f"exactly the weights of {name}", got=str(error).splitlines()[0], remedy="fetch it again"
            ) from error
        return TextTower.of(model)

    @property
    def width(self) -> int:
        """Length of a word."""
        return int(self.model.token_embedding.weight.shape[1])

    def encode(self, context: torch.Tensor, deep: torch.Tensor) -> torch.Tensor:
        """Unit text features (b, 2, d) of "[context] object." and "[context] damaged object.".

        Args:
            context: (b, 2, 12, w) words in front of each phrase.
            deep: (layers, 4, w) words put in place of the first four in front of block 1, 2, ...
        """
        model, count = self.model, context.shape[0]
        length = 1 + context.shape[2] + max(map(len, self.phrases))  # attention is causal: what follows is unseen
        rows, ends = [], []
        for label, phrase in enumerate(self.phrases):
            before = model.token_embedding(torch.tensor([self.start])).expand(count, -1, -1)
            after = model.token_embedding(torch.tensor(phrase)).expand(count, -1, -1)
            row = torch.cat([before, context[:, label], after], dim=1)
            ends.append(row.shape[1] - 1)
            rows.append(torch.nn.functional.pad(row, (0, 0, 0, length - row.shape[1])))
        x = torch.stack(rows, dim=1).flatten(0, 1) + model.positional_embedding[:length]
        for number, block in enumerate(model.transformer.resblocks):
            if 1 <= number <= len(deep):
                words = deep[number - 1].expand(len(x), -1, -1)
                x = torch.cat([x[:, :1], words, x[:, 1 + words.shape[1] :]], dim=1)
            x = block(x, attn_mask=model.attn_mask[:length, :length])
        last = model.ln_final(x).unflatten(0, (count, 2))
        found = torch.stack([last[:, label, end] for label, end in enumerate(ends)], dim=1) @ model.text_projection
        return normalize(found, dim=-1)


class DynamicPrompts(torch.nn.Module):
    """What MRAD-CLIP learns: the words of both prompts, deep words, and how an image's two sides shift the words."""

    def __init__(self, fingerprint: str, image_width: int, word_width: int, deep_layers: int = DEEP_LAYERS) -> None:
        super().__init__()
        self.fingerprint = fingerprint
        self.context = torch.nn.Parameter(torch.zeros(2, CONTEXT_TOKENS, word_width))
        self.deep = torch.nn.Parameter(torch.zeros(deep_layers, DEEP_TOKENS, word_width))
        self.shift_normal = torch.nn.Linear(image_width, word_width)
        self.shift_anomalous = torch.nn.Linear(image_width, word_width)

    def forward(self, tower: TextTower, patches: torch.Tensor, tuned_map: torch.Tensor) -> torch.Tensor:
        """Anomaly map (b, h, w) of unit projected patches (b, h, w, d), split by MRAD-FT's map (b, h, w)."""
        anomalous = (tuned_map > 0.5)[..., None]
        shifts = torch.stack(
            [
                self.shift_normal(_mean_where(patches, ~anomalous)),
                self.shift_anomalous(_mean_where(patches, anomalous)),
            ],
            dim=1,
        )
        text = tower.encode(self.context + shifts[:, :, None], self.deep)
        alike = (torch.einsum("bhwd,bld->bhwl", patches, text) / TEMPERATURE).softmax(dim=-1)
        return (alike[..., 1] + 1 - alike[..., 0]) / 2

    def save(self, path: str | Path) -> Path:
        """Write the prompts into a safetensors file, all or nothing."""
        with atomic_file(path) as partial:
            metadata = {"format_version": str(FORMAT_VERSION), "fingerprint": self.fingerprint}
            save_tensors(self.state_dict(), partial, metadata)
        return Path(path)

    @staticmethod
    def load(path: str | Path, *, fingerprint: str) -> "DynamicPrompts":
        """Read saved prompts; `fingerprint` is `prompts_fingerprint` of the encoder and the text tower.

        Raises:
            MemoryFormatError: missing, damaged, of another format, encoder or text tower.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}
            if metadata["format_version"] != str(FORMAT_VERSION):
                raise ValueError(f"format version {metadata['format_version']}, not {FORMAT_VERSION}")
            word_width, image_width = state["shift_normal.weight"].shape
            prompts = DynamicPrompts(metadata["fingerprint"], image_width, word_width, len(state["deep"]))
            prompts.load_state_dict(state)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise MemoryFormatError(
                path,
                expected="trained prompts of MRAD-CLIP",
                got=f"{type(error).__name__}: {error}",
                remedy="train again; the file is missing, damaged or of another version",
            ) from error
        check_fingerprint(prompts.fingerprint, fingerprint, path)
        return prompts.eval()


def prompts_fingerprint(encoder: str, tower: TextTower) -> str:
    """What prompts belong to: the encoder's fingerprint and the text tower's."""
    return f"{encoder}/text-{tower.fingerprint}"


def projected(features: ClipFeatures, projection: torch.Tensor) -> torch.Tensor:
    """Pooled patches in the space shared with text, unit length: (b, h, w, c) and (d, c) -> (b, h, w, d)."""
    return normalize(pooled(features.patches) @ projection.T, dim=-1)


def score_prompted(
    prompts: DynamicPrompts,
    tower: TextTower,
    maps: TunedMaps,
    memory: LabelledMemory,
    features: ClipFeatures,
    projection: torch.Tensor,
    fingerprint: str,
) -> LabelledScores:
    """MRAD-CLIP with trained prompts on top of trained MRAD-FT.

    Raises:
        MemoryFormatError: features, maps, memory or prompts of another encoder or text tower.
        DatasetError: a memory with one label only.
    """
    check_fingerprint(prompts.fingerprint, prompts_fingerprint(fingerprint, tower), "prompts of MRAD-CLIP")
    tuned = score_tuned(maps, memory, features, fingerprint)
    with torch.inference_mode():
        return LabelledScores(prompts(tower, projected(features, projection), tuned.maps), tuned.image)


def train_prompted(
    tower: TextTower,
    maps: TunedMaps,
    memory: LabelledMemory,
    examples: Examples,
    projection: torch.Tensor,
    training: Training | None = None,
) -> tuple[DynamicPrompts, list[float]]:
    """Train MRAD-CLIP's prompts, MRAD-FT's maps staying as they are; the loss of each epoch comes with them.

    Args:
        training: None = five epochs, as in the paper.
    """
    training = training or Training(epochs=5)
    patches = projected(examples.features, projection)
    tuned = score_tuned(maps, memory, examples.features, memory.fingerprint).maps
    generator = torch.Generator().manual_seed(training.seed)
    deep_layers = min(DEEP_LAYERS, len(tower.model.transformer.resblocks) - 1)
    prompts = DynamicPrompts(
        prompts_fingerprint(memory.fingerprint, tower), patches.shape[-1], tower.width, deep_layers
    )
    for parameter in prompts.parameters():
        torch.nn.init.normal_(parameter, std=0.02, generator=generator)  # as CLIP fills its words
    optimiser = torch.optim.Adam(prompts.parameters(), lr=training.rate, betas=(0.5, 0.999))
    losses = []
    for _ in range(training.epochs):
        total = 0.0
        for rows in torch.split(torch.randperm(len(patches), generator=generator), training.batch):
            truth = torch.from_numpy(examples.masks[rows.numpy()].astype(np.float32))
            found = prompts(tower, patches[rows], tuned[rows])
            large = interpolate(found[:, None], size=truth.shape[1:], mode="bilinear", align_corners=False)[:, 0]
            loss = focal_and_dice(large, truth, both=True)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            total += float(loss.detach()) * len(rows)
        losses.append(total / len(patches))
    return prompts.eval(), losses


def _mean_where(patches: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Mean of the chosen patches of each image, zeros where none is: (b, h, w, d), (b, h, w, 1) -> (b, d)."""
    return (patches * chosen).sum(dim=(1, 2)) / chosen.sum(dim=(1, 2)).clamp_min(1)


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise DependencyError(
            "MRAD-CLIP", expected="open_clip", got=str(error), remedy="pip install 'rad3d[mrad]'"
        ) from error
    return open_clip
