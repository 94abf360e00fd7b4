"""The command line as a user types it: files, exit codes, and what goes to which stream."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from pancreas_seg.cli import main
from pancreas_seg.config import Config
from pancreas_seg.network.attention_unet import AttentionUNet
from pancreas_seg.network.weights import save_weights


@pytest.fixture
def weights(tmp_path) -> Path:
    config = Config().changed(
        {"data": {"spacing_mm": [4.0, 4.0, 4.0], "patch_size": [16, 16, 16]}, "network": {"channels": [4, 8]}}
    )
    path = tmp_path / "w.safetensors"
    network = AttentionUNet.from_config(config)
    torch.nn.init.zeros_(network.head.weight)
    network.head.bias.data = torch.tensor([0.0, 1.0])  # everything is foreground
    save_weights(path, network, config, {"note": "untrained"})
    return path


@pytest.fixture
def ct(write_nifti) -> Path:
    return write_nifti(np.random.default_rng(0).integers(-900, 300, (20, 18, 12)).astype(np.int16))


def _segment(*arguments: object) -> int:
    return main(["segment", *map(str, arguments)])


def test_segment_writes_what_it_says(weights, ct, tmp_path, capsys) -> None:
    code = _segment(ct, "--weights", weights, "--out", tmp_path / "out", "--preview", "--probability")
    assert code == 0
    written = [Path(line) for line in capsys.readouterr().out.split()]
    assert [p.name for p in written] == [
        "mask.nii.gz",
        "probability.nii.gz",
        "result.json",
        "preview.png",
        "summary.csv",
    ]
    assert all(p.is_file() for p in written)
    assert {p.name for p in (tmp_path / "out" / "ct").iterdir()} == {p.name for p in written[:-1]}
    assert nib.load(written[0]).shape == (20, 18, 12)


@pytest.mark.parametrize("terminal", [True, False])
def test_stages_and_windows_are_shown_on_a_terminal_alone(weights, ct, tmp_path, capsys, monkeypatch, terminal) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert _segment(ct, "--weights", weights, "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().err
    assert bool(re.search(r"ct: fine: .*\d/1 .*window", shown)) == terminal
    assert ("ct: fine" in shown) == terminal


def test_exit_codes_of_segment(weights, ct, tmp_path, capsys) -> None:
    bad = tmp_path / "bad.nii"
    bad.write_bytes(b"x")
    out = tmp_path / "out"
    assert _segment(bad, "--weights", weights, "--out", out) == 3
    assert _segment(bad, ct, "--weights", weights, "--out", out) == 4
    assert _segment(ct, "--weights", bad, "--out", out) == 2
    assert _segment(ct, "--weights", weights, "--out", out, "--set", "data.classes=[]") == 2
    assert _segment(ct, "--weights", weights, "--out", out, "--set", "infer.overlapp=0.1") == 2
    assert _segment(tmp_path / "none.json", "--weights", weights, "--out", out) == 3
    with pytest.raises(SystemExit) as caught:
        main(["segment", str(ct)])
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_exit_code_2(weights, ct, tmp_path, capsys) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("x")
    assert _segment(ct, "--weights", weights, "--out", blocked) == 2
    assert "config.file" in capsys.readouterr().err


def test_a_single_bug_is_exit_code_1(weights, ct, tmp_path, monkeypatch) -> None:
    from pancreas_seg.inference.segmenter import Segmenter

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("bug")

    monkeypatch.setattr(Segmenter, "segment", fail)
    assert _segment(ct, "--weights", weights, "--out", tmp_path / "out") == 1


def test_interrupting_is_exit_code_130(weights, ct, tmp_path, monkeypatch) -> None:
    from pancreas_seg.inference.segmenter import Segmenter

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Segmenter, "segment", interrupt)
    assert _segment(ct, "--weights", weights, "--out", tmp_path / "out") == 130
    assert not list((tmp_path).rglob(".unfinished*"))


def test_no_name_of_a_patient_in_what_is_written_or_said(weights, tmp_path, capsys, ct) -> None:
    """The path and the header name a patient; the case's folder is the user's choice, everything else is ours."""
    folder = tmp_path / "DOE_JANE"
    folder.mkdir()
    image = nib.load(ct)
    image.header["descrip"] = b"DOE_JANE 1970"
    nib.save(image, folder / "case7.nii.gz")
    out = tmp_path / "out"
    assert _segment(folder / "case7.nii.gz", "--weights", weights, "--out", out, "--preview") == 0
    streams = capsys.readouterr()
    for text in (streams.out, streams.err):
        assert "DOE" not in text
    for path in out.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if path.suffix == ".gz":
            content = bytes(nib.load(path).header.binaryblock)
        assert b"DOE" not in content
        assert "DOE" not in str(path.relative_to(out))


def test_settings_change_the_result(weights, ct, tmp_path) -> None:
    masks = []
    for setting in ("clean.minimum_volume_ml=0", "clean.minimum_volume_ml=1e6"):
        assert _segment(ct, "--weights", weights, "--out", tmp_path / "out", "--set", setting) == 0
        masks.append(np.asarray(nib.load(tmp_path / "out" / "ct" / "mask.nii.gz").dataobj))
    assert masks[0].any()
    assert not masks[1].any()


def test_phantom_train_segment_evaluate(tmp_path, capsys) -> None:
    cohort, run, out = tmp_path / "cohort", tmp_path / "run", tmp_path / "out"
    assert main(["phantom", "--out", str(cohort), "--cases", "2", "--spacing-mm", "6", "6", "6"]) == 0
    assert main(["manifest", "check", str(cohort / "manifest.json")]) == 0
    train = ["train", "--data", str(cohort / "manifest.json"), "--out", str(run), "--preset", "tiny", "--fold", "0"]
    for setting in ("train.steps=2", "train.validate_every=2", "data.spacing_mm=[6,6,6]", "data.patch_size=[24,24,24]"):
        train += ["--set", setting]
    assert main(train) == 0
    assert main(train) == 2  # the folder holds a training
    assert main([*train, "--resume"]) == 0
    assert _segment(cohort / "manifest.json", "--weights", run / "best.safetensors", "--out", out) == 0
    assert sorted(p.name for p in out.iterdir()) == ["phantom_0000", "phantom_0001", "summary.csv"]
    capsys.readouterr()
    label = str(cohort / "labels" / "phantom_0000.nii.gz")
    assert main(["evaluate", "--reference", label, "--prediction", label]) == 0
    assert re.match(
        r"Dice 1\.0000 \(pancreas: reference \d+\.\d ml, prediction \d+\.\d ml; 1 case\), NSD at 1 mm 1\.0000,",
        capsys.readouterr().out,
    )
    evaluate = ["evaluate", "--data", str(cohort / "manifest.json"), "--predictions", str(out)]
    assert main([*evaluate, "--out", str(tmp_path / "eval"), "--compare", str(out)]) == 0
    written = [Path(line).name for line in capsys.readouterr().out.split()]
    assert written == ["cases.csv", "cases_compared.csv", "plots.png", "summary.json"]
    (out / "phantom_0000" / "mask.nii.gz").unlink()
    assert main([*evaluate, "--out", str(tmp_path / "eval")]) == 4
    assert "1 missing" in capsys.readouterr().err
    assert main([*evaluate, "--compare", str(out)]) == 2
    assert main([*evaluate, "--label", "pancreas=one"]) == 2


def test_evaluate_refuses_other_grids(write_nifti, capsys) -> None:
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1:3, 1:3, 1:3] = 1
    a = write_nifti(labels, name="a.nii.gz")
    b = write_nifti(labels, np.diag([1.0, 1.0, 1.0, 1.0]), name="b.nii.gz")
    shifted = np.roll(labels, 1, 0)
    c = write_nifti(shifted, name="c.nii.gz")
    assert main(["evaluate", "--reference", str(a), "--prediction", str(b)]) == 3
    assert "input.grids_differ" in capsys.readouterr().err
    assert main(["evaluate", "--reference", str(a), "--prediction", str(c)]) == 0
    assert "Dice 0.5000" in capsys.readouterr().out


def test_manifest_build_and_check(write_nifti, tmp_path, capsys) -> None:
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for n in range(4):
        image = np.random.default_rng(n).integers(-900, 300, (6, 6, 6)).astype(np.int16)
        label = np.zeros((6, 6, 6), np.uint8)
        label[2:4, 2:4, 2:4] = 1
        write_nifti(image, name=f"data/images/p{n // 2}_{n}.nii.gz")
        write_nifti(label, name=f"data/labels/p{n // 2}_{n}.nii.gz")
    out = tmp_path / "m.json"
    build = ["manifest", "build", str(tmp_path / "data"), "--layout", "pairs", "--out", str(out), "--folds", "2"]
    assert main([*build, "--patient-pattern", r"(p\d)_", "--label", "1=pancreas"]) == 0
    listed = json.loads(out.read_text())["training"]
    assert [(case["patient_id"], case["fold"]) for case in listed[:2]] == [("p0", listed[0]["fold"])] * 2
    assert main(["manifest", "check", str(out)]) == 0
    (tmp_path / "data" / "labels" / "p1_3.nii.gz").unlink()
    assert main(["manifest", "check", str(out)]) == 3
    assert main([*build, "--label", "one=pancreas"]) == 2


def test_info(weights, capsys) -> None:
    assert main(["info"]) == 0
    assert "not a medical device" in capsys.readouterr().out
    assert main(["info", "--weights", str(weights)]) == 0
    text = capsys.readouterr().out
    assert "note: untrained" in text
    assert "[network]" in text
    assert "fine network: pancreas; 4 x 4 x 4 mm; " in text
    assert main(["info", "--preset", "paper", "--set", "train.steps=3"]) == 0
    assert Config.from_toml(capsys.readouterr().out).train.steps == 3


def test_weights_pack(weights, tmp_path, capsys) -> None:
    packed = tmp_path / "packed.safetensors"
    pack = ["weights", "pack", "--fine", str(weights), str(weights), "--coarse", str(weights), "--out", str(packed)]
    assert main([*pack, "--half"]) == 0
    assert capsys.readouterr().out == f"{packed}\n"
    assert main(["info", "--weights", str(packed)]) == 0
    text = capsys.readouterr().out
    assert (text.count("\nfine network: pancreas"), text.count("\ncoarse network: pancreas")) == (2, 1)
    assert text.count("note: untrained") == text.count("[network]") == 3
    assert main(["weights", "pack", "--fine", str(packed), "--out", str(packed)]) == 2


def test_segment_with_packed_weights_several_files_and_none(weights, ct, tmp_path, capsys) -> None:
    """The untrained network sees pancreas everywhere, so that its box is not believed."""
    packed, out = tmp_path / "packed.safetensors", tmp_path / "out"
    assert main(["weights", "pack", "--fine", str(weights), "--coarse", str(weights), "--out", str(packed)]) == 0

    def facts(*arguments: object) -> dict:
        assert _segment(ct, "--out", out, "--weights", *arguments) == 0
        return json.loads((out / "ct" / "result.json").read_text())

    small = ("--set", "infer.coarse_volume_ml=[0, 10]")
    auto = facts(packed, *small)
    assert (auto["mode"], auto["reasons"][0]["code"]) == ("full", "result.coarse_too_large")
    assert facts(packed, *small, "--set", "infer.fallback=none")["volume_ml"] == {"pancreas": 0.0}
    assert facts(packed, "--mode", "cascade")["mode"] == "cascade"
    assert facts(packed, "--mode", "full")["cascade"] is None
    assert len(facts(weights, packed, "--mode", "full")["weights"]["files"]) == 2
    capsys.readouterr()
    assert _segment(ct, "--out", out, "--weights", weights, "--mode", "cascade") == 2
    assert "config.no_coarse" in capsys.readouterr().err
    assert _segment(ct, "--out", out, "--weights", tmp_path) == 2
    assert "weights.no_best" in capsys.readouterr().err


def test_segment_without_weights_takes_the_starter(weights, ct, tmp_path, capsys, monkeypatch) -> None:
    from importlib import resources

    monkeypatch.setattr(resources, "files", lambda _: tmp_path)
    assert _segment(ct, "--out", tmp_path / "out") == 2
    assert "weights.no_starter" in capsys.readouterr().err
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "starter.safetensors").write_bytes(weights.read_bytes())
    listed = tmp_path / "weights" / "SHA256SUMS"
    listed.write_text(f"{hashlib.sha256(weights.read_bytes()).hexdigest()}  starter.safetensors\n")
    assert _segment(ct, "--out", tmp_path / "out") == 0
    listed.write_text(f"{'0' * 64}  starter.safetensors\n")
    assert _segment(ct, "--out", tmp_path / "out") == 2
    assert "weights.changed" in capsys.readouterr().err


def test_segment_with_attention(ct, tmp_path, capsys) -> None:
    config = Config().changed({"data": {"patch_size": [16, 16, 16]}, "network": {"channels": [4, 4, 4]}})
    for name, changed in (("with", config), ("without", config.changed({"network": {"gate": "none"}}))):
        save_weights(tmp_path / name, AttentionUNet.from_config(changed), changed)
    out = tmp_path / "out"
    assert _segment(ct, "--weights", tmp_path / "without", "--out", out, "--attention") == 2
    assert "config.no_gates" in capsys.readouterr().err
    assert _segment(ct, "--weights", tmp_path / "with", "--out", out, "--attention") == 0
    assert nib.load(out / "ct" / "attention.nii.gz").shape == (20, 18, 12, 1)
    stamp = (out / "ct" / "attention.nii.gz").stat().st_mtime_ns
    assert _segment(ct, "--weights", tmp_path / "with", "--out", out, "--attention", "--resume") == 0
    assert (out / "ct" / "attention.nii.gz").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_the_engine_that_is_asked_for_runs(weights, ct, tmp_path, engine: str) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    assert _segment(ct, "--out", tmp_path / "out", "--weights", weights, "--engine", engine) == 0
    facts = json.loads((tmp_path / "out" / "ct" / "result.json").read_text())
    assert facts["engine"] == engine
    assert engine in facts["versions"]


def test_jobs_are_processes_with_a_share_of_the_cpus(weights, ct, tmp_path, monkeypatch) -> None:
    seen = []

    def stand_in(load, cases, _out, jobs, _options, threads, _on_done) -> list:
        seen.append((len(cases), jobs, threads, load.keywords["threads"]))
        return []

    monkeypatch.setattr("pancreas_seg.inference.workers.segment_in_processes", stand_in)
    monkeypatch.setattr("pancreas_seg.network.cpus.available_cpus", lambda: 8)
    _segment(ct, ct, ct, "--out", tmp_path / "out", "--weights", weights, "--jobs", "4")
    assert seen == [(3, 4, 2, 2)]
