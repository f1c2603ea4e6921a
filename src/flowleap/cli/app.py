"""flowleap app: a page on this machine that shows trained runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from flowleap.cli import options
from flowleap.cli.group import echo, say, warn
from flowleap.formatting import plural

Runs = Annotated[
    list[Path] | None,
    Argument(
        metavar="[RUN…]",
        help="Run folders, folders that hold runs, or folders that `flowleap export diffusers` wrote.",
        show_default="the runs in runs/",
    ),
]


def app(
    run: Runs = None,
    port: Annotated[int, Option(min=0, max=65535, help="Port of the page; 0 for any that is free.")] = 7860,
    host: Annotated[
        str,
        Option(
            metavar="ADDRESS",
            help="Address that is served. The default is reached from this machine only; 0.0.0.0 from all of its "
            "networks, without a password.",
        ),
    ] = "127.0.0.1",
    weights: options.Weights = "ema",
    vae: options.Vae = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    imports: options.Imports = None,
    quiet: options.Quiet = False,
) -> None:
    """Show runs in the browser: samples, few steps against many, two runs, interpolation, nearest images, curves.

    Runs that are still in training are shown with their last weights, and their curves go on. The page asks nothing of
    the internet. Ends with Ctrl-C. Needs: pip install 'flowleap[app]'.
    """
    options.import_all(imports)

    from flowleap import threads as torch_threads
    from flowleap.app.library import Library
    from flowleap.export import source

    source.needs("gradio", "app")
    library = Library(run or (), weights, options.device(device), vae)

    from flowleap.app import server

    if not server.is_loopback(host):
        warn(f"warning: everyone who reaches {host} can use the page: it has no password")
    say(f"{plural(len(library.places), 'run')}: starting, which takes a few seconds")

    def ready(address: str) -> None:
        echo(f"{address} (end with Ctrl-C)")

    with torch_threads.limited(threads):
        server.serve(library, host, port, ready)
