"""Add end-of-turn tokens to a model folder: stream the weights, edit the JSON files, verify the result."""

from ochatctl.vocab.add_tokens import AddedTokens, add_eot

__all__ = ["AddedTokens", "add_eot"]
