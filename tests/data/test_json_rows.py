"""Rows of JSON: an object with a key twice is found in one walk, whatever the file holds besides."""

from lit_llm.data import json_rows


def test_many_objects_with_a_key_twice_are_found_in_one_walk(tmp_path, monkeypatch):
    rows = ",".join(
        '{"text": "a", "tags": [{"x": 1, "x": 2}]}' if n % 2 else f'{{"text": "{n}"}}' for n in range(2_000)
    )
    (tmp_path / "a.json").write_text(f"[{rows}]")
    walked = []
    walk = json_rows._first_twice
    monkeypatch.setattr(json_rows, "_first_twice", lambda value: (walked.append(1), walk(value))[1])
    found = list(json_rows.read_json(str(tmp_path / "a.json"), "utf-8"))
    assert found[0] == (1, {"text": "0"}) and "a.json:item 2: an object has the key 'x' twice" in str(found[1])
    assert sum(getattr(row, "reason", "") == "duplicate_key" for row in found) == 1_000
    assert len(walked) < 5 * len(found)  # each part of each row once
