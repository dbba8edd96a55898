"""The command line: what its commands do, and the only place that exits.

Exit codes: 0 all pass, 1 a specimen fails, 3 none fails but one is incomplete, 2 a usage or input error or a bug (wins;
the other specimens are still written), 130 interrupted.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from rad3d.errors import Rad3dError, ResultError, ScanError, SettingsError
from rad3d.settings import RetrievalSettings, Settings
from rad3d.terminal import FILE_WIDTH, say, show_table, told, tracked

if TYPE_CHECKING:
    from rad3d.io import ScanSource
    from rad3d.result import Inspection
    from rad3d.scan import Scan

UnitName = Literal["mm", "m", "inch"]
Paths = Positional[Annotated[tuple[str, ...], arg(metavar="PATH")]]

PASS, FAIL, ERROR, INCOMPLETE, INTERRUPTED = 0, 1, 2, 3, 130


def fit(
    good: Paths,
    /,
    output: Annotated[Path, arg(aliases=["-o"])],
    settings: Annotated[Settings, arg(name="")] = Settings(),  # noqa: B008
    part: str = "part",
    nominal: Path | None = None,
    labelled: Path | None = None,
    labelled_parts: tuple[str, ...] = (),
    method: Literal["mrad-tf", "mrad-ft", "mrad-clip"] | None = None,
    unit: UnitName | None = None,
    nominal_unit: UnitName | None = None,
    sensor: str | None = None,
) -> int:
    """Learn what good specimens of a part look like, and what labelled defects of other parts look like.

    Args:
        good: scans of good specimens: meshes, clouds, folders of captured views; globs work. None: only the labels.
        output: folder for the memory.
        settings: see `rad3d.settings`.
        part: name of the part.
        nominal: CAD model of the part, the reference for deviations.
        labelled: a labelled data set, or a memory of one: with good specimens it has a say beside them (rad3d+mrad).
        labelled_parts: only these parts of it.
        method: what is learned of the labels; mrad-ft where nothing is said.
        unit: unit of the files, where it is not mm.
        nominal_unit: unit of the nominal, where it is not mm.
        sensor: which sensor's folder, where a capture holds several.
    """
    from rad3d.expert import MRAD_NAMES
    from rad3d.feedback import check_kept
    from rad3d.files import check_replaceable, check_writable
    from rad3d.inspector import Inspector
    from rad3d.io import find_scans, read_scan
    from rad3d.memory import MEMORY_FILES
    from rad3d.methods import learn_labels

    if labelled is None and method is not None:
        raise SettingsError(
            "--method", expected="labels to learn from", got=f"{method} alone", remedy="name them with --labelled"
        )
    check_replaceable(output, MEMORY_FILES)  # before the work, not after it
    check_writable(output)
    check_kept(output, ())
    replaced = " (the memory that was there is replaced)" if (output / "memory.json").exists() else ""
    expert = None
    if labelled is not None:
        expert = learn_labels(labelled, labelled_parts, method or "mrad-ft", settings, sensor, tracked)
    if expert is not None and not good:
        expert.save(output)
        usable = " or ".join(MRAD_NAMES[: MRAD_NAMES.index(expert.method) + 1])
        say(f"{len(expert.memory)} labelled images remembered in {output}: inspect with --method {usable}")
        return PASS
    found = find_scans(good, sensor=sensor)
    scans = [read_found(source, unit, sensor) for source in tracked(found, "reading scans")]
    reference = None if nominal is None else read_scan(nominal, unit=nominal_unit)
    inspector = Inspector.fit(scans, settings, part=part, nominal=reference, expert=expert, track=tracked)
    inspector.save(output)
    count = len(inspector.good_scores)
    plural = "s" if count > 1 else ""
    say(f"{count} good specimen{plural} remembered in {output}: {len(inspector.memory)} views{replaced}")
    say(f"False rejects: {inspector.threshold[1].sentence()}")
    return PASS


def inspect(
    memory: Positional[Path],
    scans: Paths,
    /,
    output: Annotated[Path, arg(aliases=["-o"])],
    method: Literal["rad3d", "rad3d+mrad", "mrad-tf", "mrad-ft", "mrad-clip"] | None = None,
    unit: UnitName | None = None,
    sensor: str | None = None,
    false_reject: float | None = None,
    json_: Annotated[bool, arg(name="json")] = False,
) -> int:
    """Find what differs on specimens, on the surface and in millimetres.

    Args:
        memory: folder written by `rad3d fit`.
        scans: meshes, clouds, folders of captured views; globs work.
        output: one folder per specimen is written here.
        method: what the memory was fitted for, where nothing is said; those of MRAD need its labels only and rank
            without a verdict.
        unit: unit of the files, where it is not mm.
        sensor: which sensor's folder, where a capture holds several.
        false_reject: share of good specimens that may fail, instead of the one set at fit.
        json_: print one JSON object and nothing else.
    """
    from rad3d.files import check_writable
    from rad3d.io import find_scans
    from rad3d.methods import judge_of

    reports: list[dict[str, Any]] = []
    errors: list[dict[str, str]] = []
    rows: list[Inspection] = []
    try:
        judge, rejects = judge_of(memory, method, false_reject)
        sources = find_scans(scans, sensor=sensor, spare=lambda error: errors.append(told(error)))
        if not (sources or errors):
            raise ScanError("SCANS", expected="at least one scan", got="none", remedy="name files, folders or globs")
        check_writable(output)
    except Exception as error:
        if not json_:
            raise
        print(json.dumps({"specimens": [], "errors": [*errors, told(error, memory)]}))
        return ERROR
    for source in tracked(sources, "inspecting"):
        try:
            inspection = judge(read_found(source, unit, sensor))
            save_result(inspection, output / source.specimen)
            reports.append(inspection.report())
        except Exception as error:  # also a bug that one specimen meets spares the others
            errors.append(told(error, source.path))
            if (output / source.specimen / "report.json").exists():
                say(f"{output / source.specimen} holds the result of an earlier inspection")
            continue
        rows.append(inspection)
    if json_:
        print(json.dumps({"specimens": reports, "errors": errors}, allow_nan=False))
    elif rows:
        show_table(rows)
        say(rejects)
        say(f"Results: {output}")
    return exit_code([report["verdict"] for report in reports], bool(errors))


def read_found(source: "ScanSource", unit: UnitName | None, sensor: str | None) -> "Scan":
    """A scan under the name by which it was found."""
    from rad3d.io import read_scan

    return replace(read_scan(source.path, unit=unit, sensor=sensor), specimen=source.specimen)


def save_result(inspection: "Inspection", folder: Path) -> None:
    """Write the result's folder with its contact sheet, all or nothing."""
    from rad3d.viewers.figures import contact_sheet

    inspection.save(folder, extra=lambda new: contact_sheet(inspection, new / "views.png"))


