"""What counts as the user's own code: in every layout in which packages are installed, only what the user writes."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lit_llm.lineage import code_hash

ROOT = Path(code_hash.__file__).parents[2]


def big(folder, name="big_library"):
    """A package of two modules, as a library is."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(f"from {name} import inner\n")
    (folder / name / "inner.py").write_text("x = 1\n")
    return folder


def own(folder, library="big_library"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my_rewards.py").write_text(f"import {library}\nfrom my_words import y\n")
    (folder / "my_words.py").write_text("y = 1\n")
    return folder


def reached(*search_path):
    """The modules whose code counts beside this package's own, in a process with this search path."""
    program = "import json\nfrom lit_llm.lineage import code_hash\ncode_hash.ALWAYS = ()\n"
    program += "print(json.dumps(sorted(code_hash.code_hashes({'reward': {'_target_': 'my_rewards.f'}}))))"
    paths = ":".join(map(str, [*search_path, ROOT]))
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": paths, "PATH": "/usr/bin"}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


OWN = ["my_rewards", "my_words"]


@pytest.mark.parametrize(
    "layout",
    [
        "venv/lib/python3.11/site-packages",
        "usr/lib/python3/dist-packages",
    ],
)
def test_a_folder_for_installed_packages_holds_none_of_the_users_code(tmp_path, layout):
    assert reached(own(tmp_path / "work"), big(tmp_path / layout)) == OWN


def test_what_pip_put_into_a_target_folder_is_installed_and_what_lies_there_besides_is_not(tmp_path):
    target = big(tmp_path / "target")
    assert reached(own(tmp_path / "work"), target) == ["big_library", "big_library.inner", *OWN]
    (target / "big_library-1.0.dist-info").mkdir()
    record = "big_library/__init__.py,,\nbig_library/inner.py,sha256=abc,7\nbig_library-1.0.dist-info/RECORD,,\n"
    (target / "big_library-1.0.dist-info/RECORD").write_text(record)
    assert reached(own(tmp_path / "work"), target) == OWN
    assert reached(own(target), target) == OWN


def test_a_folder_that_a_pth_file_adds_is_installed_and_an_editable_project_is_not(tmp_path):
    site, elsewhere = tmp_path / "lib/site-packages", big(tmp_path / "elsewhere")
    site.mkdir(parents=True)
    (site / "more.pth").write_text(f"# a comment\nimport sys\n{elsewhere}\n")
    assert reached(own(tmp_path / "work"), site, elsewhere) == OWN
    information = site / "big_library-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Name: big-library\nVersion: 1.0\n")
    editable = {"url": f"file://{elsewhere}", "dir_info": {"editable": True}}
    (information / "direct_url.json").write_text(json.dumps(editable))
    assert reached(own(tmp_path / "work"), site, elsewhere) == ["big_library", "big_library.inner", *OWN]


def test_an_environment_inside_an_editable_project_holds_none_of_the_users_code(tmp_path):
    """``make`` puts .venv into the project's own folder."""
    project = own(tmp_path / "project")
    packages = big(project / ".venv/lib/python3.11/site-packages")
    information = packages / "project-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Name: project\nVersion: 1.0\n")
    editable = {"url": f"file://{project}", "dir_info": {"editable": True}}
    (information / "direct_url.json").write_text(json.dumps(editable))
    assert reached(project, packages) == OWN


def test_links_into_a_store_of_packages_are_installed(tmp_path):
    store, site = big(tmp_path / "store/abc"), tmp_path / "lib/site-packages"
    site.mkdir(parents=True)
    (site / "big_library").symlink_to(store / "big_library")
    assert reached(own(tmp_path / "work"), site) == OWN


def test_a_library_in_a_zip_file_is_not_followed_and_own_code_in_one_counts_as_the_file(tmp_path):
    def packed(folder, name):
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            for path in folder.rglob("*.py"):
                file.write(path, path.relative_to(folder))
        return tmp_path / name

    library = packed(big(tmp_path / "a"), "library.zip")
    assert reached(own(tmp_path / "work"), library) == OWN
    assert reached(packed(own(tmp_path / "b"), "own.zip"), library) == ["my_rewards"]


