"""What a run's lineage says of the places that its data came from."""

from types import SimpleNamespace

from lit_llm.config.command_line import compose
from lit_llm.data import stores
from lit_llm.data.stores import Remote
from lit_llm.lineage.model_card import _data
from lit_llm.training.finalize import data_elsewhere, data_files


def test_files_of_stores_and_the_hub_are_told_of_with_what_is_known_of_them(tmp_path, monkeypatch):
    monkeypatch.setenv("SIGNED", "https://host/b.jsonl?X-Amz-Signature=0123456789")
    signed, plain = "https://host/b.jsonl?X-Amz-Signature=0123456789", "s3://texts/a.jsonl"
    known = {signed: Remote(signed, 9, "t2"), plain: Remote(plain, 7, "t1")}
    monkeypatch.setattr(stores._State, "known", known)
    (tmp_path / "c.jsonl").touch()
    files = [plain, signed, "hub:owner/name", str(tmp_path / "c.jsonl")]
    parts = SimpleNamespace(cfg=compose("train", []), data=SimpleNamespace(files=lambda: files))
    assert data_files(parts) == [str(tmp_path / "c.jsonl")]
    found = data_elsewhere(parts)
    assert found == [
        {"place": plain, "bytes": 7, "tag": "t1"},
        {"place": "https://host/b.jsonl?...", "bytes": 9, "tag": "t2"},
        {"place": "hub:owner/name"},
    ]
    parts.cfg.data.path = "${oc.env:SIGNED}"
    assert data_elsewhere(parts)[1]["place"] == "${oc.env:SIGNED}", "as the configuration says it"
    card = "\n".join(_data({"elsewhere": found}))
    assert "- s3://texts/a.jsonl" in card and "0123456789" not in card