def render(
    scan: Positional[Path],
    /,
    output: Annotated[Path, arg(aliases=["-o"])],
    settings: Annotated[Settings, arg(name="")] = Settings(),  # noqa: B008
    unit: UnitName | None = None,
) -> int:
    """Render a mesh or cloud from the viewpoints an inspection would use.

    Args:
        scan: mesh or cloud.
        output: folder for the images.
        settings: see `rad3d.settings`.
        unit: unit of the file, where it is not mm.
    """
    from PIL import Image

    from rad3d.encoder import patch_size
    from rad3d.files import atomic_folder
    from rad3d.io import read_scan
    from rad3d.render import renderer_for
    from rad3d.viewpoints import choose_viewpoints

    read = read_scan(scan, unit=unit)
    viewpoints = choose_viewpoints(read, settings.views, settings.encoder.input_hw, patch_size(settings.encoder))
    renderer = renderer_for(read)
    with atomic_folder(output, ("[0-9]*.png",)) as new:
        for number, camera in enumerate(tracked(viewpoints.cameras, "rendering")):
            (view,) = renderer.render([camera])
            Image.fromarray(view.image).save(new / f"{number:03d}.png")
    say(f"{len(viewpoints.cameras)} views in {output}")
    return PASS


def info(
    path: Positional[Path],
    /,
    unit: UnitName | None = None,
    sensor: str | None = None,
    json_: Annotated[bool, arg(name="json")] = False,
) -> int:
    """Say what a path is: a memory, a result, or how scans in it are read.

    Args:
        path: file or folder.
        unit: unit of the files, where it is not mm.
        sensor: which sensor's folder, where a capture holds several.
        json_: print one JSON object and nothing else.
    """
    from rad3d.describe import describe

    description = describe(path, unit, sensor)
    if json_:
        print(json.dumps(description, allow_nan=False))
    else:
        for name, value in description.items():
            print(f"{name}: {value if isinstance(value, str | int | float) else json.dumps(value)}")
    return PASS


