"""The page in a real browser: its height, what is cut off, what is printed, what a term says by keyboard."""

import json
import re
import shutil

import pytest

from lit_llm.evaluation.statistics import Estimate
from lit_llm.report import write_report
from lit_llm.rewards.validation.result import Floor, Probe, ValidationResult

CUT_OFF = """
() => [...document.querySelectorAll('main *')].filter(one => {
  const box = one.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 1 || box.left < -1) && !one.closest('.scroll, pre, svg');
}).map(one => one.outerHTML.slice(0, 120))
"""
WIDER_THAN_ITS_REGION = """
() => [...document.querySelectorAll('.scroll')]
  .filter(one => one.clientWidth && one.scrollWidth > one.clientWidth + 1 && one.querySelector('.rows'))
  .map(one => one.getAttribute('aria-label'))
"""


SETS = ("general", "domain", "task_pairs", "instructions_functions", "instructions_wordings", "prompts")
MEASURES = ("nll", "bits_per_byte", "rouge1", "rougeL", "sentence_bleu", "exact_match", "ended", "length", "verbatim")
TALKING = ("pretraining", "continued_pretraining", "fine_tuning", "instruction_tuning", "ppo", "dpo")


def estimate(mean, se=0.0123):
    return {"mean": mean, "se": se, "n": 200}


def every_entry():
    """A ledger as full as a whole pipeline's: every stage but the first lost something everywhere."""
    common = {"p": 1e-9, "p_adjusted": 1e-7, "test": "paired bootstrap", "noise_floor": 0.0123, "verdict": "lost"}
    for name in SETS:
        for measure in MEASURES:
            for order, stage in enumerate(TALKING):
                found = {"stage": stage, "set": name, "metric": measure, "after": estimate(2.1 + order)}
                yield found | ({"before": estimate(1.1 + order), "change": estimate(1.0), **common} if order else {})


@pytest.fixture(scope="module")
def address(finished, tmp_path_factory):
    """A page as full as a whole pipeline's, with answers as long as its default allows."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("long") / "run")
    answers = json.loads((folder / "answers.json").read_text())
    answers["answers"] = {stage: [text * 3 for text in texts] for stage, texts in answers["answers"].items()}
    (folder / "answers.json").write_text(json.dumps(answers))
    (folder / "ledger.json").write_text(json.dumps({"stages": list(TALKING), "entries": list(every_entry())}))
    file = folder / "instruction_tuning/metrics.json"
    scores = {name: {measure: estimate(0.1234) for measure in MEASURES} for name in SETS[3:5]}
    floors = {name: {"copy_first_sentence": {"rougeL": estimate(0.1) | {"above": estimate(0.02)}}} for name in scores}
    file.write_text(json.dumps({**json.loads(file.read_text()), "heldout": scores, "before": scores, "floors": floors}))
    floor = Floor(Estimate(0.68, 0.017, 120), Estimate(-0.018, 0.017, 120), counts=True, passed=False)
    probe = Probe(0.4, 0.045, 120, limit=0.35, passed=False)
    result = ValidationResult(Estimate(0.663, 0.019, 120), {"longer_wins": floor}, {"shuffled": probe}, (), True)
    result.save(folder / "reward_modeling/model")
    return f"file://{write_report(folder)}"


@pytest.fixture
def open_page(chromium, address):
    """Opens the page at a width; closes it at the end."""
    contexts = []

    def opened(width, scheme="light"):
        contexts.append(chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize(("width", "highest"), [(1280, 8000), (390, 8000)])
def test_it_is_short_and_nothing_is_cut_off(open_page, width, highest):
    page = open_page(width)
    assert page.evaluate("document.documentElement.scrollHeight") <= highest
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(CUT_OFF) == []
    assert page.evaluate(WIDER_THAN_ITS_REGION) == []


@pytest.mark.parametrize("width", [1280, 390])
def test_unfolded_nothing_is_cut_off_either(open_page, width):
    page = open_page(width)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(CUT_OFF) == []
    assert page.evaluate(WIDER_THAN_ITS_REGION) == []


def test_it_prints_on_few_pages_and_says_what_is_not_printed(open_page):
    page = open_page(1280)
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) <= 8
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 between usual margins
    assert page.evaluate("document.documentElement.scrollWidth") == 718
    assert page.locator("#terms dd").last.is_visible() and not page.locator("#curves").is_visible()
    assert page.get_by_text("Folded parts are not printed").is_visible()
    assert not page.locator("summary").first.is_visible()


def test_a_term_is_explained_by_keyboard_and_by_tap(open_page):
    page = open_page(390)
    says = "one => getComputedStyle(one, '::after').content"
    term = page.locator("#learned abbr").first
    assert page.evaluate(says, term.element_handle()) == "none"
    while page.evaluate("document.activeElement.tagName") != "ABBR":
        page.keyboard.press("Tab")
    assert "held-out text" in page.evaluate(says, term.element_handle())
    again = page.locator("#heldout abbr[tabindex='-1']").first
    again.click()
    assert len(page.evaluate(says, again.element_handle())) > 20


def test_dark_is_dark(open_page):
    colours = [open_page(1280, scheme).evaluate("getComputedStyle(document.body).backgroundColor") for scheme in
               ("light", "dark")]  # fmt: skip
    assert colours == ["rgb(251, 250, 248)", "rgb(21, 24, 28)"]
