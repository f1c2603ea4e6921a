"""Reports are read back with an HTML parser: complete, self-contained, and not broken by any word or missing piece."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from flowleap import pictures, reports, runs
from flowleap.cli.report import report as report_command
from flowleap.data import Dataset
from flowleap.reports import charts, entry, figures, images, tables
from flowleap.reports.entry import groups
from flowleap.training import report as training_report

VOID = {"wbr", "meta", "link", "img", "br", "hr", "input", "path", "use", "line", "circle"}
HOSTILE = "<script>alert(1)</script>\"' onload=x $\\frac{1}{$ &amp; </style><img src=x> {{ 7*7 }} %s"


class Reader(HTMLParser):
    """The tags of a page with their attributes and words; notes tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.crossed: list[str] = []
        self.words: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attributes}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attributes}))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.crossed.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self) -> str:
        shown = (words for tag, words in self.words if tag not in ("style", "script", "title"))
        return re.sub(r"\s+", " ", " ".join(shown))


def row(nfe: int, distance: float | None, **more: object) -> dict[str, object]:
    """What `evaluate` returns, as far as a report reads it."""
    known = {
        "nfe": nfe, "steps": nfe, "metric": "FD-pixel", "features": "pixel", "distance": distance, "seconds": 0.1 * nfe,
        "interval": None if distance is None else [0.9 * distance, 1.1 * distance], "num": 1000, "floor": 0.31,
        "judge": 0.99, "agreement": 0.9, "nearest_ratio": 1.2, "sampler": "chain", "guidance": "none",
        "protocol": "flowleap/v2;FD-pixel;n=1000;ref=digits:1797;labels=cycle;weights=ema@12;seed=0;guidance=none",
    }  # fmt: skip
    return known | more


def some(label: str, distance: float = 0.5, **more: object) -> reports.Entry:
    return reports.Entry(label, rows=[row(1, distance), row(4, distance / 2)], **more)


def read(text: str) -> Reader:
    found = Reader(text)
    assert found.open == [] and found.crossed == []
    return found


