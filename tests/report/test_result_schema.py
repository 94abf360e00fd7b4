"""result.json against its published schema, the mask's pedigree, and patients' names, all through the command line."""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from pancreas_seg._version import __version__
from pancreas_seg.cli import main
from pancreas_seg.config import Config
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.weights import save_weights

SCHEMA = json.loads((resources.files("pancreas_seg") / "report" / "result.schema.json").read_text())
NAME = "DOE^JANE"


def _save(path: Path, bias: float) -> Path:
    config = Config().changed(
        {"data": {"spacing_mm": [4.0, 4.0, 4.0], "patch_size": [16, 16, 16]}, "network": {"channels": [4, 4, 4]}}
    )
    network = AttentionUNet.from_config(config)
    torch.nn.init.zeros_(network.head.weight)
    network.head.bias.data = torch.tensor([0.0, bias])
    save_weights(path, network, config)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, Path]:
    """Networks that see the organ everywhere, nowhere, and a cascade of the first kind."""
    folder = tmp_path_factory.mktemp("weights")
    found = {"all": _save(folder / "all", 1.0), "none": _save(folder / "none", -1.0), "both": folder / "both"}
    pack = ["weights", "pack", "--fine", found["all"], "--coarse", found["all"], "--out", found["both"]]
    assert main([str(part) for part in pack]) == 0
    return found


@pytest.fixture
def ct(write_nifti) -> Path:
    return write_nifti(np.random.default_rng(0).integers(-900, 300, (20, 18, 12)).astype(np.int16))


def _segment(ct: Path, weights: Path, out: Path, *options: str, code: int = 0) -> dict[str, Any]:
    assert main(["segment", str(ct), "--weights", str(weights), "--out", str(out), *options]) == code
    (path,) = out.glob("*/result.json")
    facts: dict[str, Any] = json.loads(path.read_text())
    return facts


def _valid(facts: object) -> bool:
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(facts)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    ("name", "options"),
    [("all", ("--probability", "--attention")), ("none", ()), ("both", ("--mode", "cascade")), ("both", ())],
)
def test_results_follow_the_schema(weights, ct, tmp_path, name: str, options: tuple[str, ...]) -> None:
    facts = _segment(ct, weights[name], tmp_path / "out", *options)
    jsonschema.validate(facts, SCHEMA)
    assert set(facts) <= set(SCHEMA["properties"]), "describe new keys in result.schema.json"
    assert facts["input"]["sha256"] == hashlib.sha256(ct.read_bytes()).hexdigest()
    assert facts["weights"]["sha256"] == hashlib.sha256(weights[name].read_bytes()).hexdigest()
    assert facts["versions"]["pancreas_seg"] == __version__


def test_refusals_follow_the_schema(weights, tmp_path) -> None:
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"\x1f\x8b")
    facts = _segment(bad, weights["all"], tmp_path / "out", code=3)
    jsonschema.validate(facts, SCHEMA)
    assert set(facts) <= set(SCHEMA["properties"])
    assert facts["input"] == {"sha256": hashlib.sha256(b"\x1f\x8b").hexdigest()}
    assert facts["weights"]["sha256"] == hashlib.sha256(weights["all"].read_bytes()).hexdigest()
    missing = _segment(tmp_path / "none.nii", weights["all"], tmp_path / "out2", code=3)
    jsonschema.validate(missing, SCHEMA)
    assert "input" not in missing


def test_other_results_break_the_schema(weights, ct, tmp_path) -> None:
    good = _segment(ct, weights["all"], tmp_path / "out", "--set", "clean.minimum_volume_ml=0")
    assert _valid(good)
    optional = {"attention_levels"}
    for key in set(good) - optional:
        without = copy.deepcopy(good)
        del without[key]
        assert not _valid(without), key
    wrong: list[tuple[tuple[str, ...], object]] = [
        (("schema",), "pancreas-seg-result-2"),
        (("verdict",), "fine"),
        (("verdict",), "ok"),
        (("verdict",), "refused"),
        (("reasons",), []),
        (("reasons",), [{"code": "no code", "text": "x"}]),
        (("volume_ml", "pancreas"), -1),
        (("input", "sha256"), "abc"),
        (("input", "shape"), [1, 2]),
        (("weights", "files"), []),
        (("bounding_box_ras_mm",), [[0, 0, 0]]),
        (("peak_memory_gb",), 0),
        (("timings_s", "read"), "long"),
    ]
    for path, value in wrong:
        changed = copy.deepcopy(good)
        part = changed
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value
        assert not _valid(changed), path


