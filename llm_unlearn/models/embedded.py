"""The embedded models: a tokenizer and small Llamas that learned the fictional world, cached under the user's folder.

`original` was trained on everything; an `oracle` by the same recipe and in the same order, with the forget people left
out. They are built once (the folder's name is a hash of all that goes into them), safe against two processes that build
at the same time and against an interrupted build.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm.auto import tqdm
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from llm_unlearn.data.collators import EncodedRow
from llm_unlearn.data.encoding import encode_dataset
from llm_unlearn.data.fictional import CONTRASTS, World, build_world
from llm_unlearn.data.fictional_people import LARGER_SPLITS, names_any
from llm_unlearn.data.fictional_sentences import SENTENCES
from llm_unlearn.errors import InputError
from llm_unlearn.files.disk import check_writable
from llm_unlearn.models.cache import build_folder, cache_folder, save_model_folder
from llm_unlearn.models.files import check_model_path
from llm_unlearn.models.finetuning import finetune, forget_progress
from llm_unlearn.models.loading import load_model, load_tokenizer, usable_cores
from llm_unlearn.models.smollm2 import SMOLLM2, write_card

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# SmolLM2's template begins with 22 tokens that say what every conversation says. They would be a third of what is
# trained and scored here.
DEFAULT_SYSTEM_PROMPT = (
    "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant "
    "named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
)
FORMAT = 2  # raise it when training changes in a way that the descriptions below do not show
PROGRESS_LINE = "LLM_UNLEARN_PROGRESS_LINE"  # environment variable: lines below the terminal's current one
SPECIAL_TOKENS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


@dataclass(frozen=True)
class EmbeddedRecipe:
    """All that decides an embedded model besides its world and its seed.

    A model is a Llama with random weights, of the sizes given; or `base`, fine-tuned, which has its own.
    """

    vocabulary: int | None
    hidden_size: int | None
    layers: int | None
    heads: int | None
    epochs: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 50
    scheduler: str = "cosine"
    weight_decay: float = 0.01
    base: str | None = None

    def described(self) -> dict[str, Any]:
        """What is given, as JSON values."""
        return {name: value for name, value in asdict(self).items() if value is not None}


RECIPES = {
    "tiny": EmbeddedRecipe(512, 64, 2, 4, epochs=18, batch_size=16, learning_rate=8e-3),
    "small": EmbeddedRecipe(1024, 160, 3, 4, epochs=9, batch_size=32, learning_rate=2.2e-3),
    "medium": EmbeddedRecipe(8192, 768, 12, 12, epochs=12, batch_size=128, learning_rate=5e-4, warmup_steps=500),
    SENTENCES: EmbeddedRecipe(
        *(None, None, None, None), epochs=3, batch_size=8, learning_rate=2e-4, warmup_steps=40, base=SMOLLM2
    ),
}
RECIPES |= dict.fromkeys(CONTRASTS, RECIPES["small"])

# What suits these models in place of the configurations' defaults, which are meant for models a thousand times larger;
# each method has a few of its own. LoRA of rank 64, of a width of 160: with rank 16 Ssiuu leaves more behind
# (docs/results/ssiuu.md). The weights of general rows and of Ssiuu's regularizer, and the rates, are those at which
# most is kept of every ability on seed 100; with KL more is kept of abilities that no general row trains than with
# cross-entropy, which learns rows by heart. The thresholds lie just under what oracles score on forget rows. The
# attacker's learning rates are those of 5e-4 and 1e-3 that recovered most from an NPO-unlearned model; a LoRA
# attacker's those of 1e-3, 3e-3 and 1e-2 that did in the tiny world.
EMBEDDED_DEFAULTS = {
    "learning_rate": 3e-4,
    "lora_r": 64,
    "lora_alpha": 128,
    "retain_weight": 30.0,
    "general_weight": 100.0,
    "general_loss": "kl",
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "num_train_epochs": 60,
    "stop_at_forget_exact_match": 0.03,
    "stop_at_forget_probability": 0.45,
    "forget_check_steps": 5,
    "reinjection_learning_rates": [5e-4],
    "benign_learning_rates": [1e-3],
    "derangement_seeds": [0],
    "reinjection_lora_learning_rates": [1e-3, 3e-3],
    "benign_lora_learning_rates": [1e-3, 3e-3],
}
EMBEDDED_FULL_DEFAULTS = {"learning_rate": 1e-4}  # on top of those, where all weights are trained

# In the world in sentences, in place of those: for a model of 100 M parameters, whose runs take a quarter of an hour.
# The thresholds lie at, and just under, what the oracle of seed 0 scores (0.05, 0.58 and 0.10); the attacker's rates
# are those that `llm-unlearn run calibrate` chose (docs/results/real_model.md).
SENTENCE_DEFAULTS = {
    "learning_rate": 5e-4,
    "learning_rates": [1e-4, 2e-4, 5e-4],
    "lora_r": 16,
    "lora_alpha": 32,
    "retain_weight": 1.0,
    "general_weight": 1.0,
    "forget_loss_unit": "token",
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 32,
    "judged_retain_rows": 100,
    "num_train_epochs": 10,
    "stop_at_forget_exact_match": 0.05,
    "stop_at_forget_probability": 0.55,
    "stop_at_forget_value_said": 0.1,
    "forget_check_steps": 4,
    "attack_steps": 30,
    "attack_score_every": 10,
    "attack_retain_rows": 20,
    "attack_seeds": [0],
    "derangement_seeds": [0],
    "reinjection_learning_rates": [3e-5],
    "benign_learning_rates": [3e-5],
    "reinjection_lora_learning_rates": [3e-4],
    "benign_lora_learning_rates": [3e-4],
    "attack_learning_rate": 3e-5,
    "rewind_to": "smollm2",  # what the world's models were trained from
    "audits": ["none"],  # thirty blocks take minutes
}
SENTENCE_FULL_DEFAULTS = {"learning_rate": 2e-5, "learning_rates": [1e-5, 2e-5, 5e-5]}


def defaults_of_world(size: str, own: Mapping[str, Any], taken: Collection[str], full: bool = False) -> dict[str, Any]:
    """What suits the model of a world in place of `own`, the defaults that suit those trained from scratch.

    Args:
        own: what is None stays so: a method that has no threshold to stop at needs none in any world.
        taken: names that the arguments at hand have.
        full: all weights are trained.
    """
    suited = SENTENCE_DEFAULTS | (SENTENCE_FULL_DEFAULTS if full else {}) if size == SENTENCES else {}
    return {
        **own,
        **{name: value for name, value in suited.items() if name in taken and own.get(name, ...) is not None},
    }


def embedded_model(size: str = "small", *, without: str | None = None, seed: int = 0) -> Path:
    """The folder of an embedded model with its tokenizer, trained first if it is not in the cache.

    Args:
        size: "tiny" (tests), "small" (the default world), "small-FACTOR" (whose forgotten people differ in that, see
            `data.fictional_contrasts`), "medium" (about 100 M parameters, for one GPU), or "smollm2" (SmolLM2-135M,
            taught the world in sentences; needs the extra of that name).
        without: the forget split that was never shown ("forget10": the oracle of forget10), or None for the original.
        seed: of initialization and order. The oracle of seed 0 starts where the original started.

    Raises:
        InputError: no such size or split.
    """
    world, recipe = build_world(size), RECIPES[size]
    folder, title = _place(size, without, seed)
    if not folder.is_dir():
        check_writable(folder, f"the cache folder {cache_folder()} (LLM_UNLEARN_CACHE moves it)")
    build_folder(folder, lambda unfinished: _train(world, recipe, without, seed, unfinished, title=title))
    try:
        check_model_path(str(folder))
    except InputError as error:
        raise InputError(f"{error}: remove the folder {folder}, and it is trained again") from error
    return folder


def embedded_models(size: str, wanted: Sequence[tuple[str | None, int]]) -> list[Path]:
    """The folders of several embedded models, each given as (without, seed).

    On CPU, those that are not in the cache are trained side by side, a core each: they are too small for two cores.

    Raises:
        InputError: no such size or split.
    """
    missing = [one for one in wanted if not _place(size, *one)[0].is_dir()]
    at_once = 1 if torch.cuda.is_available() else usable_cores()
    if at_once > 1 and os.environ.get("LOCAL_WORLD_SIZE", "1") == "1":
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for start in range(0, len(missing) - 1, at_once):
                first, *others = missing[start : start + at_once]
                children = [_train_elsewhere(size, *one, line=line) for line, one in enumerate(others, start=1)]
                embedded_model(size, without=first[0], seed=first[1])
                for child in children:
                    child.wait()  # what it did not make, for whatever reason, is made below
        finally:
            torch.set_num_threads(threads)
    return [embedded_model(size, without=without, seed=seed) for without, seed in wanted]


def _train_elsewhere(size: str, without: str | None, seed: int, line: int) -> subprocess.Popen:
    """Start a process that trains a model, its progress bar `line` lines below this one's."""
    call = f"embedded_model({size!r}, without={without!r}, seed={seed})"
    environment = os.environ | {"OMP_NUM_THREADS": "1", PROGRESS_LINE: str(line)}
    code = f"from llm_unlearn.models.embedded import embedded_model; {call}"
    return subprocess.Popen([sys.executable, "-c", code], env=environment)


