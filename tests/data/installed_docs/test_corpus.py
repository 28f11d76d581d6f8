"""The default corpus: plain English out of docstrings, split by module, nothing shared by train and held-out."""

import json

import pytest

from lit_llm.data.installed_docs import corpus, extraction, overlap, questions
from lit_llm.data.installed_docs.docstrings import members
from lit_llm.data.installed_docs.extraction import Entry
from lit_llm.data.installed_docs.prose import first_sentence, is_sentence, parse, plain, readable
from lit_llm.errors import UserError

SOURCE = '''
"""Tools for graphs and their edges."""

def shortest_path(G, source=None, *, weight: str = "a long default value", **options):
    """Compute the shortest paths in a graph.

    There may be *more* than one :class:`~nx.Path` between ``source`` and target [1]_. This returns one.

    .. math:: \\\\frac{a}{b}

    Parameters
    ----------
    G : NetworkX graph
        The graph that is searched for paths.
    source : node, optional
        Starting node of the path. More text.

    Returns
    -------
    path : list
        A list of the nodes on the path.

    Examples
    --------
    >>> shortest_path(G)
    [1, 2]

    References
    ----------
    .. [1] Somebody, http://example.com
    """
    def inner():
        """Never seen."""

class Graph:
    """A graph that holds edges."""
    def __init__(self, nodes=()):
        pass
    def add(self, edge):
        """Adds an edge.

        Args:
            edge (tuple): The two nodes of the edge.

        Returns:
            bool: Whether the edge is new.
        """
    def _private(self):
        """Hidden from everyone."""

add_docstr(torch.absolute, r"""absolute(input) -> Tensor

Computes the absolute value of each element.
""".format(**common))
add_newdoc("numpy._core.multiarray", "dtype", ("name", """The name of the type."""))
'''


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    file = tmp_path_factory.mktemp("source") / "graphs.py"
    file.write_text(SOURCE)
    return {m.qualified: m for m in members(file, "pkg.graphs")}


def test_members_and_signatures_without_importing(found):
    assert set(found) == {
        "pkg.graphs", "pkg.graphs.shortest_path", "pkg.graphs.Graph", "pkg.graphs.Graph.add",
        "torch.absolute", "numpy.dtype.name",
    }  # fmt: skip
    assert found["pkg.graphs.shortest_path"].signature == "shortest_path(G, source=None, *, weight=..., **options)"
    assert found["pkg.graphs.Graph"].signature == "Graph(nodes=())"
    assert found["pkg.graphs.Graph.add"].signature == "add(edge)"


def test_a_docstring_in_parts(found):
    doc = parse(found["pkg.graphs.shortest_path"].doc)
    assert doc.summary == "Compute the shortest paths in a graph."
    assert doc.body == ["There may be more than one Path between source and target. This returns one."]
    assert doc.parameters == {"G": "The graph that is searched for paths.", "source": "Starting node of the path."}
    assert doc.returns == "A list of the nodes on the path."
    text = "\n".join(doc.paragraphs)
    assert ">>> shortest_path(G)" in text
    assert not any(bad in text for bad in ("frac", "----", "http", "``", "[1]_"))
    google = parse(found["pkg.graphs.Graph.add"].doc)
    assert (google.parameters, google.returns) == ({"edge": "The two nodes of the edge."}, "Whether the edge is new.")
    assert parse(found["torch.absolute"].doc).summary == "Computes the absolute value of each element."


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("Return the sum of all elements.", True),
        ("Return x.", False),
        ("Return the sum | of all elements.", False),
        ("the class is defined by.", False),
        ("2 is the number of elements.", False),
        ("Return (the sum of all elements.", False),
        ("Returns a :class:`foo` of the elements.", False),
        ("أعد مجموع كل العناصر هنا.", False),
    ],
)
def test_what_counts_as_a_sentence(text, is_one):
    assert is_sentence(text) is is_one


def test_prose_helpers():
    assert plain("See :func:`~a.b.c` or `text <http://x>`_ and **bold** ``x_y`` .") == "See c or text and bold x_y."
    assert first_sentence("Use it, e.g. here. Then stop.") == ("Use it, e.g. here.", "Then stop.")
    assert not readable("+-----+ | a | b |") and not readable("x = 3 + 4 * [2]") and readable("Plain words are fine.")


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        ("Return the sum.", "It returns the sum."),
        ("Recursively copy a tree", "It recursively copies a tree."),
        ("Pushes an item.", "It pushes an item."),
        ("A list that stores names.", "It is a list that stores names."),
        ("The map class stores all rules.", None),
        ("List of all names.", None),
        ("Whatever this may be.", None),
    ],
)
def test_summaries_are_spoken_as_sentences(summary, said):
    assert questions.spoken(summary, "It") == said


