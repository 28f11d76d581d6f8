"""A folder of eight kinds of document is trained, as a new user would: what came out of each, and where it is from."""

import io
import json
import textwrap

import docx
import openpyxl
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.huggingface import save_model
from lit_llm.backbone.models import LanguageModel
from lit_llm.config.command_line import compose
from lit_llm.text.bpe import train_bpe
from lit_llm.training.train import run
from tests.data.documents import made

pytestmark = pytest.mark.filterwarnings("ignore")
SAYS = "{} {} says what no other one says: the {} has {} rooms, and the rent is {}. "
NOTE = "The landlord may waive it."
TABLE = (("Item", "Price"), ("Rent", "900"), ("Deposit", "1,800"))
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
    reference = f'<w:r {nsdecls("w")}><w:footnoteReference w:id="7"/></w:r>'
    report.add_paragraph(says("docx"))._p.append(parse_xml(reference))
    book = openpyxl.Workbook()
    for number in range(40):
        book.active.append([f"row {number} of xlsx", number * 7, "rent"])
    note = f'<w:footnote w:id="7"><w:p><w:r><w:t>{NOTE}</w:t></w:r></w:p></w:footnote>'
    notes = f"<w:footnotes {nsdecls('w')}>{note}</w:footnotes>"
    columns = [made.lines(x, 760, textwrap.wrap(says(name), 46)) for x, name in ((60, "pdf"), (310, "two"))]
    table = [(x, 300 - 14 * n, 10, cells[side]) for n, cells in enumerate(TABLE) for side, x in enumerate((60, 200))]
    pages = [[*columns[1], *columns[0], *table]]
    documents = {
        "contract.pdf": made.pdf(pages),
        "report.docx": made.with_member(saved(report), "word/footnotes.xml", notes),
        "page.html": f"<nav><a href=a>Menu</a></nav><main><h1>Page</h1><p>{says('html')}</p></main>".encode(),
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


# What a person reads there. The two texts have their file's bytes in their own encodings.
READ = {
    "contract.pdf": f"{says('pdf').strip()}\n\n{says('two').strip()}\n\nItem | Price\nRent | 900\nDeposit | 1,800",
    "report.docx": f"# Report\n\n{says('docx').strip()} [^1]\n\n[^1]: {NOTE}",
    "page.html": f"# Page\n\n{says('html').strip()}",
    "book.epub": f"# Book\n\n{says('epub').strip()}",
    "costs.xlsx": "# Sheet\n\n" + "\n".join(f"row {number} of xlsx | {number * 7} | rent" for number in range(40)),
    "letter.rtf": says("rtf").strip(),
}


def test_a_folder_of_eight_kinds_is_trained(folder, tmp_path, caplog):
    tokenizer = train_bpe([says("x"), ARABIC * 20], vocab_size=400, show_progress=False)
    model = LanguageModel(from_depth(tokenizer.vocab_size, 1, hidden_size=32, num_heads=2, max_positions=96))
    save_model(tmp_path / "model", model, tokenizer)
    words = [f"init_from={tmp_path}/model", f"data.path={folder}", f"data.cache_dir={tmp_path}/cache", "trainer=cpu"]
    words += ["data.max_length=32", "data.replay_path=null", "data.replay_ratio=0", "data.micro_batch_size=2"]
    words += ["trainer.precision=32-true", "trainer.max_steps=2", "trainer.limit_val_batches=1", "callbacks=none"]
    words += ["logger=csv", "trainer.progress=false", "evaluation.max_items=2", "evaluation.max_new_tokens=3"]
    with caplog.at_level("INFO"):
        run(compose("train", ["stage=continued_pretraining", *words]), tmp_path / "run")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    counts = metrics["counts"]
    assert counts["read"] == counts["used"] == len(KINDS) and not counts["skipped"]
    assert counts["encodings"] == {"cp1256": 1, "cp1252": 1}
    kept = [json.loads(file.read_text())["text"] for file in (tmp_path / "cache/documents").iterdir()]
    assert sorted(kept) == sorted(READ.values())
    kinds = metrics["data"]["kinds"]
    assert {kind: one["files"] for kind, one in kinds.items()} == {
        ".pdf": 1, ".docx": 1, ".html": 1, ".epub": 1, ".xlsx": 1, ".rtf": 1, ".txt": 2
    }  # fmt: skip
    for name, text in READ.items():
        assert kinds[f".{name.partition('.')[2]}"]["words"] == len(text.split()), name
    assert all(one["tokens"] for one in kinds.values())
    told = [record.getMessage().split() for record in caplog.records]
    assert [".txt", "2", "of", "2", "2", "2"] in [line[:6] for line in told]
    heldout = (tmp_path / "run/heldout/domain.jsonl").read_text().splitlines()
    places = [json.loads(line)["source"].removeprefix(f"{folder}/").partition(":") for line in heldout]
    assert places and all(name in KINDS and place for name, _, place in places)
