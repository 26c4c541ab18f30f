"""`llm-unlearn run sequence`: requests to forget, one after the other, each from the model that the last one left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from llm_unlearn.arguments.help_text import init_fields
from llm_unlearn.arguments.parsing import arguments_to_dict
from llm_unlearn.arguments.ranges import COUNT, check_ranges
from llm_unlearn.data import UnlearningData, template_key
from llm_unlearn.data.identity import labels_of
from llm_unlearn.data.validation import split_rows
from llm_unlearn.errors import InputError
from llm_unlearn.examining.abilities import ability_scores, judged_sets
from llm_unlearn.examining.price import lowest_of_means, reference_abilities
from llm_unlearn.examining.results import reference_models
from llm_unlearn.files.audit_trail import FILE, append_line, read_trail, row_digest
from llm_unlearn.files.outcomes import digest_of, remember
from llm_unlearn.files.run_folder import locked, model_identity
from llm_unlearn.files.whole import write_json
from llm_unlearn.models.judging import Records, judge
from llm_unlearn.planning.groups import rows_by_label
from llm_unlearn.planning.requests import judgment, of_earlier
from llm_unlearn.planning.tow import tug_of_war_of
from llm_unlearn.reporting.planning_figures import sequence_figure
from llm_unlearn.reporting.planning_tables import print_sequence, request_words
from llm_unlearn.runs.chain import Chain, Step, parse_chain
from llm_unlearn.runs.compared_methods import method_of

LOCAL = ("output_dir", "logging_dir", "run_name", "hub_model_id")  # names of this machine, in no audit trail

console = Console(highlight=False)


@dataclass
class SequenceArguments:
    """What a request is, and how it is served."""

    request_column: str = field(
        default="person", metadata={"help": "Column of the forget rows: rows with one value are one request."}
    )
    requests: int | None = field(
        default=None,
        metadata={
            "help": "So many requests, in the order of the rows; rows of later ones are neither forgotten nor kept. "
            "Default: all."
        },
    )
    method: str = field(
        default="npo", metadata={"help": "The method of every request, as `run robustness` takes it: npo:beta=0.1."}
    )

    forget_again: bool = field(
        default=False,
        metadata={
            "help": "Each request forgets the rows of all earlier ones once more, lest it bring them back: they have "
            "to be kept for that, and a request takes longer the later it comes."
        },
    )

    def __post_init__(self):
        check_ranges(self, {"requests": COUNT})
        method_of(self.method)

    def chosen(self, data: UnlearningData) -> tuple[UnlearningData, list[Step]]:
        """The data of the requests alone, and a step for each; steps have numbers for names, not those of people.

        Raises:
            InputError: there is no such column, a row has no value there, or there are fewer requests.
        """
        groups = [*rows_by_label(data.forget, self.request_column, "request_column").values()]
        if self.requests is not None and self.requests > len(groups):
            raise InputError(
                f"requests={self.requests}: column {self.request_column!r} has {len(groups)} values; ask for no more"
            )
        groups = groups[: self.requests]
        order = [row for rows in groups for row in rows]
        steps, start = [], 0
        for number, rows in enumerate(groups, 1):
            steps.append(Step(f"request {number}", self.method, tuple(range(start, start + len(rows)))))
            start += len(rows)
        return of_rows(data, order), steps


def of_rows(data: UnlearningData, rows: Sequence[int]) -> UnlearningData:
    """The data with these of its forget rows, and the other questions that ask for their facts."""
    forget = data.forget.select(rows)
    facts = set(labels_of(forget, "fact_id"))
    queries = {
        style: asked.select([number for number, fact in enumerate(labels_of(asked, "fact_id")) if fact in facts])
        for style, asked in data.queries.items()
    }
    return replace(data, forget=forget, queries={style: asked for style, asked in queries.items() if len(asked)})


def requested(data: UnlearningData, folder: Path) -> UnlearningData:
    """The data with those of its forget rows that the audit trail in a folder names, in its order: all are there."""
    numbers = {row_digest(*pair): number for number, pair in enumerate(split_rows(data.forget, "forget set"))}
    return of_rows(data, [numbers[row] for line in read_trail(folder) for row in line["rows"]])


@dataclass
class Requests:
    """What is measured after each request.

    Attributes:
        chain: with a step for each request.
    """

    chain: Chain
    oracles: list[str]

    @cached_property
    def references(self) -> dict[str, Any]:
        """{"abilities": what original and oracles can do, "probability": of each forget row, in the mean oracle}."""
        judged = self.chain.examination.judged
        models = reference_models(self.chain.original, self.oracles)
        identities = {name: model_identity(path) for name, path in models.items()}
        key = ["sequence references", identities, self._judged_by(judged.sets)]

        def compute() -> dict:
            records = {name: self._judge(path, judged.sets) for name, path in models.items()}
            abilities = {name: ability_scores(found, judged) for name, found in records.items()}
            oracles = [probabilities(found) for name, found in records.items() if name != "original"]
            mean = [fmean(values) for values in zip(*oracles, strict=True)] if oracles else None
            return {"abilities": reference_abilities(abilities), "probability": mean}

        return remember(self.chain.output / "references.json", key, compute)

    def serve(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Serve all requests: unlearn, measure and note each; returns what `Chain.run` does, and that with `after`.

        Raises:
            InputError: as `check_trail`, `Chain.check` and `Chain.run`.
        """
        self.check_trail()
        self.chain.check()
        models, served = [model_identity(self.chain.original)], []

        def finished(number: int, outcome: dict[str, Any], path: str) -> None:
            found = self.after(number, outcome, path)
            self.note(number, models[-1], outcome, found)
            models.append(outcome["weights"])
            served.append({"request": number + 1, "rows": len(self.chain.steps[number].rows), **outcome, **found})
            console.print(request_words(served[-1]), markup=False, soft_wrap=True)

        return self.chain.run(finished), served

    def after(self, number: int, outcome: dict[str, Any], path: str) -> dict[str, Any]:
        """What is left of requests 0 to `number`, and what was lost so far.

        Answers are compared with made-up ones of requests that are done, too: of whom a model still knows, it knows
        whose the answers are.

        Args:
            outcome: of the step. path: of the model after it.

        Returns:
            {"knowledge", "probability", "exact_match": for each request so far (knowledge is None where no other
            answer is of a kind), "oracle_probability": likewise, or None without an oracle, "kept": share of the lowest
            ability, "lowest_ability", "judgment"}.
        """
        examination, steps = self.chain.examination, self.chain.steps[: number + 1]
        data = of_rows(examination.data, [row for step in steps for row in step.rows])
        own = judged_sets(data, examination.kinds, None, examination.attack_args.judged_retain_rows).sets
        abilities = examination.judged
        sets = {name: rows for name, rows in own.items() if name.startswith("forget")}
        sets |= {name: rows for name, rows in abilities.sets.items() if not name.startswith("forget")}
        references = self.references
        key = ["after a request", outcome["weights"], references, self._judged_by(sets)]

        def compute() -> dict:
            records = self._judge(path, sets)
            rows = [step.rows for step in steps]  # the steps are in the order of the rows
            wins = {}
            if "forget_knowledge" in records:
                wins = {int(row): one["wins"] for row, one in records["forget_knowledge"]["value_by_index"].items()}
            hits = [one["score"] for one in records["forget_exact_match"]["value_by_index"].values()]
            oracle = references["probability"]
            lowest = lowest_of_means(ability_scores(records, abilities), references["abilities"])
            return {
                "knowledge": [_mean([win for row in part for win in wins.get(row, ())]) for part in rows],
                "probability": _means(probabilities(records), rows),
                "exact_match": _means(hits, rows),
                "oracle_probability": oracle and _means(oracle, rows),
                "kept": lowest and lowest[1],
                "lowest_ability": lowest and lowest[0],
            }

        found = remember(self.chain.folder(number) / "measured.json", key, compute)
        limits = self.chain.config.stopping_thresholds
        return found | {"judgment": judgment(found, outcome["stopped_by"] is not None, bool(limits))}

    def _judge(self, path: str, sets: dict) -> Records:
        examination = self.chain.examination
        model, settings = examination.load_model(path), {"max_length": examination.max_length}
        return judge(model, examination.processing_class, sets, batch_size=examination.batch_size, **settings)

    def _judged_by(self, sets: dict) -> list:
        examination = self.chain.examination
        rows = {name: rows.to_list() for name, rows in sets.items()}
        template = template_key(examination.processing_class)
        return [digest_of(rows), examination.max_length, examination.data_args.dtype, template]

    # ---- the trail -----------------------------------------------------------------------------------------------

    def check_trail(self) -> None:
        """Refuse a folder whose trail is about something else: before a model that it names is written over.

        Raises:
            InputError: a line is about other rows or settings, or there are more of them than requests.
        """
        path, lines = self.chain.output / FILE, read_trail(self.chain.output)
        if len(lines) > len(self.chain.steps):
            raise InputError(f"{path} has more lines than there are requests: give another --output_dir")
        for number, line in enumerate(lines):
            if line["rows"] != self._digests(number) or line["settings"] != self.settings:
                raise InputError(
                    f"{path}, line {number + 1} is about other rows or settings than this run's request {number + 1}: "
                    "give another --output_dir"
                )

    def note(self, number: int, before: dict[str, str], outcome: dict[str, Any], found: dict[str, Any]) -> None:
        """Write the request's line of the audit trail, if it is not there yet.

        Raises:
            InputError: the line that is there is about another model.
        """
        lines = read_trail(self.chain.output)
        if number < len(lines):
            if (lines[number]["before"], lines[number]["after"]) != (before, outcome["weights"]):
                raise InputError(
                    f"{self.chain.output / FILE}, line {number + 1} is about another model than this run's request "
                    f"{number + 1}: give another --output_dir"
                )
            return
        verdict = {name: found[name] for name in ("judgment", "kept", "lowest_ability")}
        verdict |= {"stopped_by": outcome["stopped_by"], "steps": outcome["steps"]}
        for score in ("knowledge", "probability"):
            verdict |= {score: found[score][-1], f"{score}_of_earlier": of_earlier(found[score])}
        sides = {"before": before, "after": outcome["weights"]}
        rows = self._digests(number)
        append_line(self.chain.output, rows=rows, settings=self.settings, verdict=verdict, **sides)

    def _digests(self, number: int) -> list[str]:
        return [row_digest(*pair) for pair in split_rows(self.chain.forget_of(number), "forget set")]

    @property
    def settings(self) -> dict[str, Any]:
        """The method, the seed, and what differs from its defaults."""
        chain = self.chain
        configurations = (chain.config_of(0), chain.adapter_args)
        shown = {k: v for group in arguments_to_dict(*configurations).values() for k, v in group.items()}
        defaults = {one.name: one.default for made in configurations for one in init_fields(type(made))}
        differing = {name: value for name, value in shown.items() if value != defaults[name] and name not in LOCAL}
        again = {"forget_again": True} if chain.again else {}
        return {"method": chain.steps[0].method, "seed": chain.config.seed, **again, **differing}


