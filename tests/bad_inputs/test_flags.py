"""Flags and configuration files. More of them, on made-up fields: tests/arguments/test_arguments.py."""

import pytest
from bad_commands import MODEL, QUICK, RECIPE, ROWS

from llm_unlearn import NPOConfig
from llm_unlearn.arguments.attacking import AttackArguments
from llm_unlearn.arguments.groups import AdapterArguments, DataArguments, parse_for_model
from llm_unlearn.methods import load_method

FLAGS = {
    "misspelt": ("--learning_rat 1e-3", ["unknown flag --learning_rat", "did you mean --learning_rate?"]),
    "from habit": ("--lr 1e-3", ["unknown flag --lr", "did you mean --learning_rate?"]),
    "a value without a flag": ("--seed 1 1e-3", ["unexpected argument '1e-3'", "values follow a flag"]),
    "a flag without its value": ("--output_dir", ["--output_dir: expected one argument"]),
    "text for a number": ("--learning_rate fast", ["learning_rate: 'fast'", "give a number (default: "]),
    "a fraction for a count": ("--attack_steps 1.5", ["attack_steps: '1.5'", "a whole number"]),
    "not a number": ("--learning_rate nan", ["learning_rate: 'nan'", "give a number"]),
    "infinite rate": ("--learning_rate inf", ["learning_rate=inf must be 0 or more and finite"]),
    "negative rate": ("--learning_rate -1", ["learning_rate=-1.0 must be 0 or more"]),
    "infinite weight": ("--retain_weight inf", ["retain_weight=inf must be 0 or more and finite"]),
    "negative weight": ("--forget_weight -1", ["forget_weight=-1.0 must be 0 or more and finite"]),
    "infinite beta": ("--beta inf", ["beta=inf must be above 0"]),
    "threshold above 1": ("--stop_at_forget_probability 30", ["stop_at_forget_probability=30.0", "between 0 and 1"]),
    "threshold below 0": ("--stop_at_forget_rouge_l -0.1", ["stop_at_forget_rouge_l=-0.1", "between 0 and 1"]),
    "no steps between checks": ("--forget_check_steps 0", ["forget_check_steps=0 must be 1 or more"]),
    "no steps": ("--max_steps 0", ["max_steps=0 must be 1 or more, or -1"]),
    "no epochs": ("--max_steps -1 --num_train_epochs 0", ["num_train_epochs=0.0 must be above 0"]),
    "empty batch": ("--per_device_train_batch_size 0", ["per_device_train_batch_size=0 must be 1 or more"]),
    "empty scored batch": ("--per_device_eval_batch_size 0", ["per_device_eval_batch_size=0 must be 1 or more"]),
    "no accumulation": ("--gradient_accumulation_steps 0", ["gradient_accumulation_steps=0 must be 1 or more"]),
    "negative workers": ("--dataloader_num_workers -1", ["dataloader_num_workers=-1 must be 0 or more"]),
    "Adam's beta": ("--adam_beta1 2", ["adam_beta1=2.0 must be 0 or more, and below 1"]),
    "seed too large": ("--seed 99999999999999999999", ["seed=99999999999999999999 must be", "4294967295 at most"]),
    "negative seed": ("--seed -1", ["seed=-1 must be 0 or more"]),
    "no checkpoint kept": ("--save_total_limit 0", ["save_total_limit=0 must be 1 or more"]),
    "no steps between checkpoints": ("--save_strategy steps --save_steps 0", ["save_steps=0.0 must be above 0"]),
    "best by nothing": ("--save_strategy best", ["metric_for_best_model is missing", "forget_probability"]),
    "best by what is not measured": (
        "--save_strategy best --eval_strategy steps --eval_steps 1 --metric_for_best_model rouge",
        ["metric_for_best_model='rouge' is not measured", "eval_forget_probability"],
    ),
    "unknown optimizer": ("--optim adamx", ["optim: 'adamx'", "adamw_torch"]),
    "unknown schedule": ("--lr_scheduler_type linaer", ["linaer", "cosine"]),
    "a schedule without its arguments": (
        "--lr_scheduler_type cosine_with_min_lr",
        ["lr_scheduler_type=cosine_with_min_lr with lr_scheduler_kwargs=None", "min_lr"],
    ),
    "two precisions": ("--fp16 --bf16", ["fp16 and bf16", "not both"]),
    "fp16 on a CPU": ("--fp16", ["fp16 needs a GPU", "--bf16"]),
    "a loss that is smoothed nowhere": ("--label_smoothing_factor 0.1", ["label_smoothing_factor=0.1", "leave it out"]),
    "unknown tracker": ("--report_to wandbb", ["report_to: 'wandbb' is unknown or not installed", "none"]),
    "FSDP in one process": ("--fsdp full_shard", ["distributed"]),
    "unknown compiler": ("--torch_compile_backend nothing", ["NOTHING"]),
    "unknown dtype": ("--dtype float8", ["dtype: 'float8'", "bfloat16"]),
    "no room for an answer": ("--max_length 1", ["max_length=1 must be 2 or more"]),
    "rank 0": ("--lora_r 0", ["lora_r=0 must be 1 or more"]),
    "alpha 0": ("--lora_alpha 0", ["lora_alpha=0 must be 1 or more"]),
    "all dropped out": ("--lora_dropout 1", ["lora_dropout=1.0", "below 1"]),
    "one module not there": ("--lora_target_modules q_proj k_prj", ["'k_prj' is no module of the model", "k_proj"]),
    "an adapter and all weights": (
        "--full_finetuning --lora_target_modules q_proj",
        ["full_finetuning", "lora_target_modules=['q_proj']", "give one"],
    ),
    "a rank and all weights": ("--full_finetuning --lora_r 4", ["full_finetuning", "lora_r=4 is of an adapter"]),
    "an alpha and all weights": ("--full_finetuning --lora_alpha 8", ["full_finetuning", "lora_alpha=8"]),
    "a dropout and all weights": ("--full_finetuning --lora_dropout 0.1", ["full_finetuning", "lora_dropout=0.1"]),
    "4 bits and all weights": ("--full_finetuning --load_in_4bit", ["load_in_4bit", "leave out full_finetuning"]),
    "8 bits and all weights": ("--full_finetuning --load_in_8bit", ["load_in_8bit", "leave out full_finetuning"]),
    "4 and 8 bits": ("--load_in_4bit --load_in_8bit", ["load_in_4bit and load_in_8bit exclude each other"]),
    "unknown attack": ("--attacks benign", ["attacks: 'benign' is unknown", "benign_relearning"]),
    "an attack twice": ("--attacks prompting prompting", ["attacks: prompting prompting names one twice"]),
    "none and one": ("--attacks none prompting", ["none stands alone"]),
    "unknown attacker": ("--attacks prompting --attackers adapter", ["full, lora"]),
    "an attack of no steps": ("--attacks prompting --attack_steps 0", ["attack_steps=0 must be 1 or more"]),
    "a negative attack rate": (
        "--attacks adversarial_reinjection --reinjection_learning_rates -1",
        ["reinjection_learning_rates=-1.0 must be 0 or more"],
    ),
    "everything reinjected": (
        "--attacks prompting --reinjection_fraction 1",
        ["fraction=1.0 must lie between 0 and 1"],
    ),
    "no retain rows scored": ("--attacks prompting --attack_retain_rows 0", ["attack_retain_rows=0 must be 1 or more"]),
    "output_dir is a file": ("--output_dir forget.jsonl", ["output_dir='forget.jsonl'", "is a file; give a folder"]),
    "output_dir below a file": ("--output_dir forget.jsonl/out", ["forget.jsonl is a file; give a folder"]),
    "no output_dir": ("--output_dir=", ["output_dir='' is empty"]),
}


