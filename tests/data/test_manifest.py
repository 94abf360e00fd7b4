"""Reading, making and checking manifests, on small NIfTI files."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.data import load_decathlon_datalist

from pancreas_seg.data.manifest import load_manifest
from pancreas_seg.data.manifest_build import build_manifest, draw_folds
from pancreas_seg.data.manifest_check import Finding, check_manifest, format_findings
from pancreas_seg.errors import ConfigError, ManifestError

SHAPE = (6, 5, 4)
AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])
LABELS = {"0": "background", "1": "pancreas"}


def write_image(path: Path, seed: int = 0, shape: tuple[int, ...] = SHAPE, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def write_label(path: Path, value: int = 1, shape: tuple[int, ...] = SHAPE, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(shape, np.uint8)
    values[1:3, 1:3, 1:3] = value
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def write_json(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def entry(name: str, **more: Any) -> dict[str, Any]:
    return {"image": f"images/{name}.nii.gz", "label": f"labels/{name}.nii.gz", **more}


def simple(*entries: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "made up", "labels": LABELS, "training": list(entries), **more}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Ten labelled cases of five patients, and one unlabelled case."""
    root = tmp_path / "set"
    for i in range(10):
        name = f"p{i % 5}_scan{i // 5}"
        write_image(root / "images" / f"{name}.nii.gz", seed=i)
        write_label(root / "labels" / f"{name}.nii.gz")
    write_image(root / "images" / "p9_scan0.nii.gz", seed=99)
    return root


