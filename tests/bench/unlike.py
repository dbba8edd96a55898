"""Verdicts and defects on parts unlike the machine elements the method was chosen on; writes unlike.json.

    OMP_NUM_THREADS=1 python -P tests/bench/unlike.py [PART...] [--save DIR]

Synthetic: a large ribbed plate, bent sheet metal, a propeller, a pipe tee, a pin header, a bolt, a channel and a
ribbed knob, of 8 to 400 mm, without colours, anyhow turned, default settings. Four good specimens teach; four other
good ones and one specimen of each named defect are judged. A defect is found when a reported one touches its
surface; a ghost touches none and lies more than 3 mm (2 % of the part where that is more) from all of it.
"""

import argparse
import json
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from manifold3d import CrossSection, Manifold, OpType
from scipy.spatial import cKDTree

from rad3d import Inspector
from rad3d.datasets.machine_mesh import distance_to_surface, mesh_of, refine
from rad3d.geometry import face_normals_areas, inverse, random_rotation, transform_points
from rad3d.scan import Scan
from rad3d.settings import Settings

LEARNED, GOOD = 4, 4
VARIATION, VARIATION_MM = 0.0008, (0.02, 0.25)
"""Smooth deviation of a good specimen as a share of the part's size, and its limits."""
SCATTER, SCATTER_MM = 0.0004, 0.03
"""Scatter of single vertices as a share of the part's size, and at most."""
SCALE = 0.001
"""Largest error of scale."""
LABELLED = 2.0
"""Surface further from the good twin than this many times the largest smooth deviation is defective."""
EDGES = 110
"""Longest edges along the part's largest side."""
TOUCHES_MM = 1.0
"""A defect this near to surface that is gone is of it."""

Bend = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Flaw:
    """One defect: material added or taken away, or a shift of vertices."""

    tool: Manifold | None = None
    adds: bool = False
    bend: Bend | None = None


@dataclass(frozen=True, eq=False)
class Part:
    """A solid in mm and its flaws."""

    solid: Manifold
    flaws: dict[str, Flaw]


def box(x, y, z):
    """From low to high on each axis."""
    low, high = np.array([x, y, z], float).T
    return Manifold.cube(tuple((high - low).tolist())).translate(tuple(low.tolist()))


def rod(radius, z0, z1, x=0.0, y=0.0, segments=64):
    """A cylinder along z."""
    return Manifold.cylinder(z1 - z0, radius, radius, segments).translate((x, y, z0))


def ball(radius, x, y, z):
    """A sphere."""
    return Manifold.sphere(radius, 96).translate((x, y, z))


def cap(depth, width):
    """A lens about the origin that stands out of the plane z = 0 by `depth`, as wide as `width`, and as much below."""
    radius = (width**2 / 4 + depth**2) / (2 * depth)
    return ball(radius, 0, 0, depth - radius) ^ ball(radius, 0, 0, radius - depth)


def plate():
    """Of 400 mm, with ribs, bores and a boss."""
    solid = box((0, 400), (0, 250), (0, 8))
    for y in (60, 190):
        solid += box((20, 380), (y - 4, y + 4), (8, 40))
    solid += rod(35, 8, 45, 200, 125)
    solid -= rod(18, -1, 46, 200, 125)
    for x, y in ((25, 25), (375, 25), (25, 225), (375, 225), (110, 125), (290, 125)):
        solid -= rod(9, -1, 9, x, y)
    return Part(
        solid,
        {
            "filled bore": Flaw(rod(9.2, 0, 8, 290, 125), adds=True),
            "dent 2 mm": Flaw(cap(2.0, 24).translate((90, 25, 8))),
            "bump 1.5 mm": Flaw(cap(1.5, 20).translate((320, 90, 8)), adds=True),
            "gash": Flaw(box((150, 152), (55, 75), (36, 41))),
        },
    )


