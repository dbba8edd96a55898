"""The labelled memory of MRAD (ICLR 2026): normal and anomalous images and regions, each a key with its label.

Where no good specimen of a part is known yet, labelled defects of other parts still say something (`rad3d.mrad`).
On disk a labelled memory is a folder with `labelled.safetensors` and `labelled.json`.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from rad3d.arrays import Flags, Indices, Mask
from rad3d.encoder import ClipFeatures
from rad3d.errors import DatasetError, MemoryFormatError
from rad3d.files import atomic_folder, save_tensors
from rad3d.memory import MEMORY_FILES, check_fingerprint

_log = logging.getLogger(__name__)

FORMAT_VERSION = 1
NORMAL, ANOMALOUS = 0, 1


@dataclass(frozen=True)
class LabelledImage:
    """Where a labelled image came from.

    Args:
        image: its name, unique in a memory.
        specimen: the physical piece it shows.
        part: the product type.
        source: data set or file.
        sha256: of the image file.
        licence: under which the labels may be used.
        date: when it was remembered, YYYY-MM-DD.
    """

    image: str
    specimen: str
    part: str
    source: str
    sha256: str
    licence: str
    date: str


@dataclass(frozen=True, eq=False)
class LabelledMemory:
    """Keys with their labels; `add`, `remove` and `merged` return a new memory.

    Args:
        fingerprint: of the encoder; features of any other are refused.
        images: the remembered images.
        image_keys: (n, d) float32 unit vectors, one an image.
        image_labels: (n,) 0 normal, 1 anomalous.
        region_keys: (m, c) float32 unit vectors, at most one normal and one anomalous an image.
        region_labels: (m,) 0 normal, 1 anomalous.
        region_image: (m,) the row in `images` of each region.
    """

    fingerprint: str
    images: tuple[LabelledImage, ...]
    image_keys: torch.Tensor
    image_labels: Indices
    region_keys: torch.Tensor
    region_labels: Indices
    region_image: Indices

    def __post_init__(self) -> None:
        for what, keys in (("image", self.image_keys), ("region", self.region_keys)):
            if not bool(torch.isfinite(keys).all()):
                raise MemoryFormatError(
                    "labelled memory",
                    expected=f"finite {what} keys",
                    got="NaN or infinite ones",
                    remedy="make it again from readable images",
                )
        names = [image.image for image in self.images]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise MemoryFormatError(
                "labelled memory",
                expected="each image once",
                got=f"more than one {', '.join(repeated[:3])}",
                remedy="remove it first",
            )

    def __len__(self) -> int:
        return len(self.images)

    @staticmethod
    def of(
        features: ClipFeatures, masks: Sequence[Mask], images: Sequence[LabelledImage], fingerprint: str
    ) -> "LabelledMemory":
        """A memory of labelled images; an image is anomalous where its mask has any pixel.

        Args:
            features: of the images, from `Encoder.encode_clip`.
            masks: per image the defective pixels, cropped and oriented as the encoder saw it, of any resolution.
            images: where they came from.
            fingerprint: the encoder's.
        """
        keys, labels, rows = [], [], []
        too_small = []
        for row, (tokens, mask) in enumerate(zip(pooled(features.patches), masks, strict=True)):
            found = _regions(tokens, mask)
            if mask.any() and ANOMALOUS not in found:
                too_small.append(images[row].image)
            for label, key in found.items():
                keys.append(key)
                labels.append(label)
                rows.append(row)
        if too_small:
            _log.warning("no patch lies wholly in the defects of %d images (%s)", len(too_small), too_small[0])
        width = features.patches.shape[-1]
        return LabelledMemory(
            fingerprint=fingerprint,
            images=tuple(images),
            image_keys=features.image,
            image_labels=np.array([int(mask.any()) for mask in masks], int),
            region_keys=torch.stack(keys) if keys else torch.zeros(0, width),
            region_labels=np.array(labels, int),
            region_image=np.array(rows, int),
        )

    def add(self, other: "LabelledMemory") -> "LabelledMemory":
        """Remember the images of another memory too; see `merged`."""
        return LabelledMemory.merged([self, other])

    @staticmethod
    def merged(memories: Sequence["LabelledMemory"]) -> "LabelledMemory":
        """All images of several memories.

        Raises:
            MemoryFormatError: other fingerprints, or an image in two of them.
        """
        for other in memories[1:]:
            check_fingerprint(memories[0].fingerprint, other.fingerprint, "labelled memory")
        offsets = np.cumsum([0, *(len(memory) for memory in memories)])
        return LabelledMemory(
            fingerprint=memories[0].fingerprint,
            images=tuple(image for memory in memories for image in memory.images),
            image_keys=torch.cat([memory.image_keys for memory in memories]),
            image_labels=np.concatenate([memory.image_labels for memory in memories]),
            region_keys=torch.cat([memory.region_keys for memory in memories]),
            region_labels=np.concatenate([memory.region_labels for memory in memories]),
            region_image=np.concatenate(
                [memory.region_image + offset for memory, offset in zip(memories, offsets, strict=False)]
            ),
        )

    def remove(self, *, specimen: str | None = None, image: str | None = None) -> "LabelledMemory":
        """The memory without the images of a specimen, or without one image.

        Raises:
            MemoryFormatError: nothing of that name.
        """
        gone = np.array([entry.specimen == specimen or entry.image == image for entry in self.images], bool)
        if not gone.any():
            raise MemoryFormatError(
                "labelled memory",
                expected="a remembered specimen or image",
                got=f"{specimen or image}",
                remedy="see `rad3d info` for what it remembers",
            )
        return self._kept(~gone)

    def _kept(self, keep: Flags) -> "LabelledMemory":
        rows = np.flatnonzero(keep)
        regions = np.flatnonzero(keep[self.region_image])
        return replace(
            self,
            images=tuple(self.images[row] for row in rows),
            image_keys=self.image_keys[torch.as_tensor(rows)],
            image_labels=self.image_labels[rows],
            region_keys=self.region_keys[torch.as_tensor(regions)],
            region_labels=self.region_labels[regions],
            region_image=np.searchsorted(rows, self.region_image[regions]),
        )

    def check_labels(self, source: str | Path = "labelled memory") -> None:
        """Refuse a memory that can only ever give one answer; `source` is where it lies.

        Raises:
            DatasetError: a label that no image or no region has.
        """
        for what, labels in (("image", self.image_labels), ("region", self.region_labels)):
            for label, word in ((NORMAL, "normal"), (ANOMALOUS, "anomalous")):
                if label not in labels:
                    raise DatasetError(
                        source,
                        expected=f"normal and anomalous {what}s",
                        got=f"no {word} {what} among {len(self)} images",
                        remedy="add images of that kind, with defects larger than an encoder's patch",
                    )

    def save(self, folder: str | Path) -> Path:
        """Write the memory into `folder`, all or nothing."""
        with atomic_folder(folder, MEMORY_FILES) as new:
            self.write_into(new)
        return Path(folder)

    def write_into(self, folder: Path) -> None:
        """Write the memory's two files into an existing folder."""
        tensors = {
            "image_keys": self.image_keys,
            "image_labels": self.image_labels.astype(np.int64),
            "region_keys": self.region_keys,
            "region_labels": self.region_labels.astype(np.int64),
            "region_image": self.region_image.astype(np.int64),
        }
        save_tensors(tensors, folder / "labelled.safetensors")
        header = {
            "format_version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "images": [asdict(image) for image in self.images],
        }
        (folder / "labelled.json").write_text(json.dumps(header, indent=1) + "\n")

    @staticmethod
    def load(folder: str | Path, *, fingerprint: str | None = None) -> "LabelledMemory":
        """Read a saved labelled memory.

        Raises:
            MemoryFormatError: missing, truncated, of another format or another encoder.
        """
        folder = Path(folder)
        try:
            header = json.loads((folder / "labelled.json").read_text())
            if header["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format version {header['format_version']}, not {FORMAT_VERSION}")
            stored = load_file(folder / "labelled.safetensors")
            memory = LabelledMemory(
                fingerprint=header["fingerprint"],
                images=tuple(LabelledImage(**values) for values in header["images"]),
                image_keys=stored["image_keys"],
                image_labels=stored["image_labels"].numpy(),
                region_keys=stored["region_keys"],
                region_labels=stored["region_labels"].numpy(),
                region_image=stored["region_image"].numpy(),
            )
        except MemoryFormatError as error:  # of keys or names, which do not know their folder
            raise MemoryFormatError(folder, expected=error.expected, got=error.got, remedy=error.remedy) from error
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise MemoryFormatError(
                folder,
                expected="a labelled memory",
                got=f"{type(error).__name__}: {error}",
                remedy="make it again; the files are missing, damaged or of another version",
            ) from error
        if fingerprint is not None:
            check_fingerprint(memory.fingerprint, fingerprint, folder)
        return memory


