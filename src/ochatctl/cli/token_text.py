"""Tokens on a terminal, coloured by their weight in the loss. `tokens` and `data inspect` draw alike."""

from collections.abc import Callable, Iterable


def print_tokens(token_ids: Iterable[int], loss_weights: Iterable[float], token_text: Callable[[int], str]) -> None:
    """Print each token with its id: green where it is learnt in full, yellow in part, dim not at all.

    A line ends where learning begins or ends. Without colour each token that is learnt has its weight beside the id.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    line = Text()
    was_learnt = False
    for token_id, weight in zip(token_ids, loss_weights, strict=True):
        if line and (weight != 0) != was_learnt:
            line.append("\n")
        was_learnt = weight != 0
        style = "bold green" if weight >= 1 else "yellow" if weight > 0 else "dim"
        is_plain = weight == 0 or (weight == 1 and console.color_system is not None)
        line.append(token_text(token_id), style=style)
        line.append(f"[{token_id}] " if is_plain else f"[{token_id} x{weight:g}] ", style="dim")
    # On a terminal lines break between tokens; off one nothing is broken to a width that nobody has.
    console.print(line, soft_wrap=not console.is_terminal)
