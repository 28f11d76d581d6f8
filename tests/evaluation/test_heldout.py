"""Invariant: every measure equals its plain computation on the item alone, and items stay comparable between models."""

import copy
import math

import numpy as np
import pytest
import torch

from lit_llm.errors import UserError
from lit_llm.evaluation.heldout import can_evaluate, evaluate
from lit_llm.evaluation.scores import Scores
from lit_llm.records import Comparison, Document, Example, Heldout, Message, Prompt

DOCUMENTS = Heldout(
    "general", "documents", (Document("The cat sat on the mat."), Document("قطة صغيرة " * 20), Document("x"))
)


def example(question, answer, **tags):
    return Example((Message("user", question), Message("assistant", answer)), tags=tags)


RESPONSES = Heldout(
    "task_pairs",
    "responses",
    (
        example("The cat sat. It slept.", "The cat sat.", function="f"),
        example("The dog", "on the log", function="f"),
        example("mat?", "The cat sat."),
        Example(
            (Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "The mat"))
        ),
    ),
)
PROMPT = (Message("user", "The cat"),)
RANKINGS = Heldout(
    "rankings",
    "rankings",
    (
        Comparison(PROMPT, ("sat on the mat", "sat", "log log"), (1, 2, 2), "ann"),
        Comparison(PROMPT, ("sat on the mat", "sat", "log log"), (2, 1, 3), "bob"),
        Comparison((Message("user", "dog"),), ("a", "b"), (1, 1), "ann"),
        Comparison((Message("user", "dog"),), ("on the log", "x" * 400), (1, 2), "ann"),
    ),
)


@torch.no_grad()
def nats(model, ids, start):
    """-log p of ids[start:], one token at a time."""
    still = copy.deepcopy(model).eval()
    total = 0.0
    for t in range(start, len(ids)):
        logps = still.logits(still(torch.tensor([ids[:t]])))[0, -1].log_softmax(-1)
        total -= float(logps[ids[t]])
    return total


def test_bits_per_byte_of_documents(model, tokenizer):
    scores = evaluate(model, tokenizer, DOCUMENTS)
    found = scores.items["bits_per_byte"]
    end = tokenizer.document_end_id  # what a document begins behind
    ids = [end, *tokenizer.encode(DOCUMENTS.items[0].text)]
    assert found.values[0] == pytest.approx(nats(model, ids, 1) / math.log(2), rel=1e-4)
    assert found.weights[0] == len(DOCUMENTS.items[0].text.encode())  # the first token's bytes too
    long = [end, *tokenizer.encode(DOCUMENTS.items[1].text)]
    assert len(long) > 48  # two windows, no token foreseen twice
    expected = sum(nats(model, long[s : s + 49], 1) for s in range(0, len(long) - 1, 48))
    assert found.values[1] == pytest.approx(expected / math.log(2), rel=1e-4)
    assert found.weights[2] == 1  # one token, foreseen from the end of a document
    total, tokens = found.values.sum() * math.log(2), len(ids) + len(long) + 2 - 3
    assert scores.summary["perplexity"].mean == pytest.approx(math.exp(total / tokens), rel=1e-4)
    assert scores.summary["bits_per_byte"].mean == pytest.approx(found.values.sum() / found.weights.sum())


def test_likelihood_of_responses_is_of_what_the_assistant_says(model, tokenizer):
    scores = evaluate(model, tokenizer, RESPONSES, generate=False)
    ids, trained = tokenizer.encode_chat(RESPONSES.items[1].messages)
    start = trained.index(True)
    assert all(trained[start : start + trained.count(True)]) and tokenizer.turn_end_id in ids[start:]
    expected = nats(model, ids[: start + trained.count(True)], start)
    assert scores.items["nll"].values[1] == pytest.approx(expected, rel=1e-4)
    assert scores.items["nll"].weights[1] == trained.count(True)
    assert scores.items["bits_per_byte"].weights[1] == len("on the log")  # the end token has no bytes
    assert scores.items["nll"].weights[3] > len(tokenizer.encode("The mat")) + 1  # both turns
    assert scores.clusters[0] == scores.clusters[1] != scores.clusters[2]
    assert scores.estimate("nll").n == 3 and not scores.answers