def pooled(patches: torch.Tensor) -> torch.Tensor:
    """Mean of 1 x 1, 3 x 3 and 5 x 5 average pooling over the grid of (b, h, w, c); zeros beyond it count."""
    channels_first = patches.permute(0, 3, 1, 2)
    sizes = [torch.nn.functional.avg_pool2d(channels_first, size, stride=1, padding=size // 2) for size in (1, 3, 5)]
    return torch.stack(sizes).mean(dim=0).permute(0, 2, 3, 1)


def _regions(tokens: torch.Tensor, mask: Mask) -> dict[int, torch.Tensor]:
    """Unit mean token of the patches wholly outside and wholly inside a mask, by label; none where there are none."""
    share = torch.nn.functional.interpolate(
        torch.from_numpy(np.ascontiguousarray(mask, np.float32))[None, None],
        size=(tokens.shape[0], tokens.shape[1]),
        mode="bilinear",
        align_corners=False,
    )[0, 0]
    # The interpolation's weights add up to 1 only within rounding.
    chosen = {NORMAL: share < 1e-6, ANOMALOUS: share > 1 - 1e-6}
    return {
        label: torch.nn.functional.normalize(tokens[where].mean(dim=0), dim=0)
        for label, where in chosen.items()
        if bool(where.any())
    }
