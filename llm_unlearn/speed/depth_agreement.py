"""Whether the published code of the unlearning depth score (UDS) and ours find the same depth in the same models.

Their script is run as it is, from a checkout of its repository that is given, on three small Llamas of random weights:
one, and two that are that one with less and more noise. It takes the hidden states that it puts in place from
`output_hidden_states`, the last of which have gone through the final norm, and puts them where the last block's output
goes through it: twice, then. So the two agree without the last block, and with it where ours are normed before, too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llm_unlearn.errors import InputError
from llm_unlearn.metrics.depth import depth_scores
from llm_unlearn.models.hidden_states import states_at
from llm_unlearn.models.patching import Asked, log_prob_drops
from llm_unlearn.speed.workload import TrainingSpeedArguments, random_llama

SIZES = TrainingSpeedArguments(vocabulary=200, hidden_size=64, layers=4)
ROWS = 24
NOISE = {"retain": 0.5, "unlearned": 0.3}  # of the standard deviation of a weight
SHOULD_AGREE = 1e-4
SCRIPT = "compute_uds.py"


def depth_agreement(folder: str) -> dict[str, tuple[float, float]]:
    """The mean UDS of one model by their code and by ours: without the last block, with it, and with it normed.

    Raises:
        InputError: the folder is no checkout of the published code, or its script fails.
    """
    script = Path(folder).resolve() / SCRIPT
    if not script.is_file():
        raise InputError(
            f"unlearning_depth={folder!r} has no {SCRIPT}; give a checkout of github.com/gnueaj/unlearning-depth-score"
        )
    tokenizer, models = _models()
    rows = _rows()
    with tempfile.TemporaryDirectory() as scratch:
        for name, model in models.items():
            model.save_pretrained(Path(scratch) / name)
            tokenizer.save_pretrained(Path(scratch) / name)
        (Path(scratch) / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
        without_last, whole = (_theirs(script, Path(scratch), layers) for layers in (SIZES.layers - 1, SIZES.layers))
    asked = [_asked(row, tokenizer) for row in rows]
    return {
        "without the last block": (without_last, _ours(models, asked)[0]),
        "with the last block": (whole, _ours(models, asked)[1]),
        "with the last block, normed twice": (whole, _ours(models, asked, normed=True)[1]),
    }


def depth_table(found: dict[str, tuple[float, float]]) -> str:
    """A line for each of them."""
    lines = ["| UDS | theirs | ours | difference |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {name} | {one:.6f} | {other:.6f} | {abs(one - other):.1e} |" for name, (one, other) in found.items()]
    return "\n".join(lines)


def _models() -> tuple[PreTrainedTokenizerBase, dict[str, PreTrainedModel]]:
    models = {}
    for name in ("full", *NOISE):
        tokenizer, models[name] = random_llama(SIZES)
        generator = torch.Generator().manual_seed(1)  # so that both have the same noise, of which one has more
        for parameter in models[name].parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            scale = 4 * parameter.std() if parameter.ndim > 1 else 0.5  # answers are clear-cut; no norm is a mere scale
            parameter.data.mul_(4 if parameter.ndim > 1 else 1).add_(scale * 0.5 * drawn)
        for parameter in models[name].parameters() if name in NOISE else ():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.data.add_(NOISE[name] * parameter.std() * drawn)
    return tokenizer, models


def _rows() -> list[dict[str, str | int]]:
    generator = np.random.default_rng(0)
    rows = []
    for number in range(ROWS):
        words = [str(word) for word in generator.choice(SIZES.vocabulary - 10, 14, replace=False)]
        question, prefix, entity = (
            " ".join(words[part]) for part in (slice(6), slice(6, 9), slice(9, 10 + number % 4))
        )
        rows.append(
            {"idx": number, "question": question, "prefix": prefix, "entity": entity}
            | {"answer": f"{prefix} {entity} {words[13]}", "full_output": ""}
        )
    return rows


def _asked(row: dict[str, str | int], tokenizer: PreTrainedTokenizerBase) -> Asked:
    """The row as their script words it."""
    before = tokenizer(f"Question: {row['question']}\nAnswer: {row['prefix']}").input_ids
    value, rest = (tokenizer(text, add_special_tokens=False).input_ids for text in (row["entity"], row["answer"]))
    return Asked((*before, *value, rest[-1]), len(before), len(before) + len(value))


def _theirs(script: Path, scratch: Path, layers: int) -> float:
    command = [sys.executable, str(script), "--dtype", "float32", "--device_map", "cpu", "--gpu", "", "--no_s1_cache"]
    for flag, name in (("full_model", "full"), ("retain_model", "retain"), ("unlearn_model", "unlearned")):
        command += [f"--{flag}", str(scratch / name)]
    command += ["--layers", f"0-{layers - 1}", "--batch_size", "8", "--out_dir", str(scratch / f"out{layers}")]
    command += ["--data_path", str(scratch / "rows.json")]
    done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise InputError(
            f"unlearning_depth: {SCRIPT} ended with status {done.returncode} ({last}); repair the checkout"
        )
    return json.loads((scratch / f"out{layers}" / "summary.json").read_text(encoding="utf-8"))["avg_uds"]


def _ours(models: dict[str, PreTrainedModel], asked: list[Asked], normed: bool = False) -> tuple[float, float]:
    """Mean UDS without the last block, and with it."""
    drops = []
    for name in ("retain", "unlearned"):
        states = states_at(models[name], [one.ids for one in asked], [one.before for one in asked])
        if normed:
            with torch.no_grad():
                states[-1] = models[name].model.norm(states[-1])
        drops.append(log_prob_drops(models["full"], asked, states))
    return tuple(float(np.nanmean(depth_scores(*(one[:last] for one in drops)))) for last in (-1, None))