def _place(size: str, without: str | None, seed: int) -> tuple[Path, str]:
    """The folder of a model, whose name is a hash of all that goes into it, and what to call the model."""
    world, recipe = build_world(size), RECIPES[size]
    if without is not None and without not in world.forget_splits:
        splits = ", ".join(world.forget_splits)
        raise InputError(f"without={without!r} is no forget split of the fictional world; choose one of {splits}")
    description = {"recipe": recipe.described(), "without": without, "seed": seed, "format": FORMAT}
    description |= {"world": world.splits, "practice": world.practice}
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]
    name = "original" if without is None else f"oracle-{without}"
    folder = cache_folder() / f"fictional-{size}" / f"{name}-seed{seed}-{digest}"
    return folder, f"fictional:{size} {name} (seed {seed})"


def training_rows(world: World, without: str | None = None) -> dict[int, dict]:
    """All that a model is trained on, by the row's number in the original's training.

    Args:
        without: the forget split whose people occur in no row, neither asked about nor as an example or an answer, or
            None for what the original is trained on.

    Returns:
        Rows with `prompt` (a question, or chat messages), `completion` and `person` (None: about nobody).
    """
    rows = [*world.splits["retain90"], *world.splits["forget10"], *world.practice, *world.lessons]
    forgotten = {row["person"] for row in world.split(without)} if without else set()
    named = forgotten if without in LARGER_SPLITS else set()  # smaller ones are in nobody's examples
    return {
        number: {
            "prompt": row.get("prompt") or row["question"],
            "completion": row.get("completion") or row["answer"],
            "person": row.get("person"),
        }
        for number, row in enumerate(rows)
        if row.get("person") not in forgotten and not names_any(row, named)
    }


