"""What a path is, for `rad3d info`: a fitted memory, a result, or scans and how they are read."""

from pathlib import Path
from typing import Any

from rad3d.inspector import Inspector
from rad3d.io import find_scans, read_scan
from rad3d.labelled import LabelledMemory
from rad3d.memory import Memory
from rad3d.result import load_result
from rad3d.scan import Scan, Unit


def describe(path: str | Path, unit: Unit | None = None, sensor: str | None = None) -> dict[str, Any]:
    """A dictionary that says what `path` holds; unit and sensor as `read_scan` takes them.

    Raises:
        Rad3dError: nothing rad3d knows, or damaged.
    """
    path = Path(path)
    if (path / "inspector.json").exists():
        inspector = Inspector.load(path)
        threshold, rate = inspector.threshold
        fitted = {"part": inspector.part, "threshold": threshold, "false_reject": rate.sentence()}
        return {"kind": "memory", **fitted, **inspector.memory.info()}
    if (path / "memory.json").exists():
        return {"kind": "memory", **Memory.load(path).info()}
    if (path / "labelled.json").exists():
        labelled = LabelledMemory.load(path)
        licences = sorted({(i.part, i.source, i.licence) for i in labelled.images})
        return {
            "kind": "labelled memory",
            "fingerprint": labelled.fingerprint,
            "images": len(labelled),
            "anomalous_images": int(labelled.image_labels.sum()),
            "regions": len(labelled.region_labels),
            "anomalous_regions": int(labelled.region_labels.sum()),
            "sources": [{"part": part, "source": source, "licence": licence} for part, source, licence in licences],
        }
    if (path / "report.json").exists():
        report = load_result(path).report()
        return {"kind": "result", **{k: report[k] for k in ("specimen", "verdict", "reason", "score", "coverage")}}
    sources = find_scans([path], sensor=sensor)
    if len(sources) > 1:
        return {"kind": "scans", "specimens": [{"specimen": s.specimen, "kind": s.kind} for s in sources]}
    scan = read_scan(sources[0].path, unit=unit, sensor=sensor)
    described: dict[str, Any] = {"kind": scan.kind, "specimen": scan.specimen, "unit": scan.unit}
    if scan.views:
        return {**described, "views": [view.name for view in scan.views]}
    extent = [round(float(side), 3) for side in scan.vertices_mm.max(axis=0) - scan.vertices_mm.min(axis=0)]
    faces = 0 if scan.faces is None else len(scan.faces)
    held = {"colours": _colours(scan), "normals": scan.normals is not None}
    return {**described, "vertices": len(scan.vertices_mm), "faces": faces, "extent_mm": extent, **held}


def _colours(scan: Scan) -> str:
    if scan.texture is not None:
        return "a texture"
    return "none" if scan.colours is None else f"of {'vertices' if scan.faces is not None else 'points'}"
