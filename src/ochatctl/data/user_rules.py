"""Rules of the user's own: each public function of a Python file is one.

    from ochatctl.chat.conversation import Conversation

    def no_shouting(conversation: Conversation) -> Conversation | str:
        if any(message.content.isupper() for message in conversation.messages):
            return "shouts"              # left out, for this reason
        return conversation              # kept; or a changed copy, made by dataclasses.replace

It sees one conversation at a time, after the built-in rules, and may be called in several processes: it must remember
nothing. A `Rejected` says more than a reason.
"""

import dataclasses
import importlib.util
import inspect
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ochatctl.chat.conversation import Conversation, parse_conversation, to_json
from ochatctl.data.formats import Draft, Rejected
from ochatctl.errors import DataError

_INTERFACE_HINT = (
    "a rule is a function that takes a conversation, and gives it, changed or not, or the reason against it"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class UserRule:
    """One function of a rule file. `name` is `FILE:FUNCTION`, the file without its `.py`."""

    name: str
    path: Path
    function: Callable[[Conversation], Any]

    def __call__(self, draft: Draft) -> Draft | Rejected:
        """Apply it.

        Raises:
            DataError: the function raised, or gave something else; names the file, and what was raised.
        """
        try:
            result = self.function(draft.conversation)
        except Exception as error:
            raise DataError(f"{self._where} raised {_last_line(error)}", hint=_line_hint(error)) from error
        if isinstance(result, str) and result.strip():
            return Rejected(reason=result.strip(), detail=f"`{self.name}`")
        if isinstance(result, Rejected):
            return result
        if not isinstance(result, Conversation):
            raise DataError(f"{self._where} gave `{type(result).__name__}`", hint=_INTERFACE_HINT)
        if result == draft.conversation:
            return draft
        try:
            parse_conversation(to_json(result), where="")
        except (DataError, AttributeError, TypeError) as error:
            raise DataError(f"{self._where} gave a malformed conversation{error}", hint=_INTERFACE_HINT) from error
        return dataclasses.replace(draft, conversation=result, mended=(*draft.mended, f"changed by `{self.name}`"))

    @property
    def _where(self) -> str:
        return f"{self.path}: the rule `{self.function.__name__}`"


def load_rule_files(paths: Iterable[Path]) -> list[UserRule]:
    """Run each file, and give its public functions in the order in which it defines them.

    Raises:
        DataError: missing, raises when it is run, or has no rule; two files have one name.
    """
    rules: list[UserRule] = []
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: no such rule file")
        if any(rule.path.stem == path.stem for rule in rules):
            raise DataError(f"{path}: another rule file is named `{path.stem}` too", hint="rename one of them")
        spec = importlib.util.spec_from_file_location(f"ochatctl_rules_of_the_user.{path.stem}", path)
        if spec is None or spec.loader is None:
            raise DataError(f"{path}: not a Python file", hint="a rule file ends in `.py`")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise DataError(f"{path}: cannot be loaded: {_last_line(error)}", hint=_line_hint(error)) from error
        # What the file imports is none of its rules.
        own = [
            UserRule(name=f"{path.stem}:{name}", path=path, function=value)
            for name, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
        ]
        if not own:
            raise DataError(f"{path}: has no public function", hint=_INTERFACE_HINT)
        rules += own
    return rules


def _last_line(error: Exception) -> str:
    return traceback.format_exception_only(error)[-1].strip()


def _line_hint(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"see {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
