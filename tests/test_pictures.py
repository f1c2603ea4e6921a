"""Pictures are read back and their pixels counted."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from flowleap import pictures


def test_pixels_round_clamp_and_never_fail():
    x = torch.tensor([-1.0, 1.0, 0.0, -3.0, 3.0, float("nan"), 1 / 255, -1 / 255]).reshape(1, 1, 2, 4)
    colors = pictures.pixels(x)
    assert colors.shape == (1, 2, 4, 3) and colors.dtype.name == "uint8"
    assert colors[0, :, :, 0].flatten().tolist() == [0, 255, 128, 0, 255, 128, 128, 127]


@pytest.mark.parametrize("shape", [(4, 2, 8, 8), (4, 64), (8, 8)])
def test_pixels_refuse_other_shapes(shape):
    with pytest.raises(ValueError, match="expected \\(n, 1 or 3, height, width\\)"):
        pictures.pixels(torch.zeros(shape))


def test_a_grid_puts_images_row_by_row():
    levels = torch.linspace(-1, 1, 6).reshape(6, 1, 1, 1).expand(6, 1, 8, 8)
    picture = pictures.grid(levels, columns=3, cell=16, gutter=2)
    assert picture.size == (3 * 18 + 2, 2 * 18 + 2)
    centers = [
        picture.getpixel((2 + 8 + 18 * column, 2 + 8 + 18 * row))[0]
        for row in range(2)
        for column in range(3)
    ]
    assert centers == [0, 51, 102, 153, 204, 255]
    assert picture.getpixel((0, 0)) == picture.getpixel((18, 5)) == (31, 36, 43)


def test_images_of_several_classes_stand_in_rows_with_their_names():
    images, label = (
        torch.linspace(-1, 1, 7).view(7, 1, 1, 1).expand(7, 1, 16, 16),
        torch.tensor([1, 0, 1, 0, 1, 2, 1]),
    )
    plain = pictures.grid(images, columns=3, cell=16, gutter=2)
    named = pictures.grid(images, 3, 16, 2, label=label, names=("bag", "shoe", "a hat of a very long name"))
    assert named.height == 4 * 18 + 2  # two lines of shoes
    margin = named.width - plain.width
    for row, members in enumerate(([1, 3], [0, 2, 4], [6], [5])):
        for column, index in enumerate(members):
            level = int(pictures.pixels(images)[index, 0, 0, 0])
            assert named.getpixel((margin + 2 + column * 18 + 8, 2 + row * 18 + 8)) == (level,) * 3
    left = named.crop((0, 0, margin, named.height))
    assert (
        left.crop((0, 0, margin, 20)).getcolors() != left.crop((0, 38, margin, 56)).getcolors()
    )  # one has no name
    for same in (torch.zeros(7, dtype=torch.int64), None):
        assert pictures.grid(images, 3, 16, 2, label=same, names=("bag",)).size == plain.size
    many = torch.arange(42) % 21
    assert (
        pictures.grid(images[:1].expand(42, 1, 16, 16), label=many, names=[str(i) for i in range(21)]).width
        < 500
    )
    assert pictures.printable("\udcff" + "x" * 40) == "?" + "x" * 22 + "…"


@pytest.mark.parametrize("names", [("Grüne", "Gröne"), ("Кот", "Пёс"), ("α", "β")])
def test_letters_beyond_ascii_are_drawn_as_they_are_and_not_as_boxes(names):
    """A font draws all letters that it lacks as one box, so two names of as many letters would look the same."""
    font = pictures.typeface(16, *names)
    first, second = (bytes(font.getmask(name)) for name in names)
    assert first != second
    images, label = torch.zeros(2, 1, 16, 16), torch.tensor([0, 1])
    rows = [
        pictures.grid(images, 1, 16, label=label, names=pair).tobytes() for pair in (names, (names[0],) * 2)
    ]
    assert rows[0] != rows[1]
    caption = [(name, Image.new("RGB", (8, 8))) for name in names]
    first, second = (pictures.sheet({"": [cell]}).tobytes() for cell in caption)
    assert first != second


def test_a_grid_is_near_square_and_keeps_colors_and_large_images():
    colors = torch.full((5, 3, 64, 64), -1.0)
    colors[:, 1] = 1.0
    picture = pictures.grid(colors, gutter=0)
    assert picture.size == (3 * 64, 2 * 64)
    assert picture.getpixel((32, 32)) == (0, 255, 0)


def test_a_grid_needs_an_image_and_a_column():
    with pytest.raises(ValueError, match="at least one image"):
        pictures.grid(torch.zeros(0, 1, 8, 8))
    with pytest.raises(ValueError, match="columns=0"):
        pictures.grid(torch.zeros(1, 1, 8, 8), columns=0)


def test_a_figure_has_one_titled_grid_for_each_number_of_evaluations():
    black, white = torch.full((20, 1, 8, 8), -1.0), torch.full((20, 1, 8, 8), 1.0)
    one = pictures.figure({1: black})
    four = pictures.figure({1: black, 2: white, 4: black, 128: white})
    assert four.width > 1.8 * one.width and four.height > 1.8 * one.height
    assert four.getpixel((four.width // 4, four.height // 4 + 20)) == (0, 0, 0)
    assert four.getpixel((3 * four.width // 4, four.height // 4 + 20)) == (255, 255, 255)
    title = one.crop((32, 16, one.width, 44)).convert("L")
    assert title.getextrema()[0] < 100  # there is ink where the title stands


def test_saving_replaces_the_file_and_leaves_no_partial_one(tmp_path):
    path = tmp_path / "new" / "grid.png"
    for level in (-1.0, 1.0):
        pictures.save(pictures.grid(torch.full((1, 1, 8, 8), level)), path)
    assert [entry.name for entry in path.parent.iterdir()] == ["grid.png"]
    with Image.open(path) as picture:
        assert picture.getpixel((30, 30)) == (255, 255, 255)


def test_scatter_draws_the_real_data_beside_the_samples(tmp_path):
    points = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    with Image.open(pictures.scatter({"NFE 1": points}, tmp_path / "one.png")) as alone:
        width = alone.width
    with Image.open(pictures.scatter({"NFE 1": points}, tmp_path / "two.png", real=points)) as both:
        assert both.width == pytest.approx(2 * width, abs=2)
        left, right = (
            both.convert("RGB").crop(box) for box in ((0, 0, width, 400), (width, 0, 2 * width, 400))
        )
    assert is_blue(right) and not is_blue(left)
    with pytest.raises(ValueError, match="expected \\(n, 2\\)"):
        pictures.scatter({"bad": torch.zeros(3, 3)}, tmp_path / "bad.png")


def is_blue(picture: Image.Image) -> bool:
    red, _, blue = (channel.tobytes() for channel in picture.split())
    return any(b > r + 80 for r, b in zip(red, blue, strict=True))


def test_smooth_is_a_running_mean_that_skips_what_is_not_finite():
    nan = float("nan")
    assert pictures.smooth([1.0, 3.0, nan, 5.0], 2) == [1.0, 2.0, 3.0, 5.0]
    assert str(pictures.smooth([nan, nan], 2)) == "[nan, nan]"


def test_curves_draw_and_refuse_uneven_series(tmp_path):
    series = {"raw error": ([0, 1, 2], [1.0, float("nan"), 0.1]), "other": ([0], [0.5])}
    with Image.open(pictures.curves(series, tmp_path / "curves.png", log=True, title="Raw error")) as picture:
        assert picture.width > 800
    with pytest.raises(ValueError, match="2 positions for 1 values"):
        pictures.curves({"a": ([0, 1], [1.0])}, tmp_path / "curves.png")
    with pytest.raises(ValueError, match="at least one series"):
        pictures.curves({}, tmp_path / "curves.png")
