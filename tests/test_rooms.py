"""Who may import whom: the order of the rooms, from errors to the pipeline, is held by reading every import."""

import ast
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lit_llm

PACKAGE = Path(lit_llm.__file__).parent
TOP = {"__init__", "errors", "records"}
# From below to above: a room imports those before it.
ORDER = (
    "runtime", "model_sources", "text", "objectives", "optim", "checkpointing", "backbone", "generation",
    "feedback.store", "data", "config",
    "evaluation", "rewards", "stages", "callbacks", "lineage", "export", "report", "feedback", "feedback.web",
    "training", "pipeline",
)  # fmt: skip
HYDRA = {"config", "training", "pipeline"}
LIGHTNING_PRIVATE = "runtime/lightning_loops.py"


def room_of(parts):
    """The room of a module's path below the package: the longest known name."""
    return next((".".join(parts[:n]) for n in (2, 1) if ".".join(parts[:n]) in ORDER), None)


def inside(file):
    return file.relative_to(PACKAGE).with_suffix("").parts


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(("lit_llm", *inside(file))).removesuffix(".__init__"): file for file in FILES}


def imports_of(file):
    """The dotted names that a file imports, in functions and for types too; the package's lazy names by their homes."""
    package = ["lit_llm", *inside(file)][:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = ".".join(
                [*package[: len(package) - node.level + 1], *filter(None, [node.module])]
                if node.level
                else [node.module]
            )
            for alias in node.names:
                name = lit_llm.HOMES.get(alias.name, base) if base == "lit_llm" else f"{base}.{alias.name}"
                yield name if name in MODULES else base
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            yield from (item.value for item in node.args[:1] if isinstance(item, ast.Constant))


@pytest.mark.parametrize("room", ORDER)
def test_a_room_imports_only_what_stands_below_it(room):
    for file in (file for file in FILES if room_of(inside(file)) == room):
        for name in imports_of(file):
            where, top = f"{file.relative_to(PACKAGE)} imports {name}", name.split(".")[0]
            assert top != "hydra" or room in HYDRA, where
            assert top != "omegaconf" or room in HYDRA | {"lineage"}, where
            assert top != "lightning" or room not in ("backbone", "objectives"), where
            if top == "lit_llm" and (other := room_of(name.split(".")[1:])) is not None:
                assert ORDER.index(other) <= ORDER.index(room), where


def test_at_the_top_stands_only_what_all_rooms_speak_of():
    assert {file.stem for file in PACKAGE.glob("*.py")} == TOP
    for file in PACKAGE.glob("*.py"):
        assert {name for name in imports_of(file) if name.startswith("lit_llm.")} <= {"lit_llm.errors"}


def test_every_room_is_named_here():
    assert {room_of(inside(file)) for file in FILES} - {None} == set(ORDER)
    assert {file.stem for file in FILES if room_of(inside(file)) is None} == TOP


def test_no_circle_of_imports():
    graph = {name: {each for each in imports_of(file) if each in MODULES} - {name} for name, file in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_nothing_private_is_imported_across_modules():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lit_llm"):
                assert not [a.name for a in node.names if a.name.startswith("_")], f"{file}: {ast.unparse(node)}"


def test_lightning_s_private_names_stand_in_one_file():
    for file in FILES:
        if file.relative_to(PACKAGE).as_posix() == LIGHTNING_PRIVATE:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lightning"):
                assert not [alias.name for alias in node.names if alias.name.startswith("_")], file
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                assert not ast.unparse(node.value).endswith(("trainer", "_loop")), f"{file}: {ast.unparse(node)}"


def test_every_folder_is_installed():
    settings = tomllib.loads(PACKAGE.parent.joinpath("pyproject.toml").read_text(encoding="utf-8"))
    folders = {".".join(p.parent.relative_to(PACKAGE.parent).parts) for p in PACKAGE.rglob("__init__.py")}
    assert set(settings["tool"]["setuptools"]["packages"]) == folders | {"lit_llm.conf"}
