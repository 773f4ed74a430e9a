"""What `ochatctl serve --dry-run` prints: the engine, the memory it needs by part, and whether it is here."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ochatctl.serve.plan import ServePlan


def describe_plan(plan: "ServePlan") -> str:
    """Give all that is known of a server before it starts."""
    return "\n".join(_lines(plan))


def _lines(plan: "ServePlan") -> Iterator[str]:
    from ochatctl.memory import size_text

    yield f"engine: {plan.engine} on {plan.device}: {plan.reason}"
    yield f"model: {plan.model}, family {plan.family}, {plan.context_tokens} tokens of context"
    if plan.need is None:
        yield "memory: next to none"
        return
    where = " a GPU" if plan.is_gpu else ""
    yield f"memory{where}, estimated: {size_text(plan.need.num_bytes)}"
    for part in plan.need.parts:
        yield f"  {size_text(part.num_bytes):>10}  {part.name}: {part.formula}"
    if plan.available_bytes is None:
        yield "how much there is cannot be told here"
    else:
        verdict = "enough" if plan.fits else "NOT enough: `--max-model-len`, `--tp` or a smaller model"
        yield f"there is{where}: {size_text(plan.available_bytes)}, {verdict}"
