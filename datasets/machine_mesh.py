"""Solids as evenly refined meshes, and exact distances between surfaces."""

from collections.abc import Callable

import numpy as np
import trimesh
from manifold3d import Manifold
from scipy.spatial import cKDTree

from rad3d.arrays import Faces, Indices, Points, Values
from rad3d.geometry import face_normals_areas, unit

FLAT = 1e-6
"""Faces whose far corner lies closer (mm) to the other's plane are one flat patch."""


def mesh_of(solid: Manifold) -> tuple[Points, Faces, Indices]:
    """Vertices, faces, and for every face the id of the solid whose surface it was before the booleans."""
    mesh = solid.to_mesh64()
    faces = np.asarray(mesh.tri_verts).astype(np.int64)
    origin = np.repeat(np.asarray(mesh.run_original_id, np.int64), np.diff(np.asarray(mesh.run_index)) // 3)
    return np.array(mesh.vert_properties[:, :3], float), faces, origin


def refine(
    vertices: Points, faces: Faces, tag: Indices, limit_mm: Callable[[Points], Values]
) -> tuple[Points, Faces, Indices]:
    """Halve edges longer than `limit_mm(midpoints)` and keep flat patches Delaunay, until no edge is too long.

    Long edges come first and few at a time, so that the short edges of a curved border do not spread into the flat
    patch beside it. Faces are split together with their neighbours: the mesh stays closed; new faces inherit `tag`.
    """
    faces, tag = faces.copy(), tag.copy()
    old = 0
    while True:
        fresh = np.unique(faces[(faces >= old).any(axis=1)])
        flip_flat_edges(vertices, faces, tag, _touching(faces, fresh))
        old = len(vertices)
        pairs, edge_of = edges_of(faces)
        middle = vertices[pairs].mean(axis=1)
        length = np.linalg.norm(vertices[pairs[:, 0]] - vertices[pairs[:, 1]], axis=1)
        excess = length / limit_mm(middle)
        if excess.max() <= 1:
            return vertices, faces, tag
        split = np.flatnonzero(excess > max(1.0, excess.max() / 2))
        split = split[np.argsort(-length[split], kind="stable")]
        cell = np.round(middle[split] / (0.5 * length[split].min())).astype(np.int64)
        split = split[np.unique(cell, axis=0, return_index=True)[1]]
        number = np.full(len(pairs), -1)
        number[split] = len(vertices) + np.arange(len(split))
        vertices = np.concatenate([vertices, middle[split]])
        faces, tag = _split(faces, tag, number[edge_of])


def edges_of(faces: Faces) -> tuple[Indices, Faces]:
    """Undirected edges (e, 2), and for every face (m, 3) the edges 01, 12, 20."""
    ends = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1), axis=-1)
    count = int(faces.max()) + 1
    unique, edge_of = np.unique(ends[..., 0] * count + ends[..., 1], return_inverse=True)
    return np.stack([unique // count, unique % count], axis=1), edge_of.reshape(-1, 3)


def _split(faces: Faces, tag: Indices, middle: Faces) -> tuple[Faces, Indices]:
    """Split faces at the midpoints of edges 01, 12, 20 (-1 = edge stays)."""
    count = (middle >= 0).sum(axis=1)
    pieces, tags = [faces[count == 0]], [tag[count == 0]]

    def add(where: np.ndarray, *triangles: tuple[np.ndarray, ...]) -> None:
        pieces.extend(np.stack(triangle, axis=1)[where] for triangle in triangles)
        tags.extend([tag[where]] * len(triangles))

    for turn in range(3):  # turn the corners so that each pattern starts at corner 0
        a, b, c = (faces[:, (turn + i) % 3] for i in range(3))
        ab, bc, ca = (middle[:, (turn + i) % 3] for i in range(3))
        add((count == 1) & (ab >= 0), (a, ab, c), (ab, b, c))
        add((count == 2) & (ca < 0), (ab, b, bc), (a, ab, bc), (a, bc, c))
        if turn == 0:
            add(count == 3, (a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))
    return np.concatenate(pieces), np.concatenate(tags)


def _touching(faces: Faces, vertices: Indices) -> Indices:
    """The faces that have one of the vertices as a corner."""
    marked = np.zeros(int(faces.max()) + 1, bool)
    marked[vertices] = True
    return np.flatnonzero(marked[faces].any(axis=1))


def flip_flat_edges(vertices: Points, faces: Faces, tag: Indices, active: Indices, rounds: int = 40) -> None:
    """Turn the diagonals of flat quadrilaterals until they are Delaunay (Lawson 1977); changes `faces` in place.

    Only quadrilaterals of `active` faces are looked at, then those beside a change.
    """
    for _ in range(rounds):
        if not len(active):
            return
        f, k, g, n = _improving_flips(vertices, faces[active], tag[active]).T
        if not len(f):
            return
        f, g = active[f], active[g]
        a, b, c, d = faces[f, k], faces[f, (k + 1) % 3], faces[f, (k + 2) % 3], faces[g, (n + 2) % 3]
        faces[f], faces[g] = np.stack([a, d, c], axis=1), np.stack([d, b, c], axis=1)
        active = _touching(faces, np.concatenate([a, b, c, d]))


def _improving_flips(vertices: Points, faces: Faces, tag: Indices) -> Faces:
    """Rows (face, corner, other face, corner) of edges to flip, no face twice."""
    _, edge_of = edges_of(faces)
    order = np.argsort(edge_of.ravel(), kind="stable")
    ordered = edge_of.ravel()[order]
    pair = np.flatnonzero(ordered[1:] == ordered[:-1])
    first, second = order[pair], order[pair + 1]
    f, k, g, n = first // 3, first % 3, second // 3, second % 3
    normals, areas = face_normals_areas(vertices, faces)
    same = tag[f] == tag[g]
    f, k, g, n = f[same], k[same], g[same], n[same]
    a, b = vertices[faces[f, k]], vertices[faces[f, (k + 1) % 3]]
    c, d = vertices[faces[f, (k + 2) % 3]], vertices[faces[g, (n + 2) % 3]]
    normal = np.where((areas[f] >= areas[g])[:, None], normals[f], normals[g])
    flat = np.maximum(np.abs(np.einsum("ni,ni->n", c - a, normal)), np.abs(np.einsum("ni,ni->n", d - a, normal))) < FLAT

    def cotangent(apex: Points) -> Values:
        u, v = a - apex, b - apex
        sine = np.maximum(np.linalg.norm(np.cross(u, v), axis=1), 1e-12)
        return np.asarray(np.einsum("ni,ni->n", u, v) / sine)

    def above(p: Points, q: Points, r: Points) -> np.ndarray:
        return np.asarray(np.einsum("ni,ni->n", np.cross(q - p, r - p), normal) > 1e-9)

    gain = cotangent(c) + cotangent(d)
    good = np.flatnonzero(flat & (gain < -1e-6) & above(a, d, c) & above(d, b, c))
    good = good[np.argsort(gain[good], kind="stable")]
    rank = np.full(len(faces), len(good))
    np.minimum.at(rank, f[good], np.arange(len(good)))
    np.minimum.at(rank, g[good], np.arange(len(good)))
    place = np.arange(len(good))
    good = good[(rank[f[good]] == place) & (rank[g[good]] == place)]
    return np.stack([f[good], k[good], g[good], n[good]], axis=1)


def vertex_normals(vertices: Points, faces: Faces) -> Points:
    """Area-weighted unit normals (n, 3)."""
    normals, areas = face_normals_areas(vertices, faces)
    weighted = normals * areas[:, None]
    total = np.stack(
        [sum(np.bincount(faces[:, i], weighted[:, axis], len(vertices)) for i in range(3)) for axis in range(3)], axis=1
    )
    return unit(total)


def distance_to_surface(points: Points, vertices: Points, faces: Faces, candidates: int = 24) -> Values:
    """Distance (n,) to a mesh of even triangles: exact to the `candidates` triangles with the nearest centres."""
    if not len(points):
        return np.empty(0)
    triangles = vertices[faces]
    _, near = cKDTree(triangles.mean(axis=1)).query(points, k=min(candidates, len(faces)))
    near = near.reshape(len(points), -1)
    repeated = np.repeat(points, near.shape[1], axis=0)
    closest = trimesh.triangles.closest_point(triangles[near.ravel()], repeated)
    return np.asarray(np.linalg.norm(closest - repeated, axis=1).reshape(near.shape).min(axis=1))
