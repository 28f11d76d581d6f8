"""The verdict's sentences on made-up numbers: gained, within the noise, lost, and what is missing."""

from pathlib import Path

import pytest

from lit_llm.report.answers import answered
from lit_llm.report.learned import LOST_NOTHING, NO_LEDGER, NOT_COMPARED, headline, learned, pairs
from lit_llm.report.reading import PipelineRun, StageRun
from lit_llm.report.tables import count_rows
from lit_llm.report.terms import LABELS, RANK, TERMS, Marker, first, label


def value(mean, se=0.01, n=100):
    return {"mean": mean, "se": se, "n": n}


def stage(name, heldout, before=None, **more):
    config = {"data": {"name": more.pop("data", "")}}
    return StageRun(name, Path(name), {"heldout": heldout, "before": before or {}, **more}, config)


def entry(stage, name, metric, before, after, verdict):
    return {"stage": stage, "set": name, "metric": metric, "before": value(before), "after": value(after),
            "verdict": verdict}  # fmt: skip


def run(*stages, entries=None, answers=None):
    ledger = {} if entries is None else {"entries": entries}
    return PipelineRun(Path("run"), stages, ledger, answers or {}, {})


def bits(mean):
    return {"bits_per_byte": value(mean)}


def only(found):
    (one,) = found
    return one


def test_what_was_gained_is_told_with_its_error():
    one = only(learned(run(stage("fine_tuning", {"pairs": bits(1.5)}, {"pairs": bits(2.4)}))))
    assert [said.text for said in one.learned] == [
        "bits per byte on pairs fell from 2.400 ± 0.010 to 1.500 ± 0.010: better"
    ]
    assert one.learned[0].verdict == "better" and one.note == NO_LEDGER and one.lost == ()


def test_within_the_noise_nothing_changed():
    one = only(learned(run(stage("x", {"pairs": bits(1.51)}, {"pairs": bits(1.5)}), entries=[])))
    assert one.learned[0].words == "stayed the same within the noise: 1.500 ± 0.010 before, 1.510 ± 0.010 after"
    assert one.note == NOT_COMPARED


def test_the_ledger_s_paired_test_decides_where_there_is_one():
    entries = [entry("x", "pairs", "bits_per_byte", 1.5, 1.51, "lost")]
    one = only(learned(run(stage("x", {"pairs": bits(1.51)}, {"pairs": bits(1.5)}), entries=entries)))
    assert one.learned[0].words.endswith(": worse") and one.lost == (), "told once"


def test_losses_come_worst_first_one_of_each_set_and_the_others_are_counted():
    entries = [
        entry("ppo", "general", "bits_per_byte", 2.0, 2.1, "lost"),
        entry("ppo", "pairs", "bits_per_byte", 1.5, 1.6, "lost"),
        entry("ppo", "pairs", "rougeL", 0.40, 0.20, "lost"),
        entry("ppo", "pairs", "rouge1", 0.50, 0.20, "lost"),
        entry("ppo", "domain", "bits_per_byte", 2.0, 2.02, "lost"),
        entry("ppo", "other", "bits_per_byte", 2.0, 1.0, "gained"),
        entry("dpo", "pairs", "rougeL", 0.40, 0.10, "lost"),
    ]
    one = only(learned(run(stage("ppo", {"prompts": {"score/reward": value(1.0)}}), entries=entries)))
    assert [said.text for said in one.lost] == [
        "ROUGE-L on pairs fell from 0.400 to 0.200 (−20.0 points)",
        "bits per byte on general rose from 2.000 to 2.100 (+5%)",
    ]
    assert one.more == 3 and one.note == ""


def test_from_nothing_there_is_no_percentage():
    entries = [entry("x", "prompts", "score/rule", 0.0, -0.5, "lost")]
    one = only(learned(run(stage("x", {"pairs": bits(1.0)}), entries=entries)))
    assert one.lost[0].words == "fell from 0.000 to −0.500 (−0.5)"


def test_nothing_lost_is_said():
    entries = [entry("x", "general", "bits_per_byte", 2.0, 2.0, "same")]
    found = learned(run(stage("x", {"pairs": bits(1.0)}), entries=entries))
    assert found[0].note == LOST_NOTHING and "No stage lost anything beyond the noise." in headline(found)


@pytest.mark.parametrize(
    ("accuracy", "words", "verdict"),
    [(0.75, "better than", "better"), (0.61, "no better than", "same"), (0.5, "worse than", "worse")],
)
def test_what_had_no_before_is_told_beside_the_best_rule(accuracy, words, verdict):
    floors = {"pairs": {"shorter_wins": {"accuracy": value(0.4)}, "longer_wins": {"accuracy": value(0.6)}}}
    found = learned(run(stage("rm", {"pairs": {"accuracy": value(accuracy)}}, floors=floors)))
    said = found[0].learned[0]
    assert said.words == f"is {accuracy:.3f} ± 0.010, {words} the rule 'longer wins' (0.600 ± 0.010)"
    assert said.verdict == verdict and headline(found)[0].startswith("Next to the best rule that needs no model: rm is")