def weights(
    action: Positional[Literal["list", "fetch", "path"]],
    name: Positional[str] = "",
    /,
    from_: Annotated[Path | None, arg(name="from")] = None,
) -> int:
    """List encoders, fetch one's weights into the cache, or print where they lie.

    Args:
        action: list | fetch NAME | path NAME.
        name: the encoder's name.
        from_: a file fetched by other means (for `fetch`).
    """
    from rad3d.weights import fetch, list_weights, weights_path

    if action == "list":
        for entry in list_weights():
            where = entry.path or "not on this machine"
            print(f"{entry.name:20} {entry.origin:18} {entry.licence:16} {where}")
    elif action == "fetch":
        print(fetch(name, from_))
    else:
        print(weights_path(name))
    return PASS


def demo(
    output: Annotated[Path, arg(aliases=["-o"])] = Path("rad3d-demo"),
    part: Literal["bracket", "flange", "spur_gear"] = "bracket",
    all_: Annotated[bool, arg(name="all")] = False,
    quick: bool = False,
) -> int:
    """Make synthetic parts, learn the good ones, and find the defects made in others.

    Args:
        output: folder for scans, memories and results.
        part: which part.
        all_: all three parts.
        quick: a smoke test: two good specimens, one inspected.
    """
    from rich.console import Console
    from rich.table import Table

    from rad3d import demo as demonstration
    from rad3d.viewers.measures import percent

    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    for name in demonstration.PARTS if all_ else (part,):
        folder = output / name if all_ else output
        inspector, shown = demonstration.run(name, folder, tracked, quick)
        table = Table("specimen", "verdict", "score", "made", "found", "of them made", "coverage", title=name)
        for item in shown:
            inspection = item.inspection
            save_result(inspection, folder / "results" / inspection.specimen)
            table.add_row(
                inspection.specimen,
                inspection.verdict,
                f"{inspection.score:.1f}",
                ", ".join(defect.kind for defect in item.made.instances) or "nothing",
                str(len(inspection.defects)),
                f"{item.counts.matched} of {len(item.made.instances)}",
                percent(inspection.coverage),
            )
        console.print(table)
        console.print(f"A specimen fails above {inspector.threshold[0]:.1f}; {inspector.threshold[1].sentence()}.")
        console.print(
            f"Look at {folder / 'results'}/*/views.png, scored.ply and report.json.", soft_wrap=True, markup=False
        )
    return PASS


def report(
    results: Paths,
    /,
    output: Annotated[Path, arg(aliases=["-o"])],
    title: str = "Inspection report",
    pdf: bool = False,
) -> int:
    """Write one self-contained HTML page over one or many results.

    Args:
        results: folders written by `rad3d inspect`, or folders of them; globs work.
        output: the page, NAME.html.
        title: its heading.
        pdf: write NAME.pdf beside it.
    """
    from rad3d.viewers.pdf import write_pdf
    from rad3d.viewers.report import write_report

    if output.suffix.lower() not in (".html", ".htm"):
        raise ResultError(
            output,
            expected="a name that ends in .html",
            got=f"'{output.name}'",
            remedy="name the page; --pdf writes the PDF beside it",
        )
    inspections, code = read_results(results)
    written = [write_report(inspections, output, title=title)]
    if pdf:
        written.append(write_pdf(inspections, output.with_suffix(".pdf"), title=title))
    say(f"{len(inspections)} results in {' and '.join(map(str, written))}")
    return code


