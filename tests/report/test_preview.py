"""The preview shows the same picture for every voxel orientation, the right way round."""

from __future__ import annotations

import struct
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import colors
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from numpy.typing import NDArray

from pancreas_seg.geometry import Geometry
from pancreas_seg.report import preview
from pancreas_seg.report.preview import OUTLINE_COLOURS, display_slices, outline, write_preview

SHAPE = (14, 11, 9)
SPACING = (1.5, 2.0, 4.0)
ORIGIN = (-40.0, 12.0, -300.0)
ORGAN = (slice(9, 13), slice(2, 7), slice(5, 8))
"""In RAS voxels: on the right, more posterior than anterior, in the upper half."""
TURNS = list(product(permutations(range(3)), product((1, -1), repeat=3)))

Volume = tuple[NDArray[np.float32], NDArray[np.uint8], Geometry]


def ras_volume() -> Volume:
    """A CT with voxel axes R, A, S: HU that differ everywhere, and an organ with a notch, and label 2 beside it."""
    image = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE) - 500.0
    mask = np.zeros(SHAPE, np.uint8)
    mask[ORGAN] = 1
    mask[9:11, 2:4, 5] = 0
    mask[6:9, 3:7, 5:8] = 2
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = ORIGIN
    return image, mask, Geometry(SHAPE, affine)


def turned(volume: Volume, order: tuple[int, ...], signs: tuple[int, ...]) -> Volume:
    """The same patient with the voxel axes in another order and direction, as a file could hold it."""
    image, mask, geometry = volume
    flips = tuple(slice(None, None, sign) for sign in signs)
    a, b, c = (geometry.shape[axis] for axis in order)
    shape = (a, b, c)
    move = np.zeros((4, 4))
    move[3, 3] = 1.0
    for new, (old, sign) in enumerate(zip(order, signs, strict=True)):
        move[old, new] = sign
        move[old, 3] = 0 if sign > 0 else shape[new] - 1
    grid = Geometry(shape, geometry.affine @ move)
    return image.transpose(order)[flips].copy(), mask.transpose(order)[flips].copy(), grid


def chunks(path: Path) -> dict[bytes, bytes]:
    raw, found, at = path.read_bytes(), {}, 8
    while at < len(raw):
        (length,) = struct.unpack(">I", raw[at : at + 4])
        found[raw[at + 4 : at + 8]] = raw[at + 8 : at + 8 + length]
        at += length + 12
    return found


def where(path: Path, colour: str, view: int) -> NDArray[np.intp]:
    """Rows and columns of a colour in a view: 0 axial, 1 coronal, 2 sagittal."""
    picture = np.rint(imread(path)[..., :3] * 255).astype(int)
    same = (picture == np.rint(np.array(colors.to_rgb(colour)) * 255)).all(axis=-1)
    return np.argwhere(same[40:590, 500 * view : 500 * (view + 1)])


@pytest.mark.parametrize(("order", "signs"), TURNS)
def test_every_orientation_gives_the_same_slices(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    expected = display_slices(*ras_volume())
    found = display_slices(*turned(ras_volume(), order, signs))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.labels, b.labels)
        assert a.extent_mm == pytest.approx(b.extent_mm)
        assert (a.name, a.edges, a.position) == (b.name, b.edges, b.position)


def test_turned_volumes_are_the_same_patient() -> None:
    image, _, geometry = ras_volume()
    for order, signs in TURNS:
        other, _, grid = turned(ras_volume(), order, signs)
        for index in np.ndindex(2, 2, 2):
            place = geometry.world(index)
            assert other[tuple(np.rint(grid.index(place)).astype(int))] == image[index]


def test_slices_are_turned_as_radiologists_look_at_them() -> None:
    image, mask, geometry = ras_volume()
    axial, coronal, sagittal = display_slices(image, mask, geometry)
    i, j, k = 12, 4, 7
    last = [n - 1 for n in SHAPE]
    assert axial.image[0, 0] == image[last[0], last[1], k]  # top left: right, anterior
    assert axial.image[-1, 0] == image[last[0], 0, k]
    assert axial.image[0, -1] == image[0, last[1], k]
    assert coronal.image[0, 0] == image[last[0], 6, last[2]]  # top left: right, superior
    assert coronal.image[-1, 0] == image[last[0], 6, 0]
    assert coronal.image[0, -1] == image[0, 6, last[2]]
    assert sagittal.image[0, 0] == image[i, last[1], last[2]]  # top left: anterior, superior
    assert sagittal.image[-1, 0] == image[i, last[1], 0]
    assert sagittal.image[0, -1] == image[i, 0, last[2]]
    assert [view.edges for view in (axial, coronal, sagittal)] == ["RLAP", "RLSI", "APSI"]
    assert mask[i, j, k] == 1


def test_extents_follow_the_spacing() -> None:
    width, depth, height = (n * mm for n, mm in zip(SHAPE, SPACING, strict=True))
    extents = [view.extent_mm for view in display_slices(*ras_volume())]
    assert extents == [(0, width, 0, depth), (0, width, 0, height), (0, depth, 0, height)]


