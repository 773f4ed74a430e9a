"""The one function that says a fault over HTTP, in OpenAI's envelope; and what each of our errors is as a status."""

from starlette.exceptions import HTTPException
from starlette.responses import Response

from ochatctl.errors import DataError, OchatError
from ochatctl.serve.protocol import RequestError, error_body

_CODES = {404: "not_found", 405: "method_not_allowed"}
_MESSAGES = {404: "there is nothing at this address", 405: "this address does not take this method"}


def error_response(error: RequestError) -> Response:
    """Give a fault as a response."""
    return Response(
        error_body(error), status_code=error.status, media_type="application/json", headers=dict(error.headers)
    )


def as_request_error(error: Exception) -> RequestError:
    """Give what a client is told of an exception: of a bug of ours nothing but that there is one."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, HTTPException):
        code = error.status_code
        message = _MESSAGES.get(code, error.detail)
        return RequestError(code, message, code=_CODES.get(code), headers=tuple((error.headers or {}).items()))
    if isinstance(error, DataError):
        return RequestError(400, error.message, code="invalid_value")
    if isinstance(error, OchatError):
        return RequestError(503, "the engine cannot answer now", code="engine_unavailable")
    return RequestError(500, "the server failed; its log says more", code="internal_error")
