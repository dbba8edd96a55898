"""The nominal machine elements as closed solids in mm, standing on z = 0, with their exact symmetries."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


def _teeth(teeth: int, root_mm: float, tip_mm: float, which: Sequence[int]) -> tuple[Feature, ...]:
    """Tools that each take away one tooth above z = 1.5."""
    half = np.pi / teeth
    corners = ((-half, root_mm), (-half, tip_mm), (half, tip_mm), (half, root_mm))
    wedge = np.array([[np.cos(angle) * radius, np.sin(angle) * radius] for angle, radius in corners])
    tool = Manifold.extrude(_poly(wedge), 12.0).translate((0, 0, 1.5))
    return tuple(Feature(tool.rotate((0, 0, 360 / teeth * k))) for k in which)


def _spur_gear() -> Nominal:
    body = Manifold.extrude(_poly(involute_profile(20, 2.0)), 10.0)
    web = _cylinder(14.0, 8.0, 11.0) - _cylinder(8.5, 7.0, 12.0)
    solid = body - web + _cylinder(8.5, 5.0, 14.0) - _cylinder(5.0, -1, 15) - _box((0, -1.5, -1), (6.8, 1.5, 15))
    return Nominal(solid, (168, 172, 176), (np.eye(4),), _teeth(20, 17.6, 23.0, (3, 8, 13, 16)))


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


def _helical_gear() -> Nominal:
    profile = _poly(involute_profile(24, 1.75))
    body = Manifold.extrude(profile, 13.0, n_divisions=25, twist_degrees=13.0)
    solid = body + _cylinder(10.0, 10.0, 17.0) - _cylinder(6.0, -1, 18)
    holes = [_cylinder(2.25, -1, 14, 14.0 * np.cos(a), 14.0 * np.sin(a)) for a in np.arange(4) * np.pi / 2]
    solid = Manifold.batch_boolean([solid, *holes], OpType.Subtract)
    half, (inner, outer) = np.pi / 24, (18.9, 24.0)
    corners = ((-half, inner), (-half, outer), (half, outer), (half, inner))
    wedge = _poly([[np.cos(angle) * radius, np.sin(angle) * radius] for angle, radius in corners])
    tooth = Manifold.extrude(wedge, 9.0, n_divisions=17, twist_degrees=9.0).rotate((0, 0, 6)).translate((0, 0, 6))
    teeth = tuple(Feature(tooth.rotate((0, 0, 15.0 * k))) for k in (2, 7, 11, 19))
    return Nominal(solid, (204, 196, 178), _about_z(4), teeth)


def _rack() -> Nominal:
    pitch, teeth = 2 * np.pi, 9
    half = teeth * pitch / 2
    outline = [(-half, 0.0), (half, 0.0), (half, 9.5)]
    for k in range(teeth):
        middle = half - (k + 0.5) * pitch
        # module 2, straight flanks of 20 degrees
        outline += [(middle + 2.48, 9.5), (middle + 0.84, 14.0), (middle - 0.84, 14.0), (middle - 2.48, 9.5)]
    outline.append((-half, 9.5))
    solid = Manifold.extrude(_poly(outline), 12.0).rotate((90, 0, 0)).translate((0, 6, 0))
    bore = Manifold.cylinder(20, 2.25, 2.25, SEGMENTS // 2, True).rotate((90, 0, 0))
    for x in (-20.0, 20.0):
        solid = solid - bore.translate((x, 0, 4.5))
    tops = [half - (k + 0.5) * pitch for k in (1, 4, 6)]
    missing = [Feature(_box((x - 2.9, -1, 9.5), (x + 2.9, 7, 15))) for x in tops]
    return Nominal(solid, (66, 70, 74), _about_z(2), tuple(missing))


def _pulley() -> Nominal:
    outline = [(5, 0), (10, 0), (10, 3), (19, 3), (19, 0), (24, 0), (24, 2), (20, 6), (20, 8), (24, 12), (24, 14)]
    outline += [(19, 14), (19, 9), (10, 9), (10, 17), (5, 17)]
    solid = Manifold.revolve(_poly(outline), SEGMENTS)
    places = [(14.5 * np.cos(a), 14.5 * np.sin(a)) for a in np.arange(3) * 2 * np.pi / 3]
    windows = [_cylinder(3.0, 2, 10, x, y) for x, y in places]
    solid = Manifold.batch_boolean([solid, *windows], OpType.Subtract)
    plugs = tuple(Feature(_cylinder(3.1, 3, 9, x, y), filled=True) for x, y in places)
    return Nominal(solid, (70, 128, 84), _about_z(3), plugs)


def _coupling() -> Nominal:
    solid = _cylinder(21.0, 0, 12) - _cylinder(6.5, -1, 13)
    ring = _cylinder(21.0, 11.0, 22.0) - _cylinder(10.5, 10.0, 23.0)
    angles = np.radians(np.linspace(-28, 28, 9))
    sector = _poly([(0.0, 0.0), *((30 * np.cos(a), 30 * np.sin(a)) for a in angles)])
    wedge = Manifold.extrude(sector, 30.0)
    jaws = [ring ^ wedge.rotate((0, 0, 120.0 * k)) for k in range(3)]
    solid = Manifold.batch_boolean([solid, *jaws], OpType.Add)
    corner = _box((16.0, 1.5, 17.0), (24, 12, 24))
    return Nominal(
        solid, (176, 52, 46), _about_z(3), tuple(Feature(corner.rotate((0, 0, 120.0 * k))) for k in range(3))
    )


def _lever() -> Nominal:
    solid = _cylinder(11.0, 0, 14, -20) + _cylinder(7.5, 0, 14, 22)
    web = Manifold.batch_hull([_cylinder(7.0, 4.5, 9.5, -20), _cylinder(4.5, 4.5, 9.5, 22)])
    slot = Manifold.batch_hull([_cylinder(2.0, 0, 14, 0), _cylinder(2.0, 0, 14, 5)])
    solid = solid + web - _cylinder(6.0, -1, 15, -20) - _cylinder(3.5, -1, 15, 22) - slot
    plug = Manifold.batch_hull([_cylinder(2.1, 4.5, 9.5, 0), _cylinder(2.1, 4.5, 9.5, 5)])
    bite = Feature(_box((27.6, -9, 9), (31, 9, 15)))
    flip = rotation_about(np.array([1.0, 0, 0]), np.pi, np.array([0.0, 0, 7.0]))
    return Nominal(solid, (214, 176, 60), (np.eye(4), flip), (Feature(plug, filled=True), bite))


def _hex_nut() -> Nominal:
    prism = Manifold.extrude(_disc(24.0, 6), 16.0)
    chamfer = Manifold.revolve(_poly([(0, 0), (21.0, 0), (24.5, 2.0), (24.5, 14.0), (21.0, 16.0), (0, 16.0)]), SEGMENTS)
    solid = (prism ^ chamfer) - _cylinder(10.0, -1, 17)
    for z in (-1.0, 14.5):
        low, high = (12.0, 9.5) if z < 0 else (9.5, 12.0)
        solid = solid - Manifold.cylinder(2.5, low, high, SEGMENTS).translate((0, 0, z))
    corner = _box((21.0, -12, 11.0), (26, 12, 18))
    features = tuple(Feature(corner.rotate((0, 0, 60.0 * k))) for k in range(6))
    return Nominal(solid, (120, 88, 148), _about_z(6, flip_at_z=8.0), features)


BUILDERS: dict[str, Callable[[], Nominal]] = {
    "spur_gear": _spur_gear,
    "flange": _flange,
    "bracket": _bracket,
    "helical_gear": _helical_gear,
    "rack": _rack,
    "pulley": _pulley,
    "coupling": _coupling,
    "lever": _lever,
    "hex_nut": _hex_nut,
}


def nominal(part: str) -> Nominal:
    """The part as designed; made anew each time, for solids kept until exit make manifold3d complain of leaks.

    Raises:
        KeyError: there is no such part; `BUILDERS` lists them.
    """
    return BUILDERS[part]()
