"""What labelled examples of other parts say of images: a labelled memory, its encoder, and what was trained on both.

On disk an expert is the folder of its labelled memory with `expert.json` (encoder) and, once trained,
`maps.safetensors` and `prompts.safetensors`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from rad3d.arrays import Image, ScoreMap
from rad3d.encoder import Encoder
from rad3d.errors import MemoryFormatError
from rad3d.files import atomic_folder
from rad3d.labelled import LabelledMemory
from rad3d.memory import MEMORY_FILES, check_fingerprint
from rad3d.mrad import LabelledScores, TunedMaps, score_train_free, score_tuned
from rad3d.patches import Patches, cut
from rad3d.prompted import DynamicPrompts, TextTower, prompts_fingerprint, score_prompted
from rad3d.settings import EncoderSettings, Settings
from rad3d.view import View

MradName = Literal["mrad-tf", "mrad-ft", "mrad-clip"]
MRAD_NAMES: tuple[MradName, ...] = ("mrad-tf", "mrad-ft", "mrad-clip")


@dataclass(frozen=True, eq=False)
class Expert:
    """One of MRAD's three methods, ready to judge.

    Args:
        method: which one.
        settings: of the encoder.
        memory: the labelled examples.
        maps: of mrad-ft and mrad-clip.
        prompts: of mrad-clip, with the text tower they belong to.
        folder: where it is on disk; None = nowhere.
    """

    method: MradName
    settings: EncoderSettings
    memory: LabelledMemory
    maps: TunedMaps | None = None
    prompts: tuple[TextTower, DynamicPrompts] | None = None
    folder: Path | None = None

    @cached_property
    def encoder(self) -> Encoder:
        """The CLIP encoder, loaded when first needed.

        Raises:
            MemoryFormatError: this machine's encoder gives other features than the memory holds.
        """
        encoder = Encoder.load(self.settings)
        check_fingerprint(self.memory.fingerprint, encoder.fingerprint, self.folder or "labelled memory")
        return encoder

    def judge(self, images: Sequence[Image]) -> LabelledScores:
        """Anomaly probabilities of images as large as the encoder's input."""
        features = self.encoder.encode_clip(images)
        fingerprint = self.encoder.fingerprint
        if not len(images):  # nothing to stack
            return LabelledScores(torch.zeros(0, *self.encoder.grid_hw), torch.zeros(0))
        if self.prompts is not None and self.maps is not None:
            tower, prompts = self.prompts
            projection = self.encoder.projection.cpu()
            return score_prompted(prompts, tower, self.maps, self.memory, features, projection, fingerprint)
        if self.maps is not None:
            return score_tuned(self.maps, self.memory, features, fingerprint)
        return score_train_free(self.memory, features, fingerprint)

    def judge_patches(self, views: Sequence[View], patches: Patches) -> tuple[ScoreMap, np.ndarray]:
        """Probabilities (n, h, w) of the patches of views, and (n,) of the windows they lie in."""
        size_hw = self.settings.input_hw
        found = self.judge(
            [cut(views[v], w, size_hw) for v, w in zip(patches.view_index, patches.windows, strict=True)]
        )
        return found.maps.numpy(), found.image.numpy()

    def save(self, folder: str | Path) -> Path:
        """Write it into `folder`, all or nothing."""
        with atomic_folder(folder, MEMORY_FILES) as new:
            self.write_into(new)
        return Path(folder)

    def write_into(self, folder: Path) -> None:
        """Write its files into an existing folder."""
        self.memory.write_into(folder)
        (folder / "expert.json").write_text(json.dumps({"encoder": asdict(self.settings)}, indent=1) + "\n")
        if self.maps is not None:
            self.maps.save(folder / "maps.safetensors")
        if self.prompts is not None:
            self.prompts[1].save(folder / "prompts.safetensors")

    @staticmethod
    def load(folder: str | Path, method: MradName, tower: TextTower | None = None) -> "Expert":
        """Read what `save` wrote.

        Args:
            folder: of the expert.
            method: which of those it was trained for.
            tower: of mrad-clip.

        Raises:
            MemoryFormatError: missing, damaged, of another encoder, or never trained for the method.
            DatasetError: one label only.
        """
        folder = Path(folder)
        memory = LabelledMemory.load(folder)
        memory.check_labels(folder)
        try:
            stored = json.loads((folder / "expert.json").read_text())["encoder"]
            settings = Settings.from_dict({"encoder": stored}).encoder
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise MemoryFormatError(
                folder,
                expected="a labelled memory of `rad3d fit --labelled`",
                got=f"{type(error).__name__}: {error}",
                remedy="make it again; the files are missing, damaged or of another version",
            ) from error
        maps, prompts = None, None
        if method != "mrad-tf":
            maps = TunedMaps.load(folder / "maps.safetensors", fingerprint=memory.fingerprint)
        if method == "mrad-clip":
            tower = tower or TextTower.load(settings.name)
            fingerprint = prompts_fingerprint(memory.fingerprint, tower)
            prompts = (tower, DynamicPrompts.load(folder / "prompts.safetensors", fingerprint=fingerprint))
        return Expert(method, settings, memory, maps, prompts, folder)
