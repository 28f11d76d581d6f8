"""Invariant: what stages were asked of lm-evaluation-harness stands in report and ledger, also when asked later."""

import json

from lit_llm.report.page import write_again, write_report
from lit_llm.report.reading import read_pipeline
from lit_llm.report.task_table import entries, task_rows

TASK = {
    "task": "قطط", "version": "1.0", "num_fewshot": 2, "limit": 40, "chat": False, "higher_is_better": {"acc": True},
    "metrics": {"acc": {"mean": 0.75, "se": 0.07, "n": 40}, "other": {"mean": None, "se": None, "n": 40}},
    "before": {"metrics": {"acc": {"mean": 0.25, "se": 0.07, "n": 40}}},
    "difference": {"acc": {"mean": 0.5, "se": 0.0812, "n": 40}},
    "tests": {"acc": {"p": 1e-5, "test": "McNemar, exact", "noise_floor": 0.2}},
}  # fmt: skip


def test_rows_give_before_after_change_and_its_error(pipeline):
    (pipeline / "fine_tuning/tasks.json").write_text(json.dumps({"tasks": {"قطط": TASK}}))
    [(stage, [row])] = task_rows(entries(read_pipeline(pipeline)))
    assert (stage, row.task, row.asked) == ("fine_tuning", "قطط", "version 1.0, 2 examples before each, limit 40")
    assert row.before.text == "0.250 ± 0.070" and row.after.text == "0.750 ± 0.070"
    assert (row.change, row.certainty, row.sign) == ("+0.500", "± 0.081, p < 0.001", "▲")


def test_a_p_that_is_not_adjusted_is_not_shown_among_those_that_are(pipeline):
    task = {**TASK, "higher_is_better": {}}  # nobody says which way is better: no test of the ledger's, none adjusted
    (pipeline / "fine_tuning/tasks.json").write_text(json.dumps({"tasks": {"قطط": task}}))
    [entry, _] = found = entries(read_pipeline(pipeline))
    assert entry["p"] == 1e-5 and entry["p_adjusted"] is None
    [(_, [row])] = task_rows(found)
    assert row.certainty == "± 0.081"


def test_a_stage_that_is_asked_later_changes_report_and_ledger(pipeline):
    write_report(pipeline)
    assert "lm-evaluation-harness" not in (pipeline / "report.html").read_text()
    hostile = "<script>x</script>"
    told = {"tasks": {hostile: TASK, "قطط": {**TASK, "before": None, "difference": None, "tests": None}}}
    (pipeline / "ppo/tasks.json").write_text(json.dumps(told))
    assert write_again(pipeline / "ppo") == pipeline / "report.html"
    page = (pipeline / "report.html").read_text()
    section = page.partition('id="tasks"')[2].partition("</section>")[0]
    assert "قطط" in section and "+0.500" in section and "&lt;script&gt;x" in section and hostile not in page
    ledger = json.loads((pipeline / "ledger.json").read_text())
    first = ledger["tasks"][0]
    assert (first["stage"], first["against"], first["verdict"]) == ("ppo", "instruction_tuning", "gained")
    assert ledger["entries"]  # stay


def test_a_run_by_itself_has_no_report(tmp_path):
    (tmp_path / "run").mkdir()
    assert write_again(tmp_path / "run") is None and not list(tmp_path.glob("*.html"))
