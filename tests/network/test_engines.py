"""Engines give the same probabilities; torch in fp32 is the plain version."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pancreas_seg.config import Config
from pancreas_seg.errors import ConfigError
from pancreas_seg.network import engine as engines
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.cpus import available_cpus
from pancreas_seg.network.engine import choose_engine, make_engine
from pancreas_seg.network.torch_engine import TorchEngine
from pancreas_seg.network.weights import Weights, load_weights, save_weights

openvino_engine = pytest.importorskip("pancreas_seg.network.openvino_engine")
pytest.importorskip("openvino", reason="the extra openvino is not installed")


def _config(**network) -> Config:
    dims = network.get("spatial_dims", 3)
    return Config().changed(
        {
            "data": {"patch_size": [16] * dims, "classes": ["pancreas", "liver", "spleen"]},
            "network": {"channels": [4, 8, 12, 16], **network},
            "infer": {"precision": "fp32"},
        }
    )


def _network(config: Config, seed: int = 0) -> AttentionUNet:
    """A network whose normalisation has seen data, so that folding it changes something."""
    torch.manual_seed(seed)
    network = AttentionUNet.from_config(config)
    dims = config.network.spatial_dims
    for _ in range(2):
        network(torch.rand(2, config.in_channels, *[16] * dims) * 3 + 1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.3)
    return network.eval()


def _openvino(networks: list[AttentionUNet], config: Config) -> openvino_engine.OpenVinoEngine:
    states = [{name: value.numpy() for name, value in network.state_dict().items()} for network in networks]
    return openvino_engine.OpenVinoEngine(states, config)


def _windows(config: Config, *size: int, n: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(0, 1, (n, config.in_channels, *size)).astype(np.float32)


@pytest.mark.parametrize(
    ("network", "size"),
    [
        ({}, (16, 16, 16)),
        ({}, (16, 24, 8)),
        ({}, (13, 17, 9)),
        ({"gate": "dense"}, (16, 16, 8)),
        ({"gate": "none"}, (16, 16, 8)),
        ({"norm": "instance"}, (16, 16, 16)),
        ({"convs_per_level": 1, "channels": [4, 6]}, (10, 9, 8)),
        ({"spatial_dims": 2}, (16, 24)),
        ({"spatial_dims": 2, "gate": "dense", "norm": "instance"}, (15, 21)),
    ],
)
def test_openvino_computes_what_torch_computes(network, size) -> None:
    config = _config(**network)
    net = _network(config)
    windows = _windows(config, *size, n=2)
    expected = TorchEngine([net], config).probabilities(windows, [2, 0])
    found = _openvino([net], config).probabilities(windows, [2, 0])
    assert expected.shape == found.shape == (2, 2, *size)
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_the_probabilities_of_several_networks_are_averaged() -> None:
    config = _config()
    nets = [_network(config, seed) for seed in (1, 2, 3)]
    windows = _windows(config, 16, 16, 8)
    for make in (lambda n: TorchEngine(n, config), lambda n: _openvino(n, config)):
        alone = [make([net]).probabilities(windows, [1]) for net in nets]
        together = make(nets).probabilities(windows, [1])
        np.testing.assert_allclose(together, np.mean(alone, axis=0), atol=2e-5)
        assert np.abs(alone[0] - together).max() > 0.02


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_bf16_stays_close(name: str) -> None:
    config = _config()
    net = _network(config)
    windows = _windows(config, 16, 16, 16)
    bf16 = config.with_settings(["infer.precision=bf16"])
    engine = TorchEngine([net], bf16) if name == "torch" else _openvino([net], bf16)
    assert engine.precision == "bf16"
    exact = TorchEngine([net], config).probabilities(windows, [1, 2, 3])
    assert np.abs(engine.probabilities(windows, [1, 2, 3]) - exact).mean() < 5e-3


@pytest.mark.parametrize("threads", [1, 2])
def test_an_engine_uses_the_threads_that_it_is_given(weights, threads: int) -> None:
    before = torch.get_num_threads()
    try:
        make_engine([weights], weights.config, "torch", "cpu", threads)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    engine = make_engine([weights], weights.config, "openvino", "cpu", threads)
    engine.probabilities(_windows(weights.config, 16, 16, 16), [1])
    (request,) = engine._compiled.values()
    assert request.get_compiled_model().get_property("INFERENCE_NUM_THREADS") == threads


def test_the_same_windows_give_the_same_bits_in_any_order() -> None:
    config = _config()
    engine = _openvino([_network(config)], config)
    a, b = _windows(config, 16, 16, 16), _windows(config, 8, 16, 16)
    first = engine.probabilities(a, [1])
    engine.probabilities(b, [1])
    np.testing.assert_array_equal(engine.probabilities(a, [1]), first)


def test_torch_can_compile(monkeypatch) -> None:
    """The setting reaches torch.compile, which is not run here: it takes a minute."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    net = _network(_config())
    TorchEngine([net], _config())
    assert compiled == []
    TorchEngine([net], _config().with_settings(["infer.torch_compile=true"]))
    assert compiled == [net]


