"""Score and attack the original, its oracles and the unlearned model, all in the same way."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.attacks import run_attack, split_facts
from llm_unlearn.attacks.run import fact_ids_of
from llm_unlearn.data import UnlearningData
from llm_unlearn.data.instructions import load_instructions
from llm_unlearn.embedded import remember
from llm_unlearn.judging import Records, judge, summarize
from llm_unlearn.modeling import load_model
from llm_unlearn.recipe_arguments import AttackArguments, DataArguments


@dataclass
class Examination:
    """What models are examined with; `seconds` collects how long each stage took."""

    data_args: DataArguments
    attack_args: AttackArguments
    data: UnlearningData
    processing_class: PreTrainedTokenizerBase
    device: str
    max_length: int | None = None
    batch_size: int = 64
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        """Find out before anything is trained whether the attacks can run.

        Raises:
            InputError: no such instruction data, or too few forget facts for reinjection.
        """
        arguments = self.attack_args
        self.instructions = None
        if "benign_relearning" in arguments.attacks:
            self.instructions = load_instructions(arguments.benign_data, self.data_args.embedded_size)
        if "adversarial_reinjection" in arguments.attacks:
            fact_ids = fact_ids_of(self.data) or range(len(self.data.forget))
            split_facts(fact_ids, arguments.reinjection_fraction, seed=0)

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
            {"scores": {model: ...}, "attacks": {attack: {model: ...}}} and the per-row records of every model. Models
            are called original, oracle, oracle_1, ... and unlearned.
        """
        names = ["oracle", *(f"oracle_{number}" for number in range(1, len(oracles)))]
        models = {"original": original, **dict(zip(names, oracles, strict=False))}
        if unlearned is not None:
            models["unlearned"] = unlearned
        results = {"scores": {}, "attacks": {attack: {} for attack in self.attack_args.attacks}}
        records = {}
        for name, source in models.items():
            path = source if isinstance(source, str) else None
            model = self.load_model(source) if path else source
            with self.timed("score"):
                records[name] = self.judge(model)
            results["scores"][name] = summarize(records[name])
            for attack in self.attack_args.attacks:
                results["attacks"][attack][name] = self.attack(attack, model, name, path)
        return results, records

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

    def attack(self, attack: str, model: PreTrainedModel, name: str, path: str | None = None) -> dict:
        """Run one attack on a copy of `model`; outcomes of the embedded references (at `path`) are remembered."""
        arguments, budget = self.attack_args, self.attack_args.budget(attack)

        def run() -> dict:
            return run_attack(
                attack,
                model,
                self.processing_class,
                self.data,
                budget,
                instructions=self.instructions,
                retain_rows=arguments.attack_retain_rows,
                max_length=self.max_length,
                title=f"{attack.replace('_', ' ')} of {name}",
            )

        with self.timed(attack):
            if path is None:
                return run()
            # The rows themselves, not where they came from: a file may have changed since.
            datasets = (self.data.forget, self.data.retain, self.instructions)
            rows = [dataset.to_list() if dataset is not None else None for dataset in datasets]
            return remember(path, [attack, rows, asdict(budget), arguments.attack_retain_rows, self.max_length], run)
