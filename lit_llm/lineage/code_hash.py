"""The hashes of the code that a stage runs: the modules it names, and what these import of lit_llm and the user's own.

Of what is installed (torch, Lightning ...) only the named file counts: the versions of packages say the rest.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import re
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import lit_llm
from lit_llm.config.schema import texts
from lit_llm.errors import UserError
from lit_llm.runtime.source_files import absolute, archive, module_file, modules_of, tree

ALWAYS = ("lit_llm.training.train",)
LEFT_OUT = (
    "lit_llm.config", "lit_llm.lineage", "lit_llm.report", "lit_llm.pipeline", "lit_llm.feedback.web",
    "lit_llm.training.plan", "lit_llm.export",
)  # fmt: skip
"""Rooms that check, foresee, start, name and show runs: what they decide stands in the configuration, and counts so."""


def code_hashes(config: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the syntax tree of every module that a run of ``config`` can reach (comments do not count)."""
    named = {*ALWAYS, *targets(config)}
    archives = {module: _archive_hash(module) for module in named if archive(module) is not None}
    return {module: _hash(module) for module in sorted(closure(named))} | archives


def hashes_of(modules: Iterable[str]) -> dict[str, str]:
    """As ``code_hashes``, of these modules and what they reach; the rooms that they lie in count, also of LEFT_OUT."""
    named = set(modules)
    left_out = [room for room in LEFT_OUT if not any(_within(module, room) for module in named)]
    return {module: _hash(module) for module in sorted(closure(named, left_out))}


@cache
def _archive_hash(module: str) -> str:
    """Of a module in a zip file the whole file counts: it has no source file of its own."""
    place = archive(module)
    assert place is not None
    return hashlib.sha256(place.read_bytes()).hexdigest()


def targets(config: Any) -> Iterator[str]:
    """The modules of every ``_target_`` and every other dotted path to code in a plain configuration."""
    for _, text in texts(config):
        if _DOTTED.fullmatch(text):
            try:
                yield modules_of(text)
            except UserError:  # a file's name, or other text with a dot
                continue


_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def closure(modules: Iterable[str], left_out: Sequence[str] = LEFT_OUT) -> set[str]:
    """The modules and all that they import from lit_llm and from code that is not installed, inside functions too."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in found or any(_within(module, room) for room in left_out) or module_file(module) is None:
            continue
        found.add(module)
        if _own(module):
            waiting += [item for item in imports(module) if item not in found and _own(item)]
    return found


@cache
def _own(module: str) -> bool:
    """Whether a module is of lit_llm or a file of the user's: not of Python's library, not of an installed package."""
    if module == "lit_llm" or module.startswith("lit_llm."):
        return True
    top = module.split(".")[0]
    path = module_file(module)
    if path is None or top in sys.stdlib_module_names or top in REQUIRED:
        return False
    folder = path.parents[module.count(".") + (path.name == "__init__.py")]  # the one on the search path
    return not _installed(folder, top)


# What lit_llm itself requires is never the user's own code, wherever it lies: a torch built from its source has
# thousands of files.
REQUIRED = frozenset((
    "torch", "torchgen", "functorch", "triton", "torchvision", "torchaudio", "lightning", "pytorch_lightning",
    "lightning_utilities", "lightning_fabric", "torchmetrics", "hydra", "omegaconf", "antlr4", "yaml", "tensorboard",
    "tokenizers", "safetensors", "jinja2", "numpy", "scipy", "tqdm", "pyarrow", "pandas", "datasets", "transformers",
    "peft", "sklearn", "sympy", "networkx", "matplotlib", "fastapi", "starlette", "sqlalchemy",
))  # fmt: skip


@cache
def _installed(folder: Path, top: str) -> bool:
    """Whether the top package found in a folder of the search path was installed there.

    So says Python's own library, a folder for installed packages (of the environment, the user, the system, conda), a
    folder that a ``.pth`` file in one of those adds, or the RECORD of a distribution beside the package, as
    ``pip install --target`` leaves it. An editable install is the user's own code.
    """
    for place in {folder, folder.resolve()}:
        roots = [root for root in _editable() if place.is_relative_to(root)]
        inside = {part for root in roots for part in place.relative_to(root).parts}
        if roots and not inside & {"site-packages", "dist-packages"}:  # those of an environment in the project are not
            return False
        if any(part in ("site-packages", "dist-packages") for part in place.parts):
            return True
        if any(place.is_relative_to(root) for root in _libraries()) or place in _added():
            return True
    return top in _recorded(folder)


@cache
def _libraries() -> tuple[Path, ...]:
    """The folders of Python's own library, and those that Python takes for folders of installed packages."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    places = [place for name in names if (place := sysconfig.get_path(name))]
    return tuple(Path(place).resolve() for place in [*places, *_site_folders()])


