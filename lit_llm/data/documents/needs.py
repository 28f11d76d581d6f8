"""What documents are, and which packages read them: known without any of those."""

from __future__ import annotations

KINDS = (".pdf", ".docx", ".docm", ".html", ".htm", ".xhtml", ".epub", ".odt", ".ods", ".odp", ".pptx", ".xlsx",
         ".xlsm", ".rtf")  # fmt: skip
"""Extensions of documents."""
NEEDS = ("pypdf", "trafilatura", "lxml", "openpyxl", "charset_normalizer")
"""The packages of the extra ``documents``."""
