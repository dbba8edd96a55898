"""Of the poses in which a captured view fits alike by symmetry of the part, the one that is taken.

The view itself cannot tell. So views are taken to have gone round a specimen that stayed on its table: those of a part
that looks the same from below all look at the side that is up, those of a round one at all of its rim.
"""

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from rad3d.arrays import Pose, Vector
from rad3d.geometry import transform_points, unit
from rad3d.icp import Poses, Samples
from rad3d.query import Seen
from rad3d.reference import Reference
from rad3d.segment import support_of
from rad3d.symmetry import about
from rad3d.view import View

TURN_STEP = np.deg2rad(3.0)
"""About an axis of revolution."""
UP = unit(np.array([0.12, 0.23, 1.0]))
"""Of the equivalent ways to lie, the one whose upper side faces most this way; oblique, so that no two tie."""
SAME_TABLE = np.deg2rad(10.0)
FACING = np.deg2rad(60.0)
MARKS, POINTS = 1500, 1000
"""Places of the part, and points of a view, by which is counted who sees what."""


def equivalents(reference: Reference) -> Poses:
    """(k, 4, 4) what maps the part exactly onto itself, the identity first; about an axis in steps."""
    exact, axis = reference.symmetries.exact, reference.symmetries.axis
    if axis is None:
        return exact
    angles = np.arange(0, 2 * np.pi, TURN_STEP)[:, None]
    about_axis = about(Rotation.from_rotvec(angles * axis[1]).as_matrix(), axis[0], axis[0])
    return np.asarray((exact[:, None] @ about_axis[None]).reshape(-1, 4, 4))


def settled(
    views: Sequence[View], queries: Sequence[Seen | str], poses: Sequence[Pose | None], reference: Reference
) -> list[Pose | None]:
    """The equivalent pose that each view takes: on the table like the others, where least was seen so far.

    Args:
        views: of one specimen, each in its camera's frame.
        queries: the same, prepared for registration.
        poses: part_from_camera; None = not known, or not by symmetry alone.
        reference: the part with its symmetries.
    """
    turns = equivalents(reference)
    if len(turns) == 1:
        return list(poses)
    marks = reference.target.samples.thinned(MARKS)
    seen = np.zeros(len(marks.points_mm))
    result: list[Pose | None] = []
    for view, query, pose in zip(views, queries, poses, strict=True):
        if pose is None or isinstance(query, str):
            result.append(None)
            continue
        choices = turns @ pose
        table = support_of(view)
        if table is not None:
            choices = _lying(choices, table.normal)
        shown = _shown(choices, query.scan.samples, marks)
        best = int((shown @ (1 / (1 + seen))).argmax())
        seen += shown[best]
        result.append(choices[best])
    return result


def _lying(poses: Poses, up: Vector) -> Poses:
    """The poses in which the table's normal (camera frame) is the one nearest to `UP`."""
    normals = poses[:, :3, :3] @ up
    return np.asarray(poses[normals @ normals[(normals @ UP).argmax()] > np.cos(SAME_TABLE)])


def _shown(poses: Poses, samples: Samples, marks: Samples) -> np.ndarray:
    """(k, m) which marks a view shows in each pose, at no more than `FACING`."""
    samples = samples.thinned(POINTS)
    facing = -np.einsum("ni,ni->n", samples.normals, unit(samples.points_mm)) >= np.cos(FACING)
    points = np.stack([transform_points(pose, samples.points_mm[facing]) for pose in poses])
    shown = np.zeros((len(poses), len(marks.points_mm)), bool)
    np.put_along_axis(shown, marks.tree.query(points, workers=-1)[1], True, axis=1)
    return shown
