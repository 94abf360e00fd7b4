from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pancreas_seg.config import Config
from pancreas_seg.data.loading import SampleDataset, VolumeDataset, cut_sample, sample_loader
from pancreas_seg.data.manifest import Case
from pancreas_seg.data.transforms import CENTRES, IMAGE, LABEL
from pancreas_seg.errors import InputError, ManifestError


def _case(write_nifti, n: int, seed: int | None = None) -> Case:
    rng = np.random.default_rng(n if seed is None else seed)
    array = rng.integers(-100, 200, (24, 20, 16)).astype(np.int16)
    label = np.zeros(array.shape, np.uint8)
    label[8:12, 8:12, 6:9] = 1
    image = write_nifti(array, name=f"ct{n}.nii.gz")
    return Case(
        case_id=f"case{n}",
        patient_id=f"case{n}",
        image=image,
        label=write_nifti(label, name=f"label{n}.nii.gz"),
        labels={1: "pancreas"},
        fold=None,
        split="training",
        image_sha256=None,
        label_sha256=None,
    )


CONFIG = Config().changed({"data": {"spacing_mm": [2.0, 2.0, 3.0], "patch_size": [8, 8, 8]}})


def _mean(dataset) -> float:
    return float(dataset[0][IMAGE].float().mean())


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_a_changed_file_or_configuration_is_never_served_from_a_cache(write_nifti, tmp_path, cache: str) -> None:
    config = CONFIG.with_settings([f"data.cache={cache}"])
    case = _case(write_nifti, 0)
    first = _mean(VolumeDataset([case], config, tmp_path / "cache"))
    assert _mean(VolumeDataset([case], config, tmp_path / "cache")) == first
    window = config.with_settings(["data.window_hu=[-100, 100]"])
    assert _mean(VolumeDataset([case], window, tmp_path / "cache")) != first
    stat = Path(case.image).stat()
    _case(write_nifti, 0, seed=99)
    os.utime(case.image, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert _mean(VolumeDataset([case], config, tmp_path / "cache")) != first


def test_the_disk_cache_is_used(write_nifti, tmp_path) -> None:
    config = CONFIG.with_settings(["data.cache=disk"])
    case = _case(write_nifti, 0)
    first = VolumeDataset([case], config, tmp_path / "cache")[0]
    (file,) = (tmp_path / "cache").glob("*.pt")
    torch.save({**first, IMAGE: first[IMAGE] * 0}, file)
    assert _mean(VolumeDataset([case], config, tmp_path / "cache")) == 0.0


def test_a_training_case_needs_a_label(write_nifti) -> None:
    case = _case(write_nifti, 0)
    with pytest.raises(ManifestError, match="manifest.no_label"):
        VolumeDataset([Case(**{**case.__dict__, "label": None})], CONFIG)


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_a_bad_file_is_refused_by_name_and_stays_out_of_the_log(write_nifti, tmp_path, cache: str, caplog) -> None:
    case = _case(write_nifti, 0)
    Path(case.image).write_bytes(b"no nifti")
    config = CONFIG.with_settings([f"data.cache={cache}"])
    with pytest.raises(InputError, match="input.not_nifti"):
        VolumeDataset([case], config, tmp_path / "cache")[0]
    assert str(tmp_path) not in caplog.text


def _volume() -> dict[str, torch.Tensor]:
    image = torch.arange(24.0 * 20 * 16).reshape(1, 24, 20, 16) / 8192 + 0.1
    label = torch.zeros(1, 24, 20, 16, dtype=torch.uint8)
    label[0, 20:23, 2:4, 10:12] = 1
    return {IMAGE: image, LABEL: label, CENTRES: torch.nonzero(label[0] == 1).to(torch.int16)}


@pytest.mark.parametrize(("fraction", "low", "high"), [(1.0, 1.0, 1.0), (0.5, 0.45, 0.75), (0.0, 0.0, 0.35)])
def test_samples_are_balanced_between_pancreas_and_elsewhere(fraction: float, low: float, high: float) -> None:
    config = CONFIG.with_settings([f"train.pancreas_fraction={fraction}"])
    rng = np.random.default_rng(0)
    hits = [bool((cut_sample(_volume(), config, rng)[LABEL] == 1).any()) for _ in range(200)]
    assert low <= np.mean(hits) <= high


def test_a_sample_is_a_true_cut_of_the_volume_with_air_outside() -> None:
    volume = _volume()
    for seed in range(50):
        image = cut_sample(volume, CONFIG, np.random.default_rng(seed))[IMAGE]
        assert image.shape == (1, 10, 10, 10)
        inside = image[0][image[0] > 0]
        first = torch.nonzero(volume[IMAGE][0] == inside.min())[0]
        last = torch.nonzero(volume[IMAGE][0] == inside.max())[0]
        block = volume[IMAGE][0][tuple(slice(int(a), int(b) + 1) for a, b in zip(first, last, strict=True))]
        torch.testing.assert_close(inside, block.flatten())


@pytest.mark.parametrize("neighbours", [0, 2])
def test_slices_have_their_neighbours_as_channels(neighbours: int) -> None:
    config = Config().changed(
        {"network": {"spatial_dims": 2}, "data": {"patch_size": [8, 8], "neighbour_slices": neighbours}}
    )
    config = config.with_settings(["train.pancreas_fraction=1.0"])
    for seed in range(20):
        sample = cut_sample(_volume(), config, np.random.default_rng(seed))
        assert sample[IMAGE].shape == (1 + 2 * neighbours, 10, 10)
        assert sample[LABEL].shape == (1, 10, 10)
        assert (sample[LABEL] == 1).any()  # the slice itself holds pancreas
        step = sample[IMAGE].diff(dim=0)
        inside = (sample[IMAGE][:-1] > 0) & (sample[IMAGE][1:] > 0)
        torch.testing.assert_close(step[inside], torch.full_like(step[inside], 1 / 8192), atol=1e-6, rtol=0)


def test_samples_depend_on_seed_and_place_alone(write_nifti) -> None:
    cases = [_case(write_nifti, n) for n in range(3)]
    dataset = SampleDataset(VolumeDataset(cases, CONFIG), CONFIG, 6)
    first = [dataset[n] for n in range(6)]
    again = [dataset[n] for n in reversed(range(6))][::-1]
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a[IMAGE], b[IMAGE])
        assert torch.equal(a[LABEL], b[LABEL])
    dataset.set_round(1)
    assert not torch.equal(dataset[0][IMAGE], first[0][IMAGE])
    other = CONFIG.with_settings(["train.seed=1"])
    assert not torch.equal(SampleDataset(dataset.volumes, other, 6)[0][IMAGE], first[0][IMAGE])
    assert first[0][IMAGE].shape == (1, 8, 8, 8)


