"""The page that shows a pipeline: one offline HTML file that loads nothing and runs no script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from lit_llm.report.answers import answered
from lit_llm.report.chain import SIGNS as CHECKS
from lit_llm.report.chain import WORDS, Link, chain_picture
from lit_llm.report.charts import number
from lit_llm.report.exported import exported_file
from lit_llm.report.figures import figures, reward_against_kl
from lit_llm.report.learned import aim, by_ledger, headline, learned, own_sets, pairs
from lit_llm.report.ledger_table import ledger_table
from lit_llm.report.overoptimization import overoptimization
from lit_llm.report.reading import PipelineRun, StageRun, read_pipeline
from lit_llm.report.reward_validation import reward_validations
from lit_llm.report.safety import safety
from lit_llm.report.tables import SIGNS, HeldoutRow, count_rows, duration, effort_rows, heldout_rows
from lit_llm.report.task_table import entries, task_rows, write_into_ledger
from lit_llm.report.terms import Marker, first
from lit_llm.report.verdict import skipped, verdict
from lit_llm.report.verification import Check, parents, verify_chain
from lit_llm.runtime.atomic_files import write_text

StageRows = tuple[str, list[HeldoutRow]]

TELLS_NUMBERS = ("reward_modeling", "flag_classification")  # models that do not talk
SHOWN_MEASURES = 3  # a stage; the rest can be unfolded


def write_report(pipeline_folder: Path) -> Path:
    """Writes ``report.html`` into a pipeline's folder (outputs/pipeline/<time>) and returns its path.

    Hashes every byte along the chain again for the lineage check inside the page. A part whose file is missing
    (ledger.json, answers.json, curves) is left out with a note. Raises UserError when the folder is no pipeline's, or
    a file in it is damaged.
    """
    run = read_pipeline(Path(pipeline_folder))
    page = render(run, verify_chain(run.stages))
    file = run.folder / "report.html"
    # A model may have answered with half a surrogate pair, which no encoding can hold.
    write_text(file, page, errors="replace")
    return file


def write_again(folder: Path) -> Path | None:
    """The report of the pipeline that a stage's ``folder`` lies in, and its ledger's tasks, when the stage was asked
    new ones. None where it lies in no pipeline's folder or that has no report. Errors as ``write_report``."""
    place = Path(folder).absolute().parent
    if not ((place / "pipeline.json").is_file() and (place / "report.html").is_file()):
        return None
    write_into_ledger(place, entries(read_pipeline(place)))
    return write_report(place)


def render(run: PipelineRun, checks: Mapping[str, Check]) -> str:
    """The page's HTML. Autoescaping is on: model text and users' text are data here, never markup."""
    style = Markup(_resource("page.css").replace("<", ""))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    sections = _sections(run)
    return environment.from_string(_resource("page.html")).render(
        style=style,
        style_hash=digest,
        duration=duration,
        number=number,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        folder=run.folder.name,
        commands=_commands(run),
        term=Marker(),
        signs=SIGNS,
        **_heading(run),
        **_chain(run, checks),
        **sections,
        contents=_contents(sections),
    )


def _heading(run: PipelineRun) -> dict[str, Any]:
    rows = effort_rows(run.stages, run.summary)
    seconds, tokens = sum(row.seconds for row in rows), sum(row.tokens for row in rows)
    final, size = final_stage(run), max(row.parameters for row in rows)
    simulated = [stage.name.replace("_", " ") for stage in run.stages if stage.lineage.get("simulated_preferences")]
    known = [
        ("Parameters", number(size) if size else ""),
        ("Tokens trained on", number(tokens) if tokens else ""),
        ("All stages together", duration(seconds) if seconds else ""),
        ("Steps of the chain", str(len(rows))),
        ("Ranked by", _ranked_by(run)),
        ("Commit", _commit(run.stages)),
        ("Made", _made(run.stages)),
    ]
    return {
        "title": f"From raw text to {_article(final.name)}" if final else "LitLLM pipeline",
        "facts": [(name, value) for name, value in known if value],
        "simulated": _listed(simulated),
        "skipped": skipped(run),
    }


def _ranked_by(run: PipelineRun) -> str:
    """Who made the rankings, where people did."""
    stage = run.stage("rankings")
    counts = (stage.metrics.get("counts") or {}) if stage else {}
    if not counts.get("by_people"):
        return ""
    return f"{counts.get('annotators', 1)} people, {counts['by_people']} rankings"


def _chain(run: PipelineRun, checks: Mapping[str, Check]) -> dict[str, Any]:
    effort = {row.stage: row for row in effort_rows(run.stages, run.summary)}
    links = []
    for stage in run.stages:
        row, check = effort[stage.name], checks[stage.name]
        second = str(stage.lineage.get("digest") or "")[:12]
        detail = "; ".join(check.differences)
        links.append(Link(stage.name, parents(stage, run.stages), (_tokens(row.tokens), second), check.state, detail))
    differences = [line for check in checks.values() for line in check.differences]
    verified = sum(check.state == "verified" for check in checks.values())
    if differences:
        words = "Every byte along the chain was hashed again while this page was written: not all is as it was made."
    elif verified:
        words = (
            "Every byte along the chain, from the data files to the last model, was hashed again while this page was "
            "written: all is as it was made."
        )
    else:
        words = "The stages hold no lineage, so nothing could be verified."
    return {
        "chain": chain_picture(links),
        "chain_words": words,
        "differences": differences,
        "effort": list(effort.values()),
        "sizes_differ": len({number(row.parameters) for row in effort.values() if row.parameters}) > 1,
        "lineages": {
            stage.name: {
                "digest": str(stage.lineage.get("digest") or ""),
                "sign": CHECKS[checks[stage.name].state],
                "words": WORDS[checks[stage.name].state],
            }
            for stage in run.stages
        },
    }


