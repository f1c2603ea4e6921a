"""Write what a module needs, from whatever modules of flowleap, into one file that does not import flowleap.

Definitions are copied word for word, so that there is one source of the code. Left out are members of classes that
nothing in the file names, all but the first paragraph of docstrings, and the checks `__post_init__` of dataclasses.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

__all__ = ["standalone"]

PACKAGE = Path(__file__).resolve().parent.parent
Key = tuple[str, str]
"""A module and a name that it defines."""
Definition = ast.ClassDef | ast.FunctionDef | ast.Assign | ast.AnnAssign
NOTES = re.compile(r"  # (?:fmt: skip|type: ignore|noqa)\b.*")
"""Comments for tools that read our source."""


@dataclass(frozen=True)
class Module:
    """The source of a module: what it defines, and what its imports call things of flowleap and of others."""

    name: str
    lines: list[bytes]
    defined: dict[str, Definition] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    notes: dict[str, ast.Expr] = field(default_factory=dict)
    inside: dict[str, Key] = field(default_factory=dict)
    outside: dict[str, tuple[str, str]] = field(default_factory=dict)


@cache
def read(name: str) -> Module:
    """Read a module of flowleap, "flowleap.networks.dit" or a package such as "flowleap.times"."""
    place = PACKAGE.joinpath(*name.split(".")[1:])
    text = (place / "__init__.py" if place.is_dir() else place.with_suffix(".py")).read_bytes()
    module, last = Module(name, text.split(b"\n")), ""
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flowleap":
            module.inside.update({a.asname or a.name: (str(node.module), a.name) for a in node.names})
        elif isinstance(node, ast.ImportFrom):
            module.outside.update({a.asname or a.name: (str(node.module), _as(a)) for a in node.names})
        elif isinstance(node, ast.Import):
            module.outside.update({a.asname or a.name.split(".")[0]: ("", _as(a)) for a in node.names})
        elif isinstance(node, Definition):
            last = name_of(node)
            module.defined[last] = node
            module.first.update(dict.fromkeys(names_of(node), last))
        elif (
            isinstance(node, ast.Expr)
            and last
            and isinstance(module.defined[last], ast.Assign | ast.AnnAssign)
        ):
            module.notes[last] = node
    return module


def _as(alias: ast.alias) -> str:
    return alias.name if alias.asname is None else f"{alias.name} as {alias.asname}"


def names_of(node: ast.stmt) -> list[str]:
    """Return the names that a statement defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
    return [found.id for target in targets for found in ast.walk(target) if isinstance(found, ast.Name)]


def name_of(node: ast.stmt) -> str:
    """Return the first name that a statement defines, "" for none."""
    return next(iter(names_of(node)), "")


@cache
def always(cls: ast.ClassDef, member: ast.stmt) -> bool:
    """Return whether a member of a class is called by Python or torch, or a field of a dataclass."""
    name = name_of(member)
    if isinstance(member, ast.FunctionDef):
        return name == "forward" or (name.startswith("__") and name != "__post_init__")
    data = any("dataclass" in ast.unparse(decorator) for decorator in cls.decorator_list)
    return isinstance(member, ast.AnnAssign) and data and "ClassVar" not in ast.unparse(member.annotation)


@cache
def resolved(module: str, name: str) -> Key | None:
    """Return where a name of a module is defined in flowleap, following its imports; None for anything else."""
    found = read(module)
    if name in found.first:
        return module, name
    if name not in found.inside:
        return None
    key = resolved(*found.inside[name])
    if key is None:
        raise ValueError(f"{module} imports {'.'.join(found.inside[name])}, a module: import names from it")
    return key


def statement(key: Key) -> Key:
    """Return the key of the statement that defines a name: the first of its names."""
    return key[0], read(key[0]).first[key[1]]


def standalone(root: str, only: Mapping[str, Collection[str]] | None = None, asked_by: str = "") -> str:
    """Return the text of a file that defines all that a module does, without importing flowleap.

    Args:
        root: the name of the module.
        only: for a constant of this module that lists names in a tuple, those that the file has.
        asked_by: the text of a file that uses this one: members of classes that are named there are written, too.
    """
    selection = _Selection(root, only or {}, _words([ast.parse(asked_by)]))
    text = "\n\n\n".join(selection.rendered())
    doc = ast.get_docstring(ast.parse(b"\n".join(read(root).lines))) or ""
    return f'"""{doc}\n"""\n\n{selection.imports()}\n\n\n{text}\n'


