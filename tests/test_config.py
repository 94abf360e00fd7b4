from __future__ import annotations

import pytest

from pancreas_seg.config import Config, load_config, load_preset, preset_names
from pancreas_seg.errors import ConfigError


@pytest.mark.parametrize("name", preset_names())
def test_presets_survive_their_text_form(name: str) -> None:
    config = load_preset(name)
    assert Config.from_toml(config.to_toml()) == config
    assert Config.from_toml(config.to_toml()).fingerprint() == config.fingerprint()


def test_presets_are_those_of_the_plan() -> None:
    assert preset_names() == [
        "default",
        "fast",
        "notebook",
        "paper",
        "slices",
        "starter-coarse",
        "starter-fine",
        "tiny",
    ]
    assert load_preset("default") == Config()


def test_settings() -> None:
    config = Config().with_settings(["train.steps=5", "network.gate=dense", 'data.classes=["pancreas", "liver"]'])
    assert (config.train.steps, config.network.gate, config.data.classes) == (5, "dense", ("pancreas", "liver"))
    assert config.with_settings(["data.merge={pancreas = ['a', 'b']}"]).data.merge == {"pancreas": ("a", "b")}
    assert config.with_settings(["train.learning_rate=1"]).train.learning_rate == 1.0


def test_fingerprint_tells_what_changed() -> None:
    config, other = Config(), Config().with_settings(["infer.overlap=0.25"])
    assert config.fingerprint() != other.fingerprint()
    assert config.fingerprint("data", "network") == other.fingerprint("data", "network")


@pytest.mark.parametrize(
    ("setting", "code"),
    [
        ("train.stepz=5", "config.unknown_key"),
        ("trian.steps=5", "config.unknown_key"),
        ("train.steps", "config.bad_setting"),
        ("steps=5", "config.bad_setting"),
        ("train.steps=many", "config.wrong_value"),
        ("train.steps=1.5", "config.wrong_value"),
        ("train.steps=true", "config.wrong_value"),
        ("train.steps=0", "config.wrong_value"),
        ("network.gate=open", "config.wrong_value"),
        ("network.spatial_dims=4", "config.wrong_value"),
        ("network.spatial_dims=2", "config.wrong_value"),  # the patch has three sides
        ("data.spacing_mm=[1, 1]", "config.wrong_value"),
        ("data.spacing_mm=[1, 0, 1]", "config.wrong_value"),
        ("data.window_hu=[200, 100]", "config.wrong_value"),
        ("data.classes=[]", "config.wrong_value"),
        ("data.neighbour_slices=1", "config.wrong_value"),
        ('infer.output=["liver"]', "config.wrong_value"),
        ("infer.overlap=1.0", "config.wrong_value"),
        ('infer.output=["pancreas", "pancreas"]', "config.wrong_value"),
        ('data.merge={panc = ["liver"]}', "config.wrong_value"),
        ("train.seed=-1", "config.wrong_value"),
        ("train.learning_rate=inf", "config.wrong_value"),
        ("data.spacing_mm=[8.0, nan, 8.0]", "config.wrong_value"),
        ("augment.noise_probability=2.0", "config.wrong_value"),
        ("augment.noise_hu=-5.0", "config.wrong_value"),
        ("train.supervision_weights=[-1.0, 3.0]", "config.wrong_value"),
        ("data.merge=3", "config.wrong_value"),
    ],
)
def test_wrong_settings_are_refused(setting: str, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config().with_settings([setting])
    assert caught.value.code == code


def test_a_misspelt_key_gets_a_hint() -> None:
    with pytest.raises(ConfigError, match=r"train\.steps perhaps"):
        Config().with_settings(["train.step=5"])


def test_files(tmp_path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[train]\nsteps = 3\n")
    assert load_config(path).train.steps == 3
    path.write_text("[train\n")
    with pytest.raises(ConfigError, match="config.not_toml"):
        load_config(path)
    with pytest.raises(ConfigError, match="config.unreadable"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="config.unknown_preset"):
        load_preset("none")
