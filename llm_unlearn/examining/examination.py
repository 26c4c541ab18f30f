"""Score and attack the original, its oracles and the unlearned model, all in the same way."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.arguments.attacking import AttackArguments
from llm_unlearn.arguments.groups import DataArguments
from llm_unlearn.arguments.parsing import is_main_process
from llm_unlearn.attacks import load_attack
from llm_unlearn.attacks.attack import SAMPLE_TOKENS, Target, groups_of
from llm_unlearn.attacks.copies import merged_copy
from llm_unlearn.attacks.counterfactual import PERTURBED, counterfactual_rows, knowledge_excess
from llm_unlearn.attacks.prompting import asked_otherwise
from llm_unlearn.attacks.relearning import forgotten_rows, split_facts
from llm_unlearn.data import UnlearningData, encode_dataset, row_format, template_key
from llm_unlearn.data.identity import facts_of
from llm_unlearn.data.instructions import load_instructions
from llm_unlearn.data.made_up import kind_column
from llm_unlearn.errors import InputError
from llm_unlearn.examining.abilities import RETAIN, JudgedSets, ability_scores, judged_sets, wholly_trained
from llm_unlearn.examining.fluency import fluency_records
from llm_unlearn.examining.generation import generation_key, how_answers_came, most_new_tokens
from llm_unlearn.examining.preflight import Asked, asked_by
from llm_unlearn.examining.refusals import FIRST_TOKENS, refusal_records, retain_answers
from llm_unlearn.examining.results import merge_results, reference_models
from llm_unlearn.examining.starts import check_starts
from llm_unlearn.examining.usage import forget_words
from llm_unlearn.files.batches import BatchRunner
from llm_unlearn.files.outcomes import digest_of, remember, weights_digest
from llm_unlearn.models.cache import outcomes_folder
from llm_unlearn.models.judging import Records, judge, summarize
from llm_unlearn.models.loading import quantization_config, use_suitable_cpu_threads
from llm_unlearn.models.sharding import whole_models

COUNTERFACTUAL = "counterfactual_control"


@dataclass
class Examination:
    """What models are examined with.

    Attributes:
        output_dir: folder that receives scores/MODEL.json and attacks/ATTACK-MODEL.json as soon as each is done; what
            is found there of the same weights, rows and arguments is not run again. None: nothing is kept.
        seconds: of each stage. original: the model before unlearning, which tells answers from noise (`examine` sets).
        own_refusals: sentences that count as refusals beside the standard ones.
    """

    data_args: DataArguments
    attack_args: AttackArguments
    data: UnlearningData
    processing_class: PreTrainedTokenizerBase
    device: str
    max_length: int | None = None
    batch_size: int = 64
    output_dir: str | Path | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    original: str | None = None
    own_refusals: Sequence[str] = ()

    def checked(self) -> Examination:
        """Itself, when it is known that the attacks can run: before anything is trained.

        Raises:
            InputError: no such instruction data, no retain rows to tune on, too few forget facts or groups, or no such
                column.
        """
        for name in self.attack_args.attacks:
            load_attack(name).check(self._target(name))
        _ = self.judged, self.not_attacked
        return self

    @cached_property
    def kinds(self) -> str | None:
        """The column that says which answers are of a kind."""
        if row_format(self.data.forget.column_names) == "text":  # asks nothing that another answer could be given to
            return None
        group_by = self.attack_args.counterfactual_group_by
        # Answers about one person are of different kinds: their form alone would tell the true one.
        return kind_column(self.data.forget, None if group_by in (PERTURBED, "person") else group_by)

    @cached_property
    def instructions(self) -> Dataset | None:
        """What benign tuning trains on, where it is asked for."""
        if not any("instructions" in load_attack(name).needs for name in self.attack_args.attacks):
            return None
        return load_instructions(self.attack_args.benign_data, self.data_args.embedded_size)

    @cached_property
    def not_attacked(self) -> dict[str, str]:
        """Attack -> why it cannot run, though it was asked for."""
        arguments = self.attack_args
        if not arguments.counterfactual:
            return {}
        try:
            split_facts(facts_of(self.data.forget), arguments.reinjection_fraction, seed=0)
            for seed in arguments.derangement_seeds:
                counterfactual_rows(self.data.forget, seed, arguments.counterfactual_group_by)
        except InputError as error:  # not all rows can have made-up answers; all else can still be measured
            if arguments.counterfactual_group_by is not None:
                raise
            return {COUNTERFACTUAL: str(error)}
        return {}

    @property
    def judged(self) -> JudgedSets:
        """What models are judged on."""
        return self._judged_sets[0]

    @property
    def not_measured(self) -> dict[str, str]:
        """What they are not judged on, and why."""
        return self._judged_sets[1]

    @cached_property
    def _judged_sets(self) -> tuple[JudgedSets, dict[str, str]]:
        """Rows that cannot be encoded must not cost hours of work."""
        most, not_measured = self.attack_args.judged_retain_rows, wholly_trained(self.data)
        judged = judged_sets(self.data, self.kinds, self.instructions, most)
        for name, rows in judged.sets.items():
            try:
                what = f"{name} set" if name in ("forget", "retain") else name
                encode_dataset(rows, self.processing_class, self.max_length, what)
            except InputError as error:
                asked = name.startswith("forget_") and "prompting" in self.attack_args.attacks
                if asked or name in ("forget", "retain"):
                    raise
                not_measured[name] = str(error)
        return judged.without(not_measured), not_measured

    @cached_property
    def max_new_tokens(self) -> int:
        """Of generated answers."""
        return most_new_tokens(self.judged, self.processing_class, self.max_length)

    @property
    def _generation(self) -> dict:
        """How answers are generated, as `judge` takes it."""
        return {"max_new_tokens": self.max_new_tokens, "generation_config": self.attack_args.generation_config}

    @property
    def trains_attackers(self) -> bool:
        """Whether any attack, or the control, trains copies of the models."""
        return self.attack_args.counterfactual or any(load_attack(name).trains for name in self.attack_args.attacks)

    @cached_property
    def asked(self) -> Asked:
        """The longest row of every kind that is judged or that attacks train on, for the preflight."""
        return asked_by(self)

    def _target(self, attack: str, model: PreTrainedModel | None = None, title: str = "", pool=None) -> Target:
        """What an attack is run with."""
        arguments, record = self.attack_args, load_attack(attack)
        return Target(
            model,
            self.processing_class,
            self.data,
            arguments.budget(attack) if record.trains else None,
            self.instructions if "instructions" in record.needs else None,
            title=title,
            **self._settings(attack, pool),
        )

    def _settings(self, attack: str, pool: list[int] | None) -> dict:
        arguments, needs = self.attack_args, load_attack(attack).needs
        return {
            "retain_rows": arguments.attack_retain_rows,
            "max_length": self.max_length,
            "pool": pool if "pool" in needs else None,
            "group_column": arguments.leave_out_column if "groups" in needs else None,
            "kinds": self.kinds,
            "generation_config": arguments.generation_config,
        }

    @contextmanager
    def timed(self, stage: str):
        """Adds the seconds spent inside to `seconds[stage]`."""
        started = time.monotonic()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.monotonic() - started, 2)

    def load_model(self, path: str, bits: int | None = None) -> PreTrainedModel:
        """The model at `path` on the run's device, with base weights in so many bits (4 or 8), or whole."""
        if bits is None:
            model = self.data_args.load_model(path).to(self.device)
        else:
            compute = torch.float32 if torch.device(self.device).type == "cpu" else torch.bfloat16
            model = self.data_args.load_model(path, quantization_config(bits, compute), self.device)
        use_suitable_cpu_threads(model)
        return model

    @whole_models()  # attacks are divided: no process may wait for another within one
    def examine(
        self, original: str, oracles: list[str], unlearned: PreTrainedModel | str | None
    ) -> tuple[dict, dict[str, Records]]:
        """Judge and attack all models; several processes (`RANK`, `WORLD_SIZE`) share the attacks among them.

        Args:
            original: folder or hub id of the model before unlearning.
            oracles: folders or hub ids of models that never saw the forget rows.
            unlearned: the model itself or its folder; None: only the references are examined.

        Returns:
            {"scores": {model: ...}, "abilities": {model: {ability: ...}}, "attacks": {attack: {model: ...}},
            "counterfactual": {model: ...}, "not_attacked": {attack: reason}, "not_measured": {set: reason}, "kinds":
            the column that says which answers are of a kind, "units": {set: number of the person that each row is
            about}, "style_rows": {style: the forget row that each query comes from}, "forget_groups": the person of
            each forget row, and what `how_answers_came` returns} and the per-row records of every model.
            Models are called original, oracle, oracle_1, ... and unlearned. On all processes but the main one: two
            empty dictionaries.

        Raises:
            InputError: reinjection from the pool of forgotten rows without an unlearned model.
        """
        self.original = original
        models: dict[str, PreTrainedModel | str] = reference_models(original, oracles)
        if unlearned is not None:
            models["unlearned"] = unlearned
        attacks, pool, not_attacked = [*self.attack_args.attacks], None, dict(self.not_attacked)
        if "adversarial_reinjection" in attacks and self.attack_args.reinjection_pool == "forgotten":
            pool = self.forgotten_pool(unlearned)
            fact_ids = facts_of(self.data.forget)
            facts = {fact_ids[i] for i in pool}
            if len(facts) < 2:  # known only now, when training may be done: the other results must not be lost
                attacks.remove("adversarial_reinjection")
                not_attacked["adversarial_reinjection"] = (
                    f"the unlearned model answers {len(facts)} facts wrongly, and reinjection needs two of them; "
                    "--reinjection_pool all injects facts that it knows, too"
                )
            elif is_main_process():
                print(forget_words(self.data, self.attack_args, pool))
        results, records = self.measure(models, attacks, pool)
        return (results | {"not_attacked": not_attacked} if results else {}), records

    def measure(
        self,
        models: Mapping[str, PreTrainedModel | str],
        attacks: Sequence[str] | None = None,
        pool: list[int] | None = None,
    ) -> tuple[dict, dict[str, Records]]:
        """As `examine`, of any of the models by name: what was measured apart can be put together by `merge_results`.

        Args:
            attacks: by default all that were asked for.
            pool: numbers of the forget rows that take part in reinjection; by default all.
        """
        attacks = [*self.attack_args.attacks] if attacks is None else attacks
        run = [attack for attack in attacks if attack != "prompting"]  # scored with all else that is asked
        wanted = self.attack_args.counterfactual and COUNTERFACTUAL not in self.not_attacked
        controlled = [COUNTERFACTUAL] if wanted else []
        loaders = {name: self._loader(source) for name, source in models.items()}
        outcomes, found = self._examined(models, loaders, [*run, *controlled], pool)
        if not is_main_process():
            return {}, {}
        records = {name: found[name] | refusal_records(found[name], self.own_refusals) for name in models}
        scores = {name: summarize(by_metric) for name, by_metric in records.items()}
        with self.timed("fluency"):
            self._add_fluency(records, loaders.get("original"))
        by_attack = {
            attack: {
                name: outcomes[name, attack] if attack in run else asked_otherwise(records[name], self.judged.sets)
                for name in models
            }
            for attack in attacks
        }
        results = {
            "scores": scores,
            "abilities": {name: ability_scores(records[name], self.judged) for name in models},
            "kinds": self.kinds,
            "units": self.judged.units,
            "style_rows": self.judged.style_rows,
            "not_measured": dict(self.not_measured),
            "attacks": {attack: {} for attack in self.attack_args.attacks} | by_attack,
            "counterfactual": {name: outcomes[name, COUNTERFACTUAL] for name in models} if controlled else {},
            "not_attacked": dict(self.not_attacked),
            "forget_groups": [str(group) for group in groups_of(self.data)],
            **how_answers_came(records),
        }
        return merge_results(results, {}), records

    def _loader(self, source: PreTrainedModel | str) -> Callable[[], PreTrainedModel]:
        """Gives a model, whose weights are read when they are first needed, and once."""
        return cache(lambda: self.load_model(source)) if isinstance(source, str) else lambda: source

    def _add_fluency(self, records: dict[str, Records], original: Callable[[], PreTrainedModel] | None) -> None:
        """How the original sees what every model answers to the forget questions."""
        if self.original is None:
            return
        has_oracle = bool(self.data_args.oracle_model_name_or_path) or "oracle" in records
        found = fluency_records(
            original() if original is not None else self.load_model(self.original),
            self.processing_class,
            self.data.forget,
            records,
            made_up_names="original" in records and not has_oracle,
            max_length=self.max_length,
            **self._generation,
        )
        for model, by_metric in found.items():
            records[model] |= by_metric

    def _examined(
        self,
        models: Mapping[str, PreTrainedModel | str],
        loaders: dict[str, Callable[[], PreTrainedModel]],
        attacks: list[str],
        pool: list[int] | None,
    ) -> tuple[dict[tuple[str, str], dict], dict[str, Records]]:
        """The outcome of every attack on every model, and each model's records; elsewhere what this process attacked.

        One model after the other, so that its weights are read once and only one of them is held: the original last,
        which fluency needs. Each process starts with another model, leaves alone what a process is at, and the main one
        waits for the rest.
        """
        outcomes: dict[tuple[str, str], dict] = {}
        records: dict[str, Records] = {}
        names = sorted(models, key=lambda name: name == "original")
        start = int(os.environ.get("RANK", "0")) * len(names) // int(os.environ.get("WORLD_SIZE", "1"))
        for wait in (False, True) if is_main_process() else (False,):
            for name in names[start:] + names[:start]:
                source, load = models[name], loaders[name]
                shared = outcomes_folder(source) if isinstance(source, str) else None
                if is_main_process() and name not in records:  # first, so that no attack goes on from another model
                    with self.timed("score"):
                        found = self._records(name, source, load, wait)
                    records |= {} if found is None else {name: found}
                ready = attacks if name in records or not is_main_process() else ()
                missing = [attack for attack in ready if (name, attack) not in outcomes]
                if missing:
                    identity = self._identity(source) if shared else weights_digest(merged_copy(load()))
                for attack in missing:
                    known = outcomes.get((name, "adversarial_reinjection")) if pool is None else None
                    outcome = self.attack(attack, load, name, identity, shared, pool, known, wait=wait)
                    if outcome is not None:
                        outcomes[name, attack] = outcome
                        if name in records:
                            check_starts(
                                name, records[name]["forget_Q_A_Prob"]["value_by_index"], {attack: outcome}, load
                            )
                if name != "original":  # else it is asked for its fluency next
                    loaders[name] = self._loader(source)
        return outcomes, records

    def forgotten_pool(self, unlearned: PreTrainedModel | str | None) -> list[int]:
        """Numbers of the forget rows that the unlearned model answers wrongly.

        Raises:
            InputError: there is no unlearned model.
        """
        if unlearned is None:
            raise InputError(
                "reinjection_pool='forgotten' needs an unlearned model, whose wrong answers it is made of: give "
                "--unlearned_model_name_or_path, or --reinjection_pool all"
            )
        model = self.load_model(unlearned) if isinstance(unlearned, str) else unlearned
        rows = encode_dataset(self.data.forget, self.processing_class, self.max_length, "forget set")
        return forgotten_rows(model, rows)

    def _identity(self, embedded_path: str) -> str:
        """What fixes the weights of an embedded model here: its folder's name, and the type they are loaded in."""
        return f"{embedded_path} {self.data_args.dtype}"

    def _records(self, name: str, source: PreTrainedModel | str, load: Callable, wait: bool) -> Records | None:
        """As `judge`; a folder's are kept, beside it or in the output folder. None: another process is at them."""
        shared = outcomes_folder(source) if isinstance(source, str) else None
        if shared is None and (self.output_dir is None or not isinstance(source, str)):
            return self.judge(load())
        rows = {name: dataset.to_list() for name, dataset in self.judged.sets.items()}
        generation = generation_key(load, self.processing_class, **self._generation)
        settings = [self.judged.generated, generation, self.max_length, FIRST_TOKENS, "value_said", "made_up"]
        identity = self._identity(source) if shared else weights_digest(load())
        key = ["scores", identity, rows, template_key(self.processing_class), settings]
        kept = shared / f"{digest_of(key)}.json" if shared else Path(self.output_dir) / "scores" / f"{name}.json"
        return remember(kept, key, lambda: self.judge(load()), wait=wait)

    def judge(self, model: PreTrainedModel) -> Records:
        """Per-row records on everything that models are judged on (`examining.abilities`), in one pass."""
        settings = {"batch_size": self.batch_size, "runner": BatchRunner(show_progress=is_main_process())}
        who, settings = (model, self.processing_class), settings | self._generation
        found = judge(*who, self.judged.sets, generate=self.judged.generated, max_length=self.max_length, **settings)
        return found | retain_answers(*who, self.judged.sets.get(RETAIN), **settings)

    def attack(
        self,
        attack: str,
        load: Callable[[], PreTrainedModel],
        name: str,
        identity: str,
        shared: Path | None = None,
        pool: list[int] | None = None,
        reinjection: dict | None = None,
        *,
        wait: bool = True,
    ) -> dict | None:
        """Run one attack, or the counterfactual control, on a copy of a model, or remember its outcome.

        Args:
            load: gives the model; not asked where the outcome is remembered.
            name: what the model is called here.
            identity: what fixes its weights.
            shared: folder with outcomes of this model from other runs.
            pool: numbers of the forget rows that take part in reinjection; by default all.
            reinjection: outcome of plain reinjection on this model, where it is known already.
            wait: for another process that is at it; otherwise the answer is None.
        """
        arguments, title = self.attack_args, f"{attack.replace('_', ' ')} of {name}"
        if attack == COUNTERFACTUAL:
            budget = arguments.budget(attack)
            settings = {"group_by": arguments.counterfactual_group_by, "max_length": self.max_length}
            control = (self.processing_class, self.data.forget, budget, arguments.derangement_seeds)
            beside = {"title": title, "reinjection": reinjection, **settings}

            def find() -> dict:
                return knowledge_excess(load(), *control, **beside)

            used, settings = (self.data.forget,), settings | {"derangement_seeds": arguments.derangement_seeds}
        else:
            record, target = load_attack(attack), self._target(attack, title=title, pool=pool)
            budget = target.budget

            def find() -> dict:
                return record.run(replace(target, model=load()))

            used = (self.data.forget, self.data.retain)
            used += (self.instructions,) if "instructions" in record.needs else ()
            used += (self.data.holdout,) if "holdout" in record.needs else ()
            has_adapter = isinstance(load(), PeftModel) if "adapter" in record.needs else None
            settings = self._settings(attack, pool) | {"has_adapter": has_adapter}
        # The rows themselves, not where they came from: a file may have changed since.
        rows = [dataset.to_list() if dataset is not None else None for dataset in used]
        answers = generation_key(load, self.processing_class, SAMPLE_TOKENS, arguments.generation_config)
        key = [attack, identity, rows, template_key(self.processing_class), budget and budget.key, settings, answers]
        if shared is not None:
            find = partial(remember, shared / f"{digest_of(key)}.json", key, find, wait=wait)
        if self.output_dir is not None:
            find = partial(remember, Path(self.output_dir) / "attacks" / f"{attack}-{name}.json", key, find, wait=wait)
        with self.timed(attack):
            return find()
