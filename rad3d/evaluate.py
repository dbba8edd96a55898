"""A data set through a method: predictions on disk, and tables and curves from them.

`evaluate` writes into its output folder
    run.json          what was run: data, protocol, method, settings, fingerprint, versions, commit
    memory/           what was learned
    predictions/      one folder a test sample; a run that was killed continues behind the last one
    results.json .csv .md, curves/<part>.png .svg, worst.png
`compare` sets the means of several such runs side by side.
"""

import csv
import json
import logging
import math
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rad3d.auxiliary import Auxiliary
from rad3d.baselines import RADS, Method, MethodName, method_named, rad_k_views
from rad3d.datasets import dataset_root, load_samples
from rad3d.datasets.sample import Choice, Sample
from rad3d.errors import DatasetError, Rad3dError, ResultError, ScanError, UnitError
from rad3d.files import atomic_file
from rad3d.io import specimen_name
from rad3d.prediction import Prediction
from rad3d.progress import Progress, silently
from rad3d.result import versions
from rad3d.scoring import AUTHORS, PartScores, score_part
from rad3d.settings import RetrievalSettings, Settings
from rad3d.sheets import write_curves, write_worst

_log = logging.getLogger(__name__)

MemoryScope = Literal["unified", "per-part"]

PUBLISHED: dict[tuple[str, str, str, str], dict[str, float]] = {
    ("adam3d", "rad", "rad", "dinov3-b"): {f"{AUTHORS} F1-max": 0.325},
}
"""Means over all categories as the authors print them, by data set, protocol, method and encoder."""
ADAM_CATEGORIES = 23
_NOTE = "F1-max is chosen on the test set: an upper bound. Means are over the parts where a metric is defined."


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics of all parts.

    Args:
        title: what the method may be called.
        parts: metrics by part, then by column; NaN where undefined.
        mean: plain mean over the parts where a metric is defined.
        published: of the authors, where data, protocol, method and encoder are the same.
        run: everything in run.json.
        skipped: files that could not be read.
    """

    title: str
    parts: Mapping[str, Mapping[str, float]]
    mean: Mapping[str, float]
    published: Mapping[str, float]
    run: Mapping[str, Any]
    skipped: Sequence[str]

    @property
    def columns(self) -> list[str]:
        """All metrics, in order."""
        return list(dict.fromkeys(column for values in self.parts.values() for column in values))

    def rows(self, columns: Sequence[str] | None = None) -> list[list[str]]:
        """The table as text: parts, mean and published numbers; undefined metrics as "undefined"."""
        wanted = self.columns if columns is None else list(columns)
        lines: list[tuple[str, Mapping[str, float]]] = [*self.parts.items(), ("mean", self.mean)]
        lines += [("published", self.published)] if self.published else []
        return [["part", *wanted]] + [[name, *(_text(values.get(c)) for c in wanted)] for name, values in lines]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; None where undefined."""
        return {
            "title": self.title,
            "run": dict(self.run),
            "parts": {part: _clean(values) for part, values in self.parts.items()},
            "mean": _clean(self.mean),
            "published": dict(self.published),
            "skipped": list(self.skipped),
        }


def _text(value: float | None) -> str:
    if value is None:
        return ""
    if math.isnan(value):
        return "undefined"
    return f"{value:g}" if value == round(value) and abs(value) > 1 else f"{value:.4f}"


def _clean(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else float(value) for name, value in values.items()}