@pytest.fixture
def weights(tmp_path) -> Weights:
    save_weights(tmp_path / "a.safetensors", _network(_config()), _config())
    return load_weights(tmp_path / "a.safetensors")


def test_auto_takes_openvino_on_this_cpu(weights, monkeypatch) -> None:
    monkeypatch.setattr(engines, "has_cuda_driver", lambda: False)
    monkeypatch.setattr(engines.platform, "machine", lambda: "x86_64")
    engine = make_engine([weights], weights.config)
    assert engine.name == "openvino"
    assert make_engine([weights], weights.config, "torch").name == "torch"
    np.testing.assert_allclose(
        engine.probabilities(_windows(weights.config, 16, 16, 16), [1]),
        make_engine([weights], weights.config, "torch").probabilities(_windows(weights.config, 16, 16, 16), [1]),
        atol=2e-5,
    )


def test_auto_takes_torch_where_openvino_is_not_the_best(monkeypatch) -> None:
    monkeypatch.setattr(engines, "has_cuda_driver", lambda: True)
    assert choose_engine("auto", "auto")[0] == "torch"
    assert choose_engine("auto", "cuda")[0] == "torch"
    monkeypatch.setattr(engines, "has_cuda_driver", lambda: False)
    monkeypatch.setattr(engines.platform, "machine", lambda: "arm64")
    assert choose_engine("auto", "cpu")[0] == "torch"
    monkeypatch.setattr(engines.platform, "machine", lambda: "AMD64")
    assert choose_engine("auto", "cpu")[0] == "openvino"
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda _: None)
    assert choose_engine("auto", "cpu")[0] == "torch"
    with pytest.raises(ConfigError, match=r"not installed.*pip install"):
        choose_engine("openvino", "cpu")


def test_openvino_is_for_the_cpu() -> None:
    with pytest.raises(ConfigError, match=r"config\.engine"):
        choose_engine("openvino", "cuda")
    with pytest.raises(ConfigError, match=r"config\.precision"):
        _openvino([_network(_config())], _config().with_settings(["infer.precision=fp16"]))


def test_auto_falls_back_when_openvino_fails(weights, monkeypatch, caplog) -> None:
    monkeypatch.setattr(engines, "choose_engine", lambda *_: ("openvino", ""))

    def fail(*_: object) -> None:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(openvino_engine, "OpenVinoEngine", fail)
    with caplog.at_level(logging.WARNING):
        assert make_engine([weights], weights.config).name == "torch"
    assert "no such instruction" in caplog.text
    with pytest.raises(RuntimeError):
        make_engine([weights], weights.config, "openvino")


def test_openvino_needs_neither_torch_nor_its_telemetry(weights) -> None:
    code = (
        "import sys; from pancreas_seg.network.weights import load_weights; "
        "from pancreas_seg.network.engine import make_engine; "
        f"w = load_weights({str(weights.path)!r}); make_engine([w], w.config, 'openvino', 'cpu'); "
        "print(sorted({'torch', 'monai', 'openvino_telemetry'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 4),
        ({"cpu.max": "max 100000\n"}, 4),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "900000 100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
    ],
)
def test_a_containers_share_of_the_cpus_counts(tmp_path, monkeypatch, files, cpus):
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: {0, 1, 2, 3})
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert available_cpus(tmp_path) == cpus
