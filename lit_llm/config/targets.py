"""Which code a configuration may name: what is defined in an allowed module and is of the kind that the key takes.

A name is followed through imports and aliases in the source files, and nothing is imported:
``lit_llm.training.build.torch.load`` is defined in torch, whatever it is called, and is refused.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from lit_llm.config import renamed
from lit_llm.config.signatures import OPTIONS, absolute, module_file, split, tree
from lit_llm.errors import UserError
from lit_llm.runtime.suggestions import nearest

ALLOWED = ("lit_llm.",)
HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}
_DEPTH = 20  # aliases of aliases


@dataclass(frozen=True)
class Definition:
    """Where a name is bound to a function, a class or a value."""

    module: str
    names: tuple[str, ...]  # ("Class", "method")
    node: ast.AST | None  # None: the module has no source file

    @property
    def path(self) -> str:
        return ".".join((self.module, *self.names))


@dataclass(frozen=True)
class Kind:
    """What a key takes: classes derived from ``bases``, and functions or classes by their full names.

    ``module`` and ``first``: public functions of these modules whose first parameter has one of these names.
    ``callables``: classes of these packages that can be called (``__call__``, or modules of torch).
    """

    said: str
    bases: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    callables: tuple[str, ...] = ()


KINDS = {
    "stage": Kind("a stage (a class derived from lit_llm.stages.base.Stage)", bases=("lit_llm.stages.base.Stage",)),
    "data": Kind(
        "data (a class derived from lit_llm.data.data_module.DataModule)",
        bases=("lit_llm.data.data_module.DataModule",),
    ),
    "callbacks": Kind(
        "a callback (a class derived from Lightning's Callback)",
        bases=("lightning.Callback", "lightning.pytorch.callbacks.Callback", "lightning.pytorch.Callback",
               "lightning.pytorch.callbacks.Checkpoint", "lightning.pytorch.callbacks.ProgressBar"),
    ),
    "backbone": Kind(
        "a backbone", names=("lit_llm.backbone.config.from_depth", "lit_llm.backbone.config.BackboneConfig")
    ),
    "rope_scaling": Kind("a scaling of positions", names=("lit_llm.backbone.config.RopeScaling",)),
    "tokenizer": Kind("a tokenizer", names=("lit_llm.text.bpe.train_bpe", "lit_llm.text.tokenizer.load_tokenizer")),
    "optimizer": Kind("an optimizer", modules=("lit_llm.optim",), first=("module", "model")),
    "schedule": Kind("a schedule", modules=("lit_llm.optim.schedules",), first=("optimizer",)),
    "logger": Kind("a logger", modules=("lit_llm.training.loggers",), first=("folder",)),
    "loss": Kind("a loss", modules=("lit_llm.objectives",), first=("pairs", "scores")),
    "reward": Kind("a reward", callables=("lit_llm.rewards",), names=("lit_llm.feedback.rule.reward",)),
    "reward_validation": Kind(
        "a reward model's validation", names=("lit_llm.rewards.validation.validator.RewardValidator",)
    ),
    "annotation": Kind(
        "what collects rankings", names=("lit_llm.feedback.simulated.collect", "lit_llm.feedback.people.collect")
    ),
}  # fmt: skip
# The kind of a part inside another one, by its key; under any other key it may be of any kind.
INSIDE = {"reward": "reward", "gold": "reward", "scorers": "reward", "loss": "loss",
          "reward_validation": "reward_validation", "rope_scaling": "rope_scaling"}  # fmt: skip


def refusal(target: Any, role: str, allowed: Sequence[str]) -> str | None:
    """Why a configuration may not build ``target`` at a key of this role; None: it may.

    ``allowed``: packages or modules, ``lit_llm.`` among them. What they define is built, not what they import.
    """
    if not isinstance(target, str) or not _DOTTED.fullmatch(target) or not under(target, allowed):
        return f"not under {', '.join(allowed)} (add a prefix of your own to allowed_targets)"
    if (now := renamed.target(target)) != target:
        return f"is called {now} now"
    try:
        found = list(definitions(target))
    except UserError as error:
        made_up = None if under(target, ALLOWED) else _made_at_import(target)
        if made_up is None:
            return str(error).removeprefix(f"{target}: ")
        found = [made_up]
    for one in found:
        if not under(one.path, allowed):
            return (
                f"is {one.path}, which is not defined under {', '.join(allowed)}; name what is defined there, or add "
                "its package to allowed_targets"
            )
        kinds = [KINDS[role]] if role in KINDS else list(KINDS.values())
        if under(one.path, ALLOWED) and not any(_is(one, kind) for kind in kinds):
            return f"is not {kinds[0].said if len(kinds) == 1 else 'a part that a configuration can name'}"
    return None


def under(path: str, allowed: Sequence[str]) -> bool:
    """Whether a dotted path lies in one of the packages or modules, or is one of the names."""
    return any(prefix.strip(".") and f"{path}.".startswith(f"{prefix.rstrip('.')}.") for prefix in allowed)


_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def bad_prefixes(allowed: Sequence[Any]) -> Iterator[str]:
    """The prefixes that name no package, such as an empty one, which would allow everything."""
    for prefix in allowed:
        if not isinstance(prefix, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*\.?", prefix):
            yield str(prefix)


def definitions(target: str) -> Iterator[Definition]:
    """Every place where the name at a dotted path may be bound. Raises UserError where there is none."""
    module, names = split(target)
    found = list(_bound(module, tuple(names), 0))
    if not found:
        raise UserError(f"{target}: module {module} has no {'.'.join(names)}{_nearest(module, names[0])}")
    yield from found


def _made_at_import(target: str) -> Definition | None:
    """A name that a module of the user's makes up when it is asked for (``__getattr__``): where its object says it is
    defined. The module is one that the user allows to run."""
    try:
        module, names = split(target)
        value: Any = importlib.import_module(module)
        for name in names:
            value = getattr(value, name)
    except Exception:  # there is no such module or name, or it fails, which the caller tells with the key
        return None
    of = getattr(value, "__module__", None)
    return Definition(of, (str(getattr(value, "__qualname__", names[-1])),), None) if isinstance(of, str) else None


@cache
def _bound(module: str, names: tuple[str, ...], depth: int) -> tuple[Definition, ...]:
    """The definitions of ``names`` as seen in ``module``; empty: there are none."""
    if depth > _DEPTH or not names:  # a module itself is nothing to build
        return ()
    if module_file(module) is None:  # an extension: it has no source to follow names in
        return (Definition(module, names, None),)
    found: list[Definition] = []
    stars: list[str] = []
    for node in _statements(tree(module).body):
        if isinstance(node, _DEFINES) and node.name == names[0]:
            found += _inside(module, node, names, 1, depth)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(module, node)
            for alias in node.names:
                if alias.name == "*":
                    stars.append(base)
                elif (alias.asname or alias.name) == names[0]:
                    found += _elsewhere(f"{base}.{alias.name}", names[1:], depth)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if (alias.asname or alias.name.split(".")[0]) == names[0]:
                    place = alias.name if alias.asname else names[0]
                    found += _elsewhere(place, names[1:], depth)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            found += _assigned(module, node, names, depth)
    for base in stars if not found else ():
        found += _elsewhere(base, names, depth)
    return tuple(found)


_DEFINES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module or class, those under if, try, with and loops too."""
    for node in body:
        yield node
        if not isinstance(node, _DEFINES):
            for field in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, field, ()))
            for handler in getattr(node, "handlers", ()):
                yield from _statements(handler.body)


