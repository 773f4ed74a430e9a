"""MT-bench's answers to a judge and back: FastChat's file of judgments, scores, and each question's outcome.

in: questions with their answers, out: `model_judgment/JUDGE_single.jsonl` or `JUDGE_pair.jsonl`, and a `Judged`
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ochatctl.bench.cost import Load, Purse
from ochatctl.bench.judge import Case, JudgeReport, Verdict, judge_all, judge_load
from ochatctl.bench.judge import Judging as Verdicts
from ochatctl.bench.judged import JUDGMENTS_DIR
from ochatctl.bench.results import Line, Result, Status
from ochatctl.bench.results import Question as Outcome
from ochatctl.bench.run import RunConfig
from ochatctl.bench.runner import Watch
from ochatctl.bench.suites.mtbench_files import Question, Texts, read_answers, write_rows
from ochatctl.bench.suites.mtbench_judge import (
    WITH_REFERENCE,
    Asked,
    Compat,
    JudgePrompt,
    pair_cases,
    prompt_name,
    read_prompts,
    single_cases,
)
from ochatctl.bench.suites.mtbench_score import Game, PairScore, Rating, SingleScore, score_pairs, score_single
from ochatctl.errors import DataError

NO_RATING = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What a judge made of a model's answers."""

    judge: JudgeReport
    path: Path
    score: SingleScore | PairScore | None
    result: Result
    num_unparsed: int
    num_asked_again: int
    errors: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judging:
    """How answers are judged: alone, or with a baseline in pairs."""

    questions: tuple[Question, ...]
    asked: tuple[Asked, ...]
    prompts: Mapping[str, JudgePrompt]
    compat: Compat | None
    baseline: str = ""
    baseline_texts: Texts | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def read(
        cls,
        questions: Sequence[Question],
        references: Path,
        prompts: Path,
        baseline: Path | None,
        compat: Compat | None,
    ) -> "Judging":
        """Read the files that the judge needs, before anything is sent.

        Raises:
            DataError: a prompt, a reference or an answer of the baseline is missing.
        """
        texts = read_answers(references).texts
        file = read_answers(baseline) if baseline is not None else None
        if baseline is not None and file is not None:
            _check_baseline(baseline, file.texts, questions)
        return cls(
            questions=tuple(questions),
            asked=tuple(_asked(question, texts, references) for question in questions),
            prompts=read_prompts(prompts),
            compat=compat,
            baseline=file.model if file is not None else "",
            baseline_texts=file.texts if file is not None else None,
            notes=tuple(f"{baseline}: question {name} is answered twice; the last counts" for name in file.duplicates)
            if file is not None
            else (),
        )

    def loads(self, texts: Texts, config: RunConfig, out_dir: Path) -> list[Load]:
        """Estimate what the judge will be sent."""
        if config.judge is None:
            return []
        return [judge_load(self._cases(texts), config.judge, out_dir / JUDGMENTS_DIR)]

    async def judge(
        self, model: str, texts: Texts, config: RunConfig, out_dir: Path, purse: Purse, watch: Watch
    ) -> Judged:
        """Have the answers judged, and write FastChat's file of judgments."""
        assert config.judge is not None
        judging = await judge_all(
            "mtbench",
            self._cases(texts),
            replace(config.judge, max_tries=1) if self.compat else config.judge,
            folder=out_dir / JUDGMENTS_DIR,
            watch=watch,
            purse=purse,
            yes=config.yes,
        )
        path = out_dir / "model_judgment" / config.judge.slug
        if self.baseline_texts is None:
            return self._ratings(model, texts, judging, path.with_name(f"{path.name}_single.jsonl"))
        return self._games(model, texts, judging, path.with_name(f"{path.name}_pair.jsonl"))

    def _cases(self, texts: Texts) -> list[Case[Any]]:
        if self.baseline_texts is None:
            return [*single_cases(self.asked, texts, self.prompts, self.compat)]
        return [*pair_cases(self.asked, texts, self.baseline_texts, self.prompts, self.compat)]

    def _ratings(self, model: str, texts: Texts, judging: Verdicts[Any], path: Path) -> Judged:
        by_id = {verdict.case.id: verdict for verdict in judging.verdicts}
        rows, ratings = [], []
        for question, asked, turn, (verdict,) in self._turns(by_id, "{question}:{turn}"):
            if (row := _single_row(model, judging.judge.name, asked, turn, verdict)) is None:
                continue
            rows.append(row)
            ratings.append(
                Rating(
                    model=model,
                    question_id=question.question_id,
                    category=question.category,
                    turn=turn,
                    score=verdict.value,
                )
            )
        write_rows(path, rows)
        scores = score_single(ratings)
        points = {(rating.question_id, rating.turn): rating.score for rating in ratings}
        outcomes = [self._outcome(question, texts, points, by_id) for question in self.questions]
        return self._judged(judging, path, scores[0] if scores else None, model, outcomes)

    def _games(self, model: str, texts: Texts, judging: Verdicts[Any], path: Path) -> Judged:
        # Two checkpoints of one name are two players all the same.
        baseline = self.baseline if self.baseline != model else f"{model} (baseline)"
        by_id = {verdict.case.id: verdict for verdict in judging.verdicts}
        rows, games = [], []
        for question, asked, turn, verdicts in self._turns(by_id, "{question}:{turn}:g1", "{question}:{turn}:g2"):
            first, second = verdicts
            if (row := _pair_row(model, baseline, judging.judge.name, asked, turn, first, second)) is None:
                continue
            rows.append(row)
            games.append(
                Game(
                    model_1=model,
                    model_2=baseline,
                    question_id=question.question_id,
                    category=question.category,
                    turn=turn,
                    g1_winner=row["g1_winner"],
                    g2_winner=row["g2_winner"],
                )
            )
        write_rows(path, rows)
        scores = score_pairs(games, baseline)
        points = {(game.question_id, game.turn): None if game.is_error else game.points(model) for game in games}
        outcomes = [self._outcome(question, texts, points, by_id) for question in self.questions]
        return self._judged(judging, path, scores[0] if scores else None, model, outcomes)

    def _turns(
        self, by_id: Mapping[str, Verdict[Any]], *names: str
    ) -> Iterable[tuple[Question, Asked, int, list[Verdict[Any]]]]:
        """Give each judged turn with its verdicts, in the order of the questions."""
        for question, asked in zip(self.questions, self.asked, strict=True):
            for turn in range(1, asked.num_judged + 1):
                ids = [name.format(question=question.question_id, turn=turn) for name in names]
                if all(case_id in by_id for case_id in ids):
                    yield question, asked, turn, [by_id[case_id] for case_id in ids]

    def _outcome(
        self,
        question: Question,
        texts: Texts,
        points: Mapping[tuple[Any, int], float | None],
        by_id: Mapping[str, Verdict[Any]],
    ) -> Outcome:
        """Give a question's scores by turn, with its transcript for the reader of a report."""
        question_id = question.question_id
        num_judged = min(2, len(question.turns))
        scores = {
            str(turn): score
            for turn in range(1, num_judged + 1)
            if (score := points.get((question_id, turn))) is not None
        }
        lines: list[Line] = []
        answers = texts.get(question_id, ())
        for turn, text in enumerate(question.turns, start=1):
            lines.append(Line(role="user", text=text))
            lines += [Line(role="assistant", text=answer) for answer in answers[turn - 1 : turn]]
            ids = (f"{question_id}:{turn}", f"{question_id}:{turn}:g1", f"{question_id}:{turn}:g2")
            records = [by_id[case_id].record for case_id in ids if case_id in by_id]
            lines += [Line(role="judge", text=record.text) for record in records if record and record.text is not None]
        return Outcome(
            id=str(question_id),
            group=question.category,
            scores=scores,
            status=_status(num_judged, scores, question_id, points),
            transcript=tuple(lines),
        )

    def _judged(
        self,
        judging: Verdicts[Any],
        path: Path,
        score: SingleScore | PairScore | None,
        model: str,
        outcomes: list[Outcome],
    ) -> Judged:
        is_pair = self.baseline_texts is not None
        protocol = {"mode": "pairwise" if is_pair else "single", "reading": self.compat or "ochatctl"}
        return Judged(
            judge=judging.judge,
            path=path,
            score=score,
            result=Result(
                suite="mtbench",
                model=model,
                measure="win rate" if is_pair else "score",
                unit="ratio" if is_pair else "points",
                questions=tuple(outcomes),
                judge=judging.judge.name,
                protocol=protocol | ({"baseline": self.baseline} if is_pair else {}),
                notes=(*self.notes, *judging.notes),
            ),
            num_unparsed=judging.num_unparsed,
            num_asked_again=judging.num_asked_again,
            errors=judging.errors,
        )


