"""Shards: cut by the file alone, encoded alike by anyone, found again by their content."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.chat.byte_tokenizer import ByteTokenizer
from ochatctl.chat.families import FAMILIES
from ochatctl.data.encode import EncodeConfig, Outcome
from ochatctl.data.shards import Shard, cut_file, encode_shard, encode_shards, part_keys
from ochatctl.errors import DataError

FAMILY = FAMILIES["openchat_v3.2"]
TOKENIZER = ByteTokenizer(FAMILY.template.control_strings)
CONFIG = EncodeConfig(family=FAMILY, model_dir=Path("unused"), context_tokens=90)


def line(number: int, *, words: int = 3) -> str:
    turns = [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": "yes " * words}]
    return json.dumps({"messages": turns})


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def shards_of(path: Path, shard_bytes: int = 300, limit: int | None = None) -> list[Shard]:
    return list(cut_file(path, shown="f.jsonl", strict=True, shard_bytes=shard_bytes, limit=limit))


def flattened(outcomes: list[Outcome]) -> list[object]:
    def rows(outcome: Outcome) -> list[object]:
        return [(row.input_ids.tolist(), row.labels.tolist(), row.loss_weights.tolist()) for row in outcome.rows]

    return [
        (o.condition, o.num_tokens, o.num_unsupervised, o.num_cut_prompts, o.num_lost_tokens, rows(o)) for o in outcomes
    ]


@given(st.lists(st.sampled_from(["", "  ", line(1), line(2, words=40)]), max_size=12), st.integers(1, 500))
@settings(deadline=None, max_examples=25)
def test_every_record_is_in_one_shard_wherever_the_file_is_cut(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], shard_bytes: int
) -> None:
    path = write(tmp_path_factory.mktemp("shards") / "f.jsonl", lines)
    num_records = sum(bool(text.strip()) for text in lines)
    shards = shards_of(path, shard_bytes)
    assert sum(shard.num_records for shard in shards) == num_records
    encoded = [outcome for s in shards for outcome in encode_shard(s, TOKENIZER, CONFIG).outcomes()]
    whole = [o for s in shards_of(path, 10**9) for o in encode_shard(s, TOKENIZER, CONFIG).outcomes()]
    assert len(whole) == num_records
    assert flattened(encoded) == flattened(whole)
    assert sum(s.num_records for s in shards_of(path, shard_bytes, limit=2)) == min(2, num_records)


def test_a_shard_gives_one_record_as_it_gives_all(tmp_path: Path) -> None:
    silent = json.dumps({"messages": [{"role": "user", "content": "?"}]})
    path = write(tmp_path / "f.jsonl", [line(1), silent, line(2, words=60), '{"text": "A text."}', line(3)])
    (shard,) = shards_of(path, 10**6)
    encoded = encode_shard(shard, TOKENIZER, CONFIG)
    outcomes = list(encoded.outcomes())
    assert [len(outcome.rows) for outcome in outcomes] == [1, 0, 5, 1, 1]
    assert [outcome.condition for outcome in outcomes] == ["GPT4", "GPT4", "GPT4", None, "GPT4"]
    assert flattened([encoded.outcome(index) for index in range(5)]) == flattened(outcomes)


def test_only_the_chosen_records_are_encoded(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", [line(1), "not JSON", line(2)])
    (shard,) = shards_of(path, 10**6)
    with pytest.raises(DataError, match=r"f\.jsonl:2: not valid JSON"):
        encode_shard(shard, TOKENIZER, CONFIG)
    chosen = Shard(**{name: getattr(shard, name) for name in Shard.__slots__} | {"chosen": b"\1\0\1"})
    assert len(encode_shard(chosen, TOKENIZER, CONFIG).counts) == 2


def test_an_error_names_the_line_in_whichever_shard_it_is(tmp_path: Path) -> None:
    bad = '{"system": "x", "messages": [{"role": "user", "content": "?"}]}'
    path = write(tmp_path / "f.jsonl", [*(line(number) for number in range(9)), "", bad])
    family = FAMILIES["gemma_it"]
    config = EncodeConfig(family=family, model_dir=Path("unused"), context_tokens=100)
    shards = shards_of(path)
    assert len(shards) > 2
    with pytest.raises(DataError, match=r"^f\.jsonl:11: a system message is given"):
        list(encode_shards(shards, ByteTokenizer(family.template.control_strings), config))


def test_finished_parts_are_used_again_and_only_where_nothing_that_decides_them_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", [line(number) for number in range(12)])
    shards = shards_of(path)
    keys = part_keys(shards, CONFIG, "tokenizer")
    said: list[str] = []

    def run(parts: Path, shards: list[Shard], keys: list[str]) -> list[object]:
        found = encode_shards(shards, TOKENIZER, CONFIG, parts_dir=parts, keys=keys, say=said.append)
        return flattened([outcome for shard in found for outcome in shard.outcomes()])

    parts = tmp_path / "parts"
    first = run(parts, shards, keys)
    assert first == flattened([o for s in shards for o in encode_shard(s, TOKENIZER, CONFIG).outcomes()])
    assert not said
    missing = parts / f"{keys[1]}.part"
    missing.unlink()
    old = {part: part.stat().st_mtime_ns for part in parts.iterdir()}
    assert run(parts, shards, keys) == first
    assert said == [f"resuming: {len(keys) - 1} of {len(keys)} shards are there"]
    assert missing.exists()
    assert all(part.stat().st_mtime_ns == time for part, time in old.items())
    # A line more at the end changes the last shard alone; another config, all of them.
    path.write_text(path.read_text() + line(99) + "\n")
    assert part_keys(shards_of(path), CONFIG, "tokenizer")[: len(keys) - 1] == keys[:-1]
    other = EncodeConfig(family=FAMILY, model_dir=Path("unused"), context_tokens=91)
    others = [part_keys(shards, other, "tokenizer"), part_keys(shards, CONFIG, "another")]
    assert all(set(keys).isdisjoint(those) for those in others)
