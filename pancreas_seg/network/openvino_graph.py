"""The Attention U-Net as an OpenVINO model, built from a weights file's tensors: needs no torch and no converter.

It is the network of `pancreas_seg.network.attention_unet`, layer by layer, in evaluation mode: batch normalisation is
folded into the convolution before it, and softmax and the choice of classes are part of the model. A test holds both
against each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pancreas_seg.config import Config

_EPSILON = 1e-5
"""Of torch's normalisation layers."""

Node = Any
"""An OpenVINO node or one of its outputs."""


def build_model(
    state: Mapping[str, NDArray[Any]], config: Config, classes: Sequence[int], image: Node, ops: Any
) -> Node:
    """The network's probabilities (N, K, *S), float32, as a node.

    Parameters
    ----------
    state : mapping of str to array
        Tensors under torch's names.
    config : Config
        The network's shape.
    classes : sequence of int
        Output channels to keep, K of them; 0 is the background.
    image : node
        The input, (N, C, *S). Where S is no multiple of 2^(levels - 1), it is padded by repeating the border, and the
        output is cropped.
    ops : module
        An OpenVINO operation set.
    """
    return _Builder(state, config, ops).build(classes, image)


class _Builder:
    def __init__(self, state: Mapping[str, NDArray[Any]], config: Config, ops: Any) -> None:
        self.state = {name: np.asarray(value, dtype=np.float32) for name, value in state.items()}
        self.network = config.network
        self.ops = ops
        self.dims = config.network.spatial_dims
        self.depth = len(config.network.channels) - 1
        self.axes = np.arange(2, 2 + self.dims)

    def build(self, classes: Sequence[int], image: Node) -> Node:
        ops, shape = self.ops, list(image.shape)
        missing = [-int(n) % (1 << self.depth) for n in shape[2:]]
        before = [0, 0, *(m // 2 for m in missing)]
        x = ops.pad(image, before, [0, 0, *(m - m // 2 for m in missing)], "edge") if any(missing) else image
        logits = self.conv(self.decoded(x, [int(n) + m for n, m in zip(shape[2:], missing, strict=True)]), "head")
        if any(missing):
            stop = [b + int(n) for b, n in zip(before[2:], shape[2:], strict=True)]
            logits = ops.slice(logits, before[2:], stop, [1] * self.dims, self.axes)
        return ops.gather(ops.softmax(logits, 1), np.array(list(classes)), 1)

    def decoded(self, x: Node, size: Sequence[int]) -> Node:
        """Decoder features at full resolution."""
        skips, sizes = [], []
        for level in range(self.depth + 1):
            if level:
                x = self.pooled(x)
                size = [n // 2 for n in size]
            x = self.block([x], f"down.{level}")
            skips.append(x)
            sizes.append(list(size))
        signal = self.normed_conv(x, "gating.0", "gating.1") if "gating.0.weight" in self.state else x
        if "gating.0.weight" in self.state:
            signal = self.ops.relu(signal)
        for level in reversed(range(self.depth)):
            skip = skips[level]
            if f"gates.{level}.phi.weight" in self.state:
                skip = self.gated(skip, signal, f"gates.{level}", sizes[level], sizes[level + 1])
            x = signal = self.block([skip, self.resized(x, sizes[level])], f"up.{level}")
        return x

    def block(self, inputs: Sequence[Node], name: str) -> Node:
        x = inputs[0] if len(inputs) == 1 else self.ops.concat(list(inputs), 1)
        for n in range(self.network.convs_per_level):
            x = self.ops.relu(self.normed_conv(x, f"{name}.{3 * n}", f"{name}.{3 * n + 1}", padding=1))
        return x

    def gated(self, x: Node, signal: Node, name: str, size: Sequence[int], coarser: Sequence[int]) -> Node:
        """The attention gate on a skip connection of a size, with a signal of the next coarser level's size."""
        ops = self.ops
        stride = 2 if self.network.gate == "grid" else 1
        grid = list(coarser) if stride == 2 else list(size)
        theta = self.conv(x, f"{name}.theta", stride=stride)
        phi = self.conv(signal, f"{name}.phi")
        phi = self.resized(phi, grid) if grid != list(coarser) else phi
        alpha = ops.sigmoid(self.conv(ops.relu(ops.add(theta, phi)), f"{name}.psi"))
        alpha = self.resized(alpha, size) if grid != list(size) else alpha
        return self.normed_conv(ops.multiply(x, alpha), f"{name}.output.0", f"{name}.output.1")

    def pooled(self, x: Node) -> Node:
        two, zero = [2] * self.dims, [0] * self.dims
        return self.ops.max_pool(x, two, [1] * self.dims, zero, zero, two, "floor", "explicit", "i64").output(0)

    def resized(self, x: Node, size: Sequence[int]) -> Node:
        zero = [0] * (2 + self.dims)
        return self.ops.interpolate(x, np.array(size), "linear_onnx", "sizes", zero, zero, "half_pixel", axes=self.axes)

    def normed_conv(self, x: Node, conv: str, norm: str, padding: int = 0) -> Node:
        """A convolution with the normalisation behind it."""
        weight, bias = self.state[f"{conv}.weight"], self.state[f"{conv}.bias"]
        scale, shift = self.state[f"{norm}.weight"], self.state[f"{norm}.bias"]
        if self.network.norm == "instance":
            out = self.convolved(x, weight, bias, 1, padding)
            out = self.ops.mvn(out, self.axes, True, _EPSILON, "inside_sqrt")
            return self.ops.add(self.ops.multiply(out, self.by_channel(scale)), self.by_channel(shift))
        scale = scale / np.sqrt(self.state[f"{norm}.running_var"] + _EPSILON)
        bias = (bias - self.state[f"{norm}.running_mean"]) * scale + shift
        return self.convolved(x, weight * scale.reshape(-1, *[1] * (1 + self.dims)), bias, 1, padding)

    def conv(self, x: Node, name: str, stride: int = 1) -> Node:
        return self.convolved(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), stride, 0)

    def convolved(
        self, x: Node, weight: NDArray[np.float32], bias: NDArray[np.float32] | None, stride: int, padding: int
    ) -> Node:
        pad = [padding] * self.dims
        kernel = self.ops.constant(np.ascontiguousarray(weight))
        out = self.ops.convolution(x, kernel, [stride] * self.dims, pad, pad, [1] * self.dims)
        return out if bias is None else self.ops.add(out, self.by_channel(bias))

    def by_channel(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        return values.reshape(1, -1, *[1] * self.dims)
