"""The view-aware memory: patches and descriptors of good specimens, with where they lie and who they came from.

On disk a memory is a folder with `memory.safetensors` (patches as float16, read row by row) and `memory.json`.
"""

import datetime
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from rad3d.arrays import Flags, Indices
from rad3d.errors import MemoryFormatError
from rad3d.files import atomic_folder, save_tensors
from rad3d.patches import Patches

MEMORY_FILES = ("memory.*", "inspector.*", "labelled.*", "expert.json", "maps.*", "prompts.*", "feedback.jsonl")
"""Patterns of what may be in the folder of a memory of any kind."""

FORMAT_VERSION = 2


@dataclass(frozen=True)
class Provenance:
    """Where a remembered specimen came from."""

    specimen: str
    part: str
    source: str
    sha256: str
    date: str


@dataclass(frozen=True, eq=False)
class Memory:
    """What queries are compared with; `add`, `remove` and `merged` return a new memory.

    Args:
        fingerprint: of the encoder; features of any other are refused.
        specimens: the remembered specimens.
        specimen_index: (n,) which specimen each row is of.
        view_names: (n,) names.
        descriptors: (n, l, c) float32.
        points_mm: (n, h, w, 3) float32, part frame.
        normals: (n, h, w, 3) float32, part frame.
        chroma: (n, h, w, 2) float32, shares of red and green.
        directions: (n, 3) float32, from the part to the camera.
        features: (n, l, h, w, c) float16, or the file they are read from on demand.
        pictures: (n,) what the encoder saw, as WebP for people; empty bytes, or no entries at all, where not kept.
    """

    fingerprint: str
    specimens: tuple[Provenance, ...]
    specimen_index: Indices
    view_names: tuple[str, ...]
    descriptors: torch.Tensor
    points_mm: np.ndarray
    normals: np.ndarray
    chroma: np.ndarray
    directions: np.ndarray
    features: torch.Tensor | Path
    pictures: tuple[bytes, ...] = ()

    def __len__(self) -> int:
        return len(self.specimen_index)

    def features_of(self, rows: Indices) -> torch.Tensor:
        """Patches (k, l, h, w, c) of the chosen rows, as stored; from a saved memory only these rows are read."""
        if isinstance(self.features, torch.Tensor):
            return self.features[torch.as_tensor(np.asarray(rows))]
        with safe_open(self.features, framework="pt") as file:
            rows_of_file = file.get_slice("features")
            return torch.stack([rows_of_file[int(row)] for row in rows])

    def rows_of(self, specimen: str) -> Flags:
        """Which rows are of that specimen."""
        known = [index for index, provenance in enumerate(self.specimens) if provenance.specimen == specimen]
        return np.isin(self.specimen_index, known)

    @staticmethod
    def of(
        patches: Patches,
        provenance: Provenance,
        view_names: Sequence[str],
        fingerprint: str,
        pictures: Sequence[bytes] = (),
    ) -> "Memory":
        """A memory of one specimen; `view_names` names its views, in the order of `patches.view_index`."""
        return Memory(
            fingerprint=fingerprint,
            specimens=(provenance,),
            specimen_index=np.zeros(len(patches.view_index), int),
            view_names=tuple(view_names[view] for view in patches.view_index),
            descriptors=patches.descriptors,
            points_mm=patches.points_mm,
            normals=patches.normals,
            chroma=patches.chroma,
            directions=patches.directions,
            features=patches.features.half(),
            pictures=tuple(pictures),
        )

    def add(self, other: "Memory") -> "Memory":
        """Remember the specimens of another memory too, say of one made by `of`; see `merged`."""
        return Memory.merged([self, other])

    @staticmethod
    def merged(memories: Sequence["Memory"]) -> "Memory":
        """All specimens of several memories.

        Raises:
            MemoryFormatError: other fingerprints, or a specimen in two of them.
        """
        first = memories[0]
        for other in memories[1:]:
            check_fingerprint(first.fingerprint, other.fingerprint)
        names = [provenance.specimen for memory in memories for provenance in memory.specimens]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise MemoryFormatError(
                "memory",
                expected="each specimen once",
                got=f"more than one {', '.join(repeated)}",
                remedy="remove it first, or give the new one another name",
            )
        offsets = np.cumsum([0, *(len(memory.specimens) for memory in memories)])
        return Memory(
            fingerprint=first.fingerprint,
            specimens=tuple(provenance for memory in memories for provenance in memory.specimens),
            specimen_index=np.concatenate(
                [memory.specimen_index + offset for memory, offset in zip(memories, offsets, strict=False)]
            ),
            view_names=tuple(name for memory in memories for name in memory.view_names),
            descriptors=torch.cat([memory.descriptors for memory in memories]),
            points_mm=np.concatenate([memory.points_mm for memory in memories]),
            normals=np.concatenate([memory.normals for memory in memories]),
            chroma=np.concatenate([memory.chroma for memory in memories]),
            directions=np.concatenate([memory.directions for memory in memories]),
            features=torch.cat([memory._all_features() for memory in memories]),
            pictures=tuple(picture for memory in memories for picture in memory.pictures or (b"",) * len(memory)),
        )

    def remove(self, specimen: str) -> "Memory":
        """The memory without one specimen.

        Raises:
            MemoryFormatError: no such specimen.
        """
        rows = self.rows_of(specimen)
        names = [p.specimen for p in self.specimens]
        if specimen not in names:
            raise MemoryFormatError(
                "memory", expected=f"one of {names}", got=specimen, remedy="see `rad3d info` for what it remembers"
            )
        keep = np.flatnonzero(~rows)
        kept = [index for index, name in enumerate(names) if name != specimen]
        return replace(
            self,
            specimens=tuple(self.specimens[index] for index in kept),
            specimen_index=np.searchsorted(kept, self.specimen_index[keep]),
            view_names=tuple(self.view_names[row] for row in keep),
            descriptors=self.descriptors[keep],
            points_mm=self.points_mm[keep],
            normals=self.normals[keep],
            chroma=self.chroma[keep],
            directions=self.directions[keep],
            features=self._all_features()[torch.as_tensor(keep)],
            pictures=tuple(self.pictures[row] for row in keep) if self.pictures else (),
        )

    def _all_features(self) -> torch.Tensor:
        return self.features_of(np.arange(len(self))) if isinstance(self.features, Path) else self.features

    def info(self) -> dict[str, Any]:
        """What the memory holds, for people."""
        return {
            "fingerprint": self.fingerprint,
            "views": len(self),
            "grid_hw": list(self.points_mm.shape[1:3]),
            "specimens": [asdict(provenance) for provenance in self.specimens],
        }

    def save(self, folder: str | Path) -> Path:
        """Write the memory into `folder`, all or nothing."""
        folder = Path(folder)
        with atomic_folder(folder, MEMORY_FILES) as new:
            self.write_into(new)
        return folder

    def write_into(self, folder: Path) -> None:
        """Write the memory's two files into an existing folder."""
        tensors = {
            "descriptors": self.descriptors,
            "points_mm": self.points_mm,
            "normals": self.normals,
            "chroma": self.chroma,
            "directions": self.directions,
            "pictures": np.frombuffer(b"".join(self.pictures), np.uint8),
        }
        if isinstance(self.features, Path):
            # rows already on disk: the whole file is the same, so nothing is read and written again
            shutil.copyfile(self.features, folder / "memory.safetensors")
        else:
            made_by = {"fingerprint": self.fingerprint}
            save_tensors({**tensors, "features": self.features}, folder / "memory.safetensors", made_by)
        header = {
            "format_version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "specimens": [asdict(provenance) for provenance in self.specimens],
            "specimen_index": self.specimen_index.tolist(),
            "view_names": list(self.view_names),
            "picture_bytes": [len(picture) for picture in self.pictures],
        }
        (folder / "memory.json").write_text(json.dumps(header, indent=1) + "\n")

    @staticmethod
    def load(folder: str | Path, *, fingerprint: str | None = None) -> "Memory":
        """Read a saved memory; its patches stay on disk until they are asked for.

        Args:
            folder: where `save` wrote.
            fingerprint: the encoder's, to be checked at once.

        Raises:
            MemoryFormatError: missing, truncated, of another format or another encoder.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise MemoryFormatError(
                folder,
                expected="the folder of a memory written by `rad3d fit`",
                got="no folder",
                remedy="check the path",
            )
        file = folder / "memory.safetensors"
        try:
            header = json.loads((folder / "memory.json").read_text())
            version = header["format_version"]
            if version != FORMAT_VERSION:
                raise MemoryFormatError(
                    folder,
                    expected=f"format version {FORMAT_VERSION}",
                    got=f"{version}",
                    remedy="fit again with this version of rad3d",
                )
            with safe_open(file, framework="pt") as stored:
                small = {name: stored.get_tensor(name) for name in stored.keys() if name != "features"}
                views = stored.get_slice("features").get_shape()[0]
                made_by = (stored.metadata() or {}).get("fingerprint", header["fingerprint"])
            if made_by != header["fingerprint"] or any(
                len(rows) != views
                for rows in (header["specimen_index"], header["view_names"], small["descriptors"], small["points_mm"])
            ):
                raise ValueError("memory.json and memory.safetensors are of different memories")
            memory = Memory(
                fingerprint=header["fingerprint"],
                specimens=tuple(Provenance(**values) for values in header["specimens"]),
                specimen_index=np.array(header["specimen_index"], int),
                view_names=tuple(header["view_names"]),
                descriptors=small["descriptors"],
                points_mm=small["points_mm"].numpy(),
                normals=small["normals"].numpy(),
                chroma=small["chroma"].numpy(),
                directions=small["directions"].numpy(),
                features=file,
                pictures=_pictures(small, header.get("picture_bytes", [])),
            )
        except MemoryFormatError:
            raise
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise MemoryFormatError(
                folder,
                expected="a memory written by `rad3d fit`",
                got=f"{type(error).__name__}: {error}",
                remedy="fit again; the files are missing or damaged",
            ) from error
        if fingerprint is not None:
            check_fingerprint(memory.fingerprint, fingerprint, folder)
        return memory


def _pictures(stored: dict[str, torch.Tensor], sizes: Sequence[int]) -> tuple[bytes, ...]:
    """The pictures of a saved memory, one after the other in one array; none in one that keeps none."""
    data = stored["pictures"].numpy().tobytes() if sizes else b""
    ends = np.cumsum(sizes).astype(int)
    return tuple(data[end - size : end] for end, size in zip(ends, sizes, strict=True))


def check_fingerprint(expected: str, got: str, source: str | Path = "memory") -> None:
    """Refuse features of another encoder, input size, layer choice or precision.

    Raises:
        MemoryFormatError: the fingerprints differ.
    """
    if expected != got:
        raise MemoryFormatError(
            source,
            expected=f"features of {expected}",
            got=f"features of {got}",
            remedy="use that encoder, or fit again",
        )


def provenance(specimen: str, part: str, source: str, sha256: str) -> Provenance:
    """A provenance dated today (UTC)."""
    return Provenance(specimen, part, source, sha256, datetime.datetime.now(datetime.UTC).date().isoformat())
