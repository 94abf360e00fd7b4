"""Weights files: safetensors with the configuration as text inside. Pickle is never loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pancreas_seg._version import __version__
from pancreas_seg.config import Config
from pancreas_seg.errors import ConfigError, WeightsError
from pancreas_seg.io import replacing
from pancreas_seg.network.attention_unet import AttentionUNet

_FORMAT = "pancreas-seg-1"
_LARGEST_METADATA_BYTES = 10_000_000


@dataclass(frozen=True, eq=False)
class Weights:
    """A weights file in memory.

    Parameters
    ----------
    state : mapping of str to Tensor
        The network's state dictionary.
    config : Config
        What the network was trained with.
    card : mapping of str to str
        Free facts about the training (steps, validation Dice, names of the data sets).
    sha256 : str
        Of the file.
    path : Path
    """

    state: Mapping[str, Tensor]
    config: Config
    card: Mapping[str, str]
    sha256: str
    path: Path

    def network(self) -> AttentionUNet:
        """The network with these weights, in evaluation mode.

        Raises
        ------
        WeightsError
            If the tensors don't fit the network that the configuration describes.
        """
        network = AttentionUNet.from_config(self.config)
        try:
            network.load_state_dict({name: value.float() for name, value in self.state.items()})
        except RuntimeError as error:
            raise WeightsError(
                "weights.mismatch",
                where=self.path,
                found="tensors that don't fit the network that the file's configuration describes",
                expected="both from the same training",
                advice=f"Use an unchanged file. {str(error).splitlines()[0]}",
            ) from error
        return network.eval()


def save_weights(
    path: Path, network: torch.nn.Module, config: Config, card: Mapping[str, str] | None = None, half: bool = False
) -> None:
    """Write a network's state with its configuration, whole or not at all.

    With ``half`` floating-point tensors are stored in 16 bits.
    """
    state = {name: stored(value, half) for name, value in network.state_dict().items()}
    metadata = {
        "format": _FORMAT,
        "written_by": f"pancreas-seg {__version__}",
        "config": config.to_toml(),
        "config_fingerprint": config.fingerprint(),
        "card": json.dumps(dict(card or {}), sort_keys=True),
    }
    save_tensors(path, state, metadata)


def stored(value: Tensor, half: bool) -> Tensor:
    """A tensor as it is written: on the CPU and, with ``half``, in 16 bits if it holds floating-point numbers.

    One with a number that 16 bits cannot hold stays as it is.
    """
    if half and value.is_floating_point() and bool((small := value.half()).isfinite().all()):
        value = small
    return value.detach().cpu().contiguous()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and text to a safetensors file, whole or not at all; the same content gives the same bytes."""
    with replacing(path) as temporary:
        temporary.write_bytes(_in_fixed_order(safetensors.torch.save(dict(tensors), dict(metadata))))


def _in_fixed_order(content: bytes) -> bytes:
    """A safetensors file with its header in sorted order; the library writes it in an order that varies.

    Format: length of the header (8 bytes, little-endian), the header (JSON, padded with spaces to 8 bytes), the data.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[start:]


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str], str]:
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
    if content[:2] in (b"PK", b"\x80\x02", b"\x80\x04"):
        raise WeightsError(
            "weights.pickle",
            where=path,
            found="a PyTorch pickle file",
            expected="safetensors",
            advice="Pickle can run code and is never loaded. Where you trust the file, load its state dictionary with "
            "torch and save it with pancreas_seg.network.weights.save_weights.",
        )
    try:
        tensors = safetensors.torch.load(content)
        size = int.from_bytes(content[:8], "little")
        if size > _LARGEST_METADATA_BYTES:
            raise ValueError("header too large")
        metadata = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(
            "weights.damaged",
            where=path,
            found=f"a file that is no complete safetensors file ({error})",
            expected="safetensors as `pancreas-seg train` writes it",
            advice="Copy the file again.",
        ) from error
    return tensors, metadata, hashlib.sha256(content).hexdigest()


def load_weights(path: str | Path) -> Weights:
    """Read a weights file of one network.

    Raises
    ------
    WeightsError
        If the file is missing, a pickle, damaged, packed (see `pancreas_seg.network.stages`), or has no configuration
        of this package inside.
    """
    return one_network(*load_tensors(Path(path)), Path(path))


def one_network(state: Mapping[str, Tensor], metadata: Mapping[str, str], sha256: str, path: Path) -> Weights:
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
    return Weights(state, config, card, sha256, path)


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
