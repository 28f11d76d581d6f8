"""Items that share a function, a prompt or a module are not counted as independent."""

import numpy as np

from lit_llm.data.formats import text
from lit_llm.evaluation.scores import Scores, clusters_of, measured
from lit_llm.records import Document, Example, Heldout, Message


def of_modules(modules, each):
    items = tuple(text({"text": f"{m} {n}", "source": f"m{m}"}, "f:1") for m in range(modules) for n in range(each))
    return Heldout("general", "documents", items)


def test_documents_of_one_module_are_one_cluster_unless_there_are_too_few_modules():
    many, few = of_modules(20, 3), of_modules(2, 3)
    assert len(set(clusters_of(many, range(60)).values())) == 20
    assert len(set(clusters_of(few, range(6)).values())) == 6
    untold = Heldout("general", "documents", (Document("a"), Document("b")))
    assert clusters_of(untold, range(2)) == {0: "0", 1: "1"}


def test_the_error_does_not_shrink_when_documents_repeat_their_module():
    values = np.repeat(np.arange(20.0), 3)

    def error(heldout):
        items = {"bits_per_byte": measured(range(60), values)}
        return Scores("general", "documents", items, clusters_of(heldout, range(60))).summary["bits_per_byte"].se

    alone = Heldout("general", "documents", tuple(Document(str(n)) for n in range(60)))
    assert error(of_modules(20, 3)) > 1.6 * error(alone)


def test_pairs_of_one_function_are_one_cluster():
    turns = (Message("user", "q"), Message("assistant", "a"))
    items = tuple(Example(turns, "f:1", {"function": name}) for name in ("f", "f", "g"))
    assert clusters_of(Heldout("task_pairs", "responses", items), range(3)) == {0: "f", 1: "f", 2: "g"}
