"""What README.md and docs/*.md tell a reader to type: Python blocks and commands are run, with small budgets."""

from __future__ import annotations

import lzma
import re
import runpy
import shlex
import struct
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from flowleap import extensions
from flowleap.cli import app

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = {
    page.name: page for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md")))
}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(uv run [^`]+)`")
LAUNCHED = re.compile(r"^(uv run )?((torchrun|accelerate launch) .*?-m (-- )?)?flowleap ")

EXEMPT = {
    r"pip install .*": "installs packages",
    r"uv sync .*": "installs packages",
    r"uvx? .*pre-commit .*": "installs packages",
    r"git clone .*": "downloads the repository",
    r"cd .*": "part of git clone",
    r"bash \.ci/run": "runs all tests",
    r"uv run pytest.*": "runs tests",
    r"uv run python .*": "benchmarks, and scripts that write into the repository",
    r"python -m http\.server .*": "serves until it is stopped",
    r"flowleap export web .*": "needs the runtime of the page, which test_web.py takes where it is",
    r"flowleap app.*": "serves a page until it is interrupted",
    r"flowleap .*inception.*": "needs the weights of Inception",
    r"flowleap .*adm-in256.*": "needs the weights of Inception",
}
"""Patterns of commands that are not run, and why."""

INSTEAD = {
    "stabilityai/sd-vae-ft-ema": "vae",  # a small autoencoder of random weights
    "hf:mnist": "hf:exported/",
    "hf:NAME": "hf:remote",
    "OWNER/NAME:file.safetensors": "dit.pt",
    "imagenet/": "photos",
    "FOLDER": "photos",
    "CACHE": "photos-latents",
    "latents/": "photos-latents",
    "RUN": "runs/digits-esc-seed0",
    "OTHER": "runs/digits-meanflow-seed0",
    "--methods all": "--methods meanflow,esc",
    "--drop all": "--drop plug-in",
    "esc-xl2 --dry-run": "fashion-mnist --dry-run",
    "--minutes 30": "",  # planned runs are those of test_sizing.py
}
"""Placeholders, downloads and large jobs of the pages, and what is used here."""

SMALL = {
    "train": "--steps 2 --batch 16 --no-eval --sample-every 0 --log-every 1 --threads 1 --device cpu "
    "--set evaluation.online_share=0",
    "compare": "--budget 8steps --seeds 1 --batch 16 --num 80 --show 1 --threads 1 --device cpu",
    "ablate": "--budget 8steps --seeds 1 --batch 16 --num 80 --show 1 --threads 1 --device cpu",
    "sample": "--num 80",
    "evaluate": "--num 80 --steps 1",
    "diagnose": "--num 64",
    "report": "--num 2 --steps 1",
    "data encode": "--size 64",
    "export onnx": "--no-check --overwrite",
    "export diffusers": "--overwrite",
}
"""Options that are added to commands; the last one of a kind counts."""

SHORTER = {
    "range(3000)": "range(2)",
    "steps=3000, settings": "steps=2, batch=16, num=0, settings",
    '"sd-vae-ft-ema", device="cuda"': '"vae"',
}
"""Pieces of Python blocks, and what is run instead."""

ELSEWHERE = {
    "--nproc-per-node", "--mixed_precision", "--use_fsdp", "--gradient_accumulation_steps",
    "--dynamo_backend", "--tgt-decay", "--extra",
}  # fmt: skip
"""Options in the pages that belong to other programs."""


def commands(page: str) -> list[str]:
    """Return the commands of a page: lines of its shell blocks, and inline code that begins with `uv run`."""
    text = PAGES[page].read_text(encoding="utf-8")
    lines = [
        part
        for kind, body in BLOCK.findall(text)
        if kind in ("bash", "console")
        for line in body.replace("\\\n", " ").splitlines()
        for part in line.removeprefix("$ ").split("&&")
    ]
    lines += INLINE.findall(BLOCK.sub("", text))
    found = [shlex.join(shlex.split(line, comments=True)) for line in lines]
    return [LAUNCHED.sub("flowleap ", line) for line in found if line]


def runnable(page: str) -> list[str]:
    """Return those commands of a page that are run."""
    return [line for line in commands(page) if not any(re.fullmatch(one, line) for one in EXEMPT)]


def shortened(line: str) -> list[str]:
    """Return the words of a command of flowleap as it is run here, the name of the program aside."""
    for told, used in INSTEAD.items():
        line = re.sub(rf"(?<![\w/-]){re.escape(told)}(?![\w/])", used, line)
    words = shlex.split(line)[1:]
    name = " ".join(words[:2]) if words[0] in ("data", "export", "methods") else words[0]
    more = SMALL.get(name, "")
    if name == "evaluate" and words[1].endswith(".npz"):
        more = ""
    elif name == "train" and "--resume" in words:
        more = "--steps 3"
    elif name == "train" and not {"--teacher", "--init"} & set(words):
        more += " --set network.width=48" + (" --set network.depth=1" if "Tiny" not in words else "")
    if "progressive-distillation" in words:
        more += " --steps 14"  # two for each of its stages
    return words + more.split()


@pytest.fixture
def forget_imports() -> Iterator[None]:
    yield
    for one in extensions.loaded():
        extensions.forget(one.name)


def call(words: list[str]) -> str:
    """Run a command; return what went wrong, nothing if all is well."""
    result = CliRunner(env={"COLUMNS": None}).invoke(app, words)
    if result.exit_code == 0:
        return ""
    return f"flowleap {shlex.join(words)}: {result.stderr.strip()} {result.exception!r}"


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages name: images, an autoencoder, weights, a Python file, runs."""
    place, rng = tmp_path_factory.mktemp("furnished"), np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    for index, image in enumerate(pixels):
        file = place / "photos" / "ab"[index % 2] / f"{index:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    clothes, labels = pixels[:, :28, :28, 0], np.arange(40, dtype=np.uint8) % 10
    archive, sets = BytesIO(), place / "sets"
    np.savez(archive, train_x=clothes, train_y=labels, test_x=clothes, test_y=labels)
    (sets / "FashionMNIST" / "raw").mkdir(parents=True)
    (sets / "fashion_mnist.npz.xz").write_bytes(lzma.compress(archive.getvalue()))
    for part in ("train", "t10k"):
        for name, array in ((f"{part}-images-idx3-ubyte", clothes), (f"{part}-labels-idx1-ubyte", labels)):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (sets / "FashionMNIST" / "raw" / name).write_bytes(head + array.tobytes())
    (place / "two_jumps.py").write_text(BLOCK.search(PAGES["extending.md"].read_text())[2])
    extras(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for line in (
            "train esc --set optimizer.widths=0.05,0.1 --set optimizer.width_every=1",
            "train meanflow",
            "train flow-matching",
            "data encode photos/ --vae vae --out photos-latents",
            "export diffusers runs/digits-esc-seed0 digits-pipeline",
            "export onnx runs/digits-esc-seed0 digits.onnx",
        ):
            assert not call(shortened(f"flowleap {line}"))
    return place


def extras(place: Path) -> None:
    """Add what optional packages write, and weights as others publish them."""
    datasets, diffusers = pytest.importorskip("datasets"), pytest.importorskip("diffusers")
    from test_import import filled, torch_shapes

    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [Image.open(file) for file in sorted((place / "photos").rglob("*.png"))]}
    rows["label"] = [0, 1] * 20
    table = datasets.Dataset.from_dict(rows, features=kinds)
    table.save_to_disk(place / "exported")
    (place / "remote").mkdir()
    table.to_parquet(place / "remote" / "train-00000-of-00001.parquet")
    torch.manual_seed(0)
    diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8,) * 4,
        layers_per_block=1,
        norm_num_groups=4,
    ).save_pretrained(place / "vae")
    for name, second in (("esc-b2.pt", True), ("0000000.pt", False), ("dit.pt", False)):
        shapes = torch_shapes(second=second, out=8 if name == "dit.pt" else 4, width=384, depth=1)
        torch.save({"ema": filled(shapes)}, place / name)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_commands_are_understood(page, capsys):
    """Each command and each of its options exists, by the name that it has now."""
    for line in runnable(page):
        assert line.startswith("flowleap "), f"{page}: {line!r} is neither flowleap nor on the list EXEMPT"
        command, words = get_command(app), shlex.split(line)[1:]
        while words and hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        command.make_context(command.name, words)
        assert not capsys.readouterr().err, f"{page}: {line!r} uses a former name"


def test_nothing_is_exempt_or_replaced_that_no_page_says():
    told = [line for page in PAGES for line in commands(page)]
    assert [one for one in EXEMPT if not any(re.fullmatch(one, line) for line in told)] == []
    assert [one for one in INSTEAD if not any(one in line for line in told)] == []
    python = "".join(body for page in PAGES for body in python_blocks(page))
    assert [one for one in SHORTER if one not in python] == []


def test_options_that_pages_name_exist():
    def options(command) -> set[str]:
        own = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
        return own.union(*map(options, getattr(command, "commands", {}).values()))

    known, named = options(get_command(app)) | {"--help"} | ELSEWHERE, set()
    for page, path in PAGES.items():
        if page not in ("decisions.md", "log.md"):  # these also name options of the past
            code = " ".join(re.findall(r"`[^`\n]+`", BLOCK.sub("", path.read_text(encoding="utf-8"))))
            own = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", code))
            assert own <= known, f"{page} names {sorted(own - known)}"
            named |= own
    assert named >= ELSEWHERE, f"no page names {sorted(ELSEWHERE - named)}"


def python_blocks(page: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(PAGES[page].read_text(encoding="utf-8")) if kind == "python"]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)])
def test_python_blocks_run(page, furnished, monkeypatch):
    """One after another, in one namespace."""
    monkeypatch.chdir(furnished)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # where dataclasses look names up
    for body in python_blocks(page):
        for told, used in SHORTER.items():
            body = body.replace(told, used)
        exec(compile(body, page, "exec"), vars(module))


@pytest.mark.slow
def test_commands_run(furnished, monkeypatch, forget_imports):
    """One after another, in one folder; one that several pages have, once."""
    monkeypatch.chdir(furnished)
    pages = {shlex.join(shortened(line)): page for page in PAGES for line in runnable(page)}
    failed = []
    for line, page in pages.items():
        if wrong := call(shlex.split(line)):
            failed.append(f"{page}: {wrong}")
    assert not failed, "\n".join(failed)


def locked(name: str) -> str:
    """Return the version of a package in uv.lock."""
    packages = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    return next(package["version"] for package in packages if package["name"] == name)


@pytest.mark.slow
@pytest.mark.skipif(
    version("typer") != locked("typer"), reason="another typer writes the help in other words"
)
def test_the_page_of_the_command_line_has_the_help_texts():
    made = runpy.run_path(str(DOCS / "make_cli.py"))
    told = (DOCS / "cli.md").read_text(encoding="utf-8").split(made["MARKER"])[1]
    for name, text in made["sections"]().items():
        assert text in told, f"docs/cli.md has another help text of `{name}`: run python docs/make_cli.py"
    assert told == "\n".join(["\n", *made["sections"]().values()]), "run python docs/make_cli.py"


def test_files_name_one_version():
    release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\n## {release}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {release}\n" in (ROOT / "CITATION.cff").read_text()
    assert f'\nname = "flowleap"\nversion = "{release}"\n' in (ROOT / "uv.lock").read_text()
