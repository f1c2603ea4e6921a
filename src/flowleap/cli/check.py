"""flowleap data check: what is in a set of images, before it is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    typer.Option(
        metavar="FILE.png",
        help="Where to write: a contact sheet of a random part as training sees it, duplicates, the odd ones.",
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with status 1 where something is wrong.")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0, help="Processes that read images ahead; 0 for none.", show_default="one for each core, up to 9"
    ),
]


def check(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PATH|hf:NAME",
            help="A folder of images, an .npz, IDX files, or hf:NAME[:CONFIG][:SPLIT].",
        ),
    ],
    out: Out = None,
    as_json: options.AsJson = False,
    strict: Strict = False,
    size: Annotated[
        int | None,
        typer.Option(
            min=4,
            help="The side that images are resized to by a run: smaller ones are told.",
            show_default="none",
        ),
    ] = None,
    split: options.Split = None,
    workers: Workers = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Look at every image: damage, duplicates, near duplicates, sizes, kinds of pixels, transparency, classes.

    Training leaves out what cannot be used, and says so; what is only doubtful, such as duplicates, it takes.
    """
    if out is not None:
        if out.suffix.lower() != ".png":
            raise typer.BadParameter(f"{out}: expected a name that ends in .png", param_hint="--out")
        options.refuse_to_overwrite(out, overwrite)

    from flowleap.data import Preprocessing, inspection
    from flowleap.data.opening import store_of

    preprocessing = None if size is None else Preprocessing(size=size)
    found = inspection.examine(store_of(source, split), preprocessing, workers)
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
    """Print what was found as a table, and what is wrong below it."""
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
    """What was found: faults and duplicates, sizes, kinds of pixels, classes."""
    table = Table(["", "", ""], text=(0, 2))
    sections = []
    table.add("usable", f"{len(found.fine):,}", "")
    for kind, words in FAULT_ROWS.items():
        rows = found.of_fault(kind)
        table.add(
            words, f"{len(rows):,}", "\n".join(found.messages[row] for row in rows[:NAMED]), style=red(rows)
        )
    for words, groups in (("exact duplicates", found.exact), ("near duplicates", found.near)):
        more = sum(len(group) - 1 for group in groups)
        named = (" = ".join(short(found, row) for row in group[:3]) for group in groups[:NAMED])
        table.add(words, f"{more:,}", "\n".join(named), style=red(groups))
    sections.append(len(table.rows) - 1)
    for index, ((width, height), count) in enumerate(list(found.sizes.items())[:ROWS]):
        table.add("" if index else "sizes", f"{count:,}", f"{width} × {height}")
    if len(found.sizes) > ROWS:
        table.add(
            "", f"{sum(list(found.sizes.values())[ROWS:]):,}", f"of {len(found.sizes) - ROWS:,} other sizes"
        )
    sections.append(len(table.rows) - 1)
    for index, (mode, count) in enumerate(found.names_of_modes.items()):
        table.add("" if index else "pixels", f"{count:,}", mode)
    sections.append(len(table.rows) - 1)
    for index, (name, count) in enumerate(list(found.classes.items())[:ROWS]):
        table.add("" if index else f"{len(found.classes):,} classes", f"{count:,}", name)
    if len(found.classes) > ROWS:
        counts = list(found.classes.values())
        table.add("", f"{sum(counts[ROWS:]):,}", f"of other classes; {min(counts):,} to {max(counts):,} each")
    if not found.classes:
        table.add("classes", "0", "trained without labels")
    table.sections = sections
    return table


FAULT_ROWS = {
    "unreadable": "unreadable",
    "mode": "other pixels",
    "transparent": "transparent",
    "small": "too small",
}


def red(found: Any) -> str | None:
    """The style of a row that tells of something wrong."""
    return "red" if len(found) else None


def short(found: Findings, row: int) -> str:
    """The end of the name of an image: its folder and file."""
    return "/".join(Path(found.store.name(row)).parts[-2:])


def sections(found: Findings) -> dict[str, list[tuple[str, Image]]]:
    """What a contact sheet shows: a random part as training sees it, duplicates beside one another, the odd ones."""
    import numpy as np
    import torch

    from flowleap.data.preprocessing import ResizeCrop
    from flowleap.data.rows import chosen

    fine, width, height = found.fine, found.seen["width"], found.seen["height"]
    some = fine[chosen(len(fine), SHOWN, "contact sheet").numpy()]
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
    """Those pictures that could be made."""
    return [(caption, picture) for caption, picture in named if picture is not None]


def picture(found: Findings, row: int, view: Any = None) -> Image | None:
    """An image in colors, on grey where it is transparent; as a view sees it. None where it cannot be read."""
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
