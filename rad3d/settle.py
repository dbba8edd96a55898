"""Of the poses in which a captured view fits alike by symmetry of the part, the one that is taken.

The view itself cannot tell. So that views of all specimens can be compared, those of a part that looks the same from
below are taken to look at the same side, the one that is up, and those of a round one at the same sector of it.
"""

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from rad3d.arrays import Flags, Pose, Vector
from rad3d.geometry import transform_points, unit
from rad3d.icp import Poses
from rad3d.reference import Reference
from rad3d.scan import Surface
from rad3d.segment import support_of
from rad3d.symmetry import about, moved_mm
from rad3d.view import View

TURN_STEP = np.deg2rad(3.0)
"""About an axis of revolution."""
UP = unit(np.array([0.12, 0.23, 1.0]))
"""Of the equivalent ways to lie, the one whose upper side faces most this way; oblique, so that no two tie."""
SAME_TABLE = np.deg2rad(10.0)
MOST_TURNS = 30
"""By which flags are carried over: a view shows far more of a round part than lies between two of them."""


def equivalents(reference: Reference) -> Poses:
    """(k, 4, 4) what maps the part exactly onto itself, the identity first; about an axis in steps."""
    exact, axis = reference.symmetries.exact, reference.symmetries.axis
    if axis is None:
        return exact
    angles = np.arange(0, 2 * np.pi, TURN_STEP)[:, None]
    about_axis = about(Rotation.from_rotvec(angles * axis[1]).as_matrix(), axis[0], axis[0])
    return np.asarray((exact[:, None] @ about_axis[None]).reshape(-1, 4, 4))


def up_to_symmetry(flags: Flags, surface: Surface, reference: Reference) -> Flags:
    """(n,) the reference's points that have the flag, or of which one has it that symmetry makes the same.

    Of captured views without poses it cannot be told which of these they showed.
    """
    turns = equivalents(reference)
    result = flags.copy()
    for turn in turns[:: max(1, len(turns) // MOST_TURNS)][1:]:
        result |= flags[surface.tree.query(transform_points(turn, surface.points_mm), workers=-1)[1]]
    return result


def settled(
    views: Sequence[View], poses: Sequence[Pose | None], reference: Reference
) -> list[tuple[Pose, Vector | None] | None]:
    """The equivalent pose that each view takes: on the table like all others, and of those the nearest to identity.

    Args:
        views: of one specimen, each in its camera's frame.
        poses: part_from_camera; None = not known, or not by symmetry alone.
        reference: the part with its symmetries.

    Returns:
        for each known one the pose, and which way is up from the table in the part frame; None where no table is seen,
        or the part has no symmetry.
    """
    turns, marks = equivalents(reference), reference.marks_mm
    result: list[tuple[Pose, Vector | None] | None] = []
    for view, pose in zip(views, poses, strict=True):
        table = None if pose is None or len(turns) == 1 else support_of(view)
        if pose is None or table is None:
            result.append(None if pose is None else (pose, None))
            continue
        choices = _lying(turns @ pose, table.normal)
        apart = [moved_mm(choice, marks) for choice in choices]
        chosen = choices[int(np.argmin(apart))]
        result.append((chosen, chosen[:3, :3] @ table.normal))
    return result


def upright(turns: Poses, up: Vector | None) -> Flags:
    """(k,) which turns leave a specimen on the side it lies on, for all views were taken of one; all if up is unknown.

    >>> over = np.diag([1.0, -1.0, -1.0, 1.0])
    >>> upright(np.stack([np.eye(4), over]), np.array([0.0, 0.0, 1.0])), upright(over[None], None)
    (array([ True, False]), array([ True]))
    """
    if up is None:
        return np.ones(len(turns), bool)
    return np.asarray(turns[:, :3, :3] @ up @ up > np.cos(SAME_TABLE))


def _lying(poses: Poses, up: Vector) -> Poses:
    """The poses in which the table's normal (camera frame) is the one nearest to `UP`."""
    normals = poses[:, :3, :3] @ up
    return np.asarray(poses[normals @ normals[(normals @ UP).argmax()] > np.cos(SAME_TABLE)])
