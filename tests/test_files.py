import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import rad3d
from rad3d.errors import ResultError, ScanError
from rad3d.files import (
    atomic_file,
    atomic_folder,
    check_replaceable,
    check_writable,
    read_bytes,
    save_tensors,
    sha256_of,
)


def names(folder: Path) -> set[str]:
    return {item.name for item in folder.iterdir()}


def write_and_raise(atomic: AbstractContextManager[Path], error: BaseException) -> None:
    with atomic as new:
        (new / "report.json" if new.is_dir() else new).write_text("half")
        raise error


def test_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "deep" / "out") as new:
        (new / "report.json").write_text("1")
        assert not (tmp_path / "deep" / "out").exists()
        assert new.parent == tmp_path / "deep"
    assert names(tmp_path / "deep") == {"out"}
    assert (tmp_path / "deep" / "out" / "report.json").read_text() == "1"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_interruption_leaves_the_older_folder_alone(tmp_path: Path, error: type[BaseException]) -> None:
    out = tmp_path / "out"
    with atomic_folder(out) as new:
        (new / "report.json").write_text("old")
    with pytest.raises(error):
        write_and_raise(atomic_folder(out), error())
    assert names(tmp_path) == {"out"}
    assert (out / "report.json").read_text() == "old"


def test_an_older_version_is_replaced_entirely(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for content in ("old", "new"):
        with atomic_folder(out, ["old"]) as new:
            (new / "report.json").write_text(content)
            (new / content).write_text("")
    assert names(out) == {"report.json", "new"}
    (out / "thesis.tex").write_text("years")
    with pytest.raises(ResultError, match=r"thesis\.tex"), atomic_folder(out, ["new"]) as new:
        (new / "report.json").write_text("newer")
    assert names(out) == {"report.json", "new", "thesis.tex"}
    assert names(tmp_path) == {"out"}


def test_somebody_elses_folder_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "Documents"
    out.mkdir()
    (out / "thesis.tex").write_text("years")
    with pytest.raises(ResultError, match=r"thesis\.tex"), atomic_folder(out) as new:
        (new / "report.json").write_text("")
    assert names(out) == {"thesis.tex"}
    assert names(tmp_path) == {"Documents"}


def test_an_empty_folder_and_a_relative_path_are_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with atomic_folder("../here") as new:
        (new / "a").write_text("")
    assert names(tmp_path) == {"here"}
    assert names(tmp_path / "here") == {"a"}


def test_a_folder_keeps_its_place_and_rights_when_its_content_is_replaced(tmp_path: Path) -> None:
    """It may be a mount, or somebody's current folder."""
    out = tmp_path / "out"
    for content in ("old", "new"):
        with atomic_folder(out, ["old"]) as new:
            (new / content).write_text("")
        if content == "old":
            out.chmod(0o2775)
            before = out.stat()
    assert (out.stat().st_ino, out.stat().st_mode) == (before.st_ino, before.st_mode)
    assert names(out) == {"new"}


def test_what_a_killed_run_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "out" / ".partial-0123").mkdir(parents=True)
    with atomic_folder(tmp_path / "out") as new:
        (new / "a").write_text("")
    assert names(tmp_path / "out") == {"a"}


def test_a_kill_while_the_content_is_replaced_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, rename = tmp_path / "out", Path.rename
    with atomic_folder(out) as new:
        (new / "judgements").write_text("old")

    def killed(self: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", gone)
        return rename(self, target)

    def gone(*_: object) -> Path:
        raise SystemExit  # nothing after it happens, not even what would bring the older version back

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(SystemExit), atomic_folder(out, ["judgements"]) as new:
        (new / "memory").write_text("new")
    monkeypatch.setattr(Path, "rename", rename)
    for _ in range(2):
        with atomic_folder(out, ["judgements", "memory"]) as new:
            (new / "memory").write_text("newer")
    assert [kept.read_text() for kept in tmp_path.rglob("judgements")] == ["old"]


def test_two_writers_of_one_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with atomic_folder(out, ["a"]) as first, atomic_folder(out, ["a"]) as second:
        (first / "a").write_text("first")
        (second / "a").write_text("second")
    assert (out / "a").read_text() == "first"  # the last to end
    assert names(tmp_path) == {"out"}


def test_a_folder_that_is_mounted_is_filled_from_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rad3d.files._has_room_beside", lambda path: False)
    out = tmp_path / "out"
    for content in ("old", "new"):
        with atomic_folder(out, ["old"]) as new:
            assert content == "old" or new.parent == out
            (new / content).write_text("")
    assert names(out) == {"new"}


def test_an_older_version_that_cannot_be_removed_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_folder(tmp_path / "out") as new:
        (new / "a").write_text("old")

    def busy(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EBUSY, "busy")

    with monkeypatch.context() as patched, atomic_folder(tmp_path / "out") as new:
        (new / "a").write_text("new")
        patched.setattr("os.unlink", busy)
    assert (tmp_path / "out" / "a").read_text() == "new"


def test_what_a_killed_run_left_is_not_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / ".partial-0123").mkdir()
    check_replaceable(tmp_path, ["memory.json"])


