"""Documents that tests make: PDF, EPUB, OpenDocument and PowerPoint files by hand, from as little as a reader needs."""

# ruff: noqa: E501  (markup stays in one line)

from __future__ import annotations

import io
import re
import zipfile
import zlib


def pdf(pages, *, width=595, height=842, image=False, trailer=""):
    """A PDF of pages, each a list of (x, y, size, text). Text beyond Latin-1 is in a font with a map of letters, and is
    shown glyph by glyph from left to right, as programs write it; every glyph is half as wide as it is high."""
    beyond = [text for page in pages for *_, text in page if any(ord(letter) > 255 for letter in text)]
    letters = sorted(set("".join(beyond)))
    codes = {letter: number for number, letter in enumerate(letters, start=1)}
    mapped = "\n".join(f"<{code:04x}> <{letter.encode('utf-16-be').hex()}>" for letter, code in codes.items())
    cmap = f"begincmap 1 begincodespacerange <0000> <ffff> endcodespacerange {len(codes)} beginbfchar\n{mapped}\nendbfchar endcmap"
    objects = {
        3: "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        4: "<< /Type /Font /Subtype /Type0 /BaseFont /Made /Encoding /Identity-H /ToUnicode 6 0 R /DescendantFonts [5 0 R] >>",
        5: "<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Made /DW 500 /FontDescriptor 8 0 R >>",
        6: stream(cmap.encode()),
        7: stream(
            b"\0" * 12, "/Type /XObject /Subtype /Image /Width 2 /Height 2 /BitsPerComponent 8 /ColorSpace /DeviceRGB"
        ),
        8: "<< /Type /FontDescriptor /FontName /Made /Flags 4 >>",
    }
    kids = []
    for number, page in enumerate(pages):
        shown = [b"q 500 0 0 700 0 0 cm /Im Do Q"] if image else []
        for x, y, size, text in page:
            if text in beyond:
                glyphs = "".join(f"{codes[letter]:04x}" for letter in text)
                assert " " not in text, "a word at a time"
                shown.append(f"BT /F2 {size} Tf {x} {y} Td <{glyphs}> Tj ET".encode())
            else:
                said = text.encode("cp1252").replace(b"\\", rb"\\").replace(b"(", rb"\(").replace(b")", rb"\)")
                shown.append(f"BT /F1 {size} Tf {x} {y} Td (".encode() + said + b") Tj ET")
        page_id, content_id = 20 + 2 * number, 21 + 2 * number
        kids.append(f"{page_id} 0 R")
        objects[page_id] = (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width} {height}] /Contents {content_id} 0 R /Resources "
            "<< /Font << /F1 3 0 R /F2 4 0 R >> /XObject << /Im 7 0 R >> >> >>"
        )
        objects[content_id] = stream(b"\n".join(shown))
    objects |= {
        1: "<< /Type /Catalog /Pages 2 0 R >>",
        2: f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>",
    }
    data, places = bytearray(b"%PDF-1.7\n"), {}
    for number, content in sorted(objects.items()):
        places[number] = len(data)
        body = content if isinstance(content, bytes) else content.encode("latin-1")
        data += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
    begin = len(data)
    data += f"xref\n0 {max(objects) + 1}\n".encode()
    for number in range(max(objects) + 1):
        data += f"{places.get(number, 0):010d} {0 if number in places else 65535:05d} {'n' if number in places else 'f'} \n".encode()
    data += f"trailer << /Size {max(objects) + 1} /Root 1 0 R {trailer} >>\nstartxref\n{begin}\n%%EOF".encode()
    return bytes(data)


def stream(data, more=""):
    packed = zlib.compress(data)
    return f"<< /Length {len(packed)} /Filter /FlateDecode {more} >>\nstream\n".encode() + packed + b"\nendstream"


def lines(x, y, texts, size=10, leading=12):
    """Lines of one column, one below another."""
    return [(x, y - leading * number, size, text) for number, text in enumerate(texts)]


def words(right, y, text, size=10):
    """A line of a right-to-left script as a page shows it, up to the right margin: letters and words run to the left,
    digits to the right, brackets are turned round."""
    found = []
    for word in text.split(" "):
        seen = re.sub(r"\d+", lambda digits: digits[0][::-1], word)[::-1].translate(str.maketrans("()", ")("))
        right -= len(word) * size / 2
        found.append((right, y, size, seen))
        right -= size / 2
    return found[::-1]


