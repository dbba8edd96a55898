"""Synthetic machine elements with defects whose place, size and shape are known exactly.

The meshes are closed and in mm. Everything follows from (part, seed, defects): the same call gives the same bytes.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rad3d.arrays import Faces, Indices, Points, Pose, Vector
from rad3d.datasets.machine_defects import EDGE_MM, FINE_EDGE_MM, KINDS, Defect, DefectKind, base, plan
from rad3d.datasets.machine_mesh import distance_to_surface, mesh_of, refine, vertex_normals
from rad3d.datasets.machine_parts import BUILDERS, nominal
from rad3d.errors import DatasetError
from rad3d.geometry import face_normals_areas, inverse, random_rotation, transform_points
from rad3d.scan import Scan

VARIATION_MM = 0.06
"""Largest smooth deviation of a good specimen."""
LAYER_MM, LAYER_JITTER_MM = 0.25, 0.02
"""Height of a printed layer, and how far its side stands in or out."""
SCALE = 1e-3
"""Largest relative error of scale."""
TOLERANCE_MM = 0.1
"""Surface further than this from the good twin is labelled: above what good specimens differ by."""
TOLERANCE_COLOUR = 24
"""So is surface whose colour differs by more in any channel (of 255)."""
DEMO_DEFECTS: tuple[DefectKind, ...] = ("hole", "cut", "bulge", "burr", "crack", "scratch", "mark")
DEMO_SIZES_MM = (1.5, 6.0)


@dataclass(frozen=True)
class DefectLabel:
    """One defect as made.

    Args:
        id: number of the instance, from 1.
        kind: its type.
        centroid_mm: area-weighted middle of its labelled surface, in the scan's frame.
        area_mm2: labelled surface.
        size_mm: largest distance between two of its labelled vertices.
    """

    id: int
    kind: DefectKind
    centroid_mm: tuple[float, float, float]
    area_mm2: float
    size_mm: float


@dataclass(frozen=True, eq=False)
class Specimen:
    """One made piece, good or not.

    Args:
        part: which part it is a specimen of.
        scan: its closed, coloured mesh.
        nominal: the part as designed, in the part frame.
        vertex_instance: (n,) int32 per vertex of the scan: 0 = good, k = instance k.
        instances: the defects, in order of their ids.
        part_from_scan: identity unless a random pose was asked for.
        symmetries: every pose part_from_part that maps the nominal part onto itself, the identity first.
    """

    part: str
    scan: Scan
    nominal: Scan
    vertex_instance: Indices
    instances: tuple[DefectLabel, ...]
    part_from_scan: Pose
    symmetries: tuple[Pose, ...]

    @property
    def face_instance(self) -> Indices:
        """(m,) the instance of every face that has a labelled corner, else 0."""
        assert self.scan.faces is not None
        return np.asarray(self.vertex_instance[self.scan.faces].max(axis=1))


def make_specimen(
    part: str,
    seed: int,
    defects: Sequence[DefectKind] = (),
    *,
    sizes_mm: tuple[float, float] = DEMO_SIZES_MM,
    random_pose: bool = False,
) -> Specimen:
    """Make one specimen; `make_specimen(part, seed)` is the good twin of `make_specimen(part, seed, defects)`.

    Args:
        part: a key of `machine_parts.BUILDERS`.
        seed: of the process variation, the pose and the defects' places.
        defects: kinds, one entry per instance.
        sizes_mm: smallest and largest size of the defects.
        random_pose: whether the scan stands anywhere, turned anyhow, instead of in the part frame.

    Raises:
        DatasetError: unknown part or kind, or no room for the defects.
    """
    asked: list[tuple[str, str, list[str]]] = [("part", part, list(BUILDERS))]
    asked += [("defect", kind, list(KINDS)) for kind in defects]
    for what, name, known in asked:
        if name not in known:
            raise DatasetError(
                "machine_elements",
                expected=f"a {what} of {', '.join(known)}",
                got=repr(name),
                remedy="use one of these",
            )
    key = [zlib.crc32(part.encode()), seed]
    planned: list[Defect] = []
    for number, kind in enumerate(defects):
        planned.append(plan(part, kind, sizes_mm, planned, [*key, 1, number, KINDS.index(kind)]))
    vertices, faces, touched = _shape(part, planned)
    made = _process(vertices, faces, key)
    label = _changed(part, key, made, touched)
    colours, painted = _colours(part, key, vertices, vertex_normals(vertices, faces), planned)
    label = np.where(painted > 0, painted, label).astype(np.int32)
    part_from_scan = np.eye(4)
    if random_pose:
        rng = np.random.default_rng([*key, 3])
        part_from_scan = random_rotation(rng)
        part_from_scan[:3, 3] = rng.uniform(-100, 100, 3)
    placed = transform_points(inverse(part_from_scan), made)
    instances = tuple(_describe(k + 1, defect.kind, placed, faces, label) for k, defect in enumerate(planned))
    on = base(part)
    return Specimen(
        part,
        Scan(f"{part}_{seed:03d}", vertices_mm=placed, faces=faces, colours=colours),
        Scan(f"{part}_nominal", vertices_mm=on.vertices, faces=on.faces),
        label,
        instances,
        part_from_scan,
        nominal(part).symmetries,
    )


def _shape(part: str, planned: Sequence[Defect]) -> tuple[Points, Faces, Indices]:
    """The designed shape with its defects: vertices, faces, and per vertex the instance that may have changed it."""
    on = base(part)
    if not planned:
        return on.vertices, on.faces, np.zeros(len(on.vertices), np.int64)
    solid, instance_of = on.solid(), {}
    for number, defect in enumerate(planned, start=1):
        if defect.tool is not None:
            tool = defect.tool.as_original()
            instance_of[tool.original_id()] = number
            solid = solid + tool if defect.adds else solid - tool

    def limit(middle: Points) -> np.ndarray:
        near = [np.linalg.norm(middle - d.centre_mm, axis=1) < d.radius_mm for d in planned if d.kind != "warp"]
        return np.where(np.any(near, axis=0), FINE_EDGE_MM, EDGE_MM)

    vertices, faces, origin = refine(*mesh_of(solid), limit)
    touched = np.zeros(len(vertices), np.int64)
    for tool_id, number in instance_of.items():
        touched[faces[origin == tool_id]] = number
    normals, moved = vertex_normals(vertices, faces), np.zeros_like(vertices)
    for number, defect in enumerate(planned, start=1):
        if defect.shift is not None:
            shift = defect.shift(vertices, normals)
            touched[(shift != 0).any(axis=1)] = number
            moved += shift
    return vertices + moved, faces, touched


def _process(vertices: Points, faces: Faces, key: list[int]) -> Points:
    """What making adds: smooth deviation (a few long waves through space), layers, scale."""
    rng = np.random.default_rng([*key, 0])
    waves = 6
    wavelength = rng.uniform(25, 70, waves)
    direction = rng.standard_normal((waves, 3))
    direction *= (2 * np.pi / wavelength / np.linalg.norm(direction, axis=1))[:, None]
    push = rng.standard_normal((waves, 3))
    push *= VARIATION_MM * rng.uniform(0.5, 1) / np.linalg.norm(push, axis=1).sum()
    smooth = np.sin(vertices @ direction.T + rng.uniform(0, 2 * np.pi, waves)) @ push
    jitter = rng.uniform(-LAYER_JITTER_MM, LAYER_JITTER_MM, 1000)
    layer = np.floor(vertices[:, 2] / LAYER_MM).astype(int) % len(jitter)
    sideways = vertex_normals(vertices, faces) * (1, 1, 0)
    return np.asarray((vertices + smooth + jitter[layer, None] * sideways) * (1 + rng.uniform(-SCALE, SCALE)))


def _changed(part: str, key: list[int], made: Points, touched: Indices) -> Indices:
    """`touched` where the surface lies further than the tolerance from the good twin, else 0."""
    on, where = base(part), np.flatnonzero(touched)
    far = distance_to_surface(made[where], _process(on.vertices, on.faces, key), on.faces) > TOLERANCE_MM
    return np.where(np.isin(np.arange(len(made)), where[far]), touched, 0)


def _colours(
    part: str, key: list[int], vertices: Points, normals: Points, planned: Sequence[Defect]
) -> tuple[np.ndarray, Indices]:
    """Plastic of slightly uneven colour, with the marks; and per vertex the mark that is seen there."""
    rng = np.random.default_rng([*key, 2])
    batch = rng.uniform(-3, 3, 3)
    uneven = np.sin(vertices @ rng.normal(0, 0.25, (3, 4)) + rng.uniform(0, 6, 4)).sum(axis=1)
    plain = np.array(nominal(part).colour) + batch + uneven[:, None]
    colours, painted = plain, np.zeros(len(vertices), np.int64)
    for number, defect in enumerate(planned, start=1):
        if defect.paint is not None:
            opacity = defect.paint(vertices, normals)[:, None]
            colours = (1 - opacity) * colours + opacity * defect.ink
            painted[(opacity[:, 0] > 0) & (np.abs(colours - plain).max(axis=1) > TOLERANCE_COLOUR)] = number
    return np.clip(np.round(colours), 0, 255).astype(np.uint8), painted


def _describe(number: int, kind: DefectKind, vertices: Points, faces: Faces, label: Indices) -> DefectLabel:
    """Measure a labelled region."""
    mine = faces[(label[faces] == number).any(axis=1)]
    _, areas = face_normals_areas(vertices, mine)
    if not len(mine):
        raise DatasetError(
            f"defect {number} ({kind})",
            expected="surface that differs from the good twin",
            got="none",
            remedy="ask for larger defects",
        )
    centroid: Vector = np.average(vertices[mine].mean(axis=1), axis=0, weights=areas)
    points = vertices[label == number]
    far = points[np.argmax(np.linalg.norm(points - points.mean(axis=0), axis=1))]
    size = float(np.linalg.norm(points - far, axis=1).max())
    x, y, z = centroid.tolist()
    return DefectLabel(number, kind, (x, y, z), float(areas.sum()), size)
