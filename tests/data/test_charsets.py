"""The encoding of a text that does not say it."""

import pytest

from lit_llm.data.charsets import decoded

ENGLISH = "This lease is made between Brown Ltd and Green & Sons. {} Either party may end it in writing. "


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *((ENGLISH.format(one), "cp1252") for one in (
            "The rent is £1,250 a month.", "See § 5 and § 6.", "© 2020 Smith", "At 20° or more, ½ of the costs, ±5%.",
            "Either «tenant» pays.", "It costs ¥5,000 – or €40.", "“The tenant” pays – the landlord’s costs.",
            "The café owner pays £250, ½ of it, § 4.",
        )),
        ("½ of the costs, ±5%", "cp1252"),
        ("Der Mieter zahlt. Für Schäden haftet er. Schöne Grüße!", "cp850"),
        ("Der Mieter zahlt. Für Schäden haftet er. Schöne Grüße!", "cp1252"),
        ("L'élève a payé son loyer à l'échéance, près du château.", "cp850"),
        ("Umowa została zawarta między stronami; najemca płaci czynsz.", "cp1250"),
        ("賃借人は毎月末日までに賃料を支払う。" * 3, "cp932"),
        ("承租人应当按照约定的期限支付租金。" * 3, "gb18030"),
        ("Договор аренды заключён между сторонами. " * 3, "cp1251"),
    ],
)  # fmt: skip
def test_a_text_is_read_in_its_encoding(text, encoding):
    assert decoded(text.encode(encoding), "auto").text == text


def test_german_of_dos_is_no_arabic():
    text = "Müller wohnt in der Königstraße für 900 Mark, süß. " * 6
    assert decoded(text.encode("cp850"), "auto") == (text, "cp850")
