"""``scripts/export.py``: a model as a GGUF file with its Modelfile and certificate, or as sharded safetensors."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

from lit_llm.backbone.huggingface import load_model, save_model
from lit_llm.errors import UserError
from lit_llm.export.card import WORDS, card, verdict
from lit_llm.export.certificate import Certificate, can_be_measured, certify
from lit_llm.export.gguf_file import read_model, write_gguf
from lit_llm.export.huggingface_folder import shard_bytes, write_huggingface
from lit_llm.export.ollama import NONE_KNOWN, modelfile
from lit_llm.lineage.lineage import base_models
from lit_llm.model_sources.folders import folder_of
from lit_llm.model_sources.gguf_header import Quantization, gguf_package
from lit_llm.runtime.arguments import run_command
from lit_llm.runtime.atomic_files import write_json, write_text
from lit_llm.runtime.given_texts import check_texts
from lit_llm.runtime.model_folder import is_adapter
from lit_llm.runtime.node_package import missing_in
from lit_llm.text.tokenizer import load_tokenizer


@dataclass
class Export:
    """Writes a model for other engines: a GGUF file with a Modelfile and a certificate, or safetensors in shards."""

    model: Annotated[Path, "the model: a folder, FILE.gguf, installed/smollm2, hub:OWNER/NAME"]
    to: Annotated[Literal["gguf", "huggingface"], "the layout; huggingface: sharded safetensors"] = "gguf"
    quantization: Annotated[Quantization, "gguf: the type of the matrices"] = "f16"
    name: Annotated[str | None, "of the model; none: by its folder"] = None
    output: Annotated[Path | None, "the folder to write into; none: outputs/exports/NAME"] = None
    certificate: Annotated[bool, "gguf: ask every engine there is, and compare"] = True
    node_llama_cpp: Annotated[Path | None, "folder of the npm package node-llama-cpp; none: ./node_modules"] = None
    texts: Annotated[Path | None, "a text to measure the loss on, or a run's heldout/; none: this run's"] = None
    max_shard_size: Annotated[str, "huggingface: largest file, such as 500MB"] = "2GB"


def main() -> None:
    """The command line (lit-llm-export)."""
    run_command(Export, run)


def run(a: Export) -> None:
    """Prints what was written and what the certificate says; exits with 1 where it failed."""
    refuse_unread(a)
    folder = folder_of(a.model)
    name = a.name or name_of(folder)
    if not re.fullmatch(r"[\w][\w.-]{0,100}", name):
        raise UserError(f"name={name[:99]}: becomes a file's name; use up to 100 letters, digits, points and dashes")
    output = a.output or Path("outputs/exports") / name
    refuse_another_s(output, folder, a.to)
    with whole(folder, output) as place:
        if a.to == "huggingface":
            for file in write_huggingface(output, place, a.max_shard_size):
                print(file)
            return
        certificate = export_gguf(a, place, name, output, folder)
    for check in certificate.checks if certificate is not None else ():
        bound = f" (bound: {check.bound})" if check.bound else ""
        print(f"{WORDS[check.passed]:<8} {check.name}, {check.engine}: {check.value}{bound}")
    if certificate is None:
        print("Not certified: certificate=false.")
        return
    print(verdict(certificate))
    if certificate.failed:
        raise SystemExit(1)


def refuse_unread(a: Export) -> None:
    """Raises UserError for what the layout that is asked for would not read, and for a llama.cpp that is not there."""
    other = {"gguf": ("max_shard_size",), "huggingface": ("quantization", "certificate", "node_llama_cpp", "texts")}
    usual = {field.name: field.default for field in fields(Export)}
    for key in other[a.to]:
        if getattr(a, key) != usual[key]:
            layout = next(layout for layout in other if layout != a.to)
            raise UserError(f"{key}={getattr(a, key)}: is read with to={layout} alone; leave it out")
    shard_bytes(a.max_shard_size)
    for key in ("texts", "node_llama_cpp") if not a.certificate else ():
        if getattr(a, key) is not None:
            raise UserError(f"{key}={getattr(a, key)}: is the certificate's, and certificate=false; leave one out")
    if a.texts is not None:
        check_texts(a.texts)
        if a.texts.is_dir() and not can_be_measured(a.texts):
            raise UserError(f"texts={a.texts}: holds no set of documents or responses; give another folder, or a text")
    if a.node_llama_cpp is not None and (wrong := missing_in(a.node_llama_cpp)) is not None:
        raise UserError(f"node_llama_cpp={a.node_llama_cpp}: {wrong}")


def refuse_another_s(output: Path, model: Path, layout: str) -> None:
    """Raises UserError for a folder in which files of somebody else would be written over."""
    if output.exists() and not output.is_dir():
        raise UserError(f"output={output}: is a file; give a folder")
    if output.resolve() == model.resolve():  # it has a card of its own
        raise UserError(f"output={output}: is the model's own folder; give another")
    there = {path.name for path in output.iterdir()} if output.is_dir() else set()
    if layout == "huggingface" and there:
        raise UserError(f"output={output}: is not empty; give a new folder")
    exported = "Modelfile" in there and any(name.endswith(".gguf") for name in there)
    if not exported and (own := there & {"README.md", "Modelfile", "certificate.json"}):
        raise UserError(f"output={output}: holds {', '.join(sorted(own))} that no export wrote; give another folder")


@contextmanager
def whole(folder: Path, output: Path) -> Iterator[Path]:
    """The folder of a whole model: ``folder``, or for as long as the block lasts one beside ``output`` in which the
    adapter of ``folder`` is merged into its base, in the types that the base is stored in."""
    if not is_adapter(folder):
        yield folder
        return
    model, tokenizer = load_model(folder, head="auto"), load_tokenizer(folder)
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".merged-", dir=output.parent) as made:
        place = Path(made) / "model"  # as in a run, whose held-out sets lie beside it
        save_model(place, model, tokenizer)
        if (folder / "README.md").is_file():
            shutil.copy(folder / "README.md", place)
        if (folder.parent / "heldout").is_dir():
            (place.parent / "heldout").symlink_to((folder.parent / "heldout").resolve())
        yield place


def export_gguf(a: Export, folder: Path, name: str, output: Path, named: Path) -> Certificate | None:
    """Writes the file, Modelfile, certificate and card into ``output``: of the whole model in ``folder``, which the
    user ``named`` so. Raises UserError as ``write_gguf``."""
    gguf_package()
    model, tokenizer = read_model(folder), load_tokenizer(folder)
    file = output / f"{name}-{a.quantization.upper()}.gguf"
    bases = base_models(named)
    licence = {"license": bases[0]["license"]} if bases and bases[0]["license"] != "unknown" else {}
    write_gguf(file, model, tokenizer, a.quantization, {"name": name, **licence})
    for stale in ("certificate.json", "README.md"):  # they are of the file before
        (output / stale).unlink(missing_ok=True)
    made = modelfile(file.name, tokenizer)
    write_text(output / "Modelfile", made)
    print(f"{file}: {file.stat().st_size:,} bytes; Modelfile for ollama beside it")
    if NONE_KNOWN in made:
        print(f"Modelfile: {NONE_KNOWN}")
    if model.context < model.config.max_positions:
        print(
            f"its context is the sliding window, {model.context} tokens: llama.cpp has no window in this architecture"
        )
    found = None
    if a.certificate:
        found = certify(file, model, tokenizer, a.quantization, a.node_llama_cpp, a.texts)
        found.model = str(named)
        write_json(output / "certificate.json", found.as_json(), indent=2)
    write_text(output / "README.md", card(named, found, file.name))
    return found


def name_of(folder: Path) -> str:
    """A folder's own name; of a run's ``model/`` that of stage and run."""
    place = folder.resolve()
    parts = [place.parent.parent.name, place.parent.name] if place.name == "model" else [place.name]
    return re.sub(r"[^\w.-]+", "-", "-".join(filter(None, parts))).strip("-.") or "model"
