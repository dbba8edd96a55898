"""Rigid transforms, as (4, 4) float64 matrices named target_from_source, and directions."""

import numpy as np

from rad3d.arrays import Indices, Points, Pose, Vector


def transform_points(target_from_source: Pose, points: np.ndarray) -> np.ndarray:
    """Move positions (..., 3) from the source frame to the target frame; NaN stays NaN.

    >>> transform_points(translation((1.0, 0.0, 0.0)), np.zeros((1, 3)))
    array([[1., 0., 0.]])
    """
    pose = target_from_source.astype(points.dtype)
    return np.asarray(points @ pose[:3, :3].T + pose[:3, 3])


def transform_directions(target_from_source: Pose, directions: np.ndarray) -> np.ndarray:
    """Turn directions (..., 3) from the source frame to the target frame."""
    return np.asarray(directions @ target_from_source[:3, :3].T.astype(directions.dtype))


def inverse(target_from_source: Pose) -> Pose:
    """source_from_target of a rigid transform."""
    rotation = target_from_source[:3, :3]
    result = np.eye(4)
    result[:3, :3] = rotation.T
    result[:3, 3] = -rotation.T @ target_from_source[:3, 3]
    return result


def translation(offset_mm: tuple[float, float, float] | Vector) -> Pose:
    """The pose that adds `offset_mm`."""
    result = np.eye(4)
    result[:3, 3] = offset_mm
    return result


def rotation_about(axis: Vector, angle: float, centre_mm: Vector | None = None) -> Pose:
    """Turn by `angle` radians about `axis` through `centre_mm` (default: the origin)."""
    x, y, z = np.asarray(axis, float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    result = np.eye(4)
    result[:3, :3] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    if centre_mm is not None:
        result[:3, 3] = np.asarray(centre_mm) - result[:3, :3] @ np.asarray(centre_mm)
    return result


def random_rotation(rng: np.random.Generator) -> Pose:
    """A rotation drawn uniformly (QR of a Gaussian matrix, signs fixed; Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q *= np.sign(np.diag(r))
    if np.linalg.det(q) < 0:
        q[:, 0] = -q[:, 0]
    result = np.eye(4)
    result[:3, :3] = q
    return result


def look_at(eye_mm: Vector, target_mm: Vector, up: Vector | None = None) -> Pose:
    """part_from_camera of a camera at `eye_mm` that looks at `target_mm` (OpenCV axes: x right, y down, z forward)."""
    forward = np.asarray(target_mm, float) - np.asarray(eye_mm, float)
    forward /= np.linalg.norm(forward)
    up = np.array([0.0, 0.0, 1.0]) if up is None else np.asarray(up, float)
    if abs(forward @ up) > 0.999 * np.linalg.norm(up):
        up = np.array([0.0, 1.0, 0.0]) if abs(forward[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    result = np.eye(4)
    result[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    result[:3, 3] = eye_mm
    return result


def rotation_angle(pose: Pose) -> float:
    """The angle in radians by which the pose turns."""
    return float(np.arccos(np.clip((np.trace(pose[:3, :3]) - 1) / 2, -1, 1)))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., n) at length 1; zero vectors stay zero."""
    length = lengths(vectors)[..., None]
    return np.asarray(np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0))


def lengths(vectors: np.ndarray) -> np.ndarray:
    """(...) lengths of vectors (..., n): np.linalg.norm, several times as fast."""
    return np.asarray(np.sqrt(np.einsum("...i,...i->...", vectors, vectors)))


def cell_keys(points: Points, side: float) -> np.ndarray:
    """(n,) int64, the same for points in one cube of a grid from the lowest corner; up to 2 million cubes a side."""
    cell = np.floor((points - points.min(axis=0)) / side).astype(np.int64)
    return np.asarray((cell[:, 0] << 42) | (cell[:, 1] << 21) | cell[:, 2])


def group_means(values: np.ndarray, group: Indices) -> np.ndarray:
    """(g, c) means of the values (n, c) of each group; `group` (n,) numbers them without gaps."""
    sums = np.stack([np.bincount(group, column) for column in values.T], axis=1)
    return np.asarray(sums / np.bincount(group)[:, None])


def pieces(points: Points, reach: float) -> Indices:
    """(n,) number of the piece that each point belongs to: points no further apart than `reach` are connected.

    Points in one cube of an eighth of that count as their middle, so that dense ones cost no more memory; between them
    `reach` is meant up to an eighth.

    >>> pieces(np.array([[0.0, 0, 0], [1, 0, 0], [9, 0, 0], [9, 0, 0]]), 1.5)
    array([0, 0, 1, 1], dtype=int32)
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    if not len(points):
        return np.empty(0, np.int32)
    _, cube = np.unique(cell_keys(points, reach / 8), return_inverse=True)
    middle = group_means(points, cube)
    pairs = cKDTree(middle).query_pairs(reach, output_type="ndarray")
    links = coo_array((np.ones(len(pairs), bool), tuple(pairs.T)), (len(middle), len(middle)))
    return np.asarray(connected_components(links, directed=False)[1][cube])


def bounding_sphere(points: Points) -> tuple[Vector, float]:
    """Centre of the axis-aligned box and the radius (mm) that encloses all points from there."""
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    return centre, float(np.linalg.norm(points - centre, axis=1).max())


def cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """np.cross of vectors (..., 3), several times as fast."""
    (ax, ay, az), (bx, by, bz) = np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0)
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=-1)


def face_normals_areas(vertices: Points, faces: np.ndarray) -> tuple[Points, np.ndarray]:
    """Unit normals (m, 3) and areas (m,) of triangles; a degenerate triangle has normal 0 and area 0."""
    corners = vertices[faces]
    along = cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return unit(along), lengths(along) / 2


def sphere(count: int) -> Points:
    """Unit directions (n, 3) spread evenly (Fibonacci lattice)."""
    step = np.arange(count) + 0.5
    z = 1 - 2 * step / count
    turn = np.pi * (1 + np.sqrt(5)) * step
    flat = np.sqrt(1 - z**2)
    return np.stack([flat * np.cos(turn), flat * np.sin(turn), z], axis=1)
