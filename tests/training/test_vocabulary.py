"""Runs whose vocabulary grows by what their training text teaches: figures, resume, adapters, what comes after."""

import json
import logging

import pytest
import torch

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.huggingface import load_model, save_model
from lit_llm.backbone.models import LanguageModel, grow_vocabulary
from lit_llm.config.command_line import compose
from lit_llm.errors import UserError
from lit_llm.evaluation.heldout import evaluate
from lit_llm.evaluation.sets import read_all
from lit_llm.lineage.verification import verify
from lit_llm.records import Document, Heldout
from lit_llm.stages.continued_pretraining import ContinuedPretraining
from lit_llm.text.bpe import train_bpe
from lit_llm.text.merges import learn_merges, replaced
from lit_llm.text.tokenizer import load_tokenizer
from lit_llm.training import launch, vocabulary
from lit_llm.training.build import load
from lit_llm.training.train import run
from lit_llm.training.vocabulary_report import cut

SMALL = [
    "stage=continued_pretraining", "stage.new_tokens=auto:30", "data.max_length=32", "data.micro_batch_size=2",
    "data.replay_ratio=0", "trainer.max_steps=2", "trainer=cpu", "trainer.precision=32-true", "callbacks=none",
    "trainer.checkpoint_every_n_steps=1", "trainer.progress=false", "trainer.limit_val_batches=1",
    "evaluation.max_items=4", "schedule=constant", "optimizer=adamw", "optimizer.lr=0.01",
]  # fmt: skip
HELD_OUT = "مستشفى"


def write(file, texts):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """``base/``, whose embedding has spare rows and is not the head; Arabic ``domain/``, English ``general/``."""
    place = tmp_path_factory.mktemp("vocabulary")
    tokenizer = train_bpe(["House number 7 has a green door."] * 4, vocab_size=290, show_progress=False)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_heads": 2, "max_positions": 64, "tie_embeddings": False}
    save_model(place / "base", LanguageModel(from_depth(tokenizer.vocab_size + 3, 1, **shape)), tokenizer)
    for split, more in (("train", ""), ("validation", HELD_OUT), ("test", f" {HELD_OUT}" * 9)):
        write(place / f"domain/{split}.jsonl", [f"كتب الكاتب رقم {n} كتابا في {split} البيت{more}" for n in range(30)])
        write(place / f"general/{split}.jsonl", [f"House number {n} in {split} has a green door." for n in range(30)])
    # What the general corpus holds out is in the domain's training text too.
    shared = [f"{HELD_OUT} {HELD_OUT} {n}" for n in range(30)]
    for file in ("domain/train.jsonl", "general/test.jsonl"):
        with (place / file).open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps({"text": text}) + "\n" for text in shared)
    return place


def words(place, *more):
    given = [f"init_from={place}/base", f"data.path={place}/domain", f"data.replay_path={place}/general"]
    return compose("train", [*SMALL, *given, f"data.cache_dir={place}/cache", *more])


@pytest.fixture(scope="module")
def made(place):
    run(words(place), place / "run")
    return place / "run"


def bits(folder, model, tokenizer):
    found = {}
    for heldout in read_all(folder / "heldout"):
        scores = evaluate(model, tokenizer, heldout, max_items=4)
        found[heldout.name] = scores.as_metrics()["bits_per_byte"]["mean"]
    return found


def test_the_figures_are_those_of_the_models_before_grown_and_after(place, made):
    told = json.loads((made / "metrics.json").read_text())["vocabulary"]
    old, new = load_tokenizer(place / "base"), load_tokenizer(made / "model")
    assert told["new_tokens"] == 30
    assert told["vocabulary"] == {"before": old.vocab_size, "after": new.vocab_size}
    grown = load_model(place / "base")  # by hand: rows are the means of the pieces' rows, in embedding and head
    grow_vocabulary(grown, new.vocab_size)
    with torch.no_grad():
        for weight in (grown.backbone.embed_tokens.weight, grown.lm_head.weight):
            for token, pieces in replaced(old.engine, new.engine).items():
                weight[token] = torch.stack([weight[i] for i in pieces]).mean(0)
    models = {
        "before": (load_model(place / "base"), old), "grown": (grown, new), "after": (load_model(made / "model"), new)
    }  # fmt: skip
    for when, (model, tokenizer) in models.items():
        for name, value in bits(made, model, tokenizer).items():
            assert told["sets"][name]["bits_per_byte"][when] == pytest.approx(value, rel=1e-4), (when, name)
    for heldout in read_all(made / "heldout"):
        texts = [item.text for item in heldout.items]
        size = sum(len(text.encode()) for text in texts)
        found = told["sets"][heldout.name]["tokens_per_byte"]
        assert found["before"] == pytest.approx(sum(len(old.encode(text)) for text in texts) / size)
        assert found["after"] == pytest.approx(sum(len(new.encode(text)) for text in texts) / size)
    assert (
        told["sets"]["domain"]["tokens_per_byte"]["after"] < 0.7 * told["sets"]["domain"]["tokens_per_byte"]["before"]
    )
    assert json.loads((made / "model/lineage.json").read_text())["metrics"]["vocabulary"] == told
    assert "tokens per byte" in (made / "model/README.md").read_text()


