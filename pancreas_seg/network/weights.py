"""Weights files: safetensors with the configuration as text inside. Pickle is never loaded.

Reading a file needs no torch; making the network does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from pancreas_seg._version import __version__
from pancreas_seg.config import Config
from pancreas_seg.errors import ConfigError, WeightsError
from pancreas_seg.io import replacing

if TYPE_CHECKING:
    import torch

    from pancreas_seg.network.attention_unet import AttentionUNet

_FORMAT = "pancreas-seg-1"
_LARGEST_METADATA_BYTES = 10_000_000
_CHECKED = {"checksum": "sha256"}
"""Stands beside the checksum, so that one changed byte cannot hide that there is one. Older files have neither."""
_PICKLE_SUFFIXES = (".pt", ".pth", ".pkl", ".ckpt")


@dataclass(frozen=True, eq=False)
class Weights:
    """A weights file in memory.

    Parameters
    ----------
    arrays : mapping of str to array
        The tensors, under the names of the network's state dictionary.
    config : Config
        What the network was trained with.
    card : mapping of str to str
        Free facts about the training (steps, validation Dice, names of the data sets).
    sha256 : str
        Of the file.
    path : Path
    """

    arrays: Mapping[str, NDArray[Any]]
    config: Config
    card: Mapping[str, str]
    sha256: str
    path: Path

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """The network's state dictionary."""
        import torch

        return {name: torch.from_numpy(np.array(value)) for name, value in self.arrays.items()}

    def network(self) -> AttentionUNet:
        """The network with these weights, in evaluation mode.

        Raises
        ------
        WeightsError
            If the tensors don't fit the network that the configuration describes.
        """
        from pancreas_seg.network.attention_unet import AttentionUNet

        network = AttentionUNet.from_config(self.config)
        try:
            network.load_state_dict({name: value.float() for name, value in self.state.items()})
        except RuntimeError as error:
            raise mismatch(self.path, str(error).splitlines()[0]) from error
        return network.eval()


def mismatch(path: Path, why: str) -> WeightsError:
    """The error for tensors that are not those of the network in the file's configuration."""
    return WeightsError(
        "weights.mismatch",
        where=path,
        found="tensors that don't fit the network that the file's configuration describes",
        expected="both from the same training",
        advice=f"Use an unchanged file. {why}",
    )


def save_weights(
    path: Path, network: torch.nn.Module, config: Config, card: Mapping[str, str] | None = None, half: bool = False
) -> None:
    """Write a network's state with its configuration, whole or not at all.

    With ``half`` floating-point tensors are stored in 16 bits.
    """
    state = {name: stored(value.detach().cpu().numpy(), half) for name, value in network.state_dict().items()}
    metadata = {
        "format": _FORMAT,
        "written_by": f"pancreas-seg {__version__}",
        "config": config.to_toml(),
        "config_fingerprint": config.fingerprint(),
        "card": json.dumps(dict(card or {}), sort_keys=True),
    }
    save_tensors(path, state, metadata)


def stored(value: NDArray[Any], half: bool) -> NDArray[Any]:
    """An array as it is written: with ``half`` in 16 bits if it holds floating-point numbers.

    One with a number that 16 bits cannot hold stays as it is.
    """
    if half and value.dtype.kind == "f":
        with np.errstate(over="ignore"):
            small = value.astype(np.float16)
        value = small if np.isfinite(small).all() else value
    return np.ascontiguousarray(value).reshape(value.shape)


