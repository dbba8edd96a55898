"""An engineer's judgement: kept with an audit trail, respected at its place, and nowhere else."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rad3d import Inspection, Inspector, cli, load_result
from rad3d.datasets.machine_elements import make_specimen
from rad3d.errors import MemoryFormatError, ResultError
from rad3d.feedback import CLEARLY, FILE, WEAKER, Judgement, active, limits, read_log, respected

THRESHOLD = 10.0


def judgement(number: int, label: str, place: tuple[float, float, float], peak: float, **more: object) -> Judgement:
    return Judgement(
        number,
        "2025-01-01T00:00:00+00:00",
        label,
        "out/a",
        "a",
        1,
        "m",
        place,
        (0.0, 0.0, 1.0),
        4.0,
        peak,
        **more,  # type: ignore[arg-type]
    )


def at(*places: tuple[float, float, float], normal: tuple[float, float, float] = (0, 0, 1)) -> tuple[np.ndarray, ...]:
    return np.array(places, float), np.tile(np.array(normal, float), (len(places), 1))


def test_a_false_alarm_has_to_be_clearly_exceeded_at_its_place_only() -> None:
    good = [judgement(1, "good", (0, 0, 0), 20.0)]
    points, normals = at((0, 0, 0), (4, 0, 0), (6, 0, 0), (8, 0, 0), (50, 0, 0))
    found = limits(points, normals, good, THRESHOLD)
    peak = CLEARLY * 20
    np.testing.assert_allclose(found, [peak, peak, THRESHOLD + (peak - THRESHOLD) / 2, THRESHOLD, THRESHOLD])
    points, normals = at((0, 0, -1), normal=(0, 0, -1))  # the other side of a thin wall
    np.testing.assert_allclose(limits(points, normals, good, THRESHOLD), THRESHOLD)


def test_a_confirmed_defect_fails_when_weaker_and_wins_over_a_false_alarm() -> None:
    points, normals = at((0, 0, 0), (6, 0, 0))
    np.testing.assert_allclose(
        limits(points, normals, [judgement(1, "bad", (0, 0, 0), 12.0)], THRESHOLD), [WEAKER * 12, THRESHOLD]
    )
    strong = [judgement(1, "bad", (0, 0, 0), 50.0)]
    np.testing.assert_allclose(limits(points, normals, strong, THRESHOLD), THRESHOLD)  # never less sensitive
    both = [judgement(1, "bad", (0, 0, 0), 50.0), judgement(2, "good", (1, 0, 0), 60.0)]
    assert limits(points, normals, both, THRESHOLD)[0] == WEAKER * 50  # not 1.3 x 60, so 50 is found again
    assert limits(points, normals, both[::-1], THRESHOLD)[0] == WEAKER * 50


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(1, 100), st.floats(-9, 9)), max_size=6), st.floats(1, 50))
def test_respected_scores_exceed_the_threshold_where_scores_exceed_their_limit(
    made: list[tuple[bool, float, float]], threshold: float
) -> None:
    judgements = [
        judgement(n, "good" if good else "bad", (x, 0, 0), max(peak, threshold))
        for n, (good, peak, x) in enumerate(made)
    ]
    points, normals = at(*((x, 0.0, 0.0) for x in np.linspace(-12, 12, 25)))
    scores = np.linspace(0.2, 3, 25) * threshold
    changed = respected(scores, points, normals, judgements, threshold)
    limit = limits(points, normals, judgements, threshold)
    clear = np.abs(scores / limit - 1) > 1e-5
    np.testing.assert_array_equal((changed > threshold)[clear], (scores > limit)[clear])
    only_bad = [j for j in judgements if j.label == "bad"]
    assert (respected(scores, points, normals, only_bad, threshold) >= scores * (1 - 1e-6)).all()


def test_undone_judgements_do_not_count() -> None:
    log = [
        judgement(1, "good", (0, 0, 0), 20.0),
        judgement(2, "bad", (0, 0, 0), 20.0),
        judgement(3, "undone", (0, 0, 0), 20.0, undoes=1),
    ]
    assert [j.number for j in active(log)] == [2]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as done:
        cli.main([str(argument) for argument in arguments])
    return int(done.value.code or 0)


@pytest.fixture(scope="module")
def dented_result(inspector: Inspector) -> Inspection:
    """A result with at least one defect."""
    dented = make_specimen("bracket", 7, ("hole",), sizes_mm=(5.0, 6.0)).scan
    return inspector.inspect(replace(dented, specimen="dented"))


@pytest.fixture
def judged(tmp_path: Path, inspector: Inspector, dented_result: Inspection) -> tuple[Path, Path]:
    """A memory and a result of it, both on disk."""
    memory = inspector.save(tmp_path / "memory")
    result = replace(dented_result, memory={**(dented_result.memory or {}), "folder": str(memory)})
    return memory, result.save(tmp_path / "out" / "dented")


def test_the_next_inspection_respects_it_until_it_is_undone(
    judged: tuple[Path, Path], inspector: Inspector, capsys: pytest.CaptureFixture[str]
) -> None:
    memory, folder = judged
    result = load_result(folder)
    assert result.verdict == "fail"
    first = result.defects[0]
    scan = make_specimen("bracket", 7, ("hole",), sizes_mm=(5.0, 6.0)).scan
    for defect in result.defects:
        assert run("feedback", folder, "--defect", defect.id, "--good") == 0
    again = Inspector.load(memory).inspect(scan)
    assert again.verdict == "pass"
    assert "judged by feedback" in again.reason
    assert again.score < again.threshold

    # clearly stronger at the same place still fails: as if what was judged good had been half as strong
    trail = (memory / FILE).read_text()
    weaker = [{**json.loads(line), "peak": json.loads(line)["peak"] / 2} for line in trail.splitlines()]
    (memory / FILE).write_text("".join(json.dumps(row) + "\n" for row in weaker))
    assert Inspector.load(memory).inspect(scan).verdict == "fail"
    (memory / FILE).write_text(trail)

    # judged again where a judgement counts already: the strength kept is the unchanged one
    for defect in result.defects:
        assert run("feedback", folder, "--defect", defect.id, "--undo") == 0
    assert (memory / FILE).read_text().startswith(trail)  # nothing is erased
    found = Inspector.load(memory).inspect(scan)
    assert found.verdict == "fail"
    assert found.defects[0].peak_score == pytest.approx(first.peak_score, rel=0.05)
    assert run("feedback", folder, "--defect", first.id, "--bad") == 0
    confirmed = Inspector.load(memory).inspect(scan)
    assert confirmed.defects[0].peak_score >= first.peak_score * 0.999
    capsys.readouterr()
    assert run("feedback", folder, "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * len(result.defects) + 1
    assert "good, undone" in lines[0]
    assert " bad" in lines[-1]
    kept = [json.loads(line) for line in (memory / FILE).read_text().splitlines()]
    assert {"when", "result", "defect", "label"} <= set(kept[0])
    assert kept[-1]["peak"] == pytest.approx(first.peak_score, rel=1e-6)


def test_a_saved_inspector_keeps_its_judgements_and_a_new_fit_does_not_erase_them(
    judged: tuple[Path, Path], inspector: Inspector, tmp_path: Path
) -> None:
    memory, folder = judged
    assert run("feedback", folder, "--defect", 1, "--good") == 0
    copied = Inspector.load(memory).save(tmp_path / "copy")
    assert read_log(copied) == read_log(memory)
    with pytest.raises(ResultError, match=FILE):
        inspector.save(memory)
    assert len(read_log(memory)) == 1


def test_what_cannot_be_judged_is_refused(
    judged: tuple[Path, Path], inspector: Inspector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory, folder = judged
    assert run("feedback", folder, "--defect", 99, "--good") == 2
    assert "defect of this result (1" in capsys.readouterr().err
    assert run("feedback", folder, "--defect", 1, "--undo") == 2
    assert "a judgement of defect 1" in capsys.readouterr().err
    assert run("feedback", folder, "--defect", 1) == 2
    assert run("feedback", folder, "--defect", 1, "--good", "--bad") == 2
    assert run("feedback", folder, "--good") == 2
    capsys.readouterr()
    other = replace(inspector, good_scores=inspector.good_scores * 2).save(tmp_path / "other")
    assert run("feedback", folder, "--defect", 1, "--good", "--memory", other) == 2
    assert "the right memory" in capsys.readouterr().err
    assert not read_log(memory)
    moved = memory.rename(tmp_path / "moved")
    assert run("feedback", folder, "--defect", 1, "--good") == 2
    assert "--memory" in capsys.readouterr().err
    assert run("feedback", folder, "--defect", 1, "--good", "--memory", moved) == 0
    (moved / FILE).unlink()
    (moved / FILE).mkdir()  # nothing can be written there
    assert run("feedback", folder, "--defect", 1, "--good", "--memory", moved) == 2
    assert "may be written" in capsys.readouterr().err
    (moved / FILE).rmdir()
    (moved / FILE).write_text("{}\n")
    with pytest.raises(MemoryFormatError, match=FILE):
        Inspector.load(moved)


def test_an_inspector_in_memory_has_nowhere_to_keep_feedback(inspector: Inspector, tmp_path: Path) -> None:
    scan = make_specimen("bracket", 7, ("hole",), sizes_mm=(5.0, 6.0)).scan
    folder = inspector.inspect(scan).save(tmp_path / "out")
    assert run("feedback", folder, "--defect", 1, "--good") == 2