def _elsewhere(place: str, rest: tuple[str, ...], depth: int) -> tuple[Definition, ...]:
    """The definitions of what is imported from ``place``; what cannot be found there counts as defined there."""
    dotted = ".".join((place, *rest))
    try:
        module, names = split(dotted)
    except UserError:
        module, names = dotted.rpartition(".")[0] or dotted, [dotted.rpartition(".")[2]]
    found = _bound(module, tuple(names), depth + 1)
    return found or (Definition(module, tuple(names), None),)


def _assigned(
    module: str, node: ast.Assign | ast.AnnAssign, names: tuple[str, ...], depth: int
) -> Iterator[Definition]:
    """``name = other.name`` is the other one; any other value is defined where it stands."""
    places = node.targets if isinstance(node, ast.Assign) else [node.target]
    if node.value is None or names[0] not in {getattr(place, "id", None) for place in places}:
        return
    text = ast.unparse(node.value)
    if _ALIAS.fullmatch(text):
        yield from _bound(module, (*text.split("."), *names[1:]), depth + 1)
    else:
        yield Definition(module, names, node)


_ALIAS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def _inside(module: str, node: ast.AST, names: tuple[str, ...], at: int, depth: int) -> Iterator[Definition]:
    """The definitions of ``Class.method``: in the class itself, or in a base class."""
    if at == len(names):
        yield Definition(module, names, node)
        return
    if not isinstance(node, ast.ClassDef):
        return
    found = False
    for item in _statements(node.body):
        if isinstance(item, _DEFINES) and item.name == names[at]:
            found = True
            yield from _inside(module, item, names, at + 1, depth)
        elif isinstance(item, ast.Assign | ast.AnnAssign):
            for one in _assigned(module, item, names[at:], depth):
                found = True
                yield one
    if not found:
        for base in node.bases:
            text = ast.unparse(base).split("[")[0]
            yield from _bound(module, (*text.split("."), *names[at:]), depth + 1)