def zipped(members):
    """A zip file of {name: text or bytes}."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return data.getvalue()


def with_member(data, name, content):
    """A zip file with one member more."""
    found = io.BytesIO(data)
    with zipfile.ZipFile(found, "a") as file:
        file.writestr(name, content)
    return found.getvalue()


def epub(chapters, *, locked=False):
    """A book of {name: the body of its page}, in that order; its files are stored in another."""
    items = "".join(
        f'<item id="{name}" href="text/{name}.xhtml" media-type="application/xhtml+xml"/>' for name in sorted(chapters)
    )
    spine = "".join(f'<itemref idref="{name}"/>' for name in chapters)
    nav = '<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
    members = {
        "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile '
        'full-path="OPS/book.opf"/></rootfiles></container>',
        "OPS/book.opf": f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{nav}{items}</manifest><spine>'
        f'<itemref idref="nav"/>{spine}</spine></package>',
        "OPS/nav.xhtml": "<html><body><nav><ol><li>Contents that are no text</li></ol></nav></body></html>",
    }
    for name in sorted(chapters):
        members[f"OPS/text/{name}.xhtml"] = (
            '<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml"><head>'
            f"<title>{name}</title></head><body>{chapters[name]}</body></html>"
        )
    if locked:
        members["META-INF/encryption.xml"] = (
            "<encryption><EncryptedData><CipherData>"
            + "".join(f'<CipherReference URI="OPS/text/{name}.xhtml"/>' for name in chapters)
            + "</CipherData></EncryptedData></encryption>"
        )
    return zipped(members)


_ODF = (
    'xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" xmlns:text="urn:oasis:names:tc:opendocument:xmlns:'
    'text:1.0" xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0" xmlns:draw="urn:oasis:names:tc:opendocument:'
    'xmlns:drawing:1.0" xmlns:presentation="urn:oasis:names:tc:opendocument:xmlns:presentation:1.0" '
    'xmlns:style="urn:oasis:names:tc:opendocument:xmlns:style:1.0"'
)


def odf(body, styles=""):
    """An OpenDocument file with what stands in its ``office:body``, and its automatic styles."""
    named = f"<office:automatic-styles>{styles}</office:automatic-styles>"
    content = f"<office:document-content {_ODF}>{named}<office:body>{body}</office:body></office:document-content>"
    return zipped({"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": content})


_PPTX = (
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" xmlns:p="http://schemas.openxmlformats.org/'
    'presentationml/2006/main" xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
)


def pptx(slides):
    """Slides of (title, points, notes), whose files are numbered the other way round."""
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    members, listed, related = {}, [], []
    for number, (title, points, notes) in enumerate(slides):
        file = len(slides) - number
        listed.append(f'<p:sldId id="{256 + number}" r:id="rId{number}"/>')
        related.append(f'<Relationship Id="rId{number}" Type="{relation}/slide" Target="slides/slide{file}.xml"/>')
        shapes = _shape("sldNum", [str(number + 1)]) + _shape("body", points) + _shape("title", [title])
        members[f"ppt/slides/slide{file}.xml"] = _slide("sld", shapes)
        members[f"ppt/slides/_rels/slide{file}.xml.rels"] = (
            f'<Relationships><Relationship Id="n" Type="{relation}/notesSlide" Target="../notesSlides/n{file}.xml"/></Relationships>'
        )
        members[f"ppt/notesSlides/n{file}.xml"] = _slide("notes", _shape("body", [notes]) if notes else "")
    members["ppt/presentation.xml"] = (
        f"<p:presentation {_PPTX}><p:sldIdLst>{''.join(listed)}</p:sldIdLst></p:presentation>"
    )
    members["ppt/_rels/presentation.xml.rels"] = f"<Relationships>{''.join(related)}</Relationships>"
    return zipped(members)


def _slide(name, shapes):
    return f"<p:{name} {_PPTX}><p:cSld><p:spTree>{shapes}</p:spTree></p:cSld></p:{name}>"


def _shape(kind, texts):
    body = "".join(f"<a:p><a:r><a:t>{text}</a:t></a:r></a:p>" for text in texts)
    return f'<p:sp><p:nvSpPr><p:nvPr><p:ph type="{kind}"/></p:nvPr></p:nvSpPr><p:txBody>{body}</p:txBody></p:sp>'
