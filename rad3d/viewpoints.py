"""Where to look from: spread evenly, on a turntable, or by what is left to be seen."""

from dataclasses import dataclass

import numpy as np

from rad3d.arrays import Flags, Points, Values
from rad3d.camera import Camera
from rad3d.geometry import bounding_sphere, look_at, sphere
from rad3d.render import Renderer, renderer_for
from rad3d.scan import Scan
from rad3d.settings import ViewSettings

FIELD_OF_VIEW = 0.5
"""Radians: a long lens, so that a patch covers about as much of the part everywhere."""

MARGIN = 1.04
"""The part's bounding sphere fills the image but for this."""

INSPECTABLE_INCIDENCE = np.pi / 3
"""Surface counts as inspectable when some candidate sees it within this of its normal."""

CANDIDATES = 80
NEEDED_VIEWS = 3
ENOUGH = 0.99
REPEAT = 0.25
"""What one more look at surface counts against the look before it: unseen surface goes first."""
SEEN_AT_ALL = 0.97
"""Share of the inspectable surface for which more than the wanted views are added: unseen surface is never good."""
JUDGED_POINTS = 20_000
"""Surface points on which viewpoints are chosen, drawn evenly from all."""

TURNTABLE_ELEVATIONS = (0.35, 0.9)
"""Radians above and below the table, alternating from view to view."""


@dataclass(frozen=True, eq=False)
class Viewpoints:
    """Chosen cameras, and what can be seen at all.

    Args:
        cameras: where to look from.
        inspectable: (n,) surface points that any candidate sees at an incidence of at most 60 degrees.
        seen_count: (n,) how many of the chosen cameras see each point so.
    """

    cameras: tuple[Camera, ...]
    inspectable: Flags
    seen_count: np.ndarray


def hemisphere(count: int) -> Points:
    """Unit directions (n, 3) with z > 0, spread evenly."""
    return sphere(2 * count)[:count]


def turntable(count: int) -> Points:
    """Unit directions (n, 3) around z, from a low and a high elevation in turn."""
    turn = 2 * np.pi * np.arange(count) / count
    elevation = np.resize(TURNTABLE_ELEVATIONS, count)
    return np.stack([np.cos(turn) * np.cos(elevation), np.sin(turn) * np.cos(elevation), np.sin(elevation)], axis=1)


def cameras_from(directions: Points, points_mm: Points, size_hw: tuple[int, int]) -> tuple[Camera, ...]:
    """Cameras in the given directions from the part, with its bounding sphere filling their images."""
    centre, radius = bounding_sphere(points_mm)
    distance = MARGIN * radius / np.sin(FIELD_OF_VIEW / 2)
    return tuple(
        Camera.from_field_of_view(size_hw, FIELD_OF_VIEW, look_at(centre + distance * direction, centre))
        for direction in directions
    )


def image_size(points_mm: Points, settings: ViewSettings, input_hw: tuple[int, int], patch: int) -> tuple[int, int]:
    """Image height and width: the encoder's input, or as many as `mm_per_patch` needs, tiled later."""
    if settings.mm_per_patch is None:
        return input_hw
    tiles = max(1, int(np.ceil(whole_mm_per_patch(points_mm, input_hw, patch) / settings.mm_per_patch - 1e-6)))
    return input_hw[0] * tiles, input_hw[1] * tiles


def whole_mm_per_patch(points_mm: Points, input_hw: tuple[int, int], patch: int) -> float:
    """What a patch covers in the middle of the part where the whole part fills one encoder input."""
    _, radius = bounding_sphere(points_mm)
    return float(2 * MARGIN * radius / np.cos(FIELD_OF_VIEW / 2) / (min(input_hw) / patch))


def choose_viewpoints(scan: Scan, settings: ViewSettings, input_hw: tuple[int, int], patch: int = 16) -> Viewpoints:
    """Cameras around a mesh or cloud that is in the part frame.

    By coverage: of 80 candidates all round, always the one that sees most surface that is not yet seen by three
    (unseen surface counts most), until 99 % of the inspectable surface is seen by three views or `settings.count` is
    reached. As many views again may follow where less than 97 % is seen at all: of a pipe few views see the inside.
    """
    surface = scan.surface
    size_hw = image_size(surface.points_mm, settings, input_hw, patch)
    renderer = renderer_for(scan)
    candidates = cameras_from(sphere(CANDIDATES), surface.points_mm, size_hw)
    everywhere = _seen(renderer, surface.points_mm, surface.normals, candidates)
    if settings.placement == "coverage":
        judged = np.unique(np.linspace(0, len(surface.points_mm) - 1, JUDGED_POINTS).astype(int))
        order = _greedy(everywhere[:, judged], surface.areas_mm2[judged], settings.count)
        cameras, chosen = tuple(candidates[index] for index in order), everywhere[order]
    else:
        directions = {"sphere": sphere, "hemisphere": hemisphere, "turntable": turntable}[settings.placement]
        cameras = cameras_from(directions(settings.count), surface.points_mm, size_hw)
        chosen = _seen(renderer, surface.points_mm, surface.normals, cameras)
    return Viewpoints(cameras, np.asarray(np.concatenate([everywhere, chosen]).any(axis=0)), chosen.sum(axis=0))


def _seen(renderer: Renderer, points_mm: Points, normals: Points, cameras: tuple[Camera, ...]) -> np.ndarray:
    """(c, n) which camera sees which point at an incidence of at most 60 degrees."""
    return np.stack([renderer.visible(points_mm, normals, camera, INSPECTABLE_INCIDENCE) for camera in cameras])


def _greedy(seen: np.ndarray, area: Values, count: int) -> list[int]:
    """Rows of `seen` (candidates, n) in the order in which they add most area seen by fewer than `NEEDED_VIEWS`.

    `count` of them at most, and then as many at most that add area which none has seen, until little of it is left.
    """
    need = np.minimum(seen.sum(axis=0), NEEDED_VIEWS)
    left = need.copy()
    inspectable = area[need > 0].sum()
    chosen: list[int] = []
    while len(chosen) < min(2 * count, len(seen)):
        if len(chosen) < count:
            wanted = (left > 0) * REPEAT ** (need - left)
            satisfied = area[(need > 0) & (left <= 0)].sum() >= ENOUGH * inspectable
        else:
            wanted = 1.0 * ((need > 0) & (left == need))  # what none has seen
            satisfied = (area * wanted).sum() <= (1 - SEEN_AT_ALL) * inspectable
        if satisfied:
            break
        gain = seen @ (area * wanted)
        gain[chosen] = -1.0
        chosen.append(int(gain.argmax()))
        left -= seen[chosen[-1]]
    return chosen