def sequence(description: str, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Serve requests one after the other; prints, writes and returns {"config", "method", "requests", "tug_of_war"}.

    Raises:
        InputError: arguments, requests or data that cannot be used, or a trail of other requests in the folder.
    """
    arguments, data, examination, original, oracles = parse_chain(
        (SequenceArguments,), argv, description, "outputs/sequence"
    )
    _, sequence_args, adapter_args, _, config = arguments
    if examination is None:
        return {}
    chosen, steps = sequence_args.chosen(data)
    examination = replace(examination, data=chosen).checked()
    chain = Chain(steps, config, adapter_args, examination, original, again=sequence_args.forget_again)
    with locked(config.output_dir) as folder:
        done, served = Requests(chain, oracles).serve()
        shown = arguments_to_dict(*arguments)
        method = method_of(sequence_args.method).method.trainer
        described = {"method": "sequence", "paper": method.paper and method.paper._asdict()}
        described["method_title"] = f"{method.method_title or method.method_name}, {len(steps)} requests in sequence"
        results = chain.conclude(done, described, shown, oracles)
        found = {"config": shown, "method": sequence_args.method, "requests": served}
        found["tug_of_war"] = tug_of_war_of(results)
        write_json(folder / "sequence.json", found)
        sequence_figure(found, folder / "sequence.png")
    print_sequence(found, folder)
    return found


def probabilities(records: Records) -> list[float]:
    """The answer probability of each forget row."""
    return [one["prob"] for one in records["forget_Q_A_Prob"]["value_by_index"].values()]


def _means(values: Sequence[float], parts: Sequence[Sequence[int]]) -> list[float]:
    return [fmean(values[row] for row in rows) for rows in parts]


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
