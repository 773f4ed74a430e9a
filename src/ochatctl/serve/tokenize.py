"""`/tokenize` and `/detokenize`: what the model would see of a text or a conversation, and back."""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from ochatctl.serve.config import AppConfig
from ochatctl.serve.decoding import decode_detokenize_request, decode_tokenize_request
from ochatctl.serve.limits import read_json_body
from ochatctl.serve.prompt import Preparer
from ochatctl.serve.protocol import DetokenizeAnswer, TokenizeAnswer, encode


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokenizing:
    """The two endpoints."""

    preparer: Preparer
    config: AppConfig

    async def tokenize(self, request: Request) -> Response:
        """Answer `/tokenize`."""
        asked = decode_tokenize_request(await self._body(request), max_depth=self.config.limits.max_depth)
        token_ids = await self.preparer.tokenize(asked)
        spell = self.preparer.tokenizer.token_text
        answer = TokenizeAnswer(
            count=len(token_ids),
            max_model_len=self.preparer.engine.context_tokens,
            tokens=token_ids,
            token_strs=[spell(token_id) for token_id in token_ids] if asked.return_token_strs else None,
        )
        return Response(encode(answer), media_type="application/json")

    async def detokenize(self, request: Request) -> Response:
        """Answer `/detokenize`."""
        asked = decode_detokenize_request(await self._body(request), max_depth=self.config.limits.max_depth)
        text = await self.preparer.detokenize(asked)
        return Response(encode(DetokenizeAnswer(prompt=text)), media_type="application/json")

    async def _body(self, request: Request) -> bytes:
        return await read_json_body(
            request.scope,
            request.receive,
            max_bytes=self.config.max_body_bytes,
            timeout_seconds=self.config.body_timeout_seconds,
        )
