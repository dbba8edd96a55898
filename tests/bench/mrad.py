"""MRAD without training (TF) and with (FT) against RAD: zero-shot on machine elements, same part on real photographs.

    python tests/bench/mrad.py SET [--tire DIR] [--cache DIR]    # writes tests/bench/mrad.json

SET is machine_elements, size small (dev parts). Two parts teach, the third is judged, in turn; every second view of
each specimen. All methods see the same crop of the part (448 x 448, the tires squashed whole); pixels are those of
the crop. RAD compares with 1, 2 or 4 good specimens of the judged part itself; without any it says nothing.
"""

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from rad3d.auxiliary import EPOCHS, Lessons, _looks, origins
from rad3d.baselines import TOP_SHARE
from rad3d.datasets import load_samples
from rad3d.datasets.sample import Choice
from rad3d.encoder import ClipFeatures, Encoder
from rad3d.labelled import LabelledImage
from rad3d.memory import Memory
from rad3d.metrics import label_regions, rank
from rad3d.mrad import Examples, image_scores, pixel_maps, score_train_free, score_tuned
from rad3d.patches import Patches
from rad3d.retrieval import image_score, rad_scores, score_map
from rad3d.settings import RetrievalSettings, Settings

PARTS = ("spur_gear", "flange", "bracket")
SETTINGS = Settings()


def encoded(samples, root, encoder, cache, *, rad=True):
    """CLIP features, RAD features (l, h, w, c) and CLS (if wanted), masks, origins and split of every image."""
    if not (cache / "features.safetensors").exists():
        images, masks, names = [], [], []
        for sample in samples:
            known = {origin.image: origin for origin in origins(sample, root)}
            for name, image, mask in _looks(sample, encoder, SETTINGS):
                images.append(image)
                masks.append(mask)
                names.append({**asdict(known[name]), "split": sample.split})
        clip = encoder.encode_clip(images)
        cache.mkdir(parents=True, exist_ok=True)
        stored = {"image": clip.image, "patches": clip.patches.half(), "masks": torch.from_numpy(np.stack(masks))}
        if rad:
            tokens = encoder.encode(np.stack(images))
            stored |= {"rad": normalize(tokens.patches, dim=-1).half(), "cls": normalize(tokens.cls, dim=-1)}
        save_file({k: v.contiguous() for k, v in stored.items()}, cache / "features.safetensors")
        (cache / "names.json").write_text(json.dumps(names))
    stored, names = load_file(cache / "features.safetensors"), json.loads((cache / "names.json").read_text())
    split = np.array([name.pop("split") for name in names])
    features = ClipFeatures(normalize(stored["image"].float(), dim=-1), stored["patches"].float())
    return (
        stored,
        split,
        Lessons(
            tuple(LabelledImage(**n) for n in names), Examples(features, stored["masks"].numpy()), encoder.fingerprint
        ),
    )


def measured(maps, image, masks):
    """Image and pixel metrics."""
    whole = rank([np.asarray(image, float)], [masks.any(axis=(1, 2)).astype(int)])
    pixels = rank(iter(maps), (label_regions(mask) for mask in masks))
    aupro = pixels.aupro()
    return {
        "image AUROC": whole.auroc(), "image AP": whole.average_precision(), "pixel AUROC": pixels.auroc(),
        "pixel AP": pixels.average_precision(), "pixel F1-max": pixels.f1_max()[0], "AUPRO@0.3": aupro[0],
    }  # fmt: skip


def labelled_rows(teaching, judged, encoder):
    """TF and FT."""
    memory = teaching.memory()
    start = time.perf_counter()
    tuned = teaching.tuned(memory)
    seconds = time.perf_counter() - start
    rows, features, masks = {}, judged.examples.features, judged.examples.masks
    for name in ("MRAD-TF", "MRAD-FT"):
        if name == "MRAD-TF":
            found = score_train_free(memory, features, encoder.fingerprint)
        else:
            found = score_tuned(tuned, memory, features, encoder.fingerprint)
        maps = pixel_maps(found.maps, masks.shape[1:])
        rows[name] = measured(maps, image_scores(maps, found.image), masks)
    regions = int(memory.region_labels.sum()), len(memory.region_labels)
    return rows | {"taught by": f"{len(memory)} images, {regions[0]} of {regions[1]} regions anomalous"}, seconds


