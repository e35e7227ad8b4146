"""XMP packets: read and change captions and keywords, and keep everything else unchanged.

An XMP packet is RDF in XML, of which XMP allows a small subset (ISO 16684-1): properties are
children of `rdf:Description`, simple ones may be its attributes, and a caption is a list of
alternatives by language. We use lxml because it keeps prefixes, comments and processing
instructions.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from captioner.errors import DataError, MissingExtraError

MARK = "urn:captioner:1.0/"
"""The namespace of our marks."""

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DC = "http://purl.org/dc/elements/1.1/"
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_PREFIXES = {"rdf": _RDF, "dc": _DC, "captioner": MARK}
_EMPTY = b"""\
<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:captioner="urn:captioner:1.0/">
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""
_DEFAULT = "x-default"


@dataclass(frozen=True)
class Mark:
    """The mark that we leave when we write to a packet.

    Attributes:
        run: The identity of the model and its options; "" if we have written nothing yet.
        caption: The caption that we wrote; "" if we kept a person's caption.
        tags: The keywords that we added.
    """

    run: str = ""
    caption: str = ""
    tags: tuple[str, ...] = ()


class Packet:
    """An XMP packet that can be read, changed and written back.

    Args:
        data: The packet, or the content of a sidecar; None for a new, empty one.

    Raises:
        DataError: The packet is damaged, or is not XMP.
        MissingExtraError: lxml is not installed.
    """

    def __init__(self, data: bytes | None = None) -> None:
        etree = _etree()
        content = _EMPTY if data is None else data
        if b"\0" not in content[:4]:  # not UTF-16
            content = content.strip(b"\0 \t\r\n")  # cameras pad with zeros
        parser = etree.XMLParser(
            resolve_entities=False, no_network=True, load_dtd=False, strip_cdata=False
        )
        try:
            root = etree.fromstring(content, parser)
        except (etree.XMLSyntaxError, ValueError) as error:
            raise DataError(f"is damaged: not valid XML ({error})") from error
        self._tree = root.getroottree()
        if self._tree.docinfo.doctype:
            raise DataError("has a document type declaration, which XMP doesn't allow")
        rdf = root if root.tag == _name(_RDF, "RDF") else root.find(_name(_RDF, "RDF"))
        if rdf is None:
            raise DataError("is XML, but not XMP: it has no rdf:RDF")
        self._declared = content.lstrip(b"\xef\xbb\xbf").startswith(b"<?xml ")
        self._rdf = rdf

    @property
    def captions(self) -> dict[str, str]:
        """The texts of `dc:description` by language, without empty ones."""
        texts = {_lang(item): _text(item) for item in self._items("description")}
        return {language: text for language, text in texts.items() if text}

    @property
    def keywords(self) -> tuple[str, ...]:
        """The keywords of `dc:subject`, in order."""
        return tuple(filter(None, map(_text, self._items("subject"))))

    @property
    def mark(self) -> Mark:
        """The mark that we left in the packet."""
        tags = filter(None, self._noted("tags").split("; "))
        return Mark(self._noted("run"), self._noted("caption"), tuple(tags))

    @property
    def has_own_caption(self) -> bool:
        """Return whether its captions are exactly the one that we wrote."""
        caption = self.mark.caption
        return bool(caption) and set(self.captions.values()) == {caption}

    def set_caption(self, text: str, language: str) -> None:
        """Set the caption; keep captions in other languages.

        Args:
            text: The caption, for `x-default` and for `language`.
            language: Its language (RFC 3066), such as "en".
        """
        main = language.lower().partition("-")[0]
        others = [
            item
            for item in self._items("description")
            if _lang(item).lower().partition("-")[0] not in ("x", main)
        ]
        kept = [(_lang(item), item) for item in others]
        self._rebuild("description", "Alt", [(_DEFAULT, text), (language, text), *kept])

    def change_keywords(self, remove: Collection[str], add: Collection[str]) -> tuple[str, ...]:
        """Remove keywords and add missing ones, ignoring case.

        Args:
            remove: Keywords to remove, unless they are also added.
            add: Keywords to add unless present.

        Returns:
            The keywords of `add` that were missing, or present only as one of `remove`.
        """
        known = {word.casefold() for word in self.keywords if word not in remove}
        new = tuple(word for word in dict.fromkeys(add) if word.casefold() not in known)
        gone = set(remove) - set(new)
        present = set(self.keywords)
        kept = [("", item) for item in self._items("subject") if _text(item) not in gone]
        added = [("", word) for word in new if word not in present]
        if added or len(kept) < len(list(self._items("subject"))):
            self._rebuild("subject", "Bag", [*kept, *added])
        return new

    def set_mark(self, mark: Mark) -> None:
        """Replace the mark."""
        notes = {"run": mark.run, "caption": mark.caption, "tags": "; ".join(mark.tags)}
        for key, value in notes.items():
            self._remove(_name(MARK, key))
            if value:
                self._add(_name(MARK, key)).text = value

    def to_bytes(self) -> bytes:
        """Return the packet as the content of a file."""
        info = self._tree.docinfo
        data: bytes = _etree().tostring(
            self._tree,
            encoding=info.encoding or "UTF-8",
            xml_declaration=self._declared,
            standalone=True if info.standalone else None,
        )
        return data + b"\n"

    def _descriptions(self) -> list[Any]:
        found: list[Any] = self._rdf.findall(_name(_RDF, "Description"))
        return found

    def _items(self, key: str) -> Iterator[Any]:
        """Yield the entries of a property: elements, or text if it is not a list."""
        tag = _name(_DC, key)
        for description in self._descriptions():
            if tag in description.attrib:
                yield description.get(tag)
            for element in description.findall(tag):
                yield from element.findall(f"*/{_name(_RDF, 'li')}") or [_text(element)]

    def _rebuild(self, key: str, kind: str, entries: list[tuple[str, Any]]) -> None:
        """Rewrite a list in place; keep entries that are elements unchanged."""
        etree, tag = _etree(), _name(_DC, key)
        place = self._remove(tag, keep_first=True)
        if not entries:
            if place is not None:
                place.getparent().remove(place)
            return
        element = self._add(tag) if place is None else place
        items = etree.SubElement(element, _name(_RDF, kind))
        for language, entry in entries:
            if isinstance(entry, str):
                item = etree.SubElement(items, _name(_RDF, "li"))
                item.text = entry
                if language:
                    item.set(_LANG, language)
            else:
                items.append(entry)
        tail = element.tail
        etree.indent(element, space=" ", level=3)
        element.tail = tail

    def _remove(self, tag: str, keep_first: bool = False) -> Any:
        """Remove all occurrences of a property; return its first element, emptied, if kept."""
        first = None
        for description in self._descriptions():
            description.attrib.pop(tag, None)
            for element in description.findall(tag):
                if keep_first and first is None:
                    first = element
                    tail = element.tail
                    element.clear()
                    element.tail = tail
                else:
                    description.remove(element)
        return first

    def _add(self, tag: str) -> Any:
        """Add a property at the end of the first description, and return it."""
        etree = _etree()
        descriptions = self._descriptions()
        if not descriptions:
            description = etree.SubElement(self._rdf, _name(_RDF, "Description"))
            description.set(_name(_RDF, "about"), "")
            description.tail = "\n "
        else:
            description = descriptions[0]
        last = description[-1] if len(description) else None
        if last is None:
            description.text = "\n   "
        else:
            last.tail = "\n   "
        uri = tag[1:].partition("}")[0]
        prefix = next(prefix for prefix, known in _PREFIXES.items() if known == uri)
        element = etree.SubElement(description, tag, nsmap={prefix: uri})
        element.tail = "\n  "
        return element

    def _noted(self, key: str) -> str:
        """Read part of our mark; other software may have turned the element into an attribute."""
        tag = _name(MARK, key)
        for description in self._descriptions():
            value = description.get(tag) or description.findtext(tag)
            if value:
                return str(value).strip()
        return ""


def _etree() -> Any:
    try:
        from lxml import etree
    except ModuleNotFoundError as error:
        raise MissingExtraError("Reading and writing XMP", "xmp") from error
    return etree


def _name(namespace: str, key: str) -> str:
    return f"{{{namespace}}}{key}"


def _text(item: Any) -> str:
    return str(item if isinstance(item, str) else item.xpath("string()")).strip()


def _lang(item: Any) -> str:
    return _DEFAULT if isinstance(item, str) else str(item.get(_LANG, _DEFAULT))