class _Selection:
    """The definitions that a file has, and the words by which their members are asked."""

    def __init__(self, root: str, only: Mapping[str, Collection[str]], words: set[str]) -> None:
        self.root, self.only, self.words = root, only, words
        self.keys: dict[Key, list[ast.AST]] = {(root, name): [] for name in read(root).defined}
        size = (0, 0)
        while size != (size := (len(self.keys), len(self.words))):
            for key in list(self.keys):
                self.keys[key] = self.kept(key)
                self.words |= _words(self.keys[key])
                self.keys |= {found: [] for found in self.asked(key) if found not in self.keys}

    def asked(self, key: Key) -> Iterator[Key]:
        """Yield the definitions of flowleap that one names."""
        for name in _names(self.keys[key]):
            found = resolved(key[0], name)
            if found is not None and statement(found) != key:
                yield statement(found)

    def kept(self, key: Key) -> list[ast.AST]:
        """Return what is written of a definition: its parts, if it is a class, else all of it."""
        node = read(key[0]).defined[key[1]]
        if isinstance(node, ast.ClassDef):
            members = node.body if key[0] == self.root else [m for m in node.body if self.wanted(node, m)]
            return [*node.decorator_list, *node.bases, *members]
        choice = self.choice(key)
        if choice is None:
            return [node]
        left_out = {n.id for n in choice.elts if isinstance(n, ast.Name)} - set(self.only[key[1]])
        return [n for n in ast.walk(node) if isinstance(n, ast.Name) and n.id not in left_out]

    def choice(self, key: Key) -> ast.Tuple | None:
        """Return the tuple of a constant of which the file has only some names; None for other definitions."""
        if key[0] != self.root or key[1] not in self.only:
            return None
        return next(n for n in ast.walk(read(key[0]).defined[key[1]]) if isinstance(n, ast.Tuple))

    def wanted(self, cls: ast.ClassDef, member: ast.stmt) -> bool:
        """Return whether a member of a class is written."""
        return always(cls, member) or name_of(member) in self.words

    def empty(self, key: Key) -> bool:
        """Return whether nothing is left of a class, which then need not be inherited."""
        node = read(key[0]).defined[key[1]]
        if not isinstance(node, ast.ClassDef) or key[0] == self.root or node.decorator_list:
            return False
        return not any(self.wanted(node, m) for m in node.body) and not node.bases

    def names(self) -> dict[Key, str]:
        """Return what each definition is called: its name, with that of its module where two have the same."""
        found: dict[Key, str] = {}
        for key in self.order():
            taken = key[1] in found.values()
            found[key] = f"{key[1]}_{key[0].split('.')[-1]}" if taken else key[1]
        return found

    def order(self) -> list[Key]:
        """Return the definitions, those of a module after those of the modules that it needs."""
        done: list[str] = []

        def visit(module: str) -> None:
            needed = {k[0] for key in self.keys if key[0] == module for k in self.asked(key)} - {module}
            for other in sorted(needed):
                if other not in done:
                    visit(other)
            if module not in done:
                done.append(module)

        visit(self.root)
        return [
            (m, name)
            for m in done
            for name in read(m).defined
            if (m, name) in self.keys and not self.empty((m, name))
        ]

    def imports(self) -> str:
        """Return the lines that import what is not of flowleap.

        Raises: ValueError where that has the name of a definition.
        """
        found: dict[str, tuple[str, str]] = {}
        for key in self.order():
            outside = read(key[0]).outside
            found |= {name: outside[name] for name in _names(self.keys[key]) if name in outside}
        twice = found.keys() & set(self.names().values())
        if twice:
            raise ValueError(
                f"{self.root}: {', '.join(sorted(twice))} is imported, and defined elsewhere: rename it"
            )
        lines: dict[bool, list[str]] = {True: [], False: []}
        for source in sorted({source for source, _ in found.values()}):
            what = sorted({name for other, name in found.values() if other == source})
            for line in (
                [f"from {source} import {', '.join(what)}"] if source else [f"import {name}" for name in what]
            ):
                lines[line.split()[1].split(".")[0] in sys.stdlib_module_names].append(line)
        blocks = [
            "\n".join(sorted(lines[own], key=lambda line: line.startswith("from"))) for own in (True, False)
        ]
        return "\n\n".join(["from __future__ import annotations", *filter(None, blocks)])

    def rendered(self) -> Iterator[str]:
        """Yield the text of each definition; constants of a module that follow one another are one text."""
        names, block = self.names(), [""]
        for key in self.order():
            text = self.text(key, names)
            if isinstance(read(key[0]).defined[key[1]], ast.ClassDef | ast.FunctionDef):
                yield from filter(None, ("\n".join(block).strip(), text))
                block = [""]
            else:
                block.append(text)
        yield from filter(None, ["\n".join(block).strip()])

    def text(self, key: Key, names: Mapping[Key, str]) -> str:
        """Return the source of a definition, with the names that things have in the file."""
        module, node = read(key[0]), read(key[0]).defined[key[1]]
        editor = _Editor(module)

        def called(name: str) -> str:
            found = resolved(key[0], name)
            if found is None:
                return name
            return names.get(found, name) if statement(found) == found else found[1]

        for found in ast.walk(node):
            name = called(found.id) if isinstance(found, ast.Name) else ""
            if isinstance(found, ast.Name) and name != found.id:
                editor.replace(found, name)
        choice = self.choice(key)
        if choice is not None:
            own = [called(n.id) for n in choice.elts if isinstance(n, ast.Name) and n.id in self.only[key[1]]]
            editor.replace(choice, f"({', '.join(own)}{',' * (len(own) == 1)})")
        if isinstance(node, ast.ClassDef):
            return "\n".join(self._class(key, node, editor, names))
        if isinstance(node, ast.FunctionDef):
            editor.shorten(node)
            if names[key] != node.name:
                return editor.text(node).replace(f"def {node.name}(", f"def {names[key]}(", 1)
        parts = [editor.text(node)]
        if key[1] in module.notes:
            parts.append(editor.text(module.notes[key[1]]))
        return "\n".join(parts)

    def _class(
        self, key: Key, node: ast.ClassDef, editor: _Editor, names: Mapping[Key, str]
    ) -> Iterator[str]:
        """Yield the lines of a class: its decorators, its header, and the members that are kept."""
        yield from (f"@{ast.unparse(decorator)}" for decorator in node.decorator_list)
        bases = []
        for base in node.bases:
            found = resolved(key[0], base.id) if isinstance(base, ast.Name) else None
            if found is None:
                bases.append(ast.unparse(base))
            elif not self.empty(found):
                bases.append(names[found])
        yield f"class {names[key]}({', '.join(bases)}):" if bases else f"class {names[key]}:"
        if key[0] != self.root:
            editor.shorten(node)
        after: ast.stmt | None = None
        for member in node.body:
            note = isinstance(member, ast.Expr)
            if note and (member is node.body[0] or after is not None):
                yield editor.text(member)
            elif not note and (key[0] == self.root or self.wanted(node, member)):
                assigned = isinstance(member, ast.Assign | ast.AnnAssign)
                if not (assigned and isinstance(after, ast.Assign | ast.AnnAssign)):
                    yield ""
                if isinstance(member, ast.FunctionDef) and key[0] != self.root:
                    editor.shorten(member)
                yield editor.text(member)
                after = member if assigned else None
                continue
            after = None


