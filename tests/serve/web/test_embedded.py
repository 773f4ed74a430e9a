"""The chat page before the embedded engine: a tiny model of noise, whose replies nobody could foresee."""

from collections.abc import Iterator
from typing import Any

import pytest
from browser_for_tests import Visit, visiting
from serving_for_tests import Served, byte_tokenizer, serving
from waiting_for_tests import wait_until

from ochatctl.chat.families import get_family

pytestmark = pytest.mark.slow
FAMILY = "openchat_v3.2"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ochatctl.engine.hf import HfEngine

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = byte_tokenizer(get_family(FAMILY))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.num_tokens, hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, initializer_range=0.3,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    with serving(FAMILY, engine=HfEngine(folder, tokenizer, device="cpu")) as served:
        yield served


@pytest.fixture
def visit(browser: Any, served: Served) -> Iterator[Visit]:
    with visiting(browser, served.base_url) as visit:
        yield visit


def limit(visit: Visit, **values: str) -> None:
    visit.at("settings-open").click()
    for name, value in values.items():
        visit.at(f"setting-{name.replace('_', '-')}").fill(value)
    visit.at("settings-close").click()


def test_a_seed_draws_the_same_again_and_another_one_does_not(visit: Visit) -> None:
    seen = []
    for seed in ("7", "7", "8"):
        visit.at("new-chat").click()
        limit(visit, max_tokens="60", seed=seed, temperature="1")
        visit.reply_to("Hello")
        assert visit.last("finish-reason").get_attribute("data-reason") in ("length", "stop")
        seen.append(visit.last("content").inner_text())
    assert seen[0] == seen[1]
    assert seen[1] != seen[2]


def test_a_reply_that_was_cut_goes_on_where_it_ended(visit: Visit) -> None:
    limit(visit, max_tokens="40", temperature="0")
    visit.reply_to("Hello")
    assert visit.last("finish-reason").get_attribute("data-reason") == "length"
    assert visit.last("meta").inner_text().startswith("40 tokens")
    visit.last("copy-message").click()
    first = visit.page.evaluate("navigator.clipboard.readText()")
    visit.last("continue").click()
    visit.until("document.querySelector('[data-testid=meta]')?.innerText.startsWith('80 tokens')")
    visit.wait()
    visit.last("copy-message").click()
    whole = visit.page.evaluate("navigator.clipboard.readText()")
    assert whole.startswith(first.rstrip("\ufffd"))
    assert len(whole) > len(first)


def test_stop_stops_the_model(visit: Visit, served: Served) -> None:
    limit(visit, temperature="0")  # of what is drawn at random, one in twelve ends before anybody could stop it
    visit.ask("Hello")
    visit.until("document.querySelector('[data-state=streaming] [data-testid=content]')?.innerText.length > 5")
    assert served.engine.num_running == 1
    visit.page.keyboard.press("Escape")
    visit.wait()
    assert visit.last("finish-reason").get_attribute("data-reason") == "stopped"
    wait_until(lambda: not served.engine.num_running)


def test_regenerate_and_edit_draw_anew(visit: Visit) -> None:
    limit(visit, max_tokens="30", temperature="1")
    visit.reply_to("Hello")
    first = visit.last("content").inner_text()
    visit.last("regenerate").click()
    visit.until("document.querySelectorAll('[data-testid=toast]').length === 1")
    visit.wait()
    assert visit.last("content").inner_text() != first
    visit.at("edit").click()
    visit.at("edit-input").fill("Good day")
    visit.at("edit-save").click()
    visit.until("document.querySelector('[data-role=user]').innerText.includes('Good day')")
    visit.wait()
    assert visit.at("message").count() == 2
