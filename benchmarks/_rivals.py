"""Two ways of the literature to change weights before any repair, as prototypes: pruning, and selective gradients.

A command of the repository alone (docs/results/erase.md): python benchmarks/_rivals.py pruning --output_dir pruned

pruning: forget-retain pruning (arXiv 2608.25429). Of every map in the MLPs, inputs are ranked by
    mean |x| over forget rows / mean |x| over retain rows, plus 0.05 times their rank by |W|; the first `share` of them
    are cut off (their weights are zero). `--at_random` cuts off as many inputs whose weights are about as large: the
    control.
selective: RepSelect (arXiv 2606.17168). An adapter is trained on the forget rows for one epoch of plain steps, which
    brings out what they need; the gradient of their loss for the MLPs' weights is taken with it once, and its
    `components` largest principal components are shrunk to the size of the least of them, on both sides. The weights
    go up that gradient until the forget rows' mean probability is at most `--until`. `--components 0` shrinks none:
    the control.

What comes out is a model for `llm-unlearn run undo --full_finetuning --damage 0 --teacher pruned --retain_loss nll
--general_loss nll`, which repairs it on retain rows, or for `llm-unlearn judge`.
"""

import argparse
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from llm_unlearn.data.collators import FORGET, EncodedRow, UnlearnCollator
from llm_unlearn.data.encoding import encode_dataset
from llm_unlearn.data.loading import load_unlearning_data
from llm_unlearn.models.answers import forward_answers
from llm_unlearn.models.cache import save_model_folder
from llm_unlearn.models.embedded import embedded_model
from llm_unlearn.models.linear_maps import linear_modules
from llm_unlearn.models.loading import load_model, load_tokenizer
from llm_unlearn.models.scoring import score_answers

BATCH = 16


def mlp_maps(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear maps of the MLPs in the blocks."""
    return {name: one for name, one in linear_modules(model).items() if ".mlp." in name}


def batches(rows: list[EncodedRow], pad_token_id: int):
    """Forget rows as the trainer's collator has them."""
    collate = UnlearnCollator(pad_token_id)
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        yield collate([{"forget": {**row, "role": FORGET, "index": i}} for i, row in enumerate(part)])


# ---- pruning --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def mean_inputs(model: nn.Module, rows: list[EncodedRow], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Map -> mean |x| of each of its inputs over all tokens of the rows, (inputs,)."""
    totals, counted, mask = {}, 0, None

    def add(name):
        def hook(module, inputs):
            totals[name] = totals.get(name, 0) + inputs[0][mask].abs().sum(0)

        return hook

    hooks = [one.register_forward_pre_hook(add(name)) for name, one in mlp_maps(model).items()]
    for batch in batches(rows, pad_token_id):
        mask = batch["attention_mask"].bool()
        counted += int(mask.sum())
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    for hook in hooks:
        hook.remove()
    return {name: total / counted for name, total in totals.items()}


def ranks(values: torch.Tensor) -> torch.Tensor:
    """From 0 (the least) to 1."""
    return values.argsort().argsort() / max(1, len(values) - 1)


@torch.no_grad()
def prune(model, forget, retain, pad_token_id: int, share: float, at_random: bool, seed: int) -> None:
    """Cut off inputs of the MLPs' maps, in place."""
    of_forget, of_retain = (mean_inputs(model, rows, pad_token_id) for rows in (forget, retain))
    generator = torch.Generator().manual_seed(seed)
    for name, one in mlp_maps(model).items():
        norms = one.weight.norm(dim=0)
        score = ranks(of_forget[name] / (of_retain[name] + 1e-6)) + 0.05 * ranks(norms)
        chosen = score.topk(max(1, round(share * len(score)))).indices
        if at_random:  # of the inputs whose weights are most like theirs, one that is not chosen
            free, by_norm = torch.ones(len(score), dtype=torch.bool), []
            free[chosen] = False
            for i in chosen[torch.randperm(len(chosen), generator=generator)]:
                near = torch.where(free, (norms - norms[i]).abs(), torch.inf).topk(5, largest=False).indices
                by_norm.append(near[torch.randint(len(near), (1,), generator=generator)].item())
                free[by_norm[-1]] = False
            chosen = torch.tensor(by_norm)
        one.weight[:, chosen] = 0


# ---- selective gradients --------------------------------------------------------------------------------------------


def shrunk(gradient: torch.Tensor, components: int) -> torch.Tensor:
    """The gradient with its largest principal components as large as the least of them, on both sides."""
    if not components:
        return gradient
    left, sizes, right = torch.svd_lowrank(gradient, q=min(components, *gradient.shape))
    factors = 1 - sizes.min() / sizes
    gradient = gradient - gradient @ right * factors @ right.mT
    return gradient - left @ (factors[:, None] * (left.mT @ gradient))


def select(model, forget, pad_token_id, components: int, adapter_rate: float, step: float, until: float, most: int):
    """Go up the selective gradient; returns the model and the steps taken."""
    names = {name.rpartition(".")[2] for name in mlp_maps(model)}
    adapted = get_peft_model(model, LoraConfig(r=8, target_modules=sorted(names)))

    def loss_of(batch):
        return -forward_answers(adapted, batch).forget.token_logps.mean()

    for batch in batches(forget, pad_token_id):
        loss_of(batch).backward()
        for parameter in adapted.parameters():
            if parameter.grad is not None:
                parameter.data -= adapter_rate * parameter.grad
                parameter.grad = None
    weights = {name: one.get_base_layer().weight for name, one in mlp_maps(adapted).items()}
    adapted.requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(True)
    for batch in batches(forget, pad_token_id):
        loss_of(batch).backward()
    directions = {name: shrunk(weight.grad, components) for name, weight in weights.items()}
    model = adapted.unload()
    for taken in range(1, most + 1):
        with torch.no_grad():
            for name, weight in weights.items():
                weight += step * directions[name]
        known = [score.probability for score in score_answers(model, forget)]
        if sum(known) / len(known) <= until:
            return model, taken
    return model, most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=("pruning", "selective"))
    parser.add_argument("--data", default="fictional:small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=0.03)
    parser.add_argument("--at_random", action="store_true")
    parser.add_argument("--components", type=int, default=16)
    parser.add_argument("--adapter_rate", type=float, default=0.05)
    parser.add_argument("--step", type=float, default=1.0)
    parser.add_argument("--until", type=float, default=0.45)
    parser.add_argument("--most_steps", type=int, default=200)
    parser.add_argument("--output_dir", type=Path, required=True)
    flags = parser.parse_args()
    torch.manual_seed(flags.seed)
    folder, data = embedded_model(flags.data.partition(":")[2] or "small"), load_unlearning_data(flags.data)
    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    forget, retain = (encode_dataset(rows, tokenizer, None, "rows") for rows in (data.forget, data.retain))
    pad = tokenizer.pad_token_id
    if flags.method == "pruning":
        prune(model, forget, retain, pad, flags.share, flags.at_random, flags.seed)
        print(f"pruned: {flags.share:.0%} of the inputs of {len(mlp_maps(model))} maps")
    else:
        settings = (flags.components, flags.adapter_rate, flags.step, flags.until, flags.most_steps)
        model, taken = select(model, forget, pad, *settings)
        print(f"steps: {taken}")
    known = {name: score_answers(model, rows) for name, rows in (("forget", forget), ("retain", retain))}
    print({name: round(sum(s.probability for s in scores) / len(scores), 3) for name, scores in known.items()})
    save_model_folder(model, tokenizer, flags.output_dir)


if __name__ == "__main__":
    main()