def evaluate(
    dataset: str,
    output: str | Path,
    *,
    root: str | Path | None = None,
    choice: Choice | None = None,
    method: MethodName = "rad3d",
    settings: Settings | None = None,
    retrieval: RetrievalSettings = RetrievalSettings(),  # noqa: B008
    memory: MemoryScope | None = None,
    auxiliary: str | Path | None = None,
    auxiliary_parts: tuple[str, ...] = (),
    same_part: bool = False,
    skip_bad: bool = False,
    track: Progress = silently,
) -> Evaluation:
    """Run a method on a data set and measure it; a second run with the same arguments continues the first.

    Args:
        dataset: a name in `rad3d.datasets.DATASETS`.
        output: folder for everything.
        root: where the set is; None = `$RAD3D_DATA/<dataset>`.
        choice: parts, protocol, sensor.
        method: rad, rad-roi, rad3d, deviation, mrad-tf, mrad-ft, mrad-clip or rad3d+mrad.
        settings: of the inspector; rad takes its encoder from it.
        retrieval: of rad and rad-roi.
        memory: one for all parts (what RAD's authors do; default of rad and rad-roi) or one per part.
        auxiliary: of the methods of MRAD: a labelled data set, or a folder of `rad3d fit --labelled`.
        auxiliary_parts: only these of it; empty = all.
        same_part: labels may be of a part that is judged too; the table then says that it is not zero-shot.
        skip_bad: leave files out that cannot be read, and count them, instead of stopping.
        track: shows progress.

    Raises:
        DatasetError: the set is not there, not as its format says, or shares specimens with the auxiliary one.
        ScanError: a file cannot be read (without `skip_bad`).
        ResultError: the output holds another run.
    """
    choice, settings, output = choice or Choice(), settings or Settings(), Path(output)
    folder = dataset_root(dataset, root)
    samples = load_samples(dataset, folder, choice)
    if not any(sample.split == "test" for sample in samples):
        raise DatasetError(
            folder,
            expected="test samples",
            got=f"{len(samples)} samples and none of them to test with",
            remedy="check that the set was unpacked completely, --parts and --protocol",
        )
    labels = None if auxiliary is None else Auxiliary.at(auxiliary, replace(choice, parts=auxiliary_parts))
    if labels is not None:
        labels.check_apart(samples, folder, same_part=same_part)
    runner = method_named(method, settings, labels, retrieval)
    scope: MemoryScope = memory or ("per-part" if method in ("rad3d", "rad3d+mrad", "deviation") else "unified")
    run = _describe(dataset, folder, choice, method, settings, scope, runner, samples)
    run |= {"auxiliary": _labels(labels, samples)} if labels is not None else {}
    if method in RADS:
        run |= {"retrieval": asdict(retrieval if method == "rad" else replace(retrieval, pos_radius=None))}
    skipped = _Skipped(output, skip_bad)
    run = _begin(output, run)
    if method in RADS and not any(view.cloud for sample in samples for view in sample.views):
        _log.warning("%s has no clouds: only the images are used", folder)

    parts = sorted({sample.part for sample in samples})
    for group in [parts] if scope == "unified" else [[part] for part in parts]:
        _predict(group, samples, runner, output, scope, skipped, track)
    k_views = rad_k_views(output / "memory", retrieval) if method in RADS else None

    scores: dict[str, PartScores] = {}
    for part in track(parts, "measuring"):
        test = [s for s in samples if s.part == part and s.split == "test" and _folder(output, s).is_dir()]
        scores[part] = score_part([(sample, _loader(output, sample)) for sample in test])
    result = Evaluation(
        title=_title(
            method, settings.encoder.name, None if labels is None else labels.shared_parts(samples), k_views, retrieval
        ),
        parts={part: score.values for part, score in scores.items()},
        mean=_mean([score.values for score in scores.values()]),
        published=_published(dataset, choice, method, settings, retrieval, parts, scope),
        run={**run, "k_views": k_views},
        skipped=skipped.files,
    )
    write(result, output)
    write_curves(result.title, scores, output / "curves")
    judged = [s for s in samples if s.split == "test" and _folder(output, s).is_dir()]
    write_worst(result.title, [(sample, _loader(output, sample)) for sample in judged], output / "worst.png")
    return result


def _predict(
    parts: Sequence[str],
    samples: Sequence[Sample],
    runner: Method,
    output: Path,
    scope: MemoryScope,
    skipped: "_Skipped",
    track: Progress,
) -> None:
    """Learn from the parts' good samples, then predict what no earlier run predicted."""
    test = [s for s in samples if s.part in parts and s.split == "test"]
    todo = [s for s in test if not _folder(output, s).is_dir() and _key(s) not in skipped.samples]
    if not todo:
        return
    train = [s for s in samples if s.part in parts and s.split == "train"]
    if not train:
        raise DatasetError(
            ", ".join(parts), expected="good samples to learn from", got="none", remedy="check --parts and --protocol"
        )
    group = "all" if scope == "unified" else specimen_name(parts[0])
    runner.fit(train, output / "memory" / group, track, skipped.add)
    for sample in track(todo, "predicting"):
        try:
            sample.load_view_labels()  # damaged labels should be known now, not after all predictions
            if sample.labels is not None:
                sample.load_point_labels()
            prediction = runner.predict(sample)
        except (ScanError, UnitError, DatasetError) as error:
            skipped.add(error, _key(sample))
            continue
        prediction.save(_folder(output, sample))


