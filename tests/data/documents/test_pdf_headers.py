"""What of a PDF's edges is left out, and what stays: a line of its text is never lost."""

import pytest

from lit_llm.data.documents.reader import read
from tests.data.documents import made

BODY = ("alpha beta gamma delta", "epsilon zeta eta theta", "iota kappa lambda mu.")


def text_of(*pages):
    return read(".pdf", made.pdf(list(pages)), "auto")["text"]


def body(number):
    return [f"{number} {line}" for line in BODY]


@pytest.mark.parametrize(
    ("tops", "bottoms"),
    [
        (["Schedule 1", "Schedule 2", "Schedule 3"], None),
        (["Balance on 1 March 2024: 5 pounds", "Balance on 2 March 2024: 322 pounds"], None),
        (["4,711", "5,200"], ["Total: 5 euros", "Total: 1005 euros"]),
        (["Invoice no. 17", "Invoice no. 18", "Invoice no. 19"], ["900", "900", "900"]),
        (["2024", "2024"], ["12", "7"]),
    ],
)
def test_numbered_headings_and_amounts_stay(tops, bottoms):
    pages = []
    for number, top in enumerate(tops):
        shown = [(60, 800, 10, top), *made.lines(60, 740, body(number), leading=14)]
        pages.append([*shown, *([(60, 50, 10, bottoms[number])] if bottoms else [])])
    found = text_of(*pages).split("\n\n")
    assert [one for one in (*tops, *(bottoms or ())) if one not in found] == []


def test_lines_of_the_text_at_a_page_s_edge_stay_on_every_page():
    """As letters, forms and invoices begin: the same words, a line's step above the rest."""
    pages = []
    for number in range(3):
        texts = ["Claimant: Brown", "Dear Ms Brown,", *body(number)]
        pages.append(
            [(60, 820, 9, "Smith & Co"), *made.lines(60, 790, texts, leading=14), (290, 30, 8, str(number + 4))]
        )
    found = text_of(*pages)
    assert found.count("Claimant: Brown") == found.count("Dear Ms Brown,") == 3
    assert found.startswith("Smith & Co\n\nClaimant: Brown") and found.count("Smith & Co") == 1
    assert not any(f"\n\n{number}" in found for number in (4, 5, 6)), "the pages' own numbers"


def test_a_line_that_says_the_same_elsewhere_on_each_page_is_text():
    """As a signature does, below what each page has to say; or a heading in the text's letters on two pages."""
    ends = [[(60, 90 - 8 * number, 8, "Signed by both"), (60, 20, 7, "Model lease")] for number in range(4)]
    found = text_of(*([*made.lines(60, 740, body(number)), *end] for number, end in enumerate(ends)))
    assert found.count("Signed by both") == 4 and found.count("Model lease") == 1
    pages = [[(60, 800, 10, "What is to be paid"), *made.lines(60, 740, body(number))] for number in range(3)]
    assert text_of(*pages[:2]).count("What is to be paid") == 2
    assert text_of(*pages).count("What is to be paid") == 1


@pytest.mark.parametrize(
    "number", ["{}", "- {} -", "Page {} of 3", "Model lease - page {}", "Model lease | {}", "{} | Model lease"]
)
def test_page_numbers_are_left_out_alone_and_in_a_running_header(number):
    pages = [[*made.lines(60, 700, body(page)), (60, 30, 8, number.format(page))] for page in (1, 2, 3)]
    found = text_of(*pages)
    assert found.count("Model lease") == ("Model lease" in number) and found.count("alpha") == 3
    assert number.format(2) not in found.split("\n\n") and number.format(3) not in found.split("\n\n")


def test_a_running_footer_that_stands_first_does_not_part_a_sentence():
    ends = ("The tenant pays the rent to the landlord or to", "whom the landlord names.")
    pages = [[(60, 600, 10, end), (60, 590, 10, BODY[0]), (60, 30, 8, "Model lease")] for end in ends]
    pages[0][1] = (60, 612, 10, "It is so agreed that")
    found = text_of(*pages)
    assert found.startswith(
        "Model lease\n\nIt is so agreed that The tenant pays the rent to the landlord or to whom the"
    )
    assert found.count("Model lease") == 1
