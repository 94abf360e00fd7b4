from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from pancreas_seg.config import Config, load_preset, preset_names
from pancreas_seg.network.attention_unet import AttentionGate, AttentionUNet, UpBlock
from pancreas_seg.network.weights import load_weights, save_weights

SMALL = (4, 6, 8)


def _n_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_parameter_counts() -> None:
    paper = AttentionUNet(3, 1, 4, (16, 32, 64, 128, 256))
    assert 5_900_000 <= _n_parameters(paper) <= 6_500_000
    assert _n_parameters(paper) == 6_191_907  # stated in the docstring
    assert "6,191,907" in (AttentionUNet.__doc__ or "")
    assert _n_parameters(AttentionUNet(3, 1, 4, (16, 32, 64, 128, 256), gate="none")) == 5_887_936


def _gate_2x2(stride: int) -> AttentionGate:
    gate = AttentionGate(2, skip_channels=1, gating_channels=1, stride=stride, norm="batch")
    with torch.no_grad():
        gate.theta.weight.copy_(torch.arange(1.0, 1 + stride**2).reshape(1, 1, stride, stride))
        if gate.theta.bias is not None:
            gate.theta.bias.zero_()
        gate.phi.weight.fill_(2.0)
        gate.phi.bias.fill_(-1.0)
        gate.psi.weight.fill_(0.5)
        gate.psi.bias.fill_(0.25)
        gate.output[0].weight.fill_(3.0)
        gate.output[0].bias.fill_(1.0)
    return gate.eval()


def test_grid_gate_by_hand() -> None:
    """θ(x) = 1·1 + 2·(-1) + 3·2 + 4·0.5 = 7, φ(g) = 2·0.4 - 1 = -0.2, ψ = 0.5·6.8 + 0.25 = 3.65, α = σ(3.65)."""
    x = torch.tensor([[[[1.0, -1.0], [2.0, 0.5]]]])
    g = torch.full((1, 1, 1, 1), 0.4)
    gate = _gate_2x2(stride=2)
    alpha = 1 / (1 + np.exp(-3.65))
    torch.testing.assert_close(gate.coefficients(x, g), torch.full((1, 1, 2, 2), alpha, dtype=torch.float32))
    expected = (3 * alpha * x + 1) / np.sqrt(1 + 1e-5)  # W, then the untrained normalisation
    torch.testing.assert_close(gate(x, g), expected.float())


def test_dense_gate_by_hand() -> None:
    """Voxel by voxel: θ = x, φ = -0.2; where θ + φ < 0 the ReLU leaves ψ's bias, so α = σ(0.25)."""
    x = torch.tensor([[[[1.0, -1.0], [2.0, 0.5]]]])
    g = torch.full((1, 1, 1, 1), 0.4)
    psi = 0.5 * np.array([[0.8, 0.0], [1.8, 0.3]]) + 0.25
    expected = torch.tensor(1 / (1 + np.exp(-psi)), dtype=torch.float32)[None, None]
    torch.testing.assert_close(_gate_2x2(stride=1).coefficients(x, g), expected)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("gate", ["grid", "dense", "none"])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_gradients_reach_every_parameter(dims: int, gate: str, norm: str) -> None:
    torch.manual_seed(0)
    network = AttentionUNet(dims, 2, 3, SMALL, norm=norm, gate=gate)
    outputs = network(torch.randn(2, 2, *(16,) * dims))
    sum((out**2).mean() for out in outputs).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        # A bias in front of a normalisation over the batch cancels out; everything else must learn.
        if not name.endswith("bias"):
            assert parameter.grad.abs().sum() > 0, name


def test_the_papers_variant_has_no_gate_on_the_first_skip() -> None:
    assert sorted(AttentionUNet(3, 1, 2, (4, 4, 4, 4, 4)).gates) == ["1", "2", "3"]
    assert sorted(AttentionUNet(3, 1, 2, (4, 4, 4, 4, 4), gate="dense").gates) == ["0", "1", "2", "3"]
    assert sorted(AttentionUNet(3, 1, 2, (4, 4, 4, 4, 4), gate="none").gates) == []


@pytest.mark.parametrize("size", [(16, 16, 16), (17, 5, 9), (1, 1, 1), (3, 40, 2)])
@pytest.mark.parametrize("gate", ["grid", "dense"])
def test_any_size_is_accepted(size: tuple[int, int, int], gate: str) -> None:
    network = AttentionUNet(3, 1, 2, SMALL, gate=gate).eval()
    x = torch.randn(1, 1, *size)
    with torch.no_grad():
        assert network(x).shape == (1, 2, *size)
        maps = network.attention_maps(x)
    assert list(maps) == (["level_1"] if gate == "grid" else ["level_0", "level_1"])
    for alpha in maps.values():
        assert alpha.shape == (1, 1, *size)
        assert ((alpha >= 0) & (alpha <= 1)).all()


def test_padding_is_cropped_from_where_it_was_added() -> None:
    """With identity convolutions on the finest level, the padded network is the unpadded one cut out."""
    torch.manual_seed(0)
    network = AttentionUNet(2, 1, 2, SMALL).eval()
    x = torch.randn(1, 1, 13, 10)
    padded = nn.functional.pad(x, (1, 1, 1, 2), mode="replicate")
    with torch.no_grad():
        torch.testing.assert_close(network(x), network(padded)[:, :, 1:14, 1:11])


