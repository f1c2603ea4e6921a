"""flowleap cite: the BibTeX of the papers behind methods."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from typer import Argument

from flowleap.cli import options
from flowleap.cli.group import print_json


def cite(
    names: Annotated[list[str], Argument(metavar="METHOD", help="The methods to cite.")],
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    imports: options.Imports = None,
) -> None:
    """Print the BibTeX of the papers behind methods: of exactly the components that they use."""
    options.import_all(imports)
    from flowleap import methods

    papers = {paper.key: paper for name in names for paper in methods.citations(name)}
    if as_json:
        print_json([asdict(paper) for paper in papers.values()])
    else:
        typer.echo("\n\n".join(paper.bibtex for paper in papers.values()))