def read_results(paths: Sequence[str | Path]) -> tuple[list["Inspection"], int]:
    """The results among paths and globs, and the exit code: of several one that cannot be read spares the others."""
    from rad3d.result import find_results, load_result

    found, read, code = find_results(paths), [], PASS
    for folder in tracked(found, "reading results"):
        try:
            read.append(load_result(folder))
        except Rad3dError as error:
            if len(found) == 1:
                raise
            told(error)
            code = ERROR
    if not read:
        raise ResultError(
            found[0].parent, expected="a result that can be read", got=f"{len(found)} damaged", remedy="inspect again"
        )
    return read, code


def export(results: Paths, /, output: Annotated[Path, arg(aliases=["-o"])]) -> int:
    """Write results for other software: a GLB of one in heat colours (metres), or a CSV of all defects.

    Args:
        results: folders written by `rad3d inspect`, or folders of them; globs work.
        output: NAME.glb or NAME.csv.
    """
    from rad3d.viewers.exports import write_export

    inspections, code = read_results(results)
    write_export(inspections, output)
    say(f"{len(inspections)} results in {output}")
    return code


def view(
    paths: Paths,
    /,
    nominal: Path | None = None,
    unit: UnitName | None = None,
    nominal_unit: UnitName | None = None,
    sensor: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
) -> int:
    """Show results, scans or a memory in the browser, side by side, until Ctrl-C.

    The browser needs WebGL; where it has none, `rad3d report` writes a page with still pictures.

    Args:
        paths: folders written by `rad3d inspect` or `rad3d fit`, or scans.
        nominal: CAD of the part, drawn as a ghost.
        unit: unit of the scans, where it is not mm.
        nominal_unit: unit of the nominal, where it is not mm.
        sensor: which sensor's folder, where a capture holds several.
        host: address to listen at.
        port: where to listen; the next free one if it is taken.
    """
    from rad3d.io import read_scan, read_scans
    from rad3d.memory import Memory
    from rad3d.result import holds_results
    from rad3d.viewers.live import serve

    logging.getLogger("rad3d").setLevel(logging.INFO)
    items: list[Inspection | Scan | Memory] = []
    for path in paths:
        if (Path(path) / "memory.json").exists():
            items.append(Memory.load(path))
        elif holds_results(path):
            items += read_results([path])[0]
        else:
            items += read_scans([path], unit=unit, sensor=sensor)
    ghost = None if nominal is None else read_scan(nominal, unit=nominal_unit)
    serve(items, nominal=ghost, host=host, port=port)
    return PASS


def feedback(
    result: Positional[Path],
    /,
    defect: int | None = None,
    good: bool = False,
    bad: bool = False,
    undo: bool = False,
    list_: Annotated[bool, arg(name="list")] = False,
    memory: Path | None = None,
) -> int:
    """Judge a defect that was found: a false alarm or a confirmed one; the next inspection of its place respects it.

    Args:
        result: folder written by `rad3d inspect`.
        defect: its number in report.json.
        good: it is a false alarm.
        bad: it is confirmed.
        undo: take the last judgement of this defect back.
        list_: print all judgements of the memory, oldest first.
        memory: the memory, where it was moved since.
    """
    from rad3d.feedback import active, judge, read_log
    from rad3d.inspector import Inspector
    from rad3d.result import load_result

    inspection = load_result(result)
    folder = memory or Path((inspection.memory or {}).get("folder") or "")
    if not (folder / "inspector.json").is_file():
        raise ResultError(
            result, expected="its memory on disk", got=f"{folder}", remedy="say where it is with --memory FOLDER"
        )
    if list_:
        log = read_log(folder)
        counting = active(log)
        for one in log:
            about = f"undoes {one.undoes}" if one.label == "undone" else one.label
            taken_back = ", undone" if one.label != "undone" and one not in counting else ""
            place = ", ".join(f"{value:.1f}" for value in one.place_mm)
            print(f"{one.number} {one.when} {one.specimen} defect {one.defect} at ({place}) mm: {about}{taken_back}")
        return PASS
    if defect is None or good + bad + undo != 1:
        raise SettingsError(
            "feedback",
            expected="--defect N and one of --good, --bad, --undo",
            got=f"--defect {defect} and {good + bad + undo} of them",
            remedy="say which defect and what it is, or --list",
        )
    label: Literal["good", "bad", "undone"] = "good" if good else "bad" if bad else "undone"
    kept = judge(folder, Inspector.load(folder).identity, result.resolve(), inspection, defect, label)
    say(f"judgement {kept.number} kept in {folder}: defect {defect} of {inspection.specimen} is {label}")
    return PASS