def sheet():
    """1 mm thick, bent, with slots and a tab."""
    solid = box((0, 80), (0, 50), (0, 1)) + box((0, 1), (0, 50), (0, 30)) + box((80, 90), (20, 30), (0, 1))
    for x in (20, 40, 60):
        solid -= box((x - 2, x + 2), (15, 35), (-1, 2))
    for y in (12, 38):
        solid -= Manifold.cylinder(4, 3, 3, 48, True).rotate((0, 90, 0)).translate((0.5, y, 18))
    return Part(
        solid,
        {
            "filled slot": Flaw(box((37.9, 42.1), (14.9, 35.1), (0, 1)), adds=True),
            "missing tab": Flaw(box((80, 91), (19, 31), (-1, 2))),
            "notch": Flaw(box((60, 66), (-1, 3), (-1, 2))),
            "bent 1 mm": Flaw(bend=lambda p: np.array([0, 0, 1.0]) * np.clip((p[:, :1] - 50) / 40, 0, None) ** 2),
        },
    )


def propeller():
    """Four twisted blades on a hub with six pins."""
    solid = rod(12, 0, 18) - rod(4, -1, 19)
    for k in range(4):
        blade = Manifold.extrude(CrossSection.square((9, 2.2), True), 34, n_divisions=40, twist_degrees=35)
        solid += blade.rotate((0, 90, 0)).translate((10, 0, 9)).rotate((0, 0, 90 * k))
    places = [(8 * np.cos(a), 8 * np.sin(a)) for a in np.arange(6) * np.pi / 3]
    for x, y in places:
        solid += rod(1.2, 17, 22, x, y, 32)
    x, y = places[2]
    return Part(
        solid,
        {
            "missing pin": Flaw(box((x - 2, x + 2), (y - 2, y + 2), (18, 23))),
            "broken tip": Flaw(box((37, 50), (-9, 9), (0, 20))),
            "blade nick": Flaw(ball(2.0, 28, 0, 13.3)),
            "blob": Flaw(ball(1.5, -26, 0, 10.5), adds=True),
        },
    )


def tee():
    """A pipe tee with flanged ends."""

    def pipes(radius):
        return rod(radius, -35, 35) + rod(radius, 0, 32).rotate((0, 90, 0))

    ends = rod(16, 31, 35) + rod(16, -35, -31) + rod(16, 28, 32).rotate((0, 90, 0))
    bores = rod(8, -36, 36) + rod(8, 0, 33).rotate((0, 90, 0))
    solid = pipes(11) + ends - bores
    return Part(
        solid,
        {
            "hole in wall": Flaw(rod(2, 0, 20).rotate((0, -90, 0)).translate((0, 0, 12))),
            "dent": Flaw(ball(6, -16.4, 0, -15)),
            "burr": Flaw(box((14, 16), (-1, 1), (34.5, 36.5)), adds=True),
            "chipped flange": Flaw(box((-20, -13), (-4, 4), (30, 33))),
        },
    )


def header():
    """8 mm, with eight pins."""
    solid = box((0, 8), (0, 5), (0, 2.5))
    places = [(1 + 2 * i, y) for i in range(4) for y in (1.25, 3.75)]
    for x, y in places:
        solid += box((x - 0.3, x + 0.3), (y - 0.3, y + 0.3), (2, 6))
    return Part(
        solid,
        {
            "missing pin": Flaw(box((4.5, 5.5), (0.75, 1.75), (2.5, 7))),
            "short pin": Flaw(box((2.5, 3.5), (3.25, 4.25), (4.5, 7))),
            "bump 0.3 mm": Flaw(cap(0.3, 1.6).rotate((90, 0, 0)).translate((4, 0, 1.2)), adds=True),
            "chipped corner": Flaw(ball(0.8, 8, 5, 0)),
        },
    )


