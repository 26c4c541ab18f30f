"""The arguments of whatever is examined: which attacks, at what strength, and which looks inside."""

from __future__ import annotations

from dataclasses import dataclass, field

from llm_unlearn.arguments.ranges import COUNT, NOT_NEGATIVE, SEED, check_each_once, check_ranges
from llm_unlearn.attacks import attack_names, load_attack
from llm_unlearn.attacks.relearning import AttackBudget
from llm_unlearn.models.generation import CHOICES

INSIDE = ("probes", "consistency", "depth")  # the audits that stand in verdicts and on pages
GENERATION_CONFIG = {  # metadata of that flag
    "help": "How judged models answer: own (plain greedy, whatever their generation_config.json says) or model (as "
    "that file says, but never sampled: the product as shipped).",
    "choices": list(CHOICES),
}


@dataclass
class AttackArguments:
    """Attacks on the original, the oracle and the unlearned model alike."""

    attacks: list[str] = field(
        default_factory=lambda: ["adversarial_reinjection", "benign_relearning", "head_relearning", "prompting"],
        metadata={"help": f"Any of {', '.join(attack_names())}, or none to skip."},
    )
    audits: list[str] = field(
        default_factory=lambda: ["none"],
        metadata={
            "help": f"What is looked for inside original, oracles and unlearned model, after the attacks: any of "
            f"{', '.join(INSIDE)}, or none.",
        },
    )
    attackers: list[str] = field(
        default_factory=lambda: ["full"],
        metadata={"help": "full (all weights are tuned) and/or lora (an adapter); the strongest counts."},
    )
    reinjection_learning_rates: list[float] = field(
        default_factory=lambda: [1e-5],
        metadata={
            "help": "The attacker tries each, the strongest counts (the paper's grid: 1e-5 5e-6 1e-6). Also those of "
            "leave_one_group_out."
        },
    )
    benign_learning_rates: list[float] = field(
        default_factory=lambda: [1e-5],
        metadata={
            "help": "The attacker tries each, the strongest counts (the paper's grid: 1e-5 1e-6 1e-7). Also those of "
            "retain_relearning and template_relearning."
        },
    )
    reinjection_lora_learning_rates: list[float] = field(
        default_factory=lambda: [1e-4], metadata={"help": "As reinjection_learning_rates, of the lora attacker."}
    )
    benign_lora_learning_rates: list[float] = field(
        default_factory=lambda: [1e-4], metadata={"help": "As benign_learning_rates, of the lora attacker."}
    )
    attack_lora_r: int = field(default=16, metadata={"help": "Rank of the lora attacker's matrices."})
    reinjection_fraction: float = field(default=0.3, metadata={"help": "Share of the forget facts that is reinjected."})
    reinjection_pool: str = field(
        default="all",
        metadata={
            "help": "Facts that are reinjected and scored: all, or only rows that the unlearned model answers wrongly.",
            "choices": ["all", "forgotten"],
        },
    )
    leave_out_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the groups of leave_one_group_out; default: person if rows have several, else fact_id."
        },
    )
    left_out_groups: int = field(
        default=5, metadata={"help": "So many groups, evenly spread, are left out in turn; one relearning each."}
    )
    attack_steps: int = field(
        default=60, metadata={"help": "Optimizer steps of each attack (retain_relearning: ten times as many)."}
    )
    attack_batch_size: int = field(default=8, metadata={"help": "Rows per step of an attack."})
    attack_micro_batch_size: int | None = field(
        default=None,
        metadata={"help": "So many of them are run at once: less memory, the same attack. Default: all."},
    )
    attack_activation_checkpointing: bool = field(
        default=False,
        metadata={"help": "Attacks compute blocks again in the backward instead of keeping them: less memory, slower."},
    )
    attack_score_every: int = field(default=10, metadata={"help": "Steps between two points of the recovery curve."})
    attack_seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of the reinjected facts and the order of rows."}
    )
    judged_retain_rows: int | None = field(
        default=None,
        metadata={
            "help": "Most rows of each set of retained facts (as trained, in other words, in reverse, ...) that models "
            "are judged on, evenly spread; default: all."
        },
    )
    attack_retain_rows: int = field(
        default=100, metadata={"help": "Retain rows (evenly spread) that are scored along the recovery curve."}
    )
    benign_data: str = field(
        default="embedded",
        metadata={
            "help": "Instructions for benign tuning: embedded, an Alpaca-format file, or a data set on the hub "
            "(tatsu-lab/alpaca, databricks/databricks-dolly-15k)."
        },
    )
    counterfactual: bool = field(
        default=True,
        metadata={
            "help": "Also the counterfactual control: reinjection of made-up facts, which shows without an oracle what "
            "a model still knows."
        },
    )
    derangement_seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2],
        metadata={"help": "Each makes up other facts for the counterfactual control, which runs with each."},
    )
    counterfactual_group_by: str | None = field(
        default=None,
        metadata={
            "help": "Column with kinds of questions, within which answers are exchanged, or perturbed_answer to take "
            "the wrong answers of the data (person: within each author of TOFU); default: attribute, else "
            "perturbed_answer, else all rows are of one kind."
        },
    )
    generation_config: str = field(default="own", metadata=GENERATION_CONFIG)

    def __post_init__(self):
        rates = [name for name in self.__dataclass_fields__ if name.endswith("learning_rates")]
        counts = ["attack_lora_r", "attack_steps", "attack_batch_size", "attack_score_every", "attack_retain_rows"]
        counts.append("judged_retain_rows")
        check_ranges(self, dict.fromkeys(rates, NOT_NEGATIVE) | dict.fromkeys([*counts, "left_out_groups"], COUNT))
        check_ranges(self, {"attack_micro_batch_size": COUNT})
        check_ranges(self, {"attack_seeds": SEED, "derangement_seeds": SEED})
        check_each_once(self, ["attack_seeds", "derangement_seeds"])
        if "none" in self.attacks and len(self.attacks) > 1:
            raise ValueError(f"attacks: {' '.join(self.attacks)}: none stands alone, or leave it out")
        if self.attacks == ["none"]:
            self.attacks, self.counterfactual = [], False
        for name in self.attacks:
            if name not in attack_names():
                raise ValueError(f"attacks: {name!r} is unknown; choose from {', '.join(attack_names())}, or none")
        if "none" in self.audits and len(self.audits) > 1:
            raise ValueError(f"audits: {' '.join(self.audits)}: none stands alone, or leave it out")
        self.audits = [] if self.audits == ["none"] else self.audits
        for name in self.audits:
            if name not in INSIDE:
                raise ValueError(
                    f"audits: {name!r} is none that a verdict knows; choose from {', '.join(INSIDE)}, or none (the "
                    "others: llm-unlearn run audits)"
                )
        if self.audits:
            check_each_once(self, ["audits"])
        for name in attack_names():  # the counterfactual control has one, too
            self.budget(name)  # refuses an impossible one before anything is trained
        if len(set(self.attacks)) < len(self.attacks):
            raise ValueError(f"attacks: {' '.join(self.attacks)} names one twice; name each once")

    def budget(self, attack: str) -> AttackBudget:
        """What the attacker may spend on one attack."""
        record = load_attack(attack) if attack in attack_names() else None
        is_benign, times = (record.rates == "benign", record.times) if record else (False, 1)
        full, lora = (
            (self.benign_learning_rates, self.benign_lora_learning_rates)
            if is_benign
            else (self.reinjection_learning_rates, self.reinjection_lora_learning_rates)
        )
        return AttackBudget(
            learning_rates=tuple(full),
            fraction=self.reinjection_fraction,
            seeds=tuple(self.attack_seeds),
            steps=times * self.attack_steps,
            batch_size=self.attack_batch_size,
            score_every=times * self.attack_score_every,
            attackers=tuple(self.attackers),
            lora_learning_rates=tuple(lora),
            lora_r=self.attack_lora_r,
            left_out_groups=self.left_out_groups,
            micro_batch_size=self.attack_micro_batch_size,
            activation_checkpointing=self.attack_activation_checkpointing,
        )