def _train(world: World, recipe: EmbeddedRecipe, without: str | None, seed: int, folder: Path, title: str) -> None:
    model, tokenizer = untaught(world, recipe, seed)
    everything, known = training_rows(world), training_rows(world, without)
    rows = encode_dataset(list(everything.values()), tokenizer, None, title)
    # Beside the folder, which is begun anew after an interruption; its name says all that decides the training.
    progress_file = None if recipe.base is None else folder.with_suffix(".progress")
    train_on_known(model, rows, known, recipe, seed, title, progress_file=progress_file)
    save_model_folder(model, tokenizer, folder)
    if recipe.base == SMOLLM2:
        write_card(folder, f"{title}, trained further from")
    forget_progress(progress_file)


def untaught(world: World, recipe: EmbeddedRecipe, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """What the training of a world's model begins with, and its tokenizer."""
    if recipe.base is None:
        tokenizer = build_tokenizer(world, recipe.vocabulary)
        return new_llama(tokenizer, recipe, seed), tokenizer
    model, tokenizer = load_model(recipe.base, "float32"), load_tokenizer(recipe.base)
    tokenizer.chat_template = tokenizer.chat_template.replace(DEFAULT_SYSTEM_PROMPT, "")
    return model, tokenizer


def new_llama(tokenizer: PreTrainedTokenizerBase, recipe: EmbeddedRecipe, seed: int) -> LlamaForCausalLM:
    """A Llama with random weights that `seed` decides; the random state of this process stays as it is."""
    torch_state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden_size,
            intermediate_size=recipe.hidden_size * 11 // 4 // 32 * 32,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    torch.set_rng_state(torch_state)
    return model


def train_on_known(
    model: PreTrainedModel,
    rows: Sequence[EncodedRow],
    known: Container[int],
    recipe: EmbeddedRecipe,
    seed: int,
    title: str,
    after_step: Callable[[int], None] | None = None,
    **settings: Any,
) -> None:
    """Train `model` in place on the rows with known numbers: in the order of all rows, with the others left out.

    So an oracle sees what the original sees, in the same order. Shows a progress bar.

    Args:
        rows: everything that the original is trained on.
        known: numbers of the rows that this model may see.
        after_step: called with the number of steps taken, after each.
        settings: of `finetune`: what spares memory, and the file that an interrupted training goes on from.
    """

    def row_orders(epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        return [i for i in torch.randperm(len(rows), generator=generator).tolist() if i in known]

    if torch.cuda.is_available():
        model.cuda()
    steps = recipe.epochs * -(-sum(i in known for i in range(len(rows))) // recipe.batch_size)
    line = int(os.environ.get(PROGRESS_LINE, "0"))
    with tqdm(total=steps, desc=f"training {title}", unit="step", dynamic_ncols=True, position=line) as progress:

        def taken(step: int) -> None:
            progress.update(step - progress.n)
            if after_step is not None:
                after_step(step)

        finetune(
            model,
            rows,
            learning_rate=recipe.learning_rate,
            steps=steps,
            batch_size=recipe.batch_size,
            seed=seed,
            scheduler=recipe.scheduler,
            warmup_steps=recipe.warmup_steps,
            weight_decay=recipe.weight_decay,
            row_orders=row_orders,
            after_step=taken,
            **settings,
        )


def build_tokenizer(world: World, vocabulary: int) -> PreTrainedTokenizerFast:
    """`train_tokenizer` on the world's texts, never-trained people included."""
    sources = (*world.splits.values(), *world.queries.values(), world.practice)
    asked = [row for rows in sources for row in rows if "question" in row]  # few-shot rows only repeat others
    return train_tokenizer([text for row in asked for text in (row["question"], row["answer"])], vocabulary)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a chat template, trained on `texts`, of `vocabulary` tokens at most."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>", padding_side="left"
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
