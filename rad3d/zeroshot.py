"""A part of which nothing good is known: what labelled examples of other parts say of its surface.

MRAD's probabilities per view -> back-projected on the visible surface -> mean over views. Nothing calibrates them, so
they rank places and specimens, and the verdict stays incomplete.
"""

from dataclasses import replace

import numpy as np
import torch
from scipy.spatial import cKDTree

from rad3d.backproject import back_project
from rad3d.calibration import FalseReject
from rad3d.errors import ScanError
from rad3d.expert import Expert
from rad3d.fusion import fuse
from rad3d.inspector import every_view, view_scores
from rad3d.observe import Clock, placed
from rad3d.patches import Patches, windows_of
from rad3d.render import renderer_for
from rad3d.result import Inspection, PointScores, stamp
from rad3d.scan import Scan, merged_surface
from rad3d.settings import Settings
from rad3d.view import View
from rad3d.viewpoints import choose_viewpoints

REASON = "zero-shot: no good specimen of this part is known, so scores rank but decide nothing"


def inspect_zero_shot(expert: Expert, scan: Scan, settings: Settings | None = None) -> Inspection:
    """Probability of a defect on a specimen's surface, in the scan's own frame.

    The specimen's score is the paper's for an image, 0.3 of the mean of the largest hundredth of its points and 0.7 of
    the highest probability of any of its views.

    Raises:
        ScanError: captured views without poses, which nothing brings together.
    """
    settings = replace(settings or Settings(), encoder=expert.settings)
    clock, encoder = Clock(), expert.encoder
    with clock("rendering"):
        views = _views(scan, settings, expert)
        surface = merged_surface(views) if scan.views else scan.surface
    with clock("encoding"):
        patches = _windows(views, expert, settings)
        grid, whole = expert.judge_patches(views, patches)
    with clock("retrieval"):
        (seen,) = back_project(views, patches, [grid], surface, settings.fusion)
        fused = fuse(seen, "mean")
    known = np.sort(fused.score[np.isfinite(fused.score)])
    top = float(known[-max(len(known) // 100, 1) :].mean()) if len(known) else np.nan
    judged = float(surface.areas_mm2[np.isfinite(fused.score)].sum() / surface.areas_mm2.sum())
    if scan.views:
        vertices, vertex = surface.points_mm, np.arange(len(fused.score))
    else:
        vertices, vertex = scan.vertices_mm, scan.surface_from_vertex
    tree = cKDTree(surface.points_mm)
    return Inspection(
        specimen=scan.specimen,
        source=str(scan.source or ""),
        unit="mm" if scan.views else scan.unit,
        verdict="incomplete",
        reason=REASON,
        score=0.3 * top + 0.7 * float(whole.max(initial=0.0)),
        threshold=np.nan,
        point_threshold=np.nan,
        coverage=judged,  # without a reference nothing says what can be inspected, so the whole surface counts
        coverage_total=judged,
        false_reject=FalseReject(settings.verdict.false_reject, None, 0, "none").to_dict(),
        settings={**settings.to_dict(), "method": expert.method},
        fingerprint=encoder.fingerprint,
        timings_s=clock.seconds,
        defects=(),
        vertices_mm=vertices,
        faces=scan.faces,
        points=replace(
            PointScores.unknown(len(vertex)),
            anomaly_score=fused.score[vertex],
            raw_score=fused.score[vertex],
            views_seen=fused.views_seen[vertex],
        ),
        views=every_view(scan, tuple(view_scores(view, tree, fused.score) for view in views)),
        **stamp(),
    )


def _views(scan: Scan, settings: Settings, expert: Expert) -> tuple[View, ...]:
    """Captured views without their background, or rendered ones."""
    if not scan.views:
        viewpoints = choose_viewpoints(scan, settings.views, expert.settings.input_hw, expert.encoder.patch_size)
        return tuple(renderer_for(scan, expert.encoder.device).render(viewpoints.cameras))
    unposed = [v for v in scan.views if v.camera is None or np.allclose(v.camera.part_from_camera, np.eye(4))]
    if len(unposed) > 1:
        raise ScanError(
            scan.source or scan.specimen,
            expected="captured views with poses (poses.json), a mesh or a cloud",
            got=f"{len(unposed)} views without",
            remedy="give the poses, or judge the images alone with `rad3d evaluate --method mrad-tf`",
        )
    return tuple(placed(view, np.eye(4)) for view in scan.views if view.points_mm is not None)


def _windows(views: tuple[View, ...], expert: Expert, settings: Settings) -> Patches:
    """The encoder inputs of the views, without tokens."""
    size_hw, patch = expert.settings.input_hw, expert.encoder.patch_size
    chosen = [(i, w) for i, v in enumerate(views) for w in windows_of(v, size_hw, patch, settings.views.mm_per_patch)]
    nowhere = np.full((len(chosen), *expert.encoder.grid_hw, 3), np.nan, np.float32)
    return Patches(
        torch.zeros(len(chosen), 0, 0),
        torch.zeros(len(chosen), 0, *expert.encoder.grid_hw, 0),
        nowhere,
        nowhere,
        nowhere[..., :2],
        np.full((len(chosen), 3), np.nan, np.float32),
        tuple(window for _, window in chosen),
        np.array([index for index, _ in chosen], int),
    )
