"""Labelled defects as regions of the part's surface, so that found ones can be matched with them one to one."""

from collections import defaultdict

import numpy as np
from scipy.spatial import cKDTree

from rad3d.arrays import Flags, Points, Pose, Values
from rad3d.datasets.sample import Sample, read_mask
from rad3d.geometry import inverse, pieces, transform_points
from rad3d.looks import load_views
from rad3d.observe import camera_of
from rad3d.organised import normals_of
from rad3d.prediction import Prediction
from rad3d.view import View

ONE_DEFECT_MM = 1.5
"""Labelled pixels of several views, numbered in none of them, are one defect where they are so near."""
SAME_MM = 1.0
"""Points of two views this near show the same place: more than poses are wrong by."""
STEEPEST = 0.2
"""Cosine of incidence below which a pixel's area is no longer believed."""
NOWHERE = np.full((1, 3), 1e9)


def labelled_regions(sample: Sample, prediction: Prediction) -> tuple[list[Points], Values]:
    """Points (n, 3) in the frame of the found defects, and area in mm², of each labelled defect of a specimen.

    Of a mesh or cloud they are its labelled points. Of captured views they are the labelled pixels' points by the poses
    that the method found; what no view with a pose and depth shows lies nowhere, so it is missed. A defect's area
    is what all views show of it.
    """
    labels = sample.load_point_labels()
    if labels is not None and prediction.points is not None:
        names = [name for name in np.unique(labels.instance) if name > 0]
        inside = [labels.instance == name for name in names]
        areas = np.array([prediction.points.areas_mm2[k].sum() for k in inside])
        return [labels.points_mm[k] for k in inside], areas
    if not sample.label or not sample.views:
        return [], np.empty(0)
    pose_of = {view.name: view.part_from_camera for view in prediction.views}
    points: dict[str, list[Points]] = defaultdict(list)
    areas_of: dict[str, list[Values]] = defaultdict(list)
    for files, view in zip(sample.views, load_views(sample), strict=True):
        if files.masks:
            place = _on_part(view, pose_of.get(view.name))
            for file in files.masks:
                marked = read_mask(file.path) > 0
                shown = marked & np.isfinite(place[..., 3])
                points[file.instance].append(place[shown, :3])
                areas_of[file.instance].append(place[shown, 3])
    regions, sizes = [], []
    for name in sorted(points):
        for chosen in _apart(points[name]) if not name else [[np.ones(len(p), bool) for p in points[name]]]:
            shown = [p[k] for p, k in zip(points[name], chosen, strict=True)]
            region = np.concatenate(shown)
            regions.append(region if len(region) else NOWHERE)
            sizes.append(_shown(shown, [a[k] for a, k in zip(areas_of[name], chosen, strict=True)]))
    return regions, np.array(sizes)


def _on_part(view: View, part_from_camera: Pose | None) -> np.ndarray:
    """(H, W, 4) each pixel's point on the part and its area; NaN where there is no depth, or no pose is known."""
    result = np.full((*view.size_hw, 4), np.nan)
    if part_from_camera is None or view.points_mm is None:
        return result
    camera = camera_of(view)
    in_camera = transform_points(inverse(camera.part_from_camera), view.points_mm)
    normals = normals_of(in_camera, camera.intrinsics)
    sight = -in_camera / np.linalg.norm(in_camera, axis=2, keepdims=True)
    cosine = np.clip(np.nan_to_num(np.einsum("hwc,hwc->hw", normals, sight), nan=1.0), STEEPEST, 1)
    result[..., :3] = transform_points(part_from_camera, in_camera)
    result[..., 3] = in_camera[..., 2] ** 2 / (camera.intrinsics[0, 0] * camera.intrinsics[1, 1]) / cosine
    return result


def _shown(points: list[Points], areas: list[Values]) -> float:
    """Area of a defect of which each view shows some points (n, 3) with their areas (n,), each place counted once.

    The view that shows most counts, then of every other what lies beyond `SAME_MM`, or one and a half pixels, of that.
    """
    order = sorted(range(len(areas)), key=lambda view: -areas[view].sum())
    every = np.concatenate(areas)
    if not len(every):
        return 0.0
    reach = max(SAME_MM, 1.5 * float(np.sqrt(np.median(every))))
    counted, total = points[order[0]], float(areas[order[0]].sum())
    for view in order[1:]:
        new = cKDTree(counted).query(points[view], distance_upper_bound=reach)[0] > reach
        counted, total = np.concatenate([counted, points[view][new]]), total + float(areas[view][new].sum())
    return total


def _apart(points: list[Points]) -> list[list[Flags]]:
    """The points of several views by connected piece: per piece and view, which belong to it."""
    together = np.concatenate(points)
    if not len(together):
        return [[np.ones(0, bool) for _ in points]]
    piece = pieces(together, ONE_DEFECT_MM)
    ends = np.cumsum([len(p) for p in points])[:-1]
    return [list(np.split(piece == number, ends)) for number in range(piece.max() + 1)]
