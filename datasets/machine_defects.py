"""Defects of machine elements: where they fit on a part, and what they do to its surface."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from manifold3d import CrossSection, Manifold, Mesh64, OpType
from scipy.spatial import cKDTree

from rad3d.arrays import Faces, Flags, Points, Values, Vector
from rad3d.datasets.machine_mesh import edges_of, mesh_of, refine, vertex_normals
from rad3d.datasets.machine_parts import nominal
from rad3d.errors import DatasetError
from rad3d.geometry import face_normals_areas, unit
from rad3d.render.raycast import RayCaster

DefectKind = Literal[
    "hole", "cut", "bulge", "burr", "crack", "scratch", "mark", "missing_feature", "under_extrusion", "warp"
]
KINDS: tuple[DefectKind, ...] = get_args(DefectKind)

EDGE_MM = 0.7
"""Longest edge of a mesh; half of them are shorter than 0.5 mm."""
FINE_EDGE_MM = 0.25
"""Longest edge on and around a defect, so that grooves 0.3 mm wide have vertices of their own."""
FIT_MM = 0.15
"""How far the surface may bend away from the tangent plane under a defect."""
GAP_MM = 2.0
"""Good surface that stays between two defects."""


@dataclass(frozen=True, eq=False)
class Defect:
    """What one defect does: to the solid, to the vertices, or to their colours.

    Args:
        kind: its type.
        centre_mm: middle of the region it may touch, in the part frame.
        radius_mm: everything it changes lies within this distance.
        tool: solid taken away from the part, or added if `adds`.
        shift: vertices and normals (n, 3), (n, 3) -> how far each vertex moves (n, 3).
        paint: vertices and normals -> opacity (n,) of `ink`.
        ink: RGB of a mark.
    """

    kind: DefectKind
    centre_mm: Vector
    radius_mm: float
    tool: Manifold | None = None
    adds: bool = False
    shift: Callable[[Points, Points], Points] | None = None
    paint: Callable[[Points, Points], Values] | None = None
    ink: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True, eq=False)
class Base:
    """The evenly refined nominal mesh of a part, and what placing defects needs to know about it."""

    part: str
    vertices: Points
    faces: Faces
    normals: Points

    def solid(self) -> Manifold:
        """The mesh as a solid that keeps all its triangles through booleans (not kept; see `nominal`)."""
        face_id = np.arange(len(self.faces), dtype=np.uint64)
        return Manifold(Mesh64(self.vertices, self.faces.astype(np.uint64), face_id=face_id)).as_original()

    @cached_property
    def tree(self) -> cKDTree:
        """Of the vertices."""
        return cKDTree(self.vertices)

    @cached_property
    def caster(self) -> RayCaster:
        """For visibility."""
        return RayCaster(self.vertices, self.faces)

    @cached_property
    def sharp_edges(self) -> tuple[Points, Points, Points]:
        """Middles, directions and outward bisectors (n, 3) of convex edges of more than 45 degrees."""
        pairs, edge_of = edges_of(self.faces)
        order = np.argsort(edge_of.ravel(), kind="stable").reshape(-1, 2) // 3
        normals, _ = face_normals_areas(self.vertices, self.faces)
        first, second = normals[order[:, 0]], normals[order[:, 1]]
        centres = self.vertices[self.faces].mean(axis=1)
        convex = np.einsum("ni,ni->n", first, centres[order[:, 1]] - centres[order[:, 0]]) < 0
        keep = convex & (np.einsum("ni,ni->n", first, second) < np.cos(np.pi / 4))
        ends = self.vertices[pairs[keep]]
        return ends.mean(axis=1), unit(ends[:, 1] - ends[:, 0]), unit(first[keep] + second[keep])

    def seen(self, points: Points, normals: Points) -> Flags:
        """Whether a camera above the build plate can see a place well: a third of the 60 degree cone is open."""
        turns = np.arange(24)
        height = 1 - 0.5 * (turns + 0.5) / 24
        angle = turns * np.pi * (3 - np.sqrt(5))
        cone = np.stack([np.sqrt(1 - height**2) * np.cos(angle), np.sqrt(1 - height**2) * np.sin(angle), height], 1)
        along = np.stack([np.stack(frame(normal, 0.0), axis=1) @ cone.T for normal in normals])
        rays = along.transpose(0, 2, 1).reshape(-1, 3)
        starts = np.repeat(points + 0.02 * normals, len(cone), axis=0)
        open_to = (rays[:, 2] > 0.1) & ~self.caster.occluded(starts, rays)
        return np.asarray(open_to.reshape(len(points), -1).mean(axis=1) > 1 / 3)

    def carries(self, footprint: Points, normal: Vector) -> bool:
        """Whether a footprint (n, 3) in a tangent plane lies on the part's surface throughout."""
        _, index = self.tree.query(footprint)
        away = self.vertices[index] - footprint
        height = away @ normal
        sideways = np.linalg.norm(away - height[:, None] * normal, axis=1)
        flat = (np.abs(height) < FIT_MM) & (sideways < EDGE_MM)
        return bool((flat & (self.normals[index] @ normal > 0.6)).all())


