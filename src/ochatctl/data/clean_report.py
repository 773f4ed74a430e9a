"""What became of every item of the input, in figures; it is written beside the output, and printed."""

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

FORMAT = "ochatctl.data.clean"
VERSION = 1
BUILT_IN = "built in"


@dataclass(kw_only=True, slots=True)
class Tally:
    """How many items of the input a reason took, and the place of the first."""

    count: int
    where: str
    detail: str


@dataclass(kw_only=True, slots=True)
class CleanReport:
    """What became of every item of the input: `num_input` = `num_kept_items` + the counts in `rejected`.

    `num_kept` counts what was written; one conversation may stand for several items, which the rule `join` joined.
    `mended` counts conversations by what was changed in them, `conditions` those that were kept. `rule_sources` says
    where each of the rules came from.
    """

    rules: list[str]
    rule_sources: dict[str, str] = field(default_factory=dict)
    num_input: int = 0
    num_kept: int = 0
    num_kept_items: int = 0
    num_documents: int = 0
    rejected: dict[str, Tally] = field(default_factory=dict)
    mended: Counter[str] = field(default_factory=Counter)
    conditions: Counter[str] = field(default_factory=Counter)
    settings: dict[str, Any] = field(default_factory=dict)
    out_path: str = ""
    rejected_path: str = ""
    report_path: str = ""

    @property
    def num_rejected(self) -> int:
        """How many items were left out."""
        return sum(tally.count for tally in self.rejected.values())

    def count_rejected(self, reason: str, detail: str, *, where: str, num_items: int) -> None:
        """Count items that a reason took."""
        self.rejected.setdefault(reason, Tally(count=0, where=where, detail=detail)).count += num_items

    def check(self) -> None:
        """Assert that every item was counted exactly once."""
        assert self.num_input == self.num_kept_items + self.num_rejected, self

    def to_json(self) -> dict[str, Any]:
        """Give the JSON object that is written beside the output."""
        figures = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        # `asdict` would rebuild a Counter from its pairs, and count those.
        figures["rejected"] = {reason: dataclasses.asdict(tally) for reason, tally in self.rejected.items()}
        return {"format": FORMAT, "version": VERSION, **figures}

    def to_text(self) -> str:
        """Give the report for people: what was read, kept and mended, and each reason with its first place."""
        sources = {name: source for name, source in self.rule_sources.items() if source != BUILT_IN}
        rules = [f"{name} ({sources[name]})" if name in sources else name for name in self.rules]
        lines = [
            f"rules: {', '.join(rules) or 'none'}",
            f"{self.num_input:>9,} conversation{'s' * (self.num_input != 1)} read",
        ]
        joined = f", of {self.num_kept_items:,} read" if self.num_kept_items != self.num_kept else ""
        lines.append(f"{self.num_kept:>9,} kept{joined} -> {self.out_path}")
        for condition, count in sorted(self.conditions.items()):
            lines.append(f"{count:>14,} {f'condition {condition}' if condition else 'without a condition'}")
        if self.num_documents:
            lines.append(f"{self.num_documents:>14,} plain text{'s' * (self.num_documents != 1)}")
        lines += [f"{count:>14,} mended: {what}" for what, count in self.mended.most_common()]
        lines.append(f"{self.num_rejected:>9,} rejected -> {self.rejected_path}")
        for reason, tally in sorted(self.rejected.items(), key=lambda pair: -pair[1].count):
            detail = f", {tally.detail}" if tally.detail else ""
            lines.append(f"{tally.count:>14,} {reason} (first: {tally.where}{detail})")
        return "\n".join(lines)
