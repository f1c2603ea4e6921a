"""flowleap data check: inspect a set of images before training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from flowleap.cli import options
from flowleap.cli.group import echo, print_json
from flowleap.tables import Table

if TYPE_CHECKING:
    from PIL.Image import Image

    from flowleap.data.inspection import Findings
WRONG = 1
SHOWN = 20
ROWS = 8
NAMED = 5

Out = Annotated[
    Path | None,
    Option(
        metavar="FILE.png",
        help="Where to write: a contact sheet of a random part as training uses it, of duplicates and odd images.",
    ),
]
Strict = Annotated[bool, Option("--strict", help="Exit with status 1 if something is wrong.")]
Workers = Annotated[
    int | None,
    Option(
        min=0, help="Processes that read images ahead; 0 for none.", show_default="one for each core, up to 9"
    ),
]


def check(
    source: Annotated[
        str,
        Argument(
            metavar="PATH|hf:NAME",
            help="A folder of images, an .npz, IDX files, or hf:NAME[:CONFIG][:SPLIT].",
        ),
    ],
    out: Out = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    strict: Strict = False,
    size: Annotated[
        int | None,
        Option(
            min=4,
            help="The side that images are resized to in training: reports smaller images.",
            show_default="none",
        ),
    ] = None,
    split: options.Split = None,
    workers: Workers = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Inspect every image: damage, duplicates, near duplicates, sizes, kinds of pixels, transparency, classes.

    Training leaves out unusable images with a message; doubtful ones, such as duplicates, are used.
    """
    if out is not None:
        if out.suffix.lower() != ".png":
            raise typer.BadParameter(f"{out}: expected a name that ends in .png", param_hint="--out")
        options.refuse_to_overwrite(out, overwrite)

    from flowleap.data import inspection
    from flowleap.data.opening import store_of

    found = inspection.examine(store_of(source, split), size, workers)
    if out is not None:
        from flowleap import pictures

        pictures.save(pictures.sheet(sections(found)), out)
    if as_json:
        print_json({"source": source, **found.to_dict()})
    else:
        tell(found, source)
        if out is not None:
            echo(f"contact sheet: {out}")
    if strict and found.problems():
        raise typer.Exit(WRONG)


def tell(found: Findings, source: str) -> None:
    """Print the findings as a table, and the problems below it."""
    from flowleap.terminal import console, print_line

    screen = console()
    print_line(screen, f"{source}: {len(found):,} images")
    screen.print(table_of(found))
    for note in found.notes:
        print_line(screen, note)
    for problem in found.problems():
        print_line(screen, f"! {problem}", style="yellow")
    if not found.problems():
        print_line(screen, "nothing is wrong", style="green")
    if found.size and len(found.sizes) > 1:
        print_line(
            screen,
            f"images of several sizes: without --size a run would resize to {found.size} × {found.size}",
        )


def table_of(found: Findings) -> Table:
    """The findings: faults and duplicates, sizes, kinds of pixels, classes."""
    table = Table(["", "", ""], text=(0, 2))
    table.add("usable", f"{len(found.fine):,}", "")
    for kind, words in FAULT_ROWS.items():
        rows = found.of_fault(kind)
        named = "\n".join(found.messages[row] for row in rows[:NAMED])
        table.add(words, f"{len(rows):,}", named, style="red" if rows else None)
    for words, groups in (("exact duplicates", found.exact), ("near duplicates", found.near)):
        more = sum(len(group) - 1 for group in groups)
        named = "\n".join(" = ".join(short(found, row) for row in group[:3]) for group in groups[:NAMED])
        table.add(words, f"{more:,}", named, style="red" if groups else None)
    sections = [len(table.rows) - 1]
    counted = list(found.classes.values())
    span = f"{min(counted):,} to {max(counted):,} each" if counted else ""
    for title, counts, rest in (
        ("sizes", {f"{w} × {h}": n for (w, h), n in found.sizes.items()}, "of {:,} other sizes"),
        ("pixels", found.names_of_modes, "of {:,} other kinds"),
        (f"{len(counted):,} classes", found.classes, f"of other classes; {span}"),
    ):
        shown = list(counts.items())
        for index, (name, count) in enumerate(shown[:ROWS]):
            table.add("" if index else title, f"{count:,}", name)
        if len(shown) > ROWS:
            table.add("", f"{sum(n for _, n in shown[ROWS:]):,}", rest.format(len(shown) - ROWS))
        sections.append(len(table.rows) - 1)
    if not found.classes:
        table.add("classes", "0", "trained without labels")
    table.sections = sections[:3]
    return table