@pytest.mark.parametrize("name", FLAGS)
def test_flags(name, refused):
    flags, words = FLAGS[name]
    refused(RECIPE, [*MODEL, *ROWS, *QUICK, *flags.split()], *words)


BENCHMARKS = {
    "judge": "benchmarks/judge.py",
    "tofu": "benchmarks/tofu.py",
    "influence": "benchmarks/influence.py",
    "references": "recipes/train_references.py",
    "robustness": "benchmarks/robustness.py",
    "laboratory": "benchmarks/combinatorial.py",
    "speed of evaluation": "benchmarks/speed.py eval",
    "speed of training": "benchmarks/speed.py train",
}
# command, flags, and the words of the error; each value would be met only after a while, or never
NUMBERS = [
    ("recipe", "--attack_seeds -1", "attack_seeds=-1 must be 0 or more"),
    ("recipe", "--attack_seeds 1 1", "attack_seeds=[1, 1] must be one or more, each of them once"),
    ("recipe", "--attack_seeds 99999999999", "attack_seeds=99999999999 must be 0 or more, and 4294967295 at most"),
    ("recipe", "--derangement_seeds -1", "derangement_seeds=-1 must be 0 or more"),
    ("recipe", "--derangement_seeds 0 0", "derangement_seeds=[0, 0] must be one or more, each of them once"),
    ("recipe", "--benign_learning_rates inf", "benign_learning_rates=inf must be 0 or more and finite"),
    ("recipe", "--reinjection_lora_learning_rates -1", "reinjection_lora_learning_rates=-1.0 must be 0 or more"),
    ("recipe", "--benign_lora_learning_rates inf", "benign_lora_learning_rates=inf must be 0 or more and finite"),
    ("recipe", "--reinjection_fraction nan", "reinjection_fraction: 'nan'"),
    ("recipe", "--attack_lora_r 0", "attack_lora_r=0 must be 1 or more"),
    ("recipe", "--left_out_groups 0", "left_out_groups=0 must be 1 or more"),
    ("recipe", "--attack_score_every -1", "attack_score_every=-1 must be 1 or more"),
    ("recipe", "--attack_batch_size 0", "attack_batch_size=0 must be 1 or more"),
    ("recipe", "--attack_micro_batch_size 0", "attack_micro_batch_size=0 must be 1 or more"),
    ("recipe", "--lora_r 99999999999", "lora_r=99999999999 must be 1 or more, and 2147483647 at most"),
    ("recipe", "--warmup_steps inf", "warmup_steps=inf must be 0 or more and finite"),
    ("recipe", "--logging_steps inf", "logging_steps=inf must be 0 or more and finite"),
    ("recipe", "--logging_steps -1", "logging_steps=-1.0 must be 0 or more"),
    ("recipe", "--eval_steps -1", "eval_steps=-1.0 must be 0 or more"),
    ("recipe", "--eval_delay -1", "eval_delay=-1.0 must be 0 or more"),
    ("recipe", "--neftune_noise_alpha -1", "neftune_noise_alpha=-1.0 must be 0 or more"),
    ("recipe", "--max_forget_nll 0", "max_forget_nll=0.0 must be above 0"),
    ("judge", "--batch_size 0", "batch_size=0 must be 1 or more"),
    ("judge", "--max_length 1", "max_length=1 must be 2 or more"),
    ("judge", "--oracle_seeds -1", "oracle_seeds=-1 must be 0 or more"),
    ("judge", "--attack_seeds -3", "attack_seeds=-3 must be 0 or more"),
    ("judge", "--attacks none --counterfactual --attack_steps 0", "attack_steps=0 must be 1 or more"),
    ("tofu", "--max_new_tokens 0", "max_new_tokens=0 must be 1 or more"),
    ("tofu", "--max_new_tokens -5", "max_new_tokens=-5 must be 1 or more"),
    ("influence", "--top_shares 0", "top_shares=[0.0] must be one or more shares, over 0 and up to 1"),
    ("influence", "--attack_seeds -1", "attack_seeds=-1 must be 0 or more"),
    ("influence", "--derangement_seeds 1 1", "derangement_seeds=[1, 1] must be one or more, each of them once"),
    ("influence", "--batch_size 0", "batch_size=0 must be 1 or more"),
    ("influence", "--max_length 0", "max_length=0 must be 2 or more"),
    ("influence", "--oracle_seeds -1", "oracle_seeds=-1 must be 0 or more"),
    ("references", "--learning_rate inf", "learning_rate=inf must be above 0 and finite"),
    ("references", "--learning_rate 0", "learning_rate=0.0 must be above 0 and finite"),
    ("references", "--max_length 1", "max_length=1 must be 2 or more"),
    ("references", "--seed -1", "seed=-1 must be 0 or more"),
    ("references", "--oracle_seeds -1", "oracle_seeds=-1 must be 0 or more"),
    ("references", "--retain_rows 0", "retain_rows=0 must be 1 or more"),
    ("robustness", "--use_cpu --seeds -1", "seeds=-1 must be 0 or more"),
    ("robustness", "--use_cpu --learning_rates 0", "learning_rates=0.0 must be above 0 and finite"),
    ("robustness", "--use_cpu --tuning_seeds 3 3", "tuning_seeds=[3, 3] must be one or more, each of them once"),
    ("robustness", "--use_cpu --full_finetuning --lora_r 4", "lora_r=4 is of an adapter"),
    ("laboratory", "--first_seed -1", "first_seed=-1 must be 0 or more"),
    ("laboratory", "--learning_rate inf", "learning_rate=inf must be above 0 and finite"),
    ("laboratory", "--seeds 0", "seeds=0 must be 1 or more"),
    ("laboratory", "--output_dir forget.jsonl", "is a file; give a folder"),
    ("speed of evaluation", "--generated_tokens -1", "generated_tokens=-1 must be 0 or more"),
    ("speed of evaluation", "--batch_size 0", "batch_size=0 must be 1 or more"),
    ("speed of evaluation", "--max_length 1", "max_length=1 must be 2 or more"),
    ("speed of evaluation", "--output_dir forget.jsonl", "is a file; give a folder"),
    ("speed of training", "--repeats 0", "repeats=0 must be 1 or more"),
    ("speed of training", "--threads -1", "threads=-1 must be 1 or more"),
    ("speed of training", "--output_dir forget.jsonl", "is a file; give a folder"),
]