class TestLoad:
    def test_fields(self, tmp_path: Path) -> None:
        own = {"0": "background", "3": "pancreas", "1": "liver"}
        sha = "AB" * 32
        path = write_json(
            tmp_path / "m.json",
            simple(
                entry("a", case_id="A", patient_id="P", fold=2, image_sha256=sha),
                entry("b", labels=own),
                validation=[entry("c.x")],
                test=["./imagesTs/d.nii", {"image": "/far/e.nrrd"}],
            ),
        )
        manifest = load_manifest(path)
        assert (manifest.name, manifest.labels, manifest.path) == ("made up", {1: "pancreas"}, path)
        a, b, c, d, e = manifest.cases
        assert (a.case_id, a.patient_id, a.fold, a.split, a.image_sha256) == ("A", "P", 2, "training", sha.lower())
        assert (a.image, a.label) == (tmp_path / "images/a.nii.gz", tmp_path / "labels/a.nii.gz")
        assert (b.case_id, b.patient_id, b.fold, b.labels) == ("b", "b", None, {1: "liver", 3: "pancreas"})
        assert (c.case_id, c.split) == ("c.x", "validation")
        assert (d.case_id, d.image, d.label, d.split) == ("d", tmp_path / "imagesTs/d.nii", None, "test")
        assert (e.case_id, e.image) == ("e", Path("/far/e.nrrd"))
        assert pickle.loads(pickle.dumps(manifest)).cases == manifest.cases  # noqa: S301

    def test_root(self, tmp_path: Path) -> None:
        path = write_json(tmp_path / "m.json", simple(entry("a"), root="sub"))
        assert load_manifest(path).cases[0].image == tmp_path / "sub/images/a.nii.gz"
        assert load_manifest(path, tmp_path / "other").cases[0].image == tmp_path / "other/images/a.nii.gz"

    def test_splits(self, tmp_path: Path) -> None:
        path = write_json(
            tmp_path / "m.json",
            simple(*(entry(c, fold=f) for c, f in zip("abcd", (0, 1, 1, None), strict=True)), validation=[entry("v")]),
        )
        manifest = load_manifest(path)
        assert manifest.folds == (0, 1)
        ids = [["".join(c.case_id for c in part) for part in manifest.training_cases(fold)] for fold in (None, 0, 1)]
        assert ids == [["abcd", "v"], ["bcd", "a"], ["ad", "bc"]]
        assert [c.case_id for c in manifest.of_split("validation")] == ["v"]
        assert manifest.of_split("test") == ()
        with pytest.raises(ManifestError, match="folds 0, 1; expected fold 7"):
            manifest.training_cases(7)
        with pytest.raises(ValueError, match="train"):
            manifest.of_split("train")

    def test_scheme(self, tmp_path: Path) -> None:
        entries = [entry("a", fold=0, splits={"s": "test", "k": 1}), entry("b", fold=1, splits={"s": "training"})]
        path = write_json(tmp_path / "m.json", simple(*entries))
        manifest = load_manifest(path, scheme="s")
        assert [(c.split, c.fold) for c in manifest.cases] == [("test", None), ("training", None)]
        with pytest.raises(ManifestError, match="no_scheme"):
            load_manifest(path, scheme="k")

    @pytest.mark.parametrize(
        ("document", "code"),
        [
            ([], "wrong_value"),
            ({}, "no_training"),
            ({"training": {}}, "wrong_value"),
            ({"training": [], "labels": LABELS}, "empty"),
            ({"training": ["a.nii.gz"]}, "wrong_value"),
            ({"training": [{"label": "a"}]}, "no_image"),
            ({"training": [{"image": "a"}]}, "no_label"),
            ({"training": [entry("a")]}, "no_labels"),
            ({"training": [entry("a")], "labels": ["pancreas"]}, "wrong_value"),
            (simple(entry("a"), labels={"one": "pancreas"}), "wrong_value"),
            (simple(entry("a"), labels={"1": 1}), "wrong_value"),
            (simple(entry("a"), labels={"1": "x", "01": "y"}), "wrong_value"),
            (simple(entry("a"), name=3), "wrong_value"),
            (simple(entry("a"), root=3), "wrong_value"),
            (simple(entry("a"), test=[7]), "wrong_value"),
            (simple(entry("a", fold="1")), "wrong_value"),
            (simple(entry("a", fold=True)), "wrong_value"),
            (simple(entry("a", fold=-1)), "wrong_value"),
            (simple(entry("a", case_id=5)), "wrong_value"),
            (simple(entry("a", image_sha256="abc")), "wrong_value"),
            (simple({"image": ["a", "b"], "label": "c"}), "wrong_value"),
            (simple({"image": "a\0", "label": "c"}), "wrong_value"),
            (simple(entry("a"), entry("a")), "duplicate_case"),
            (simple(entry("a"), test=["b/a.nii"]), "duplicate_case"),
        ],
    )
    def test_malformed(self, tmp_path: Path, document: Any, code: str) -> None:
        path = write_json(tmp_path / "m.json", document)
        with pytest.raises(ManifestError) as caught:
            load_manifest(path)
        assert caught.value.code == f"manifest.{code}"
        assert str(path) in caught.value.where

    @pytest.mark.parametrize(
        ("content", "code"),
        [(b"{", "not_json"), (b"", "not_json"), (b"\xff\xfe", "unreadable"), (b"[" * 100_000, "not_json")],
    )
    def test_not_json(self, tmp_path: Path, content: bytes, code: str) -> None:
        path = tmp_path / "m.json"
        path.write_bytes(content)
        with pytest.raises(ManifestError, match=code):
            load_manifest(path)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ManifestError, match="unreadable"):
            load_manifest(tmp_path / "none.json")
        with pytest.raises(ManifestError, match="unreadable"):
            load_manifest(tmp_path)

    def test_no_training_cases(self, tmp_path: Path) -> None:
        manifest = load_manifest(write_json(tmp_path / "m.json", {"training": [], "test": ["a.nii.gz"]}))
        with pytest.raises(ManifestError, match="no_training_cases"):
            manifest.training_cases()


