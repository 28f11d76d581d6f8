"""The page as a whole: what it holds, what it must never do, and what it does when something is missing or damaged."""

import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from lit_llm.errors import UserError
from lit_llm.evaluation.statistics import Estimate
from lit_llm.report import write_report
from lit_llm.rewards.validation.result import Floor, Probe, ValidationResult

CHROMIUM = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)


class Tags(HTMLParser):
    """Every element with its attributes; text by the element it is directly in; unbalanced tags are an error."""

    VOID = ("meta", "br", "img", "link", "input", "hr")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(finished):
    return write_report(finished).read_text(encoding="utf-8")


def test_every_section_is_there_and_linked(page):
    tags = Tags(page)
    ids = {attributes.get("id") for _, attributes in tags.elements}
    links = [attributes["href"][1:] for attributes in tags.all("a")]
    assert set(links) <= ids
    assert {"learned", "chain", "heldout", "ledger", "answers", "kl", "curves", "data", "next"} <= set(links)


def test_it_loads_nothing_and_runs_nothing(page):
    tags = Tags(page)
    assert not {"script", "img", "link", "iframe", "object", "form"} & {name for name, _ in tags.elements}
    for name, attributes in tags.elements:
        assert not [key for key in attributes if key.startswith("on") or key in ("src", "style")], (name, attributes)
    assert not re.search(r"url\(|@import|https?://", page)
    policy = next(m["content"] for m in tags.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy


def test_the_verdict_comes_first_and_the_rest_is_folded(page):
    assert page.index("<h1>") < page.index("What it learned, what it lost") < page.index('id="chain"')
    tags = Tags(page)
    assert not [a for a in tags.all("details") if "open" in a] and len(tags.all("details")) == len(tags.all("summary"))
    first = page[page.index('id="learned"') : page.index('id="chain"')]
    assert "the first 2 questions" in first and first.count('class="prompt"') == 2
    assert "before: instruction tuning" in first and "after: ppo" in first


def test_a_chain_without_scores_and_answers_says_so(pipeline):
    (pipeline / "answers.json").unlink()
    for file in pipeline.glob("*/metrics.json"):
        file.write_text("{}")
    page = write_report(pipeline).read_text(encoding="utf-8")
    Tags(page)
    assert "No stage of this chain has held-out scores." in page and "The same questions" not in page


def test_columns_that_no_row_fills_are_left_out(pipeline):
    for name in ("continued_pretraining", "instruction_tuning", "reward_modeling", "ppo", "dpo", "fine_tuning"):
        shutil.rmtree(pipeline / name)
    file = pipeline / "pretraining/metrics.json"
    metrics = json.loads(file.read_text())
    file.write_text(json.dumps({**metrics, "before": {}, "steps": 0}))
    page = write_report(pipeline).read_text(encoding="utf-8")
    heads = re.findall(r"<th scope=\"col\"[^>]*>(.*?)</th>", page[page.index('id="chain"') : page.index('id="ledger"')])
    assert "after" in heads and "tokens" in heads
    assert not {"before", "change", "floors", "best floor", "steps"} & set(heads)


def test_terms_are_explained_where_they_stand_and_in_a_list(page):
    tags = Tags(page)
    marked = tags.all("abbr")
    assert len(marked) > 10 and all(len(a["title"]) > 20 and a["tabindex"] in ("0", "-1") for a in marked)
    reached = [a["title"] for a in marked if a["tabindex"] == "0"]
    assert len(reached) == len(set(reached)) == len({a["title"] for a in marked}), "each once by the Tab key"
    listed = page[page.index('id="terms"') :]
    assert all(f">{term}</dt>" in listed for term in ("bits per byte", "ROUGE-L", "ledger", "floor"))


def test_hostile_text_is_shown_as_text(page):
    assert "<script" not in page
    assert page.count("&lt;script&gt;document.title=") >= 6  # the prompt's and every stage's


def test_texts_choose_their_own_direction(page, arabic):
    tags = Tags(page)
    assert arabic in page
    texts = [a for _, a in tags.elements if a.get("class") == "text"]
    assert texts and all(a["dir"] == "auto" for a in texts)


def test_simulated_annotators_are_named(page):
    assert "Simulated annotators." in page and "behind rankings, reward modeling, ppo and dpo" in page


def test_gains_and_losses_have_words_and_signs_besides_colour(page):
    ledger = page[page.index('<section id="ledger"') : page.index('<section id="answers"')]
    cells = re.findall(r'<td class="num (\w+)" title="([^"]*)">(.*?)</td>', ledger, re.S)
    assert [verdict for verdict, _, _ in cells] == ["neutral", "better", "worse", "same"]
    first, gained, lost, _ = cells
    assert "▲ −0.308" in gained[2] and "p &lt; 0.001" in gained[2] and "± 0.00" in gained[2]
    assert "▼ +0.079" in lost[2]
    assert "paired bootstrap" in lost[1] and "noise floor" in lost[1] and "200 items, 0 better, 200 worse" in lost[1]
    assert "p" not in re.sub("<[^>]*>", "", first[2])  # nothing to compare the first stage with


def test_floors_counts_and_commands(page, finished):
    assert "first sentence 0.240 ± 0.010 (the model +0.070 ± 0.020)" in page
    assert "duplicate 40, empty 5" in page and "12,345" in page and 'data-name="skipped">45<' in page
    assert f"scripts/chat.py model={finished / 'ppo' / 'model'}" in page


def test_scrolling_regions_can_be_reached_by_keyboard_and_have_names(page):
    regions = [a for _, a in Tags(page).elements if a.get("class") == "scroll"]
    assert regions and all(a.get("tabindex") == "0" and a.get("aria-label") for a in regions)
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in Tags(page).all("svg"))