def test_a_failing_move_brings_the_older_version_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, rename = tmp_path / "out", Path.rename
    with atomic_folder(out) as new:
        (new / "a").write_text("old")
        (new / "b").write_text("old")

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "b" and self.read_text() == "new":
            raise OSError(errno.EIO, "input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ResultError, match="input/output"), atomic_folder(out) as new:
        _ = [(new / name).write_text("new") for name in "ab"]
    assert {item.name: item.read_text() for item in out.iterdir()} == {"a": "old", "b": "old"}


@pytest.mark.parametrize("name", ["new", "new/deeper", "there"])
def test_whether_a_folder_can_be_written_leaves_no_trace(tmp_path: Path, name: str) -> None:
    (tmp_path / "there").mkdir()
    check_writable(tmp_path / name)
    assert names(tmp_path) == {"there"}
    assert not names(tmp_path / "there")


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="writable"):
        check_writable(tmp_path / "file" / "out")
    assert names(tmp_path) == {"file"}


def test_tensors_are_for_everybody_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_tensors({"a": np.zeros(2)}, tmp_path / "a.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == 0o640


def test_a_file_in_the_way_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("keep")
    with pytest.raises(ResultError, match="got a file"), atomic_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out").read_text() == "keep"


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_disk_full_says_so_and_leaves_nothing(tmp_path: Path, atomic: type) -> None:
    with pytest.raises(ResultError, match="No space left") as caught:
        write_and_raise(atomic(tmp_path / "out"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert "out" in caught.value.source
    assert "free disk space" in caught.value.remedy
    assert not names(tmp_path)


def test_tensors_on_a_full_disk_are_an_oserror(
    tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    """safetensors raises an error of its own, which only `save_tensors` knows of."""
    with (
        full_disk(1000),
        pytest.raises(ResultError, match="free disk space") as caught,
        atomic_file(tmp_path / "a") as new,
    ):
        save_tensors({"a": np.zeros(1000)}, new)
    assert isinstance(caught.value.__cause__, OSError)
    assert not names(tmp_path)
    for module in (Path(rad3d.__file__).parent).rglob("*.py"):
        assert module.name == "files.py" or "import save_file" not in module.read_text(), module


def test_tensors_come_back_in_any_layout(tmp_path: Path) -> None:
    turned = np.arange(6.0).reshape(2, 3).T
    save_tensors({"a": turned, "b": torch.arange(6).reshape(2, 3).T, "c": np.float32(7)}, tmp_path / "t", {"k": "v"})
    back = load_file(tmp_path / "t")
    np.testing.assert_array_equal(back["a"], turned)
    np.testing.assert_array_equal(back["b"], turned)
    assert (back["c"].shape, back["c"].dtype) == ((), np.float32)


def test_interrupted_file_keeps_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    with atomic_file(path) as new:
        new.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_and_raise(atomic_file(path), KeyboardInterrupt())
    assert path.read_text() == "old"
    assert names(tmp_path) == {"a.ply"}


def test_sha256_of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-2
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_empty_and_missing_files_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(ScanError, match="0 bytes"):
        read_bytes(tmp_path / "empty", "a mesh")
    with pytest.raises(ScanError, match="No such file"):
        read_bytes(tmp_path / "missing", "a mesh")


def test_an_output_of_folders_alone_is_replaced(tmp_path: Path) -> None:
    """As the demo's scans are when it runs again."""
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "scans") as new:
            (new / "good").mkdir()
            (new / "good" / "a.ply").write_text(content)
    assert (tmp_path / "scans" / "good" / "a.ply").read_text() == "new"
