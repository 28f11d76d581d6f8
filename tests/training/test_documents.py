"""A folder of eight kinds of document is trained, as a new user would: what came out of each, and where it is from."""

import io
import json
import textwrap

import docx
import openpyxl
import pytest

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.huggingface import save_model
from lit_llm.backbone.models import LanguageModel
from lit_llm.config.command_line import compose
from lit_llm.text.bpe import train_bpe
from lit_llm.training.train import run
from tests.data.documents import made

pytestmark = pytest.mark.filterwarnings("ignore")
SAYS = "{} {} says what no other one says: the {} has {} rooms, and the rent is {}. "
ARABIC = "اتفق الطرفان على دفع الإيجار في أول كل شهر. "
KINDS = ("contract.pdf", "report.docx", "page.html", "book.epub", "costs.xlsx", "letter.rtf", "arabic.txt", "latin.txt")


def says(name):
    return "".join(SAYS.format(name, number, name[::-1], number * 3, number * 71) for number in range(12))


def saved(document):
    data = io.BytesIO()
    document.save(data)
    return data.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contracts")
    report = docx.Document()
    report.add_heading("Report", 1)
    report.add_paragraph(says("docx"))
    book = openpyxl.Workbook()
    for number in range(40):
        book.active.append([f"row {number} of xlsx", number * 7, "rent"])
    pages = [
        made.lines(60, 700, textwrap.wrap(says("pdf"), 80)),
        [(60, 700, 10, says("two"))],
    ]
    documents = {
        "contract.pdf": made.pdf(pages),
        "report.docx": saved(report),
        "page.html": f"<nav><a>Menu</a></nav><main><h1>Page</h1><p>{says('html')}</p></main>".encode(),
        "book.epub": made.epub({"a": f"<h1>Book</h1><p>{says('epub')}</p>"}),
        "costs.xlsx": saved(book),
        "letter.rtf": b"{\\rtf1\\ansi " + says("rtf").encode() + b"\\par}",
        "arabic.txt": (ARABIC * 8).encode("cp1256"),
        "latin.txt": "".join(
            f"Wohnung {n} in der Königstraße kostet für alle {n * 9} Euro. " for n in range(20)
        ).encode("latin-1"),
    }
    assert tuple(documents) == KINDS
    for name, data in documents.items():
        (folder / name).write_bytes(data)
    return folder


def test_a_folder_of_eight_kinds_is_trained(folder, tmp_path):
    tokenizer = train_bpe([says("x"), ARABIC * 20], vocab_size=400, show_progress=False)
    model = LanguageModel(from_depth(tokenizer.vocab_size, 1, hidden_size=32, num_heads=2, max_positions=96))
    save_model(tmp_path / "model", model, tokenizer)
    words = [f"init_from={tmp_path}/model", f"data.path={folder}", f"data.cache_dir={tmp_path}/cache", "trainer=cpu"]
    words += ["data.max_length=32", "data.replay_path=null", "data.replay_ratio=0", "data.micro_batch_size=2"]
    words += ["trainer.precision=32-true", "trainer.max_steps=2", "trainer.limit_val_batches=1", "callbacks=none"]
    words += ["logger=csv", "trainer.progress=false", "evaluation.max_items=2", "evaluation.max_new_tokens=3"]
    run(compose("train", ["stage=continued_pretraining", *words]), tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    counts = metrics["counts"]
    assert counts["read"] == counts["used"] == len(KINDS) and not counts["skipped"]
    assert counts["encodings"] == {"cp1256": 1, "cp1252": 1}
    kept = [json.loads(file.read_text())["text"] for file in (tmp_path / "cache/documents").iterdir()]
    assert len(kept) == 6
    for name in ("pdf", "two", "docx", "html", "epub", "rtf"):
        assert sum(says(name).strip() in text for text in kept) == 1, name
    assert not any("Menu" in text for text in kept)
    assert sum("row 39 of xlsx | 273 | rent" in text for text in kept) == 1
