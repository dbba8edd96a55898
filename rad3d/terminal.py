"""What the command line says: errors, progress and tables, on standard error but for what was asked for."""

import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rad3d.errors import Rad3dError

if TYPE_CHECKING:
    from rad3d.result import Inspection

T = TypeVar("T")

FILE_WIDTH = 160
"""Columns of a table that goes to a file or another program."""


def say(text: str) -> None:
    """Tell the user on standard error, which `--json` leaves free."""
    print(text, file=sys.stderr)


def told(error: Exception, source: str | Path = "rad3d") -> dict[str, str]:
    """An error, said at once, and what `--json` has of it; one that nobody foresaw is told of `source`."""
    if not isinstance(error, Rad3dError):
        if os.environ.get("RAD3D_TRACEBACK"):
            traceback.print_exception(error)
        io = isinstance(error, OSError)
        error = Rad3dError(
            source,
            expected="files that can be read and written" if io else "no bug of rad3d's",
            got=f"{type(error).__name__}: {error}",
            remedy="check the path, its permissions and the free disk space"
            if io
            else "this is a bug: report it with this message and the traceback that RAD3D_TRACEBACK=1 adds",
        )
    say(f"rad3d: {error}")
    return {"source": error.source, "error": str(error), "remedy": error.remedy}


def tracked(items: Sequence[T], description: str) -> Iterable[T]:
    """Progress with rate and remaining time on standard error, where that is a terminal."""
    return _shown(items, description) if sys.stderr.isatty() else items


def _shown(items: Sequence[T], description: str) -> Iterable[T]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(rate(task.finished_speed or task.speed))

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        speed_estimate_period=600,  # a specimen may take longer than the usual 30 s
    ) as progress:
        yield from progress.track(items, description=description)


def rate(speed: float | None) -> str:
    """Items a second, for people.

    >>> rate(12.34), rate(0.25)
    ('12.3/s', '4.0 s each')
    """
    if not speed:
        return ""
    return f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"


def show_table(inspections: Sequence["Inspection"]) -> None:
    """One line per specimen."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from rad3d.viewers.measures import percent

    table = Table("specimen", "verdict", "score", "threshold", "defects", "worst defect, or why none", "coverage")
    for inspection in inspections:
        table.add_row(
            Text(inspection.specimen),  # as it is: [red] in a file's name is no markup
            inspection.verdict,
            f"{inspection.score:.2f}",
            f"{inspection.threshold:.2f}",
            str(len(inspection.defects)),
            Text(worst_of(inspection)),
            percent(inspection.coverage),
        )
    Console(width=None if sys.stdout.isatty() else FILE_WIDTH).print(table)


def worst_of(inspection: "Inspection") -> str:
    """The strongest defect: its kind, size, and place along the axes of the file; of an incomplete one the reason."""
    if not inspection.defects:
        return "" if inspection.verdict == "pass" else inspection.reason
    worst = inspection.defects[0]
    x, y, z = worst.centroid_mm
    several_poses = len(inspection.registration) == 1 and not inspection.registration[0]["trusted"]
    guess = " or where symmetry puts it" if several_poses else ""
    return f"{worst.kind or 'defect'}, {worst.extent_mm[0]:.1f} mm long, at ({x:.1f}, {y:.1f}, {z:.1f}){guess}"
