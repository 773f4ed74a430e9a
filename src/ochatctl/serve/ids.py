"""Names for requests and answers."""

from random import Random

# Its own: an engine may seed the one that all share. A name is like no other, and no secret.
_random = Random()


def new_id(prefix: str) -> str:
    """Give a name that was never given before."""
    return f"{prefix}-{_random.getrandbits(96):024x}"