def _asked(question: Question, references: Texts, path: Path) -> Asked:
    needs_reference = question.category in WITH_REFERENCE
    reference = references.get(question.question_id, ()) if needs_reference else ()
    if needs_reference and len(reference) < min(2, len(question.turns)):
        raise DataError(
            f"{path}: no reference answer to question `{question.question_id}`, whose category is "
            f"`{question.category}`",
            hint="name the file with `--references FILE`",
        )
    return Asked(
        question_id=question.question_id, turns=question.turns, needs_reference=needs_reference, reference=reference
    )


def _check_baseline(path: Path, texts: Texts, questions: Sequence[Question]) -> None:
    missing = [question for question in questions if len(texts.get(question.question_id, ())) < len(question.turns)]
    if missing:
        raise DataError(f"{path}: no whole answer to question `{missing[0].question_id}`")


def _status(num_judged: int, scores: Mapping[str, float], question_id: Any, points: Mapping[Any, Any]) -> Status:
    if len(scores) == num_judged:
        return "scored"
    unread = any((question_id, turn) in points for turn in range(1, num_judged + 1) if str(turn) not in scores)
    return "unreadable" if unread else "error"


def _single_row(model: str, judge: str, asked: Asked, turn: int, verdict: Verdict[float]) -> dict[str, Any] | None:
    """Give FastChat's row; none of a judgment that never came. An unparsed one has their -1, which no average sees."""
    if verdict.record is None or verdict.record.text is None:
        return None
    return {
        "question_id": asked.question_id,
        "model": model,
        "judge": [judge, prompt_name("single", asked, turn)],
        "user_prompt": verdict.case.prompt,
        "judgment": verdict.record.text,
        "score": _plain(verdict.value),
        "turn": turn,
        "tstamp": verdict.record.time,
    }


def _pair_row(
    model: str,
    baseline: str,
    judge: str,
    asked: Asked,
    turn: int,
    first: Verdict[str],
    second: Verdict[str],
) -> dict[str, Any] | None:
    if first.record is None or first.record.text is None or second.record is None or second.record.text is None:
        return None
    return {
        "question_id": asked.question_id,
        "model_1": model,
        "model_2": baseline,
        "g1_winner": {"A": "model_1", "B": "model_2", "tie": "tie"}.get(first.value or "", "error"),
        "g2_winner": {"A": "model_2", "B": "model_1", "tie": "tie"}.get(second.value or "", "error"),
        "judge": [judge, prompt_name("pair", asked, turn)],
        "g1_user_prompt": first.case.prompt,
        "g1_judgment": first.record.text,
        "g2_user_prompt": second.case.prompt,
        "g2_judgment": second.record.text,
        "turn": turn,
        "tstamp": second.record.time,
    }


def _plain(value: float | None) -> float | int:
    """Give a number as the judge wrote it: 8, not 8.0."""
    if value is None:
        return NO_RATING
    return int(value) if value.is_integer() else value
