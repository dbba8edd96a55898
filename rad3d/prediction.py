"""What a method says of one sample; written to disk, so that metrics can be computed again without inference."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rad3d.arrays import Indices, Mask, Points, Pose, ScoreMap, Values
from rad3d.errors import ResultError, ScanError
from rad3d.files import atomic_folder
from rad3d.ply import read_ply, write_ply
from rad3d.scan import Scan

Box = tuple[float, float, float, float]
"""Left, top, width, height as shares of an image; may reach beyond it."""

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)

SCORED = "scored.ply"


@dataclass(frozen=True, eq=False)
class ViewPrediction:
    """Scores of one view.

    Args:
        name: the view's.
        score: of the image as a whole.
        scores: (h, w) float32, NaN = not inspected.
        box: what of the image the map shows.
        part: (H, W) pixels of the image that show the part, None where no cloud tells.
        part_from_camera: the pose that was found, in the frame of the found defects; None without one.
    """

    name: str
    score: float
    scores: ScoreMap
    box: Box = WHOLE
    part: Mask | None = None
    part_from_camera: Pose | None = None


@dataclass(frozen=True, eq=False)
class PointPrediction:
    """Scores of a mesh's or cloud's vertices, in file order; on disk a PLY that other software shows.

    Args:
        vertices_mm: (n, 3).
        scores: (n,) NaN = not inspected.
        areas_mm2: (n,) the surface each vertex stands for.
        defect_id: (n,) the defect each vertex belongs to, 0 = none; None where no defects are looked for.
    """

    vertices_mm: Points
    scores: Values
    areas_mm2: Values
    defect_id: Indices | None = None

    @staticmethod
    def of(scan: Scan, scores: Values, defect_id: Indices | None = None) -> "PointPrediction":
        """Of the scan's vertices; those at one place share its surface."""
        share = np.bincount(scan.surface_from_vertex, minlength=len(scan.surface.points_mm))
        areas = (scan.surface.areas_mm2 / np.maximum(share, 1))[scan.surface_from_vertex]
        return PointPrediction(scan.vertices_mm, scores, areas, defect_id)

    def save(self, path: Path) -> None:
        """Write the PLY."""
        fields = {"anomaly_score": self.scores, "area_mm2": self.areas_mm2}
        if self.defect_id is not None:
            fields["defect_id"] = self.defect_id
        write_ply(path, self.vertices_mm, fields=fields)

    @staticmethod
    def load(path: Path) -> "PointPrediction":
        """Read what `save` wrote."""
        ply = read_ply(path)
        return PointPrediction(
            ply.vertices, ply.fields["anomaly_score"], ply.fields["area_mm2"], ply.fields.get("defect_id")
        )


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a method says of one sample.

    Args:
        score: of the specimen; NaN when it failed.
        complete: False when the verdict is incomplete, or inspection failed.
        reason: why not complete.
        views: per view.
        points: per vertex of the scan; None for images.
        fails: the calibrated verdict, None without one.
        centroids_mm: (d, 3) of the defects found.
        defect_areas_mm2: (d,).
    """

    score: float
    complete: bool = True
    reason: str = ""
    views: tuple[ViewPrediction, ...] = ()
    points: PointPrediction | None = None
    fails: bool | None = None
    centroids_mm: Points | None = None
    defect_areas_mm2: Values | None = None

    def save(self, folder: Path) -> None:
        """Write it, all or nothing."""
        import tifffile
        from PIL import Image as PilImage

        header: dict[str, Any] = {
            "score": None if np.isnan(self.score) else self.score,
            "complete": self.complete,
            "reason": self.reason,
            "fails": self.fails,
            "scored": self.points is not None,
            "views": [
                {
                    "name": v.name,
                    "score": _none(v.score),
                    "box": v.box,
                    "part_from_camera": None if v.part_from_camera is None else v.part_from_camera.tolist(),
                }
                for v in self.views
            ],
            "centroids_mm": None if self.centroids_mm is None else self.centroids_mm.tolist(),
            "defect_areas_mm2": None if self.defect_areas_mm2 is None else self.defect_areas_mm2.tolist(),
        }
        with atomic_folder(folder, ("prediction.json", SCORED, "*.tiff", "*.part.png")) as new:
            for view in self.views:
                tifffile.imwrite(new / f"{view.name}.tiff", view.scores.astype(np.float32), compression="zlib")
                if view.part is not None:
                    PilImage.fromarray(view.part).save(new / f"{view.name}.part.png")
            if self.points is not None:
                self.points.save(new / SCORED)
            (new / "prediction.json").write_text(json.dumps(header, allow_nan=False) + "\n")

    @staticmethod
    def load(folder: Path) -> "Prediction":
        """Read what `save` wrote.

        Raises:
            ResultError: nothing there, or damaged.
        """
        import tifffile
        from PIL import Image as PilImage

        try:
            header = json.loads((folder / "prediction.json").read_text())
            views = []
            for view in header["views"]:
                part, pose = folder / f"{view['name']}.part.png", view.get("part_from_camera")
                views.append(
                    ViewPrediction(
                        view["name"],
                        _nan(view["score"]),
                        tifffile.imread(folder / f"{view['name']}.tiff"),
                        tuple(view["box"]),
                        np.asarray(PilImage.open(part)) > 0 if part.exists() else None,
                        None if pose is None else np.array(pose, float),
                    )
                )
            found = header["centroids_mm"]
            return Prediction(
                score=_nan(header["score"]),
                complete=header["complete"],
                reason=header["reason"],
                views=tuple(views),
                points=PointPrediction.load(folder / SCORED)
                if header.get("scored", (folder / "points.npy").exists())
                else None,
                fails=header["fails"],
                centroids_mm=None if found is None else np.array(found, float).reshape(-1, 3),
                defect_areas_mm2=None if found is None else np.array(header["defect_areas_mm2"], float),
            )
        except (OSError, ValueError, KeyError, TypeError, ScanError) as error:
            raise ResultError(
                folder,
                expected="a prediction",
                got=f"{type(error).__name__}: {error}",
                remedy="remove the folder and evaluate again",
            ) from error


def _none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _nan(value: float | None) -> float:
    return np.nan if value is None else value