def test_torch_is_no_code_of_the_users_wherever_it_lies(tmp_path):
    """Built from source, or copied without its metadata: nothing says that it was installed."""
    fake = big(tmp_path / "sources", "torch")
    assert reached(fake, own(tmp_path / "work", "torch")) == OWN


@pytest.fixture
def hashed(tmp_path, monkeypatch):
    """hashed(source): the hash of a module of the user's with this source."""
    file = tmp_path / "m.py"
    monkeypatch.setattr(code_hash, "module_file", lambda _: file)

    def of(source):
        file.write_text(source)
        code_hash._hash.cache_clear()
        return code_hash._hash("m")

    yield of
    code_hash._hash.cache_clear()


READ = """
import logging
log = logging.getLogger(__name__)
def f(x):
    '{doc}'
    if x < 0:
        raise UserError(f"{text}: {{x}}") from None
    log.warning("{text} %s", {logged})
    return {value}
"""


def test_the_hash_sees_what_is_computed_and_not_what_is_only_read(hashed):
    usual = {"doc": "Doc.", "text": "wrong", "logged": "x", "value": "x + 1"}
    first = hashed(READ.format(**usual))
    assert hashed("# a comment\n" + READ.format(**usual | {"doc": "Other.", "text": "must be 0 or more"})) == first
    assert hashed(READ.format(**usual | {"value": "x + 2"})) != first
    assert hashed(READ.format(**usual | {"logged": "g(x)"})) != first, "what is called for a message may do something"
    assert hashed(READ.format(**usual).replace("x < 0", "x < 1")) != first


def test_texts_that_are_computed_with_count(hashed):
    assert hashed("TEMPLATE = 'a'\n") != hashed("TEMPLATE = 'b'\n")
    assert hashed("x = f('a')\n") != hashed("x = f('b')\n")


def test_rooms_that_check_start_and_show_runs_do_not_count():
    named = {"stage": "lit_llm.stages.ppo.PPO", "optimizer": "lit_llm.optim.adamw.adamw"}
    found = code_hash.code_hashes(named)
    assert {"lit_llm.stages.ppo", "lit_llm.objectives.policy", "lit_llm.training.train"} <= set(found)
    rooms = {name.split(".")[1] for name in found if name.count(".") > 1}
    assert not {"config", "lineage", "report", "pipeline"} & rooms
    assert {"stages", "backbone", "objectives", "optim", "runtime", "training", "data", "text"} <= rooms


def test_what_is_called_for_a_text_counts_and_no_other_call_s_words_are_left_out(hashed):
    log = "import logging\nlog = logging.getLogger()\n"
    for one, other in (
        ("x = MeanSquaredError('sum')\n", "x = MeanSquaredError('mean')\n"),
        ("warnings.simplefilter('ignore')\n", "warnings.simplefilter('error')\n"),
        ("log.get('reward')\n", "log.get('length')\n"),
        (log + "log.info(f'{next(rows)}')\n", log + "log.info('x')\n"),
        (log + "log.info('a' + str(next(rows)))\n", log + "log.info('a')\n"),
    ):
        assert hashed(one) != hashed(other), one
    assert hashed(log + "log.info('a' + f'b {x}')\n") == hashed(log + "log.info('c' + f'd {x}')\n")
    assert hashed("raise UserError('a' if x else 'b')\n") == hashed("raise UserError('c' if x else 'd')\n")


def test_the_package_s_own_names_are_followed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in (
        ("by_name", "from lit_llm import ExactAnswer\n"),
        ("by_home", "from lit_llm.rewards.verifiers import ExactAnswer\n"),
    ):
        (tmp_path / f"{name}.py").write_text(text)
        assert "lit_llm.rewards.verifiers" in code_hash.code_hashes({"reward": {"_target_": f"{name}.Reward"}})
