"""Labelled samples of other parts -> what MRAD remembers and trains on; and the proof that they are others.

An image with a cloud is cropped to the part at true aspect, as rad3d's own patches are; an image alone is squashed as
published; of meshes and clouds views are rendered.
"""

import datetime
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree

from rad3d.arrays import Image, Mask
from rad3d.backproject import view_map
from rad3d.datasets import dataset_info, load_samples
from rad3d.datasets.check import detect
from rad3d.datasets.sample import Choice, Sample
from rad3d.encoder import ClipFeatures, Encoder
from rad3d.errors import DatasetError, Rad3dError, ScanError
from rad3d.expert import Expert, MradName
from rad3d.files import sha256_of
from rad3d.labelled import LabelledImage, LabelledMemory
from rad3d.looks import box_of, cropped, load_views, mask_at, squashed
from rad3d.mrad import Examples, Training, TunedMaps, train_tuned
from rad3d.patches import cut, windows_of
from rad3d.prediction import WHOLE, Box
from rad3d.progress import Progress
from rad3d.prompted import TextTower, train_prompted
from rad3d.render import renderer_for
from rad3d.settings import Settings
from rad3d.view import View
from rad3d.viewpoints import choose_viewpoints

_log = logging.getLogger(__name__)

EPOCHS = 10
"""At most: what held-out parts say decides. The paper's single epoch is over thousands of images."""
LABEL_MM = 1.0
"""A pixel of a rendered view is as defective as the labelled point this near."""

Bad = Callable[[Rad3dError], None]
_Look = tuple[str, Image, Mask]
"""Name, encoder's input, and its defective pixels."""


@dataclass(frozen=True, eq=False)
class Auxiliary:
    """Where labels come from: a data set, or a folder of `rad3d fit --labelled`.

    Args:
        root: the folder.
        samples: of the data set; empty where it is remembered already.
        origins: the images (of meshes and clouds the files) behind it.
    """

    root: Path
    samples: tuple[Sample, ...]
    origins: tuple[LabelledImage, ...]

    @staticmethod
    def at(root: str | Path, choice: Choice) -> "Auxiliary":
        """List what is there; nothing but names and hashes is read.

        Raises:
            DatasetError: no data set and no labelled memory, or only some parts of a memory.
        """
        root = Path(root)
        if (root / "labelled.json").exists():
            remembered = Auxiliary(root, (), LabelledMemory.load(root).images)
            if choice.parts and set(choice.parts) != set(remembered.parts):
                raise DatasetError(
                    root,
                    expected=f"all parts of a labelled memory ({', '.join(remembered.parts)})",
                    got=f"only {', '.join(choice.parts)}, though what was trained knows all of them",
                    remedy="leave the parts out, or learn them alone: `rad3d fit --labelled SET --labelled-parts PART`",
                )
            return remembered
        name = detect(root)
        samples = tuple(load_samples(name, root, choice))
        return Auxiliary(root, samples, tuple(origin for sample in samples for origin in origins(sample, root)))

    @property
    def digest(self) -> str:
        """What predictions depend on."""
        named = sorted((origin.image, origin.sha256) for origin in self.origins)
        return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:8]

    @property
    def parts(self) -> list[str]:
        """Sorted."""
        return sorted({origin.part for origin in self.origins})

    def check_apart(self, samples: Sequence[Sample], root: Path, *, same_part: bool) -> None:
        """Refuse labels of what is to be judged.

        Args:
            samples: all that are to be learned from or judged.
            root: of their data set.
            same_part: whether a shared part is meant.

        Raises:
            DatasetError: a shared image, specimen or (unless meant) part.
        """
        known = {origin.sha256 for origin in self.origins if origin.sha256}
        specimens = {(origin.source, origin.part, origin.specimen) for origin in self.origins}
        for sample in samples:
            for origin in origins(sample, root):
                if origin.sha256 in known or (origin.source, origin.part, origin.specimen) in specimens:
                    raise DatasetError(
                        self.root,
                        expected="labelled images of other specimens than those to be judged",
                        got=f"{origin.part}/{origin.specimen} ({origin.image}) in both",
                        remedy="leave it out of one, or name other parts with --auxiliary-parts",
                    )
        shared = self.shared_parts(samples)
        if shared and not same_part:
            raise DatasetError(
                self.root,
                expected="labels of other parts",
                got=f"the part {', '.join(shared)} in both",
                remedy="name other parts with --auxiliary-parts, or say --same-part: the result is then not zero-shot",
            )

    def shared_parts(self, samples: Sequence[Sample]) -> list[str]:
        """Parts that are to be judged, too."""
        return sorted(set(self.parts) & {sample.part for sample in samples})

    def learned(self, method: MradName, settings: Settings, track: Progress, bad: Bad) -> Expert:
        """Remember the labels, and train what the method trains; or read what was learned already.

        Raises:
            DatasetError: no normal or no anomalous image or region among the labels.
        """
        if not self.samples:
            return Expert.load(self.root, method)
        tower = TextTower.load(settings.encoder.name) if method == "mrad-clip" else None
        encoder = Encoder.load(settings.encoder)
        return Lessons.of(self.samples, self.root, encoder, settings, track, bad).expert(method, encoder, tower)


