"""What of a page of the web is its text: menus go, and nothing else."""

# ruff: noqa: E501  (markup stays in one line)

import pytest

from lit_llm.data.documents.parts import Unreadable
from lit_llm.data.documents.reader import read

MENU = '<div id="menu"><a href=a>Home</a> <a href=b>About us</a></div>'
COURT = (
    "<p>The court dismissed the appeal on 4 May 2023 and held that the notice had been served too late, number {}.</p>"
)
PROSE = "".join(COURT.format(number) for number in range(5))


def text_of(body):
    return read(".html", f"<html><body>{body}</body></html>".encode(), "auto")["text"]


@pytest.mark.parametrize("home", ["article", "main"])
@pytest.mark.parametrize(
    ("piece", "said"),
    [
        ('<div class="related-clauses"><p>Related clause 4.</p></div>', "Related clause 4."),
        ('<div class="share-capital"><p>One million euros.</p></div>', "One million euros."),
        ('<div class="signature sidebar"><p>Signed at Leeds.</p></div>', "Signed at Leeds."),
        ("<figure><figcaption>Plan of the shop.</figcaption></figure>", "Plan of the shop."),
        ("<aside><p>Practice point.</p></aside>", "Practice point."),
        ('<section id="comments"><h2>Comments on Article 5</h2><p>In writing.</p></section>', "## Comments on Article 5\n\nIn writing."),
        ("<footer><p>[1] A footnote.</p></footer>", "[1] A footnote."),
    ],
)  # fmt: skip
def test_a_page_with_one_main_element_keeps_all_its_text(home, piece, said):
    found = text_of(
        f"<nav><a href=a>Home</a></nav>{MENU}<{home}><h1>Ruling</h1>{PROSE}{piece}{PROSE}</{home}><footer>Imprint</footer>"
    )
    assert f"\n\n{said}\n\nThe court" in found
    assert not any(menu in found for menu in ("Home", "About us", "Imprint"))


@pytest.mark.parametrize(
    ("piece", "said"),
    [
        ("<dl><dt>Who pays?</dt><dd>The tenant.</dd></dl>", "Who pays?\n\nThe tenant."),
        ("<ol start=3><li>third</li><li value=7>seventh</li></ol>", "3. third\n7. seventh"),
        ("<ol type=a><li>rent</li><li>heating</li></ol>", "a. rent\n\nb. heating"),
        ("<div class=footnotes><p>[1] A footnote of the ruling.</p></div>", "[1] A footnote of the ruling."),
    ],
)
def test_a_page_that_does_not_say_what_its_text_is_keeps_what_is_within_it(piece, said):
    found = text_of(f"{MENU}<h1>Ruling</h1>{PROSE}{piece}{'' if 'notes' in piece else PROSE}")
    assert f"\n\n{said}" in found and "About us" not in found


def test_a_short_page_keeps_its_blocks_and_not_its_menu():
    table = "<table><tr><td>Copy</td><td>0.50</td></tr></table>"
    assert text_of(f"{MENU}<h1>Prices</h1>{table}<ul><li>one</li><li>two<ul><li>inner</li></ul></li></ul>") == (
        "# Prices\n\nCopy | 0.50\n\n- one\n- two\n  - inner"
    )
    hebrew = "השוכר ישלם את דמי השכירות בכל חודש."
    assert text_of(f"{MENU}<h1>חוזה</h1><p>{hebrew}</p><ul><li>סעיף</li></ul>") == f"# חוזה\n\n{hebrew}\n\n- סעיף"
    menu = "<ul><li><a href=a>Home</a></li><li><a href=b>All <b>flats</b></a></li></ul>"
    assert text_of(f"{menu}<p>See <a href=c>the law</a> of rents.</p>") == "See the law of rents."
    assert text_of("<p>It is a rule.</p><p><a href=c>Rent <b>Act</b> 1977</a></p>") == "It is a rule.\n\nRent Act 1977"


def test_a_cell_with_paragraphs_arranges_a_page_and_is_no_row():
    cells = "<td>Menu</td><td><h2>Rent</h2><p>It is 900.</p><p>It is due.</p></td>"
    assert text_of(f"<table><tr>{cells}</tr><tr><td>a</td><td>b</td></tr></table>") == (
        "Menu\n\n## Rent\n\nIt is 900.\n\nIt is due.\n\na | b"
    )


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("10<sup>3</sup> m<sup>2</sup>, 10<sup>-6</sup>", "10^3 m^2, 10^-6"),
        ("the 1<sup>st</sup> of May<sup>2</sup>", "the 1st of May2"),
        ("in 2019<sup><a href=#n>3</a></sup>", "in 2019[3]"),
    ],
)
def test_an_exponent_is_no_digit_of_its_number(written, said):
    assert text_of(f"<p>{written}</p>") == said


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("<h2><button>Who pays?</button></h2><p>He.</p><button>Send</button>", "## Who pays?\n\nHe."),
        ("<details><summary><button>More</button></summary><p>He.</p></details>", "More\n\nHe."),
        ("<pre>one<br>two\n  three<script>x</script></pre>", "one\ntwo\n  three"),
        (f"<pre>{'<b>' * 1500}deep{'</b>' * 1500}</pre>", "deep"),
        ("<li>rent<li>heating<ul><li>gas</ul>", "- rent\n- heating\n  - gas"),
        ("<p>is <math><mi>π</mi><semantics><mi>r</mi><annotation encoding='application/x-tex'>\\pi r</annotation></semantics></math>.</p>", "is $\\pi r$."),
        ("<p>is <math alttext='\\pi'><mi>π</mi></math> or <math><mi>r</mi><mn>2</mn></math>.</p>", "is $\\pi$ or r2."),
        ("<p>Two.</p><noframes><body><b>old</b></body></noframes>", "Two."),
    ],
)  # fmt: skip
def test_no_text_that_is_seen_is_lost_and_no_markup_is_text(written, said):
    assert text_of(written) == said


def test_an_empty_page_of_frames_says_where_its_text_is():
    with pytest.raises(Unreadable, match="its frames' text is in other files"):
        read(".html", b"<frameset cols='*,*'><frame src=a.html><noframes><body>x</body></noframes></frameset>", "auto")


def test_an_encoding_that_is_declared_late_holds():
    text = "يدفع المستأجر الإيجار"
    head = f"<html><head><style>{'p {}' * 5000}</style><meta charset=windows-1256></head><body><p>{text}</p>"
    assert read(".html", head.encode("cp1256"), "auto")["text"] == text
