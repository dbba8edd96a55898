"""How the methods on images look at a view: which pixels are the part, and what of it the encoder sees."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image as PilImage

from rad3d.arrays import Image, Mask
from rad3d.datasets.sample import Sample
from rad3d.encoder import Encoder, resize
from rad3d.errors import RegistrationError, SettingsError
from rad3d.patches import Window, cut, windows_of
from rad3d.prediction import Box
from rad3d.segment import foreground
from rad3d.view import View

_log = logging.getLogger(__name__)


def need_images(samples: Sequence[Sample]) -> None:
    """Refuse samples without photographs."""
    for sample in samples:
        if not sample.views:
            raise SettingsError(
                f"{sample.part}/{sample.specimen}",
                expected="photographs for this method",
                got=f"{sample.scan}",
                remedy="choose --method rad3d, which renders views of meshes and clouds",
            )


def load_views(sample: Sample) -> tuple[View, ...]:
    """The sample's views in the order of `sample.views`."""
    views = {view.name: view for view in sample.load_scan().views}
    return tuple(views[files.name] for files in sample.views)


def part_of(view: View) -> Mask | None:
    """The pixels that show the part; None for an image without a cloud."""
    if view.points_mm is None:
        return None
    try:
        return foreground(view)
    except RegistrationError as error:
        _log.warning("%s: all pixels with a point count as the part: %s", view.name, error)
        return view.mask


def at_part(view: View, encoder: Encoder) -> tuple[View, Window] | None:
    """The view without its background, and its window around the part; None when the part is not in the image."""
    part = part_of(view)
    if part is not None and view.points_mm is not None:
        view = replace(view, points_mm=np.where(part[..., None], view.points_mm, np.float32(np.nan)))
    windows = windows_of(view, encoder.settings.input_hw, encoder.patch_size, None)
    return (view, windows[0]) if windows else None


def cropped(view: View, encoder: Encoder) -> tuple[Image, Box] | None:
    """The part at true aspect as the encoder's input, and what of the image that shows."""
    found = at_part(view, encoder)
    if found is None:
        return None
    isolated, window = found
    return cut(isolated, window, encoder.settings.input_hw), box_of(window, view.size_hw)


def box_of(window: Window, size_hw: tuple[int, int]) -> Box:
    """A window as shares of its image."""
    height, width = size_hw
    return window.left / width, window.top / height, window.width / width, window.height / height


def squashed(view: View, encoder: Encoder) -> Image:
    """The whole image at the encoder's size, as MRAD sees it."""
    return resize(view.image, encoder.settings.input_hw)


def mask_at(mask: Mask, box: Box, size_hw: tuple[int, int]) -> Mask:
    """What of a mask a box of its image shows, at another size; nothing is defective beyond the image.

    >>> mask_at(np.array([[True, False]]), (-0.5, 0.0, 1.0, 1.0), (1, 2))
    array([[False,  True]])
    """
    height, width = mask.shape
    left, top = round(box[0] * width), round(box[1] * height)
    wide, high = max(round(box[2] * width), 1), max(round(box[3] * height), 1)
    image = PilImage.fromarray(mask.astype(np.uint8))
    window = image.crop((left, top, left + wide, top + high))
    return np.asarray(window.resize(size_hw[::-1], PilImage.Resampling.NEAREST)) > 0
