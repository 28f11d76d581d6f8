"""Invariant: the harness's tasks give the same figures here as with its own ``hf`` model, from the same folder."""

from __future__ import annotations

import json
import math

import pytest
import torch

from lit_llm.backbone.config import from_depth
from lit_llm.backbone.huggingface import save_model
from lit_llm.backbone.loaded import load_shared
from lit_llm.backbone.models import LanguageModel, ScoreModel
from lit_llm.errors import UserError
from lit_llm.evaluation import harness
from lit_llm.evaluation.harness import Asked, TaskScores, answer, difference, load_tasks
from lit_llm.evaluation.statistics import Estimate
from lit_llm.generation.stop_strings import StopStrings
from lit_llm.text.bpe import train_bpe

pytest.importorskip("lm_eval")

TEXTS = [
    "The cat sat on the mat. The dog sat on the log.",
    "قطة صغيرة جلست على السجادة",
    "Where is it? Here it is!\n\n",
]
CONTEXT = 40
QUESTIONS = [
    ("The cat sat on the", [" mat.", " log.", " قطة صغيرة", " mat. The dog sat on the log"]),
    ("قطة صغيرة", [" جلست", " على", " السجادة"]),
    ("Where is it? ", ["Here", "There is none"]),  # the blank goes to the continuation
    ("", ["The cat", " قطة"]),
    ("The dog sat on the log. " * 12, [" mat", " log. The cat"]),  # beyond the context: its left is cut off
]
ROLLED = ["The cat sat on the mat.", "قطة صغيرة جلست على السجادة", "The dog sat on the log. Where is it? " * 9, "x"]


def saved(folder, family):
    """A small random model whose greedy answers end in several ways, written by us or by transformers."""
    tokenizer = train_bpe(TEXTS * 4, vocab_size=330, show_progress=False)
    torch.manual_seed(3)
    if family == "ours":
        model = LanguageModel(from_depth(tokenizer.vocab_size, 2, hidden_size=32, num_heads=2, max_positions=CONTEXT))
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.mul_(4)
        save_model(folder, model, tokenizer)
        return folder
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=CONTEXT, initializer_range=0.3,
        eos_token_id=tokenizer.document_end_id, bos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module", params=["ours", "llama"])
def both(request, tmp_path_factory):
    """Our model and the harness's, of one folder."""
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    from lit_llm.evaluation.harness_model import HarnessModel

    folder = saved(tmp_path_factory.mktemp("model"), request.param)
    ours = HarnessModel(load_shared(folder), batch_size=3)
    theirs = huggingface.HFLM(
        pretrained=str(folder), device="cpu", dtype="float32", batch_size=3, prefix_token_id=ours.prefix_token_id
    )
    return ours, theirs


def requests(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=one, idx=0) for one in arguments]


def test_continuations_are_as_likely_and_as_greedy_as_with_hf(both):
    ours, theirs = both
    asked = [(context, choice) for context, choices in QUESTIONS for choice in choices]
    for context in ("The cat sat", "قطة"):  # what greedy decoding writes is greedy
        asked.append((context, theirs.generate_until(requests("generate_until", [(context, {"max_gen_toks": 2})]))[0]))
    asked = [one for one in asked if one[1].strip()]
    found = ours.loglikelihood(requests("loglikelihood", asked))
    expected = theirs.loglikelihood(requests("loglikelihood", asked), disable_tqdm=True)
    assert [logp for logp, _ in found] == pytest.approx([logp for logp, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_rolling_sums_are_those_of_hf(both):
    ours, theirs = both
    asked = requests("loglikelihood_rolling", [(text,) for text in ROLLED])
    assert ours.loglikelihood_rolling(asked) == pytest.approx(
        theirs.loglikelihood_rolling(asked, disable_tqdm=True), abs=1e-4
    )


def test_greedy_answers_are_those_of_hf(both):
    ours, theirs = both
    plain = theirs.generate_until(requests("generate_until", [("The cat sat", {"max_gen_toks": 12})]))[0]
    stop = plain[3:5]  # written within, in the middle of a token perhaps
    asked = [
        ("The cat sat", {"until": [stop], "max_gen_toks": 12}),
        ("The cat sat", {"max_gen_toks": 12, "do_sample": False}),
        ("قطة صغيرة", {"until": ["\n\n", " "], "max_gen_toks": 12}),
        ("The dog sat on the log. " * 12, {"until": "zzz", "max_gen_toks": 5}),
    ]
    found = ours.generate_until(requests("generate_until", asked))
    assert found == theirs.generate_until(requests("generate_until", asked), disable_tqdm=True)
    assert found[0] == plain.partition(stop)[0] != plain


def test_a_stop_string_ends_the_row_that_wrote_it():
    tokenizer = train_bpe(TEXTS * 4, vocab_size=330, show_progress=False)
    stop = StopStrings(tokenizer, ["صغ", "at."])
    rows = [tokenizer.encode(text) for text in ("قطة ص", "قطة صغ", "mat", "mat.", "")]
    width = max(map(len, rows))
    tokens = torch.tensor([row + [7] * (width - len(row)) for row in rows])
    assert stop(tokens, torch.tensor([len(row) for row in rows])).tolist() == [False, True, False, True, False]
    assert stop.cut("a mat. قطة صغيرة") == "a m"


def test_sampling_is_of_the_seed_and_chat_of_the_template(both):
    ours, theirs = both
    asked = requests("generate_until", [("The cat", {"do_sample": True, "temperature": 1.5, "max_gen_toks": 9})] * 2)
    first, second = ours.generate_until(asked)
    assert first != second and [first, second] == ours.generate_until(asked)
    history = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "Here"}]
    assert ours.apply_chat_template(history[:1]) == theirs.apply_chat_template(history[:1])
    assert ours.apply_chat_template(history, add_generation_prompt=False) == theirs.apply_chat_template(
        history, add_generation_prompt=False
    )
    prompt = ours.apply_chat_template(history[:1])
    assert ours.tok_encode(prompt) == theirs.tok_encode(prompt)