def test_slices_go_through_the_largest_area_of_label_1() -> None:
    image, mask, geometry = ras_volume()
    mask[:] = 0
    mask[3, 1:9, 2] = 1
    mask[1:13, 5, 6] = 1
    mask[0:2] = 2
    axial, coronal, sagittal = display_slices(image, mask, geometry)
    np.testing.assert_array_equal(axial.labels, mask[::-1, ::-1, 6].T)
    np.testing.assert_array_equal(coronal.labels, mask[::-1, 5, ::-1].T)
    np.testing.assert_array_equal(sagittal.labels, mask[3, ::-1, ::-1].T)
    assert axial.position == "I 276.0 mm"
    assert coronal.position == "A 22.0 mm"
    assert sagittal.position == "L 35.5 mm"


def test_slices_are_views() -> None:
    image, mask, geometry = turned(ras_volume(), (2, 0, 1), (-1, 1, -1))
    for view in display_slices(image, mask, geometry):
        assert np.shares_memory(view.image, image)
        assert np.shares_memory(view.labels, mask)


def test_oblique_grid_follows_its_closest_axes() -> None:
    image, mask, geometry = ras_volume()
    a = np.deg2rad(20)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    oblique = display_slices(image, mask, Geometry(SHAPE, turn @ geometry.affine))
    for found, expected in zip(oblique, display_slices(image, mask, geometry), strict=True):
        np.testing.assert_array_equal(found.image, expected.image)
        assert found.extent_mm == pytest.approx(expected.extent_mm)


def test_outline_is_the_pixel_boundary() -> None:
    region = np.zeros((4, 5), bool)
    region[1:3, 2] = True
    region[0, 4] = True
    edges = {tuple(map(tuple, edge)) for edge in outline(region).astype(int).tolist()}
    assert edges == {
        ((2, 1), (3, 1)),
        ((2, 3), (3, 3)),
        ((2, 1), (2, 2)),
        ((2, 2), (2, 3)),
        ((3, 1), (3, 2)),
        ((3, 2), (3, 3)),
        ((4, 0), (5, 0)),
        ((4, 1), (5, 1)),
        ((4, 0), (4, 1)),
        ((5, 0), (5, 1)),
    }
    assert outline(np.zeros((3, 3), bool)).shape == (0, 2, 2)
    assert outline(np.ones((3, 4), bool)).shape == (14, 2, 2)


def test_picture_has_its_size_and_outlines(tmp_path: Path) -> None:
    path = write_preview(tmp_path / "new" / "preview.png", *ras_volume(), title="Case 1")
    assert imread(path).shape[:2] == (620, 1500)
    for view in range(3):
        assert len(where(path, OUTLINE_COLOURS[0], view)) > 100
    assert [len(where(path, OUTLINE_COLOURS[1], view)) > 100 for view in range(3)] == [True, True, False]
    assert [file.name for file in path.parent.iterdir()] == ["preview.png"]


def test_outline_lies_on_the_boundary_in_the_right_place(tmp_path: Path) -> None:
    image, mask, geometry = ras_volume()
    mask[:] = 0
    mask[ORGAN] = 1
    image[:] = 0.0
    path = write_preview(tmp_path / "preview.png", image, mask, geometry)
    sizes = {"R": SHAPE[0] * SPACING[0], "A": SHAPE[1] * SPACING[1], "S": SHAPE[2] * SPACING[2]}
    reach = {letter: (part.start * mm, part.stop * mm) for letter, part, mm in zip("RAS", ORGAN, SPACING, strict=True)}
    for view, (across, up) in enumerate((("R", "A"), ("R", "S"), ("A", "S"))):
        scale = 484 / max(sizes[across], sizes[up])
        pixels = where(path, OUTLINE_COLOURS[0], view)
        top, left = pixels.min(axis=0)
        bottom, right = pixels.max(axis=0)
        # Pictures are centred at column 250, and at row 620 - 54 - 242 = 324 of which 40 rows are cut off.
        columns = [250 + scale * (sizes[across] / 2 - mm) for mm in reversed(reach[across])]
        rows = [284 + scale * (sizes[up] / 2 - mm) for mm in reversed(reach[up])]
        assert [left, right] == pytest.approx(columns, abs=1.5)
        assert [top, bottom] == pytest.approx(rows, abs=1.5)


def test_image_and_outline_coincide(tmp_path: Path) -> None:
    _, mask, geometry = ras_volume()
    mask[:] = 0
    mask[ORGAN] = 1
    image = np.where(mask == 1, 240.0, -160.0).astype(np.float32)
    path = write_preview(tmp_path / "preview.png", image, mask, geometry)
    picture = np.rint(imread(path)[40:590, :, :3] * 255)
    for view in range(3):
        lines = where(path, OUTLINE_COLOURS[0], view)
        top, left = lines.min(axis=0)
        bottom, right = lines.max(axis=0)
        row, column = (top + bottom) // 2, (left + right) // 2
        panel = picture[:, 500 * view : 500 * (view + 1), 0]
        bright = np.flatnonzero(panel[row, 30:470] > 127) + 30
        assert [bright[0], bright[-1]] == pytest.approx([left, right], abs=2)
        bright = np.flatnonzero(panel[70:500, column] > 127) + 70
        assert [bright[0], bright[-1]] == pytest.approx([top, bottom], abs=2)