def origins(sample: Sample, root: Path) -> Iterator[LabelledImage]:
    """Where a sample's images come from."""
    info = dataset_info(sample.dataset)
    source, today = f"{info.title}, {root.resolve()}", datetime.datetime.now(datetime.UTC).date().isoformat()
    files: list[tuple[str, Path | None]] = [(view.name, view.image) for view in sample.views]
    files = files or [("scan", sample.scan)]
    for name, path in files:
        image = f"{sample.part}/{sample.specimen}/{name}"
        sha256 = sha256_of(path) if path is not None and path.is_file() else ""
        yield LabelledImage(image, sample.specimen, sample.part, source, sha256, info.licence, today)


@dataclass(frozen=True, eq=False)
class Lessons:
    """Labelled images as MRAD reads them; about 3 MB an image.

    Args:
        images: where they came from.
        examples: their features and masks.
        fingerprint: the encoder's.
    """

    images: tuple[LabelledImage, ...]
    examples: Examples
    fingerprint: str

    @staticmethod
    def of(
        samples: Sequence[Sample], root: Path, encoder: Encoder, settings: Settings, track: Progress, bad: Bad
    ) -> "Lessons":
        """Encode every labelled image of the samples.

        `bad` is called with the error of each sample that cannot be read; it raises unless they may be skipped.
        """
        images: list[LabelledImage] = []
        masks: list[Mask] = []
        encoded: list[ClipFeatures] = []
        for sample in track(samples, "remembering labels"):
            try:
                seen = list(_looks(sample, encoder, settings))
                known = {origin.image: origin for origin in origins(sample, root)}
            except (ScanError, DatasetError) as error:
                bad(error)
                continue
            for name, _, mask in seen:
                origin = known.get(name) or replace(next(iter(known.values())), image=name)
                images.append(origin)
                masks.append(mask)
            encoded.append(encoder.encode_clip([image for _, image, _ in seen]))
        features = ClipFeatures(
            torch.cat([torch.zeros(0, len(encoder.projection)), *(one.image for one in encoded)]),
            torch.cat([torch.zeros(0, *encoder.grid_hw, encoder.channels), *(one.patches for one in encoded)]),
        )
        stacked = np.array(masks, bool).reshape(-1, *encoder.settings.input_hw)
        return Lessons(tuple(images), Examples(features, stacked), encoder.fingerprint)

    @staticmethod
    def joined(lessons: Sequence["Lessons"]) -> "Lessons":
        """All of them together."""
        features = ClipFeatures(
            torch.cat([one.examples.features.image for one in lessons]),
            torch.cat([one.examples.features.patches for one in lessons]),
        )
        masks = np.concatenate([one.examples.masks for one in lessons])
        images = tuple(image for one in lessons for image in one.images)
        return Lessons(images, Examples(features, masks), lessons[0].fingerprint)

    def only(self, keep: np.ndarray) -> "Lessons":
        """Those of some rows."""
        rows = torch.as_tensor(np.flatnonzero(keep))
        features = ClipFeatures(self.examples.features.image[rows], self.examples.features.patches[rows])
        images = tuple(self.images[int(row)] for row in rows)
        return Lessons(images, Examples(features, self.examples.masks[keep]), self.fingerprint)

    def memory(self) -> LabelledMemory:
        """Their keys and labels.

        Raises:
            DatasetError: one label only.
        """
        memory = LabelledMemory.of(self.examples.features, list(self.examples.masks), self.images, self.fingerprint)
        memory.check_labels()
        return memory

    def tuned(self, memory: LabelledMemory) -> TunedMaps:
        """MRAD-FT's maps; a part (or, of one part, some specimens) held out says after how many epochs to stop."""
        held_out = self._held_out()
        epochs = 1
        if held_out.any() and not held_out.all():
            taught, judged = self.only(~held_out), self.only(held_out)
            try:
                _, losses = train_tuned(taught.memory(), taught.examples, Training(epochs=EPOCHS), judged.examples)
                epochs = int(np.argmin(losses)) + 1
                _log.info("losses on held-out images %s: %d epochs", [round(loss, 3) for loss in losses], epochs)
            except DatasetError as error:
                _log.warning("nothing can be held out, so one epoch as published: %s", error)
        return train_tuned(memory, self.examples, Training(epochs=epochs))[0]

    def _held_out(self) -> np.ndarray:
        parts = sorted({image.part for image in self.images})
        if len(parts) > 1:
            return np.array([image.part == parts[-1] for image in self.images])
        specimens = sorted({image.specimen for image in self.images})
        return np.isin([image.specimen for image in self.images], specimens[::4])

    def expert(self, method: MradName, encoder: Encoder, tower: TextTower | None = None) -> Expert:
        """The method, trained as far as it is trained at all."""
        memory = self.memory()
        maps = self.tuned(memory) if method != "mrad-tf" else None
        prompts = None
        if tower is not None and maps is not None:
            projection = encoder.projection.cpu()
            prompts = (tower, train_prompted(tower, maps, memory, self.examples, projection)[0])
        return Expert(method, encoder.settings, memory, maps, prompts)


