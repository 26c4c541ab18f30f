"""What a training step costs: every trainer against plain supervised fine-tuning on the same rows.

Measured is a real run: `trainer.train()` of the package's trainers and of a plain `transformers.Trainer` (logits at all
positions, the model's own loss), from the batch to the update and the log line. All take turns in one process, a block
of ten steps each, so that other work on the machine slows all alike, and what is done once per log line (every five
steps) is spread over the steps between, as for users. Not included: what happens once per run (loading, NPO's reference
log-probabilities, the optimizer's first allocation).

The learning rate is 0: the same arithmetic, and all trainers can share one model, which stays as it is.
"""

from __future__ import annotations

import gc
import statistics
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from llm_unlearn.arguments.parsing import arguments_to_dict, parse_arguments
from llm_unlearn.files.disk import check_output_dir
from llm_unlearn.files.run_folder import locked
from llm_unlearn.files.whole import write_json
from llm_unlearn.models.loading import use_all_cpu_threads
from llm_unlearn.speed.measurement import count_block, run_block
from llm_unlearn.speed.peer import PEERS, peer_trainer
from llm_unlearn.speed.training_table import markdown_table, print_measurement
from llm_unlearn.speed.workload import (
    Measured,
    TrainingSpeedArguments,
    measured_methods,
    method_trainer,
    plain_arguments,
    plain_trainer,
    random_llama,
    random_rows,
)

PLAIN = "plain supervised"


def training_speed(description: str, argv: list[str] | None = None) -> dict:
    """Measure the steps of all trainers, print them as a table, write train.json and table.md, return train.json."""
    (arguments,) = parse_arguments((TrainingSpeedArguments,), argv, description=description)
    use_all_cpu_threads()
    check_output_dir(arguments.output_dir)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    measured: dict = {"config": arguments_to_dict(arguments), "threads": torch.get_num_threads(), "settings": {}}
    with locked(arguments.output_dir) as folder:
        for setting in arguments.settings:
            with tempfile.TemporaryDirectory() as scratch:
                measured |= measure_setting(arguments, setting, measured["settings"], scratch)
        write_json(folder / "train.json", measured)
        (folder / "table.md").write_text(markdown_table(measured), encoding="utf-8")
    print_measurement(measured)
    return measured


def measure_setting(arguments: TrainingSpeedArguments, setting: str, settings: dict, scratch: str) -> dict:
    """Measure all trainers on all weights or on adapters; adds to `settings` and returns what describes the model."""
    tokenizer, model = random_llama(arguments)
    described = {"parameters": sum(p.numel() for p in model.parameters()), "head_share": head_share(model)}
    rows = arguments.batch_size * arguments.block_steps
    datasets = [random_rows(arguments, rows, seed) for seed in (0, 1)]
    if setting == "lora":
        config = LoraConfig(r=arguments.lora_r, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
    gc.collect()
    gc.freeze()  # Accelerate collects garbage before every run: seconds, were all modules looked through each time
    trainers = {PLAIN: plain_trainer(arguments, model, tokenizer, datasets, scratch)}
    for name in arguments.methods:
        trainers[name] = method_trainer(measured_methods()[name], arguments, model, tokenizer, datasets, scratch)
    if arguments.open_unlearning is not None:
        config = plain_arguments(arguments, arguments.batch_size, scratch)
        for name in (name for name, peer in PEERS.items() if peer.method in arguments.methods):
            peer = peer_trainer(name, arguments.open_unlearning, config, model, tokenizer, datasets)
            trainers[f"open-unlearning {name}"] = peer
    described["device"] = str(trainers[PLAIN].args.device)

    found: dict[str, dict] = {name: {"seconds_per_block": []} for name in trainers}
    blocks = tqdm(total=len(trainers) * (arguments.repeats + 1), desc=setting, unit="block", dynamic_ncols=True)
    for name, trainer in trainers.items():
        run_block(trainer, steps=1)  # allocates the optimizer's state, computes NPO's reference log-probabilities
        found[name] |= count_block(trainer)
        blocks.update()
    for _ in range(arguments.repeats):
        for name, trainer in trainers.items():
            found[name]["seconds_per_block"].append(run_block(trainer))
            blocks.update()
    blocks.close()
    gc.unfreeze()
    settings[setting] = {name: summary(name, found, arguments, setting, described["head_share"]) for name in found}
    return described


def summary(name: str, found: dict[str, dict], arguments: TrainingSpeedArguments, setting: str, share: float) -> dict:
    """Medians of one trainer, beside the plain one's: seconds of the blocks that ran in the same round are compared."""
    own, plain = found[name], found[PLAIN]
    pairs = zip(own["seconds_per_block"], plain["seconds_per_block"], strict=True)
    lora, answer_share = setting == "lora", arguments.answer_tokens / arguments.row_length
    passes = counted_passes(measured_methods().get(name), lora, share, answer_share)
    return {
        "seconds": statistics.median(own["seconds_per_block"]) / arguments.block_steps,
        "seconds_over_plain": statistics.median(mine / its for mine, its in pairs),
        "counted_passes": passes,
        "floor_over_plain": passes / counted_passes(None, lora, share, answer_share),
        "flops": own["flops"],
        "flops_over_plain": own["flops"] / plain["flops"],
        "peak_bytes": own["peak_bytes"],
        "peak_over_plain": own["peak_bytes"] / plain["peak_bytes"],
        "seconds_per_block": own["seconds_per_block"],
    }


def counted_passes(measured: Measured | None, lora: bool, head_share: float, answer_share: float) -> float:
    """The matrix products that a step cannot do without, in forwards of its rows with logits at all positions.

    A pass is the products of every weight with every position: the forward is one, the gradient of the inputs is one,
    the gradient of the weights is one, which frozen weights do not need. So a plain supervised step is 3 passes, and 2
    where only adapters are trained, whose own products (of rank r) are left out, as are those inside attention. The
    package needs the output embedding at the positions before answer tokens alone, which shrinks every pass by the
    same factor. Ssiuu needs one more gradient of the inputs, of the forget rows, which are half of all, and of the
    blocks alone: in both backwards the output embedding passes on the same gradient but for a factor per token. SAM
    needs one more forward and backward of the forget rows. Logits in chunks are made once more in the backward.

    Args:
        measured: None: logits at all positions, as of the plain supervised step.
        lora: only adapters are trained.
        head_share: share of the output embedding in the weights of all linear maps.
        answer_share: answer tokens / tokens of a row.
    """
    passes = 2.0 if lora else 3.0
    if measured is None:
        return passes
    method = measured.method
    narrowed = 1 - head_share * (1 - answer_share)
    passes = narrowed * (passes * (1 + method.extra_rounds / 2) + method.extra_forwards / 2)
    passes += method.extra_backwards / 2 * (1 - head_share)
    return passes + measured.extra_heads * head_share * answer_share


def head_share(model: PreTrainedModel) -> float:
    """Share of the output embedding in the weights of all linear maps."""
    weights = [module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear)]
    return model.get_output_embeddings().weight.numel() / sum(weights)
