"""The peer of `segment_cpu.py`: one CT through MONAI's own pipeline, with this package's network and weights.

    .venv/bin/python benchmarks/plain_monai.py CT OUT --weights FILE [--window-batch 1]

As MONAI's tutorials and bundles segment: LoadImaged, EnsureChannelFirstd, Orientationd, Spacingd, ScaleIntensityRanged,
a DataLoader, SlidingWindowInferer (gaussian), softmax, Invertd, AsDiscreted (argmax), SaveImaged; fp32 and torch's
defaults. OUT gets mask.nii.gz and stages.json, the seconds of each step.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from monai.data import DataLoader, Dataset, decollate_batch
from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    SaveImaged,
    ScaleIntensityRanged,
    Spacingd,
)

from pancreas_seg.network.weights import load_weights


class Stopwatch:
    """Seconds between its calls, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.perf_counter()

    def __call__(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self.last
        self.last = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("ct", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--window-batch", type=int, default=1, help="default 1, which needs least memory")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    weights = load_weights(options.weights)
    network, data, infer = weights.network(), weights.config.data, weights.config.infer
    low, high = data.window_hu
    prepare = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            Spacingd("image", pixdim=data.spacing_mm, mode="bilinear"),
            ScaleIntensityRanged("image", low, high, 0.0, 1.0, clip=True),
        ]
    )
    finish = [
        ("softmax", Activationsd("pred", softmax=True)),
        ("invert", Invertd("pred", transform=prepare, orig_keys="image", nearest_interp=False, to_tensor=True)),
        ("argmax", AsDiscreted("pred", argmax=True)),
        (
            "write",
            SaveImaged(
                "pred",
                output_dir=options.out,
                output_postfix="",
                separate_folder=False,
                output_dtype="uint8",
                resample=False,
                print_log=False,
            ),
        ),
    ]
    inferer = SlidingWindowInferer(
        data.patch_size, sw_batch_size=options.window_batch, overlap=infer.overlap, mode=infer.blend
    )
    lap = Stopwatch()
    with torch.no_grad():
        for batch in DataLoader(Dataset([{"image": str(options.ct)}], prepare), batch_size=1):
            lap("read and preprocess")
            batch["pred"] = inferer(batch["image"], network)
            lap("network")
            item = decollate_batch(batch)[0]
            for name, step in finish:
                item = step(item)
                lap(name)
    (options.out / options.ct.name).replace(options.out / "mask.nii.gz")
    (options.out / "stages.json").write_text(json.dumps(lap.seconds))


if __name__ == "__main__":
    main()