@pytest.mark.filterwarnings("ignore:This process")  # of fork in a process with threads
def test_workers_give_the_same_samples_in_every_round(write_nifti) -> None:
    cases = [_case(write_nifti, n) for n in range(2)]
    batches = {}
    for workers in (0, 2):
        config = CONFIG.with_settings([f"train.workers={workers}"])
        dataset = SampleDataset(VolumeDataset(cases, config), config, 4)
        loader = sample_loader(dataset, config)
        batches[workers] = []
        for number in (0, 1):
            dataset.set_round(number)
            batches[workers] += [batch[IMAGE] for batch in loader]
    assert len(batches[0]) == 4
    assert all(torch.equal(a, b) for a, b in zip(batches[0], batches[2], strict=True))


def test_each_pass_takes_every_case_once(write_nifti) -> None:
    dataset = SampleDataset([None] * 5, CONFIG, 10)  # type: ignore[arg-type]
    order = [dataset._case_at(n) for n in range(20)]
    assert all(sorted(order[n : n + 5]) == list(range(5)) for n in (0, 5, 10, 15))
    assert order[:5] != order[5:10] or order[5:10] != order[10:15]


def test_samples_are_plain_tensors(write_nifti) -> None:
    """MetaTensors would slow the training step down by a third."""
    config = CONFIG.changed({"augment": {"noise_probability": 1.0, "mirror_probability": 1.0}})
    sample = SampleDataset(VolumeDataset([_case(write_nifti, 0)], config), config, 1)[0]
    assert {type(value) for value in sample.values()} == {torch.Tensor}