@pytest.fixture
def task(tmp_path):
    """A task of local files alone."""
    rows = [
        {"question": context.strip(), "choices": choices[:2], "answer": n % 2}
        for n, (context, choices) in enumerate(QUESTIONS[:3] * 4)
    ]
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: question\ndoc_to_target: answer\n"
        "doc_to_choice: choices\nmetric_list: [{metric: acc}, {metric: acc_norm}]\nmetadata: {version: 2.0}\n",
        encoding="utf-8",
    )
    return path


def test_a_task_of_local_files_has_the_figures_of_hf(both, task):
    from lm_eval import simple_evaluate

    ours, theirs = both
    loaded = load_tasks([str(task.parent)])
    found = answer(_loaded(ours), loaded, Asked(batch_size=2, num_fewshot=1, limit=9))["mine"]
    expected = simple_evaluate(
        theirs, tasks=load_tasks([str(task)]).tasks, task_manager=loaded.manager, num_fewshot=1, limit=9,
        random_seed=0, numpy_random_seed=0, torch_random_seed=0, fewshot_random_seed=0,
    )  # fmt: skip
    told = expected["results"]["mine"]
    assert found.metrics["acc"].mean == told["acc,none"] and found.metrics["acc_norm"].mean == told["acc_norm,none"]
    assert found.metrics["acc"].se == pytest.approx(told["acc_stderr,none"]) and found.metrics["acc"].n == 9
    assert (found.version, found.num_fewshot) == ("2.0", 1) and len(found.sha256) == 64


def _loaded(ours):
    from lit_llm.backbone.loaded import LoadedModel

    return LoadedModel(ours.model, ours.text)


def test_the_difference_of_two_models_is_paired():
    def scores(acc, bits):
        metrics = {"acc": Estimate(sum(acc) / 4, 0.1, 4), "bits_per_byte": Estimate(sum(b for b, _ in bits), 0.1, 4)}
        return TaskScores("t", "1", "h", 0, metrics, {"acc": acc, "bits_per_byte": bits})

    before = scores([0.0, 1.0, 0.0, 1.0], [(-math.log(2) * 8, 4), (-math.log(2) * 4, 2)])
    after = scores([1.0, 1.0, 0.0, 1.0], [(-math.log(2) * 4, 4), (-math.log(2) * 2, 2)])
    found = difference(before, after)
    assert found["acc"] == Estimate(0.25, pytest.approx(0.25), 4)  # of (1, 0, 0, 0): sd 0.5 over sqrt(4)
    assert found["bits_per_byte"].se == pytest.approx(0)  # each byte one bit less


def test_mistakes_are_one_line(tmp_path, task, monkeypatch, reward_model, tokenizer):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for constant in ("huggingface_hub.constants.HF_HUB_OFFLINE", "datasets.config.HF_HUB_OFFLINE"):
        monkeypatch.setattr(constant, True)
    for word, line in [
        (str(tmp_path / "none.yaml"), "no such file"),
        (str(task.parent / "rows.jsonl"), "no task that lm-eval takes"),
        ("arc_eazy", "did you mean arc_easy"),
        ("arc_easy", "without a network give a YAML whose dataset_path is json"),
    ]:
        with pytest.raises(UserError, match=line) as error:
            load_tasks([word])
        assert "\n" not in str(error.value) and str(error.value).startswith(f"tasks={word}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no \.yaml file in this folder"):
        load_tasks([str(tmp_path / "empty")])
    assert isinstance(reward_model, ScoreModel)
    from lit_llm.backbone.loaded import LoadedModel

    with pytest.raises(UserError, match="a language model answers them"):
        answer(LoadedModel(reward_model, tokenizer), load_tasks([str(task)]), Asked())
    monkeypatch.setitem(__import__("sys").modules, "lm_eval.api.model", None)
    with pytest.raises(UserError, match=r"pip install 'lit-llm\[tasks\]'"):
        harness.harness_version()