class _Skipped:
    """Files that could not be read, remembered in the output so that a second run leaves them out too."""

    def __init__(self, output: Path, allowed: bool) -> None:
        self._path, self._allowed = output / "skipped.json", allowed
        found = json.loads(self._path.read_text()) if allowed and self._path.exists() else {}
        self.files: list[str] = found.get("files", [])
        self.samples: list[str] = found.get("samples", [])

    def add(self, error: Rad3dError, sample: str | None = None) -> None:
        """Note a file, and the test sample that has no prediction because of it; or raise."""
        if not self._allowed:
            raise error
        _log.warning("left out: %s", error)
        self.files += [error.source] if error.source not in self.files else []
        self.samples += [sample] if sample is not None else []
        with atomic_file(self._path) as new:
            new.write_text(json.dumps({"files": self.files, "samples": self.samples}))


def _key(sample: Sample) -> str:
    return f"{sample.part}/{sample.specimen}"


def _folder(output: Path, sample: Sample) -> Path:
    return output / "predictions" / specimen_name(sample.part) / specimen_name(sample.specimen)


def _loader(output: Path, sample: Sample) -> Callable[[], Prediction]:
    return lambda: Prediction.load(_folder(output, sample))


def _describe(
    dataset: str,
    root: Path,
    choice: Choice,
    method: MethodName,
    settings: Settings,
    scope: MemoryScope,
    runner: Method,
    samples: Sequence[Sample],
) -> dict[str, Any]:
    """What a run is; two runs that differ in it must not share predictions."""
    chosen = {**asdict(choice), "specimens": None if choice.specimens is None else str(choice.specimens)}
    return {
        "dataset": dataset,
        "root": str(root.resolve()),
        "choice": {**chosen, "parts": list(choice.parts)},
        "method": method,
        "memory": scope,
        "fingerprint": runner.fingerprint,
        "settings": settings.to_dict(),
        "samples": {split: sum(s.split == split for s in samples) for split in ("train", "validation", "test")},
        "versions": versions(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The commit of rad3d's own source tree, None when installed from a wheel."""
    git = shutil.which("git")
    here = Path(__file__).resolve().parent
    if git is None or not (here.parent / ".git").exists():
        return None
    found = subprocess.run([git, "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


_MAY_DIFFER = ("versions", "commit")


def _begin(output: Path, run: dict[str, Any]) -> dict[str, Any]:
    """Write run.json, or see that the output holds the same run; predictions stand under the commit that began it."""
    path = output / "run.json"
    as_stored = json.loads(json.dumps(run))
    if path.exists():
        try:
            found = json.loads(path.read_text())
        except ValueError:
            found = {}
        differing = [k for k in as_stored if k not in _MAY_DIFFER and found.get(k) != as_stored[k]]
        if differing:
            raise ResultError(
                path,
                expected="an unfinished or finished run of the same kind, or an empty folder",
                got=f"a run with another {', '.join(differing)}",
                remedy="choose another output folder",
            )
        if any(found.get(name) != as_stored[name] for name in _MAY_DIFFER):
            _log.warning("%s: begun by another version; its predictions are kept and stand under that one", output)
        return {**run, **{name: found.get(name) for name in _MAY_DIFFER}}
    with atomic_file(path) as new:
        new.write_text(json.dumps(as_stored, indent=1) + "\n")
    return run


def _labels(auxiliary: Auxiliary, samples: Sequence[Sample]) -> dict[str, Any]:
    """Whose labels were learned from."""
    shared = auxiliary.shared_parts(samples)
    return {"root": str(auxiliary.root.resolve()), "parts": auxiliary.parts, "images": len(auxiliary.origins),
            "shared_parts": shared}  # fmt: skip


_NAMES = {"rad": "RAD", "rad-roi": "RAD cropped to the part", "mrad-tf": "MRAD-TF", "mrad-ft": "MRAD-FT",
          "mrad-clip": "MRAD-CLIP", "rad3d": "rad3d", "rad3d+mrad": "rad3d + MRAD-FT"}  # fmt: skip


def _title(
    method: MethodName,
    encoder: str,
    shared_parts: Sequence[str] | None = None,
    k_views: int | None = None,
    retrieval: RetrievalSettings = RetrievalSettings(),  # noqa: B008
) -> str:
    """RAD is called RAD only with its own encoder; MRAD zero-shot only without labels of the part.

    Fewer good images than RAD's k stand in its name, and whatever else differs from what its authors set.

    >>> _title("rad", "dinov3-b"), _title("rad", "clip-b16-q8"), _title("rad-roi", "clip-b16-q8")
    ('RAD', 'RAD (clip-b16-q8)', 'RAD cropped to the part (clip-b16-q8)')
    >>> _title("mrad-tf", "clip-l336", []), _title("mrad-tf", "clip-l336", ["tire"])
    ('MRAD-TF (clip-l336), zero-shot', 'MRAD-TF (clip-l336), same part, not zero-shot')
    >>> _title("rad", "dinov3-b", None, 32), _title("rad", "dinov3-b", None, 48)
    ('RAD, k = 32 of 48', 'RAD')
    >>> _title("rad", "dinov3-b", None, 48, RetrievalSettings(pos_radius=None))
    'RAD, no position limit'
    """
    encoder = Path(encoder).name  # of a checkpoint the file
    if method == "deviation":
        return method
    name = _NAMES[method] if method in RADS and encoder == "dinov3-b" else f"{_NAMES[method]} ({encoder})"
    if method in RADS:
        return ", ".join([name, *_unlike_rad(method, k_views or retrieval.k_views, retrieval)])
    if shared_parts:
        return f"{name}, same part, not zero-shot"
    return f"{name}, zero-shot" if method.startswith("mrad") else name


def _unlike_rad(method: MethodName, k_views: int, retrieval: RetrievalSettings) -> list[str]:
    """What of retrieval is not as RAD's authors set it on 3D-ADAM."""
    authors, changes = RetrievalSettings(), []
    if retrieval.views_by != authors.views_by:
        changes.append(f"views by {retrieval.views_by}")
    elif k_views < retrieval.k_views:
        changes.append(f"k = {k_views} of {retrieval.k_views}")
    elif retrieval.k_views != authors.k_views:
        changes.append(f"k = {retrieval.k_views}")
    if method == "rad" and retrieval.pos_radius != authors.pos_radius:
        limit = retrieval.pos_radius
        changes.append("no position limit" if limit is None else f"position limit {limit}")
    return changes


def _published(
    dataset: str,
    choice: Choice,
    method: MethodName,
    settings: Settings,
    retrieval: RetrievalSettings,
    parts: Sequence[str],
    scope: MemoryScope,
) -> Mapping[str, float]:
    """The authors' numbers when everything that makes them comparable is the same."""
    comparable = (
        scope == "unified"
        and retrieval == RetrievalSettings()
        and len(parts) == ADAM_CATEGORIES
        and settings.encoder == replace(settings.encoder, layers=(), input_hw=(448, 448))
    )
    key = (dataset, choice.protocol, method, settings.encoder.name)
    return PUBLISHED.get(key, {}) if comparable else {}


def _mean(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Plain mean over the parts where a metric is defined, NaN where it is nowhere."""
    columns = dict.fromkeys(column for values in parts for column in values)
    result = {}
    for column in columns:
        known = [values[column] for values in parts if column in values and not math.isnan(values[column])]
        result[column] = float(np.mean(known)) if known else math.nan
    return result


def write(result: Evaluation, output: Path) -> None:
    """results.json, results.csv and results.md."""
    rows = result.rows()
    with atomic_file(output / "results.json") as new:
        new.write_text(json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n")
    _write_csv(rows, output / "results.csv")
    lines = [f"# {result.title} on {result.run['dataset']}", ""]
    if len(rows) > 2:
        lines += _markdown(list(zip(*rows, strict=True)))  # metrics downwards: there are more of them than parts
    lines += ["", _NOTE]
    if result.skipped:
        lines += ["", f"{len(result.skipped)} files could not be read and were left out."]
    with atomic_file(output / "results.md") as new:
        new.write_text("\n".join(lines) + "\n")


def compare(results: Sequence[Evaluation], output: str | Path) -> list[list[str]]:
    """Means over the parts of several methods on one data set, side by side: comparison.csv and comparison.md.

    Args:
        results: of each method.
        output: the folder, which is made.

    Returns:
        the table as text: a line of titles, then one per metric.
    """
    metrics = list(dict.fromkeys(metric for one in results for metric in one.mean))
    rows = [["mean of the parts", *(one.title for one in results)]]
    rows += [[metric, *(_text(one.mean.get(metric)) for one in results)] for metric in metrics]
    _write_csv(rows, Path(output) / "comparison.csv")
    lines = [f"# Methods on {results[0].run['dataset']}", "", *_markdown(rows), "", _NOTE]
    with atomic_file(Path(output) / "comparison.md") as new:
        new.write_text("\n".join(lines) + "\n")
    return rows


def _write_csv(rows: Sequence[Sequence[str]], path: Path) -> None:
    with atomic_file(path) as new, new.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    header, *others = ("| " + " | ".join(row) + " |" for row in rows)
    return [header, "|---" * len(rows[0]) + "|", *others]