def test_generated_answers_are_scored_against_the_last_turn(model, tokenizer, monkeypatch):
    said = ["The cat sat.", "on", "The cat sat.", "The mat"]

    def in_turn(model, prompts, **options):
        from lit_llm.generation.sampling import generate

        rollout = generate(model, prompts, **{**options, "max_new_tokens": 2})
        assert options["temperature"] == 0.0 and len(prompts) == 4
        return rollout

    monkeypatch.setattr("lit_llm.evaluation.answers.generate", in_turn)
    monkeypatch.setattr("lit_llm.evaluation.answers.completions", lambda _: [tokenizer.encode(text) for text in said])
    scores = evaluate(model, tokenizer, RESPONSES, training_answers=["on", "The  cat sat.", "on"], bf16=False)
    np.testing.assert_array_equal(scores.items["exact_match"].values, [1, 0, 1, 1])
    np.testing.assert_array_equal(scores.items["verbatim"].values, [1, 1, 1, 0])
    assert scores.items["rouge1"].values[1] == pytest.approx(2 * 1 * (1 / 3) / (1 + 1 / 3), abs=1e-6)
    assert [answer.text for answer in scores.answers] == said
    floors = scores.floors_as_metrics()
    assert floors["copy_first_sentence"]["exact_match"]["mean"] == 0.25  # of the first item alone
    assert floors["most_frequent_target"]["exact_match"]["mean"] == 0.0  # "on" is no target
    guess = evaluate(model, tokenizer, RESPONSES).floors["most_frequent_target"]
    assert guess["exact_match"].mean == 0.5  # "The cat sat.", out of the targets themselves
    assert {"bleu", "rougeL", "chrf"} <= set(guess)


def test_generation_measures_real_answers(model, tokenizer):
    scores = evaluate(model, tokenizer, RESPONSES, max_new_tokens=6)
    assert scores.items["length"].values.max() <= 6
    again = evaluate(model, tokenizer, RESPONSES, max_new_tokens=6, batch_size=1, seed=9)
    assert [a.text for a in again.answers] == [a.text for a in scores.answers]  # greedy
    assert model.training  # as it was


@pytest.mark.parametrize("bf16", [False, True])
def test_prompts_are_answered_and_scored(model, tokenizer, bf16):
    heldout = Heldout("prompts", "prompts", tuple(Prompt((Message("user", f"cat {n}"),)) for n in range(5)))

    def length(prompts, completions):
        assert all(prompt[0].content.startswith("cat") for prompt in prompts)
        return [float(len(text)) for text in completions]

    class Tokens:
        def score_tokens(self, input_ids, lengths):
            assert len(input_ids) == len(lengths)
            return lengths.float()

    def run(seed):
        scorers = {"size": length, "ids": Tokens()}
        return evaluate(model, tokenizer, heldout, scorers=scorers, max_new_tokens=7, seed=seed, bf16=bf16)

    scores = run(0)
    assert scores.items["score/size"].values.tolist() == [len(a.text) for a in scores.answers]
    prompts = [len(tokenizer.encode_prompt(p.messages)) for p in heldout.items]
    assert (scores.items["score/ids"].values == scores.items["length"].values + prompts).all()
    assert [a.text for a in run(0).answers] == [a.text for a in scores.answers] != [a.text for a in run(1).answers]


def test_a_score_that_is_no_number_is_an_error(model, tokenizer):
    heldout = Heldout("prompts", "prompts", (Prompt(PROMPT),))
    with pytest.raises(UserError, match="scorer bad"):
        evaluate(model, tokenizer, heldout, scorers={"bad": lambda *_: [math.nan]}, max_new_tokens=2)


def test_a_verifier_reads_the_tags_and_what_it_could_not_verify_is_left_out(model, tokenizer):
    items = [Prompt((Message("user", f"cat {n}"),), tags={"answer": "x"} if n % 2 else {}) for n in range(5)]

    class Verifier:
        row_fields = True

        def __call__(self, _, completions, *, rows):
            self.latest = {"length": [float(len(text)) for text in completions]}
            return [1.0 if row.get("answer") == "x" else math.nan for row in rows]

    found = evaluate(
        model, tokenizer, Heldout("maths", "prompts", tuple(items)), scorers={"exact": Verifier()}, max_new_tokens=3
    )
    assert found.items["score/exact"].numbers.tolist() == [1, 3] and found.summary["score/exact"].mean == 1
    assert found.items["score/exact/length"].values.tolist() == [len(answer.text) for answer in found.answers]


def test_rankings_by_a_reward_model(reward_model, tokenizer):
    scores = evaluate(reward_model, tokenizer, RANKINGS)
    assert scores.items["accuracy"].numbers.tolist() == [0, 1]  # a tie and a text beyond the context are left out
    still = copy.deepcopy(reward_model).eval()
    ids = [
        tokenizer.encode_prompt(PROMPT) + tokenizer.encode_completion(text) for text in RANKINGS.items[0].completions
    ]
    with torch.no_grad():
        r = [float(still(torch.tensor([row]), torch.tensor([len(row)]))) for row in ids]
    pairs = [[(0, 1), (0, 2)], [(1, 0), (1, 2), (0, 2)]]
    for place, some in enumerate(pairs):
        assert scores.items["accuracy"].values[place] == sum(r[w] > r[x] for w, x in some)
        expected = sum(math.log1p(math.exp(r[x] - r[w])) for w, x in some)
        assert scores.items["nll"].values[place] == pytest.approx(expected, rel=1e-4)
    assert scores.items["accuracy"].weights.tolist() == [2, 3]
    assert scores.estimate("accuracy").n == 1  # two annotators of one prompt are one cluster
    # shorter wins: 14, 3 and 7 characters; right in (1, 0), (1, 2) of five
    assert scores.floors["shorter_wins"]["accuracy"].mean == pytest.approx(2 / 5)
    assert scores.floors["longer_wins"]["accuracy"].mean == pytest.approx(3 / 5)


