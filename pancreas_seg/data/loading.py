"""Training samples: 3D patches or 2D slices, drawn reproducibly from preprocessed volumes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, Dataset, PersistentDataset
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import trange

from pancreas_seg._version import __version__
from pancreas_seg.config import Config
from pancreas_seg.data.augment import MARGIN, augmentation
from pancreas_seg.data.manifest import Case
from pancreas_seg.data.transforms import CENTRES, IMAGE, LABEL, LABELLED, training_volume
from pancreas_seg.errors import ManifestError, PancreasSegError


class VolumeDataset(TorchDataset[dict[str, Tensor]]):
    """Preprocessed volumes of labelled cases, kept as ``data.cache`` says.

    Items are ``{"image": (1, I, J, K) float16, "label": (1, I, J, K) uint8, "centres": (n, 3) int16, "labelled":
    (1 + classes,) bool}`` on the model grid. The key of a cached item holds the state of the case's files and the
    configuration of the data, so a changed file or configuration is read anew. With a cache all cases are read when the
    data set is made, so that a bad file shows before training starts.

    Parameters
    ----------
    cases : sequence of Case
    config : Config
    cache_dir : Path, optional
        For ``data.cache = "disk"``.
    show_progress : bool
        Whether to show a progress bar on stderr while cases are read.

    Raises
    ------
    ManifestError
        If a case has no label.
    InputError
        If a file is unsound.
    """

    def __init__(
        self, cases: Sequence[Case], config: Config, cache_dir: Path | None = None, show_progress: bool = False
    ) -> None:
        items = [_item(case, config) for case in cases]
        transform = training_volume(config)
        with _own_errors():
            if config.data.cache == "memory":
                # Cached on first access, in this thread: MONAI's pool can abort the process when a case is refused.
                self.inner = CacheDataset(items, transform, progress=False, copy_cache=False, runtime_cache=True)
            elif config.data.cache == "disk":
                if cache_dir is None:
                    raise ValueError('data.cache = "disk" needs a folder')
                self.inner = PersistentDataset(items, transform, cache_dir)
            else:
                self.inner = Dataset(items, transform)
            if config.data.cache != "none":
                for index in trange(len(items), desc="Loading dataset", disable=not show_progress):
                    self.inner[index]

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        with _own_errors():
            volume: dict[str, Tensor] = self.inner[index]
            return volume


@contextmanager
def _own_errors() -> Iterator[None]:
    """Let this package's errors through as they were raised; MONAI wraps what its transforms raise."""
    try:
        yield
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, PancreasSegError):
                raise cause from None
            cause = cause.__cause__
        raise


