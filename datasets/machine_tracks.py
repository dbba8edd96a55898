"""The machine-element benchmark as samples: one track of what `rad3d.datasets.machine_elements.write` made."""

from dataclasses import replace
from pathlib import Path

from rad3d.datasets import folder, mvtec3d
from rad3d.datasets.adam3d import grouped_by_specimen
from rad3d.datasets.sample import Choice, DatasetInfo, Sample
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

    The split is the benchmark's own (by specimen). In captures every view of a defective specimen is labelled: where
    no defect is seen, all its pixels are good.

    Raises:
        DatasetError: no benchmark there.
    """
    if not (root / "machine_elements.json").is_file():
        raise DatasetError(
            root, expected="machine_elements.json", got="another folder", remedy=f"make the set with {INFO.source}"
        )
    if choice.track in ("meshes", "clouds"):
        return [replace(sample, dataset=INFO.name) for sample in folder.load(root / choice.track, choice)]
    views = root / choice.track / "mvtec"
    single = mvtec3d.list_layout(views, choice, INFO.name, "mm")
    samples = grouped_by_specimen(views, single, root / "truth" / f"{choice.track}_specimens.csv")
    return [
        replace(
            sample,
            split="test" if sample.split == "validation" else sample.split,
            nominal=root / "meshes" / sample.part / "nominal.stl",  # the CAD is the same for every track
        )
        for sample in samples
    ]
