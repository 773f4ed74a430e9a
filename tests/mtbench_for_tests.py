"""MT-bench in small: questions, references and judge prompts of our own, and a judge's words by what it is asked."""

import hashlib
import json
from pathlib import Path
from typing import Any

ROWS: list[dict[str, Any]] = [
    {"question_id": 81, "category": "writing", "turns": ["Write a line.", "Now shorter."]},
    {"question_id": 91, "category": "roleplay", "turns": ["Be a pirate.", "Say goodbye."]},
    {"question_id": 111, "category": "math", "turns": ["1 + 1?", "Twice that?"], "reference": ["2", "4"]},
    {"question_id": 141, "category": "stem", "turns": ["What is light?", "How fast?"]},
    {"question_id": 900, "category": "other", "turns": ["Hello?"]},
    {"question_id": 901, "category": "writing", "turns": ["Rhyme."], "required_temperature": 0.2},
]
REFERENCES = [{"question_id": 111, "model_id": "ref", "choices": [{"index": 0, "turns": ["It is 2.", "It is 4."]}]}]


def judge_prompts() -> list[dict[str, str]]:
    """Give FastChat's eight by name, in our words."""
    out = []
    for kind, slots in (("single-v1", ("answer",)), ("pair-v2", ("answer_a", "answer_b"))):
        for math in (False, True):
            name = {"single-v1": "single-math-v1", "pair-v2": "pair-math-v1"}[kind] if math else kind
            one = [
                "Q: {question}",
                *(["R: {ref_answer_1}"] if math else []),
                *(f"{slot}: {{{slot}}}" for slot in slots),
            ]
            two = ["Q1: {question_1}", "Q2: {question_2}"]
            two += ["R1: {ref_answer_1}", "R2: {ref_answer_2}"] if math else []
            two += [f"{slot}: {{{slot}_1}} / {{{slot}_2}}" for slot in slots]
            mark = "[[rating]]" if kind == "single-v1" else "[[A]]"
            for suffix, lines in (("", one), ("-multi-turn", two)):
                out.append(
                    {
                        "name": name + suffix,
                        "type": "single",
                        "system_prompt": f"Judge {name}{suffix}.",
                        "prompt_template": "\n".join(lines),
                        "output_format": mark,
                    }
                )
    return out


def write_files(folder: Path, rows: list[dict[str, Any]] = ROWS) -> dict[str, Path]:
    """Write the three files; the keys are those of `MtBench`."""
    files = {
        "questions": ("question.jsonl", rows),
        "references": ("reference.jsonl", REFERENCES),
        "judge_prompts": ("judge_prompts.jsonl", judge_prompts()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in files.values():
        (folder / name).write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return {key: folder / name for key, (name, _) in files.items()}


def words(prompt: str) -> str:
    """Give a judge's words, by the prompt alone: a rating, or who won where there are two."""
    byte = hashlib.sha256(prompt.encode()).digest()[0]
    if "answer_b: " in prompt:
        return f"I compared both. [[{'ABC'[byte % 3]}]]"
    return f"Good enough. Rating: [[{byte % 10 + 1}]]"
