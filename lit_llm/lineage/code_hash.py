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
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from lit_llm.config.schema import texts
from lit_llm.config.signatures import absolute, archive, module_file, modules_of, tree
from lit_llm.errors import UserError

ALWAYS = ("lit_llm.training.train",)
LEFT_OUT = ("lit_llm.config", "lit_llm.lineage", "lit_llm.report", "lit_llm.pipeline", "lit_llm.feedback.web")
"""Rooms that check, start, name and show runs: what they decide stands in the configuration, which counts by itself."""


def code_hashes(config: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the syntax tree of every module that a run of ``config`` can reach (comments do not count)."""
    named = {*ALWAYS, *targets(config)}
    archives = {module: _archive_hash(module) for module in named if archive(module) is not None}
    return {module: _hash(module) for module in sorted(closure(named))} | archives


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


def closure(modules: Iterable[str]) -> set[str]:
    """The modules and all that they import from lit_llm and from code that is not installed, inside functions too."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in found or _left_out(module) or module_file(module) is None:
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
        if any(place.is_relative_to(root) for root in _editable()):
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


def _left_out(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in LEFT_OUT)


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
    return tuple(sorted(name for name in found if module_file(name) is not None))


@cache
def _hash(module: str) -> str:
    path = module_file(module)
    assert isinstance(path, Path)
    source = path.read_bytes()
    if _own(module):
        source = ast.dump(_Computing().visit(ast.parse(source))).encode()
    return hashlib.sha256(source).hexdigest()


class _Computing(ast.NodeTransformer):
    """Leaves out what is only read: docstrings, the texts of errors and warnings, and what is logged."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and _is_text(first.value):
                node.body = node.body[1:] or [ast.Pass()]
        return node

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = getattr(node.func, "value", None)
        if name.endswith(("Error", "Warning", "Exception")) or getattr(owner, "id", None) in ("log", "warnings"):
            node.args = [ast.Constant("") if _is_text(item) else item for item in node.args]
        return node


def _is_text(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) or _is_text(node.right)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
