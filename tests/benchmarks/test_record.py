"""What a race found is compared with the best rival, and written so that it is read back the same."""

from dataclasses import replace

import pytest
from benchmarks.race import Result
from benchmarks.record import Goal, Record, check_writable, load

from lit_llm.errors import UserError

RESULTS = [
    Result("here", (10.0, 40.0, 30.0), peak_gb=2.0, numbers={"loss": 1.5}),
    Result("peer", (5.0, 10.0, 10.0), peak_gb=4.0),
    Result("slow peer", (1.0, 1.0, 1.0), peak_gb=2.5),
]
GOALS = [
    Goal("a step", "here", ["slow peer", "peer", "absent"], wanted=2.5),
    Goal("its memory", "here", ["slow peer", "peer"], wanted=0.7, of="memory"),
    Goal("against nobody", "here", ["absent"], wanted=1.0),
]
TABLE = [["part", "loss"], ["none", "1.5"]]
RECORD = Record("training", "tokens", ["two cores"], RESULTS, GOALS, notes=["matmuls alone: 50"], table=TABLE)


def test_the_rival_is_the_best_one_and_the_rounds_are_paired():
    speed, memory = RECORD.comparisons()
    assert (speed.rival, speed.ratio, speed.low, speed.high, speed.met) == ("peer", 3.0, 2.0, 4.0, True)
    assert (memory.rival, memory.ratio, memory.met) == ("slow peer", 0.8, False)


def test_the_fastest_of_ours_stands_for_its_memory_too():
    small = Result("here small", (1.0, 2.0, 2.0), peak_gb=0.5)
    goals = [Goal("any", ["absent", "here small", "here"], ["peer"], of=of) for of in ("speed", "memory")]
    speed, memory = replace(RECORD, results=[small, *RESULTS], goals=goals).comparisons()
    assert (speed.ours, speed.ratio, memory.ours, memory.ratio) == ("here", 3.0, "here", 0.5)


def test_what_an_earlier_goal_says_is_not_said_again():
    again = [Goal("again", "here", ["peer"]), Goal("more", "here", ["peer"], wanted=9.0), Goal("new", "peer", ["here"])]
    texts = [each.text for each in replace(RECORD, goals=[*GOALS[:2], *again, *GOALS[:1]]).comparisons()]
    assert texts == ["a step", "its memory", "more", "new"]


def test_a_record_names_files_without_their_folders(tmp_path):
    replace(RECORD, settings={"text": tmp_path / "a.txt", "rounds": 5}).save(tmp_path / "record.json")
    assert load(tmp_path / "record.json").settings == {"text": "a.txt", "rounds": 5}


def test_ratios_come_first_and_a_missed_goal_says_so():
    lines = list(RECORD.lines())
    assert lines[:4] == [
        "two cores",
        "",
        "a step: here is 3.00 times as fast as peer (2.00 to 4.00; goal 2.5, met; 3 rounds only, 5 are wanted)",
        "its memory: here takes 0.80 times the memory of slow peer; goal 0.7, missed; 3 rounds only, 5 are wanted",
    ]
    assert lines[-2:] == ["part  loss", "none   1.5"]
    lines = lines[:-3]
    assert lines[5].split()[:2] == ["here", "30"] and "loss 1.5" in lines[5] and lines[-1] == "matmuls alone: 50"


def test_few_rounds_are_few_and_seeds_count_otherwise():
    (enough, *_) = replace(RECORD, work="to_loss").comparisons()
    assert enough.few == "" and next(RECORD.comparisons()).few == "3 rounds only, 5 are wanted"


def test_where_nothing_can_be_written_is_known_beforehand(tmp_path):
    check_writable(tmp_path / "new/x.json")
    assert not (tmp_path / "new/x.json").exists()
    for file in (tmp_path, tmp_path / "new"):
        with pytest.raises(UserError, match=rf"json={file}: is a folder; name a file in it: json={file}/NAME.json"):
            check_writable(file)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"json=.*cannot be written"):
        check_writable(tmp_path / "file/x.json")
    with pytest.raises(UserError, match=r"json=.*cannot be written"):
        RECORD.save(tmp_path)


def test_what_is_written_is_read_back(tmp_path):
    RECORD.save(tmp_path / "folder/one.json")
    assert load(tmp_path / "folder/one.json") == RECORD


def test_another_file_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"work": "training"}')
    for name in ("x.json", "absent.json"):
        with pytest.raises(UserError, match=f"{name}: is no record of a benchmark"):
            load(tmp_path / name)
