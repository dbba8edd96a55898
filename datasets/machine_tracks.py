"""The machine-element benchmark as samples: one track of what `rad3d.datasets.machine_elements.write` made."""

from dataclasses import replace
from pathlib import Path

from rad3d.datasets import folder
from rad3d.datasets.adam3d import list_raw_views, parse_folder
from rad3d.datasets.sample import Choice, DatasetInfo, Sample, Split, folders_in, read_specimen_map
from rad3d.errors import DatasetError

INFO = DatasetInfo(
    name="machine_elements",
    title="machine elements (synthetic)",
    source="`rad3d datasets make machine_elements OUT`",
    licence="Apache-2.0, as rad3d",
    size="made on this machine in minutes",
    layout="machine_elements.json, meshes/, clouds/, captures/, extreme/, truth/",
)


def load(root: Path, choice: Choice) -> list[Sample]:
    """List the samples of the track `choice.track`; a specimen is one sample, with all its views.

    The split is the benchmark's own (by specimen). In captures every view is there and labelled, of a defective
    specimen too: where no defect is seen, all its pixels are good.

    Raises:
        DatasetError: no benchmark there.
    """
    if not (root / "machine_elements.json").is_file():
        raise DatasetError(
            root, expected="machine_elements.json", got="another folder", remedy=f"make the set with {INFO.source}"
        )
    if choice.track in ("meshes", "clouds"):
        return [replace(sample, dataset=INFO.name) for sample in folder.load(root / choice.track, choice)]
    split_of = _splits(root / "truth" / f"{choice.track}_specimens.csv")
    samples = []
    for captured in folders_in(root / choice.track / "raw"):
        parsed = parse_folder(captured.name)
        if parsed is None:
            continue
        part, kind = parsed
        specimen = f"{part}_{captured.name.removeprefix(part).split('_')[1].lstrip('C')}"
        if not choice.wants(part) or specimen not in split_of:
            continue
        views = list_raw_views(captured / "Nano", kind)
        samples.append(
            Sample(
                dataset=INFO.name,
                part=part,
                specimen=specimen,
                split=split_of[specimen],
                label=0 if kind == "good" else 1,
                defect_type=kind,
                views=tuple(replace(view, clean=not view.masks) for view in views),
                nominal=root / "meshes" / part / "nominal.stl",  # the CAD is the same for every track
            )
        )
    if not samples:
        raise DatasetError(
            root, expected=f"the parts {', '.join(choice.parts)}", got="others", remedy="check --parts and --track"
        )
    return samples


def _splits(path: Path) -> dict[str, Split]:
    """In which half of the benchmark each specimen is."""
    rows = read_specimen_map(path)
    return {name: "train" if file.split("/")[1] == "train" else "test" for file, name in rows.items()}