@cache
def base(part: str) -> Base:
    """The nominal mesh of a part."""
    vertices, faces, _ = refine(*mesh_of(nominal(part).solid), lambda middle: np.full(len(middle), EDGE_MM))
    return Base(part, vertices, faces, vertex_normals(vertices, faces))


def frame(normal: Vector, angle: float) -> tuple[Vector, Vector, Vector]:
    """Two tangents, the first turned by `angle`, and the normal."""
    up = np.array([0.0, 0, 1]) if abs(normal[2]) < 0.9 else np.array([0.0, 1, 0])
    u = unit(np.cross(up, normal))
    v = np.cross(normal, u)
    return np.cos(angle) * u + np.sin(angle) * v, np.cos(angle) * v - np.sin(angle) * u, normal


def plan(
    part: str, kind: DefectKind, sizes_mm: tuple[float, float], taken: Sequence[Defect], seed: list[int]
) -> Defect:
    """One defect at a random place where it fits, can be seen, and keeps clear of those already there.

    Raises:
        DatasetError: it fits nowhere, even at the smallest size.
    """
    rng = np.random.default_rng(list(seed))
    size = float(rng.uniform(*sizes_mm))
    while True:
        for _ in range(40):
            for defect in PLANNERS[kind](base(part), size, rng):
                gaps = [np.linalg.norm(defect.centre_mm - d.centre_mm) - defect.radius_mm - d.radius_mm for d in taken]
                if all(gap > GAP_MM for gap in gaps):
                    return defect
        if size <= sizes_mm[0]:
            raise DatasetError(
                f"{part} with {kind}",
                expected=f"a free place for a defect of {sizes_mm[0]} mm",
                got=f"none beside {len(taken)} others",
                remedy="ask for fewer or smaller defects",
            )
        size = max(sizes_mm[0], 0.85 * size)


def _flat_sites(
    on: Base, rng: np.random.Generator, footprint: Callable[[Vector, Vector], Points]
) -> list[tuple[Vector, Vector, Vector, Vector]]:
    """At most one place (point, tangent, tangent, normal) whose footprint lies on visible surface."""
    chosen = rng.choice(len(on.vertices), 30, replace=False)
    chosen = chosen[on.seen(on.vertices[chosen], on.normals[chosen])]
    for index in chosen:
        u, v, normal = frame(on.normals[index], rng.uniform(0, np.pi))
        if on.carries(on.vertices[index] + footprint(u, v), normal):
            return [(on.vertices[index], u, v, normal)]
    return []


def _edge_sites(on: Base, rng: np.random.Generator, length: float) -> list[tuple[Vector, Vector, Vector]]:
    """At most one place (point, edge direction, outward bisector) on an edge that runs straight for `length`."""
    middles, directions, bisectors = on.sharp_edges
    chosen = rng.choice(len(middles), 30, replace=False)
    chosen = chosen[on.seen(middles[chosen], bisectors[chosen]) & (middles[chosen, 2] > 1.0)]
    tree = cKDTree(middles)
    for index in chosen:
        along = middles[index] + np.linspace(-0.5, 0.5, 9)[:, None] * length * directions[index]
        distance, nearest = tree.query(along)
        if (distance < 0.5).all() and (bisectors[nearest] @ bisectors[index] > 0.9).all():
            return [(middles[index], directions[index], bisectors[index])]
    return []


def _disc(radius: float) -> Callable[[Vector, Vector], Points]:
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    around = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    grid = np.concatenate([np.zeros((1, 2)), around * radius / 2, around * radius])
    return lambda u, v: grid @ np.stack([u, v])


def _placed(tool: Manifold, u: Vector, v: Vector, normal: Vector, at: Vector) -> Manifold:
    return tool.transform(np.stack([u, v, normal, at], axis=1))


def _hole(on: Base, size: float, rng: np.random.Generator) -> list[Defect]:
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    wobble = 1 + 0.06 * np.sin(2 * angle + rng.uniform(0, 6)) + 0.04 * np.sin(3 * angle + rng.uniform(0, 6))
    outline = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (wobble * size / 2)[:, None]
    depth = rng.uniform(0.8, 1.2) + 0.25 * size
    tool = Manifold.extrude(CrossSection([outline]), depth + 1).translate((0, 0, -depth))
    return [
        Defect("hole", p, float(np.hypot(size / 2 * 1.1, depth)) + 0.3, _placed(tool, u, v, n, p))
        for p, u, v, n in _flat_sites(on, rng, _disc(size / 2 + 0.4))
    ]