def test_the_same_input_and_weights_give_the_same_bytes(weights, ct, tmp_path) -> None:
    other = tmp_path / "another_name.nii.gz"
    other.write_bytes(ct.read_bytes())
    masks = []
    for n, path in enumerate((ct, ct, other)):
        _segment(path, weights["all"], tmp_path / str(n), "--probability")
        (mask,) = (tmp_path / str(n)).glob("*/mask.nii.gz")
        masks.append((mask.read_bytes(), mask.with_name("probability.nii.gz").read_bytes()))
    assert masks[0] == masks[1] == masks[2]
    packed = masks[0][0]
    assert packed[:3] == b"\x1f\x8b\x08"
    assert packed[3] == 0, "flags: no name, no comment"
    assert packed[4:8] == bytes(4), "no time"


def test_the_mask_names_version_and_weights(weights, ct, tmp_path) -> None:
    facts = _segment(ct, weights["all"], tmp_path / "out")
    text = bytes(nib.load(tmp_path / "out" / "ct" / "mask.nii.gz").header["descrip"].item()).decode()
    assert text.startswith(f"pancreas-seg {__version__} weights {facts['weights']['sha256'][:12]}")


def _named_nifti(path: Path, codes: tuple[int, int]) -> None:
    array = np.random.default_rng(0).integers(-900, 300, (20, 18, 12)).astype(np.int16)
    image = nib.Nifti1Image(array, np.diag([2.0, 2.0, 3.0, 1.0]))
    image.set_qform(image.affine, code=codes[0])
    image.set_sform(image.affine, code=codes[1])
    for field in ("descrip", "aux_file", "intent_name", "db_name", "data_type"):
        image.header[field] = NAME.encode()
    for kind in ("comment", "dicom", "xcede"):
        content = NAME.encode() if kind != "dicom" else _dicom_header()
        image.header.extensions.append(nib.nifti1.Nifti1Extension(kind, content))
    nib.save(image, path)
    assert NAME.encode() in (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())


def _dicom_header() -> bytes:
    return b"\x10\x00\x10\x00PN\x08\x00" + NAME.encode()


def _named_itk(path: Path, old: bytes, new: bytes) -> None:
    array = np.random.default_rng(0).integers(-900, 300, (12, 18, 20)).astype(np.int16)
    image = sitk.GetImageFromArray(array)
    image.SetMetaData("PatientName", NAME)
    image.SetMetaData("Comment", NAME)
    sitk.WriteImage(image, str(path))
    content = path.read_bytes()
    assert NAME.encode() in content
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


PLANTED = {
    "nifti": ("x.nii.gz", lambda p: _named_nifti(p, (1, 1)), 0),
    "refused nifti": ("x.nii", lambda p: _named_nifti(p, (0, 0)), 3),
    "mha": ("x.mha", lambda p: _named_itk(p, b"", b""), 0),
    "refused mha": ("x.mha", lambda p: _named_itk(p, b"Offset = 0 0 0", f"Offset = {NAME}".encode()), 3),
    "mha with a name as a file": ("x.mha", lambda p: _named_itk(p, b"= LOCAL", f"= {NAME}.raw".encode()), 3),
    "nrrd": ("x.nrrd", lambda p: _named_itk(p, b"kinds:", f"content: {NAME}\n# {NAME}\nkinds:".encode()), 0),
    "refused nrrd": ("x.nrrd", lambda p: _named_itk(p, b"left-posterior-superior", NAME.encode()), 3),
    "nrrd of other units": ("x.nrrd", lambda p: _named_itk(p, b"kinds:", f'space units: "{NAME}"\nkinds:'.encode()), 3),
    "nrrd of another type": ("x.nrrd", lambda p: _named_itk(p, b"encoding: raw", f"encoding: {NAME}".encode()), 3),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_names_in_headers_stay_there(kind: str, weights, tmp_path, capfd, caplog) -> None:
    """Also the name of the folder above: what the user calls the file names the case, all else is ours."""
    name, make, code = PLANTED[kind]
    folder = tmp_path / "DOE_JANE"
    folder.mkdir()
    make(folder / name)
    out = tmp_path / "out"
    _segment(folder / name, weights["all"], out, "--preview", "--probability", "--attention", code=code)
    streams = capfd.readouterr()
    said = (streams.out + streams.err + caplog.text).encode()
    for path in out.rglob("*"):
        said += str(path.relative_to(out)).encode()
        content = path.read_bytes() if path.is_file() else b""
        said += gzip.decompress(content) if path.suffix == ".gz" else content
    for word in (b"DOE", b"JANE"):
        assert word not in said
    assert len(said) > 500