def _site_folders() -> list[str]:
    """As ``site`` tells them; inside some environments it has no such functions."""
    found = list(getattr(site, "getsitepackages", list)())
    user = getattr(site, "getusersitepackages", None)
    return [*found, *([user()] if user is not None else [])]


@cache
def _added() -> frozenset[Path]:
    """The folders that ``.pth`` files of the search path's folders for installed packages add to it."""
    found = set()
    for folder in {*map(Path, _site_folders()), *(Path(place) for place in sys.path if "-packages" in place)}:
        for file in folder.glob("*.pth") if folder.is_dir() else ():
            for line in _lines(file):
                place = folder / line.strip()
                if line.strip() and not line.startswith(("#", "import ", "import\t")) and place.is_dir():
                    found |= {place, place.resolve()}
    return frozenset(found)


@cache
def _editable() -> tuple[Path, ...]:
    """The folders of the projects that are installed as they are worked on (``pip install -e``)."""
    found = []
    for distribution in importlib.metadata.distributions():
        try:
            told = json.loads(distribution.read_text("direct_url.json") or "{}")
        except (OSError, ValueError):
            continue
        url = str(told.get("url", ""))
        if told.get("dir_info", {}).get("editable") and url.startswith("file://"):
            found.append(Path(unquote(urlparse(url).path)).resolve())
    return tuple(found)


@cache
def _recorded(folder: Path) -> frozenset[str]:
    """The top packages that the distributions in a folder installed beside themselves."""
    found = set()
    for record in [*folder.glob("*.dist-info/RECORD"), *folder.glob("*.egg-info/installed-files.txt")]:
        for line in _lines(record):
            first = line.split(",")[0].strip('"').removeprefix("../").split("/")[0]
            found.add(first.removesuffix(".py").split(".")[0])
    return frozenset(found - {""})


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _within(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


@cache
def imports(module: str) -> tuple[str, ...]:
    """The modules with a Python file that a module names in its imports, relative ones too."""
    found: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = absolute(module, node)
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")}
            if base == "lit_llm":  # the package's own names, which are imported when they are asked for
                found |= {lit_llm.HOMES[alias.name] for alias in node.names if alias.name in lit_llm.HOMES}
    return tuple(sorted(name for name in found if module_file(name) is not None))


@cache
def _hash(module: str) -> str:
    path = module_file(module)
    assert isinstance(path, Path)
    source = path.read_bytes()
    if _own(module):
        tree_ = ast.parse(source)
        source = ast.dump(_Computing(_loggers(tree_)).visit(tree_)).encode()
    return hashlib.sha256(source).hexdigest()


LOGGING = {"debug", "info", "warning", "error", "exception", "critical"}
ERRORS = {"UserError", "RowError"}  # of this package: also made in one place and raised in another


def _loggers(module: ast.Module) -> set[str]:
    """The names of a module that are ``logging.getLogger(...)``."""
    made = [node for node in module.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)]
    made = [node for node in made if ast.unparse(node.value.func) in ("logging.getLogger", "getLogger")]  # type: ignore[attr-defined]
    return {target.id for node in made for target in node.targets if isinstance(target, ast.Name)}


class _Computing(ast.NodeTransformer):
    """Leaves out what is only read: docstrings, the texts of errors, and what is logged. What is called to make such a
    text stays: it may do something."""

    def __init__(self, loggers: set[str]) -> None:
        self.loggers = loggers

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant | ast.JoinedStr):
                node.body = node.body[1:] or [ast.Pass()]
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc.args = [_without_texts(item) for item in node.exc.args]
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        called = node.func
        logs = (
            isinstance(called, ast.Attribute) and called.attr in LOGGING and ast.unparse(called.value) in self.loggers
        )
        if logs or (isinstance(node.func, ast.Name) and node.func.id in ERRORS):
            node.args = [_without_texts(item) for item in node.args]
        return self.generic_visit(node)


def _without_texts(node: Any) -> Any:
    """An argument without the texts that it is put together from: those inside of further calls stay."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return ast.Constant("")
    if isinstance(node, ast.JoinedStr):
        return ast.JoinedStr([each for each in node.values if isinstance(each, ast.FormattedValue)])
    if isinstance(node, ast.BinOp):
        return ast.BinOp(_without_texts(node.left), node.op, _without_texts(node.right))
    if isinstance(node, ast.IfExp):
        return ast.IfExp(node.test, _without_texts(node.body), _without_texts(node.orelse))
    return node
