"""Attention U-Net, 2D and 3D from one code.

Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", 2018 (arXiv:1804.03999).

Notation: N samples, C channels, and ``*S`` for the spatial axes, (H, W) in 2D and (I, J, K) in 3D.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pancreas_seg.config import Config

Gate = Literal["grid", "dense", "none"]

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_NORM: dict[str, dict[int, type[nn.Module]]] = {
    "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
    "instance": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
}
_LINEAR = {2: "bilinear", 3: "trilinear"}


def _norm(kind: str, dims: int, channels: int) -> nn.Module:
    return _NORM[kind][dims](channels, affine=True)


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Linear interpolation of (N, C, *S) to a spatial size; the same tensor if it has that size."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode=_LINEAR[x.ndim - 2], align_corners=False)


class ConvBlock(nn.Sequential):
    """``convs`` times: 3×3(×3) convolution, normalisation, ReLU. (N, C_in, *S) to (N, C_out, *S)."""

    def __init__(self, dims: int, in_channels: int, out_channels: int, convs: int, norm: str) -> None:
        layers: list[nn.Module] = []
        for n in range(convs):
            layers += [
                _CONV[dims](in_channels if n == 0 else out_channels, out_channels, 3, padding=1),
                _norm(norm, dims, out_channels),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


class UpBlock(ConvBlock):
    """A ConvBlock of two inputs, as if they were concatenated: (N, C_a, *S) and (N, C_b, *S) to (N, C_out, *S).

    The first convolution is done as the sum of one for each input, which spares the concatenation. Its gradient's
    halves were strided views, on which the backward pass of convolution and interpolation took four times as long.
    """

    def forward(self, a: Tensor, b: Tensor) -> Tensor:  # type: ignore[override]
        first = cast(nn.Conv3d, self[0])
        conv = F.conv3d if a.ndim == 5 else F.conv2d
        of_a, of_b = first.weight.split([a.shape[1], b.shape[1]], dim=1)
        out = conv(a, of_a, first.bias, padding=1) + conv(b, of_b, padding=1)
        for layer in list(self)[1:]:
            out = layer(out)
        return out


class GatingSignal(nn.Sequential):
    """The bottleneck made ready for the deepest gate: 1×1(×1) convolution, normalisation, ReLU; shape kept."""

    def __init__(self, dims: int, channels: int, norm: str) -> None:
        super().__init__(_CONV[dims](channels, channels, 1), _norm(norm, dims, channels), nn.ReLU(inplace=True))


class AttentionGate(nn.Module):
    """Additive attention gate on a skip connection.

    With the skip's features x and the gating signal g of the next coarser level::

        α = σ(ψ(ReLU(θ(x) + φ(g))))        x̂ = α·x        out = W(x̂)

    θ, φ and ψ are linear (convolutions), σ is the logistic function, W a 1×1(×1) convolution with normalisation.
    There is one α per voxel, shared by all channels.

    Parameters
    ----------
    dims : {2, 3}
        Spatial dimensions.
    skip_channels, gating_channels : int
        Channels of x and of g.
    stride : {1, 2}
        2 is the paper's grid attention: θ is a strided convolution, α is computed on the coarse grid and resized to x.
        1 computes α on x's own grid, with g resized to it.
    norm : {"batch", "instance"}
        Normalisation in W.
    """

    def __init__(self, dims: int, skip_channels: int, gating_channels: int, stride: int, norm: str) -> None:
        super().__init__()
        conv = _CONV[dims]
        self.theta = conv(skip_channels, skip_channels, stride, stride=stride, bias=False)
        self.phi = conv(gating_channels, skip_channels, 1)
        self.psi = conv(skip_channels, 1, 1)
        self.output = nn.Sequential(conv(skip_channels, skip_channels, 1), _norm(norm, dims, skip_channels))

    def coefficients(self, x: Tensor, g: Tensor) -> Tensor:
        """α, between 0 and 1: x (N, C_x, *S) and g (N, C_g, *S_g) to (N, 1, *S)."""
        theta = self.theta(x)
        phi = _resize(self.phi(g), theta.shape[2:])
        alpha = torch.sigmoid(self.psi(F.relu(theta + phi)))
        return _resize(alpha, x.shape[2:])

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """Gated features, (N, C_x, *S)."""
        out: Tensor = self.output(self.coefficients(x, g) * x)
        return out


class AttentionUNet(nn.Module):
    """U-Net whose skip connections pass through attention gates.

    Level l (0 is the finest) has ``channels[l]`` features at 1/2^l of the resolution. Down: max-pooling by 2. Up:
    linear interpolation by 2, concatenation with the gated skip, convolutions.

    gate="grid" is the paper's variant: gates on every skip but the first, the deepest gated by a `GatingSignal` of the
    bottleneck, each other one by the next coarser decoder feature. gate="dense" has a gate on every skip, first one
    included, computed at the skip's full resolution. gate="none" is the plain U-Net.

    Parameters
    ----------
    dims : {2, 3}
        Spatial dimensions.
    in_channels, out_channels : int
        ``out_channels`` counts the background.
    channels : sequence of int
        Features of each level, finest first. At least two.
    convs_per_level : int
    norm : {"batch", "instance"}
    gate : {"grid", "dense", "none"}
    deep_supervision : bool
        Whether the coarser decoder levels have outputs of their own while training.

    Notes
    -----
    3D, 1 input, 4 outputs, channels 16-32-64-128-256, grid gates, deep supervision: 6,191,907 parameters.
    """

    def __init__(
        self,
        dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 2,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        convs_per_level: int = 2,
        norm: str = "batch",
        gate: Gate = "grid",
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        self.dims = dims
        self.depth = len(channels) - 1
        self.in_channels = in_channels
        self.out_channels = out_channels
        conv = _CONV[dims]
        ins = [in_channels, *channels[:-1]]
        self.down = nn.ModuleList(
            ConvBlock(dims, a, b, convs_per_level, norm) for a, b in zip(ins, channels, strict=True)
        )
        self.pool = _POOL[dims](2)
        self.up = nn.ModuleList(
            UpBlock(dims, channels[n] + channels[n + 1], channels[n], convs_per_level, norm) for n in range(self.depth)
        )
        self.gating = GatingSignal(dims, channels[-1], norm) if gate == "grid" else nn.Identity()
        gated = {"grid": range(1, self.depth), "dense": range(self.depth), "none": range(0)}[gate]
        self.gates = nn.ModuleDict(
            {str(n): AttentionGate(dims, channels[n], channels[n + 1], 2 if gate == "grid" else 1, norm) for n in gated}
        )
        if not self.gates:
            self.gating = nn.Identity()
        self.head = conv(channels[0], out_channels, 1)
        self.side_heads = nn.ModuleList(
            conv(channels[n], out_channels, 1) for n in range(1, self.depth) if deep_supervision
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight)

    @classmethod
    def from_config(cls, config: Config) -> AttentionUNet:
        """The network that a Config describes, with random weights."""
        net = config.network
        return cls(
            net.spatial_dims,
            config.in_channels,
            config.out_channels,
            net.channels,
            net.convs_per_level,
            net.norm,
            net.gate,
            net.deep_supervision,
        )

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Class logits.

        Parameters
        ----------
        x : (N, in_channels, *S)
            Any spatial size: it is padded inside to a multiple of 2^(levels - 1) by repeating the border, and cropped
            again.

        Returns
        -------
        (N, out_channels, *S), or while training with deep supervision a list of such logits
            Finest first; item n > 0 comes from decoder level n, at 1/2^n of the resolution (where S had to be padded:
            resized to S).
        """
        size = x.shape[2:]
        padded = self._padded(x)
        decoded, _ = self._decode(padded)
        logits: Tensor = _cropped(self.head(decoded[0]), size)
        if not (self.training and len(self.side_heads)):
            return logits
        sides = [head(features) for head, features in zip(self.side_heads, decoded[1:], strict=True)]
        if padded is not x:
            sides = [_cropped(_resize(side, padded.shape[2:]), size) for side in sides]
        return [logits, *sides]

    def attention_maps(self, x: Tensor) -> dict[str, Tensor]:
        """Coefficients α of each gate for an input (N, in_channels, *S), resized to it.

        Returns
        -------
        dict of (N, 1, *S)
            Keys ``"level_0"`` (finest) upwards, for the skips that have a gate.
        """
        padded = self._padded(x)
        _, maps = self._decode(padded, with_maps=True)
        return {
            f"level_{n}": _cropped(_resize(alpha, padded.shape[2:]), x.shape[2:]) for n, alpha in sorted(maps.items())
        }

    def _decode(self, x: Tensor, with_maps: bool = False) -> tuple[list[Tensor], dict[int, Tensor]]:
        """Decoder features, finest first, and the gates' coefficients by level."""
        skips = []
        for n, block in enumerate(self.down):
            x = block(x if n == 0 else self.pool(x))
            skips.append(x)
        signal = self.gating(x)
        decoded: list[Tensor] = []
        maps: dict[int, Tensor] = {}
        for n in reversed(range(self.depth)):
            skip = skips[n]
            if str(n) in self.gates:
                gate = cast(AttentionGate, self.gates[str(n)])
                if with_maps:
                    maps[n] = gate.coefficients(skip, signal)
                skip = gate(skip, signal)
            x = self.up[n](skip, _resize(x, skip.shape[2:]))
            signal = x
            decoded.insert(0, x)
        return decoded, maps

    def _padded(self, x: Tensor) -> Tensor:
        multiple = 1 << self.depth
        missing = [-int(n) % multiple for n in x.shape[2:]]
        if not any(missing):
            return x
        padding = [v for m in reversed(missing) for v in (m // 2, m - m // 2)]
        return F.pad(x, padding, mode="replicate")


def _cropped(x: Tensor, size: Sequence[int]) -> Tensor:
    """The centre of (N, C, *S) that `AttentionUNet._padded` had padded."""
    for axis, n in enumerate(size, start=2):
        extra = int(x.shape[axis]) - int(n)
        if extra:
            x = x.narrow(axis, extra // 2, int(n))
    return x
