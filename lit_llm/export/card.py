"""The README.md beside an exported file: the model's own card, and what the certificate says."""

from __future__ import annotations

from pathlib import Path

from lit_llm.export.certificate import Certificate
from lit_llm.lineage import lineage, model_card
from lit_llm.model_sources.folders import source_of

WORDS = {True: "passed", False: "FAILED", None: "not run"}


def card(folder: Path, certificate: Certificate | None, file: str) -> str:
    """``folder``: the model's, whose lineage or whose own README.md the card begins with."""
    return f"{_own(folder)}\n## Exported as {file}\n\n{_paragraph(certificate)}"


def _own(folder: Path) -> str:
    known = lineage.read(folder)
    if known is not None:
        return model_card.render(known)
    if (folder / "README.md").is_file():
        return (folder / "README.md").read_text(encoding="utf-8", errors="replace").rstrip() + "\n"
    source = source_of(folder)
    name, licence = source.get("name", folder.name), source.get("license", "unknown: ask its makers")
    return f"# {name}\n\nA model from elsewhere; licence {licence}.\n"


def _paragraph(certificate: Certificate | None) -> str:
    if certificate is None:
        return "Without a certificate: nothing was asked of the file.\n"
    lines = [
        f"{verdict(certificate)} Every figure is in certificate.json.",
        "",
        f"SHA-256 `{certificate.sha256}`",
        "",
        "| check | engine | result | value | bound |",
        "|---|---|---|---|---|",
    ]
    cells = ((c.name, c.engine, WORDS[c.passed], c.value, c.bound) for c in certificate.checks)
    return "\n".join([*lines, *(f"| {' | '.join(one.replace('|', '/') for one in row)} |" for row in cells)]) + "\n"


def verdict(certificate: Certificate) -> str:
    """In one sentence."""
    if certificate.failed:
        return f"The certificate FAILED: {', '.join(dict.fromkeys(check.name for check in certificate.failed))}."
    if not certificate.passed:
        return "Not certified: llama.cpp was not asked; what was asked passed."
    rest = f" ({', '.join(f'{c.name}: not run' for c in certificate.not_run)})" if certificate.not_run else ""
    return f"Certified: this project, llama.cpp and what else was asked agree within the bounds{rest}."
