"""Invariant: a change is gained or lost when it is real, the same when it is noise, and measured on the same items."""

import json

import numpy as np
import pytest

from lit_llm.evaluation.ledger import Ledger, compare, evaluate_chain, paired
from lit_llm.evaluation.scores import Scores, measured
from lit_llm.records import Document, Heldout
from lit_llm.report.ledger_table import ledger_table


def scores(name, measure, values, numbers=None, weights=None, clusters=None):
    numbers = list(range(len(values))) if numbers is None else numbers
    clusters = clusters or {n: str(n) for n in numbers}
    return Scores(name, "documents", {measure: measured(numbers, values, weights)}, clusters)


def noise(seed, n=120):
    return np.random.default_rng(seed).normal(size=n)


def ledger_of(before, after, measure, **repeats):
    ledger = Ledger()
    ledger.add("first", None, [scores("general", measure, before)])
    ledger.add("second", "first", [scores("general", measure, after)], **repeats)
    return next(e for e in ledger.entries() if e["stage"] == "second")


def test_gained_lost_and_same():
    base = 2 + noise(0)
    assert ledger_of(base, base - 0.5 + 0.2 * noise(1), "bits_per_byte")["verdict"] == "gained"
    assert ledger_of(base, base + 0.5 + 0.2 * noise(1), "bits_per_byte")["verdict"] == "lost"
    assert ledger_of(base, base + 0.5 + 0.2 * noise(1), "rougeL")["verdict"] == "gained"
    assert ledger_of(base, base + noise(1), "rougeL")["verdict"] == "same"
    assert ledger_of(base, base, "rougeL")["verdict"] == "same"
    assert ledger_of(base, base + 3, "length")["verdict"] is None  # neither good nor bad


def test_noise_alone_is_rarely_called_a_change():
    wrong = sum(ledger_of(noise(s), noise(s) + noise(s + 500), "rougeL")["verdict"] != "same" for s in range(60))
    assert wrong <= 7


def test_many_tests_are_adjusted_for():
    """A change at p = 0.02 is one among forty: not called one."""
    base, shift = noise(0), 0.0
    ledger = Ledger()
    weak = base + noise(1) * 0.5
    weak += -(weak - base).mean() + 2.4 * (weak - base).std() / np.sqrt(len(base))
    ledger.add("a", None, [scores(f"s{i}", "rougeL", base) for i in range(40)])
    changed = [scores("s0", "rougeL", weak)]
    ledger.add("b", "a", changed + [scores(f"s{i}", "rougeL", base + shift) for i in range(1, 40)])
    entry = next(e for e in ledger.entries() if e["stage"] == "b" and e["set"] == "s0")
    assert entry["p"] < 0.05 < entry["p_adjusted"] and entry["verdict"] == "same"