def bolt():
    """M10 with a thread."""
    half = CrossSection([np.array([[3.9, -0.75], [5.0, -0.1], [5.0, 0.1], [3.9, 0.75]])])
    turns, steps = 18, 32
    pitch = 1.5
    pieces = []
    for k in range(turns * steps):
        segment = Manifold.extrude(half, 1.15, 1).rotate((90, 0, 0)).translate((0, 0.57, 0))
        pieces.append(segment.rotate((0, 0, 360 * k / steps)).translate((0, 0, 3 + pitch * k / steps)))
    thread = Manifold.batch_boolean(pieces, OpType.Add)
    solid = rod(4.1, 0, 42) + thread + Manifold.extrude(CrossSection.circle(9.2, 6), 6.4).translate((0, 0, 42))
    return Part(
        solid,
        {
            "chipped thread": Flaw(ball(2.2, 5.2, 0, 15)),
            "head corner": Flaw(box((7.2, 10), (-6, 6), (45, 50))),
            "bent 0.5 mm": Flaw(bend=lambda p: np.array([1.0, 0, 0]) * 0.5 * np.clip(1 - p[:, 2:] / 42, 0, None) ** 2),
            "flattened": Flaw(box((-6, -4.4), (-4, 4), (20, 26))),
        },
    )


def channel():
    """A U section, 150 mm long."""
    solid = box((0, 150), (0, 30), (0, 25)) - box((-1, 151), (2.5, 27.5), (2.5, 26))
    for x in (20, 75, 130):
        solid -= rod(3, -1, 4, x, 15)
    return Part(
        solid,
        {
            "missing hole": Flaw(rod(3.1, 0, 2.5, 130, 15), adds=True),
            "extra hole": Flaw(rod(3, -1, 4, 48, 15)),
            "dent 1 mm": Flaw(cap(1.0, 10).rotate((90, 0, 0)).translate((100, 0, 12))),
            "flank bent 1 mm": Flaw(
                bend=lambda p: np.array([0, 1.0, 0]) * (p[:, 1:2] < 3) * (p[:, 2:] / 25) ** 2 * (p[:, :1] / 150)
            ),
        },
    )


def knob():
    """Ribbed round the side, with a pointer that breaks the symmetry."""
    solid = rod(20, 0, 16) + rod(14, 16, 20)
    for k in range(24):
        solid -= rod(1.5, -1, 17, 20.4 * np.cos(np.pi * k / 12), 20.4 * np.sin(np.pi * k / 12), 24)
    solid += box((4, 13), (-1, 1), (20, 21.2))
    solid -= rod(3, -1, 12)
    return Part(
        solid,
        {
            "missing pointer": Flaw(box((3, 14), (-2, 2), (20, 22))),
            "filled groove": Flaw(rod(1.5, 0, 16, 0, 20.2, 24), adds=True),
            "scratch": Flaw(box((-10, 0), (5, 5.6), (19.6, 21))),
            "pit": Flaw(ball(1.2, -15, -8, 16.3)),
        },
    )


PARTS: dict[str, Callable[[], Part]] = {
    f.__name__: f for f in (plate, sheet, propeller, tee, header, bolt, channel, knob)
}


