"""The peer of `peer_nnunet.py`, for an environment with nnunetv2: a network of random weights, and one CT through it.

    python plain_nnunet.py make MODEL --plan 3mm|1.5mm
    python plain_nnunet.py predict MODEL CT MASK

`predict` does what TotalSegmentator's `totalsegmentator/nnunet.py` does (github.com/wasserth/TotalSegmentator): the CT
in canonical orientation, to the plan's spacing with cubic splines (`resampling.py`: scipy's zoom), nnUNetPredictor
without mirroring on as many threads as there are cores, and the label map to the CT's grid with order 0. Unlike it, all
stays in one process and in memory, which spares the peer temporary files and worker processes.

Plans: patch sizes and networks are those of TotalSegmentator's tasks 297 (3 mm, 117 classes) and 291 (1.5 mm, 24 organ
classes; its 1.5 mm mode runs four more such networks), `nnUNetPlans__3d_fullres`, PlainConvUNet. From these patch sizes
and spacings nnU-Net's own planner (`get_pool_and_conv_props`) makes five and six levels. TotalSegmentator moves windows
by 0.5 of a patch at 3 mm and by 0.8 at 1.5 mm.
"""

import argparse
import json
import multiprocessing
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy import ndimage

PLANS = {
    "3mm": {
        "spacing_mm": 3.0,
        "patch": [112, 112, 128],
        "features": [32, 64, 128, 256, 320],
        "classes": 117,
        "step": 0.5,
    },
    "1.5mm": {
        "spacing_mm": 1.5,
        "patch": [128, 128, 128],
        "features": [32, 64, 128, 256, 320, 320],
        "classes": 24,
        "step": 0.8,
    },
}
CONFIGURATION = "3d_fullres"


def plans_json(spacing_mm: float, patch: list[int], features: list[int]) -> dict:
    """A plan in nnU-Net's form."""
    levels = len(features)
    resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    for_labels = {**resampling, "is_seg": True, "order": 1}
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": levels,
            "features_per_stage": features,
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * levels,
            "strides": [[1, 1, 1], *[[2, 2, 2]] * (levels - 1)],
            "n_conv_per_stage": [2] * levels,
            "n_conv_per_stage_decoder": [2] * (levels - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "data_identifier": f"nnUNetPlans_{CONFIGURATION}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": patch,
        "median_image_size_in_voxels": patch,
        "spacing": [spacing_mm] * 3,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": for_labels,
        "resampling_fn_probabilities_kwargs": {**resampling, "order": 1},
        "architecture": architecture,
        "batch_dice": False,
    }
    intensities = {"mean": 0.0, "median": 0.0, "std": 300.0, "min": -1024.0, "max": 3071.0}
    intensities |= {"percentile_00_5": -1000.0, "percentile_99_5": 1000.0}
    return {
        "dataset_name": "Dataset001_Random",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [spacing_mm] * 3,
        "original_median_shape_after_transp": patch,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities},
    }


def make(model: Path, plan: str) -> None:
    """Write a model folder as nnU-Net's trainer leaves one, with random weights."""
    wanted = PLANS[plan]
    labels = {"background": 0} | {f"class_{n}": n for n in range(1, wanted["classes"] + 1)}
    dataset = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    plans = plans_json(wanted["spacing_mm"], wanted["patch"], wanted["features"])
    manager = PlansManager(plans)
    torch.manual_seed(0)
    network = nnUNetTrainer.build_network_architecture(
        manager, manager.get_configuration(CONFIGURATION), 1, len(labels), enable_deep_supervision=True
    )
    (model / "fold_0").mkdir(parents=True, exist_ok=True)
    (model / "dataset.json").write_text(json.dumps(dataset))
    (model / "plans.json").write_text(json.dumps(plans))
    (model / "step.json").write_text(json.dumps(wanted["step"]))
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": CONFIGURATION},
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(checkpoint, model / "fold_0" / "checkpoint_final.pth")


def predict(model: Path, ct: Path, mask: Path) -> None:
    """Segment a CT as TotalSegmentator does, and write the seconds of each step beside the mask."""
    torch.set_num_threads(multiprocessing.cpu_count())
    seconds, last = {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[name], last = now - last, now

    spacing_mm = json.loads((model / "plans.json").read_text())["configurations"][CONFIGURATION]["spacing"]
    predictor = nnUNetPredictor(
        tile_step_size=json.loads((model / "step.json").read_text()),
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=True,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(str(model), use_folds=(0,))
    lap("load network")
    original = nib.load(ct)
    image = nib.as_closest_canonical(original)
    values = image.get_fdata()
    lap("read")
    small = ndimage.zoom(values, np.asarray(image.header.get_zooms()[:3]) / spacing_mm, order=3).astype(np.int32)
    lap("resample")
    array = small.transpose(2, 1, 0)[None].astype(np.float32)
    labels = predictor.predict_single_npy_array(array, {"spacing": spacing_mm}).transpose(2, 1, 0)
    lap("nnU-Net")
    restored = ndimage.zoom(labels, np.asarray(values.shape) / labels.shape, order=0).astype(np.uint8)
    lap("restore")
    turned = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.io_orientation(original.affine))
    out = nib.Nifti1Image(nib.apply_orientation(restored, turned), original.affine)
    nib.save(out, mask)
    lap("write")
    mask.with_name("seconds.json").write_text(json.dumps({"timings_s": seconds}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    verbs = parser.add_subparsers(required=True)
    making = verbs.add_parser("make")
    making.add_argument("model", type=Path)
    making.add_argument("--plan", choices=PLANS, required=True)
    making.set_defaults(run=lambda options: make(options.model, options.plan))
    predicting = verbs.add_parser("predict")
    for name in ("model", "ct", "mask"):
        predicting.add_argument(name, type=Path)
    predicting.set_defaults(run=lambda options: predict(options.model, options.ct, options.mask))
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
