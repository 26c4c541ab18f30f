"""Flags and configuration files. More of them, on made-up fields: tests/test_arguments.py."""

import pytest
from bad_commands import MODEL, QUICK, RECIPE, ROWS

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
    "no room for an answer": ("--max_length 1", ["max_length=1 leaves no room for an answer"]),
    "rank 0": ("--lora_r 0", ["lora_r=0 must be 1 or more", "--full_finetuning"]),
    "alpha 0": ("--lora_alpha 0", ["lora_alpha=0 must be 1 or more"]),
    "all dropped out": ("--lora_dropout 1", ["lora_dropout=1.0", "below 1"]),
    "one module not there": ("--lora_target_modules q_proj k_prj", ["'k_prj' is no module of the model", "k_proj"]),
    "an adapter and all weights": (
        "--full_finetuning --lora_target_modules q_proj",
        ["full_finetuning", "lora_target_modules", "give one"],
    ),
    "unknown attack": ("--attacks benign", ["attacks: 'benign' is unknown", "benign_relearning"]),
    "an attack twice": ("--attacks prompting prompting", ["attacks: prompting prompting names one twice"]),
    "none and one": ("--attacks none prompting", ["none stands alone"]),
    "unknown attacker": ("--attacks prompting --attackers adapter", ["full, lora"]),
    "an attack of no steps": ("--attacks prompting --attack_steps 0", ["attack steps=0 must be 1 or more"]),
    "a negative attack rate": (
        "--attacks adversarial_reinjection --reinjection_learning_rates -1",
        ["attack learning rate -1", "0 or more"],
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
