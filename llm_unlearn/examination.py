"""Score and attack the original, its oracles and the unlearned model, all in the same way."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.attacks import run_attack, split_facts, steps_to_half
from llm_unlearn.attacks.relearning import attackable_copy, choose_left_out, forgotten_rows
from llm_unlearn.attacks.run import fact_ids_of, groups_of
from llm_unlearn.data import UnlearningData, encode_dataset
from llm_unlearn.data.instructions import load_instructions
from llm_unlearn.embedded import outcomes_folder
from llm_unlearn.errors import InputError
from llm_unlearn.judging import Records, judge, summarize
from llm_unlearn.modeling import load_model
from llm_unlearn.outcomes import digest_of, remember, weights_digest
from llm_unlearn.recipe_arguments import AttackArguments, DataArguments


@dataclass
class Examination:
    """What models are examined with.

    Attributes:
        output_dir: folder that receives attacks/ATTACK-MODEL.json as soon as each attack is done; what is found there,
            and was decided by the same weights, rows and arguments, is not run again. None: nothing is kept.
        seconds: how long each stage took.
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

    def __post_init__(self):
        """Find out before anything is trained whether the attacks can run.

        Raises:
            InputError: no such instruction data, no retain rows to tune on, too few forget facts or groups, or no such
                column.
        """
        arguments = self.attack_args
        self.instructions = None
        if "benign_relearning" in arguments.attacks:
            self.instructions = load_instructions(arguments.benign_data, self.data_args.embedded_size)
        if "adversarial_reinjection" in arguments.attacks:
            split_facts(self.fact_ids(), arguments.reinjection_fraction, seed=0)
        if "leave_one_group_out" in arguments.attacks:
            choose_left_out(groups_of(self.data, arguments.leave_out_column), arguments.left_out_groups)
        if "retain_relearning" in arguments.attacks and self.data.retain is None:
            raise InputError("attacks: retain_relearning needs retain rows; give --retain_file or leave it out")

    def fact_ids(self) -> list[str | int]:
        """The fact of each forget row."""
        return fact_ids_of(self.data) or list(range(len(self.data.forget)))

    @contextmanager
    def timed(self, stage: str):
        """Adds the seconds spent inside to `seconds[stage]`."""
        started = time.monotonic()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.monotonic() - started, 2)

    def load_model(self, path: str) -> PreTrainedModel:
        """The model at `path` on the run's device."""
        return load_model(path, self.data_args.dtype).to(self.device)

    def examine(
        self, original: str, oracles: list[str], unlearned: PreTrainedModel | str | None
    ) -> tuple[dict, dict[str, Records]]:
        """Judge and attack all models.

        Args:
            original: folder or hub id of the model before unlearning.
            oracles: folders or hub ids of models that never saw the forget rows.
            unlearned: the model itself or its folder; None: only the references are examined.

        Returns:
            {"scores": {model: ...}, "attacks": {attack: {model: ...}}, "not_attacked": {attack: reason}} and the
            per-row records of every model. Models are called original, oracle, oracle_1, ... and unlearned.

        Raises:
            InputError: reinjection from the pool of forgotten rows without an unlearned model.
        """
        names = ["oracle", *(f"oracle_{number}" for number in range(1, len(oracles)))]
        models = {"original": original, **dict(zip(names, oracles, strict=False))}
        if unlearned is not None:
            models["unlearned"] = unlearned
        results = {"scores": {}, "attacks": {attack: {} for attack in self.attack_args.attacks}, "not_attacked": {}}
        records = {}
        attacks, pool = list(self.attack_args.attacks), None
        if "adversarial_reinjection" in attacks and self.attack_args.reinjection_pool == "forgotten":
            pool = self.forgotten_pool(unlearned)
            facts = {self.fact_ids()[i] for i in pool}
            if len(facts) < 2:  # known only now, when training may be done: the other results must not be lost
                attacks.remove("adversarial_reinjection")
                results["not_attacked"]["adversarial_reinjection"] = (
                    f"the unlearned model answers {len(facts)} facts wrongly, and reinjection needs two of them; "
                    "--reinjection_pool all injects facts that it knows, too"
                )
        for name, source in models.items():
            path = source if isinstance(source, str) else None
            model = self.load_model(source) if path else source
            with self.timed("score"):
                records[name] = self.judge(model)
            results["scores"][name] = summarize(records[name])
            shared = outcomes_folder(path) if path else None
            identity = path if shared else weights_digest(attackable_copy(model)) if attacks else None
            for attack in attacks:
                results["attacks"][attack][name] = self.attack(attack, model, name, identity, shared, pool)
        for by_model in results["attacks"].values():
            for outcome in by_model.values():
                before = by_model["original"]["curve"][0]["forget_probability"]
                outcome["steps_to_half"] = steps_to_half(outcome["curve"], before)
        return results, records

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

    def judge(self, model: PreTrainedModel) -> Records:
        """Per-row records on the forget and the retain rows; texts are generated for the forget rows alone."""
        sets = {"forget": self.data.forget}
        if self.data.retain is not None:
            kept = [name for name in self.data.retain.column_names if name != "perturbed_answer"]
            sets["retain"] = self.data.retain.select_columns(kept)
        return judge(
            model,
            self.processing_class,
            sets,
            generate=["forget"],
            batch_size=self.batch_size,
            max_length=self.max_length,
        )

    def attack(
        self,
        attack: str,
        model: PreTrainedModel,
        name: str,
        identity: str,
        shared: Path | None = None,
        pool: list[int] | None = None,
    ) -> dict:
        """Run one attack on a copy of `model`, or remember its outcome.

        Args:
            name: what the model is called here.
            identity: what fixes its weights.
            shared: folder with outcomes of this model from other runs.
            pool: numbers of the forget rows that take part in reinjection; by default all.
        """
        arguments, budget = self.attack_args, self.attack_args.budget(attack)
        settings = {
            "retain_rows": arguments.attack_retain_rows,
            "max_length": self.max_length,
            "pool": pool if attack == "adversarial_reinjection" else None,
            "group_column": arguments.leave_out_column if attack == "leave_one_group_out" else None,
        }
        # The rows themselves, not where they came from: a file may have changed since.
        used = (self.data.forget, self.data.retain, self.instructions if attack == "benign_relearning" else None)
        rows = [dataset.to_list() if dataset is not None else None for dataset in used]
        key = [attack, identity, rows, self.processing_class.chat_template, asdict(budget), settings]
        find = partial(
            run_attack,
            attack,
            model,
            self.processing_class,
            self.data,
            budget,
            instructions=self.instructions,
            title=f"{attack.replace('_', ' ')} of {name}",
            **settings,
        )
        if shared is not None:
            find = partial(remember, shared / f"{digest_of(key)}.json", key, find)
        if self.output_dir is not None:
            find = partial(remember, Path(self.output_dir) / "attacks" / f"{attack}-{name}.json", key, find)
        with self.timed(attack):
            return find()
