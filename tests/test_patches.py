"""Patches that say nothing of their place are not compared."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from scipy import ndimage

from rad3d.camera import Camera
from rad3d.datasets.machine_elements import make_specimen
from rad3d.geometry import look_at
from rad3d.patches import Window, artefacts, chroma, encode_views, near_part, within_part
from rad3d.render import renderer_for
from rad3d.settings import EncoderSettings
from rad3d.view import View


def norms(spread, seed=0):
    """Of two views' tokens in three layers, 8 x 8 each."""
    return np.exp(np.random.default_rng(seed).normal(2.0, spread, (2, 3, 8, 8)))


def test_a_token_of_unusual_norm_in_any_layer_is_an_artefact():
    on_part = np.ones((2, 8, 8), bool)
    on_part[:, :2] = False
    found = norms(0.03)
    found[0, 1, 4, 5] *= 0.6
    found[1, 2, 6, 6] *= 3.0
    found[0, :, 0, 0] *= 0.1  # off the part: nobody asks
    assert np.argwhere(artefacts(found, on_part)).tolist() == [[0, 4, 5], [1, 6, 6]]


def test_an_encoder_whose_norms_differ_anyway_has_none():
    on_part = np.ones((2, 8, 8), bool)
    assert not artefacts(norms(0.2), on_part).any()
    assert not artefacts(norms(0.2), ~on_part).any()


def test_an_artefact_has_no_position():
    """A stand-in for the encoder: one patch amid the part stores something else in its token."""
    scan = make_specimen("bracket", 0).scan
    camera = Camera.from_field_of_view((64, 64), 0.8, look_at(np.array([80.0, -100, 90]), np.zeros(3)))
    (view,) = renderer_for(scan).render([camera])
    patches = torch.rand(1, 2, 8, 8, 16, generator=torch.Generator().manual_seed(0)) + 1

    class Encoder:
        settings = EncoderSettings(input_hw=(64, 64))
        patch_size, grid_hw = 8, (8, 8)

        def encode(self, images):
            return SimpleNamespace(cls=torch.ones(len(images), 2, 16), patches=patches)

    plain = encode_views([view], Encoder())
    row, column = np.argwhere(np.isfinite(plain.points_mm[0]).all(axis=-1))[6]
    patches[0, 1, row, column] *= 0.5
    found = encode_views([view], Encoder())
    lost = np.isfinite(plain.points_mm).all(axis=-1) & ~np.isfinite(found.points_mm).all(axis=-1)
    assert np.argwhere(lost).tolist() == [[0, row, column]]


def test_chroma_is_the_parts_own_and_brightness_does_not_matter():
    """A red part left, a blue one right, on yellow ground; the shadow on the left changes nothing."""
    scan = make_specimen("bracket", 0).scan
    camera = Camera.from_field_of_view((64, 64), 0.8, look_at(np.array([80.0, -100, 90]), np.zeros(3)))
    (view,) = renderer_for(scan).render([camera])
    image = np.where(np.arange(64)[:, None] < 32, np.uint8([200, 40, 40]), np.uint8([20, 60, 120]))
    image = np.broadcast_to(image, (64, 64, 3)).copy()
    image[:20] //= 6
    image[~view.mask] = (250, 250, 0)
    found = chroma(replace(view, image=image), within_part(view), Window(-32, 0, 128, 64), (8, 16))
    shown = np.isfinite(found).all(axis=-1)
    assert shown[:, 4:12].any()
    assert not shown[:, :4].any()
    assert not shown[:, 12:].any()
    left, right = found[:, 4:8][shown[:, 4:8]], found[:, 8:12][shown[:, 8:12]]
    np.testing.assert_allclose(left, np.broadcast_to([200 / 280, 40 / 280], left.shape), atol=0.01)
    np.testing.assert_allclose(right, np.broadcast_to([20 / 200, 60 / 200], right.shape), atol=0.01)
    bare = replace(view, points_mm=None, normals=None)
    assert np.isnan(chroma(bare, within_part(bare), Window(0, 0, 64, 64), (8, 8))).all()


def test_depth_that_is_missing_here_and_there_leaves_a_patch_its_colour():
    scan = make_specimen("bracket", 0).scan
    camera = Camera.from_field_of_view((64, 64), 0.8, look_at(np.array([80.0, -100, 90]), np.zeros(3)))
    (view,) = renderer_for(scan).render([camera])
    missing = np.random.default_rng(0).random((64, 64, 1)) < 0.3
    holed = replace(view, points_mm=np.where(missing, np.float32(np.nan), view.points_mm))
    whole, found = (np.isfinite(chroma(v, within_part(v), Window(0, 0, 64, 64), (8, 8))).all(-1) for v in (view, holed))
    assert found[whole].mean() > 0.6, "all but those at the outline"


def test_holes_in_the_cloud_are_part_and_bays_of_the_outline_are_not():
    shown = np.zeros((40, 40), bool)
    shown[5:35, 0:30] = True
    shown[12:20, 10:20] = False  # a hole that closing alone does not fill
    shown[24:27, 15:40] = False  # a bay narrow enough to close
    shown[10:30, 0:2] = False  # a bay at the image's own edge
    points = np.where(shown[..., None], np.float32(1), np.float32(np.nan)).repeat(3, axis=2)
    found = near_part(View("v", "captured", np.zeros((40, 40, 3), np.uint8), points))
    expected = ndimage.binary_fill_holes(ndimage.binary_closing(np.pad(shown, 8), iterations=4)[8:-8, 8:-8])
    np.testing.assert_array_equal(found, expected)
    assert found[12:20, 10:20].all()
    assert not found[:, 36:].any()