def datasets(
    action: Positional[Literal["list", "info", "check", "make"]],
    name: Positional[str] = "",
    output: Positional[Path | None] = None,
    /,
    size: Literal["small", "full"] = "small",
    seed: int = 0,
    parts: tuple[str, ...] = (),
    dataset: str | None = None,
    specimens: Path | None = None,
) -> int:
    """List data sets, say what one is, check a folder for traps, or make the synthetic one.

    Args:
        action: list | info NAME | check ROOT | make machine_elements OUT.
        name: the set's name; for check its folder.
        output: folder to make.
        size: of the synthetic set.
        seed: of the synthetic set.
        parts: of the synthetic set; the dev parts, or all of the full size, where none is named.
        dataset: for check the set's name, where its layout does not tell.
        specimens: for check a map of files to specimens, to find pieces on both sides of the split.
    """
    from rad3d.datasets import DATASETS, dataset_info

    if action == "list":
        for known in DATASETS:
            set_info = dataset_info(known)
            print(f"{known:18} {set_info.title} ({set_info.licence}; {set_info.size})")
    elif action == "info":
        set_info = dataset_info(name)
        for label in ("title", "layout", "source", "licence", "size"):
            print(f"{label}: {getattr(set_info, label)}")
    elif action == "check":
        return check_dataset(Path(name), dataset, specimens)
    else:
        from rad3d.datasets.machine_elements import write

        if name != "machine_elements" or output is None:
            raise Rad3dError(
                name or "datasets make",
                expected="machine_elements and a folder",
                got=f"{name!r} and {output}",
                remedy="say `rad3d datasets make machine_elements OUT`",
            )
        write(output, size, seed=seed, parts=parts, progress=tracked)
        say(f"made {output}")
    return PASS


def check_dataset(root: Path, name: str | None, specimens: Path | None) -> int:
    """Print what would corrupt a result on a data set; the exit code says whether anything would."""
    from rad3d.datasets.check import TRAPS, check

    findings = check(root, name, specimens, tracked)
    for finding in findings:
        print(f"{finding.severity}: {finding.trap} ({finding.count}): {TRAPS[finding.trap][1]}")
        for file in finding.files[:SHOWN_FILES]:
            print(f"    {file}")
        if len(finding.files) > SHOWN_FILES:
            print(f"    and {len(finding.files) - SHOWN_FILES} more")
    if not findings:
        print("nothing found")
    return FAIL if any(finding.severity == "corrupts" for finding in findings) else PASS


