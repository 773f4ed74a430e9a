"""`data stats`: what is counted adds up, and a condition is seen in the ids."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ochatctl.chat.byte_tokenizer import ByteTokenizer
from ochatctl.chat.conversation import Conversation, Document, Message, to_json
from ochatctl.chat.families import FAMILIES
from ochatctl.chat.template import Encoded
from ochatctl.data.dataset import DatasetInfo, PackedDataset, open_dataset, write_dataset
from ochatctl.data.encode import to_row
from ochatctl.data.stats import conversation_stats, dataset_stats
from ochatctl.errors import DataError

Case = tuple[Conversation, float]


def packed(path: Path, cases: list[Case], *, family: str = "openchat_v3.2", **info: Any) -> PackedDataset:
    template = FAMILIES[family].template
    with write_dataset(path) as writer:
        for conversation, factor in cases:
            encoded = template.encode(conversation, tokenizer(family))
            weights = [weight * factor for weight in encoded.loss_weights]
            writer.add(to_row(Encoded(token_ids=encoded.token_ids, loss_weights=weights)))
        writer.finish(DatasetInfo(model_type=family, **info))
    return open_dataset(path)


def tokenizer(family: str) -> ByteTokenizer:
    return ByteTokenizer(FAMILIES[family].template.control_strings)


def chat(condition: str, *, turns: int = 1, system: str = "", text: str = "hello") -> Conversation:
    messages = [Message(role=role, content=text) for _ in range(turns) for role in ("user", "assistant")]
    return Conversation(messages=tuple(messages), condition=condition, system=system)


@given(
    st.lists(
        st.tuples(st.sampled_from(["GPT4", "GPT3", "Math"]), st.integers(1, 3), st.text("ab \n", max_size=30)),
        min_size=1, max_size=6,
    )
)  # fmt: skip
@settings(deadline=None, max_examples=8)
def test_what_is_counted_adds_up(tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, int, str]]) -> None:
    # A user who spells another class's prefix changes nothing.
    cases = [(chat(c, turns=n, system="kind", text=f"GPT3 User:{t}"), 0.1 if c == "GPT3" else 1.0) for c, n, t in drawn]
    dataset = packed(tmp_path_factory.mktemp("stats") / "a.train.parquet", cases, conditions={"Math": 1})
    stats = dataset_stats(dataset, model=(FAMILIES["openchat_v3.2"], tokenizer("openchat_v3.2")))
    rows = [dataset.row(index) for index in range(len(dataset))]
    assert stats.num_rows == len(rows) == sum(c.num_rows for c in stats.conditions.values())
    assert stats.num_tokens == sum(len(row.input_ids) for row in rows)
    assert stats.num_tokens == sum(c.num_tokens for c in stats.conditions.values())
    supervised = sum(int(np.count_nonzero(row.loss_weights)) for row in rows)
    assert stats.num_supervised_tokens == supervised == sum(c.num_supervised_tokens for c in stats.conditions.values())
    assert stats.step_weight == pytest.approx(float(dataset.step_weights.sum()))
    assert {name: c.num_rows for name, c in stats.conditions.items()} == {
        name: sum(c == name for c, _, _ in drawn) for name, _, _ in drawn
    }
    assert stats.num_answers == sum(n for _, n, _ in drawn)
    assert stats.num_turns == sum(2 * n + 1 for _, n, _ in drawn)
    assert stats.weights is not None
    assert sum(stats.weights.values()) == stats.num_tokens
    assert sum(bar.count for bar in stats.lengths) == len(rows)
    assert stats.length_percentiles["100"] == max(len(row.input_ids) for row in rows)


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.template.takes_condition])
def test_a_condition_is_seen_in_the_rows_of_every_family_that_takes_one(tmp_path: Path, family: str) -> None:
    template = FAMILIES[family].template
    names = template.conditions or (template.inference_condition, "Math")
    system = "be kind" if template.system_prefix is not None else ""
    cases = [(chat(name, system=text), 1.0) for name in names for text in ("", system)]
    dataset = packed(tmp_path / "a.train.parquet", cases, family=family, conditions=dict.fromkeys(names, 1))
    stats = dataset_stats(dataset, model=(FAMILIES[family], tokenizer(family)))
    assert {name: tally.num_rows for name, tally in stats.conditions.items()} == dict.fromkeys(names, 2)


def test_without_a_tokenizer_the_file_s_own_word_is_given(tmp_path: Path) -> None:
    dataset = packed(tmp_path / "a.train.parquet", [(chat("GPT4"), 1.0)], conditions={"GPT4": 6})
    stats = dataset_stats(dataset)
    assert (stats.conditions, stats.supervised_by_condition, stats.num_turns) == ({}, {"GPT4": 6}, 0)


def test_too_many_weights_are_not_listed(tmp_path: Path) -> None:
    cases = [(chat("GPT4"), 1 / number) for number in range(1, 1200)]
    assert dataset_stats(packed(tmp_path / "a.train.parquet", cases)).weights is None
    few = dataset_stats(packed(tmp_path / "b.train.parquet", cases[:3])).weights
    assert few is not None
    assert set(few) == {"1", "0.5", "0.333333", "0"}


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.train.parquet"
    dataset = packed(path, [(chat("GPT4", text="hello " * 99), 1.0)] * 9)
    weights = dataset._file.metadata.row_group(0).column(6)
    data = bytearray(path.read_bytes())
    start = weights.dictionary_page_offset or weights.data_page_offset
    data[start : start + weights.total_compressed_size] = bytes(weights.total_compressed_size)
    path.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read to its end"):
        dataset_stats(open_dataset(path))


def test_conversations_are_counted_before_they_are_packed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    records = [chat("GPT4", turns=2), chat("", system="kind"), Document(text="plain")]
    path.write_text("".join(json.dumps(to_json(record)) + "\n" for record in records))
    stats = conversation_stats(path)
    assert (stats.num_conversations, stats.num_documents, stats.num_turns, stats.num_answers) == (2, 1, 6, 3)
    assert (stats.num_with_system, stats.conditions) == (1, {"": 1, "GPT4": 1})
    assert stats.num_characters == 6 * len("hello") + len("kind") + len("plain")
    assert stats.length_percentiles["100"] == 20
    path.write_text("{}\n")
    with pytest.raises(DataError, match=r"a.jsonl:1"):
        conversation_stats(path)
    path.write_text("")
    assert conversation_stats(path).lengths == []