def test_there_are_enough_wordings_and_some_are_held_out():
    names = [w.name for w in questions.WORDINGS]
    held = [w for w in questions.WORDINGS if w.heldout]
    assert len(set(names)) == len(names) >= 20 and len(held) >= 5
    families = {w.name.partition("_")[0] for w in questions.WORDINGS if not w.heldout}
    assert {w.name.partition("_")[0] for w in held} <= families  # what is asked was learnt, how it is asked was not


def entry(n, module):
    name = f"do_{n}"
    summary = f"Return the {n}th {module.rpartition('.')[2]} element of the given list."
    body = (f"The {n}th element of {module} is looked up in the list. Nothing else is changed by this function.",)
    arguments = ("items", "default=None")
    parameters = {"items": f"The list of {n} things that is searched."}
    return Entry(
        module,
        name,
        "function",
        arguments,
        summary,
        body,
        parameters,
        f"The element number {n} found.",
        (summary, *body),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    entries = [entry(n, f"pkg.part{m}") for m in range(60) for n in range(6)]
    entries += [entry(n, f"torch.part{m}") for m in range(60) for n in range(2)]
    entries += [entry(3, f"other.part{m}") for m in range(60)]  # says what pkg.partM.do_3 says
    return entries, folder, corpus.write(entries, folder)


def rows(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_parts_are_disjoint_by_module_and_by_content(made):
    entries, folder, stats = made
    for part, shared in stats["overlap"].items():
        assert shared and set(shared.values()) == {0}, part
    homes = {corpus.split_of(e) for e in entries}
    assert homes == {"train", "validation", "test"}
    train = {r["source"] for r in rows(folder, "raw_text/train")}
    assert not train & {r["source"] for s in ("validation", "test") for r in rows(folder, f"raw_text/{s}")}
    assert not any(m.startswith("torch") for m in train)
    assert all(r["source"].startswith("torch.") for r in rows(folder, "domain/train"))
    asked = {r["function"] for r in rows(folder, "instructions/train")}
    assert not asked & {r["function"] for r in rows(folder, "instructions/test_functions")}
    assert {r["function"] for r in rows(folder, "instructions/test_wordings")} <= {
        f"{e.module}.{e.name}" for e in entries if corpus.split_of(e) == "train"
    }


def asked(function, question, answer):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "function": function}


def shared_parts():
    """A trained row for each way to give a held-out row away, and one that gives nothing away."""
    text = "mod\n\nReturn a name.\n\nA paragraph that is long enough to be told apart from all others."
    empty = {"train": [], "validation": [], "test": []}
    return {
        "raw_text": {**empty, "train": [{"text": text, "source": "mod"}]},
        "task_pairs": {
            "train": [{"source": "f(x)", "target": "Give.", "function": "m.f"}],
            "validation": [{"source": "g(x)", "target": "Return a name", "function": "m.g"}],
            "test": [],
        },
        "instructions": {
            "train": [asked("m.h", "What of h?", "H."), asked("m.k", "And k?", "K."), asked("m.z", "What of z?", "Z.")],
            "test_functions": [asked("m.h", "Tell of h!", "Ha.")],
            "test_wordings": [asked("m.z", "Of z?", "Z."), asked("m.k", "and K?", "Kay.")],
        },
    }


def write_parts(parts, folder):
    for part, splits in parts.items():
        (folder / part).mkdir(parents=True)
        for split, found in splits.items():
            (folder / part / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))


def test_what_gives_a_held_out_row_away_is_counted_on_the_files_and_dropped(tmp_path):
    parts = shared_parts()
    write_parts(parts, tmp_path / "before")
    assert overlap.count(tmp_path / "before", parts) == {
        "raw_text": {"test": 0, "validation": 0},
        "task_pairs": {"test": 0, "validation": 1},  # its target is a paragraph of the raw text
        "instructions": {"test_functions": 1, "test_wordings": 1},  # a function; a question
    }
    overlap.drop(parts)
    write_parts(parts, tmp_path / "after")
    found = overlap.count(tmp_path / "after", parts)
    assert [n for part in found.values() for n in part.values()] == [0] * 6
    assert "Return a name" not in parts["raw_text"]["train"][0]["text"]
    assert [row["function"] for row in parts["instructions"]["train"]] == ["m.z"]
    assert len(parts["task_pairs"]["train"]) == 1


def test_pairs_of_one_function_say_so(made):
    _, folder, _ = made
    pairs = rows(folder, "task_pairs/train")
    assert len({row["function"] for row in pairs}) < len(pairs) and all(row["function"] for row in pairs)