def test_the_model_is_compared_with_its_floors_on_the_same_items(reward_model, tokenizer):
    pairs = [((Message("user", f"cat {n}"),), ("a" * (n + 1), "bb bb")) for n in range(8)]
    sets = Heldout("rankings", "rankings", tuple(Comparison(p, texts, (1, 2), "ann") for p, texts in pairs))
    scores = evaluate(reward_model, tokenizer, sets)
    shorter = np.array([1.0] * 4 + [0.5] + [0.0] * 3)  # 1 to 8 characters against five
    for floor, wins in {"shorter_wins": shorter, "longer_wins": 1 - shorter}.items():
        gaps = scores.items["accuracy"].values - wins
        above = scores.floors_as_metrics()[floor]["accuracy"]["above"]
        assert above["mean"] == pytest.approx(gaps.mean()) and above["n"] == 8
        assert above["se"] == pytest.approx(gaps.std(ddof=1) / math.sqrt(8))


def test_rankings_by_a_language_model(model, tokenizer):
    scores = evaluate(model, tokenizer, RANKINGS)
    prompt = tokenizer.encode_prompt(PROMPT)
    means = []
    for text in RANKINGS.items[0].completions:
        completion = tokenizer.encode_completion(text)
        means.append(-nats(model, prompt + completion, len(prompt)) / len(completion))
    right = sum(means[w] > means[x] for w, x in [(0, 1), (0, 2)])
    assert scores.items["likelihood_accuracy"].values[0] == right
    assert "implicit_accuracy" not in scores.items


def test_rankings_by_the_reward_that_a_language_model_stands_for(model, tokenizer):
    """log p - log p_reference, over all of a completion: near what was learned, however unlikely the text is."""
    reference = copy.deepcopy(model).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    scores = evaluate(model, tokenizer, RANKINGS, reference=reference)
    prompt, gains = tokenizer.encode_prompt(PROMPT), []
    for text in RANKINGS.items[0].completions:
        ids = prompt + tokenizer.encode_completion(text)
        gains.append(nats(reference, ids, len(prompt)) - nats(model, ids, len(prompt)))
    right = [sum(gains[w] > gains[x] for w, x in some) for some in ([(0, 1), (0, 2)], [(1, 0), (1, 2), (0, 2)])]
    assert scores.items["implicit_accuracy"].values.tolist() == right
    assert scores.summary["implicit_accuracy"].n == 1  # clustered by prompt
    assert {"likelihood_accuracy", "implicit_accuracy"} <= set(scores.floors["longer_wins"])
    itself = evaluate(model, tokenizer, RANKINGS, reference=model).summary
    assert itself["implicit_accuracy"].mean == 0.5 and itself["likelihood_accuracy"].mean != 0.5


def test_the_same_items_whatever_the_model(model, tokenizer):
    many = Heldout("general", "documents", tuple(Document(f"The cat {n}") for n in range(30)))
    first = evaluate(model, tokenizer, many, max_items=7).items["bits_per_byte"]
    second = evaluate(model, tokenizer, many, max_items=7, seed=5, batch_tokens=10).items["bits_per_byte"]
    assert len(first.numbers) == 7 and (first.numbers == second.numbers).all()
    np.testing.assert_allclose(first.values, second.values, rtol=1e-4)


def test_a_reward_model_takes_rankings_only(reward_model, model, tokenizer):
    assert can_evaluate(model, DOCUMENTS) and can_evaluate(reward_model, RANKINGS) and can_evaluate(model, RANKINGS)
    assert not can_evaluate(reward_model, DOCUMENTS) and not can_evaluate(model, Heldout("x", "documents", ()))
    with pytest.raises(UserError, match="needs a language model"):
        evaluate(reward_model, tokenizer, DOCUMENTS)


def test_scores_survive_a_file(model, tokenizer, tmp_path):
    scores = evaluate(model, tokenizer, RESPONSES, max_new_tokens=4)
    scores.save(tmp_path / "a" / "scores.json")
    again = Scores.load(tmp_path / "a" / "scores.json")
    assert again.answers == scores.answers and again.clusters == scores.clusters and again.kind == "responses"
    for name, value in scores.summary.items():
        assert again.summary[name].mean == pytest.approx(value.mean, rel=1e-6) and again.summary[name].n == value.n
    assert again.floors_as_metrics().keys() == scores.floors_as_metrics().keys()
    assert (
        again.above_floors["copy_first_sentence"].keys() == scores.items.keys() & scores.floors["copy_first_sentence"]
    )
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(UserError, match=r"bad\.json"):
        Scores.load(tmp_path / "bad.json")
