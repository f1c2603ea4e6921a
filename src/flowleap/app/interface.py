"""The page of the app, built with Gradio."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import gradio as gr

from flowleap.app import curves, markup
from flowleap.app.library import Library
from flowleap.app.sampling import MOST, SCALE, SEED, STEPS, Asked, interpolated, knob, make, same_noise
from flowleap.reports import folders

QUEUED = 16
"""Requests that wait at most; others are refused at once."""
EVERY = 5.0
"""Seconds between two looks at the log of a run."""
ALL = ("all classes in turn", "all")
COUNTS = (1, 2, 4, STEPS)
Handler = Callable[..., str]


def shown(handler: Handler) -> Handler:
    """Decorate a function that returns HTML: an error of the user is shown in place of the result."""

    @wraps(handler)
    def run(*given: Any) -> str:
        try:
            return handler(*given)
        except (ValueError, OSError) as error:
            return markup.message(error, "error")

    return run


class Page:
    """What the page does: each method takes the values of inputs and returns the HTML of the result."""

    def __init__(self, library: Library) -> None:
        self.library = library

    def generate(self, run: str, label: Any, seed: Any, guidance: Any, num: Any, steps: Any) -> str:
        """Return samples of a run."""
        made = make(self.library.model(run), Asked(num, label, steps, seed, guidance))
        return markup.about(made) + markup.samples(made)

    def steps(self, run: str, label: Any, seed: Any, guidance: Any, num: Any) -> str:
        """Return samples from the same noise in few and in many steps."""
        found = same_noise(self.library.model(run), Asked(num, label, 1, seed, guidance), COUNTS)
        sections = []
        for made in found:
            told = (
                "the others are compared with these"
                if made is found[-1]
                else markup.difference(made, found[-1])
            )
            title = f"{made.asked.steps} step{'s' * (made.asked.steps > 1)}"
            sections.append(
                markup.section(title, markup.about(made), markup.facts([told]), markup.samples(made))
            )
        return markup.beside(sections)

    def compare(
        self, run: str, label: Any, seed: Any, guidance: Any, num: Any, steps: Any, other: str
    ) -> str:
        """Return samples of two runs from the same noise."""
        sections = []
        for name in (run, other):
            own = shown(partial(self._own, run, label, seed, guidance, num, steps))
            sections.append(markup.section(name, own(name)))
        return markup.beside(sections)

    def _own(self, run: str, label: Any, seed: Any, guidance: Any, num: Any, steps: Any, name: str) -> str:
        """Return samples of a run, of the class that has the name of a class of another run."""
        model = self.library.model(name)
        if label != ALL[1] and name != run:
            wanted = self.library.model(run).classes[int(label)]
            if wanted not in model.classes:
                raise ValueError(f"this run has no class {wanted!r}")
            label = model.classes.index(wanted)
        made = make(model, Asked(num, label, steps, seed, guidance))
        return markup.about(made) + markup.samples(made)

    def interpolate(
        self, run: str, label: Any, seed: Any, guidance: Any, other: Any, rows: Any, frames: Any, steps: Any
    ) -> str:
        """Return samples between those of two seeds."""
        made = interpolated(self.library.model(run), Asked(rows, label, steps, seed, guidance), other, frames)
        return markup.about(made) + markup.samples(made, int(frames), captions=False)

    def nearest(self, run: str, label: Any, seed: Any, guidance: Any, steps: Any) -> str:
        """Return samples beside the training images nearest to them."""
        model = self.library.model(run)
        if model.run.kind != "image":
            raise ValueError(
                f"nearest training images are those of pixels, and this is a run of {model.run.kind}"
            )
        data = self.library.real(run)
        made = make(model, Asked(folders.JUDGED, label, steps, seed, guidance))
        known = folders.neighbors({made.nfe: made.samples}, data)
        if known is None:
            raise ValueError(f"the training data hold {len(data)} images: too few to look for the nearest")
        return markup.about(made) + markup.neighbors(known, run)

    def training(self, run: str) -> str:
        """Return the log of a run."""
        return curves.show(self.library.place(run), run)

    def refreshed(self, run: str, seen: Any) -> tuple[Any, Any]:
        """Return the log of a run where it has changed since it was seen, and its stamp."""
        try:
            now = [run, repr(curves.stamp(self.library.place(run)))]
        except ValueError as error:
            return markup.message(error, "error"), None
        return (gr.skip(), gr.skip()) if now == seen else (shown(self.training)(run), now)

    def chosen(self, run: str) -> tuple[Any, Any, str]:
        """Return the classes and the guidance that a run knows, and what there is to say about it."""
        try:
            model = self.library.model(run)
        except (ValueError, OSError) as error:
            note = markup.message(f"No samples: {error}. Its curves are in the tab Training.", "error")
            return gr.Dropdown(choices=[ALL], value=ALL[1], visible=False), gr.Slider(visible=False), note
        names = [(name, number) for number, name in enumerate(model.classes)]
        label = gr.Dropdown(choices=[ALL, *names], value=ALL[1], visible=bool(names))
        size = " × ".join(map(str, model.shape))
        about = [f"method {model.config.method}", f"samples of {size}", f"weights {model.run.weights}"]
        return label, self._guidance(model), markup.facts(about)

    def _guidance(self, model: Any) -> Any:
        known = knob(model)
        if known is None:
            return gr.Slider(visible=False)
        cost = (
            "an input of the network" if known.evaluations == 1 else "1 for none; else two evaluations a step"
        )
        return gr.Slider(maximum=known.largest, value=known.usual, info=cost, visible=True)

    def listed(self, run: str, other: str) -> tuple[Any, Any]:
        """Return the lists of runs as they are now; one that is chosen stays, else the first two are."""
        labels = self.library.labels()
        first = run if run in labels else labels[0]
        second = other if other in labels else labels[min(1, len(labels) - 1)]
        return gr.Dropdown(choices=labels, value=first), gr.Dropdown(choices=labels, value=second)


def build(library: Library) -> gr.Blocks:
    """Return the page."""
    page, labels = Page(library), library.labels()
    with gr.Blocks(analytics_enabled=False, title="flowleap", fill_width=False) as blocks:
        gr.HTML(
            '<header class="fl-head"><h1>flowleap</h1><p>Samples of trained runs, on this machine.</p></header>'
        )
        with gr.Row(equal_height=True):
            run = gr.Dropdown(labels, value=labels[0], label="Run", elem_id="run", scale=2)
            label = gr.Dropdown([ALL], value=ALL[1], label="Class", elem_id="class")
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=SEED, elem_id="seed")
            guidance = gr.Slider(1, SCALE, 1, step=0.25, label="Guidance", elem_id="guidance", visible=False)
        about = gr.HTML(elem_id="about")
        shared = [run, label, seed, guidance]
        with gr.Tabs() as tabs:
            first = _samples(page, shared)
            _steps(page, shared)
            other = _compare(page, shared, labels)
            _interpolate(page, shared)
            _nearest(page, shared)
            _training(page, run, tabs)
        settings: Any = {"api_visibility": "private", "show_progress": "hidden", "concurrency_id": "model"}
        run.change(page.chosen, run, [label, guidance, about], **settings)
        blocks.load(page.listed, [run, other], [run, other], **settings).then(
            page.chosen, run, [label, guidance, about], **settings
        ).then(shown(page.generate), first[0], first[1], **settings)
    blocks.queue(max_size=QUEUED, default_concurrency_limit=1)
    return blocks


def _number(name: str, value: int, most: int, least: int = 1) -> gr.Slider:
    return gr.Slider(least, most, value, step=1, label=name)


def _action(name: str, handler: Handler, inputs: list[Any], elem_id: str) -> gr.HTML:
    """Add a button and the place of its result; one request at a time uses the models."""
    button = gr.Button(name, variant="primary")
    result = gr.HTML(elem_id=elem_id, elem_classes="fl-result", min_height=120)
    button.click(
        shown(handler), inputs, result, api_visibility="private", concurrency_id="model", concurrency_limit=1
    )
    return result


def _samples(page: Page, shared: list[Any]) -> tuple[list[Any], gr.HTML]:
    with gr.Tab("Generate"):
        with gr.Row():
            own = [_number("Images", 16, MOST), _number("Steps", 1, STEPS)]
        return [*shared, *own], _action("Generate", page.generate, [*shared, *own], "generated")


def _steps(page: Page, shared: list[Any]) -> None:
    with gr.Tab("Steps"):
        gr.HTML(
            markup.message(f"The same noise in {', '.join(map(str, COUNTS[:-1]))} and {COUNTS[-1]} steps.")
        )
        own = _number("Images", 10, MOST // 2)
        _action("Compare steps", page.steps, [*shared, own], "stepped")


def _compare(page: Page, shared: list[Any], labels: list[str]) -> gr.Dropdown:
    with gr.Tab("Two runs"):
        with gr.Row():
            other = gr.Dropdown(
                labels, value=labels[min(1, len(labels) - 1)], label="Other run", elem_id="other"
            )
            own = [_number("Images", 16, MOST), _number("Steps", 1, STEPS)]
        _action("Compare runs", page.compare, [*shared, *own, other], "compared")
        return other


def _interpolate(page: Page, shared: list[Any]) -> None:
    with gr.Tab("Interpolate"):
        with gr.Row():
            second = gr.Number(1, label="Second seed", precision=0, minimum=0, maximum=SEED)
            own = [_number("Rows", 4, 8), _number("Frames", 8, 16, 2), _number("Steps", 1, STEPS)]
        _action("Interpolate", page.interpolate, [*shared, second, *own], "interpolated")


def _nearest(page: Page, shared: list[Any]) -> None:
    with gr.Tab("Nearest training images"):
        own = _number("Steps", 1, STEPS)
        _action("Find nearest", page.nearest, [*shared, own], "nearest")


def _training(page: Page, run: gr.Dropdown, tabs: gr.Tabs) -> None:
    """Add the log of the run, which is looked at every few seconds while its tab is open."""
    with gr.Tab("Training"):
        log, seen, timer = gr.HTML(elem_id="log", min_height=120), gr.State(), gr.Timer(EVERY, active=False)
    settings: Any = {"api_visibility": "private", "show_progress": "hidden", "concurrency_id": "log"}

    def switched(event: gr.SelectData) -> Any:
        return gr.Timer(active=event.value == "Training")

    tabs.select(switched, None, timer, **settings).then(page.refreshed, [run, seen], [log, seen], **settings)
    timer.tick(page.refreshed, [run, seen], [log, seen], **settings)
