"""What a trained model of the sample chats answers, drawn greedily by transformers itself."""

from pathlib import Path

from ochatctl.chat.conversation import Conversation, Message
from ochatctl.chat.families import load_family

CONDITION = "GPT4"
MAX_TOKENS = 48


def greedy_answer(folder: Path, question: str) -> tuple[str, bool]:
    """Give an answer's text, and whether the model ended it by its end-of-turn token."""
    import torch
    from transformers import AutoModelForCausalLM

    family, tokenizer = load_family(folder)
    asked = Conversation(messages=(Message(role="user", content=question),), condition=CONDITION)
    prompt = family.template.encode(asked, tokenizer, inference=True).token_ids
    eot_id = family.template.eot_id(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=MAX_TOKENS,
        do_sample=False,
        eos_token_id=eot_id,
        pad_token_id=eot_id,
    )
    answer = out[0, len(prompt) :].tolist()
    has_ended = answer[-1] == eot_id
    return tokenizer.decode(answer[:-1] if has_ended else answer), has_ended