def evaluate(
    dataset: Positional[str],
    /,
    output: Annotated[Path, arg(aliases=["-o"])],
    settings: Annotated[Settings, arg(name="")] = Settings(),  # noqa: B008
    retrieval: RetrievalSettings = RetrievalSettings(),  # noqa: B008
    root: Path | None = None,
    parts: tuple[str, ...] = (),
    method: tuple[
        Literal["rad", "rad-roi", "rad3d", "deviation", "mrad-tf", "mrad-ft", "mrad-clip", "rad3d+mrad"], ...
    ] = ("rad3d",),
    auxiliary: Path | None = None,
    auxiliary_parts: tuple[str, ...] = (),
    same_part: bool = False,
    protocol: Literal["rad", "anomalib", "specimen"] = "rad",
    memory: Literal["unified", "per-part"] | None = None,
    sensor: str = "Nano",
    specimens: Path | None = None,
    track: Literal["captures", "extreme", "meshes", "clouds"] = "captures",
    skip_bad: bool = False,
) -> int:
    """Run a method on a data set and measure it; a killed run continues when started again.

    Args:
        dataset: a name of `rad3d datasets list`.
        output: folder for predictions, tables and curves.
        settings: see `rad3d.settings`.
        retrieval: of rad and rad-roi, see `rad3d.settings`.
        root: the set, or one category of it; default `$RAD3D_DATA/<name>`.
        parts: only these categories.
        method: rad as published, rad cropped to the part, rad3d, geometry alone, or with labels of other parts; of
            several, each has its folder in the output, and their means are compared.
        auxiliary: of the methods of MRAD: a labelled data set, or a folder of `rad3d fit --labelled`.
        auxiliary_parts: only these parts of it.
        same_part: the labels may be of a part that is judged too; then it is not zero-shot, and the table says so.
        protocol: how good images are split, on 3D-ADAM.
        memory: one memory for all parts (default of rad) or one per part.
        sensor: which sensor's captures.
        track: which scans of machine_elements.
        specimens: map of files to specimens, for the protocol `specimen`.
        skip_bad: leave out files that cannot be read, and count them.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from rad3d.datasets.sample import Choice
    from rad3d.evaluate import compare
    from rad3d.evaluate import evaluate as run

    choice = Choice(parts=parts, protocol=protocol, sensor=sensor, specimens=specimens, track=track)
    several = len(method) > 1
    results = [
        run(
            dataset,
            output / name if several else output,
            root=root,
            choice=choice,
            method=name,
            settings=settings,
            retrieval=retrieval,
            memory=memory,
            auxiliary=auxiliary,
            auxiliary_parts=auxiliary_parts,
            same_part=same_part,
            skip_bad=skip_bad,
            track=tracked,
        )
        for name in method
    ]
    header, *lines = compare(results, output) if several else zip(*results[0].rows(), strict=True)
    table = Table("metric", *map(escape, header[1:]), title=None if several else escape(results[0].title))
    for line in lines:
        table.add_row(*line)
    Console().print(table)
    say(f"Tables, curves and predictions: {output}")
    return PASS


SHOWN_FILES = 10

COMMANDS: dict[str, Callable[..., int]] = {
    "fit": fit,
    "inspect": inspect,
    "demo": demo,
    "render": render,
    "info": info,
    "report": report,
    "export": export,
    "view": view,
    "datasets": datasets,
    "feedback": feedback,
    "evaluate": evaluate,
    "weights": weights,
}


def exit_code(verdicts: Sequence[str], errors: bool) -> int:
    """What the process returns.

    >>> exit_code(["pass", "incomplete"], errors=False)
    3
    """
    if errors:
        return ERROR
    return FAIL if "fail" in verdicts else INCOMPLETE if "incomplete" in verdicts else PASS


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `rad3d` command."""
    logging.basicConfig(level=logging.WARNING, format="rad3d: %(message)s")
    if list(sys.argv[1:] if arguments is None else arguments) == ["--version"]:
        print(f"rad3d {version('rad3d')}")
        raise SystemExit(PASS)
    logging.getLogger("rad3d.weights").setLevel(logging.INFO)  # a download is waited for
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is no reason to fail
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped run cleans up as an interrupted one
    try:
        code = tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="rad3d", description=__doc__, args=arguments)
    except KeyboardInterrupt:
        say("rad3d: interrupted; partial output was removed")
        code = INTERRUPTED
    except BrokenPipeError:  # who reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = PASS
    except Exception as error:  # a traceback would exit 1, which says that a specimen fails
        told(error)
        code = ERROR
    raise SystemExit(code)