def rad_row(stored, good, judged, masks):
    def patches(rows):
        rows = torch.as_tensor(np.flatnonzero(rows))
        nowhere = np.full((len(rows), 28, 28, 3), np.nan, np.float32)
        none = np.full((len(rows), 3), np.nan, np.float32)
        return Patches(stored["cls"][rows], stored["rad"][rows].float(), nowhere, nowhere, nowhere[..., :2], none, (),
                       np.arange(len(rows)))  # fmt: skip

    remembered, query = patches(good), patches(judged)
    names = tuple(map(str, range(len(remembered.view_index))))
    memory = Memory("", (), remembered.view_index, names, remembered.descriptors, remembered.points_mm,
                    remembered.normals, remembered.chroma, remembered.directions, remembered.features)  # fmt: skip
    found = score_map(rad_scores(query, memory, RetrievalSettings(pos_radius=None)))
    large = torch.nn.functional.interpolate(found[:, None], masks.shape[1:], mode="bilinear", align_corners=False)
    return measured(large[:, 0].numpy(), image_score(found, TOP_SHARE).numpy(), masks)


def zero_shot(root, encoder, cache):
    parts = {}
    for part in PARTS:
        samples = load_samples("machine_elements", root, Choice(parts=(part,)))
        samples = [replace(sample, views=sample.views[::2]) for sample in samples]
        parts[part] = encoded(samples, root, encoder, cache / part)
    tables = {}
    for part, (stored, split, lessons) in parts.items():
        judged = lessons.only(split == "test")
        rows, seconds = labelled_rows(Lessons.joined([parts[p][2] for p in PARTS if p != part]), judged, encoder)
        specimens = np.array([image.specimen for image in lessons.images])
        trained = sorted(set(specimens[split == "train"]))
        for count in (1, 2, 4):
            good = np.isin(specimens, trained[:count])
            rows[f"RAD cropped, {count} good"] = rad_row(stored, good, split == "test", judged.examples.masks)
        tables[part] = {**rows, "images judged": len(judged.images), "FT training s": seconds}
        print(part, json.dumps(tables[part]), flush=True)
    return tables


def same_part(root, encoder, cache):
    samples = load_samples("mvtec3d", root, Choice())
    samples = [sample for sample in samples if sample.split == "test"]
    _, _, lessons = encoded(samples, root, encoder, cache / "tire", rad=False)
    halves = {"first": np.arange(len(samples)) % 2 == 0, "second": np.arange(len(samples)) % 2 == 1}
    tables = {}
    for name, other in (("first", "second"), ("second", "first")):
        judged = lessons.only(halves[name])
        rows, seconds = labelled_rows(lessons.only(halves[other]), judged, encoder)
        tables[f"{name} half judged"] = {**rows, "images judged": len(judged.images), "FT training s": seconds}
    return tables


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("set", type=Path)
    arguments.add_argument("--tire", type=Path)
    arguments.add_argument("--cache", type=Path, default=Path("mrad-cache"))
    given = arguments.parse_args()
    encoder = Encoder.load(SETTINGS.encoder)
    result = {"encoder": encoder.fingerprint, "threads": torch.get_num_threads(), "epochs at most": EPOCHS}
    tables = {"zero-shot, machine_elements": lambda: zero_shot(given.set, encoder, given.cache)}
    if given.tire:
        tables["same part, not zero-shot: tire"] = lambda: same_part(given.tire, encoder, given.cache)
    for title, table in tables.items():
        result[title] = table()
        Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        print(title, json.dumps(result[title], indent=1), flush=True)


if __name__ == "__main__":
    main()
