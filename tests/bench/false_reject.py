"""How often a good specimen fails, for 4 and for 20 good specimens to learn from, and how often a defective one does.

    OMP_NUM_THREADS=1 python tests/bench/false_reject.py [PART...]    # adds to tests/bench/false_reject.json

Synthetic: machine_elements as meshes, coarse settings (224 x 224, 8 views), a false-reject rate of 0.05 asked. Of every
part 80 good specimens are observed once. Fits learn from disjoint sets of them; each judges good specimens that it has
not learned from, and one defective specimen of each kind of defect. Fits of one part share judged specimens, and one
learns from what another judges: the interval of a bootstrap over fits is too narrow, and beside it stands the rate of
each part. Where nothing was counted the upper end is three over the number of judgements.
"""

import json
import sys
from pathlib import Path

import numpy as np
from stations import station_of

from rad3d import Inspector
from rad3d.datasets.machine_elements import KINDS, make_specimen
from rad3d.errors import RegistrationError
from rad3d.observe import Clock
from rad3d.settings import EncoderSettings, Settings, ViewSettings

SETTINGS = Settings(encoder=EncoderSettings(input_hw=(224, 224)), views=ViewSettings(count=8))
PARTS = ("bracket", "flange", "spur_gear", "lever", "pulley")
POOL = 80
FITS = {4: 5, 20: 4}
"""How many fits for each number of good specimens."""
JUDGED = {4: 20, 20: 40}
FILE = Path(__file__).with_suffix(".json")


def pools(part):
    """What every fit of the part shares, and its good and defective specimens, observed; None = not registered."""
    station, inspectable = station_of(make_specimen(part, 0).nominal, SETTINGS)

    def look(seed, kinds=()):
        try:
            return station.observe(make_specimen(part, seed, kinds).scan)
        except RegistrationError:
            return None

    good = [look(20_000 + seed) for seed in range(POOL)]
    print(part, "good ones observed", flush=True)
    bad = [look(30_000 + number, (kind,)) for number, kind in enumerate(KINDS)]
    return station, inspectable, good, bad


def verdicts(inspector, observations):
    return ["incomplete" if o is None else inspector.judged(o, Clock()).verdict for o in observations]


def fits_of(part):
    """One row per fit: how many good and defective ones passed, failed and were incomplete."""
    station, inspectable, good, bad = pools(part)
    rows = []
    for n, count in FITS.items():
        for number in range(count):
            own = range(number * n, (number + 1) * n)
            others = [good[(own.stop + k) % POOL] for k in range(JUDGED[n])]
            inspector = Inspector.of([good[k] for k in own if good[k] is not None], station, inspectable, part=part)
            row = {"part": part, "n": n, "rate": inspector.threshold[1].to_dict()}
            for name, observations in (("good", others), ("defective", bad)):
                said = verdicts(inspector, observations)
                row[name] = {verdict: said.count(verdict) for verdict in ("pass", "fail", "incomplete")}
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def summary(rows):
    """Rates over all fits of each n, with 95 % intervals from a bootstrap over fits, and of each part."""
    result = {}
    rng = np.random.default_rng(0)
    for n in FITS:
        chosen = [row for row in rows if row["n"] == n]
        if not chosen:
            continue
        parts = np.array([row["part"] for row in chosen])
        result[n] = {"fits": len(chosen), "good judgements": int(sum(sum(row["good"].values()) for row in chosen))}
        for name, verdict in (("good", "fail"), ("good", "incomplete"), ("defective", "fail")):
            hits = np.array([row[name][verdict] for row in chosen])
            total = np.array([sum(row[name].values()) for row in chosen])
            result[n][f"{name}: {verdict}"] = {
                "rate": round(float(hits.sum() / total.sum()), 4),
                "over fits": interval(hits, total, rng) if hits.any() else [0.0, round(3 / int(total.sum()), 4)],
                "parts": {
                    part: round(float(hits[parts == part].sum() / total[parts == part].sum()), 4)
                    for part in np.unique(parts).tolist()
                },
            }
    return result


def interval(hits, total, rng):
    """95 % of the rates of 10,000 draws of as many fits as there are."""
    drawn = rng.integers(len(hits), size=(10_000, len(hits)))
    rates = hits[drawn].sum(axis=1) / total[drawn].sum(axis=1)
    return [round(float(rate), 4) for rate in np.quantile(rates, (0.025, 0.975))]


def main():
    rows = json.loads(FILE.read_text())["fits"] if FILE.exists() else []
    for part in sys.argv[1:] or PARTS:
        rows = [row for row in rows if row["part"] != part] + fits_of(part)
        FILE.write_text(json.dumps({"summary": summary(rows), "fits": rows}, indent=1) + "\n")
    print(json.dumps(summary(rows), indent=1))


if __name__ == "__main__":
    main()
