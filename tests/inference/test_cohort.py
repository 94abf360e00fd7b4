from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

from pancreas_seg.config import Config
from pancreas_seg.errors import ManifestError
from pancreas_seg.geometry import Geometry
from pancreas_seg.inference.cohort import CaseInput, CaseOptions, find_cases, segment_cases
from pancreas_seg.inference.segmenter import Segmenter
from pancreas_seg.io import write_image
from tests.conftest import ANY_ORGAN
from tests.io.conftest import make_slices, save


@pytest.fixture
def segmenter(threshold_network) -> Segmenter:
    tree = {
        "data": {"spacing_mm": [2.0, 2.0, 3.0], "patch_size": [8, 8, 8]},
        "clean": {"minimum_volume_ml": 0.0},
        "verdict": ANY_ORGAN,
    }
    return Segmenter(threshold_network, Config().changed(tree), "12" * 32)


def _ct(write_nifti, name: str):
    array = np.full((8, 8, 8), -900, np.int16)
    array[2:5, 2:5, 2:5] = 100
    return write_nifti(array, name=name)


def _rows(path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_bad_case_does_not_end_the_run(write_nifti, tmp_path, segmenter) -> None:
    bad = tmp_path / "b.nii.gz"
    bad.write_bytes(b"\x1f\x8b")
    cases = find_cases([_ct(write_nifti, "a.nii.gz"), bad, _ct(write_nifti, "c.nii")])
    outcomes = segment_cases(segmenter, cases, tmp_path / "out")
    assert [(o.case, o.status) for o in outcomes] == [("a", "ok"), ("b", "refused"), ("c", "ok")]
    assert [row["case"] for row in _rows(tmp_path / "out" / "summary.csv")] == ["a", "b", "c"]
    refused = json.loads((tmp_path / "out" / "b" / "result.json").read_text())
    assert refused["verdict"] == "refused"
    assert refused["reasons"][0]["code"] == "input.truncated"
    assert str(tmp_path) not in json.dumps(refused)
    assert not (tmp_path / "out" / "b" / "mask.nii.gz").exists()


def test_a_bug_in_one_case_does_not_end_the_run(write_nifti, tmp_path, segmenter, monkeypatch) -> None:
    cases = find_cases([_ct(write_nifti, "a.nii.gz"), _ct(write_nifti, "b.nii.gz")])
    real = Segmenter.segment

    def fails_first(self, scan, **options):
        if scan.path.name == "a.nii.gz":
            raise RuntimeError("bug")
        return real(self, scan, **options)

    monkeypatch.setattr(Segmenter, "segment", fails_first)
    outcomes = segment_cases(segmenter, cases, tmp_path / "out")
    assert [o.status for o in outcomes] == ["failed", "ok"]


def test_resume_leaves_out_what_is_finished_and_unchanged(write_nifti, tmp_path, segmenter) -> None:
    cases = find_cases([_ct(write_nifti, "a.nii.gz"), _ct(write_nifti, "b.nii.gz")])
    out = tmp_path / "out"
    segment_cases(segmenter, cases[:1], out)
    done: list[str] = []
    segment_cases(segmenter, cases, out, CaseOptions(resume=True, on_saved=lambda case, *_: done.append(case.case)))
    assert done == ["b"]
    assert [row["case"] for row in _rows(out / "summary.csv")] == ["a", "b"]
    other = Segmenter(segmenter.network, segmenter.config, "34" * 32)
    segment_cases(other, cases, out, CaseOptions(resume=True, on_saved=lambda case, *_: done.append(case.case)))
    assert done == ["b", "a", "b"]
    (out / "a" / "mask.nii.gz").unlink()
    segment_cases(other, cases, out, CaseOptions(resume=True, on_saved=lambda case, *_: done.append(case.case)))
    assert done[3:] == ["a"]


def test_cases_of_folders_files_and_manifests(write_nifti, tmp_path) -> None:
    a, b = _ct(write_nifti, "a.nii.gz"), _ct(write_nifti, "b.nii")
    (tmp_path / "notes.txt").write_text("x")
    listed = {
        "labels": {"0": "background", "1": "pancreas"},
        "training": [],
        "test": [{"case_id": "first", "image": "a.nii.gz"}],
    }
    manifest = tmp_path / "m.json"
    manifest.write_text(json.dumps(listed))
    assert find_cases([tmp_path]) == [CaseInput("a", a), CaseInput("b", b)]
    assert find_cases([a, a, b]) == [CaseInput("a", a), CaseInput("a-2", a), CaseInput("b", b)]
    assert find_cases([manifest]) == [CaseInput("first", a)]
    (tmp_path / "empty").mkdir()
    assert find_cases([tmp_path / "empty"]) == [CaseInput("empty", tmp_path / "empty")]


def test_what_a_killed_run_left_is_removed(write_nifti, tmp_path, segmenter) -> None:
    cases = find_cases([_ct(write_nifti, "a.nii.gz")])
    left = tmp_path / "out" / "a" / ".unfinished-x-mask.nii.gz"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    segment_cases(segmenter, cases, tmp_path / "out")
    assert sorted(p.name for p in left.parent.iterdir()) == ["mask.nii.gz", "result.json"]


def test_nothing_stale_lies_beside_a_new_result(write_nifti, tmp_path, segmenter) -> None:
    ct = _ct(write_nifti, "a.nii.gz")
    out = tmp_path / "out"
    segment_cases(segmenter, find_cases([ct]), out, CaseOptions(probability=True))
    assert (out / "a" / "probability.nii.gz").exists()
    segment_cases(segmenter, find_cases([ct]), out, CaseOptions(resume=True, expected=("preview.png",)))
    assert sorted(p.name for p in (out / "a").iterdir()) == ["mask.nii.gz", "result.json"]
    ct.write_bytes(b"broken")
    segment_cases(segmenter, find_cases([ct]), out)
    assert [p.name for p in (out / "a").iterdir()] == ["result.json"]


def test_hidden_files_are_no_cases_and_case_ids_stay_in_the_output(write_nifti, tmp_path) -> None:
    a = _ct(write_nifti, "a.nii.gz")
    _ct(write_nifti, "._a.nii.gz")
    assert find_cases([tmp_path]) == [CaseInput("a", a)]
    manifest = tmp_path / "m.json"
    manifest.write_text(json.dumps({"training": [], "test": [{"case_id": "../b", "image": "a.nii.gz"}]}))
    with pytest.raises(ManifestError, match="manifest.bad_case_id"):
        find_cases([manifest])


def _study(folder, study: str = "1.2.3", series: str = "1.2.3.4"):
    array = np.full((8, 8, 8), -900, np.int16)
    array[2:5, 2:5, 2:5] = 100
    slices = make_slices(array, np.diag([2.0, 2.0, 3.0, 1.0]), series)
    for ds in slices:
        ds.StudyInstanceUID = study
    return save(slices, folder)


def test_dicom_studies_are_cases(write_nifti, tmp_path) -> None:
    root = tmp_path / "in"
    one = _study(root / "one", "1.1")
    assert find_cases([one]) == [CaseInput("one", one)]
    assert find_cases([root]) == [CaseInput("in", root)]  # one study in all
    # Two series of one study, each in a folder of its own, are one case; another study is another.
    _study(root / "two" / "arterial", "1.2", "1.2.1")
    _study(root / "two" / "venous" / "x", "1.2", "1.2.2")
    three = shutil.make_archive(str(root / "three"), "zip", one)
    a = _ct(write_nifti, "in/a.nii.gz")
    (root / "empty").mkdir()
    (root / "notes.txt").write_text("x")
    (root / ".hidden").mkdir()
    shutil.copytree(one, root / ".hidden" / "y")
    expected = [("a", a), ("three", root / "three.zip"), ("one", one), ("two", root / "two")]
    assert [(case.case, case.path) for case in find_cases([root])] == expected
    assert three == str(root / "three.zip")
    # Without UIDs each folder stands for itself.
    for n in "pq":
        _study(tmp_path / "blank" / n, "")
    assert [case.case for case in find_cases([tmp_path / "blank"])] == ["p", "q"]


def test_dicom_and_other_cases_are_segmented_in_one_run(write_nifti, tmp_path, segmenter) -> None:
    root = tmp_path / "in"
    first, second = _study(root / "first", "1.1"), _study(root / "second", "1.2", "1.2.9")
    (second / "IM003").unlink()
    shutil.make_archive(str(root / "third"), "zip", first)
    shutil.copyfile(_ct(write_nifti, "a.nii.gz"), root / "a.nii.gz")
    outcomes = segment_cases(segmenter, find_cases([root]), tmp_path / "out")
    assert [(o.case, o.status) for o in outcomes] == [
        ("a", "ok"), ("third", "ok"), ("first", "ok"), ("second", "refused")
    ]  # fmt: skip
    assert outcomes[3].reasons == "input.missing_slices"
    written = "".join(p.read_text() for p in (tmp_path / "out").rglob("*.json"))
    assert "Planted" not in written
    assert "PLANTED" not in written
    # Finished cases are known again by their files' hash, in a zip or not.
    done: list[str] = []
    segment_cases(
        segmenter,
        find_cases([root]),
        tmp_path / "out",
        CaseOptions(resume=True, on_saved=lambda case, *_: done.append(case.case)),
    )
    assert done == []
    picked = segment_cases(segmenter, find_cases([first]), tmp_path / "b", CaseOptions(series_uid="1.2.3.5"))
    assert picked[0].reasons == "input.no_such_series"


@pytest.mark.parametrize("probability", [False, True])
@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz", "ct.mha", "ct.nrrd", "dicom"])
def test_what_would_need_too_much_memory_is_refused_before_it_is_read(
    tmp_path, threshold_network, name: str, probability: bool
) -> None:
    array = np.zeros((64, 64, 64), np.int16)
    array[1] = 1000
    if name == "dicom":
        save(make_slices(array, np.diag([1.0, 1.0, 1.0, 1.0])), tmp_path / name)
    else:
        write_image(tmp_path / name, array, Geometry(array.shape, np.eye(4)))
    needed = 0.7 + 64**3 * (2 * 2 + 4 + 8 * probability) / 1e9

    def reasons(gb: float) -> str:
        config = Config().changed({"infer": {"max_memory_gb": gb}, "data": {"patch_size": [8, 8, 8]}})
        (outcome,) = segment_cases(
            Segmenter(threshold_network, config),
            find_cases([tmp_path / name]),
            tmp_path / "out",
            CaseOptions(probability=probability),
        )
        return outcome.reasons

    assert reasons(needed - 1e-4) == "input.needs_memory"
    assert "needs_memory" not in reasons(needed + 1e-4)