def _is(found: Definition, kind: Kind) -> bool:
    node, path = found.node, found.path
    if path in kind.names:
        return True
    if len(found.names) > 1 or found.names[0].startswith("_"):
        return False
    if isinstance(node, ast.ClassDef):
        if kind.callables and under(path, kind.callables):
            return _derived(found, ("torch.nn.Module", "torch.nn.modules.module.Module")) or _called(found)
        return bool(kind.bases) and _derived(found, kind.bases)
    if isinstance(node, ast.FunctionDef) and kind.modules and under(path, kind.modules):
        given = [*node.args.posonlyargs, *node.args.args]
        return bool(given) and given[0].arg in kind.first
    return False


def _derived(found: Definition, bases: tuple[str, ...], depth: int = 0) -> bool:
    """Whether a class is one of ``bases`` or derived from one, as its source and that of its bases say."""
    if found.path in bases:
        return True
    if depth > _DEPTH or not isinstance(found.node, ast.ClassDef):
        return False
    for base in found.node.bases:
        names = tuple(ast.unparse(base).split("[")[0].split("."))
        if _spelt(found.module, names) in bases:
            return True
        if any(_derived(one, bases, depth + 1) for one in _bound(found.module, names, 0) if under(one.path, ALLOWED)):
            return True
    return False


def _called(found: Definition) -> bool:
    return isinstance(found.node, ast.ClassDef) and any(
        isinstance(item, ast.FunctionDef) and item.name == "__call__" for item in found.node.body
    )


def _spelt(module: str, names: tuple[str, ...]) -> str:
    """A name's dotted path as the module's imports spell it: ``L.Callback`` is lightning.Callback."""
    for node in _statements(tree(module).body):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == names[0]:
                    return ".".join((absolute(module, node), alias.name, *names[1:]))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname == names[0]:
                    return ".".join((alias.name, *names[1:]))
    return ".".join(names)


def _nearest(module: str, name: str) -> str:
    if module_file(module) is None:
        return ""
    known = [node.name for node in tree(module).body if isinstance(node, _DEFINES)]
    near = nearest(name, known)
    return f"; did you mean {near}?" if near else ""


# Every place


def nodes(value: Any, path: str = "", role: str = "") -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(key, role, mapping) of every mapping with a ``_target_``, however deep: in lists, mappings and ``_args_``."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield path, role, value
        for key, item in value.items():
            inner = INSIDE.get(str(key), "" if "_target_" in value else role)
            yield from nodes(item, f"{path}.{key}" if path else str(key), inner)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from nodes(item, f"{path}[{number}]", role)


# The kind of what stands at the top of a run's configuration; elsewhere INSIDE says it.
GROUPS = ("stage", "backbone", "tokenizer", "data", "optimizer", "schedule", "logger", "callbacks")


