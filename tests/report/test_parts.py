"""The report's parts apart: thinning of curves, scales, the picture's layout, verdicts, odd shapes of answers."""

import math

import pytest
from torch.utils.tensorboard import SummaryWriter

from lit_llm.report.answers import answered
from lit_llm.report.chain import Link, chain_picture, place
from lit_llm.report.charts import Line, line_chart, number, round_step, scale, smoothed
from lit_llm.report.curves import Curve, paired, read_curves, thin
from lit_llm.report.figures import figures, reward_against_kl
from lit_llm.report.ledger_table import ledger_table
from lit_llm.report.tables import Score, duration, score, verdict
from lit_llm.runtime import curve_tags


def curve(tag, values):
    return Curve(tag, tuple(range(len(values))), tuple(map(float, values)))


def test_curves_are_read_back_and_what_is_not_finite_is_counted(tmp_path):
    writer = SummaryWriter(str(tmp_path))
    for step, value in enumerate([3.0, float("nan"), 2.0]):
        writer.add_scalar("train/loss", value, step * 10)
    writer.close()
    assert read_curves(tmp_path) == {"train/loss": Curve("train/loss", (0, 20), (3.0, 2.0), lost=1)}
    assert read_curves(tmp_path / "nowhere") == {}


def test_the_loss_is_tensorboard_s_first_card_and_keeps_its_name_in_the_report():
    names = ["train/loss", "val/loss", "loss/policy", "adherence/ana", "objective/kl", "epoch", "val/prompts/loss"]
    tags = [curve_tags.shown(name) for name in names]
    assert [curve_tags.logged(tag) for tag in tags] == names and curve_tags.logged("train/loss") == "train/loss"
    assert sorted(tags)[:3] == ["Loss/policy", "Loss/train", "Loss/val"]


@pytest.mark.parametrize("n", [1, 239, 240, 241, 1000, 7919])
def test_thinning_keeps_both_ends_the_order_and_the_mean(n):
    whole = curve("x", [math.sin(i / 50) + i / n for i in range(n)])
    thinned = thin(whole)
    assert len(thinned.steps) == min(n, 240) == len(thinned.values)
    assert (thinned.steps[0], thinned.values[0]) == (whole.steps[0], whole.values[0])
    assert (thinned.steps[-1], thinned.values[-1]) == (whole.steps[-1], whole.values[-1])
    assert list(thinned.steps) == sorted(set(thinned.steps))
    assert sum(thinned.values) / len(thinned.values) == pytest.approx(sum(whole.values) / n, abs=0.02)


def test_pairing_takes_common_steps():
    assert paired(Curve("a", (1, 2, 4), (10.0, 20.0, 40.0)), Curve("b", (2, 3, 4), (2.0, 3.0, 4.0))) == [
        (2, 20.0, 2.0),
        (4, 40.0, 4.0),
    ]


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [1e-9, 3e-9], [-3.0, 1e6], [0.1, 0.7, 0.3]])
def test_scales_hold_their_values(values):
    made = scale(values, 100.0, 0.0)
    assert len(made.ticks) >= 2 and made.low < made.high
    assert all(0 <= made(value) <= 100 for value in values)


def test_round_steps():
    assert [round_step(x) for x in (0.9, 1.0, 1.1, 3, 7, 0.03)] == [1, 1, 2, 5, 10, pytest.approx(0.05)]


def test_numbers_are_short():
    shown = [number(x) for x in (0, 1.25, -0.5, 12345, 3.4e6, 0.0003, 1234)]
    assert shown == ["0", "1.25", "\N{MINUS SIGN}0.5", "12.3k", "3.4M", "3e-4", "1234"]


def test_smoothing_keeps_a_line_straight():
    line = [2.0 * i for i in range(200)]
    assert smoothed(line) == pytest.approx(line)


def test_labels_in_charts_are_escaped():
    svg = line_chart("<b>", [Line("</svg><script>", ((0.0, 1.0), (1.0, 2.0)))])
    assert "<script>" not in svg and "<b>" not in svg and "&lt;script&gt;" in svg


