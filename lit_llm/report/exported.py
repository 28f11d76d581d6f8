"""The exported file of a pipeline's last model, and what its certificate says."""

from __future__ import annotations

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
    """Puts what export.json says into the ledger.json of a pipeline's folder, where there is one; nothing of an export
    stays there where export.json is missing."""
    ledger, told = folder / "ledger.json", read_json(folder / FILE)
    if not ledger.is_file():
        return
    try:
        before = read_json(ledger)
    except UserError:  # the report says so
        return
    after = {key: value for key, value in before.items() if key != "export"}
    if told:
        after["export"] = {key: told[key] for key in KEPT if key in told}
    if after != before:
        write_json(ledger, after)


def exported_file(run: PipelineRun) -> ExportedFile | None:
    """None where the pipeline exported nothing. A certificate that is damaged or gone is told in its place: it costs no
    chain its report."""
    told = read_json(run.folder / FILE)
    if not told:
        return None
    if told.get("error"):
        return _failed(told, f"No file was made: {told['error']}")
    try:
        found = _certificate(run.folder / str(told.get("certificate", "")))
    except UserError as error:
        return _failed(told, str(error))
    state: Literal["passed", "failed", "not certified"]
    state = "failed" if found.failed else "passed" if found.passed else "not certified"
    rows = tuple(ExportedRow(c.name, c.engine, WORDS[c.passed], c.value, c.bound) for c in found.checks)
    return ExportedFile(
        str(told.get("model")), found.file, found.sha256, int(told.get("bytes") or 0), str(told["certificate"]), state,
        verdict(found), rows,
    )  # fmt: skip


def _failed(told: Mapping[str, Any], words: str) -> ExportedFile:
    return ExportedFile(str(told.get("model")), "", "", 0, "", "failed", words, ())


def _certificate(file: Path) -> Certificate:
    values: Mapping[str, Any] = read_json(file)
    try:
        checks = [Check(**check) for check in values["checks"]]
        about: Any = [str(values[key]) for key in ABOUT]
        file_name, sha256, quantization, model = about
    except (KeyError, TypeError):
        raise UserError(f"{file}: is no certificate of an exported file; export the model again") from None
    return Certificate(file_name, sha256, quantization, model, checks)