def _groove(path: Points, width: float, depth: float) -> Manifold:
    """A narrow groove below z = 0 along a path (n, 2)."""
    dots = [Manifold.cylinder(depth + 0.5, width / 2, width / 2, 8).translate((x, y, -depth)) for x, y in path]
    pieces = [Manifold.batch_hull([a, b]) for a, b in pairwise(dots)]
    return Manifold.batch_boolean(pieces, OpType.Add)


def _line_defect(
    kind: DefectKind, on: Base, path: Points, width: float, depth: float, rng: np.random.Generator
) -> list[Defect]:
    def footprint(u: Vector, v: Vector) -> Points:
        sides = np.concatenate([path, path + np.array([0, 0.5]), path - np.array([0, 0.5])])
        return np.asarray(sides @ np.stack([u, v]))

    tool = _groove(path, width, depth)
    radius = float(np.hypot(np.abs(path).max() + width, depth)) + 0.3
    return [Defect(kind, p, radius, _placed(tool, u, v, n, p)) for p, u, v, n in _flat_sites(on, rng, footprint)]


def _crack(on: Base, size: float, rng: np.random.Generator) -> list[Defect]:
    x = np.linspace(-0.5, 0.5, max(4, round(size / 0.6))) * (size - 0.3)
    y = rng.normal(0, 0.22, len(x))
    return _line_defect("crack", on, np.stack([x, y - y.mean()], 1), rng.uniform(0.3, 0.42), rng.uniform(0.6, 1.1), rng)


def _scratch(on: Base, size: float, rng: np.random.Generator) -> list[Defect]:
    x = np.linspace(-0.5, 0.5, 9) * (size - 0.4)
    y = rng.uniform(-0.15, 0.15) * size * (4 * (x / size) ** 2 - 0.4)
    path = np.stack([x, y], axis=1)
    return _line_defect("scratch", on, path, rng.uniform(0.35, 0.5), rng.uniform(0.3, 0.42), rng)


def _cut(on: Base, size: float, rng: np.random.Generator) -> list[Defect]:
    """A saw cut across an edge."""
    thick, radius = rng.uniform(0.7, 1.2) + 0.06 * size, 0.62 * size
    found = []
    for p, along, out in _edge_sites(on, rng, thick + 1):
        tilt = rng.normal(0, 0.15, 2)
        axis = unit(along + tilt[0] * out + tilt[1] * np.cross(along, out))
        u, v, w = frame(axis, 0.0)
        tool = Manifold.cylinder(thick, radius, radius, 48, True)
        found.append(Defect("cut", p, float(np.hypot(radius, thick)) + 0.3, _placed(tool, u, v, w, p)))
    return found


def _burr(on: Base, size: float, rng: np.random.Generator) -> list[Defect]:
    """A ragged fin that stands out of an edge."""
    steps = max(4, round(size / 0.5))
    along = np.linspace(-0.5, 0.5, steps) * (size - 0.3)
    envelope = 0.35 + 0.65 * np.sin(np.linspace(0.15, np.pi - 0.15, steps))
    height = (0.45 + 0.06 * size) * envelope * rng.uniform(0.7, 1.3, steps)
    lean = np.cumsum(rng.normal(0, 0.05, steps))
    found = []
    for p, edge, out in _edge_sites(on, rng, size):
        side = np.cross(edge, out)
        ribs = []
        for x, h, y in zip(along, height, lean, strict=True):
            foot, tip = p + x * edge - 0.35 * out, p + x * edge + h * out + (y + 0.1) * side
            ribs.append([foot + 0.25 * side, foot - 0.25 * side, tip + 0.14 * side, tip - 0.14 * side])
        pieces = [Manifold.hull_points(np.array(a + b)) for a, b in pairwise(ribs)]
        tool = Manifold.batch_boolean(pieces, OpType.Add)
        found.append(Defect("burr", p, size / 2 + float(height.max()) + 0.4, tool, adds=True))
    return found


def _missing_feature(on: Base, size: float, rng: np.random.Generator) -> list[Defect]:
    part = nominal(on.part)
    feature = part.features[int(rng.integers(len(part.features)))]
    touched = feature.solid if feature.filled else feature.solid ^ part.solid
    box = np.array(touched.bounding_box()).reshape(2, 3)
    radius = float(np.linalg.norm(box[1] - box[0])) / 2 + 0.3
    return [Defect("missing_feature", box.mean(axis=0), radius, feature.solid, adds=feature.filled)]