def test_one_value_shows_as_a_mark():
    assert "dot" in line_chart("x", [Line("", ((3.0, 1.0),))])


def test_boxes_of_the_chain_do_not_cover_each_other():
    def link(name, *parents):
        return Link(name, parents, ("", ""))

    links = [
        link("a"),
        link("b", "a"),
        link("c", "b"),
        link("rank", "b"),
        link("rm", "b", "rank"),
        link("ppo", "b", "rm"),
    ]
    places = place([*links, link("dpo", "b", "rank"), link("alone")])
    assert len(set(places.values())) == len(places)
    for each in links:
        assert all(places[parent][0] < places[each.name][0] for parent in each.parents)


def test_a_chain_that_names_itself_is_drawn():
    assert "<svg" in chain_picture([Link("a", ("b",), ("", "")), Link("b", ("a",), ("", ""))])


def test_known_curves_stand_together_and_unknown_ones_are_not_lost():
    tags = ["train/loss", "val/general/loss", "val/domain/loss", "hp/lr", "epoch", "train/new_thing"]
    main, more = figures({tag: curve(tag, [1, 2, 3]) for tag in tags})
    assert [(item.title, item.legend) for item in main] == [
        ("Loss", ("training", "validation general", "validation domain"))
    ]
    assert [item.title for item in more] == ["train/new_thing"]


def test_reward_against_kl_needs_both():
    kl, scores = curve("objective/kl", [0, 1, 2]), curve("objective/scores", [0, 1, 1.5])
    assert [item.title for item in reward_against_kl({kl.tag: kl, scores.tag: scores})] == ["scores against KL"]
    assert not list(reward_against_kl({scores.tag: scores}))


def test_verdicts_follow_the_measure_and_the_noise():
    before = Score(2.0, 0.1, 50)
    assert verdict("bits_per_byte", before, Score(1.5, 0.1, 50)) == "better"
    assert verdict("bits_per_byte", before, Score(2.5, 0.1, 50)) == "worse"
    assert verdict("bits_per_byte", before, Score(2.2, 0.1, 50)) == "same"
    assert verdict("rougeL", before, Score(2.5, 0.1, 50)) == "better"
    assert verdict("length", before, Score(9.0, 0.1, 50)) == "neutral"


@pytest.mark.parametrize(
    ("mean", "se", "shown"),
    [(1.79512, 0.02058, "1.795 ± 0.021"), (31.2, 12.3, "31 ± 12"), (-0.5, 0.0, "−0.5 ± 0"), (0.25, None, "0.25")],
)
def test_a_mean_has_the_digits_that_its_error_leaves(mean, se, shown):
    assert Score(mean, se, 9).text == shown


def test_scores_of_every_shape():
    assert score({"mean": 1, "se": 0.5, "n": 3}) == Score(1.0, 0.5, 3)
    assert score(2) == Score(2.0, None, None)
    assert [score(x) for x in (None, {}, {"mean": float("nan")}, "x", True)] == [None] * 5


def test_ledger_leaves_cells_without_an_entry_empty():
    entry = {"set": "a", "metric": "bits_per_byte", "after": {"mean": 1.0, "se": 0.1, "n": 9}}
    table = ledger_table({"entries": [{**entry, "stage": "x"}, {**entry, "stage": "y", "set": "b"}]})
    assert [[cell is not None for cell in row.cells] for row in table.rows] == [[True, False], [False, True]]
    assert ledger_table({}) is None


def test_answers_of_every_shape():
    prompts = ["plain", {"messages": [{"role": "user", "content": "asked"}]}, [{"role": "user", "content": "listed"}]]
    answers = {"a": ["one", {"text": "two", "ended": False}], "b": []}
    found = list(answered({"prompts": prompts, "answers": answers}))
    assert [item.prompt for item in found] == [(("", "plain"),), (("user", "asked"),), (("user", "listed"),)]
    assert [item.answers for item in found] == [(("a", "one", ""),), (("a", "two", "cut at the limit"),), ()]


def test_durations():
    assert [duration(x) for x in (4.25, 59.6, 185, 7800)] == ["4.2 s", "1 min 00 s", "3 min 05 s", "2 h 10 min"]