def _sections(run: PipelineRun) -> dict[str, Any]:
    drawn = [(stage.name, *figures(stage.curves)) for stage in run.stages if stage.curves]
    against = [(stage.name, list(reward_against_kl(stage.curves))) for stage in run.stages]
    shown, every = heldout_parts(run)
    stages, said = learned(run), list(answered(run.answers))
    return {
        "learned": stages,
        "headline": headline(stages),
        "pairs": pairs(said, *before_and_after(run)),
        "heldout": shown,
        "heldout_all": every,
        "reward_validations": reward_validations(run),
        "ledger": ledger_table(run.ledger),
        "tasks": task_rows(entries(run)),
        "exported": exported_file(run),
        "answers": said,
        "answers_note": str(run.answers.get("note") or ""),
        "overoptimization": overoptimization(run),
        "safety": safety(run),
        "verdict": verdict(run.win_rate),
        "against_kl": [(name, items) for name, items in against if items],
        "curves": [(name, main, more) for name, main, more in drawn if main or more],
        "counts": list(count_rows(run.stages)),
    }


def heldout_parts(run: PipelineRun) -> tuple[list[StageRows], list[StageRows]]:
    """At most ``SHOWN_MEASURES`` measures a stage, on the sets that it is for; and all of them, where they are more."""
    shown, every = list[StageRows](), list[StageRows]()
    known: set[str] = set()
    for stage in run.stages:
        rows = by_ledger(list(heldout_rows([stage])), run.ledger)
        if not rows:
            continue
        every.append((stage.name, rows))
        own = [row for row in rows if row.set in own_sets(stage, rows, known)]
        known |= {row.set for row in rows}
        names = list(dict.fromkeys(row.metric for row in own))
        chosen = first(names, aim(stage, names), SHOWN_MEASURES)
        top = [row for row in own if row.metric in chosen]
        shown.append((stage.name, sorted(top, key=lambda row: (row.set, chosen.index(row.metric)))))
    return shown, every


def before_and_after(run: PipelineRun) -> tuple[str | None, str | None]:
    """The chain's last model that talks, and the one that it started from."""
    final = final_stage(run)
    if final is None:
        return None, None
    talking = run.answers.get("answers") or {}
    return next((name for name in parents(final, run.stages) if name in talking), None), final.name


def _contents(sections: Mapping[str, Any]) -> list[tuple[str, str]]:
    rewards = sections["overoptimization"]
    names = [
        ("learned", "Learned and lost", sections["learned"]),
        ("chain", "Chain", True),
        ("heldout", "Held-out scores", sections["heldout"]),
        ("reward-validation", "Reward validation", sections["reward_validations"]),
        ("ledger", "Gained and lost", True),
        ("tasks", "Tasks", sections["tasks"]),
        ("safety", "Safety", sections["safety"]),
        ("verdict", "People's verdict", sections["verdict"]),
        ("answers", "Answers", True),
        ("overoptimization", rewards.title if rewards else "", rewards),
        ("kl", "Reward against KL", sections["against_kl"]),
        ("curves", "Curves", sections["curves"]),
        ("data", "Data", sections["counts"]),
        ("export", "Export", sections["exported"]),
        ("next", "Next", True),
        ("terms", "Terms", True),
    ]
    return [(id, name) for id, name, there in names if there]


def final_stage(run: PipelineRun) -> StageRun | None:
    """The chain's last model that talks: the aligned one, not the reward model."""
    models = [stage for stage in run.stages if stage.made.name == "model" and stage.name not in TELLS_NUMBERS]
    return next((stage for stage in models if stage.name == "ppo"), models[-1] if models else None)


def _commands(run: PipelineRun) -> str:
    lines = []
    final = final_stage(run)
    if final is not None:
        lines += [
            f"python scripts/chat.py model={final.made}",
            f"python scripts/verify.py model={final.made}",
            f"python scripts/evaluate.py run={final.folder}",
        ]
    return "\n".join([*lines, f"tensorboard --logdir {run.folder}"])


def _commit(stages: Sequence[StageRun]) -> str:
    for stage in reversed(stages):
        code = stage.lineage.get("code") or {}
        if code.get("commit"):
            return f"{code['commit'][:12]}{' with local changes' if code.get('changed') else ''}"
    return ""


def _made(stages: Sequence[StageRun]) -> str:
    times = [str(stage.lineage["created"]) for stage in stages if stage.lineage.get("created")]
    return max(times)[:16].replace("T", " ") if times else ""


def _tokens(count: float) -> str:
    return f"{number(count)} tokens" if count else ""


def _article(name: str) -> str:
    return {"ppo": "an aligned model", "dpo": "an aligned model"}.get(name, name.replace("_", " "))


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def _resource(name: str) -> str:
    return (resources.files("lit_llm.report") / name).read_text(encoding="utf-8")
