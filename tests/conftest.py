"""Fixtures that several rooms need."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _default_sigchld() -> Iterator[None]:
    """Take back the handler that torch's DataLoader sets for ended children.

    On CPUs with AMX, once OpenVINO has run in the same process, the kernel ends the process when it calls that handler.
    """
    yield
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real CTs; the test is skipped where it is missing."""
    folder = Path(os.environ.get("PANCREAS_SEG_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no folder with real CTs: set PANCREAS_SEG_REAL_DATA")
    return folder


class ThresholdNetwork(nn.Module):
    """An identity in disguise: foreground wherever the input is above a half."""

    def forward(self, x: Tensor) -> Tensor:
        logit = (x[:, :1] - 0.5) * 1e4
        return torch.cat([-logit, logit], dim=1)


@pytest.fixture
def threshold_network() -> nn.Module:
    return ThresholdNetwork()


@pytest.fixture
def write_nifti(tmp_path: Path) -> Callable[..., Path]:
    """Write an array with an affine by nibabel, qform and sform set; the path."""

    def write(
        array: NDArray[np.generic],
        affine: NDArray[np.float64] | None = None,
        name: str = "ct.nii.gz",
        codes: tuple[int, int] = (1, 1),
    ) -> Path:
        affine = np.diag([2.0, 2.0, 3.0, 1.0]) if affine is None else affine
        image = nib.Nifti1Image(array, affine, dtype=array.dtype)
        image.set_qform(affine, code=codes[0])
        image.set_sform(affine, code=codes[1])
        image.header.set_xyzt_units("mm")
        path = tmp_path / name
        nib.save(image, path)
        return path

    return write


def oblique_affine(spacing: tuple[float, float, float], origin: tuple[float, float, float]) -> NDArray[np.float64]:
    """RAS axes turned by 11, -7 and 5 degrees about x, y and z."""
    a, b, c = np.deg2rad([11.0, -7.0, 5.0])
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = z @ y @ x @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


Reorient = Callable[[NDArray[np.generic], NDArray[np.float64]], tuple[NDArray[np.generic], NDArray[np.float64]]]


def _reorientation(order: tuple[int, ...], flips: tuple[bool, ...]) -> Reorient:
    def apply(
        array: NDArray[np.generic], affine: NDArray[np.float64]
    ) -> tuple[NDArray[np.generic], NDArray[np.float64]]:
        new = affine.copy()
        for axis, flip in enumerate(flips):
            if flip:
                new[:3, 3] += new[:3, axis] * (array.shape[axis] - 1)
                new[:3, axis] *= -1
                array = np.flip(array, axis)
        new[:3, :3] = new[:3, list(order)]
        return np.ascontiguousarray(array.transpose(order)), new

    return apply


ANY_ORGAN = {
    "volume_ml": [0.0, 1e9],
    "mean_hu": [-5000.0, 5000.0],
    "agreement": 0.0,
    "probability": 0.0,
    "stability_shift_hu": 0.0,
    "tissue_share": 0.0,
}
"""Settings of the verdict for synthetic organs, which are smaller and brighter than a pancreas."""

ORIENTATIONS = [
    pytest.param(_reorientation(order, flips), id="".join(map(str, order)) + "".join("-+"[not f] for f in flips))
    for order in permutations(range(3))
    for flips in product((False, True), repeat=3)
]


@pytest.fixture(params=ORIENTATIONS)
def reorient(request: pytest.FixtureRequest) -> Reorient:
    """Each of the 48 ways to store the same volume: permuted and flipped axes, the same voxels in the same places."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def oblique_volume() -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """A non-cubic, non-isotropic, oblique random volume in HU with an asymmetric bright body, and its affine."""
    rng = np.random.default_rng(7)
    array = rng.integers(-1000, 0, (11, 8, 6)).astype(np.int16)
    array[2:7, 1:5, 1:4] = 200
    array[6:9, 4:6, 3:5] = 150
    return array, oblique_affine((0.9, 1.7, 2.6), (12.5, -31.0, 108.0))


@pytest.fixture
def cohort(write_nifti, tmp_path):
    """Three cases with a bright block on noise; folds 0, 1, 1."""
    training = []
    for n in range(3):
        rng = np.random.default_rng(n)
        array = rng.normal(-60, 15, (24, 24, 12)).astype(np.int16)
        label = np.zeros(array.shape, np.uint8)
        corner = rng.integers(4, 10, 3) // (1, 1, 2)
        label[tuple(slice(c, c + d) for c, d in zip(corner, (9, 8, 5), strict=True))] = 1
        image = write_nifti(np.where(label, 120, array).astype(np.int16), name=f"ct{n}.nii.gz")
        mask = write_nifti(label, name=f"label{n}.nii.gz")
        training.append({"case_id": f"c{n}", "image": image.name, "label": mask.name, "fold": min(n, 1)})
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"labels": {"0": "background", "1": "pancreas"}, "training": training}))
    return path
