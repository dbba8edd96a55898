"""MRAD (ICLR 2026) from its labelled memory: scores without training (TF), and with two trained linear maps (FT).

Defects of other parts speak for parts of which nothing good is known yet. Here an image is one encoder input; a map
has one value a patch, `pixel_maps` and `image_scores` are how the paper reads it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch.nn.functional import cross_entropy, interpolate, normalize

from rad3d.arrays import Indices
from rad3d.encoder import ClipFeatures
from rad3d.errors import MemoryFormatError
from rad3d.files import atomic_file, save_tensors
from rad3d.labelled import ANOMALOUS, LabelledMemory, pooled
from rad3d.memory import check_fingerprint

FORMAT_VERSION = 1
IMAGE_TEMPERATURE = 0.07


@dataclass(frozen=True, eq=False)
class LabelledScores:
    """How anomalous labelled examples make b images look.

    Args:
        maps: (b, h, w) float32 probability of an anomaly per patch.
        image: (b,) float32 probability of an anomaly per image.
    """

    maps: torch.Tensor
    image: torch.Tensor


def score_train_free(memory: LabelledMemory, features: ClipFeatures, fingerprint: str) -> LabelledScores:
    """MRAD-TF: softmax over the similarities to all keys, without a temperature, times their one-hot labels.

    Raises:
        MemoryFormatError: features of another encoder.
        DatasetError: a memory with one label only.
    """
    check_fingerprint(memory.fingerprint, fingerprint, "labelled memory")
    memory.check_labels()
    patches = normalize(pooled(features.patches), dim=-1)
    return LabelledScores(
        maps=torch.stack([label_probability(image, memory.region_keys, memory.region_labels) for image in patches]),
        image=label_probability(features.image, memory.image_keys, memory.image_labels),
    )


def label_probability(queries: torch.Tensor, keys: torch.Tensor, labels: Indices) -> torch.Tensor:
    """softmax(queries . keys) summed over the anomalous keys: (..., c), (m, c), (m,) -> (...)."""
    return (queries @ keys.T).softmax(dim=-1)[..., torch.as_tensor(labels) == ANOMALOUS].sum(dim=-1)


def pixel_maps(maps: torch.Tensor, size_hw: tuple[int, int], sigma: float = 4.0) -> np.ndarray:
    """Patch maps (b, h, w) at the size of the encoder's input: bilinear, then a Gaussian of `sigma` pixels."""
    from scipy.ndimage import gaussian_filter

    large = interpolate(maps[:, None], size=size_hw, mode="bilinear", align_corners=False)[:, 0]
    return np.stack([gaussian_filter(image, sigma) for image in large.numpy()])