def test_verified_chain(page):
    assert ": all is as it was made" in page and "not checked" not in page
    assert page.count("hashes verified") >= 8 and "hashes differ" not in page


def test_a_changed_byte_shows(pipeline):
    weights = pipeline / "fine_tuning" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    page = write_report(pipeline).read_text(encoding="utf-8")
    assert "The lineage does not hold." in page and ": all is as it was made" not in page
    assert re.search(r"fine_tuning/model.safetensors: its bytes differ", page)


def test_a_damaged_lineage_is_a_finding(pipeline):
    file = pipeline / "ppo" / "model" / "lineage.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "parents": [{}]}))
    assert "The lineage does not hold." in write_report(pipeline).read_text(encoding="utf-8")


def test_missing_parts_are_named(pipeline):
    for name in ("ledger.json", "answers.json", "pipeline.json"):
        (pipeline / name).unlink()
    for name in ("pretraining", "ppo"):
        shutil.rmtree(pipeline / name / "tensorboard")
    (pipeline / "pretraining" / "metrics.json").write_text("{}")
    page = write_report(pipeline).read_text(encoding="utf-8")
    Tags(page)
    assert "wrote no ledger.json" in page and "wrote no answers.json" in page


def test_damaged_input_is_one_line(pipeline):
    (pipeline / "ledger.json").write_text('{"entries": [')
    with pytest.raises(UserError, match=r"ledger\.json: not readable as JSON") as caught:
        write_report(pipeline)
    assert "\n" not in str(caught.value)


def test_a_reward_model_s_validation_is_shown_with_its_limits_and_why_it_failed(pipeline, hostile):
    floor = Floor(Estimate(0.68, 0.017, 120), Estimate(-0.018, 0.017, 120), counts=True, passed=False)
    told = Floor(Estimate(0.7, 0.01, 120), Estimate(-0.04, 0.01, 120), counts=False, passed=True)
    attacks = {
        "shuffled": Probe(0.4, 0.045, 120, limit=0.35, passed=False),
        "constant": Probe(0.95, math.nan, 60, limit=1.0, passed=True),
    }
    floors = {"longer_wins": told, "shorter_wins": floor}
    result = ValidationResult(Estimate(0.663, 0.019, 120), floors, attacks, (hostile,), trained_with_attacks=True)
    result.save(pipeline / "reward_modeling/model")
    page = write_report(pipeline).read_text(encoding="utf-8")
    Tags(page)
    cells = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))
    assert (
        'href="#reward-validation"' in page and "Failed. Accuracy 0.663 ± 0.019. It was trained with attacks" in cells
    )
    assert "longer wins 0.700 ± 0.010 -0.040 ± 0.010 120 only reported" in cells
    assert "shorter wins 0.680 ± 0.017 -0.018 ± 0.017 120 failed" in cells
    assert "the answer to another prompt 40.0 ± 4.5% 35% 120 failed" in cells
    assert "95.0% 100% 60 only reported" in cells and "at most 35% may be" in cells and hostile not in page


def test_no_pipeline(tmp_path):
    (tmp_path / "notes").mkdir()
    with pytest.raises(UserError, match="no stage in it"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        write_report(tmp_path / "nowhere")


def test_numbers_that_are_none_are_left_out(pipeline):
    file = pipeline / "ppo" / "metrics.json"
    metrics = json.loads(file.read_text())
    metrics["heldout"]["general"] = {"bits_per_byte": {"mean": float("nan"), "se": None, "n": 0}, "perplexity": None}
    file.write_text(json.dumps(metrics))
    page = write_report(pipeline).read_text(encoding="utf-8")
    assert "nan" not in re.sub(r"<[^>]*>", " ", page).lower().split()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_in_a_real_browser_nothing_runs(finished, hostile, tmp_path):
    """The page keeps its title: no payload in prompts or answers ran; the style sheet passes its own policy."""
    file = write_report(finished)
    done = subprocess.run(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom",
         "--enable-logging=stderr", f"file://{file}"],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    assert "<title>From raw text to an aligned model" in done.stdout
    assert hostile not in done.stdout and "Content Security Policy" not in done.stderr
