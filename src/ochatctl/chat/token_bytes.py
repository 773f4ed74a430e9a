"""The bytes that a token stands for, and how many of a text's bytes one token can cover at most.

A token may be half a character, which no string can say; joined, the bytes of a text's tokens are the text in UTF-8.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

_BYTE_PIECE = re.compile("<0x([0-9A-F]{2})>")
_SPM_SPACE = "\u2581"
# Canonical composition makes at most three characters' bytes one's.
_COMPOSED = 4


def byte_level_alphabet() -> dict[str, int]:
    """Give the byte of each character that a byte-level vocabulary is spelled in.

    Source: GPT-2, `bytes_to_unicode`: printable Latin-1 stands for itself, the other bytes follow from U+0100.
    """
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(0x100 + index): byte for index, byte in enumerate(others)}


def piece_bytes(piece: str) -> bytes:
    """Give the bytes of a SentencePiece piece: a byte-fallback piece is its byte, U+2581 a space."""
    if match := _BYTE_PIECE.fullmatch(piece):
        return bytes.fromhex(match.group(1))
    return piece.replace(_SPM_SPACE, " ").encode()


class PieceBytes:
    """Spells the pieces of one `tokenizer.json`, by what its decoder says."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        decoder = table.get("decoder")
        kinds = {str(part.get("type")) for part in _parts(decoder, "decoders")}
        self._alphabet = byte_level_alphabet() if "ByteLevel" in kinds else {}
        replaces = "Metaspace" in kinds or any(
            part.get("pattern", {}).get("String") == _SPM_SPACE for part in _parts(decoder, "decoders")
        )
        self._is_spm = "ByteFallback" in kinds or replaces

    def __call__(self, piece: str) -> bytes | None:
        """Give a piece's bytes; None where the decoder is of a kind not known here."""
        if self._alphabet:
            if any(char not in self._alphabet for char in piece):
                return piece.encode()
            return bytes(self._alphabet[char] for char in piece)
        return piece_bytes(piece) if self._is_spm else None


def longest_token_bytes(table: Mapping[str, Any], pieces: Iterable[str]) -> int:
    """Give the most bytes of a text that one token of a `tokenizer.json` covers; 0 where no bound is known.

    There is none where text may be dropped before it is encoded, or where unknown characters become one token.
    """
    spell = PieceBytes(table)
    model = table.get("model") or {}
    if model.get("type") != "BPE" or (model.get("fuse_unk") and not model.get("byte_fallback")):
        return 0
    splits = _parts(table.get("pre_tokenizer"), "pretokenizers")
    if any(part.get("behavior") == "Removed" or "Whitespace" in str(part.get("type")) for part in splits):
        return 0
    if any(token.get("lstrip") or token.get("rstrip") for token in table.get("added_tokens") or []):
        return 0  # swallows the spaces beside it
    factor = 1
    for part in _parts(table.get("normalizer"), "normalizers"):
        kind = part.get("type")
        if kind == "NFC":
            factor = _COMPOSED
        elif kind != "Prepend" and (kind, part.get("pattern")) != ("Replace", {"String": " "}):
            return 0
    longest = max((len(spell(piece) or b"") for piece in pieces), default=0)
    return longest * factor


def _parts(node: Any, key: str) -> list[Mapping[str, Any]]:
    """Give a component, or those of a sequence of them."""
    if not isinstance(node, dict):
        return []
    return [part for each in node[key] for part in _parts(each, key)] if key in node else [node]