def test_it_is_built_where_the_system_does_not_say_which_cores_are_free(tmp_path, monkeypatch):
    (tmp_path / "m.py").write_text('def f(a):\n    """Return the value of the given list."""\n')
    monkeypatch.setattr(corpus, "_jobs", lambda: [(str(tmp_path / "m.py"), "pkg.m")])
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert (corpus.build(tmp_path / "cache", show_progress=False) / "stats.json").is_file()


def test_held_out_wordings_are_never_trained_and_answers_are_short(made):
    _, folder, _ = made
    held = {w.name for w in questions.WORDINGS if w.heldout}
    assert {r["wording"] for r in rows(folder, "instructions/test_wordings")} <= held
    for part in ("train", "validation", "test_functions"):
        for row in rows(folder, f"instructions/{part}"):
            assert not held & set(row["wording"].split("+"))
            answers = [m["content"] for m in row["messages"] if m["role"] == "assistant"]
            assert all(a.endswith(".") and len(a.split()) <= 40 for a in answers)
    assert any(len(r["messages"]) > 2 for r in rows(folder, "instructions/train"))


def test_prompts_end_with_a_question(made):
    _, folder, _ = made
    for split in ("train", "validation", "test"):
        assert all(r["messages"][-1]["role"] == "user" for r in rows(folder, f"prompts/{split}"))


def test_our_own_reader_takes_every_part(made):
    from lit_llm.data.reading import read_records

    _, folder, stats = made
    kinds = {
        "raw_text": "texts",
        "domain": "texts",
        "task_pairs": "examples",
        "instructions": "examples",
        "prompts": "prompts",
    }
    for part, kind in kinds.items():
        got = read_records(str(folder / part), kind)
        assert set(got.splits) == set(stats["parts"][part])
        assert got.counts.read == sum(s["rows"] for s in stats["parts"][part].values())
        assert not got.counts.errors


def test_files_are_read_in_other_processes_and_in_order(tmp_path):
    for n in range(5):
        (tmp_path / f"m{n}.py").write_text(f'def f{n}(a):\n    """Return the value number {n} of a."""\n')
    (tmp_path / "broken.py").write_text('def f(:\n """x"""')
    jobs = [(str(p), p.stem) for p in sorted(tmp_path.glob("*.py"))]
    steps = []
    got = extraction.extract(jobs, 2, lambda: steps.append(1))
    assert [e.qualified for e in got] == [f"m{n}.f{n}" for n in range(5)]
    assert len(steps) == 6


def test_the_folder_is_made_once_and_only_for_these_versions(tmp_path, monkeypatch):
    for n in range(40):
        text = f'def f(a):\n    """Return the value number {n} of the given list."""\n'
        (tmp_path / f"m{n}.py").write_text(text)
    monkeypatch.setattr(corpus, "_jobs", lambda: [(str(p), f"pkg.{p.stem}") for p in sorted(tmp_path.glob("m*.py"))])
    first = corpus.build(tmp_path / "cache", workers=1, show_progress=False)
    stamp = (first / "stats.json").stat().st_mtime_ns
    assert corpus.build(tmp_path / "cache", show_progress=False) == first
    assert (first / "stats.json").stat().st_mtime_ns == stamp
    assert [p.rsplit("/", 1)[1] for p in corpus.part_files("domain", tmp_path / "cache")] == [
        "test.jsonl", "train.jsonl", "validation.jsonl",
    ]  # fmt: skip
    monkeypatch.setattr(corpus, "_versions", lambda: {"python": "9.9"})
    assert corpus.build(tmp_path / "cache", workers=1, show_progress=False) != first
    with pytest.raises(UserError, match="installed/nothing"):
        corpus.part_files("nothing", tmp_path / "cache")


def test_the_declared_packages_are_requirements_of_the_project_alone():
    from importlib.metadata import PackageNotFoundError, distribution

    from packaging.requirements import Requirement

    wanted, todo = set(), [("lit-llm", "")]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in wanted:
            continue
        wanted.add((name, extra))
        try:
            needs = [Requirement(r) for r in distribution(name).requires or []]
        except PackageNotFoundError:
            continue
        for need in needs:
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                todo += [(need.name.lower().replace("_", "-"), e) for e in (need.extras or {""}) | {""}]
    if len(wanted) == 1:
        pytest.skip("the project is not installed")
    declared = {d.lower().replace("_", "-") for d in [*corpus.PACKAGES.values(), *corpus.DOMAIN.values()]}
    assert declared <= {name for name, _ in wanted}


@pytest.mark.slow
def test_the_whole_corpus_has_no_overlap(tmp_path):
    folder = corpus.build(tmp_path, show_progress=False)
    stats = json.loads((folder / "stats.json").read_text())
    assert all(n == 0 for part in stats["overlap"].values() for n in part.values())
    assert stats["parts"]["raw_text"]["train"]["bytes"] > 5_000_000
    assert stats["parts"]["instructions"]["train"]["rows"] > 10_000