def test_with_nothing_to_compare_the_number_stands_alone():
    one = only(learned(run(stage("pretraining", {"general": bits(1.7)}))))
    assert one.learned[0].words == "is 1.700 ± 0.010, with nothing before to compare"
    assert headline([one]) == [] and learned(run(stage("x", {}))) == []


def test_a_stage_is_measured_on_its_own_data_by_what_it_was_trained_for():
    before = {"general": bits(1.7), "domain": bits(2.0)}
    continued = stage("continued", {"general": bits(1.8), "domain": bits(1.6)}, before, data="domain")
    scores = {"ended": value(0.9), "score/reward": value(0.5), "score/gold": value(0.6)}
    ppo = stage("ppo", {"prompts": scores}, {"prompts": scores}, objective_of="-prompts/score/reward")
    first_stage, second = learned(run(continued, ppo))
    assert [said.set for said in first_stage.learned] == ["domain"]
    assert [said.measure for said in second.learned] == ["score/reward", "score/gold"], "beside one it never saw"


def test_the_headline_counts():
    entries = [entry("b", "a", "rougeL", 0.4, 0.2, "lost")]
    good = stage("a", {"a": bits(1.0)}, {"a": bits(2.0)})
    found = learned(run(good, stage("b", {"b": bits(2.0)}, {"b": bits(2.0)}), entries=entries))
    assert headline(found) == [
        "Beyond the noise, 1 of 2 stages got better than before at what they were trained for.",
        "Something else got worse in 1: b.",
    ]


ANSWERS = {"prompts": ["one", "two", "three"], "answers": {"a": ["a1", "a2", "a3"], "b": ["b1", "b2", "b3"]}}


@pytest.mark.parametrize(
    ("heldout", "questions", "words"),
    [
        ([False, True, True], ["two", "three"], "the first 2 held-out questions"),
        ([False, False, True], ["three"], "the first held-out question"),
        ([], ["one", "two"], "the first 2 questions"),
    ],
)
def test_the_questions_shown_follow_a_rule(heldout, questions, words):
    found = pairs(list(answered({**ANSWERS, "heldout": heldout})), "a", "b")
    assert [pair.prompt[0][1] for pair in found.pairs] == questions and found.of == words
    assert found.pairs[0].before[0] == "a" and found.pairs[0].after[0] == "b"


def test_one_model_s_answers_stand_alone_and_none_are_left_out():
    found = pairs(list(answered(ANSWERS)), None, "b")
    assert found.before is None and found.pairs[0].before is None and found.pairs[0].after == "b1"
    assert pairs([], "a", "b") is None and pairs(list(answered(ANSWERS)), "a", "c") is None


def test_every_measure_that_is_shown_first_is_explained():
    assert {label(name) for name in (*RANK, *LABELS)} <= set(TERMS)


def test_what_was_trained_for_is_shown_first_and_what_says_the_same_is_not():
    assert first(["nll", "bits_per_byte", "rougeL", "ended", "verbatim"]) == ["bits_per_byte", "rougeL", "ended"]
    assert first(["accuracy", "auroc", "brier"], "accuracy") == ["accuracy", "auroc"]
    assert first(["new_measure", "another"]) == ["new_measure"]


def test_a_term_s_first_place_can_be_reached_and_words_are_escaped():
    mark = Marker({"<b>": 'says "this"'})
    assert mark("<b>") == '<abbr title="says &#34;this&#34;" tabindex="0">&lt;b&gt;</abbr>'
    assert 'tabindex="-1">shown<' in mark("<b>", "shown")
    assert mark("unknown") == "unknown" and mark.explained() == [("<b>", 'says "this"')]


def test_counts_are_one_row_a_stage():
    counts = {"read": 1200, "used": 1190, "skipped": {"empty": 4, "too_long": 6}, "simulated": True,
              "annotators": [{"name": "ada", "noise": 0.1}], "agreement": value(0.7)}  # fmt: skip
    row = only(count_rows([stage("rankings", {}, counts=counts), stage("none", {})]))
    assert (row.read, row.used, row.skipped, row.why) == ("1,200", "1,190", "10", "empty 4, too long 6")
    assert row.rest == (("simulated", "yes"), ("annotators: ada: noise", "0.1"), ("agreement", "0.700 ± 0.010"))


def test_what_new_tokens_changed_stands_beside_the_counts():
    sizes = {"tokens_per_byte": {"before": 0.518, "after": 0.165}, "bits_per_byte": {"before": 1.77, "after": 1.69}}
    figures = {"new_tokens": 2000, "sets": {"domain": sizes}}
    row = only(count_rows([stage("cpt", {}, counts={"read": 9, "used": 9}, vocabulary=figures)]))
    assert ("vocabulary: new tokens", "2,000") in row.rest
    assert ("vocabulary: sets: domain: tokens per byte: after", "0.165") in row.rest