@pytest.mark.parametrize(("command", "flags", "words"), NUMBERS)
def test_numbers(command, flags, words, refused):
    if command == "recipe":
        refused(RECIPE, [*MODEL, *ROWS, *QUICK, *flags.split()], words)
    else:
        file, *kind = BENCHMARKS[command].split()
        has_rows = command not in ("laboratory", "speed of evaluation", "speed of training")
        refused(file, [*kind, *(ROWS if has_rows else []), *flags.split()], words)


def test_full_finetuning_of_the_embedded_model_needs_no_word_about_its_adapters():
    """Whose rank and alpha in that world differ from the general defaults."""
    npo = load_method("npo")
    defaults = {"embedded_defaults": npo.defaults, "embedded_full_defaults": npo.full_defaults}
    groups = (DataArguments, AdapterArguments, AttackArguments, NPOConfig)
    argv = ["--full_finetuning", "--use_cpu", "--report_to", "none"]
    _, adapter, _, config = parse_for_model(groups, argv, description="", defaults={}, **defaults)
    assert adapter.peft_config() is None and config.learning_rate == 1e-4
    _, adapter, _, config = parse_for_model(groups, argv[1:], description="", defaults={}, **defaults)
    assert adapter.lora_r == 64 and config.learning_rate == 3e-4


