"""The house: rooms import from lower floors only, the package is light, no file knows where it lives."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "flowleap"

FLOORS = (
    ("dual", "formatting", "streams", "suggest", "tensors"),
    (
        "citations",
        "clock",
        "fields",
        "files",
        "lock",
        "memory",
        "processes",
        "progress",
        "provenance",
        "randomness",
        "terminal",
        "threads",
    ),
    ("paths", "derivatives", "networks", "data", "schedules", "tables"),
    ("parameterization", "point", "oracles", "autoencoders"),
    ("flow_map",),
    ("interfaces",),
    ("times", "losses", "guidance"),
    ("velocities", "samplers"),
    ("couplings",),
    ("objectives",),
    ("distillation", "serialize"),
    ("methods",),
    ("design", "extensions"),
    ("evaluation", "pictures"),
    ("training",),
    ("runs", "importers"),
    ("reports",),
    ("studies",),
    ("export",),
    ("model",),
    ("app",),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
ROOMS = sorted(
    path.stem
    for path in SOURCE.iterdir()
    if (path.suffix == ".py" and path.stem != "__init__") or (path.is_dir() and any(path.glob("*.py")))
)
LIGHT = [
    "matplotlib",
    "sklearn",
    "scipy.stats",
    "typer",
    "rich",
    "diffusers",
    "datasets",
    "gradio",
    "onnx",
    "PIL",
    "jinja2",
    "ot",
    "torch_fidelity",
    "huggingface_hub",
    "accelerate",
]


def files_of(room: str) -> list[Path]:
    single = SOURCE / f"{room}.py"
    return [single] if single.exists() else sorted((SOURCE / room).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(parsed(path)))


def rooms_imported(path: Path, text: str | None = None) -> set[str]:
    """The rooms of flowleap that a file imports, also inside functions and by relative imports."""
    package = ["flowleap", *path.relative_to(SOURCE).with_suffix("").parts[:-1]]
    found: set[str] = set()
    for node in nodes_of(path) if text is None else ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            whole, *rest = name.split(".")
            if whole == "flowleap":
                found.add(rest[0] if rest else "flowleap")
    return found


def test_every_room_stands_on_a_floor():
    assert sorted(FLOOR) == ROOMS


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_from_lower_floors_only(room):
    for path in files_of(room):
        for other in rooms_imported(path) - {room}:
            assert other in FLOOR, (
                f"{path.name} imports flowleap.{other}, which is no room: import from the room itself"
            )
            assert FLOOR[other] < FLOOR[room], (
                f"{path.relative_to(SOURCE)} on floor {FLOOR[room]} imports {other} on floor {FLOOR[other]}"
            )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import flowleap.paths", {"paths"}),
        ("from flowleap import methods, serialize", {"methods", "serialize"}),
        ("from flowleap.data.batching import Shuffled", {"data"}),
        ("def f():\n    from flowleap import runs", {"runs"}),
        ("from . import helper\nfrom .other import x", {"objectives"}),
        ("from ..paths import LinearPath\nfrom .. import times", {"paths", "times"}),
        ("import flowleap", {"flowleap"}),
        ("import torch.nn\nfrom numpy import pi", set()),
    ],
)
def test_the_reader_of_imports_reads_all_kinds(text, found):
    assert rooms_imported(SOURCE / "objectives" / "base.py", text) == found


def modules_imported(path: Path) -> set[str]:
    """The modules of flowleap that a file imports, for types as well."""
    package = path.relative_to(SOURCE.parent).with_suffix("").parts[:-1]
    found = set()
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            found |= {whole, *(f"{whole}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("room", [room for room in ROOMS if (SOURCE / room).is_dir()])
def test_files_of_a_room_import_one_another_without_a_circle(room):
    """Not for types, either."""
    files = {".".join(path.relative_to(SOURCE.parent).with_suffix("").parts): path for path in files_of(room)}
    files = {name: path for name, path in files.items() if not name.endswith("__init__")}
    left = {name: modules_imported(path) & files.keys() - {name} for name, path in files.items()}
    while free := [name for name, asked in left.items() if not asked & left.keys()]:
        left = {name: asked for name, asked in left.items() if name not in free}
    assert not left, f"these import one another in a circle: {sorted(left)}"


def test_a_part_is_asked_through_its_base_class():
    """No `isinstance` of a time law, target, loss, coupling, velocity or target network outside its own room."""
    from flowleap import interfaces, serialize

    known = [cls for cls in serialize._types().values() if issubclass(cls, interfaces.Part)]
    parts = {cls.__name__: cls.__module__.split(".")[1] for cls in known}
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).with_suffix("").parts[0]
        for node in nodes_of(path):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                names = {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)}
                names |= {name.attr for name in ast.walk(node.args[1]) if isinstance(name, ast.Attribute)}
                foreign = {name for name in names & parts.keys() if parts[name] != room}
                assert not foreign, f"{path.relative_to(SOURCE)} asks for {sorted(foreign)} by name"


@pytest.mark.slow
def test_importing_the_library_is_light():
    """Nothing of pictures, tables, judges or command lines is loaded, whatever room is looked at."""
    rooms = "import flowleap.data, flowleap.pictures; [getattr(flowleap, name) for name in flowleap.__all__]"
    script = f"import sys, flowleap; {rooms}; print([name for name in {LIGHT} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_command_line_does_not_wait_for_torch():
    script = "import sys, flowleap.cli; print([name for name in ('torch', 'sklearn') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_every_public_name_of_the_package_is_there():
    import flowleap

    assert flowleap.__all__ == sorted(flowleap.__all__, key=lambda name: (not name[0].isupper(), name))
    for name in flowleap.__all__:
        assert hasattr(flowleap, name), name


@pytest.mark.parametrize("room", ROOMS)
def test_what_a_room_offers_is_there(room):
    """`__all__` of every file names things that exist in it."""
    for path in files_of(room):
        tree = parsed(path)
        offered = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "__all__"
        ]
        known = {node.id for node in nodes_of(path) if isinstance(node, ast.Name)}
        known |= {getattr(node, "name", "") for node in tree.body}
        known |= {
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert set(offered[0] if offered else []) <= known, path.name


def test_functions_fit_on_a_screen():
    """Fewer than sixty lines each, signatures aside: the options of a command are its documentation."""
    for path in SOURCE.rglob("*.py"):
        for node in nodes_of(path):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.body[0].lineno + 1
                assert length < 60, f"{path.relative_to(SOURCE)}: {node.name} has {length} lines"


PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page):
    """Files of this repository; addresses of the web are left alone."""
    links = {link for link in LINK.findall(page.read_text()) if not link.startswith("http")}
    assert {link for link in links if not (page.parent / link).exists()} == set()


PLACES = re.compile(r"(?<![\w.:/])/(?:work|root|home|Users|mnt|opt|srv|data|private|tmp)/\w")
WRITTEN = {".py", ".md", ".toml", ".cfg", ".yml", ".yaml", ".json", ".txt", ".sh", ""}


def test_no_file_says_where_it_lives():
    """Absolute paths of some machine belong to that machine."""
    kept = [ROOT / name for name in ("README.md", "CHANGELOG.md", "pyproject.toml", "CONTRIBUTING.md")]
    for folder in ("src", "tests", "docs", "examples", "benchmarks", ".ci", ".github"):
        kept += [path for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    for path in kept:
        if path.is_file() and path.suffix in WRITTEN and path != Path(__file__).resolve():
            found = PLACES.search(path.read_text(errors="replace"))
            assert found is None, f"{path.relative_to(ROOT)} mentions {found.group()}…"
