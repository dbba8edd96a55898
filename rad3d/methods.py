"""Which method a memory is for, and how each of them learns labels and inspects a scan."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from rad3d.auxiliary import Auxiliary
from rad3d.datasets.sample import Choice
from rad3d.errors import Rad3dError, SettingsError
from rad3d.expert import MRAD_NAMES, Expert, MradName
from rad3d.inspector import Inspector
from rad3d.progress import Progress
from rad3d.result import Inspection
from rad3d.scan import Scan
from rad3d.settings import Settings
from rad3d.zeroshot import REASON, inspect_zero_shot

MethodName = Literal["rad3d", "rad3d+mrad", "mrad-tf", "mrad-ft", "mrad-clip"]


def learn_labels(
    root: Path, parts: tuple[str, ...], method: MradName, settings: Settings, sensor: str | None, track: Progress
) -> Expert:
    """Remember a labelled data set and train the method on it."""

    def stop(error: Rad3dError) -> None:
        raise error

    choice = Choice(parts=parts) if sensor is None else Choice(parts=parts, sensor=sensor)
    return Auxiliary.at(root, choice).learned(method, settings, track, stop)


def judge_of(
    memory: Path, method: MethodName | None, false_reject: float | None
) -> tuple[Callable[[Scan], Inspection], str]:
    """What inspects a scan by a method (None = what the memory was fitted for), and what it says of false rejects.

    Raises:
        SettingsError: the memory was calibrated for another method.
    """
    only_labels = (memory / "labelled.json").exists() and not (memory / "inspector.json").exists()
    if method is None and only_labels:
        trained = [(memory / name).exists() for name in ("maps.safetensors", "prompts.safetensors")]
        method = MRAD_NAMES[sum(trained)]
    if method in MRAD_NAMES:
        if false_reject is not None:
            raise SettingsError(
                "--false-reject",
                expected="a method that is calibrated on good specimens",
                got=method,
                remedy="leave it out: labels of other parts rank specimens, and reject none",
            )
        return partial(inspect_zero_shot, Expert.load(memory, method)), REASON
    inspector = Inspector.load(memory)
    fitted = "rad3d" if inspector.expert is None else "rad3d+mrad"
    if method not in (None, fitted):
        raise SettingsError(
            memory,
            expected=f"a memory calibrated for {method}",
            got=f"one calibrated for {fitted}",
            remedy=f"fit again {'without' if method == 'rad3d' else 'with'} --labelled, or say --method {fitted}",
        )
    if false_reject is not None:
        verdict = replace(inspector.settings.verdict, false_reject=false_reject)
        inspector = replace(inspector, settings=replace(inspector.settings, verdict=verdict))
    return inspector.inspect, f"False rejects: {inspector.threshold[1].sentence()}"
