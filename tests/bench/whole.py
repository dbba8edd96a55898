"""Time and peak memory of whole commands: the demo, and the inspection of a mesh of 5 million triangles.

    python tests/bench/whole.py OUT    # writes tests/bench/whole.json

Each command runs in a process of its own. The large mesh is a synthetic bracket with a hole, its triangles split; the
memory is the demo's.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import trimesh

from rad3d.datasets.machine_elements import make_specimen
from rad3d.io import read_ply, write_ply

TRIANGLES = 5_000_000


def timed(*arguments):
    """Run `rad3d` with these arguments: its exit code, seconds, and peak memory."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "rad3d", *map(str, arguments)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    return {
        "exit code": os.waitstatus_to_exitcode(status),
        "seconds": round(time.perf_counter() - start, 1),
        "peak GB": round(usage.ru_maxrss / 1e6, 2),
        "load": round(os.getloadavg()[0], 1),
    }


def large(path):
    scan = make_specimen("bracket", 40, ("hole",)).scan
    mesh = trimesh.Trimesh(scan.vertices_mm, scan.faces, vertex_colors=scan.colours, process=False)
    while len(mesh.faces) < TRIANGLES:
        mesh = mesh.subdivide()
    colours = np.asarray(mesh.visual.vertex_colors)[:, :3]
    write_ply(path, np.asarray(mesh.vertices), faces=np.asarray(mesh.faces), colours=colours)
    return len(mesh.faces)


def main():
    out = Path(sys.argv[1])
    result = {"demo": timed("demo", "-o", out / "demo")}
    print(json.dumps(result), flush=True)
    count = large(out / "large.ply")
    result["large"] = {
        "triangles": count,
        **timed("inspect", out / "demo" / "memory", out / "large.ply", "-o", out / "results"),
    }
    report = json.loads((out / "results" / "large" / "report.json").read_text())
    result["large"] |= {"verdict": report["verdict"], "defects": len(report["defects"])}
    result["large"] |= {"vertices written": len(read_ply(out / "results" / "large" / "scored.ply").vertices)}
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
