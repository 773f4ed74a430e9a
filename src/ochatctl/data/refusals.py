"""The phrases by which an answer is known for a refusal, and the rule that takes such an answer out of the loss."""

import dataclasses
from collections.abc import Sequence

from ochatctl.data.formats import Draft, Rejected

# OpenChat 3.2.2 lacks the commas between these five, so that there they are one phrase, which matches nothing.
FUSED_IN_OPENCHAT = (
    "prioritize human safety",
    "ethical principles",
    "harmful to human beings",
    "September 2021",
    "as a language model",
)
# Source: OpenChat 3.2.2 (Apache-2.0), which took them from ShareGPT_Vicuna_unfiltered and OpenOrca.
PHRASES = (
    *FUSED_IN_OPENCHAT,
    "ethical guidelines",
    "as an AI language model",
    "my guidelines",
    "As an AI",
    "prioritize user safety",
    "adhere to ethical guidelines",
    "harmful consequences",
    "potentially harmful",
    "dangerous activities",
    "promote safety",
    "well-being of all users",
    "responsible information sharing",
    "jeopardize the safety",
    "illegal actions or intentions",
    "undermine the stability",
    "promote the well-being",
    "illegal activities or actions",
    "adherence to the law",
    "potentially be harmful",
    "illegal substances or activities",
    "committed to promoting",
    "safe information",
    "lawful information",
    "cannot provide guidance",
    "cannot provide information",
    "unable to offer assistance",
    "cannot engage in discussions",
    "programming prohibits",
    "follow ethical guidelines",
    "ensure the safety",
    "involves an illegal subject",
    "prioritize safety",
    "illegal subject",
    "prioritize user well-being",
    "cannot support or promote",
    "activities that could harm",
    "pose a risk to others",
    "against my programming",
    "activities that could undermine",
    "potentially dangerous",
    "not within the scope",
    "designed to prioritize safety",
    "not able to provide",
    "maintain user safety",
    "adhere to safety guidelines",
    "dangerous or harmful",
    "cannot provide any information",
    "focus on promoting safety",
    "como modelo de lenguaje AI",
    "Lo siento, como modelo de lenguaje",
    "no puedo proporcionar",
    "pero debido a mi capacidad para generar códigos complejos y completos es limitado",
    "Lo siento, pero no puedo",
    "Lo siento, pero como modelo de lenguaje, no puedo proporcionar",
    "Lo siento, como modelo de lenguaje, no tengo",
    "Lo siento, debe haber habido una confusión",
    "Lo siento, como modelo de lenguaje, no puedo realizar",
    "Lo siento, soy un modelo de lenguaje y no tengo la capacidad de generar",
    "Lamento no poder proporcionarte el código",
    "Desculpe-me, mas a linguagem vulgar e ofensiva",
    "apropriada em nenhum contexto",
    "Como modelo de linguagem",
    "Como um modelo de linguagem, não tenho a capacidade de",
)
PHRASES_AS_3_2_2 = ("".join(FUSED_IN_OPENCHAT), *PHRASES[len(FUSED_IN_OPENCHAT) :])


class UnweighRefusals:
    """Gives each answer that holds one of the phrases, in any case, the weight 0; the conversation stays."""

    def __init__(self, phrases: Sequence[str] = PHRASES) -> None:
        self._phrases = tuple(phrase.lower() for phrase in phrases)

    def __call__(self, draft: Draft) -> Draft | Rejected:
        messages = list(draft.conversation.messages)
        num_found = 0
        for index, message in enumerate(messages):
            if message.role == "assistant" and message.loss_weight and self._found_in(message.content):
                messages[index] = dataclasses.replace(message, weight=0.0)
                num_found += 1
        if not num_found:
            return draft
        if not any(message.loss_weight for message in messages):
            return Rejected(reason="every answer is a refusal", detail=f"{num_found} of them")
        conversation = dataclasses.replace(draft.conversation, messages=tuple(messages))
        return dataclasses.replace(
            draft, conversation=conversation, mended=(*draft.mended, "refusals taken out of the loss")
        )

    def _found_in(self, text: str) -> bool:
        lower = text.lower()
        return any(phrase in lower for phrase in self._phrases)