def saved_code(values: Mapping[str, Any], allowed: Sequence[str]) -> Iterator[str]:
    """A line for every piece of code that a run's plain configuration names and that may not run: targets, and the
    dotted paths of functions (a reward, a format)."""
    places = (*ALLOWED, *allowed)
    for group, part in values.items():
        for key, role, node in nodes(part, group, group if group in GROUPS else ""):
            reason = refusal(node["_target_"], role, places)
            if reason is not None:
                yield f"{key}._target_={node['_target_']}: {reason}"
            elif node.get("_args_") and under(str(node["_target_"]), ALLOWED):
                yield f"{key}._args_={node['_args_']}: a value without its name; it could be a function's"
        for key, function in _functions(part, group):
            if not under(function, places) or not _defined(function, places):
                yield f"{key}={function}: a function that is not under {', '.join(places)}"


def _defined(function: str, places: Sequence[str]) -> bool:
    try:
        return all(under(one.path, places) for one in definitions(function))
    except UserError:
        return False


def _functions(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            if isinstance(item, str) and (name == "function" or (name == "format" and re.search(r"[.$]", item))):
                yield f"{key}.{name}", item
            else:
                yield from _functions(item, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _functions(item, f"{key}[{number}]")


def refuse(value: Any, path: str, role: str, allowed: Sequence[str]) -> None:
    """Raises UserError for the first target in ``value`` that may not be built."""
    for key, kind, node in nodes(value, path, role):
        reason = refusal(node["_target_"], kind, (*ALLOWED, *allowed))
        if reason is not None:
            raise UserError(f"{key}._target_={node['_target_']}: {reason}")


def construct(node: Any, role: str, allowed: Sequence[str] = (), path: str | None = None) -> Any:
    """What a node of a configuration describes (as Hydra's ``instantiate``). Raises UserError for code not allowed.

    The last gate, whatever read the configuration: it looks at the values as they are after all interpolations, and
    builds those very values. Hydra's own would read an interpolation anew in text that is left after that.
    """
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(node if OmegaConf.is_config(node) else OmegaConf.create(node), resolve=True)
    refuse(plain, path or role, role, allowed)
    return _built(plain, path or role)


def _built(value: Any, key: str) -> Any:
    """``value`` with the object in place of every mapping that has a ``_target_``."""
    if isinstance(value, list):
        return [_built(item, f"{key}[{number}]") for number, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    inner = {name: item for name, item in value.items() if name not in HYDRA_KEYS or name == "_args_"}
    if value.get("_recursive_", True):
        inner = {name: _built(item, f"{key}.{name}") for name, item in inner.items()}
    if "_target_" not in value:
        return inner
    given = list(inner.pop("_args_", None) or ())
    target = value["_target_"]
    made, partial = _located(target), value.get("_partial_", False)
    if partial:
        inner = {name: item for name, item in inner.items() if not (isinstance(item, str) and item == "???")}
    try:
        inner = _with_options(made, inner)
        return functools.partial(made, *given, **inner) if partial else made(*given, **inner)
    except UserError:
        raise
    except Exception as error:
        from hydra.errors import InstantiationException

        raise InstantiationException(f"{key}._target_={target}: {type(error).__name__}: {error}") from error


def _with_options(made: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a class, those that are fields of its ``Options`` as one object of it."""
    kind = getattr(made, "Options", None)
    if not dataclasses.is_dataclass(kind) or not isinstance(kind, type):
        return given
    named = inspect.signature(made).parameters
    if OPTIONS not in named:
        return given
    fields = {field.name for field in dataclasses.fields(kind)} - set(named)
    options = kind(**{name: value for name, value in given.items() if name in fields})
    return {OPTIONS: options, **{name: value for name, value in given.items() if name not in fields}}


def _located(target: str) -> Any:
    module, names = split(target)
    found: Any = importlib.import_module(module)
    for name in names:
        found = getattr(found, name)
    return found


def named_class(node: Any, role: str, allowed: Sequence[str] = ()) -> type:
    """The class that a node's ``_target_`` names. Raises UserError for one that is not allowed, or no class."""
    target = node["_target_"]
    refuse({"_target_": target}, role, role, allowed)
    found = _located(target)
    if not isinstance(found, type):
        raise UserError(f"{role}._target_={target}: a {type(found).__name__}; a class is needed")
    return found
