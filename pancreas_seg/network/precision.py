"""Which device and number format the network runs in here."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal

import torch

from pancreas_seg.errors import ConfigError

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(wish: str) -> torch.device:
    """The device for "auto" (CUDA if there is one), "cpu" or "cuda".

    Raises
    ------
    ConfigError
        If CUDA is asked for and there is none.
    """
    if wish == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "config.no_cuda",
            where="--device cuda",
            found="no CUDA device that this PyTorch can use",
            expected="one",
            advice="Use --device cpu, or install a CUDA build of PyTorch.",
        )
    if wish == "auto":
        wish = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wish)


def choose_precision(wish: str, device: torch.device) -> Precision:
    """The number format for "auto" or a named one.

    "auto" is bf16 where the hardware computes in it (CUDA from compute capability 8; CPUs with AVX512-BF16 or AMX),
    else fp16 on CUDA and fp32 on CPUs.

    Raises
    ------
    ConfigError
        If fp16 is asked for on a CPU.
    """
    if wish == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        return "bf16" if cpu_computes_bf16() else "fp32"
    if wish == "fp16" and device.type == "cpu":
        raise ConfigError(
            "config.fp16_on_cpu",
            where="precision",
            found="fp16 on a CPU",
            expected="auto, fp32 or bf16",
            advice="fp16 is for CUDA devices.",
        )
    if wish not in _DTYPE:
        raise ValueError(wish)
    return wish  # type: ignore[return-value]


def cpu_computes_bf16() -> bool:
    """True if this CPU has bf16 instructions (emulating them would be slower than fp32)."""
    cpu: Any = torch.cpu
    return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Context in which convolutions run in the number format."""
    return torch.autocast(device.type, dtype=_DTYPE[precision], enabled=precision != "fp32")