FAULT_ROWS = {
    "unreadable": "unreadable",
    "mode": "other pixels",
    "transparent": "transparent",
    "small": "too small",
}


def short(found: Findings, row: int) -> str:
    """The folder and file name of an image."""
    return "/".join(Path(found.store.name(row)).parts[-2:])


def sections(found: Findings) -> dict[str, list[tuple[str, Image]]]:
    """The contact sheet: a random part as training uses it, duplicates beside one another, odd images."""
    import numpy as np
    import torch

    from flowleap.data.preprocessing import ResizeCrop
    from flowleap.data.rows import random_rows

    fine, width, height = found.fine, found.seen["width"], found.seen["height"]
    some = fine[random_rows(len(fine), SHOWN, "contact sheet").numpy()]
    order = torch.randperm(len(some), generator=torch.Generator().manual_seed(0)).numpy()
    view = ResizeCrop("crop", max(1, found.size))
    shown: dict[str, list[tuple[str, Image]]] = {}
    seen = [(short(found, row), picture(found, row, view)) for row in some[order].tolist()]
    shown[f"{len(some)} of {len(fine):,} usable images, cut to the square in their middle"] = drawn(seen)
    for words, groups in (("exact duplicates", found.exact), ("near duplicates", found.near)):
        members = [row for group in groups for row in group[:5]][:SHOWN]
        if members:
            shown[f"{words} ({len(groups):,})"] = drawn((short(found, r), picture(found, r)) for r in members)
    area = width[fine].astype(np.int64) * height[fine]
    if len(found.sizes) > 1:
        usual = next(iter(found.sizes))
        odd = (width[fine] != usual[0]) | (height[fine] != usual[1])
        fine, area = fine[odd], area[odd]
        for words, rows in (("the smallest of unusual size", fine[np.argsort(area, kind="stable")]),
                            ("the largest of unusual size", fine[np.argsort(-area, kind="stable")])):  # fmt: skip
            named = ((f"{width[r]} x {height[r]}", picture(found, r)) for r in rows[:10].tolist())
            shown[words] = drawn(named)
    for kind in ("transparent", "mode", "small"):
        rows = found.of_fault(kind)[:10]
        if rows:
            shown[FAULT_ROWS[kind]] = drawn((short(found, row), picture(found, row)) for row in rows)
    return shown


def drawn(named: Any) -> list[tuple[str, Image]]:
    """The pictures that could be read."""
    return [(caption, picture) for caption, picture in named if picture is not None]


def picture(found: Findings, row: int, view: Any = None) -> Image | None:
    """An image as RGB, on grey if transparent, cropped and resized by a view; None if it cannot be read."""
    from PIL import Image

    from flowleap.data.pixels import Faulty, opened, upright

    try:
        with opened(found.store.encoded(row), found.store.name(row)) as opened_image:
            image = upright(opened_image)
            if image.mode.startswith("I;16"):
                image = image.point(lambda value: value / 256).convert("L")
            whole = image.convert("RGBA")
            ground = Image.new("RGBA", whole.size, "#c8c8c8")
            colors = Image.alpha_composite(ground, whole).convert("RGB")
            return colors if view is None else view(colors)
    except Faulty:
        return None