class _Editor:
    """The lines of a module with changes, from which statements are cut out."""

    def __init__(self, module: Module) -> None:
        self.lines = list(module.lines)
        self.changes: list[tuple[tuple[int, int], tuple[int, int], bytes]] = []

    def replace(self, node: ast.expr, text: str) -> None:
        """Write another text in place of an expression."""
        start, end = (node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)
        self.changes = [c for c in self.changes if not start <= c[0] < end] + [(start, end, text.encode())]

    def shorten(self, node: ast.ClassDef | ast.FunctionDef) -> None:
        """Leave of the docstring of a definition its first paragraph."""
        doc = node.body[0]
        if ast.get_docstring(node) is None or not isinstance(doc, ast.Expr):
            return
        lines = self.lines[doc.lineno - 1 : doc.end_lineno]
        blank = next((i for i, line in enumerate(lines) if not line.strip()), None)
        if blank is not None:
            end = (doc.lineno + blank - 1, len(lines[blank - 1]))
            self.changes.append((end, (doc.end_lineno or 0, doc.end_col_offset or 0), b'"""'))

    def text(self, node: ast.stmt) -> str:
        """Return the source of a statement with the changes in it."""
        start = min(d.lineno for d in [node, *getattr(node, "decorator_list", [])])
        end, lines = node.end_lineno or 0, list(self.lines)
        for first, last, new in sorted(self.changes, reverse=True):
            if start <= first[0] and last[0] <= end:
                joined = lines[first[0] - 1][: first[1]] + new + lines[last[0] - 1][last[1] :]
                lines[first[0] - 1 : last[0]] = [joined]
                end -= last[0] - first[0]
        return "\n".join(NOTES.sub("", line.decode()) for line in lines[start - 1 : end])


def _names(nodes: Collection[ast.AST]) -> set[str]:
    """Return the names in nodes."""
    return set().union(*map(_names_in, nodes))


@cache
def _names_in(node: ast.AST) -> frozenset[str]:
    return frozenset(found.id for found in ast.walk(node) if isinstance(found, ast.Name))


def _words(nodes: Collection[ast.AST]) -> set[str]:
    """Return the attributes that are asked for, also those of getattr and hasattr."""
    return set().union(*map(_words_in, nodes))


@cache
def _words_in(node: ast.AST) -> frozenset[str]:
    words = set()
    for found in ast.walk(node):
        if isinstance(found, ast.Attribute):
            words.add(found.attr)
        elif isinstance(found, ast.Call) and getattr(found.func, "id", "") in ("getattr", "hasattr"):
            words |= {a.value for a in found.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return frozenset(words)
