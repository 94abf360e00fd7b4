"""Rows of cases, with bad cases among them; files that pair up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pancreas_seg.errors import ConfigError, InputError
from pancreas_seg.evaluation import compare as module
from pancreas_seg.evaluation.compare import evaluate_cases
from pancreas_seg.evaluation.metrics import agreement
from pancreas_seg.evaluation.pairs import find_pairs

Write = Callable[..., Path]
AFFINE = np.diag([3.0, 2.0, 1.0, 1.0])
UNIONS = {"pancreas": (1,), "cancer": (2,), "pancreas_and_cancer": (1, 2)}


def label_map(shift: int = 0) -> NDArray[np.uint8]:
    labels = np.zeros((14, 13, 12), np.uint8)
    labels[3:9, 3 + shift : 8 + shift, 2:9] = 1
    labels[5:8, 4:6, 4:7] = 2
    return labels


@pytest.fixture
def reference(write_nifti: Write) -> Path:
    return write_nifti(label_map(), AFFINE, "reference.nii.gz")


@pytest.fixture
def prediction(write_nifti: Write) -> Path:
    return write_nifti(label_map(1), AFFINE, "prediction.nii.gz")


def test_labels_and_their_unions(reference: Path, prediction: Path) -> None:
    rows = evaluate_cases([("c1", reference, prediction)], UNIONS, tolerances_mm=(1.0, 5.0))
    a, b = label_map(), label_map(1)
    spacing = (3.0, 2.0, 1.0)
    wanted = [(a == 1, b == 1), (a == 2, b == 2), (a > 0, b > 0)]
    assert [row.label for row in rows] == list(UNIONS)
    for row, (r, p) in zip(rows, wanted, strict=True):
        assert (row.case, row.status, row.reason, row.resampled) == ("c1", "ok", "", False)
        assert row.agreement == agreement(r, p, spacing, (1.0, 5.0))


def test_predictions_with_other_values(reference: Path, write_nifti: Write) -> None:
    other = write_nifti(label_map() * np.uint8(7), AFFINE, "other.nii.gz")
    rows = evaluate_cases([("c1", reference, other)], {"pancreas": (1,)}, prediction_labels={"pancreas": (7,)})
    assert rows[0].agreement is not None
    assert rows[0].agreement.dice == 1.0


def test_bad_cases_have_rows_with_their_reasons(
    reference: Path, prediction: Path, tmp_path: Path, write_nifti: Write, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "Doe^Jane.nii.gz"
    broken.write_bytes(reference.read_bytes()[:100])
    shifted = AFFINE.copy()
    shifted[0, 3] = 1.0
    pairs = [
        ("none", reference, None),
        ("no file", reference, tmp_path / "nothing.nii.gz"),
        ("broken", reference, broken),
        ("no reference", tmp_path / "nothing.nii.gz", prediction),
        ("shifted", reference, write_nifti(label_map(), shifted, "shifted.nii.gz")),
        ("good", reference, prediction),
    ]
    done: list[tuple[int, int]] = []
    rows = evaluate_cases(pairs, UNIONS, on_case=lambda n, all_cases: done.append((n, all_cases)))
    assert done == [(n, 6) for n in range(1, 7)]
    assert len(rows) == 6 * 3
    first = {row.case: row for row in rows}
    assert [first[case].status for case, _, _ in pairs] == ["missing", "missing", "failed", "failed", "failed", "ok"]
    codes = [first[case].reason.split(":")[0] for case, _, _ in pairs]
    assert codes[:2] == ["evaluation.no_prediction"] * 2
    assert codes[2:] == ["input.truncated", "input.unreadable", "input.grids_differ", ""]
    assert "1 mm apart" in first["shifted"].reason
    assert not any("Doe" in row.reason or str(tmp_path) in row.reason for row in rows)
    assert all((row.agreement is None) == (row.status != "ok") for row in rows)
    assert "grids_differ" in caplog.text


def test_a_bug_in_one_case_does_not_end_the_run(
    reference: Path, prediction: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> None:
        raise RuntimeError("/home/doe/ct")

    monkeypatch.setattr(module, "agreement", fails)
    rows = evaluate_cases([("a", reference, prediction), ("b", reference, None)])
    assert [(row.status, row.reason.split(":")[0]) for row in rows] == [
        ("failed", "bug"),
        ("missing", "evaluation.no_prediction"),
    ]
    assert "doe" not in rows[0].reason


def test_resampling_only_when_asked(reference: Path, write_nifti: Write) -> None:
    """Stored with other axes: the same voxels in the same places, so nothing is lost."""
    turned = AFFINE.copy()
    turned[0, 0], turned[0, 3] = -3.0, 13 * 3.0
    flipped = write_nifti(np.ascontiguousarray(label_map()[::-1]), turned, "flipped.nii.gz")
    assert evaluate_cases([("c1", reference, flipped)])[0].status == "failed"
    row = evaluate_cases([("c1", reference, flipped)], resample=True)[0]
    assert (row.status, row.resampled) == ("ok", True)
    assert row.agreement is not None
    assert (row.agreement.dice, row.agreement.hd95_mm) == (1.0, 0.0)


def test_resampling_onto_a_finer_grid(reference: Path, write_nifti: Write) -> None:
    coarse = np.diag([6.0, 4.0, 2.0, 1.0])
    coarse[:3, 3] = 1.5, 1.0, 0.5
    halved = write_nifti(label_map()[::2, ::2, ::2].copy(), coarse, "coarse.nii.gz")
    row = evaluate_cases([("c1", reference, halved)], resample=True)[0]
    assert row.agreement is not None
    assert 0.6 < row.agreement.dice < 1.0
    assert row.agreement.reference_ml == pytest.approx(np.count_nonzero(label_map() == 1) * 6 / 1000)


def test_label_maps_without_the_label(reference: Path, write_nifti: Write) -> None:
    nothing = write_nifti(np.zeros((14, 13, 12), np.uint8), AFFINE, "nothing.nii.gz")
    pairs = [("both", nothing, nothing), ("missed", reference, nothing), ("invented", nothing, reference)]
    found = [row.agreement for row in evaluate_cases(pairs)]
    assert [a.dice for a in found if a is not None] == [1.0, 0.0, 0.0]


def test_wrong_settings_are_refused(reference: Path, prediction: Path) -> None:
    pair = ("c1", reference, prediction)
    with pytest.raises(ConfigError, match=r"config\.no_cases"):
        evaluate_cases([])
    with pytest.raises(ConfigError, match=r"config\.duplicate_case"):
        evaluate_cases([pair, pair])
    with pytest.raises(ConfigError, match=r"config\.no_labels"):
        evaluate_cases([pair], {})
    with pytest.raises(ConfigError, match=r"config\.labels_differ"):
        evaluate_cases([pair], prediction_labels={"liver": (1,)})
    for values in ((), (0,), (1.5,), (True,), (70000,)):
        with pytest.raises(ConfigError, match=r"config\.bad_label"):
            evaluate_cases([pair], {"pancreas": values})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=r"config\.bad_tolerance"):
        evaluate_cases([pair], tolerances_mm=(-1.0,))


def test_pairs_of_files_folders_and_manifests(tmp_path: Path, write_nifti: Write) -> None:
    a = write_nifti(label_map(), AFFINE, "a.nii.gz")
    references, predictions = tmp_path / "references", tmp_path / "predictions"
    (predictions / "a").mkdir(parents=True)
    references.mkdir()
    for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz"):
        (references / name).write_bytes(a.read_bytes())
    (references / "notes.txt").write_text("")
    (predictions / "a" / "mask.nii.gz").write_bytes(a.read_bytes())
    (predictions / "b.nii.gz").write_bytes(a.read_bytes())
    wanted = [
        ("a", references / "a.nii.gz", predictions / "a" / "mask.nii.gz"),
        ("b", references / "b.nii.gz", predictions / "b.nii.gz"),
        ("c", references / "c.nii.gz", None),
    ]
    assert find_pairs(references, predictions) == wanted
    assert find_pairs(references / "b.nii.gz", predictions) == wanted[1:2]
    assert find_pairs(a, references / "b.nii.gz") == [("a", a, references / "b.nii.gz")]

    manifest = tmp_path / "manifest.json"
    cases = [{"image": f"ct_{n}.nii.gz", "label": f"references/{n}.nii.gz", "case_id": n} for n in "abc"]
    labels = {"0": "background", "1": "pancreas"}
    manifest.write_text(json.dumps({"labels": labels, "training": cases, "test": ["ct_d.nii.gz"]}))
    assert find_pairs(manifest, predictions) == wanted


def test_pairs_need_folders_with_something_in_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"evaluation\.no_references"):
        find_pairs(tmp_path, tmp_path)
    (tmp_path / "a.nii.gz").write_bytes(b"x")
    with pytest.raises(InputError, match=r"evaluation\.no_folder"):
        find_pairs(tmp_path, tmp_path / "nothing")
