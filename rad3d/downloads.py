"""Downloads through other people's clients, whose index, proxy and login settings hold; silence is an error soon."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

SILENCE_S = 6.0
"""A download without a sign of life for this long is given up; with pip's own start that stays below ten seconds."""


class UnreachableError(Exception):
    """Why a source did not answer."""


def pip_download(requirement: str, scratch: Path) -> Path:
    """A wheel from the package index, into an empty folder.

    Raises:
        UnreachableError: no pip, no answer, or no such wheel.
    """
    if importlib.util.find_spec("pip") is None:
        raise UnreachableError(f"no pip in {sys.executable}")
    # pip asks the index about itself first unless told not to, and a silent index would be waited for twice.
    arguments = "download --no-deps --only-binary=:all: --retries 0 --timeout 5 --no-input --progress-bar off".split()
    arguments += ["--disable-pip-version-check", "--dest", str(scratch)]
    command = [sys.executable, "-m", "pip", *arguments, requirement]
    output = scratch / "pip.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(scratch)}
        )
        try:
            seen, since = (-1, -1), time.monotonic()
            while process.poll() is None:
                time.sleep(0.1)
                # Until pip says its first word its processor time counts: a busy machine starts it slowly.
                signs = (_size(scratch), 0 if output.stat().st_size else _processor_ticks(process.pid))
                if signs != seen:
                    seen, since = signs, time.monotonic()
                elif time.monotonic() - since > SILENCE_S:
                    raise UnreachableError(f"{SILENCE_S:.0f} s of silence from the package index")
        finally:
            process.kill()
            process.wait()
    wheels = list(scratch.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        lines = [line for line in output.read_text(errors="replace").splitlines() if line.startswith("ERROR")]
        raise UnreachableError(lines[-1] if lines else f"pip ended with {process.returncode}")
    return wheels[0]


def _processor_ticks(pid: int) -> int:
    """Processor time that a process has used, in the kernel's ticks; 0 where there is no /proc."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(after_name[11]) + int(after_name[12])


def _size(folder: Path) -> int:
    """Bytes below a folder that another process writes to: what vanishes meanwhile counts as nothing."""
    total = 0
    for place, _, files in os.walk(folder):
        for file in files:
            try:
                total += (Path(place) / file).stat().st_size
            except OSError:
                continue
    return total


def hub_download(repository: str, file: str, scratch: Path) -> tuple[Path, str | None]:
    """A file from the model hub, and the sha256 that the hub states for it.

    Raises:
        UnreachableError: no answer, no such file, or no permission.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    try:
        stated = get_hf_file_metadata(hf_hub_url(repository, file), timeout=SILENCE_S)
        made = Path(
            hf_hub_download(repository, file, revision=stated.commit_hash, local_dir=scratch, etag_timeout=SILENCE_S)
        )
    except Exception as error:  # which ones depends on the HTTP library that the hub's client was built on
        raise UnreachableError(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    stated_sha256 = stated.etag if stated.etag is not None and len(stated.etag) == 64 else None
    return made, stated_sha256
