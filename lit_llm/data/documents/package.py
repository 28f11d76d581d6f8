"""Zip files of XML, which most kinds of document are: opened within bounds, parsed without entities or a net."""

from __future__ import annotations

import io
import posixpath
import zipfile
import zlib
from typing import Any
from urllib.parse import unquote

from lxml import etree

from lit_llm.data.compression import MAX_RATIO, WINDOW
from lit_llm.data.documents.parts import Unreadable, broken
from lit_llm.runtime.counted import counted

MAX_MEMBERS = 50_000
MAX_UNPACKED = 2 * 2**30  # bytes of all members together
MAX_MEMBER = 512 * 2**20  # bytes of one
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


class Package:
    """The members of a document that is a zip file."""

    def __init__(self, data: bytes) -> None:
        """Raises Unreadable: encrypted, broken, or more comes out of it than any document packs into so few bytes."""
        if data.startswith(_OLE):
            if "EncryptedPackage".encode("utf-16-le") in data:
                raise Unreadable("encrypted", "encrypted; save it without its password")
            raise Unreadable("broken_document", "a file of Office before 2007 under a new name; save it anew")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
            infos = self._zip.infolist()
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
            cut = data.startswith(b"PK\x03\x04") and isinstance(error, zipfile.BadZipFile)
            raise broken("its end is not there, as of a copy that was cut off" if cut else error) from None
        size = sum(info.file_size for info in infos)
        if len(infos) > MAX_MEMBERS or size > MAX_UNPACKED or (size > WINDOW and size > MAX_RATIO * len(data)):
            raise Unreadable(
                "document_bomb",
                f"{size:,} bytes in {counted(len(infos), 'member')} come out of {len(data):,}: no document, a bomb",
            )
        self.names = {info.filename: info for info in infos}

    def read(self, name: str, most: int = MAX_MEMBER + 1) -> bytes:
        """A member's bytes, or the first of them; none where there is no such member."""
        info = self.names.get(name)
        if info is None:
            return b""
        if info.flag_bits & 1:
            raise Unreadable("encrypted", "encrypted; save it without its password")
        if info.file_size > MAX_MEMBER:
            raise Unreadable("document_bomb", f"{name} has {info.file_size:,} bytes, more than {MAX_MEMBER >> 20} MiB")
        try:
            with self._zip.open(info) as member:
                data = member.read(most)
        except (zipfile.BadZipFile, OSError, EOFError, zlib.error, NotImplementedError, ValueError) as error:
            raise broken(error) from None
        if len(data) > MAX_MEMBER:
            raise Unreadable("document_bomb", f"{name} has more than {MAX_MEMBER >> 20} MiB")
        return data

    def xml(self, name: str) -> Any:
        """A member's root element, or None where there is no such member."""
        data = self.read(name)
        return parse_xml(data, name) if data else None

    def relations(self, name: str) -> dict[str, tuple[str, str]]:
        """What a member of an Office document refers to inside of it: {id: (kind, member)}."""
        folder, file = posixpath.split(name)
        root = self.xml(posixpath.join(folder, "_rels", f"{file}.rels"))
        found: dict[str, tuple[str, str]] = {}
        for one in [] if root is None else root:
            if isinstance(one.tag, str) and one.get("TargetMode") != "External":
                kind = (one.get("Type") or "").rpartition("/")[2]
                found[one.get("Id") or ""] = (kind, inside(folder, one.get("Target") or ""))
        return found


def inside(folder: str, target: str) -> str:
    """The member that a member of ``folder`` calls ``target``."""
    target = unquote(target.partition("#")[0])
    return target.lstrip("/") if target.startswith("/") else posixpath.normpath(posixpath.join(folder, target))


def parse_xml(data: bytes, name: str) -> Any:
    """The root element. Entities are not expanded, nothing is fetched, and a document that declares any is refused."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        if "depth" in str(error).lower():
            raise Unreadable("document_bomb", f"{name} is nested too deep") from None
        if "entit" in str(error).lower():
            raise Unreadable("document_bomb", f"{name} declares entities, as bombs do") from None
        raise broken(error) from None
    found = root.getroottree().docinfo.internalDTD
    if found is not None and any(True for _ in found.iterentities()):
        raise Unreadable("document_bomb", f"{name} declares entities, as bombs do")
    return root


def local(element: Any) -> str:
    """An element's name without its namespace; "" for comments, instructions and entities."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def attribute(element: Any, name: str) -> str | None:
    """An attribute by its name, whatever its namespace."""
    for key, value in element.attrib.items():
        if key.rpartition("}")[2] == name:
            return str(value)
    return None


def child(element: Any, *path: str) -> Any:
    """The first descendant down a path of names without their namespaces, or None."""
    for name in path:
        element = next((one for one in element if local(one) == name), None) if element is not None else None
    return element
