"""What `segment` runs: the networks of one or several weights files, sorted into stages.

A packed file holds several networks: those of the stage "fine", whose probabilities are averaged, and perhaps one of
the stage "coarse", which tells where to look. It is safetensors like a file of one network. Network n's tensors are
called ``n.NAME``; the metadata's entry "stages" is a JSON list that says of each network, in order, its stage,
configuration (TOML) and card.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pancreas_seg._version import __version__
from pancreas_seg.config import Config
from pancreas_seg.errors import ConfigError, WeightsError
from pancreas_seg.network.weights import (
    Weights,
    changed,
    load_tensors,
    load_weights,
    one_network,
    parsed_config,
    save_tensors,
    stored,
)

PACKED_FORMAT = "pancreas-seg-2"
STARTER = "starter"
"""Stands for the weights that ship with the package, wherever a weights file can be named."""

_HASHES = "SHA256SUMS"
_BEST = "best.safetensors"
_MAY_DIFFER = ("merge", "cache")
"""Keys of the data section that matter in training only."""


@dataclass(frozen=True, eq=False)
class Stages:
    """Networks that segment together.

    Parameters
    ----------
    coarse : Weights or None
        Of the network that tells where to look.
    fine : tuple of Weights
        Of the networks whose probabilities are averaged; at least one.
    sha256 : str
        Of the file; of several files: of their hashes, one after the other.
    files : tuple of str
        SHA-256 of each file.
    """

    coarse: Weights | None
    fine: tuple[Weights, ...]
    sha256: str
    files: tuple[str, ...]


def load_stages(path: str | Path) -> Stages:
    """Read a weights file of one network (a fine one) or a packed file; "starter" is the package's own.

    Raises
    ------
    WeightsError
        If the file is missing, a pickle, damaged, of another format, or a configuration in it cannot be read.
    """
    if str(path) == STARTER:
        return _load_starter()
    path = Path(path)
    tensors, metadata, sha256 = load_tensors(path)
    if metadata.get("format") != PACKED_FORMAT:
        return Stages(None, (one_network(tensors, metadata, sha256, path),), sha256, (sha256,))
    try:
        listed = [dict(entry) for entry in json.loads(metadata["stages"])]
        found = [(entry["stage"], _network(n, entry, tensors, sha256, path)) for n, entry in enumerate(listed)]
    except (KeyError, ValueError, TypeError) as error:
        raise _bad_stages(path, f"a list of its networks that cannot be read ({error!r})") from error
    coarse = [weights for stage, weights in found if stage == "coarse"]
    fine = tuple(weights for stage, weights in found if stage == "fine")
    if not fine or len(coarse) > 1 or len(coarse) + len(fine) < len(found):
        raise _bad_stages(path, f"networks of the stages {', '.join(str(stage) for stage, _ in found) or 'none'}")
    return Stages(coarse[0] if coarse else None, fine, sha256, (sha256,))


def load_ensemble(paths: str | Path | Sequence[str | Path]) -> Stages:
    """Read one or several weights files, or folders of trainings, as one set of stages.

    The fine networks of all files come together, in order. At most one coarse network may be among them; the same file
    named twice counts as two fine networks and one coarse.

    Parameters
    ----------
    paths : path or sequence of paths
        Files; "starter"; folders as `find_weights` takes them.

    Raises
    ------
    WeightsError
        See `load_stages` and `find_weights`.
    ConfigError
        If the fine networks don't see the same data, or there are two coarse networks.
    """
    listed = [paths] if isinstance(paths, str | Path) else list(paths)
    stages = [load_stages(file) for file in find_weights(listed)]
    fine = tuple(weights for stage in stages for weights in stage.fine)
    check_alike(fine)
    coarse = {stage.sha256: stage.coarse for stage in stages if stage.coarse is not None}
    if len(coarse) > 1:
        raise ConfigError(
            "config.two_coarse",
            where="weights",
            found=f"{len(coarse)} files with a coarse network",
            expected="at most one",
            advice="Pack the fine networks and one coarse network with `pancreas-seg weights pack`.",
        )
    files = tuple(stage.sha256 for stage in stages)
    sha256 = files[0] if len(files) == 1 else hashlib.sha256("".join(files).encode()).hexdigest()
    return Stages(next(iter(coarse.values()), None), fine, sha256, files)


def find_weights(paths: Iterable[str | Path]) -> list[str | Path]:
    """The files that paths stand for.

    A folder stands for the ``fold_*/best.safetensors`` in it, as `train --fold all` leaves them, in the order of their
    numbers, or where it has no such folders for its own best.safetensors.

    Raises
    ------
    WeightsError
        If a folder has neither, or a fold has no best.safetensors yet.
    """
    found: list[str | Path] = []
    for path in paths:
        if str(path) == STARTER or not Path(path).is_dir():
            found.append(path)
            continue
        folds = sorted((p for p in Path(path).glob("fold_*") if p.is_dir()), key=lambda p: (len(p.name), p.name))
        files = [fold / _BEST for fold in folds] or [Path(path) / _BEST]
        missing = [file for file in files if not file.is_file()]
        if missing:
            raise WeightsError(
                "weights.no_best",
                where=missing[0].parent,
                found=f"no {_BEST}",
                expected=f"the folder of a finished training, with {_BEST} in it or in its folders fold_0, fold_1, ...",
                advice="Finish the training, or name the weights files one by one.",
            )
        found += files
    return found


def check_alike(fine: Sequence[Weights]) -> None:
    """Check that networks can be averaged: they see the same data and write the same classes.

    Raises
    ------
    ConfigError
        If they differ in infer.output or in the data section (merge and cache matter in training only).
    """
    first = fine[0]
    for other in fine[1:]:
        for key, a, b in _compared(first.config, other.config):
            if a != b:
                raise ConfigError(
                    "config.ensemble_differs",
                    where=other.path,
                    found=f"{key} = {_text(b)}",
                    expected=f"{_text(a)}, as in {first.path}",
                    advice="Networks whose probabilities are averaged must be trained with the same data section and "
                    "infer.output.",
                )


def pack_weights(out: Path, fine: Sequence[str | Path], coarse: str | Path | None = None, half: bool = False) -> Path:
    """Write the networks of several weights files into one, whole or not at all; the same input gives the same bytes.

    The fine configurations get ``infer.mode = "auto"``, so that the coarse network is used where there is one. Each
    card gets "packed_from", the SHA-256 of the file that the network came from.

    Parameters
    ----------
    out : Path
    fine : sequence of paths
        Files of one network each, or folders as `find_weights` takes them.
    coarse : path, optional
        File of one network.
    half : bool
        Whether to store 32-bit numbers in 16 bits.

    Raises
    ------
    WeightsError
        If a file cannot be used or holds several networks already.
    ConfigError
        If the fine networks don't see the same data.
    """
    networks = [("fine", load_weights(path)) for path in find_weights(fine)]
    check_alike([weights for _, weights in networks])
    if coarse is not None:
        networks.insert(0, ("coarse", load_weights(coarse)))
    tensors: dict[str, NDArray[Any]] = {}
    listed = []
    for n, (stage, weights) in enumerate(networks):
        weights.network()  # raises where the tensors don't fit
        config = weights.config
        if stage == "fine":
            config = replace(config, infer=replace(config.infer, mode="auto"))
        tensors |= {f"{n}.{name}": stored(value, half) for name, value in weights.arrays.items()}
        card = {**weights.card, "packed_from": weights.sha256}
        listed.append({"stage": stage, "config": config.to_toml(), "card": card})
    metadata = {
        "format": PACKED_FORMAT,
        "written_by": f"pancreas-seg {__version__}",
        "stages": json.dumps(listed, sort_keys=True),
    }
    save_tensors(out, tensors, metadata)
    return out


def _load_starter() -> Stages:
    folder = resources.files("pancreas_seg") / "weights"
    entry = folder / f"{STARTER}.safetensors"
    if not entry.is_file():
        raise WeightsError(
            "weights.no_starter",
            where=STARTER,
            found="no weights in this version of the package",
            expected="a weights file",
            advice="Train a network with `pancreas-seg train` and name its best.safetensors with --weights.",
        )
    with resources.as_file(entry) as path:
        stages = load_stages(path)
    listed = (folder / _HASHES).read_text(encoding="ascii").splitlines()
    known = {name: sha256 for sha256, name in (line.split() for line in listed)}
    if stages.sha256 != known.get(entry.name):
        raise changed(Path(entry.name), stages.sha256, known.get(entry.name, "a hash in SHA256SUMS"))
    return stages


def _network(n: int, entry: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], sha256: str, path: Path) -> Weights:
    prefix = f"{n}."
    arrays = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return Weights(arrays, parsed_config(entry["config"], path), dict(entry["card"]), sha256, path)


def _bad_stages(path: Path, found: str) -> WeightsError:
    return WeightsError(
        "weights.stages",
        where=path,
        found=found,
        expected="one or more fine networks and at most one coarse network",
        advice="Use a file that `pancreas-seg weights pack` of this version wrote.",
    )


def _compared(a: Config, b: Config) -> list[tuple[str, object, object]]:
    pairs: list[tuple[str, object, object]] = [
        (f"data.{key.name}", getattr(a.data, key.name), getattr(b.data, key.name))
        for key in fields(a.data)
        if key.name not in _MAY_DIFFER
    ]
    return [*pairs, ("infer.output", a.infer.output, b.infer.output)]


def _text(value: object) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, tuple) else str(value)
