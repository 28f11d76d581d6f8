"""Arrow files and folders of save_to_disk, written by pyarrow as the datasets package lays them out."""

import json
import shutil

import pytest

from lit_llm.data.file_rows import read_rows
from lit_llm.data.reading import read_records
from lit_llm.data.row_errors import RowError
from lit_llm.data.sources import resolve
from lit_llm.errors import UserError

pyarrow = pytest.importorskip("pyarrow")
feather = pytest.importorskip("pyarrow.feather")

ROWS = [{"messages": [{"role": "user", "content": f"من {n}?"}], "n": n} for n in range(3000)]


def save(rows, file, how="stream"):
    """A stream as ``save_to_disk`` writes it, or a file, in batches of 1,000."""
    table = pyarrow.Table.from_pylist(rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    writer = {"stream": pyarrow.ipc.new_stream, "file": pyarrow.ipc.new_file}[how]
    with pyarrow.OSFile(str(file), "wb") as sink, writer(sink, table.schema) as out:
        out.write_table(table, max_chunksize=1000)
    return file


def saved(folder, rows, split="train"):
    """A folder of ``Dataset.save_to_disk``, with a cache of ``map`` beside its data."""
    save(rows, folder / "data-00000-of-00001.arrow")
    save([{"text": "computed"}], folder / "cache-0123456789abcdef.arrow")
    state = {
        "_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": "0123456789abcdef",
        "_format_columns": None, "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False,
        "_split": split,
    }  # fmt: skip
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"citation": "", "features": {}}))
    return folder


@pytest.mark.parametrize("how", ["stream", "file"])
def test_a_file_of_either_format_gives_its_rows(tmp_path, how):
    file = save(ROWS, tmp_path / "a.arrow", how)
    found = list(read_rows([str(file)]))
    assert [row.value for row in found] == ROWS
    assert found[2999].where == f"{file}:row 3000"


@pytest.mark.parametrize("packed", [None, "lz4", "zstd"])
def test_feather(tmp_path, packed):
    feather.write_feather(
        pyarrow.table({"text": ["a", "ب"]}), tmp_path / "a.feather", compression=packed or "uncompressed"
    )
    assert [row.value for row in read_rows([str(tmp_path / "a.feather")])] == [{"text": "a"}, {"text": "ب"}]


def test_a_saved_data_set_is_the_files_that_its_state_names(tmp_path):
    folder, ignored = saved(tmp_path / "set", [{"text": f"text {n}"} for n in range(40)]), []
    assert resolve(str(folder), ignored=ignored) == {"all": [str(folder / "data-00000-of-00001.arrow")]}
    assert ignored == [str(folder / "cache-0123456789abcdef.arrow")]
    records = read_records(str(folder), "texts")
    assert records.counts.used == 40
    assert records.counts.overview.kinds[".arrow"].unread == {"a cache of datasets": 1}
    assert records.counts.overview.warnings() == []
    assert records["test"][0].source.startswith(f"{folder}/data-00000-of-00001.arrow:row ")


def test_the_splits_of_a_saved_dict(tmp_path):
    for split in ("train_sft", "test_sft"):
        saved(tmp_path / split, [{"text": split}], split)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train_sft", "test_sft"]}')
    ignored = []
    splits = resolve(str(tmp_path), ignored=ignored)
    assert {name: [row.value["text"] for row in read_rows(files)] for name, files in splits.items()} == {
        "train": ["train_sft"], "test_sft": ["test_sft"],
    }  # fmt: skip
    assert {file.rpartition("/")[2] for file in ignored} == {"cache-0123456789abcdef.arrow"}


def test_what_cannot_be_read_is_named(tmp_path):
    whole = save(ROWS, tmp_path / "a.arrow").read_bytes()
    for name, data in (
        ("cut.arrow", whole[: len(whole) // 2]),
        ("none.arrow", b"not arrow at all"),
        ("e.feather", b""),
        ("1.feather", b"FEA1...."),
    ):
        (tmp_path / name).write_bytes(data)
        *rows, bad = read_rows([str(tmp_path / name)])
        reason, said = "damaged_file", "Feather" if name[0] == "1" else "not a readable Arrow file"
        reason, said = (reason, said) if data else ("empty_file", "empty: it has no byte")
        assert isinstance(bad, RowError) and bad.reason == reason, name
        assert f"{name}: {said}" in str(bad)
        assert all(row.value in ROWS for row in rows)
    folder = saved(tmp_path / "set", ROWS[:2])
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"_indices_data_files": [{"filename": "indices.arrow"}]}))
    with pytest.raises(UserError, match="keeps apart which of its rows count"):
        resolve(str(folder))
    shutil.rmtree(folder)
    saved(folder, ROWS[:2])
    (folder / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(UserError, match=r"names data-00000-of-00001\.arrow, which is not in the folder"):
        resolve(str(folder))