@pytest.fixture(autouse=True)
def a_protocol(monkeypatch) -> None:
    """Where the protocol cannot tell what is comparable yet, its id but for the weights does."""
    from flowleap.evaluation import protocol

    def same(rows: list[dict[str, object]]) -> None:
        if len({str(r.get("protocol", "")).split(";weights=")[0] for r in rows}) > 1:
            raise ValueError("numbers of different protocols are not compared")

    if not hasattr(protocol, "same"):
        monkeypatch.setattr(protocol, "same", same, raising=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Two short runs on digits and one on points given as tensors, with planted numbers."""
    place = tmp_path_factory.mktemp("runs")
    quiet = Console(file=io.StringIO())
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_curves", "draw_budgets", "draw_samples"):
            patch.setattr(training_report, name, lambda *arguments, **options: None)
        common = {
            "steps": 12,
            "batch": 16,
            "log_every": 2,
            "sample_every": 0,
            "eval_num": 0,
            "online_share": 0.0,
        }
        tiny = [("network.width", "16"), ("network.depth", "1"), ("network.heads", "2")]
        for index, method in enumerate(("esc", "flow-matching")):
            runs.train(
                runs.configure(method, "digits", settings=tiny, **common), place / method, console=quiet
            )
            rows = [row(nfe, (5.0 + index) / nfe) for nfe in (1, 2, 4)]
            (place / method / "table.json").write_text(json.dumps(rows))
        x = torch.randn(96, 2, generator=torch.Generator().manual_seed(0))
        cloud = Dataset("cloud", x, kind="points")
        config = runs.configure("meanflow", cloud, settings=tiny[:2], **common)
        runs.train(config, place / "cloud", dataset=cloud, console=quiet)
    quality = [
        {
            "step": step,
            "nfe": nfe,
            "weights": f"ema-0.999@{step}",
            "distance": 3.0 / step,
            "metric": "FD-pixel",
        }
        for step in (4, 8, 12)
        for nfe in (1, 2)
    ]
    (place / "esc" / "quality.jsonl").write_text("".join(json.dumps(line) + "\n" for line in quality))
    curve = {"edges": [0.0, 0.5, 1.0], "count": [9, 9], "value": [0.2, 0.4], "error": [0.01, None]}
    diagnosis = {
        "format": 1,
        "error": {"diagonal": curve, "jumps": None},
        "spread": [{"steps": 1, "spread": 0.8}],
        "findings": [{"severity": "warning", "title": "Tangent blow-up", "text": "Lower the time scale."}],
    }
    (place / "esc" / "diagnosis.json").write_text(json.dumps(diagnosis))
    return place


@pytest.fixture(scope="module")
def written(trained, tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("report") / "report.html"
    path = reports.write([trained / "esc", trained / "flow-matching"], out, steps=(1, 2), num=12)
    assert path == out
    return out.read_text(encoding="utf-8")


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    """A run to be spoiled."""
    return Path(shutil.copytree(trained / "esc", tmp_path / "esc"))


# ---------------------------------------------------------------- the page


@pytest.mark.slow
def test_findings_keep_their_severity():
    """Those of another origin are notes."""
    given = ["problem", "warning", "note", "fatal", 3]
    found = [{"severity": severity, "title": "x", "text": "y"} for severity in given]
    html = reports.page("t", [reports.Entry("a", diagnosis={"findings": found})])
    assert re.findall(r'class="finding (\w+)"', html) == ["problem", "warning", "note", "note", "note"]


@pytest.mark.slow
def test_a_report_needs_nothing_but_itself(written):
    page = read(written)
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            target = attributes.get(name, "")
            cited = tag == "a" and target.startswith("https://arxiv.org/abs/")
            assert not target or target.startswith(("#", "data:")) or cited, (tag, target)
        assert not any(name.startswith("on") for name in attributes)
    style = "".join(words for tag, words in page.words if tag == "style")
    assert "@import" not in style and "url(" not in style
    assert {tag for tag, _ in page.tags}.isdisjoint({"iframe", "object", "embed", "base", "form"})
    assert len(written) < 2_000_000


@pytest.mark.slow
def test_only_the_script_of_the_report_may_run(written):
    script = re.findall(r"<script>(.*?)</script>", written, re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    policy = next(m for m in read(written).all("meta") if "http-equiv" in m)["content"]
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_who_cannot_see_is_told_as_much(written):
    page = read(written)
    images_ = page.all("img")
    assert len(images_) > 8 and all(len(image["alt"]) > 10 for image in images_)
    shown = [svg for svg in page.all("svg") if svg.get("aria-hidden") != "true"]
    assert len(shown) >= 8
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 20 for svg in shown)
    assert all("scope" in cell for cell in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) >= 2
    assert page.all("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_ids_are_unique_and_references_lead_somewhere(written):
    page = read(written)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = re.findall(r'href="#([^"]+)"', written) + re.findall(r"url\(#([^)]+)\)", written)
    assert set(wanted) <= set(ids)


def test_charts_take_their_colors_from_the_page(written):
    svgs = re.findall(r'<svg[^>]*class="chart".*?</svg>', written, re.DOTALL)
    assert len(svgs) >= 7  # quality by evaluations and seconds, 2 while training, raw error, …, diagnosis
    for svg in svgs:
        assert not re.search(r"#[0-9a-f]{6}\b", svg) and "<style" not in svg and "<image" not in svg
        assert "var(--look-0)" in svg and "<text" in svg


def test_the_numbers_are_on_the_page(written):
    text = read(written).text()
    assert (
        "With one network evaluation, esc is the best of 2: FD-pixel 5.00 (95 % interval 4.50 to 5.50)."
        in text
    )
    assert "flow-matching follows with 6.00; their intervals overlap, so the order is not settled." in text
    for part in (
        "real data",
        "Two halves of the real data are 0.310 apart",
        "label accuracy",
        "1.25",
        "3.00",
    ):
        assert part in text
    for title in (
        "Unweighted error",
        "Gradient norm",
        "Throughput",
        "‖du/dt‖",
        "FD-pixel while training, NFE 1",
    ):
        assert title in text
    assert "Tangent blow-up" in text and "flowleap/v2" in text and "arXiv:2512.11831" in text
    assert "objective. times" in text and "Gradual" in text and "OneTime" in text


def test_columns_of_samples_share_their_noise(trained):
    """The strips are cut into cells again: they hold what `generate` makes, in this order."""
    from flowleap import evaluation

    made = reports.gather(trained / "esc", steps=(1, 2), num=12)
    run = runs.load_run(trained / "esc")
    for nfe in (1, 2):
        again = evaluation.generate(
            run.flow, run.objective, run.shape, 12, label=torch.arange(12) % 10, steps=nfe, bounds=(-1.0, 1.0)
        )
        assert torch.equal(made.samples[nfe], again)
    assert made.classes is not None and made.classes.tolist() == [*range(10), 0, 1]
    block = samples_of([made])[0]
    assert block.title == "NFE 1" and list(block.head) == [str(i % 10) for i in range(12)]
    cells = cut(block.rows[0].strip, 12)
    wanted = pictures.pixels(made.samples[1])[..., 0]
    assert [cell.tolist() for cell in cells] == [w.tolist() for w in wanted]


def samples_of(entries):
    from flowleap.reports.samples import blocks

    return blocks(groups(entries))


def cut(strip: images.Strip, count: int) -> list[torch.Tensor]:
    raw = base64.b64decode(strip.source.split(",", 1)[1])
    whole = torch.from_numpy(np.array(Image.open(io.BytesIO(raw)).convert("L")))
    return [whole[:, 9 * i : 9 * i + 8] for i in range(count)]


def test_neighbors_are_the_nearest_training_images(trained):
    made = reports.gather(trained / "esc", steps=(1,), num=12)
    data = runs.load_run(trained / "esc").dataset().x.flatten(1)
    found = made.neighbors
    for i in range(len(found.samples)):
        distances = (data - found.samples[i].flatten()).square().sum(dim=1).sqrt()
        assert float(found.distance[i]) == pytest.approx(float(distances.min()), rel=1e-4)
        assert torch.equal(found.nearest[i].flatten(), data[distances.argmin()])
    assert 1.0 < found.typical < 4.0  # digits in [−1, 1]; a distance of 0 would be an image to itself


# ---------------------------------------------------------------- words of others


@pytest.mark.slow
def test_no_word_can_break_the_page():
    entries = [
        some(
            HOSTILE, note=HOSTILE, config={HOSTILE: HOSTILE, "method": HOSTILE}, missing=[HOSTILE],
            environment={"sittings": [{"a": HOSTILE}]}, commands=[HOSTILE],
            metrics=[{"step": 1, "raw_error": 1.0}, {"step": 2, "raw_error": 2.0}],
            samples={1: torch.zeros(3, 1, 4, 4)}, diagnosis={"findings": [{"severity": HOSTILE, "title": HOSTILE}]},
            quality=[{"step": 1, "nfe": 1, "distance": 1.0, "weights": HOSTILE, "metric": HOSTILE}],
        ),
        some("other", group=HOSTILE),
    ]  # fmt: skip
    entries[0].rows[0].update(metric=HOSTILE, reference=HOSTILE, weights=HOSTILE)
    text = reports.page(HOSTILE, entries, subtitle=HOSTILE, commands=[HOSTILE], made=HOSTILE)
    page = read(text)
    assert len(page.all("script")) == 1 and len(page.all("style")) == 1
    assert all(image["src"].startswith("data:") for image in page.all("img"))
    assert text.count("<script>alert") == 0 and "49" not in page.text().split("alert")[1]
    assert HOSTILE in "".join(words for _, words in page.words)
    assert any(HOSTILE in svg.get("aria-label", "") for svg in page.all("svg"))


@pytest.mark.slow
def test_labels_and_folder_names_become_unique(trained, tmp_path):
    assert reports.unique(["a", "a", "a (2)", "a"]) == ["a", "a (2)", "a (2) (2)", "a (3)"]
    shutil.copytree(trained / "esc", tmp_path / "esc")
    out = reports.write([trained / "esc", tmp_path / "esc"], tmp_path / "two.html", num=0)
    page = read(out.read_text(encoding="utf-8"))
    assert f"{tmp_path.name}/esc" in page.text() and f"{trained.name}/esc" in page.text()
    assert "The runs have the same settings." in page.text()
    again = read(reports.page("t", [some("x"), some("x")])).text()
    assert "x (2)" in again


# ---------------------------------------------------------------- numbers


def test_numbers_of_different_protocols_are_refused(trained, copied):
    rows = [
        row(1, 0.5, protocol="flowleap/v2;FID;n=50000;ref=other;labels=cycle;weights=a;seed=0;guidance=none")
    ]
    with pytest.raises(ValueError, match="different protocols"):
        reports.page("t", [some("a"), reports.Entry("b", rows=rows)])
    (copied / "table.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="different protocols"):
        reports.write([trained / "flow-matching", copied], copied / "out.html")
    assert not (copied / "out.html").exists()


@pytest.mark.slow
def test_repeated_runs_are_drawn_alike_and_averaged():
    entries = [some(f"esc seed {seed}", 0.5 + seed / 10, group="esc") for seed in range(3)] + [
        some("other", 2.0)
    ]
    found = groups(entries)
    assert [(group.label, len(group.entries), group.look) for group in found] == [
        ("esc", 3, 0),
        ("other", 1, 1),
    ]
    measured = found[0].measured(1)
    assert (measured.value, measured.runs) == (pytest.approx(0.6), 3)
    assert (measured.low, measured.high) == (pytest.approx(0.5), pytest.approx(0.7))  # standard deviation 0.1
    text = read(reports.page("t", entries)).text()
    assert "0.600 ± 0.10" in text and "Mean ± standard deviation" in text
    assert "esc is the best of 2: FD-pixel 0.600 ± 0.10 over 3 runs" in text
    assert "their intervals do not overlap" in text
    assert len(figures.quality_charts(found)[0].lines) == 2


def test_the_least_and_what_cannot_be_told_from_it_are_marked():
    table = tables.quality_table(groups([some("a", 0.50), some("b", 0.55), some("c", 0.9)]))
    firsts = [row for row in table.rows if str(row[1]) == "1"]
    assert [str(row[0]) for row in firsts] == ["a", "b", "c"]
    assert [row[2].mark for row in firsts] == ["best", "near", ""]
    assert all(cell.mark == "" for row in table.rows for cell in row[3:])
    alone = tables.quality_table(groups([some("a")]))
    assert alone.rows[0][2].mark == ""


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([reports.Entry("a")], "1 run; nothing of it has been measured yet."),
        ([some("a"), reports.Entry("b")], "a reaches FD-pixel 0.500 (95 % interval 0.450 to 0.550) with one"),
        ([reports.Entry("a", rows=[row(4, math.nan)])], "nothing of it has been measured"),
        (
            [reports.Entry("a", rows=[row(16, 1.0, interval=None, floor=None)])],
            "FD-pixel 1.00 with 16 network",
        ),
        (
            [reports.Entry(n, rows=[row(1, d, interval=None)]) for n, d in (("a", 2.0), ("b", 1.0))],
            "no interval was measured, so the order may be chance",
        ),
    ],
)
def test_the_summary_says_no_more_than_was_measured(entries, said):
    assert said in tables.summary(groups(entries))
    assert said in read(reports.page("t", entries)).text()


def test_parts_of_other_types_differ_as_a_whole():
    first = {
        "lr": 0.1,
        "times": {"type": "A", "p": 1, "law": {"type": "L", "mean": 0.5}},
        "loss": {"type": "S", "e": 1},
    }
    second = {"lr": 0.1, "times": {"type": "B"}, "loss": {"type": "S", "e": 2.5}, "new": True}
    found = tables.differing([reports.Entry("a", config=first), reports.Entry("b", config=second)])
    assert [(row[0], [(cell.text, cell.bound) for cell in row[1:]]) for row in found.rows] == [
        ("times", [("A", "p 1, law L (mean 0.5)"), ("B", "")]),
        ("loss.e", [("1", ""), ("2.5", "")]),
        ("new", [("–", ""), ("yes", "")]),
    ]
    with_unknown = tables.differing([reports.Entry("a", config=first), reports.Entry("x")])
    assert with_unknown.rows == []


def test_long_logs_are_thinned_to_means():
    x, y = charts.thin(range(1000), [math.nan, 2.0, 4.0, math.inf] * 250, most=250)
    assert len(x) == len(y) == 250 and y == [3.0] * 250 and x[0] == 1.5
    assert math.isnan(charts.thin([1, 2], [math.nan, math.nan], most=1)[1][0])


def test_points_of_charts_say_their_numbers():
    svg = charts.draw(figures.quality_charts(groups([some("a & b")]))[0], "x")
    assert re.findall(r"<title>(.*?)</title>", svg) == [
        "a &amp; b, NFE 1: 0.500 (0.450 to 0.550)",
        "a &amp; b, NFE 4: 0.250 (0.225 to 0.275)",
    ]


def test_quality_while_training_is_a_line_for_each_average(trained):
    made = reports.gather(trained / "esc", num=0)
    drawn = [c for c in figures.training_charts(groups([made])) if "while training" in c.title]
    assert [list(line.x) for chart in drawn for line in chart.lines] == [[4, 8, 12], [4, 8, 12]]
    other = [{**line, "weights": "ema-0.9999@4"} for line in made.quality]
    both = replace(made, quality=[*made.quality, *other])
    first = figures.training_charts(groups([both]))[0]
    assert [line.faint for line in first.lines] == [False, True]


# ---------------------------------------------------------------- pieces that are missing


@pytest.mark.slow
def test_points_given_as_tensors(trained):
    made = reports.gather(trained / "cloud", steps=(1, 2), num=200)
    assert {nfe: tuple(s.shape) for nfe, s in made.samples.items()} == {1: (200, 2), 2: (200, 2)}
    assert any("given from Python" in text for text in made.missing)
    assert any("no table of quality" in text for text in made.missing)
    page = read(reports.page("points", [made]))
    assert len([svg for svg in page.all("svg") if svg.get("class") == "cloud"]) == 2
    assert page.all("img") == [] and "1 run; nothing of it has been measured yet." in page.text()


def test_real_points_stand_behind_the_samples():
    real = torch.tensor([[0.0, 0.0], [1.0, 1.0], [math.nan, 0.0]])
    made = reports.Entry("a", samples={1: torch.tensor([[0.0, 1.0], [9.0, 9.0]])}, real=real)
    page = read(reports.page("points", [made]))
    paths = [path["d"] for path in page.all("path") if "h0" in path.get("d", "")]
    assert len(paths) == 2 and paths[0].count("h0") == 2  # what is not finite is left out
    assert (
        paths[1] == "M10.7 10.7h0"
    )  # (0, 1) stands top left; (9, 9) lies outside of what the real data fills


@pytest.mark.slow
@pytest.mark.parametrize("spoiled", ["weights", "unfinished", "broken", "nan", "empty", "foreign"])
def test_what_is_missing_is_said_and_the_rest_is_shown(copied, spoiled):
    said = spoil(copied, spoiled)
    out = reports.write([copied], steps=(1,), num=3)
    page = read(out.read_text(encoding="utf-8"))
    assert said in page.text()
    assert "Settings" in page.text() and "objective. times" in page.text()


def spoil(place: Path, how: str) -> str:
    if how == "weights":
        shutil.rmtree(place / "checkpoints")
        for path in place.glob("*.safetensors"):
            path.unlink()
        return "no samples:"
    if how == "unfinished":
        (place / "ema.safetensors").unlink()
        (place / "table.json").unlink()
        lines = (place / "metrics.jsonl").read_text().splitlines()
        (place / "metrics.jsonl").write_text("\n".join([*lines[:-2], lines[-2][:20]]))
        return "not finished: step 8 of 12"
    if how == "broken":
        for name in ("table.json", "environment.json", "diagnosis.json"):
            (place / name).write_text('{"a": ')
        return "diagnosis.json cannot be read"
    if how == "nan":
        names = ("raw_error", "grad_norm", "derivative_norm", "images_per_second")
        lines = [json.dumps({"step": s, "seconds": s} | dict.fromkeys(names, math.nan)) for s in (6, 12)]
        (place / "metrics.jsonl").write_text("\n".join(lines))
        (place / "table.json").write_text(
            json.dumps([row(1, math.nan, seconds=math.inf, interval=[1, None])])
        )
        return "2 of 2 log intervals have no finite unweighted error"
    if how == "empty":
        for name in ("table.json", "environment.json", "diagnosis.json", "metrics.jsonl", "quality.jsonl"):
            (place / name).unlink()
        return "no metrics.jsonl"
    (place / "diagnosis.json").write_text(
        json.dumps({"findings": 3, "error": {"diagonal": {"edges": 1}}, "x": [[1]]})
    )
    (place / "quality.jsonl").write_text('[1]\n{"step": null, "nfe": 1, "distance": "a"}\n')
    return "1 of the lines of quality.jsonl cannot be read"


def test_a_folder_without_a_run_is_refused(tmp_path, trained):
    with pytest.raises(
        ValueError, match=r"holds no run \(no config.json\).*folders that `flowleap train` wrote"
    ):
        reports.write([trained / "esc", tmp_path], tmp_path / "out.html")
    with pytest.raises(ValueError, match="at least one run folder"):
        reports.write([], tmp_path / "out.html")
    with pytest.raises(ValueError, match="at least one run"):
        reports.page("t", [])


# ---------------------------------------------------------------- where it is written


@pytest.mark.slow
def test_nothing_that_someone_else_wrote_is_lost(copied, tmp_path):
    out = tmp_path / "out.html"
    out.write_text("mine")
    with pytest.raises(FileExistsError, match=r"out\.html exists already"):
        reports.write([copied], out, num=0)
    assert out.read_text() == "mine"
    assert reports.write([copied], out, num=0, overwrite=True).read_text().startswith("<!doctype html>")
    own = copied / "report.html"
    assert reports.write([copied], num=0) == own
    assert reports.write([copied], num=0) == own  # an earlier report gives way to a new one
    own.write_text("<p>my notes</p>")
    with pytest.raises(FileExistsError):
        reports.write([copied], num=0)
    assert own.read_text() == "<p>my notes</p>"
    with pytest.raises(ValueError, match=r"one \.html file"):
        reports.write([copied], tmp_path / "out.pdf", num=0)


def test_the_default_place_of_several_runs_is_beside_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert reports.folders.default_place(["runs/a"]) == Path("runs/a/report.html")
    assert reports.folders.default_place(["runs/a", "runs/b"]) == Path("runs/report.html")
    assert reports.folders.default_place(["runs/a", "runs/a"]) == Path("runs/report.html")


@pytest.mark.slow
def test_the_command(copied, trained, tmp_path):
    app = typer.Typer()
    app.command()(report_command)
    out = tmp_path / "two.html"
    options = ["--out", str(out), "--steps", "1", "--num", "4", "--title", "Mine", "--device", "cpu"]
    done = CliRunner().invoke(app, [str(copied), str(trained / "flow-matching"), *options])
    assert done.exit_code == 0, done.output
    assert f"{out}: report of 2 runs" in done.output
    assert "<title>Mine</title>" in out.read_text()
    again = CliRunner().invoke(app, [str(copied), *options])
    assert isinstance(again.exception, FileExistsError)


# ---------------------------------------------------------------- images


def test_small_images_keep_their_pixels_and_large_ones_are_shrunk():
    x = torch.linspace(-1, 1, 3 * 3 * 8 * 8).reshape(3, 3, 8, 8)
    small = images.strip(x)
    assert small.pixelated and small.pitch == 45 and small.source.startswith("data:image/png")
    raw = Image.open(io.BytesIO(base64.b64decode(small.source.split(",")[1])))
    assert raw.size == (27, 8) and raw.getpixel((8, 0))[3] == 0
    assert raw.getpixel((9, 0))[:3] == tuple(pictures.pixels(x)[1, 0, 0].tolist())
    large = images.strip(torch.zeros(2, 3, 256, 256))
    assert not large.pixelated and large.height == 96 and large.width == 2 * large.pitch


def test_entries_are_values():
    made = some("a")
    assert replace(made, label="b").label == "b" and entry.finite(True) is None and entry.finite("1") is None