def made(name, seed, flaw=None):
    """A specimen in a random pose, and which of its vertices are defective."""
    part = PARTS[name]()
    solid = part.solid
    low, high = np.array(solid.bounding_box()).reshape(2, 3)
    size = float((high - low).max())
    if flaw is not None and flaw.tool is not None:
        solid = solid + flaw.tool if flaw.adds else solid - flaw.tool
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
    waves = rng.standard_normal((4, 3))
    waves *= (2 * np.pi / (size * rng.uniform(0.4, 1.2, 4)) / np.linalg.norm(waves, axis=1))[:, None]
    smooth = float(np.clip(VARIATION * size, *VARIATION_MM))
    push, phase = rng.standard_normal((4, 3)), rng.uniform(0, 2 * np.pi, 4)
    push *= smooth / np.linalg.norm(push, axis=1).sum()
    scale = 1 + rng.uniform(-SCALE, SCALE)

    def shaped(vertices):
        return (vertices + np.sin(vertices @ waves.T + phase) @ push) * scale

    def mesh(of):
        vertices, faces, tag = mesh_of(of)
        vertices, faces, _ = refine(vertices, faces, tag, lambda middle: np.full(len(middle), size / EDGES))
        return vertices, faces

    vertices, faces = mesh(solid)
    bent = vertices + flaw.bend(vertices) if flaw is not None and flaw.bend is not None else vertices
    clean = shaped(bent)
    bad = np.zeros(len(clean), bool)
    gone = np.empty((0, 3))
    if flaw is not None:
        twin, twin_faces = mesh(part.solid)
        twin = shaped(twin)
        bad = distance_to_surface(clean, twin, twin_faces) > LABELLED * smooth
        lost = distance_to_surface(twin, clean, faces) > LABELLED * smooth
        gone = twin[lost]
    pose = random_rotation(rng)
    pose[:3, 3] = rng.uniform(-50, 50, 3)
    placed = transform_points(inverse(pose), clean + rng.normal(0, min(SCATTER * size, SCATTER_MM), clean.shape))
    scan = Scan(f"{name}_{seed:03d}", vertices_mm=placed, faces=faces)
    return scan, bad, transform_points(inverse(pose), gone), size


@dataclass(frozen=True)
class Row:
    """One judged specimen."""

    specimen: str
    verdict: str
    score: float
    threshold: float
    found: bool | None
    ghosts: int
    kinds: tuple[str, ...]
    area_mm2: float
    made_mm2: float
    depth_mm: float | None
    reason: str


def judge(inspector, name, seed, label, flaw, save):
    """Inspect one specimen and compare."""
    scan, bad, gone, size = made(name, seed, flaw)
    result = inspector.inspect(scan)
    if save:
        result.save(Path(save) / name / label.replace(" ", "_"))
    _, face_area = face_normals_areas(scan.vertices_mm, scan.faces)
    area = np.bincount(scan.faces.ravel(), np.repeat(face_area / 3, 3), len(scan.vertices_mm))
    marked = result.points.defect_id
    reach = max(3.0, 0.02 * size)
    hits, ghosts = [], 0
    for defect in result.defects:
        mine = marked == defect.id
        apart = [
            cKDTree(scan.vertices_mm[mine]).query(of)[0].min(initial=np.inf) for of in (scan.vertices_mm[bad], gone)
        ]
        if (mine & bad).any() or apart[1] < TOUCHES_MM:
            hits.append(defect)
        else:
            ghosts += min(apart) > reach
    return Row(
        label,
        result.verdict,
        round(result.score, 2),
        round(result.threshold, 2),
        None if flaw is None else bool(hits),
        int(ghosts),
        tuple(d.kind for d in hits),
        round(sum(d.area_mm2 for d in hits), 1),
        round(float(area[bad].sum()), 1),
        round(max((d.deviation_mm for d in hits), key=abs), 2) if hits else None,
        result.reason,
    )


def main():
    """Print a row per specimen and write the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    parser.add_argument("--save", default="")
    parser.add_argument("--out", default=str(Path(__file__).with_suffix(".json")))
    asked = parser.parse_args()
    rows = {}
    for name in asked.parts:
        inspector = Inspector.fit([made(name, seed)[0] for seed in range(LEARNED)], Settings())
        cases = [(100 + k, f"good {k}", None) for k in range(GOOD)]
        cases += [(200 + k, label, flaw) for k, (label, flaw) in enumerate(PARTS[name]().flaws.items())]
        rows[name] = []
        for seed, label, flaw in cases:
            row = judge(inspector, name, seed, label, flaw, asked.save)
            print(name, json.dumps(asdict(row)), flush=True)
            rows[name].append(asdict(row))
    Path(asked.out).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