def look_at(view: View, encoder: Encoder) -> tuple[Image, Box] | None:
    """The encoder's input and what of the image it shows; None when the part is not in the image."""
    return cropped(view, encoder) if view.points_mm is not None else (squashed(view, encoder), WHOLE)


def _looks(sample: Sample, encoder: Encoder, settings: Settings) -> Iterator[_Look]:
    """Every labelled image of a sample as the encoder sees it."""
    size_hw = encoder.settings.input_hw
    if not sample.views:
        yield from _rendered(sample, encoder, settings)
        return
    for view, labels in zip(load_views(sample), sample.load_view_labels(), strict=True):
        if labels is None:
            continue
        found = look_at(view, encoder)
        if found is not None:
            image, box = found
            yield f"{sample.part}/{sample.specimen}/{view.name}", image, mask_at(labels.mask, box, size_hw)


def _rendered(sample: Sample, encoder: Encoder, settings: Settings) -> Iterator[_Look]:
    """Views of a mesh or cloud with its labelled points."""
    labels = sample.load_point_labels()
    if labels is None:
        _log.warning("%s/%s is defective without labels: left out", sample.part, sample.specimen)
        return
    scan, size_hw = sample.load_scan(), encoder.settings.input_hw
    defective = (labels.instance > 0).astype(np.float32)
    tree = cKDTree(labels.points_mm)
    cameras = choose_viewpoints(scan, settings.views, size_hw, encoder.patch_size).cameras
    for number, view in enumerate(renderer_for(scan, encoder.device).render(cameras)):
        mask = np.nan_to_num(view_map(view, tree, defective, LABEL_MM)) > 0
        for tile, window in enumerate(windows_of(view, size_hw, encoder.patch_size, settings.views.mm_per_patch)):
            name = f"{sample.part}/{sample.specimen}/{number:03d}.{tile}"
            yield name, cut(view, window, size_hw), mask_at(mask, box_of(window, view.size_hw), size_hw)
