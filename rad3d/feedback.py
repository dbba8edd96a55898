"""An engineer's judgement of a found defect becomes a labelled key: its place on the part, its strength, good or bad.

Kept with the memory as `feedback.jsonl`, one line a judgement. Lines are only ever added: what is taken back stays to
be read. At the place of a false alarm judged good a specimen fails only above `CLEARLY` times its strength; at the
place of a confirmed defect already above `WEAKER` times its strength, where that is less than the threshold.
"""

import datetime
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from rad3d.arrays import Points, Values
from rad3d.errors import MemoryFormatError, ResultError
from rad3d.geometry import transform_directions
from rad3d.result import Inspection

Label = Literal["good", "bad", "undone"]

FILE = "feedback.jsonl"
CLEARLY = 1.3
"""How much stronger than a false alarm judged good something has to be to fail at its place."""
WEAKER = 0.7
"""What share of a confirmed defect's strength is enough to fail at its place."""
MARGIN_MM = 3.0
"""A false alarm moves about this much from specimen to specimen."""


@dataclass(frozen=True)
class Judgement:
    """One line of the audit trail.

    Args:
        number: counted from 1.
        when: UTC, ISO 8601.
        label: good = a false alarm, bad = confirmed, undone = the judgement `undoes` is taken back.
        result: folder of the result that was judged.
        specimen: its specimen.
        defect: number of the defect in it.
        memory: identity of the memory it was inspected with.
        place_mm: the defect's centroid in the part frame.
        normal: its normal in the part frame.
        radius_mm: how far around it the judgement counts; from there it fades over the same distance.
        peak: highest score of the defect, without what other judgements changed.
        undoes: number of the judgement that is taken back.
    """

    number: int
    when: str
    label: Label
    result: str
    specimen: str
    defect: int
    memory: str
    place_mm: tuple[float, ...]
    normal: tuple[float, ...]
    radius_mm: float
    peak: float
    undoes: int | None = None


def read_log(folder: Path) -> tuple[Judgement, ...]:
    """The audit trail of a memory, oldest first; () where there is none.

    Raises:
        MemoryFormatError: a line that is none of ours.
    """
    path = folder / FILE
    if not path.is_file():
        return ()
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return tuple(
            Judgement(**{**row, "place_mm": tuple(row["place_mm"]), "normal": tuple(row["normal"])}) for row in rows
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MemoryFormatError(
            path, expected="one judgement a line", got=f"{type(error).__name__}: {error}", remedy="restore the file"
        ) from error


def active(log: Sequence[Judgement]) -> tuple[Judgement, ...]:
    """The judgements that were not taken back."""
    undone = {judgement.undoes for judgement in log}
    return tuple(j for j in log if j.label != "undone" and j.number not in undone)


def write_log(folder: Path, log: Sequence[Judgement]) -> None:
    """The whole trail into a new folder."""
    if log:
        (folder / FILE).write_text("".join(json.dumps(asdict(judgement)) + "\n" for judgement in log))


def check_kept(folder: Path, log: Sequence[Judgement]) -> None:
    """Refuse to replace a memory whose judgements would be lost.

    Raises:
        ResultError: some are not in the log of the new one.
    """
    lost = set(read_log(folder)) - set(log)
    if lost:
        raise ResultError(
            folder / FILE,
            expected="a folder without engineers' judgements of another memory",
            got=f"{len(lost)} of them, which a new memory would replace",
            remedy="choose another output, or move the file away to give them up",
        )


def judge(folder: Path, memory: str, result: Path, inspection: Inspection, defect: int, label: Label) -> Judgement:
    """Add a judgement of a result's defect to the memory in `folder`, or take the last one back (label "undone").

    Args:
        folder: of the memory.
        memory: its identity (`Inspector.identity`).
        result: folder of the result.
        inspection: the result.
        defect: number of a defect in it.
        label: the verdict.

    Raises:
        ResultError: no such defect, inspected with another memory, nothing to take back, or not writable.
    """
    found = next((one for one in inspection.defects if one.id == defect), None)
    known = inspection.memory or {}
    if known.get("identity") != memory:
        raise ResultError(
            result,
            expected=f"a result of the memory {folder} ({memory})",
            got=f"one of {known.get('folder', 'an unknown memory')} ({known.get('identity', 'no identity')})",
            remedy="name the right memory with --memory, or inspect again with this one",
        )
    if found is None:
        numbers = ", ".join(str(one.id) for one in inspection.defects) or "none"
        raise ResultError(
            result, expected=f"a defect of this result ({numbers})", got=f"{defect}", remedy="see its report.json"
        )
    log = read_log(folder)
    undoes = None
    if label == "undone":
        mine = [
            j for j in active(log) if (j.specimen, j.defect, j.result) == (inspection.specimen, defect, str(result))
        ]
        if not mine:
            raise ResultError(
                result, expected=f"a judgement of defect {defect}", got="none", remedy="see `rad3d feedback --list`"
            )
        undoes = mine[-1].number
    part_from_scan = np.eye(4) if inspection.part_from_scan is None else inspection.part_from_scan
    normal = transform_directions(part_from_scan, np.array(found.normal))
    place = np.array(found.centroid_part_mm)
    then = [j for j in log if j.number in known.get("judgements", ())]
    changed = inspection.threshold / limits(place[None], normal[None], then, inspection.threshold)[0]
    judgement = Judgement(
        number=len(log) + 1,
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        label=label,
        result=str(result),
        specimen=inspection.specimen,
        defect=defect,
        memory=memory,
        place_mm=tuple(place.tolist()),
        normal=tuple(normal.tolist()),
        radius_mm=found.extent_mm[0] / 2 + MARGIN_MM,
        peak=float(found.peak_score / changed),
        undoes=undoes,
    )
    try:
        with (folder / FILE).open("a") as file:
            file.write(json.dumps(asdict(judgement)) + "\n")
    except OSError as error:
        raise ResultError(
            folder / FILE, expected="a memory that may be written", got=str(error), remedy="check its permissions"
        ) from error
    return judgement


def limits(points_mm: Points, normals: Points, judgements: Sequence[Judgement], threshold: float) -> Values:
    """The score (n,) above which each surface point fails, after the judgements of its place.

    Where a false alarm and a confirmed defect were judged, the defect wins.
    """
    limit = np.full(len(points_mm), float(threshold))
    for label in ("good", "bad"):
        for judgement in (j for j in judgements if j.label == label):
            distance = np.linalg.norm(points_mm - np.array(judgement.place_mm), axis=1)
            # The two sides of a thin wall are near each other but not one place.
            same_side = normals @ np.array(judgement.normal) > -0.5
            if label == "good":
                share = np.clip(2 - distance / judgement.radius_mm, 0, 1) * same_side
                limit = np.maximum(limit, threshold + share * (CLEARLY * judgement.peak - threshold))
            else:
                near = (distance <= judgement.radius_mm) & same_side
                limit = np.where(near, np.minimum(limit, WEAKER * judgement.peak), limit)
    return limit


def respected(
    scores: Values, points_mm: Points, normals: Points, judgements: Sequence[Judgement], threshold: float
) -> Values:
    """Scores (n,) on the scale on which every point fails above one threshold, its judgements counted in."""
    if not judgements:
        return scores
    return np.asarray(scores * (threshold / limits(points_mm, normals, judgements, threshold)), np.float32)
