"""When a result is marked for review, by each reason; and that what is no abdominal CT never comes back "ok"."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from pancreas_seg.config import VerdictConfig
from pancreas_seg.data.phantom import LABELS, draw_phantom, unfit
from pancreas_seg.geometry import Box, Geometry
from pancreas_seg.inference.anatomy import Anatomy, anatomy_of
from pancreas_seg.inference.quality import Evidence, assess, metal_ml, tissue_share
from pancreas_seg.inference.segmenter import Segmenter
from pancreas_seg.io import Scan, read_ct

ONE_PIECE = np.ones((3, 3, 3), dtype=bool)
SOUND = Evidence(
    organ="pancreas",
    lowest_hu=-1000.0,
    mask=ONE_PIECE,
    at_border=False,
    volume_ml=72.0,
    mean_hu=90.0,
    probability=0.95,
    agreement=0.93,
    stability=0.97,
    organs_ml=2500.0,
    anatomy=Anatomy(170.0, 60.0, 50.0, 0.15),
    tissue_share=0.95,
    metal_ml=0.0,
)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "verdict.md"


def _two_pieces() -> np.ndarray:
    mask = np.zeros((5, 3, 3), dtype=bool)
    mask[[0, 4]] = True
    return mask


# What is changed, the code that it gives, and a value at the threshold that gives none.
REASONS = [
    ({"lowest_hu": -499.0}, "not_hu", {"lowest_hu": -500.0}),
    ({"tissue_share": 0.74}, "hu_spread", {"tissue_share": 0.75}),
    ({"organs_ml": 399.0}, "no_abdomen", {"organs_ml": 400.0}),
    ({"anatomy": Anatomy(-1.0, 60.0, 50.0)}, "orientation", {"anatomy": Anatomy(0.0, 60.0, 50.0)}),
    ({"anatomy": Anatomy(170.0, -1.0, 50.0)}, "orientation", {"anatomy": Anatomy(170.0, 0.0, 50.0)}),
    ({"anatomy": Anatomy(170.0, 60.0, -1.0)}, "orientation", {"anatomy": Anatomy(170.0, 60.0, 0.0)}),
    ({"anatomy": Anatomy(1, 1, 1, 0.61)}, "spleen_like_liver", {"anatomy": Anatomy(1, 1, 1, 0.6)}),
    ({"mask": ~ONE_PIECE}, "not_found", {}),
    ({"at_border": True}, "touches_border", {}),
    ({"metal_ml": 1.1}, "metal", {"metal_ml": 1.0}),
    ({"mask": _two_pieces()}, "components", {}),
    ({"volume_ml": 19.9}, "volume", {"volume_ml": 20.0}),
    ({"volume_ml": 180.1}, "volume", {"volume_ml": 180.0}),
    ({"mean_hu": -30.1}, "hu", {"mean_hu": -30.0}),
    ({"mean_hu": 180.1}, "hu", {"mean_hu": 180.0}),
    ({"probability": 0.79}, "probability", {"probability": 0.8}),
    ({"agreement": 0.74}, "disagreement", {"agreement": 0.75}),
    ({"stability": 0.84}, "unstable", {"stability": 0.85}),
]


@pytest.mark.parametrize(("change", "code", "allowed"), REASONS)
def test_each_reason_and_its_threshold(change, code: str, allowed) -> None:
    verdict, reasons = assess(replace(SOUND, **change), VerdictConfig())
    assert (verdict, [reason.code for reason in reasons]) == ("review", [f"result.{code}"])
    assert assess(replace(SOUND, **allowed), VerdictConfig()) == ("ok", [])


def test_what_is_not_known_is_no_reason() -> None:
    """As without a coarse stage."""
    bare = Evidence("pancreas", -1000.0, ONE_PIECE, False, 72.0)
    assert assess(bare, VerdictConfig()) == ("ok", [])


def test_volume_and_hu_are_judged_of_a_pancreas_only() -> None:
    assert assess(replace(SOUND, organ="liver", volume_ml=1500.0, mean_hu=300.0), VerdictConfig())[0] == "ok"


def test_the_page_names_every_reason_and_threshold() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert {code for _, code, _ in REASONS} <= {word.removeprefix("result.") for word in text.split("`")}
    assert {field.name for field in fields(VerdictConfig)} <= {
        word.removeprefix("verdict.") for word in text.split("`")
    }


def test_share_of_tissue_counts_what_is_no_air() -> None:
    image = np.full((4, 5, 6), -1000, np.int16)
    assert tissue_share(image) is None
    image[0] = 40
    image[1, 0] = 301
    assert tissue_share(image) == pytest.approx(30 / 36)
    # Of a large image a part is looked at, all over it.
    large = np.full((400, 3, 3), 1000, np.int16)
    large[:100] = -200
    assert tissue_share(large) == pytest.approx(0.25, abs=0.01)


def test_metal_counts_within_20_mm_of_the_box() -> None:
    geometry = Geometry((40, 5, 5), np.diag([2.0, 5.0, 10.0, 1.0]))
    image = np.zeros((40, 5, 5), np.int16)
    image[[1, 5], 2, 2] = 3000
    image[20, 2, 2] = 2000
    assert metal_ml(image, geometry, Box((15, 2, 2), (20, 3, 3))) == pytest.approx(0.1)


def test_anatomy_is_measured_in_patient_directions() -> None:
    # Voxel axes: to the feet, to the back, to the right.
    affine = np.array([[0, 0, 3.0, 5], [0, -2.0, 0, 7], [-4.0, 0, 0, 9], [0, 0, 0, 1]])
    geometry = Geometry((30, 40, 50), affine)
    boxes = {
        "liver": (slice(0, 10), slice(0, 20), slice(30, 50)),
        "spleen": (slice(0, 10), slice(20, 40), slice(0, 10)),
        "kidney_left": (slice(20, 30), slice(28, 40), slice(0, 12)),
        "kidney_right": (slice(20, 30), slice(28, 40), slice(38, 50)),
    }
    seen = {name: np.zeros(geometry.shape, bool) for name in boxes}
    for name, box in boxes.items():
        seen[name][box] = True
    found = anatomy_of(seen, geometry)
    assert found == Anatomy(pytest.approx(35 * 3), pytest.approx(24 * 2), pytest.approx(20 * 4), pytest.approx(0.5))
    seen["kidney_left"][:] = seen["kidney_right"][:] = False
    assert anatomy_of(seen, geometry) == Anatomy(pytest.approx(105), None, None, pytest.approx(0.5))
    assert anatomy_of({}, geometry) == Anatomy()


def test_spoiled_images_are_what_they_are_named() -> None:
    phantom = draw_phantom(3, (5, 5, 6), "LPS")
    made = {name: spoil(phantom.hu, phantom.geometry) for name, spoil in unfit.SPOILED.items()}
    assert {hu.shape for hu, _ in made.values()} == {phantom.hu.shape}
    assert {str(hu.dtype) for hu, _ in made.values()} == {"int16"}
    assert made["mr"][0].min() >= 0
    assert np.unique(made["eight_bit"][0]).max() == 255
    np.testing.assert_array_equal(made["upside_down"][0], phantom.hu[:, :, ::-1])
    np.testing.assert_array_equal(made["left_right"][0], phantom.hu[::-1])
    np.testing.assert_array_equal(made["shifted_up"][0] - 1024, phantom.hu)
    assert made["metal"][0].max() == 3071
    air = unfit.cylinder(-1000.0)[0]
    assert air.max() < -900
    low, high = unfit.pelvis(3, (5, 5, 6)), unfit.chest(3, (5, 5, 6))
    assert (low[0] > 0).mean() > 0.1
    assert (high[0] < -700).mean() > 0.1
    assert low[1].affine[2, 3] < high[1].affine[2, 3]


def _made(kind: str) -> unfit.Image:
    drawn = {
        "air": lambda: unfit.cylinder(-1000.0),
        "water": lambda: unfit.cylinder(0.0),
        "rods": lambda: unfit.cylinder(0.0, inserts=True),
        "head": unfit.head,
        "chest": lambda: unfit.chest(1000),
        "pelvis": lambda: unfit.pelvis(1000),
    }
    if kind in drawn:
        return drawn[kind]()
    phantom = draw_phantom(1000, (2.5, 2.5, 3.0), "LPS")
    return unfit.SPOILED[kind](phantom.hu, phantom.geometry)


@pytest.fixture(scope="module")
def starter() -> Segmenter:
    return Segmenter.from_weights("starter", settings=("infer.fallback=none",))


SLOW = ["water", "rods", "head", "chest", "pelvis", *unfit.SPOILED]


@pytest.mark.parametrize("kind", ["air", *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)])
def test_what_is_no_sound_abdominal_ct_is_not_ok(starter: Segmenter, kind: str) -> None:
    hu, geometry = _made(kind)
    result = starter.segment(Scan(hu, geometry, Path(kind), ""))
    assert result.verdict == "review"
    assert result.reasons


@pytest.mark.slow
def test_a_sound_phantom_is_ok(starter: Segmenter) -> None:
    phantom = draw_phantom(1000, (2.5, 2.5, 3.0), "LPS")
    result = starter.segment(Scan(phantom.hu, phantom.geometry, Path("phantom"), ""))
    assert (result.verdict, result.reasons) == ("ok", [])
    true_ml = (phantom.labels == min(v for v, n in LABELS.items() if n == "pancreas")).sum() * phantom.geometry.voxel_ml
    assert result.volume_ml["pancreas"] == pytest.approx(true_ml, rel=0.15)


@pytest.mark.real_data
@pytest.mark.parametrize("kind", unfit.SPOILED)
def test_no_spoiled_real_ct_is_ok(real_data: Path, starter: Segmenter, kind: str) -> None:
    scan = read_ct(real_data / "cb001" / "small_ct.nii.gz")
    hu, geometry = unfit.SPOILED[kind](scan.image, scan.geometry)
    assert starter.segment(Scan(hu, geometry, Path(kind), "")).verdict == "review"


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "below_liver"), [("totalseg", 0.55), ("acrinflt001", 0.3)])
def test_no_real_pelvis_is_ok(real_data: Path, starter: Segmenter, name: str, below_liver: float) -> None:
    scan = read_ct(real_data / name / "ct.nii.gz")
    hu, geometry = unfit.part_of_height(scan.image, scan.geometry, 0.0, below_liver)
    assert starter.segment(Scan(hu, geometry, Path(name), "")).verdict == "review"