class TestBuild:
    def test_pairs(self, pairs: Path) -> None:
        calls: list[tuple[int, int]] = []
        out = build_manifest("pairs", pairs, pairs / "m.json", patient=r"^(p\d+)_", progress=lambda *a: calls.append(a))
        document = json.loads(out.read_text())
        assert (document["numTraining"], document["numTest"], document["labels"]) == (10, 1, LABELS)
        assert document["training"][0]["image"] == "images/p0_scan0.nii.gz"
        assert calls == [(i, 11) for i in range(1, 12)]
        manifest = load_manifest(out)
        assert manifest.name == "set"
        first = manifest.cases[0]
        assert first.image_sha256 == hashlib.sha256(first.image.read_bytes()).hexdigest()
        assert first.label is not None
        assert first.label_sha256 == hashlib.sha256(first.label.read_bytes()).hexdigest()
        assert [c.case_id for c in manifest.of_split("test")] == ["p9_scan0"]
        training = manifest.of_split("training")
        assert len({(c.patient_id, c.fold) for c in training}) == len({c.patient_id for c in training}) == 5
        assert Counter(c.fold for c in training) == dict.fromkeys(range(5), 2)
        assert check_manifest(manifest) == []
        assert not list(pairs.glob(".unfinished*"))

    def test_deterministic(self, pairs: Path) -> None:
        texts = {build_manifest("pairs", pairs, pairs / "m.json", seed=s).read_text() for s in (3, 3, 4)}
        assert len(texts) == 2

    def test_monai_reads_it(self, pairs: Path) -> None:
        out = build_manifest("pairs", pairs, pairs.parent / "m.json", folds=2)
        training = load_decathlon_datalist(out, True, "training")
        assert len(training) == 10
        assert all(Path(case["image"]).is_file() and Path(case["label"]).is_file() for case in training)
        assert Path(load_decathlon_datalist(out, True, "test")[0]["image"]).is_file()

    def test_paths(self, pairs: Path) -> None:
        def image(out: Path) -> str:
            case = load_manifest(build_manifest("pairs", pairs, out, folds=0)).cases[0]
            assert case.image.is_file()
            assert case.fold is None
            return json.loads(out.read_text())["training"][0]["image"]

        name = "images/p0_scan0.nii.gz"
        assert image(pairs.parent / "m.json") == f"set/{name}"
        assert image(pairs.parent / "manifests" / "m.json") == f"../set/{name}"
        assert image(pairs / "manifests" / "m.json") == f"../{name}"
        assert image(pairs.parent / "a" / "b" / "m.json") == str(pairs.resolve() / name)

    def test_linked_folder(self, pairs: Path, tmp_path: Path) -> None:
        (tmp_path / "work").mkdir()
        (tmp_path / "work" / "link").symlink_to(pairs)
        out = build_manifest("pairs", tmp_path / "work" / "link", tmp_path / "work" / "m.json")
        assert json.loads(out.read_text())["training"][0]["image"].startswith("link/images/")
        assert load_manifest(out).cases[0].image.is_file()

    def test_nnunet_names_and_formats(self, tmp_path: Path) -> None:
        write_image(tmp_path / "imagesTr" / "a_0000.nii.gz")
        write_image(tmp_path / "imagesTr" / "b_0000.nii", seed=1)
        write_image(tmp_path / "imagesTr" / "._a_0000.nii.gz")
        (tmp_path / "imagesTr" / "notes.txt").touch()
        write_image(tmp_path / "imagesTs" / "c_0000.nii.gz", seed=2)
        write_label(tmp_path / "labelsTr" / "a.nii", 4)
        write_label(tmp_path / "labelsTr" / "b.nii.gz", 4)
        out = build_manifest("pairs", tmp_path, tmp_path / "m.json", folds=2, labels={4: "pancreas"}, name="mine")
        manifest = load_manifest(out)
        assert [(c.case_id, c.split) for c in manifest.cases] == [
            ("a", "training"),
            ("b", "training"),
            ("c", "test"),
        ]
        assert (manifest.name, manifest.labels) == ("mine", {4: "pancreas"})
        assert check_manifest(manifest) == []

    def test_own_patterns_and_unused_label(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        for name in ("a", "b"):
            write_image(tmp_path / "ct" / name / "ct.nii.gz")
        write_image(tmp_path / "scans" / "x-ct.nii.gz")
        write_label(tmp_path / "masks" / "x.nii.gz")
        write_label(tmp_path / "masks" / "secret.nii.gz")
        options: dict[str, Any] = {"label_files": ["masks/*"], "image_suffix": "-ct", "folds": 0}
        out = build_manifest("pairs", tmp_path, tmp_path / "m.json", images=["scans/*.nii.gz"], **options)
        assert [c.case_id for c in load_manifest(out).of_split("training")] == ["x"]
        assert "1 label map(s)" in caplog.text
        assert "secret" not in caplog.text
        with pytest.raises(ManifestError, match="another file of the case ct"):
            build_manifest("pairs", tmp_path, tmp_path / "m.json", images=["ct/*/*"], **options)

    def test_nothing_found(self, tmp_path: Path) -> None:
        with pytest.raises(ManifestError, match=r"tried images/\*, imagesTr/\*, imagesTs/\*"):
            build_manifest("pairs", tmp_path, tmp_path / "m.json")
        assert not (tmp_path / "m.json").exists()
        with pytest.raises(ManifestError, match="no_folder"):
            build_manifest("msd", tmp_path / "none", tmp_path / "m.json")

    def test_refused(self, pairs: Path) -> None:
        out = pairs / "m.json"
        with pytest.raises(ManifestError, match="too_few_patients"):
            build_manifest("pairs", pairs, out, patient=r"^(p\d+)_", folds=6)
        with pytest.raises(ManifestError, match="no_patient"):
            build_manifest("pairs", pairs, out, patient=r"^(q\d+)_")
        for options in ({"patient": "("}, {"patient": "p"}, {"folds": 1}, {"images": ["/abs/*"]}, {"images": [""]}):
            with pytest.raises(ConfigError):
                build_manifest("pairs", pairs, out, **options)  # type: ignore[arg-type]
        with pytest.raises(ConfigError):
            build_manifest("other", pairs, out)  # type: ignore[arg-type]
        assert not out.exists()

    def test_msd(self, tmp_path: Path) -> None:
        for n in (1, 4, 5):
            write_image(tmp_path / "imagesTr" / f"pancreas_{n:03d}.nii.gz", seed=n)
            write_label(tmp_path / "labelsTr" / f"pancreas_{n:03d}.nii.gz")
        write_image(tmp_path / "imagesTs" / "pancreas_002.nii.gz", seed=2)
        manifest = load_manifest(build_manifest("msd", tmp_path, tmp_path / "m.json"))
        assert [(c.case_id, c.fold) for c in manifest.of_split("training")] == [
            ("pancreas_001", 3),
            ("pancreas_004", 1),
            ("pancreas_005", 2),
        ]
        assert [c.case_id for c in manifest.of_split("test")] == ["pancreas_002"]
        assert manifest.labels == {1: "pancreas", 2: "cancer"}
        assert load_manifest(build_manifest("msd", tmp_path, tmp_path / "m.json", folds=3)).folds == (0, 1, 2)
        write_image(tmp_path / "imagesTr" / "other.nii.gz")
        with pytest.raises(ManifestError, match="unknown_name"):
            build_manifest("msd", tmp_path, tmp_path / "m.json")

    def test_msd_with_other_cases_has_drawn_folds(self, tmp_path: Path) -> None:
        for n in (1, 2, 500, 501, 502):
            write_image(tmp_path / "imagesTr" / f"pancreas_{n:03d}.nii.gz", seed=n)
            write_label(tmp_path / "labelsTr" / f"pancreas_{n:03d}.nii.gz")
        out = build_manifest("msd", tmp_path, tmp_path / "m.json")
        assert load_manifest(out).folds == (0, 1, 2, 3, 4)
        assert "seed 0" in json.loads(out.read_text())["description"]

    def test_nih(self, tmp_path: Path) -> None:
        for n in (1, 2, 25, 62):
            write_image(tmp_path / "images" / f"PANCREAS_{n:04d}.nii.gz", seed=n)
        for n in (1, 2, 25, 62, 70):
            write_label(tmp_path / "labels" / f"label{n:04d}.nii.gz")
        out = build_manifest("nih", tmp_path, tmp_path / "m.json")
        manifest = load_manifest(out)
        assert [(c.case_id, c.fold) for c in manifest.cases] == [
            ("PANCREAS_0001", 0),
            ("PANCREAS_0002", 0),
            ("PANCREAS_0062", 3),
        ]
        withdrawn = json.loads(out.read_text())["withdrawn"]
        assert [case["case_id"] for case in withdrawn] == ["PANCREAS_0025", "PANCREAS_0070"]
        splits = [c.split for c in load_manifest(out, scheme="mcnet_62_20").cases]
        assert splits == ["test", "training", "training"]

    @pytest.mark.parametrize("folder", [".", "RawData", "RawData/Training"])
    def test_btcv(self, tmp_path: Path, folder: str) -> None:
        for n in (1, 2, 21):
            write_image(tmp_path / f"RawData/Training/img/img{n:04d}.nii.gz", seed=n)
            write_label(tmp_path / f"RawData/Training/label/label{n:04d}.nii.gz", 11)
        write_image(tmp_path / "RawData/Testing/img/img0061.nii.gz", seed=61)
        out = build_manifest("btcv", tmp_path / folder, tmp_path / "m.json", folds=3)
        manifest = load_manifest(out)
        assert [c.case_id for c in manifest.cases] == ["img0001", "img0002", "img0021", "img0061"]
        assert manifest.labels[11] == "pancreas"
        assert check_manifest(manifest) == []

    def test_folds_are_balanced_by_patient(self) -> None:
        patient_of = {f"c{i}": f"p{int(i**0.5)}" for i in range(103)}
        fold_of = draw_folds(patient_of, 4, seed=1)
        assert fold_of.keys() == patient_of.keys()
        assert len({(patient_of[c], f) for c, f in fold_of.items()}) == len(set(patient_of.values()))
        sizes = Counter(fold_of.values())
        assert set(sizes) == {0, 1, 2, 3}
        assert max(sizes.values()) - min(sizes.values()) <= 3
        assert draw_folds(dict(reversed(patient_of.items())), 4, seed=1) == fold_of
        assert draw_folds(patient_of, 4, seed=2) != fold_of


class TestCheck:
    """Each problem is made once; every case that is not meant to be broken is sound."""

    def checked(self, folder: Path, *entries: dict[str, Any], **more: Any) -> list[Finding]:
        return check_manifest(load_manifest(write_json(folder / "m.json", simple(*entries, **more))))

    def case(self, folder: Path, name: str, seed: int = 0, value: int = 1) -> dict[str, Any]:
        write_image(folder / "images" / f"{name}.nii.gz", seed)
        write_label(folder / "labels" / f"{name}.nii.gz", value)
        return entry(name)

    def test_sound(self, tmp_path: Path) -> None:
        findings = self.checked(tmp_path, self.case(tmp_path, "a"), self.case(tmp_path, "b", 1))
        assert findings == []
        assert format_findings(findings, 2) == "2 case(s) checked, no problem found"

    def test_missing_files(self, tmp_path: Path) -> None:
        findings = self.checked(tmp_path, entry("a"))
        assert [f.kind for f in findings] == ["image_missing", "label_missing"]
        assert str(tmp_path / "images" / "a.nii.gz") in findings[0].detail

    def test_unreadable(self, tmp_path: Path) -> None:
        case = self.case(tmp_path, "a")
        for folder in ("images", "labels"):
            path = tmp_path / folder / "a.nii.gz"
            path.write_bytes(path.read_bytes()[:-30])
        findings = self.checked(tmp_path, case)
        assert [f.kind for f in findings] == ["image_unreadable", "label_unreadable"]
        assert "[input." in findings[0].detail

    def test_label_with_fractions(self, tmp_path: Path) -> None:
        case = self.case(tmp_path, "a")
        half = np.full(SHAPE, 0.5, np.float32)
        nib.save(nib.Nifti1Image(half, AFFINE), tmp_path / "labels" / "a.nii.gz")
        (finding,) = self.checked(tmp_path, case)
        assert finding.kind == "label_unreadable"
        assert "input.not_labels" in finding.detail

    def test_grids(self, tmp_path: Path) -> None:
        cases = [self.case(tmp_path, name, seed) for seed, name in enumerate("abcd")]
        shifted = AFFINE.copy()
        shifted[0, 3] = 1.5
        flipped = AFFINE @ np.diag([1, -1, 1, 1])
        flipped[1, 3] = -8.0
        almost = AFFINE.copy()
        almost[0, 3] = 0.05
        write_label(tmp_path / "labels" / "a.nii.gz", shape=(6, 5, 3))
        write_label(tmp_path / "labels" / "b.nii.gz", affine=shifted)
        write_label(tmp_path / "labels" / "c.nii.gz", affine=flipped)
        write_label(tmp_path / "labels" / "d.nii.gz", affine=almost)
        findings = self.checked(tmp_path, *cases)
        assert [(f.case_id, f.kind) for f in findings] == [(name, "grids_differ") for name in "abc"]
        assert "6x5x4 voxels, the label map 6x5x3" in findings[0].detail
        assert "1.50 mm apart" in findings[1].detail
        assert "LPS, the label map's LAS" in findings[2].detail

    def test_labels(self, tmp_path: Path) -> None:
        cases = [
            self.case(tmp_path, name, seed, value) for seed, (name, value) in enumerate(zip("ab", (7, 0), strict=True))
        ]
        own = self.case(tmp_path, "c", 3, value=5) | {"labels": {"5": "pancreas"}}
        other = self.case(tmp_path, "d", 4, value=5) | {"labels": {"5": "liver"}}
        findings = self.checked(tmp_path, *cases, own, other)
        kinds = [(f.case_id, f.kind) for f in findings]
        assert kinds == [("a", "unknown_labels"), ("a", "no_pancreas"), ("b", "no_pancreas"), ("d", "no_pancreas")]
        assert "7 (named: 1 pancreas)" in findings[0].detail
        assert "none but 0" in findings[2].detail
        assert "no value is named pancreas (named: 5 liver)" in findings[3].detail

    def test_patients(self, tmp_path: Path) -> None:
        cases = [self.case(tmp_path, name, seed) for seed, name in enumerate("abcdef")]
        patients = ["p", "p", "q", "q", "r", "r"]
        training = [
            case | {"patient_id": p, "fold": f} for case, p, f in zip(cases, patients, (0, 1, 2, 2, 0, 0), strict=True)
        ]
        test = training.pop()
        findings = self.checked(tmp_path, *training, test=[test])
        assert [(f.case_id, f.kind) for f in findings] == [("a", "patient_in_two_folds"), ("e", "patient_in_two_lists")]
        assert "a (fold 0), b (fold 1)" in findings[0].detail
        assert "e (training), f (test)" in findings[1].detail

    def test_duplicates(self, tmp_path: Path) -> None:
        cases = [self.case(tmp_path, name, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
        image = nib.load(tmp_path / "images" / "a.nii.gz")
        nib.save(
            nib.Nifti1Image(np.asarray(image.dataobj).astype(np.float32), AFFINE), tmp_path / "images" / "d.nii.gz"
        )
        findings = self.checked(tmp_path, *cases, test=["images/d.nii.gz"])
        assert [(f.case_id, f.kind) for f in findings] == [("b", "duplicate_image"), ("d", "duplicate_image")]
        assert findings[0].detail == "the same file as case a"
        assert findings[1].detail == "the same voxels in another file as case a"

    def test_changed_files(self, pairs: Path) -> None:
        out = build_manifest("pairs", pairs, pairs / "m.json")
        write_image(pairs / "images" / "p0_scan0.nii.gz", seed=1234)
        write_label(pairs / "labels" / "p1_scan0.nii.gz", affine=AFFINE + np.eye(4, k=3) * 0.01)
        findings = check_manifest(load_manifest(out))
        assert [(f.case_id, f.kind) for f in findings] == [
            ("p0_scan0", "image_sha256_differs"),
            ("p1_scan0", "label_sha256_differs"),
        ]

    def test_all_at_once_in_one_table(self, tmp_path: Path) -> None:
        good, twin = self.case(tmp_path, "good", 1), self.case(tmp_path, "twin", 1)
        bad = self.case(tmp_path, "bad", 2, value=9) | {"image_sha256": "0" * 64, "label_sha256": "0" * 64}
        write_label(tmp_path / "labels" / "bad.nii.gz", 9, shape=(3, 3, 3))
        broken = self.case(tmp_path, "broken", 3)
        (tmp_path / "images" / "broken.nii.gz").write_bytes(b"no image")
        (tmp_path / "labels" / "broken.nii.gz").write_bytes(b"")
        folds = [case | {"patient_id": "p", "fold": i} for i, case in enumerate((good, twin))]
        calls: list[tuple[int, int]] = []
        document = simple(*folds, bad, broken, entry("gone"), test=[{"image": "images/none.nii.gz", "patient_id": "p"}])
        manifest = load_manifest(write_json(tmp_path / "m.json", document))
        findings = check_manifest(manifest, lambda *a: calls.append(a))
        assert Counter(f.kind for f in findings) == Counter(
            image_missing=2,
            label_missing=1,
            image_unreadable=1,
            label_unreadable=1,
            image_sha256_differs=1,
            label_sha256_differs=1,
            grids_differ=1,
            unknown_labels=1,
            no_pancreas=1,
            duplicate_image=1,
            patient_in_two_folds=1,
            patient_in_two_lists=1,
        )
        assert calls == [(i, 6) for i in range(1, 7)]
        lines = format_findings(findings, 6).splitlines()
        assert lines[0] == "6 case(s) checked, 13 problem(s) in 6 of them"
        assert len(lines) == 4 + 13
        assert lines[2].split() == ["case", "problem", "detail"]
        assert all(
            line.startswith(f.case_id) and f.kind.replace("_", " ") in line
            for line, f in zip(lines[4:], findings, strict=True)
        )


def test_no_torch() -> None:
    modules = ", ".join(
        f"pancreas_seg.data.manifest{part}" for part in ("", "_build", "_check", "_files", "_published")
    )
    code = f"import sys, {modules}; import pancreas_seg.io; assert not {{'torch', 'monai'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
