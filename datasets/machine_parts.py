"""The nominal machine elements as closed solids in mm, standing on z = 0, with their exact symmetries."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from manifold3d import CrossSection, Manifold, OpType

from rad3d.arrays import Points, Pose
from rad3d.geometry import rotation_about

SEGMENTS = 96
"""Corners of a circle, half as many on small ones: divisible by the orders of symmetry, so that these are exact."""


@dataclass(frozen=True, eq=False)
class Feature:
    """A detail that a specimen may lack.

    Args:
        solid: the tool that takes the detail away (or fills it, for `filled`).
        filled: whether the missing detail is a hole.
    """

    solid: Manifold
    filled: bool = False


@dataclass(frozen=True, eq=False)
class Nominal:
    """A part as designed.

    Args:
        solid: closed, in mm, resting on z = 0.
        colour: RGB of the plastic it is printed in.
        symmetries: every pose that maps the part onto itself, the identity first.
        features: details that the defect `missing_feature` may take away.
    """

    solid: Manifold
    colour: tuple[int, int, int]
    symmetries: tuple[Pose, ...]
    features: tuple[Feature, ...]


def _poly(corners: Points | Sequence[Sequence[float]]) -> CrossSection:
    return CrossSection([np.asarray(corners, float)])


def _disc(radius: float, segments: int = SEGMENTS) -> CrossSection:
    return CrossSection.circle(radius, segments)


def _cylinder(radius: float, z0: float, z1: float, x: float = 0.0, y: float = 0.0) -> Manifold:
    return Manifold.cylinder(z1 - z0, radius, radius, SEGMENTS if radius > 4 else SEGMENTS // 2).translate((x, y, z0))


def _box(low: Sequence[float], high: Sequence[float]) -> Manifold:
    return Manifold.cube(tuple(np.subtract(high, low).tolist())).translate(tuple(low))


def _about_z(order: int, flip_at_z: float | None = None) -> tuple[Pose, ...]:
    """The rotations of a part with `order` equal sectors; with `flip_at_z` also turned upside down about x there."""
    z, x = np.array([0.0, 0, 1]), np.array([1.0, 0, 0])
    turns = [rotation_about(z, 2 * np.pi * k / order) for k in range(order)]
    if flip_at_z is None:
        return tuple(turns)
    flip = rotation_about(x, np.pi, np.array([0.0, 0, flip_at_z]))
    return tuple(turns + [turn @ flip for turn in turns])


def involute_profile(teeth: int, module_mm: float) -> Points:
    """Outline of a spur gear (n, 2), 20 degrees of pressure angle, one tooth centred on x (ISO 53)."""
    pitch, pressure = teeth * module_mm / 2, np.radians(20)
    base, root, tip = pitch * np.cos(pressure), pitch - 1.25 * module_mm, pitch + module_mm
    radii = np.linspace(max(base, root), tip, 8)

    def involute(angle: np.ndarray) -> np.ndarray:
        return np.asarray(np.tan(angle) - angle)

    # 0.04 mm of backlash at the pitch circle
    half = np.pi / (2 * teeth) - 0.02 / pitch + involute(np.array(pressure)) - involute(np.arccos(base / radii))
    foot_radii = np.linspace(root, radii[0], 4)[:-1] if root < radii[0] else np.empty(0)
    radius = np.concatenate([foot_radii, radii])
    angle = np.concatenate([np.full(len(foot_radii), half[0]), half])
    side = np.concatenate([-angle, np.linspace(-half[-1], half[-1], 5)[1:-1], angle[::-1]])
    distance = np.concatenate([radius, np.full(3, tip), radius[::-1]])
    turn = 2 * np.pi / teeth * np.arange(teeth)[:, None] + side
    return np.stack([distance * np.cos(turn), distance * np.sin(turn)], axis=-1).reshape(-1, 2)


def _teeth(teeth: int, root_mm: float, tip_mm: float, height: float, which: Sequence[int]) -> tuple[Feature, ...]:
    """Tools that each take one tooth away."""
    half = np.pi / teeth
    wedge = np.array(
        [
            [np.cos(a) * r, np.sin(a) * r]
            for a, r in ((-half, root_mm), (-half, tip_mm), (half, tip_mm), (half, root_mm))
        ]
    )
    tool = Manifold.extrude(_poly(wedge), height + 2).translate((0, 0, -1))
    return tuple(Feature(tool.rotate((0, 0, 360 / teeth * k))) for k in which)


def _spur_gear() -> Nominal:
    body = Manifold.extrude(_poly(involute_profile(20, 2.0)), 10.0)
    web = _cylinder(14.0, 8.0, 11.0) - _cylinder(8.5, 7.0, 12.0)
    solid = body - web + _cylinder(8.5, 5.0, 14.0) - _cylinder(5.0, -1, 15) - _box((0, -1.5, -1), (6.8, 1.5, 15))
    return Nominal(solid, (168, 172, 176), (np.eye(4),), _teeth(20, 17.6, 23.0, 10, (3, 8, 13, 16)))


def _flange() -> Nominal:
    solid = _cylinder(25.0, 0, 6) + _cylinder(13.0, 5, 16) - _cylinder(8.0, -1, 17)
    ring = _cylinder(25.0, 5.0, 7.0) - _cylinder(23.8, 4.9, 7.1)
    places = [(18.5 * np.cos(a), 18.5 * np.sin(a)) for a in np.arange(6) * np.pi / 3]
    holes = [_cylinder(2.75, -1, 7, x, y) for x, y in places]
    solid = Manifold.batch_boolean([solid - ring, *holes], OpType.Subtract)
    plugs = tuple(Feature(_cylinder(2.85, 0, 6, x, y), filled=True) for x, y in places)
    return Nominal(solid, (58, 98, 150), _about_z(6), plugs)


def _bracket() -> Nominal:
    solid = _box((0, 0, 0), (48, 30, 5)) + _box((0, 0, 0), (5, 30, 38))
    rib = Manifold.extrude(_poly([(4.0, 4), (30, 4), (4, 28)]), 4.0).rotate((90, 0, 0)).translate((0, 17, 0))
    solid = solid + rib
    for x, y in ((22, 6), (22, 24), (40, 6), (40, 24)):
        solid = solid - _cylinder(2.25, -1, 6, x, y)
    wall = Manifold.cylinder(10, 3, 3, SEGMENTS // 2, True).rotate((0, 90, 0))
    for y in (7, 23):
        solid = solid - wall.translate((2.5, y, 28))
    edge = _box((38, -1, -1), (49, 31, 6)) - Manifold.extrude(CrossSection.square((10, 30)), 5).translate((38, 0, 0))
    corner = _box((43, -1, -1), (49, 5, 6)) - _cylinder(5.0, -2, 7, 43, 5)
    solid = solid - edge - corner - (_box((43, 25, -1), (49, 31, 6)) - _cylinder(5.0, -2, 7, 43, 25))
    plugs = [Feature(_cylinder(2.35, 0, 5, x, y), filled=True) for x, y in ((22, 6), (40, 6), (40, 24))]
    tip = Feature(_box((14, 12, 14), (31, 18, 40)))
    end = Feature(_box((22, 12, 5), (31, 18, 13)))
    mirror = (np.eye(4),)
    return Nominal(solid, (190, 96, 48), mirror, (*plugs, tip, end))


BUILDERS: dict[str, Callable[[], Nominal]] = {
    "spur_gear": _spur_gear,
    "flange": _flange,
    "bracket": _bracket,
}


@cache
def nominal(part: str) -> Nominal:
    """The part as designed.

    Raises:
        KeyError: there is no such part; `BUILDERS` lists them.
    """
    return BUILDERS[part]()