def image_scores(pixel_maps: np.ndarray, image: torch.Tensor) -> np.ndarray:
    """0.3 of the mean of a map's top 1 %, and 0.7 of the image's own probability: (b, H, W), (b,) -> (b,)."""
    flat = np.sort(pixel_maps.reshape(len(pixel_maps), -1), axis=1)
    top = flat[:, -max(flat.shape[1] // 100, 1) :].mean(axis=1)
    return np.asarray(0.3 * top + 0.7 * image.numpy(), np.float32)


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled images to train with.

    Args:
        features: of n images.
        masks: (n, H, W) bool, defective pixels at one size, cropped and oriented as the encoder saw the images.
    """

    features: ClipFeatures
    masks: np.ndarray


@dataclass(frozen=True)
class Training:
    """How MRAD-FT is trained; the defaults are the paper's, which trains for one epoch on thousands of images.

    Args:
        epochs: at most so many passes; with held-out examples it stops after `patience` without a better loss.
        batch: images a step.
        rate: of Adam (betas 0.5 and 0.999), falling by a cosine to 1e-6.
        seed: of the maps' first values and of the order of images.
    """

    epochs: int = 1
    patience: int = 3
    batch: int = 8
    rate: float = 4e-4
    seed: int = 0


class TunedMaps(torch.nn.Module):
    """MRAD-FT: linear maps (no bias) of queries and of keys, for images d -> d and for patches c -> d."""

    def __init__(self, fingerprint: str, image_width: int, patch_width: int) -> None:
        super().__init__()
        self.fingerprint = fingerprint
        self.image_query = torch.nn.Linear(image_width, image_width, bias=False)
        self.image_key = torch.nn.Linear(image_width, image_width, bias=False)
        self.patch_query = torch.nn.Linear(patch_width, image_width, bias=False)
        self.patch_key = torch.nn.Linear(patch_width, image_width, bias=False)

    def forward(
        self, memory: LabelledMemory, image: torch.Tensor, patches: torch.Tensor, *, without_duplicates: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Anomaly probabilities (b, h, w) and (b,) of unit features (b, d) and (b, h, w, c).

        `without_duplicates`, for training, leaves out for each query the keys most like it before the maps: above
        the 0.8 quantile for patches and the 0.95 quantile for images. Its own key is among them.
        """
        maps = _mapped_probability(
            patches, memory.region_keys, memory.region_labels, self.patch_query, self.patch_key,
            0.8 if without_duplicates else None,
        )  # fmt: skip
        whole = _mapped_probability(
            image, memory.image_keys, memory.image_labels, self.image_query, self.image_key,
            0.95 if without_duplicates else None,
        )  # fmt: skip
        return maps, whole

    def save(self, path: str | Path) -> Path:
        """Write the maps into a safetensors file, all or nothing."""
        with atomic_file(path) as partial:
            metadata = {"format_version": str(FORMAT_VERSION), "fingerprint": self.fingerprint}
            save_tensors(self.state_dict(), partial, metadata)
        return Path(path)

    @staticmethod
    def load(path: str | Path, *, fingerprint: str) -> "TunedMaps":
        """Read saved maps.

        Raises:
            MemoryFormatError: missing, damaged, of another format or another encoder.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}
            if metadata["format_version"] != str(FORMAT_VERSION):
                raise ValueError(f"format version {metadata['format_version']}, not {FORMAT_VERSION}")
            patch_width = state["patch_query.weight"].shape[1]
            maps = TunedMaps(metadata["fingerprint"], len(state["image_query.weight"]), patch_width)
            maps.load_state_dict(state)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise MemoryFormatError(
                path,
                expected="trained maps of MRAD-FT",
                got=f"{type(error).__name__}: {error}",
                remedy="train again; the file is missing, damaged or of another version",
            ) from error
        check_fingerprint(maps.fingerprint, fingerprint, path)
        return maps.eval()


def score_tuned(maps: TunedMaps, memory: LabelledMemory, features: ClipFeatures, fingerprint: str) -> LabelledScores:
    """MRAD-FT with trained maps.

    Raises:
        MemoryFormatError: features, maps or memory of another encoder.
        DatasetError: a memory with one label only.
    """
    check_fingerprint(memory.fingerprint, fingerprint, "labelled memory")
    check_fingerprint(maps.fingerprint, fingerprint, "maps of MRAD-FT")
    memory.check_labels()
    with torch.inference_mode():
        patches = normalize(pooled(features.patches), dim=-1)
        rows = [maps(memory, features.image[i : i + 1], patches[i : i + 1], without_duplicates=False)
                for i in range(len(patches))]  # fmt: skip
    return LabelledScores(torch.cat([row[0] for row in rows]), torch.cat([row[1] for row in rows]))


def train_tuned(
    memory: LabelledMemory, examples: Examples, training: Training | None = None, held_out: Examples | None = None
) -> tuple[TunedMaps, list[float]]:
    """Train MRAD-FT's maps on the images behind a labelled memory.

    Args:
        memory: made of the same images.
        examples: those images with their masks.
        training: None = as in the paper.
        held_out: images of other parts, whose loss decides which epoch's maps are kept.

    Returns:
        The maps, and the loss of each epoch: on the held-out examples where there are any, else the training loss.

    Raises:
        DatasetError: a memory with one label only.
    """
    training = training or Training()
    memory.check_labels()
    patches = normalize(pooled(examples.features.patches), dim=-1)
    generator = torch.Generator().manual_seed(training.seed)
    maps = TunedMaps(memory.fingerprint, memory.image_keys.shape[1], memory.region_keys.shape[1])
    for parameter in maps.parameters():
        bound = parameter.shape[1] ** -0.5  # as torch fills a Linear, but from our own generator
        torch.nn.init.uniform_(parameter, -bound, bound, generator=generator)
    optimiser = torch.optim.Adam(maps.parameters(), lr=training.rate, betas=(0.5, 0.999))
    steps = training.epochs * -(-len(patches) // training.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=1e-6)
    losses: list[float] = []
    best = maps.state_dict()
    for _ in range(training.epochs):
        total = 0.0
        for rows in torch.split(torch.randperm(len(patches), generator=generator), training.batch):
            found = maps(memory, examples.features.image[rows], patches[rows], without_duplicates=True)
            loss = _loss(found[0], found[1], examples.masks[rows.numpy()])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        losses.append(total / len(patches) if held_out is None else _held_out_loss(maps, memory, held_out))
        if held_out is None or losses[-1] <= min(losses):
            best = {name: value.clone() for name, value in maps.state_dict().items()}
        elif len(losses) - 1 - int(np.argmin(losses)) >= training.patience:
            break
    maps.load_state_dict(best)
    return maps.eval(), losses


def focal_and_dice(maps: torch.Tensor, masks: torch.Tensor, *, both: bool = False) -> torch.Tensor:
    """Focal loss (gamma 2) of both labels and dice loss of the anomalous one (or of both), each the mean over images.

    Args:
        maps: (b, H, W) anomaly probabilities.
        masks: (b, H, W) 0 or 1.
        both: add the dice loss of the normal label.
    """
    right = torch.where(masks > 0.5, maps, 1 - maps).clamp_min(1e-5)
    focal = (-((1 - right) ** 2) * right.log()).mean()
    dice = _dice(maps, masks)
    return focal + dice + (_dice(1 - maps, 1 - masks) if both else 0.0)


def _dice(maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    maps, masks = maps.flatten(1), masks.flatten(1)
    return (1 - (2 * (maps * masks).sum(1) + 1) / (maps.sum(1) + masks.sum(1) + 1)).mean()


def _loss(maps: torch.Tensor, image: torch.Tensor, masks: np.ndarray) -> torch.Tensor:
    truth = torch.from_numpy(masks.astype(np.float32))
    large = interpolate(maps[:, None], size=masks.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    labels = torch.from_numpy(masks.any(axis=(1, 2)).astype(np.int64))
    both = torch.stack([1 - image, image], dim=-1) / IMAGE_TEMPERATURE
    return focal_and_dice(large, truth) + cross_entropy(both, labels)


def _held_out_loss(maps: TunedMaps, memory: LabelledMemory, examples: Examples) -> float:
    patches = normalize(pooled(examples.features.patches), dim=-1)
    with torch.inference_mode():
        found = maps(memory, examples.features.image, patches, without_duplicates=False)
        return float(_loss(found[0], found[1], examples.masks))


def _mapped_probability(
    queries: torch.Tensor,
    keys: torch.Tensor,
    labels: Indices,
    query_map: torch.nn.Linear,
    key_map: torch.nn.Linear,
    quantile: float | None,
) -> torch.Tensor:
    logits: torch.Tensor = query_map(queries) @ key_map(keys).T
    if quantile is not None:
        alike = queries @ keys.T
        logits = logits.masked_fill(alike > _quantile(alike, quantile), -torch.inf)
    return logits.softmax(dim=-1)[..., torch.as_tensor(labels) == ANOMALOUS].sum(dim=-1)


def _quantile(values: torch.Tensor, share: float) -> torch.Tensor:
    """`torch.quantile` along the last axis, kept, without its limit on the size of the input."""
    place = share * (values.shape[-1] - 1)
    below, above = (values.kthvalue(int(k) + 1, dim=-1, keepdim=True).values for k in (np.floor(place), np.ceil(place)))
    return below + (above - below) * (place % 1)