def test_side_outputs_while_training_only() -> None:
    network = AttentionUNet(3, 1, 5, (4, 4, 4, 4))
    shapes = [tuple(out.shape) for out in network(torch.randn(1, 1, 16, 16, 24))]
    assert shapes == [(1, 5, 16, 16, 24), (1, 5, 8, 8, 12), (1, 5, 4, 4, 6)]
    assert [tuple(out.shape[2:]) for out in network(torch.randn(1, 1, 18, 16, 24))] == [(18, 16, 24)] * 3
    assert isinstance(network.eval()(torch.randn(1, 1, 16, 16, 24)), torch.Tensor)
    plain = AttentionUNet(3, 1, 5, (4, 4, 4, 4), deep_supervision=False)
    assert isinstance(plain(torch.randn(1, 1, 16, 16, 24)), torch.Tensor)


def test_coefficients_scale_what_passes_the_skip() -> None:
    """With every α driven to 0 the skip carries nothing: the output no longer depends on it."""
    torch.manual_seed(0)
    network = AttentionUNet(2, 1, 2, (4, 4), gate="dense").eval()
    x = torch.randn(1, 1, 8, 8)
    y = x + 10 * torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)  # the maxima of each 2x2 block move, too
    with torch.no_grad():
        assert not torch.allclose(network(x), network(y))
        network.gates["0"].psi.weight.zero_()
        network.gates["0"].psi.bias.fill_(-100.0)
        bottom = network.down[1](network.pool(network.down[0](x)))
        closed = network(x)
        network.down[0][0].weight.mul_(1.0)
        skipless = network.head(
            network.up[0](
                network.gates["0"].output(torch.zeros(1, 4, 8, 8)),
                nn.functional.interpolate(bottom, scale_factor=2, mode="bilinear", align_corners=False),
            )
        )
    torch.testing.assert_close(closed, skipless)


def _inflated(flat: AttentionUNet, deep: AttentionUNet) -> None:
    """Give a 3D network the weights of a 2D one, such that it treats each slice alike.

    3×3×3 kernels carry the 2D kernel in their middle; the strided 2×2×2 kernels of θ carry half of it twice.
    """
    state = {}
    for name, value in flat.state_dict().items():
        want = deep.state_dict()[name]
        if value.ndim == 4:
            thick = want.shape[-1]
            kernel = torch.zeros_like(want)
            for k in range(thick):
                kernel[..., k] = value / thick if thick == 2 else value * (k == thick // 2)
            value = kernel
        state[name] = value
    deep.load_state_dict(state)


@pytest.mark.parametrize("gate", ["grid", "dense", "none"])
def test_2d_equals_3d_on_one_slice(gate: str) -> None:
    """A single slice is padded by repeating itself, so a 3D network of inflated 2D kernels must agree with the 2D."""
    torch.manual_seed(0)
    flat, deep = AttentionUNet(2, 1, 3, SMALL, gate=gate), AttentionUNet(3, 1, 3, SMALL, gate=gate)
    flat(torch.randn(4, 1, 16, 16))  # move the running statistics off their start
    _inflated(flat, deep)
    x = torch.randn(1, 1, 13, 20)
    with torch.no_grad():
        torch.testing.assert_close(deep.eval()(x[..., None])[..., 0], flat.eval()(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_save_and_load(tmp_path, dims: int) -> None:
    size = [16, 16, 16][:dims]
    config = Config().changed(
        {"network": {"spatial_dims": dims, "channels": SMALL}, "data": {"patch_size": size}}, "test"
    )
    network = AttentionUNet.from_config(config)
    network(torch.randn(2, 1, *size))
    save_weights(tmp_path / "w.safetensors", network, config, {"steps": "7"})
    weights = load_weights(tmp_path / "w.safetensors")
    assert weights.config == config
    assert weights.card == {"steps": "7"}
    x = torch.randn(1, 1, *size)
    with torch.no_grad():
        torch.testing.assert_close(weights.network()(x), network.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("gate", ["grid", "dense"])
def test_traceable_and_onnx_exportable(tmp_path, dims: int, gate: str) -> None:
    import onnxruntime

    torch.manual_seed(0)
    network = AttentionUNet(dims, 1, 2, SMALL, gate=gate).eval()
    x = torch.randn(1, 1, *(12, 17, 9)[:dims])
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of shapes that it makes constants, and of its own age
        expected = network(x)
        traced = torch.jit.trace(network, x)
        torch.onnx.export(network, (x,), tmp_path / "net.onnx", dynamo=False, opset_version=17, input_names=["x"])
    torch.testing.assert_close(traced(x), expected)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"x": x.numpy()})
    np.testing.assert_allclose(out, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_builds_its_network(name: str) -> None:
    config = load_preset(name)
    network = AttentionUNet.from_config(config)
    assert network.in_channels == 1 + 2 * config.data.neighbour_slices
    assert network.head.out_channels == 1 + len(config.data.classes)
    assert bool(network.side_heads) == config.network.deep_supervision
    multiple = 1 << network.depth
    assert all(n % multiple == 0 for n in config.data.patch_size), "a patch that needs padding wastes work"


@pytest.mark.parametrize("dims", [2, 3])
def test_an_up_block_is_a_block_of_the_concatenation(dims: int) -> None:
    torch.manual_seed(0)
    block = UpBlock(dims, 3 + 5, 4, 2, "batch")
    a, b = torch.randn(2, 3, *[6] * dims), torch.randn(2, 5, *[6] * dims)
    plain = torch.nn.Sequential(*block)
    torch.testing.assert_close(block(a, b), plain(torch.cat([a, b], dim=1)), atol=1e-5, rtol=1e-5)
