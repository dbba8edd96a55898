"""How long a report of many specimens takes, and how large it is: HTML and PDF.

    rad3d demo -o DEMO
    python tests/bench/report.py OUT DEMO/results/bracket_13_cut_mark    # writes tests/bench/report.json

One saved result, read and drawn 50 times under other names, as `rad3d report` reads and draws 50; the reports stay in
OUT. Seconds are by the clock, beside the processor's own and the machine's load, since other work slows the clock.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rad3d import load_result
from rad3d.viewers.pdf import write_pdf
from rad3d.viewers.report import write_report

SPECIMENS = 50


def timed(work: Callable[[], object]) -> tuple[object, dict[str, float]]:
    """What came of the work, and its seconds."""
    wall, own = time.perf_counter(), time.process_time()
    done = work()
    return done, {"s": round(time.perf_counter() - wall, 2), "processor_s": round(time.process_time() - own, 2)}


def main(output: Path, folder: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    load_before = os.getloadavg()[0]
    results, reading = timed(
        lambda: [replace(load_result(folder), specimen=f"specimen {k:02d}") for k in range(SPECIMENS)]
    )
    found = {
        "specimens": SPECIMENS,
        "vertices": len(results[0].vertices_mm),
        "views": len(results[0].views),
        "defects": len(results[0].defects),
        "reading": reading,
    }
    for name, write in (("html", write_report), ("pdf", write_pdf)):
        path, taken = timed(lambda name=name, write=write: write(results, output / f"report.{name}"))
        found[name] = {**taken, "mb": round(path.stat().st_size / 1e6, 1)}
    found |= {"cores": os.cpu_count(), "load": [round(load_before, 1), round(os.getloadavg()[0], 1)]}
    Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
