"""From a folder of images to a web page that generates new ones in the browser.

    uv run python examples/folder_to_web.py
    python -m http.server --directory page

Put images into photos/ first, sub-folders are classes; without that folder the digits of scikit-learn are taken.
The page is in page/: static files for any web server.
"""

from __future__ import annotations

from pathlib import Path

import flowleap
from flowleap import data, pictures
from flowleap.export import source, web

STEPS = 3000
FOLDER, PAGE = Path("photos"), Path("page")


def write_digits(folder: Path) -> None:
    """Write the digits as images, a sub-folder for each."""
    digits = data.load("digits")
    assert digits.label is not None
    images = pictures.images(digits.x[:])
    for number, (image, label) in enumerate(zip(images, digits.label.tolist(), strict=True)):
        place = folder / digits.class_names[label]
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{number:04}.png")


def main() -> None:
    if not FOLDER.exists():
        write_digits(FOLDER)
    result = flowleap.train("esc", FOLDER, steps=STEPS, out="runs/folder-to-web", overwrite=True)
    page = web.write(source.finished(result.folder), PAGE, steps=(1, 4))
    print(f"{page.folder}: model and page have {page.size / 1e6:.2f} MB, beside the runtime")


if __name__ == "__main__":
    main()
