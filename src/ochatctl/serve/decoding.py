"""A request's body -> its wire type, or the fault that the client is told.

in: bytes, out: a type of `serve/protocol.py`
"""

import re
from array import array
from itertools import accumulate
from typing import Any, TypeVar

import msgspec

from ochatctl.serve.protocol import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    RequestError,
    TokenizeRequest,
)

_chat_decoder = msgspec.json.Decoder(ChatCompletionRequest)
_completion_decoder = msgspec.json.Decoder(CompletionRequest)
_tokenize_decoder = msgspec.json.Decoder(TokenizeRequest)
_detokenize_decoder = msgspec.json.Decoder(DetokenizeRequest)
_keys_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_UNSET_VALUES = (b"null", b"false", b"[]", b"{}", b'""')
# Parameters of OpenAI's and of other servers that would change the answer and that are not honoured here. They are
# refused: an answer that silently ignores one looks right and is not.
REFUSED = frozenset({
    "allowed_token_ids", "audio", "bad_words", "chat_template", "chat_template_kwargs", "do_sample", "documents",
    "dry_multiplier", "dynatemp_range", "ebnf", "enable_thinking", "format", "function_call", "functions", "grammar",
    "guided_choice", "guided_decoding_backend", "guided_grammar", "guided_json", "guided_regex", "ignore_eos",
    "include_stop_str_in_output", "json_schema", "length_penalty", "logits_processors", "max_length", "max_new_tokens",
    "max_output_tokens", "min_length", "min_new_tokens", "min_tokens", "mirostat", "mirostat_mode", "modalities",
    "n_predict", "no_repeat_ngram_size", "num_beams", "num_predict", "options", "prompt_logprobs", "reasoning",
    "reasoning_effort", "regex", "repeat_penalty", "return_token_ids", "return_tokens_as_token_ids",
    "skip_special_tokens", "smoothing_factor", "spaces_between_special_tokens", "stop_sequences", "stop_token_ids",
    "structured_outputs", "suffix", "system", "tfs_z", "thinking", "tool_choice", "tools", "top_a",
    "truncate_prompt_tokens", "typical_p", "use_beam_search", "verbosity", "web_search_options", "xtc_probability",
})  # fmt: skip
CHAT_REFUSED = REFUSED | {"add_special_tokens", "best_of", "echo", "input", "prompt"}
COMPLETION_REFUSED = REFUSED | {
    "add_generation_prompt", "best_of", "condition", "continue_final_message", "max_completion_tokens", "messages",
    "top_logprobs",
}  # fmt: skip
TOKENIZE_REFUSED = frozenset({"chat_template", "chat_template_kwargs", "tools"})
_FALSE_SAYS_SOMETHING = ("add_generation_prompt", "do_sample", "skip_special_tokens")
# With OpenAI, an empty one of these turns a search on.
_EMPTY_SAYS_SOMETHING = ("web_search_options",)
# Values that say what happens here anyhow.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "best_of": (1,),
    "chat_template_kwargs": ({"enable_thinking": False}, {"thinking": False}),
    "continue_final_message": (True,),
    "do_sample": (True,),
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    # Without a tool, for tools are refused, the model has nothing to choose.
    "function_call": ("none", "auto"),
    "length_penalty": (1,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "min_tokens": (0,),
    "mirostat": (0,),
    "mirostat_mode": (0,),
    "modalities": (["text"],),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "reasoning": ({"effort": "none"}, {"enabled": False}),
    "reasoning_effort": ("none",),
    "repeat_penalty": (1,),
    "skip_special_tokens": (True,),
    "smoothing_factor": (0,),
    "spaces_between_special_tokens": (True,),
    "tfs_z": (1,),
    "thinking": ({"type": "disabled"},),
    "tool_choice": ("none", "auto"),
    "top_a": (0,),
    "typical_p": (1,),
    # OpenAI's default.
    "verbosity": ("medium",),
    "xtc_probability": (0,),
}
_STRING = re.compile(rb'"[^"]*"')
# A bracket is a step down or up; as a signed byte, 255 is -1.
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_AT = re.compile(r" - at `(key in )?\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `(\w+)`")

_T = TypeVar("_T")


def decode_chat_request(body: bytes, *, max_depth: int) -> ChatCompletionRequest:
    """Parse and check the body of a chat completion.

    Raises:
        RequestError: 400, naming the parameter. So do the others.
    """
    return _decode(_chat_decoder, body, CHAT_REFUSED, max_depth)


def decode_completion_request(body: bytes, *, max_depth: int) -> CompletionRequest:
    """Parse and check the body of a completion."""
    return _decode(_completion_decoder, body, COMPLETION_REFUSED, max_depth)


def decode_tokenize_request(body: bytes, *, max_depth: int) -> TokenizeRequest:
    """Parse and check the body of `/tokenize`."""
    return _decode(_tokenize_decoder, body, TOKENIZE_REFUSED, max_depth)


def decode_detokenize_request(body: bytes, *, max_depth: int) -> DetokenizeRequest:
    """Parse and check the body of `/detokenize`."""
    return _decode(_detokenize_decoder, body, frozenset(), max_depth)


def is_deeper(body: bytes, max_depth: int) -> bool:
    """Tell whether a body of JSON nests deeper.

    It costs two counts of a byte where the body has few brackets, as nearly all have; 0.1 s for 4 MB of them.
    """
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return False
    bare = _STRING.sub(b"", body.replace(b"\\\\", b"").replace(b'\\"', b""))
    return max(accumulate(array("b", bare.translate(_STEPS, _NO_BRACKETS))), default=0) > max_depth


def _decode(decoder: "msgspec.json.Decoder[_T]", body: bytes, refused: frozenset[str], max_depth: int) -> _T:
    if is_deeper(body, max_depth):
        raise RequestError(400, f"the body nests deeper than {max_depth} levels", code="too_deep")
    try:
        request = decoder.decode(body)
        keys = _keys_decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(400, f"the body is not valid JSON: {error}", code="invalid_json") from error
    except RecursionError as error:
        raise RequestError(400, "the body nests too deeply", code="too_deep") from error
    for name in keys:
        if name not in refused:
            continue
        raw = bytes(keys[name]).strip()
        if _says_nothing(name, raw) or (name in _HARMLESS and msgspec.json.decode(raw) in _HARMLESS[name]):
            continue
        raise RequestError(400, f"`{name}` is not supported by this server", param=name, code="unsupported_parameter")
    return request


def _says_nothing(name: str, raw: bytes) -> bool:
    if raw == b"false":
        return name not in _FALSE_SAYS_SOMETHING
    return raw in _UNSET_VALUES and not (raw == b"{}" and name in _EMPTY_SAYS_SOMETHING)


def _invalid(message: str) -> RequestError:
    at = _AT.search(message)
    path = at.group(2) if at else ""
    text = message[: at.start()] if at else message
    if missing := _MISSING.search(text):
        name = f"{path}.{missing.group(1)}".lstrip(".")
        return RequestError(400, f"`{name}` is missing", param=name, code="missing_required_parameter")
    param = path.replace("[...]", "") or None
    text = text[0].lower() + text[1:]
    return RequestError(400, f"`{param}`: {text}" if param else text, param=param, code="invalid_value")