def save_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Write tensors and text to a safetensors file, whole or not at all; the same content gives the same bytes.

    A checksum of all of it goes into the text.
    """
    content = safetensors.numpy.save(dict(tensors), dict(metadata))
    header, data = _header(content), memoryview(content)[_data_start(content) :]
    header.setdefault("__metadata__", {}).update(_CHECKED, sha256=_checksum(header, data))
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(_in_fixed_order(header))
        file.write(data)


def _data_start(content: bytes) -> int:
    """Format: length of the header (8 bytes, little-endian), the header (JSON, padded with spaces), the data."""
    return 8 + int.from_bytes(content[:8], "little")


def _header(content: bytes) -> dict[str, Any]:
    header = json.loads(content[8 : _data_start(content)])
    if not isinstance(header, dict):
        raise ValueError("header is no object")
    return header


def _in_fixed_order(header: Mapping[str, Any]) -> bytes:
    """A header in sorted order, with its length; the library writes it in an order that varies."""
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _checksum(header: Mapping[str, Any], data: memoryview) -> str:
    """SHA-256 of a file as it would be without its checksum."""
    text = {key: value for key, value in header.get("__metadata__", {}).items() if key not in (*_CHECKED, "sha256")}
    digest = hashlib.sha256(_in_fixed_order({**header, "__metadata__": text}))
    digest.update(data)
    return digest.hexdigest()


def load_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str], str]:
    """Tensors, text and SHA-256 of a safetensors file.

    Raises
    ------
    WeightsError
        If the file is missing or no safetensors file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            "weights.unreadable",
            where=path,
            found=f"a file that cannot be opened ({error.strerror})",
            expected="a weights file (.safetensors)",
            advice="Check the path; `pancreas-seg train` writes best.safetensors into its folder.",
        ) from error
    # A safetensors file can begin like a pickle, too: its first bytes are a length, and the ninth is a brace.
    if content[8:9] != b"{" and (content[:2] == b"PK" or content[:1] == b"\x80" or path.suffix in _PICKLE_SUFFIXES):
        raise WeightsError(
            "weights.pickle",
            where=path,
            found="a PyTorch pickle file",
            expected="safetensors",
            advice="Pickle can run code and is never loaded. Where you trust the file, convert it: load its state "
            "dictionary into an AttentionUNet (`torch.load(..., weights_only=True)`, `load_state_dict`) and save that "
            "with `pancreas_seg.network.weights.save_weights(path, network, config)`.",
        )
    try:
        if _data_start(content) > _LARGEST_METADATA_BYTES:
            raise ValueError("header too large")
        tensors = safetensors.numpy.load(content)
        header = _header(content)
        metadata = header.get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(
            "weights.damaged",
            where=path,
            found=f"a file that is no complete safetensors file ({error})",
            expected="safetensors as `pancreas-seg train` writes it",
            advice="Copy the file again.",
        ) from error
    if {*_CHECKED, "sha256"} & set(metadata):
        found = _checksum(header, memoryview(content)[_data_start(content) :])
        if {**metadata, **_CHECKED, "sha256": found} != metadata:
            raise changed(path, found, metadata.get("sha256", "none"))
    return tensors, metadata, hashlib.sha256(content).hexdigest()


def changed(path: Path, found: str, expected: str) -> WeightsError:
    """The error for weights of another hash than they should have."""
    return WeightsError(
        "weights.changed",
        where=path,
        found=f"content with SHA-256 {found}",
        expected=expected,
        advice="The file was changed or damaged after it was written; copy it again.",
    )


def load_weights(path: str | Path) -> Weights:
    """Read a weights file of one network.

    Raises
    ------
    WeightsError
        If the file is missing, a pickle, damaged, packed (see `pancreas_seg.network.stages`), or has no configuration
        of this package inside.
    """
    return one_network(*load_tensors(Path(path)), Path(path))


def one_network(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str], sha256: str, path: Path) -> Weights:
    """What `load_tensors` gave for a file of one network. Raises as `load_weights`."""
    if "stages" in metadata:
        raise WeightsError(
            "weights.packed",
            where=path,
            found="a packed file, which can hold several networks",
            expected="a file of one network",
            advice="Give a file as `pancreas-seg train` writes it.",
        )
    if metadata.get("format") != _FORMAT or "config" not in metadata:
        raise WeightsError(
            "weights.foreign",
            where=path,
            found=f"a safetensors file of format {metadata.get('format', 'unknown')!r}",
            expected=_FORMAT,
            advice="Use weights that this program trained.",
        )
    config = parsed_config(metadata["config"], path, metadata.get("written_by"))
    try:
        card = json.loads(metadata.get("card", "{}"))
    except ValueError as error:
        raise _unknown_config(path, metadata.get("written_by"), error) from error
    return Weights(arrays, config, card, sha256, path)


def parsed_config(text: str, path: Path, written_by: str | None = None) -> Config:
    """The configuration in a weights file.

    Raises
    ------
    WeightsError
        If this version cannot read it.
    """
    try:
        return Config.from_toml(text, where=path)
    except ConfigError as error:
        raise _unknown_config(path, written_by, error) from error


def _unknown_config(path: Path, written_by: str | None, error: Exception) -> WeightsError:
    return WeightsError(
        "weights.config",
        where=path,
        found=f"a configuration that this version cannot read ({error})",
        expected="one that it knows",
        advice=f"The file was written by {written_by or 'an unknown version'}; use that version.",
    )
