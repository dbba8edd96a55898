"""How long the small synthetic data set takes to make; at most three minutes are promised.

python tests/bench/dataset.py    # writes tests/bench/dataset.json
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main():
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "rad3d", "datasets", "make", "machine_elements", f"{folder}/set"]
        start = time.perf_counter()
        subprocess.run([*command, "--size", "small"], check=True)
        seconds = time.perf_counter() - start
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = {
        "s": round(seconds, 1),
        "processor_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_gb": round(used.ru_maxrss / 1e6, 2),
        "set_gb": round(size / 1e9, 2),
        "cores": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()[:2]],
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
