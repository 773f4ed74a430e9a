"""Tokens on a terminal, coloured by their weight in the loss. `tokens` and `data inspect` draw alike."""

from collections.abc import Callable, Iterable


def print_tokens(token_ids: Iterable[int], loss_weights: Iterable[float], token_text: Callable[[int], str]) -> None:
    """Print each token with its id: green where it is learnt in full, yellow in part, dim not at all."""
    from rich.console import Console
    from rich.text import Text

    line = Text()
    for token_id, weight in zip(token_ids, loss_weights, strict=True):
        style = "bold green" if weight >= 1 else "yellow" if weight > 0 else "dim"
        line.append(token_text(token_id), style=style)
        line.append(f"[{token_id}] " if weight in (0, 1) else f"[{token_id} x{weight:g}] ", style="dim")
    Console(soft_wrap=True, highlight=False).print(line)