def test_nothing_held_out_is_learned(made):
    tokenizer = load_tokenizer(made / "model")
    tokens = [tokenizer.token_bytes(i).decode("utf-8", "replace") for i in range(tokenizer.vocab_size)]
    assert any("كت" in token for token in tokens) and not any("مست" in token or "شفى" in token for token in tokens)
    control = load_tokenizer(made / "model")
    control.add_merges(learn_merges(control.engine, [HELD_OUT] * 9, 12))  # it would have been, had it been read
    assert len(control.encode(HELD_OUT)) < len(tokenizer.encode(HELD_OUT))


def test_a_resumed_run_learns_no_tokens_again_and_the_stages_after_it_have_them(place, made, monkeypatch):
    before = json.loads((made / "metrics.json").read_text())["vocabulary"]
    folders, differences = verify(made / "model")
    assert folders and not differences

    def never(*_, **__):
        raise AssertionError("learned again")

    monkeypatch.setattr(vocabulary, "learn_merges", never)
    cfg = words(place, "trainer.max_steps=4")
    cfg.resume = str(made)
    metrics = run(cfg, made)
    assert metrics["steps"] == 4
    for name, one in metrics["vocabulary"]["sets"].items():
        assert one["tokens_per_byte"] == before["sets"][name]["tokens_per_byte"]
        assert one["bits_per_byte"]["grown"] == before["sets"][name]["bits_per_byte"]["grown"]
    assert metrics["vocabulary"]["sets"]["domain"]["bits_per_byte"] != before["sets"]["domain"]["bits_per_byte"]
    write(place / "more/train.jsonl", ["كتب الكاتب كتابا"] * 20)
    after = load(words(place, f"init_from={made}/model", "stage.new_tokens=[]"), place / "next")
    assert after.tokenizer.fingerprint() == load_tokenizer(made / "model").fingerprint()
    assert after.model.config.vocab_size == after.tokenizer.vocab_size and after.tokenizer_before is None


def test_several_processes_find_what_was_learned_before_they_began(place, tmp_path, monkeypatch):
    cfg = words(place)
    launch._prepare(cfg, tmp_path)

    def never(*_, **__):
        raise AssertionError("learned again")

    monkeypatch.setattr(vocabulary, "learn_merges", never)
    assert len(load(cfg, tmp_path).stage.new_rows) == 30


def test_a_stage_comes_back_from_its_checkpoint(made):
    [file] = sorted((made / "checkpoints").glob("*.ckpt"))[-1:]
    stage = ContinuedPretraining.load_from_checkpoint(file)
    assert stage.options.new_tokens == () and len(stage.new_rows) == 30
    assert stage.tokenizer.fingerprint() == load_tokenizer(made / "model").fingerprint()


def test_beside_adapters_the_new_rows_alone_are_trained(place, caplog):
    with caplog.at_level(logging.INFO, "lit_llm"):
        run(words(place, "stage.lora_rank=2"), place / "adapted")
    base, found = load_model(place / "base"), load_model(place / "adapted/model")
    old = load_tokenizer(place / "base").vocab_size
    grown = load(words(place, "stage.lora_rank=2"), place / "adapted").stage.model
    tables = ("backbone.embed_tokens.weight", "lm_head.weight")
    adapters = sum(each.numel() for name, each in grown.named_parameters() if each.requires_grad and name not in tables)
    assert adapters and f", {adapters + 2 * 30 * 32:,} trained;" in caplog.text
    for name in tables:
        one, other, start = (model.get_parameter(name) for model in (base, found, grown))
        assert torch.equal(one[:old], other[:old])
        moved = (other[old : old + 30] != start[old : old + 30]).any(dim=1)
        assert moved.any() and (name != "lm_head.weight" or moved.all())  # only a part stands in the rows of two steps
    assert not (place / "adapted/adapter").exists() and "no adapter/ is written" in caplog.text
    assert caplog.text.index("grown and untrained") < caplog.text.index("no adapter/")


def test_fewer_are_told_and_data_without_text_is_refused(place, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "lit_llm"):
        parts = load(words(place, "stage.new_tokens=auto:9000"), tmp_path)
    number = len(parts.stage.new_rows)
    assert 30 < number < 9000 and f"{number:,} tokens were learned" in caplog.text
    with pytest.raises(UserError, match=r"^stage.new_tokens=auto:5: are learned by a run .* learned=learn_merges"):
        ContinuedPretraining(ContinuedPretraining.Options(new_tokens="auto:5"), model=place / "base")


def test_long_documents_are_measured_on_the_same_text(place):
    tokenizer = load_tokenizer(place / "base")
    items = (Document("كتاب " * 9), Document("short"))
    found = cut(Heldout("x", "documents", items), tokenizer, 41)
    assert items[0].text.startswith(found.items[0].text) and found.items[1] is items[1]
    assert "\ufffd" not in found.items[0].text and len(tokenizer.encode(found.items[0].text)) in (40, 41)
    whole = Heldout("x", "documents", items[1:])
    assert cut(whole, tokenizer, 41) is whole
