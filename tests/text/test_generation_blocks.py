"""A template without its generation blocks writes what transformers writes with them."""

import json

import pytest

from lit_llm.records import Message
from lit_llm.text.bpe import train_bpe
from lit_llm.text.chat import ChatTemplate
from lit_llm.text.tokenizer import load_tokenizer

BLOCKS = {
    "bare": "{% for m in messages %}{{ m.role }}: {% generation %}{{ m.content }}{% endgeneration %}!{% endfor %}",
    "cut": "{%- for m in messages -%}\n {% generation -%} {{ m.content }} \n{%- endgeneration %} !{% endfor %}",
    "lines": "{% for m in messages %}\n  {% generation %}\n  {{ m.content }}\n  {% endgeneration %}\n!{% endfor %}\n",
    "kept": "{% for m in messages %}\n  {%+ generation %}\n  {{ m.content }}\n  {%+ endgeneration +%}\n!{% endfor %}",
    "narrow": "{% for m in messages %}{%generation%}{{ m.content }}{%endgeneration%}!{% endfor %}",
}
ASKED = [Message("user", "q"), Message("assistant", " a\n"), Message("user", "\u0645\u0631\u062d\u0628\u0627")]


@pytest.mark.parametrize("template", BLOCKS.values(), ids=BLOCKS)
def test_it_writes_what_transformers_writes_with_them(template):
    theirs = pytest.importorskip("transformers.utils.chat_template_utils")
    conversation = [{"role": each.role, "content": each.content} for each in ASKED]
    (expected,), _ = theirs.render_jinja_template([conversation], chat_template=template)
    ours = ChatTemplate(template)
    assert "generation %}" not in ours.source and "generation%}" not in ours.source
    assert ours.render(ASKED) == expected


def test_no_file_of_a_folder_holds_one(tmp_path):
    """llama.cpp's own Jinja fails on it; ollama's converter reads tokenizer_config.json alone."""
    train_bpe(["the cat sat on the mat. " * 20], 300, show_progress=False).save(tmp_path / "given")
    (tmp_path / "given/chat_template.jinja").write_text(BLOCKS["bare"])
    load_tokenizer(tmp_path / "given").save(tmp_path / "saved")
    template = (tmp_path / "saved/chat_template.jinja").read_text()
    assert "m.content" in template and "generation" not in template
    assert json.loads((tmp_path / "saved/tokenizer_config.json").read_text())["chat_template"] == template
    again = load_tokenizer(tmp_path / "saved")
    assert again.fingerprint() == load_tokenizer(tmp_path / "given").fingerprint()