def test_picture_is_the_same_for_every_orientation_and_run(tmp_path: Path) -> None:
    expected = write_preview(tmp_path / "ras.png", *ras_volume()).read_bytes()
    for order, signs in TURNS[::11]:
        path = write_preview(tmp_path / "turned.png", *turned(ras_volume(), order, signs))
        assert path.read_bytes() == expected


def test_png_tells_nothing_but_pixels(tmp_path: Path) -> None:
    path = write_preview(tmp_path / "DOE_JANE.png", *ras_volume())
    assert set(chunks(path)) <= {b"IHDR", b"pHYs", b"IDAT", b"IEND"}
    assert path.read_bytes() == write_preview(tmp_path / "other.png", *ras_volume()).read_bytes()


def test_empty_mask_shows_the_middle_and_says_so(tmp_path: Path) -> None:
    image, mask, geometry = ras_volume()
    mask[:] = 0
    axial, coronal, sagittal = display_slices(image, mask, geometry)
    np.testing.assert_array_equal(axial.image, image[::-1, ::-1, 4].T)
    np.testing.assert_array_equal(coronal.image, image[::-1, 5, ::-1].T)
    assert sagittal.position == "L 29.5 mm"
    path = write_preview(tmp_path / "preview.png", image, mask, geometry)
    assert all(len(where(path, OUTLINE_COLOURS[0], view)) == 0 for view in range(3))
    message = imread(path)[:40, 1000:, :3]
    assert (np.abs(message - colors.to_rgb("#ff9d2e")).max(axis=-1) < 0.02).sum() > 200


def test_other_labels_without_label_1_are_outlined(tmp_path: Path) -> None:
    image, mask, geometry = ras_volume()
    mask[:] = 3
    path = write_preview(tmp_path / "preview.png", image, mask, geometry)
    assert len(where(path, OUTLINE_COLOURS[2], 0)) > 100
    figure = preview._draw(display_slices(image, mask, geometry), found=False, title="", window_hu=(-160.0, 240.0))
    assert "no pancreas found" in [text.get_text() for text in figure.texts]


def test_texts() -> None:
    figure = preview._draw(display_slices(*ras_volume()), found=True, title="A $1$ B", window_hu=(-100.0, 200.5))
    lines = [text.get_text() for text in figure.texts]
    assert "A $1$ B" in lines
    assert "Research software, not a medical device." in lines
    assert "label 2" in lines
    assert "no pancreas found" not in lines
    letters = [[text.get_text() for text in axes.texts[:4]] for axes in figure.axes]
    assert letters == [list("RLAP"), list("RLSI"), list("APSI")]
    assert figure.axes[0].texts[4].get_text() == "axial   I 272.0 mm   window \N{MINUS SIGN}100 to 200.5 HU"


def test_letters_are_at_the_edges_they_name() -> None:
    figure = preview._draw(display_slices(*ras_volume()), found=True, title="", window_hu=(-160.0, 240.0))
    for axes in figure.axes:
        places = [text.xy for text in axes.texts[:4]]  # type: ignore[attr-defined]
        assert places == [(0.0, 0.5), (1.0, 0.5), (0.5, 1.0), (0.5, 0.0)]


def test_further_labels_never_have_the_first_colour() -> None:
    assert preview._colour(1) == OUTLINE_COLOURS[0]
    assert OUTLINE_COLOURS[0] not in {preview._colour(label) for label in range(2, 256)}


@pytest.mark.parametrize("shape", [(1, 1, 1), (40, 1, 3), (2, 3, 120)])
def test_thin_volumes(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    image, mask = np.zeros(shape, np.float32), np.ones(shape, np.uint8)
    path = write_preview(tmp_path / "preview.png", image, mask, Geometry(shape, np.diag([1.0, 1.0, 5.0, 1.0])))
    assert len(where(path, OUTLINE_COLOURS[0], 0)) > 0


@pytest.mark.parametrize("wrong", [{"mask": np.zeros((2, 2, 2), np.uint8)}, {"window_hu": (40.0, 40.0)}])
def test_wrong_arguments_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    image, mask, geometry = ras_volume()
    arguments = {"image": image, "mask": mask, "geometry": geometry, **wrong}
    with pytest.raises(ValueError, match=r"grid|window"):
        write_preview(tmp_path / "preview.png", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_failed_drawing_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "preview.png"
    path.write_bytes(b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(FigureCanvasAgg, "print_png", fail)
    with pytest.raises(OSError, match="disk full"):
        write_preview(path, *ras_volume())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
