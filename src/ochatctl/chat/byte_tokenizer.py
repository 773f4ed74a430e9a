"""A tokenizer without a file: one token a byte, then the control tokens. For the echo engine and for tests."""

from collections.abc import Iterable, Sequence

from ochatctl.chat.conversation import check_text

_NUM_BYTES = 256


class ByteTokenizer:
    """UTF-8 bytes as tokens 0 to 255; `control_strings`, sorted, as the tokens after them. No bos, no dummy prefix."""

    def __init__(self, control_strings: Iterable[str] = ()) -> None:
        self._controls = tuple(sorted(set(control_strings)))
        self._ids = {text: _NUM_BYTES + index for index, text in enumerate(self._controls)}
        self.bos_ids: tuple[int, ...] = ()
        self.bos_token = ""
        self.control_ids = frozenset(self._ids.values())
        self.dummy_prefix = False
        self.longest_token_bytes = 1
        self.num_tokens = _NUM_BYTES + len(self._controls)

    def encode_text(self, text: str) -> list[int]:
        check_text(text, "text")
        return list(text.encode("utf-8"))

    def token_id(self, token: str) -> int | None:
        if token in self._ids:
            return self._ids[token]
        return ord(token) if len(token) == 1 and token.isascii() else None

    def decode(self, token_ids: Sequence[int]) -> str:
        try:
            found = bytes(token_ids)
        except ValueError:  # control tokens among them
            found = bytes(index for index in token_ids if index < _NUM_BYTES)
        return found.decode("utf-8", errors="replace")

    def token_text(self, token_id: int) -> str:
        if token_id < _NUM_BYTES:
            return chr(token_id) if 0x20 <= token_id < 0x7F else f"<0x{token_id:02X}>"
        index = token_id - _NUM_BYTES
        return self._controls[index] if index < len(self._controls) else f"<unused {token_id}>"

    def token_bytes(self, token_id: int) -> bytes:
        if token_id < _NUM_BYTES:
            return bytes([token_id])
        index = token_id - _NUM_BYTES
        return self._controls[index].encode() if index < len(self._controls) else b""