CONFIGS = {
    "broken YAML": ("beta: 1\nattacks: [none\n", ["run.yaml, line 3: not valid YAML", "correct that line"]),
    "a list": ("- beta\n", ["holds a list, not a mapping", "field: value"]),
    "unknown key": (
        "retain_wieght: 2\n",
        ["unknown field retain_wieght in run.yaml, line 1", "did you mean retain_weight?"],
    ),
    "null where a number is needed": (
        "\nbeta: null\n",
        ["beta: None in run.yaml, line 2", "give a number (default: 0.1)"],
    ),
    "a key twice": ("beta: 1\nbeta: 2\n", ["beta is set again in run.yaml, line 2", "keep one"]),
    "a scalar where a list is needed": ("attacks: prompting\n", ["attacks: 'prompting' in run.yaml", "give a list"]),
    "a list where a scalar is needed": ("beta: [1]\n", ["beta: [1] in run.yaml", "give a number"]),
    "a value out of range": ("learning_rate: -1\n", ["learning_rate=-1.0 must be 0 or more"]),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configuration_files(name, place, refused):
    text, words = CONFIGS[name]
    (place / "run.yaml").write_text(text)
    quick = QUICK[2:] if "attacks" in text else QUICK
    refused(RECIPE, [*MODEL, *ROWS, *quick, "--config", "run.yaml"], *words)


def test_a_missing_configuration_file(refused):
    refused(RECIPE, ["--config", "none.yaml"], "--config none.yaml: cannot be read (No such file", "check the path")
