"""From where a defect is seen: in front of it, past what stands there."""

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from rad3d.arrays import Faces, Points, Values, Vector
from rad3d.geometry import face_normals_areas, sphere, unit
from rad3d.render.raycast import RayCaster

DIRECTIONS = 300
STEEPEST = 0.5
"""Cosine of 60 degrees to the normal: from further aside a defect is hardly seen."""
LIFT = 0.004
"""Of the way, from which on a line of sight counts: at its end it meets the surface that it looks at."""
ASIDE = 0.35
"""Of the normal's length, by which one looks from the side."""
UNKNOWN = np.array([-0.55, -0.75, 0.6])
"""From where to look at what has no normal."""
CLEARANCE = 0.02
"""Of the way, up to which a cloud's points are the defect itself."""
PROBES = 64
"""Places along a line of sight at which a cloud's points are asked for."""


class Outlook:
    """Looks for free lines of sight over a surface."""

    def __init__(self, vertices_mm: Points, faces: Faces | None) -> None:
        self._vertices, self._faces = vertices_mm.astype(float), faces if faces is not None and len(faces) else None

    @cached_property
    def _caster(self) -> RayCaster:
        assert self._faces is not None
        return RayCaster(self._vertices, self._faces)

    @cached_property
    def _tree(self) -> tuple[cKDTree, float]:
        """Of a cloud's points, and how near one of them has to be to stand in the way."""
        tree = cKDTree(self._vertices)
        some = self._vertices[:: max(1, len(self._vertices) // 1000)]
        return tree, float(np.median(tree.query(some, k=[min(2, tree.n)])[0]))

    def of(self, target: ArrayLike, normal: ArrayLike, reach_mm: float) -> tuple[Vector, float]:
        """Where to look from: a direction (3,), and how far the line of sight is free, at most `reach_mm`.

        A little aside of the normal, so that depth is seen, or else as near to that as the way is free; where it is
        free nowhere, from where it is free furthest.
        """
        middle, outwards = np.asarray(target, float), np.nan_to_num(np.asarray(normal, float))
        facing = unit(outwards if np.any(outwards) else UNKNOWN)
        first = unit(facing + ASIDE * unit(np.cross(facing, [0.3, 0.5, 0.8])))
        around = sphere(DIRECTIONS)
        tried = np.concatenate([first[None], around[around @ facing >= STEEPEST]])
        tried = tried[np.argsort(-(tried @ first), kind="stable")]
        free = self._free(self._on_surface(middle, facing) + LIFT * reach_mm * facing, tried, reach_mm)
        best = int(np.argmax(free))  # no way is longer than `reach_mm`, and the first of equal ones counts
        return tried[best], float(free[best])

    def _on_surface(self, target: Vector, facing: Vector) -> Vector:
        """The middle of a defect on a bulge lies within the part: the nearest surface over it, and else itself."""
        if self._faces is None:
            tree, near = self._tree
            apart, nearest = tree.query(target)
            return np.asarray(self._vertices[nearest]) if apart > near else target
        face, out, _ = self._caster.cast(target[None], facing[None])
        if face[0] < 0:
            return target
        mesh = self._caster.mesh
        normals, _ = face_normals_areas(mesh.vertices_mm, mesh.faces[face])
        return np.asarray(target + out[0] * facing) if normals[0] @ facing > 0 else target

    def _free(self, start: Vector, directions: Points, reach_mm: float) -> Values:
        """(n,) how far one sees from there."""
        if self._faces is not None:
            distance = self._caster.cast(start, directions)[1]
        else:
            tree, near = self._tree
            steps = np.linspace(max(4 * near, CLEARANCE * reach_mm), reach_mm, PROBES)
            apart = tree.query(start + steps[:, None, None] * directions, workers=-1)[0]
            step = max(near, (steps[1] - steps[0]) / 2)
            blocked = apart < step
            distance = np.where(blocked.any(axis=0), steps[blocked.argmax(axis=0)], np.inf)
        return np.asarray(np.minimum(distance, reach_mm))