def test_binary_measures_take_mcnemar():
    before, after = np.zeros(60), np.r_[np.ones(20), np.zeros(40)]
    entry = ledger_of(before, after, "exact_match")
    assert entry["test"] == "McNemar, exact" and entry["p"] == pytest.approx(2 / 2**20)
    assert (entry["improved"], entry["worsened"], entry["verdict"]) == (20, 0, "gained")
    clustered = {n: str(n // 2) for n in range(60)}
    pair = paired(*(scores("s", "exact_match", v, clusters=clustered) for v in (before, after)), "exact_match")
    assert compare(pair, binary=True, good=1)["test"] == "paired bootstrap"


def test_only_common_items_are_compared_and_weights_count():
    before = scores("s", "bits_per_byte", [10.0, 20.0, 30.0], numbers=[0, 1, 2], weights=[1, 2, 3])
    after = scores("s", "bits_per_byte", [18.0, 33.0, 1.0], numbers=[1, 2, 7], weights=[2, 3, 1])
    pair = paired(before, after, "bits_per_byte")
    assert pair.numbers.tolist() == [1, 2] and pair.weights.tolist() == [2, 3]
    assert compare(pair, binary=False, good=-1)["change"]["mean"] == pytest.approx((-2 + 3) / 5)


def test_another_tokenizer_pairs_item_means():
    before = scores("s", "nll", [10.0, 20.0], weights=[5, 5])
    after = scores("s", "nll", [8.0, 30.0], weights=[4, 10])
    pair = paired(before, after, "nll")
    assert pair.before.tolist() == [2, 4] and pair.after.tolist() == [2, 3] and pair.weights.tolist() == [1, 1]


def test_a_second_seed_raises_the_noise_floor():
    base = noise(0)
    again = [scores("general", "rougeL", base + 0.9)]
    entry = ledger_of(base, base + 0.5 + 0.1 * noise(2), "rougeL", repeats=again)
    assert entry["noise_floor"] == pytest.approx(0.4, abs=0.05) and entry["verdict"] == "gained"
    entry = ledger_of(base, base + 0.5 + 0.1 * noise(2), "rougeL", repeats=[scores("general", "rougeL", base + 1.2)])
    assert entry["noise_floor"] > 0.6 and entry["verdict"] == "same"


def test_the_chain_is_validated_on_all_that_came_before_and_on_what_its_children_change():
    asked = []

    def evaluate(stage, name):
        asked.append((stage, name))
        return None if (stage, name) == ("rm", "general") else scores(name, "nll", [1.0, 2.0])

    parents = {"pre": None, "sft": "pre", "rm": "sft", "ppo": "sft"}
    sets = {"pre": ["general"], "sft": ["pairs"], "rm": ["rankings"], "ppo": ["prompts"]}
    ledger = evaluate_chain(parents, sets, evaluate)
    assert asked == [
        ("pre", "general"), ("pre", "pairs"),
        ("sft", "general"), ("sft", "pairs"), ("sft", "rankings"), ("sft", "prompts"),
        ("rm", "general"), ("rm", "pairs"), ("rm", "rankings"),
        ("ppo", "general"), ("ppo", "pairs"), ("ppo", "rankings"), ("ppo", "prompts"),
    ]  # fmt: skip
    assert "general" not in ledger.scores["rm"]
    against = {(e["stage"], e["set"]): e["before"] is not None for e in ledger.entries()}
    assert against["ppo", "prompts"] and against["sft", "pairs"] and not against["pre", "general"]


def test_the_file_holds_what_the_page_reads(tmp_path):
    from lit_llm.report.ledger_table import ledger_table

    ledger = Ledger()
    ledger.add("pretraining", None, [scores("general", "bits_per_byte", 2 + noise(0))])
    ledger.add("fine_tuning", "pretraining", [scores("general", "bits_per_byte", 3 + noise(0))])
    found = json.loads(ledger.write(tmp_path).read_text(), parse_constant=pytest.fail)
    table = ledger_table(found)
    assert table.stages == ("pretraining", "fine_tuning")
    assert [cell.verdict for cell in table.rows[0].cells] == ["neutral", "worse"] or table.rows[0].cells[
        1
    ].verdict == "worse"
    assert (tmp_path / "ledger_items" / "fine_tuning" / "general.json").is_file()


def test_the_items_that_lost_most_are_named_by_their_place_in_the_data(tmp_path):
    items = tuple(Document(f"text {n}", f"laws.csv:{2 + n}") for n in range(30))
    before, after = np.full(30, 2.0), np.full(30, 2.0)
    after[[4, 7, 9, 11]] += [1.0, 3.0, 2.0, 0.5]
    after[3] -= 5
    weights = np.ones(30)
    weights[9] = 4  # bits of four bytes: a loss of a half a byte
    found = []
    for values in (before, after):
        one = scores("general", "bits_per_byte", values, weights=weights)
        one.with_sources(Heldout("general", "documents", items)).save(tmp_path / "general.json")
        found.append(Scores.load(tmp_path / "general.json"))
    ledger = Ledger()
    ledger.add("first", None, found[:1])
    ledger.add("second", "first", found[1:])
    ledger.write(tmp_path)
    entry = json.loads((tmp_path / "ledger.json").read_text())["entries"][1]
    assert entry["worst"] == [
        {"item": 7, "source": "laws.csv:9", "change": 3.0},
        {"item": 4, "source": "laws.csv:6", "change": 1.0},
        {"item": 9, "source": "laws.csv:11", "change": 0.5},
    ]
    kept = json.loads((tmp_path / "ledger_items/second/general.json").read_text())
    assert kept["sources"]["29"] == "laws.csv:31"
    cell = ledger_table(ledger.as_json()).rows[0].cells[1]
    assert "lost most: laws.csv:9, laws.csv:6, laws.csv:11" in cell.hover
