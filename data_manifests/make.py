"""Write the manifests of this folder from the published case lists.

    python data_manifests/make.py --msd-dataset DATASET.json --msd-folds FOLDS.json \
        --nih-split SPLIT.json --nih-folds FOLDS.json [--out FOLDER]

README.md says where the lists come from. BTCV has no list: its 30 training and 20 test numbers are below.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pancreas_seg.data.manifest_build import manifest_text
from pancreas_seg.data.manifest_published import BTCV, MSD, NIH, Published
from pancreas_seg.io import replacing

BTCV_TRAINING = (*range(1, 11), *range(21, 41))
BTCV_TEST = range(61, 81)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the manifests from the published case lists.")
    parser.add_argument("--msd-dataset", type=_json, required=True, metavar="JSON", help="with `training` and `test`")
    parser.add_argument("--msd-folds", type=_json, required=True, metavar="JSON", help='{"0": {"validation": [...]}}')
    parser.add_argument("--nih-split", type=_json, required=True, metavar="JSON", help="with `train` and `test`")
    parser.add_argument("--nih-folds", type=_json, required=True, metavar="JSON", help="with `folds_test`")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="FOLDER")
    options = parser.parse_args(arguments)
    documents = {
        "msd_task07_pancreas.json": msd(options.msd_dataset, options.msd_folds),
        "nih_pancreas_ct.json": nih(options.nih_split, options.nih_folds),
        "btcv.json": btcv(),
    }
    for name, document in documents.items():
        with replacing(options.out / name) as temporary:
            temporary.write_text(manifest_text(document), encoding="utf-8")
        print(f"{name}: {document['numTraining']} training, {document['numTest']} test")


def msd(dataset: Mapping[str, Any], folds: Mapping[str, Any]) -> dict[str, Any]:
    fold_of = {_number(name): int(fold) for fold, parts in folds.items() for name in parts["validation"]}
    training = [
        {**_case(MSD, n), "image": image, "label": label, "fold": fold_of.pop(n)}
        for n, image, label in sorted((_number(e["image"]), e["image"], e["label"]) for e in dataset["training"])
    ]
    if fold_of:
        raise SystemExit(f"the folds name cases that are not in the training list: {sorted(fold_of)}")
    test = [
        {**_case(MSD, n), "image": image} for n, image in sorted((_number(image), image) for image in dataset["test"])
    ]
    return _document(MSD, training, test)


def nih(split: Mapping[str, Any], folds: Mapping[str, Any]) -> dict[str, Any]:
    list_of = {
        _number(name): name_of for key, name_of in (("train", "training"), ("test", "test")) for name in split[key]
    }
    fold_of = {_number(name): int(fold) for fold, names in folds["folds_test"].items() for name in names}
    if set(list_of) != set(fold_of):
        raise SystemExit(f"the split and the folds differ in the cases {sorted(set(list_of) ^ set(fold_of))}")
    training, withdrawn = [], []
    for n in sorted(fold_of):
        schemes = {"fold": fold_of[n], "splits": {"mcnet_62_20": list_of[n]}}
        if n in NIH.withdrawn:
            withdrawn.append({"case_id": NIH.case_id.format(n=n), "reason": NIH.withdrawn[n], **schemes})
            continue
        files = {"image": f"./images/PANCREAS_{n:04d}.nii.gz", "label": f"./labels/label{n:04d}.nii.gz"}
        training.append({**_case(NIH, n), **files, **schemes})
    return {**_document(NIH, training, []), "withdrawn": withdrawn}


def btcv() -> dict[str, Any]:
    training = [
        {**_case(BTCV, n), "image": f"./img/img{n:04d}.nii.gz", "label": f"./label/label{n:04d}.nii.gz"}
        for n in BTCV_TRAINING
    ]
    test = [{**_case(BTCV, n), "image": f"../Testing/img/img{n:04d}.nii.gz"} for n in BTCV_TEST]
    return _document(BTCV, training, test)


def _case(published: Published, n: int) -> dict[str, Any]:
    name = published.case_id.format(n=n)
    return {"case_id": name, "patient_id": name}


def _document(published: Published, training: list[dict[str, Any]], test: list[dict[str, Any]]) -> dict[str, Any]:
    document = published.head(published.layout, published.fold_source)
    document |= {"numTraining": len(training), "numTest": len(test), "training": training}
    return document | ({"test": test} if test else {})


def _number(name: str) -> int:
    return int(re.findall(r"\d+", name.removesuffix(".nii.gz"))[-1])


def _json(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
