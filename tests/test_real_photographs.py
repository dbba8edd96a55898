"""RAD on real photographs (MVTec 3D-AD tire, RGB), as plain images; found by $RAD3D_TEST_TIRE."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from rad3d.encoder import Encoder, rad_input
from rad3d.memory import Memory, Provenance
from rad3d.patches import Patches, Window
from rad3d.retrieval import image_score, patch_scores, rad_scores, score_map
from rad3d.settings import EncoderSettings, RetrievalSettings

TIRE = os.environ.get("RAD3D_TEST_TIRE")
pytestmark = pytest.mark.skipif(not TIRE, reason="RAD3D_TEST_TIRE is not set: no real photographs here")


def encoded(encoder, files):
    tokens = encoder.encode(np.stack([rad_input(np.asarray(Image.open(file).convert("RGB"))) for file in files]))
    n, (h, w) = len(files), encoder.grid_hw
    unknown = np.full((n, h, w, 3), np.nan, np.float32)
    return Patches(
        torch.nn.functional.normalize(tokens.cls, dim=-1),
        torch.nn.functional.normalize(tokens.patches, dim=-1),
        unknown,
        unknown,
        unknown[..., :2],
        np.full((n, 3), np.nan, np.float32),
        (Window(0, 0, 448, 448),) * n,
        np.arange(n),
    )


def rad_mask(file, size):
    """A mask as RAD's input sees it: squashed to 512 x 512, the middle 448 kept, then to the map's size."""
    mask = Image.fromarray((np.asarray(Image.open(file)) > 0).astype(np.uint8) * 255)
    middle = mask.resize((512, 512), Image.Resampling.NEAREST).crop((32, 32, 480, 480))
    return np.asarray(middle.resize(size[::-1], Image.Resampling.NEAREST)) > 0


def test_rad_finds_the_defects_on_real_tires(reference):
    root = Path(TIRE)
    encoder = Encoder.load(EncoderSettings("clip-b16-q8"))
    train = sorted((root / "train/good/rgb").glob("*.png"))
    test = sorted((root / "test").glob("*/rgb/*.png"))
    assert (len(train), len(test)) == (32, 26)
    good = encoded(encoder, train)
    origin = Provenance("tires", "tire", str(root), "", "")
    memory = Memory.of(good, origin, [file.stem for file in train], encoder.fingerprint)
    query = encoded(encoder, test)
    settings = RetrievalSettings(k_views=48, pos_radius=1)
    scores = rad_scores(query, memory, settings)

    maps = score_map(scores)
    labels = np.array([file.parts[-3] != "good" for file in test])
    masks = np.stack(
        [
            rad_mask(str(f).replace("/rgb/", "/gt/"), maps.shape[1:]) if bad else np.zeros(maps.shape[1:], bool)
            for f, bad in zip(test, labels, strict=True)
        ]
    )
    assert roc_auc_score(labels, image_score(maps).numpy()) >= 0.75
    assert roc_auc_score(masks.ravel(), maps.numpy().ravel()) >= 0.98

    # a good and two defective images through the paper's loop, on the same features, in float32
    keys = memory.features_of(np.arange(8)).float()
    for image in (int(np.flatnonzero(~labels)[0]), *np.flatnonzero(labels)[[0, -1]].tolist()):
        fast = patch_scores(query.features[image, :1], keys[:, :1], 1)
        slow = reference.rad_patch_scores(query.features[image, :1].numpy(), keys[:, :1].numpy(), 1)
        np.testing.assert_allclose(fast.numpy(), slow, atol=1e-5)
