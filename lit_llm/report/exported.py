"""The exported file of a pipeline's last model, and what its certificate says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lit_llm.errors import UserError
from lit_llm.export.card import WORDS, verdict
from lit_llm.export.certificate import Certificate, Check
from lit_llm.report.reading import PipelineRun, read_json
from lit_llm.runtime.atomic_files import write_json

FILE, CERTIFICATE = "export.json", "certificate.json"
KEPT = ("model", "quantization", "file", "sha256", "bytes", "certificate", "passed", "failed", "not_run", "error")


ABOUT = ("file", "sha256", "quantization", "model")


@dataclass(frozen=True)
class ExportedRow:
    name: str
    engine: str
    result: str
    value: str
    bound: str


@dataclass(frozen=True)
class ExportedFile:
    """``words`` say what the certificate says, or why there is no file."""

    model: str
    file: str
    sha256: str
    size: int
    certificate: str
    state: Literal["passed", "failed", "not certified"]
    words: str
    rows: tuple[ExportedRow, ...]


def exported(place: Path) -> dict[str, Any]:
    """What export.json says of an export in the folder ``place``: file, sha256, bytes, passed, and the names of the
    checks that failed and that were not run. Raises UserError for a damaged certificate."""
    certificate = _certificate(place / CERTIFICATE)
    return {
        "file": certificate.file,
        "sha256": certificate.sha256,
        "bytes": (place / certificate.file).stat().st_size,
        "certificate": f"export/{CERTIFICATE}",
        "passed": certificate.passed,
        "failed": [f"{check.name}, {check.engine}" for check in certificate.failed],
        "not_run": [f"{check.name}, {check.engine}: {check.value}" for check in certificate.not_run],
    }


def in_ledger(folder: Path) -> None:
    """Puts what export.json says into the ledger.json of a pipeline's folder, where there is one."""
    ledger, told = folder / "ledger.json", read_json(folder / FILE)
    if ledger.is_file() and told:
        kept = {key: told[key] for key in KEPT if key in told}
        write_json(ledger, {**json.loads(ledger.read_text(encoding="utf-8")), "export": kept})


def exported_file(run: PipelineRun) -> ExportedFile | None:
    """None where the pipeline exported nothing. Raises UserError for a damaged certificate."""
    told = read_json(run.folder / FILE)
    if not told:
        return None
    if told.get("error"):
        words = f"No file was made: {told['error']}"
        return ExportedFile(str(told.get("model")), "", "", 0, "", "failed", words, ())
    found = _certificate(run.folder / str(told.get("certificate", "")))
    state: Literal["passed", "failed", "not certified"]
    state = "failed" if found.failed else "passed" if found.passed else "not certified"
    rows = tuple(ExportedRow(c.name, c.engine, WORDS[c.passed], c.value, c.bound) for c in found.checks)
    return ExportedFile(
        str(told.get("model")), found.file, found.sha256, int(told.get("bytes") or 0), str(told["certificate"]), state,
        verdict(found), rows,
    )  # fmt: skip


def _certificate(file: Path) -> Certificate:
    values: Mapping[str, Any] = read_json(file)
    try:
        checks = [Check(**check) for check in values["checks"]]
        file_name, sha256, quantization, model = (str(values[key]) for key in ABOUT)
    except (KeyError, TypeError):
        raise UserError(f"{file}: is no certificate of an exported file; export the model again") from None
    return Certificate(file_name, sha256, quantization, model, checks)