def _bulge(on: Base, size: float, rng: np.random.Generator) -> list[Defect]:
    height = 0.3 + 0.1 * size
    found = []
    for p, _, _, n in _flat_sites(on, rng, _disc(0.6 * size)):

        def shift(x: Points, normals: Points, p: Vector = p, n: Vector = n) -> Points:
            far = np.minimum(np.linalg.norm(x - p, axis=1) / (0.62 * size), 1)
            lift = height * (1 - far**2) ** 2 * (normals @ n > 0.5)
            return np.asarray(lift[:, None] * n)

        found.append(Defect("bulge", p, 0.62 * size + 0.3, shift=shift))
    return found


def _under_extrusion(on: Base, size: float, rng: np.random.Generator) -> list[Defect]:
    """Strands that hold too little plastic: a ribbed recess along the layers."""
    half, wide = size / 2 + 0.2, max(0.9, 0.28 * size)
    depth, phase = rng.uniform(0.35, 0.55), rng.uniform(0, 2 * np.pi)
    x, y = np.meshgrid([-half, -half / 2, 0, half / 2, half], [-wide, 0, wide])
    found = []
    for p, _, _, n in _flat_sites(on, rng, lambda u, v: np.zeros((1, 3))):
        u, v, _ = frame(n, 0.0 if abs(n[2]) < 0.5 else np.pi / 4)
        if not on.carries(p + x.reshape(-1, 1) * u + y.reshape(-1, 1) * v, n):
            continue

        def shift(q: Points, normals: Points, p: Vector = p, u: Vector = u, v: Vector = v, n: Vector = n) -> Points:
            a, b, c = (q - p) @ u / half, (q - p) @ v / wide, (q - p) @ n
            window = np.clip(4 * (1 - np.abs(a)), 0, 1) * np.clip(3 * (1 - np.abs(b)), 0, 1)
            ribs = 0.65 + 0.35 * np.sin(2 * np.pi * b * wide / 0.9 + phase)
            near = (np.abs(c) < 3 * FIT_MM) & (normals @ n > 0.5)
            return np.asarray(-(depth * window * ribs * near)[:, None] * n)

        found.append(Defect("under_extrusion", p, float(np.hypot(half, wide)) + 0.3, shift=shift))
    return found


def _warp(on: Base, size: float, rng: np.random.Generator) -> list[Defect]:
    """An outer corner that came off the build plate."""
    reach = max(0.75 * size, 4.0)
    height = rng.uniform(0.12, 0.16) * reach
    middle = (on.vertices.min(axis=0) + on.vertices.max(axis=0))[:2] / 2
    far = np.linalg.norm(on.vertices[:, :2] - middle, axis=1)
    low = on.vertices[:, 2] < 0.5
    corner = on.vertices[rng.choice(np.flatnonzero(low & (far > np.quantile(far[low], 0.97))))]

    def shift(x: Points, normals: Points) -> Points:
        away = np.minimum(np.linalg.norm((x - corner) * (1, 1, 0.5), axis=1) / reach, 1)
        return np.asarray((height * (1 - away**2) ** 2)[:, None] * np.array([0.0, 0, 1]))

    return [Defect("warp", corner, 2 * reach, shift=shift)]


def _mark(on: Base, size: float, rng: np.random.Generator) -> list[Defect]:
    """Ink or a burn: colour only."""
    inks = ((28, 28, 34), (150, 30, 34), (70, 48, 30), (226, 222, 214))
    ink = inks[int(rng.integers(len(inks)))]
    shape, phase = rng.uniform(0.05, 0.18, 3), rng.uniform(0, 2 * np.pi, 3)
    found = []
    for p, u, v, n in _flat_sites(on, rng, _disc(0.5 * size)):

        def paint(x: Points, normals: Points, p: Vector = p, u: Vector = u, v: Vector = v, n: Vector = n) -> Values:
            a, b = (x - p) @ u, 1.5 * ((x - p) @ v)
            angle = np.arctan2(b, a)
            edge = 1 + sum(shape[k] * np.sin((k + 2) * angle + phase[k]) for k in range(3))
            inside = edge * size / 2 / 1.1 - np.hypot(a, b)
            near = (np.abs((x - p) @ n) < 3 * FIT_MM) & (normals @ n > 0.5)
            return np.asarray(np.clip(inside / 0.2, 0, 1) * near)

        found.append(Defect("mark", p, 0.75 * size + 0.3, paint=paint, ink=ink))
    return found


PLANNERS: dict[DefectKind, Callable[[Base, float, np.random.Generator], list[Defect]]] = {
    "hole": _hole,
    "cut": _cut,
    "bulge": _bulge,
    "burr": _burr,
    "crack": _crack,
    "scratch": _scratch,
    "mark": _mark,
    "missing_feature": _missing_feature,
    "under_extrusion": _under_extrusion,
    "warp": _warp,
}