def cases_fingerprint(training: Sequence[Case], validation: Sequence[Case]) -> str:
    """SHA-256 that tells which cases, with which sizes of files, train and which validate."""
    parts = [
        [
            [case.case_id, *(path.stat().st_size for path in (case.image, case.label) if path and path.exists())]
            for case in cases
        ]
        for cases in (training, validation)
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _item(case: Case, config: Config) -> dict[str, Any]:
    if case.label is None:
        raise ManifestError(
            "manifest.no_label",
            where=case.case_id,
            found="a case without a label",
            expected="a label map for each training case",
            advice="Move the case to `test`, or give its label.",
        )
    state = [_file_state(path) for path in (case.image, case.label)]
    return {
        "case_id": case.case_id,
        IMAGE: str(case.image),
        LABEL: str(case.label),
        "label_names": dict(case.labels),
        "made_from": [*state, config.fingerprint("data"), __version__],
    }


def _file_state(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return "missing"
    return f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ino}"


class SampleDataset(TorchDataset[dict[str, Tensor]]):
    """Random samples of one round of training.

    Sample i of round r depends on the seed, r and i alone, never on what was drawn before: a resumed training, or one
    with another number of workers, sees the same samples. Each pass over the cases takes every case once.

    Parameters
    ----------
    volumes : sequence of volumes
        As of a VolumeDataset.
    config : Config
    length : int
        Samples of a round.
    rank, processes : int
        Of several processes that train together, each gives batches of its own: those that one process would give with
        that many times the batch size.
    """

    def __init__(self, volumes: VolumeDataset, config: Config, length: int, rank: int = 0, processes: int = 1) -> None:
        self.volumes = volumes
        self.config = config
        self.length = length
        self.rank = rank
        self.processes = processes
        self.round = torch.zeros((), dtype=torch.int64).share_memory_()
        self.augmentation = augmentation(config)

    def set_round(self, number: int) -> None:
        """Choose the round; worker processes follow."""
        self.round.fill_(number)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """``{"image": (C, *patch) float32, "label": (1, *patch) uint8, "labelled": (1 + classes,) bool}``."""
        position = self._position(index)
        volume = self.volumes[self._case_at(position)]
        rng = np.random.default_rng([self.config.train.seed, 1, position])
        sample = cut_sample(volume, self.config, rng)
        self.augmentation.set_random_state(seed=int(rng.integers(2**31)))
        out = self.augmentation(sample)
        # Plain tensors: on MetaTensors a training step takes a third longer (in-place ReLU on views).
        image, label = (convert_to_tensor(out[key], track_meta=False) for key in (IMAGE, LABEL))
        return {IMAGE: image.float().contiguous(), LABEL: label, LABELLED: volume[LABELLED]}

    def _position(self, index: int) -> int:
        """Place of a sample among those of all rounds and processes."""
        batch = self.config.train.batch_size
        step, place = divmod(int(self.round) * self.length + index, batch)
        return (step * self.processes + self.rank) * batch + place

    def _case_at(self, position: int) -> int:
        turn, place = divmod(position, len(self.volumes))
        order = np.random.default_rng([self.config.train.seed, 0, turn]).permutation(len(self.volumes))
        return int(order[place])


def cut_sample(volume: dict[str, Tensor], config: Config, rng: np.random.Generator) -> dict[str, Tensor]:
    """Cut a random block, larger than the patch by the margin that deforming needs, from a preprocessed volume.

    A share ``train.pancreas_fraction`` of the samples is placed so that a random voxel of the first class lies in the
    patch's inner half (2D: in its slice too); the others anywhere. Where the block leaves the volume, the image
    continues with its lower bound (air) and the label with background.

    Returns
    -------
    dict
        "image" (C, *S) float32 and "label" (1, *S) uint8, with S 3D, or 2D with the neighbouring slices as channels.
    """
    data, size = config.data, config.data.patch_size
    slices = config.network.spatial_dims == 2
    depth = 1 + 2 * data.neighbour_slices
    block = [math.ceil(n * MARGIN) for n in size] + ([depth] if slices else [])
    inner = [n // 4 for n in size] + ([0] if slices else [])
    shape = volume[IMAGE].shape[1:]
    centres = volume[CENTRES]
    if len(centres) and rng.random() < config.train.pancreas_fraction:
        chosen = centres[int(rng.integers(len(centres)))].numpy()
        centre = [int(c) + int(rng.integers(-j, j + 1)) for c, j in zip(chosen, inner, strict=True)]
    else:
        centre = [_anywhere(int(n), want, rng) for n, want in zip(shape, [*size, 1][:3], strict=True)]
    start = [c - n // 2 for c, n in zip(centre, block, strict=True)]
    image = _block(volume[IMAGE], start, block).float()
    label = _block(volume[LABEL], start, block)
    if slices:
        return {IMAGE: image[0].movedim(-1, 0), LABEL: label[..., data.neighbour_slices]}
    return {IMAGE: image, LABEL: label}


def _anywhere(n: int, want: int, rng: np.random.Generator) -> int:
    """A centre along one axis such that the patch stays inside where the volume is long enough."""
    low, high = want // 2, n - (want - want // 2)
    return int(rng.integers(low, high + 1)) if high >= low else n // 2


def _block(volume: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """(1, *size) from (1, I, J, K), zeros where the block leaves the volume."""
    inside = [
        slice(max(0, s), max(0, min(int(n), s + d))) for s, d, n in zip(start, size, volume.shape[1:], strict=True)
    ]
    part = volume[(slice(None), *inside)]
    padding: list[int] = []
    for s, d, part_slice in reversed(list(zip(start, size, inside, strict=True))):
        before = max(0, min(-s, d))
        padding += [before, d - before - max(0, part_slice.stop - part_slice.start)]
    return F.pad(part, padding) if any(padding) else part


def sample_loader(dataset: SampleDataset, config: Config) -> DataLoader[dict[str, Tensor]]:
    """Batches of a round, in order."""
    workers = config.train.workers
    return DataLoader(
        dataset,
        batch_size=config.train.batch_size,
        shuffle=False,
        num_workers=workers,
        persistent_workers=workers > 0,
        drop_last=True,
    )
