"""Loggers whose packages are extras: what of them is missing, looked at before anything is read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from lit_llm.config.pipeline_steps import runs
from lit_llm.errors import UserError
from lit_llm.runtime.counted import verb

DATABASE = "sqlite:///mlflow.db"  # of MLflow, where nothing else is said
_LOGGERS = "lit_llm.training.loggers."


def tracking_uri(given: str | None) -> str:
    """Where MLflow keeps its runs: as given, else by its own variable."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or DATABASE


def needs(extra: str, uri: str = "") -> None:
    """Raises UserError where a package of an extra is missing, for MLflow those too that a database here needs."""
    packages = [extra, *(("sqlalchemy", "alembic") if uri.startswith("sqlite:") else ())]
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        named = " and ".join(filter(None, [", ".join(missing[:-1]), missing[-1]]))
        told = f"{named} {verb(len(missing), 'is', 'are')} missing"
        raise UserError(f"logger={extra}: {told}; pip install 'lit-llm[{extra}]'")


def faults(values: Mapping[str, Any]) -> Iterator[str]:
    """A line for each logger that cannot be made, of the plain form of a run's or a pipeline's configuration."""
    for prefix, run in runs(values, skipped=False):
        node = run["logger"]
        extra = str(node.get("_target_")).removeprefix(_LOGGERS) if isinstance(node, Mapping) else ""
        try:
            if extra in ("wandb", "mlflow"):
                needs(extra, tracking_uri(node.get("tracking_uri")) if extra == "mlflow" else "")
        except UserError as error:
            yield f"{prefix}{error}"
