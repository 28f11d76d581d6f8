"""``from lit_llm import ...``: every name, its type in the stub, and nothing heavy before it is asked for."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lit_llm


def test_every_name_is_what_its_module_defines():
    for name in lit_llm.__all__:
        found = getattr(lit_llm, name)
        assert found.__name__ == ("PreferenceOptimization" if name == "DPO" else name)


def test_the_stub_names_the_same():
    stub = ast.parse(Path(lit_llm.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    named = {alias.asname: node.module for node in imports for alias in node.names}
    assert set(named) | {"DPO"} == set(lit_llm.__all__)
    assert all(getattr(lit_llm, name).__module__ == module for name, module in named.items())


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AttributeError, match=r"has no Pretrainig; it has .*Pretraining"):
        _ = lit_llm.Pretrainig


def test_the_package_alone_imports_no_torch():
    code = "import lit_llm, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
