"""Odd but legal models at width 64: tokenizers, chat templates, families, dtypes, files, ways to generate."""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from reality.odd_rows import ENCODINGS, LABELS, NEWLINES, SUFFIXES, TEXTS, OddRow, make_rows
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

CORPUS = [text for row in TEXTS for text in row] + [
    "the user and the assistant speak in turns",
    "Question: Answer: system user assistant model human",
]
SPECIAL = (
    *("<|start|>", "<|end|>", "<|user|>", "<|assistant|>", "<think>", "</think>", "[INST]", "[/INST]"),
    *("<|channel|>", "<|message|>"),
)

_TURN = "{% for m in messages %}"
TEMPLATES = {  # name -> Jinja; our own words, each a shape that public templates have
    "none": None,
    "turns": _TURN + "<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}",
    "turns with bos": "{{ bos_token }}" + _TURN + "<|start|>{{ m.role }}\n\n{{ m.content | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n\n{% endif %}",
    "instructions": _TURN + "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
    "instructions without spaces": _TURN + "{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
    "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
    "names": _TURN + "{% if m.role == 'user' %}Human: {{ m.content }}\n\n"
    "{% else %}Assistant: {{ m.content }}{{ eos_token }}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}",
    "ends in words": _TURN + "### {{ m.role }}\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant\n{% endif %}",
    "closed thoughts": _TURN
    + "<|start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% if not enable_thinking %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}",
    "opened thoughts": _TURN  # in the generation prompt; an answered turn has none
    + "{% if m.role == 'assistant' %}<|assistant|>{{ m.content.split('</think>')[-1] }}<|end|>"
    "{% else %}<|user|>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}",
    "channels": _TURN  # the generation prompt leaves open which one
    + "<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>{{ m.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}",
    "dated": "<|start|>system\n{{ date_string if date_string is defined else strftime_now('%d %b %Y') }}<|end|>\n"
    + _TURN
    + "<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}",
    "two ends": _TURN + "<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% else %}{{ eos_token }}{% endif %}",
    "indented": _TURN + "<|{{ m.role }}|>   {{ m.content }}<|end|>  {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "no system": "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
    + _TURN
    + "<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}",
}

_SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256}
_GATED = _SIZES | {"intermediate_size": 96, "num_key_value_heads": 2}
FAMILIES = {  # model_type -> what its configuration takes at width 64
    "llama": _GATED,
    "mistral": _GATED | {"sliding_window": 8},
    "qwen2": _GATED,
    "qwen3": _GATED | {"head_dim": 16},
    "gemma": _GATED | {"head_dim": 16},
    "gemma2": _GATED | {"head_dim": 16, "sliding_window": 16},
    "olmo2": _GATED,
    "granite": _GATED | {"logits_scaling": 4.0, "embedding_multiplier": 2.0},
    "stablelm": _GATED,
    "phi": _SIZES | {"intermediate_size": 96},
    "gpt_neox": _SIZES | {"intermediate_size": 96},
    "opt": _SIZES | {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4},
    "mixtral": _GATED | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
}
KINDS = ("bytes", "prefix space", "unigram", "words")
GENERATION = {  # what a model's folder may say about generation, none of which is greedy
    "nothing": {},
    "repetition penalty": {"repetition_penalty": 1.5},
    "no repetition": {"no_repeat_ngram_size": 1},
    "sampling": {"do_sample": True, "temperature": 2.0, "top_p": 0.9},
    "suppressed": {"suppress_tokens": [*range(20, 250)], "begin_suppress_tokens": [*range(250, 300)]},
    "forced": {"forced_bos_token_id": 30, "forced_eos_token_id": 31},
    "beams": {"num_beams": 3, "length_penalty": 2.0},
    "long": {"min_new_tokens": 5, "exponential_decay_length_penalty": [1, 1.5]},
    "other ends": {"eos_token_id": [*range(20, 300)]},
    "guided": {"guidance_scale": 3.0},
    "biased": {"sequence_bias": [[[25], 10.0]], "bad_words_ids": [[26], [27]]},
}


@dataclass(frozen=True)
class Odd:
    """One combination; every field is drawn by itself."""

    number: int
    kind: str  # of tokenizer
    has_bos: bool
    adds_bos: bool  # by itself
    pad: str | None  # "own", "eos", None
    template: str
    family: str
    dtype: torch.dtype
    tied: bool
    sharded: bool
    generation: str
    labels: str
    repeats: int  # rows that ask what another one asks
    suffix: str  # of the file of rows
    encoding: str
    newline: str

    def __str__(self) -> str:
        bos = "bos added" if self.adds_bos else "bos" if self.has_bos else "no bos"
        files = ("tied" if self.tied else "untied") + (", sharded" if self.sharded else "")
        model = f"{self.family}, {self.kind}, {bos}, pad {self.pad}, {self.template}, {str(self.dtype)[6:]}, {files}"
        rows = f"labels: {self.labels}, {self.repeats} repeats, {self.suffix}, {self.encoding}, {self.newline!r}"
        return f"{self.number}: {model}, generation: {self.generation}, {rows}"

    def rows(self) -> list[OddRow]:
        return make_rows(self.labels, self.repeats, random.Random(self.number))


def draw(number: int) -> Odd:
    """The combination of that number, the same on every machine."""
    chance = random.Random(number)
    has_bos = chance.random() < 0.7
    return Odd(
        number,
        kind=chance.choice(KINDS),
        has_bos=has_bos,
        adds_bos=has_bos and chance.random() < 0.5,
        pad=chance.choice(["own", "eos", None]),
        template=chance.choice([name for name in TEMPLATES if has_bos or "bos" not in name]),
        family=chance.choice(list(FAMILIES)),
        dtype=chance.choice([torch.float32, torch.float32, torch.bfloat16]),
        tied=chance.random() < 0.5,
        sharded=chance.random() < 0.25,
        generation=chance.choice([*GENERATION]),
        labels=chance.choice(LABELS),
        repeats=chance.choice([0, 1, 3]),
        suffix=chance.choice(SUFFIXES),
        encoding=chance.choice(ENCODINGS),
        newline=chance.choice(NEWLINES),
    )


def make_tokenizer(odd: Odd) -> PreTrainedTokenizerFast:
    """A tokenizer trained on the rows' own texts, so that merges cross what templates put beside them."""
    tokens = [*SPECIAL, "<eos>", *(["<bos>"] if odd.has_bos else []), *(["<pad>"] if odd.pad == "own" else [])]
    if odd.kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, special_tokens=tokens)
    elif odd.kind == "words":
        tokenizer = Tokenizer(models.BPE(byte_fallback=False, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
        tokenizer.decoder = decoders.Fuse()
        trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", *tokens])
    else:
        unigram = odd.kind == "unigram"
        tokenizer = Tokenizer(models.Unigram() if unigram else models.BPE(unk_token="<unk>"))
        scheme = "always" if unigram else "first"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
        options = {"special_tokens": ["<unk>", *tokens], "vocab_size": 400}
        trainer = trainers.UnigramTrainer(**options, unk_token="<unk>") if unigram else trainers.BpeTrainer(**options)
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    if odd.adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<eos>",
        bos_token="<bos>" if odd.has_bos else None,
        pad_token={"own": "<pad>", "eos": "<eos>", None: None}[odd.pad],
        additional_special_tokens=list(SPECIAL),
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = TEMPLATES[odd.template]
    return wrapped


def make_folder(odd: Odd, folder: Path) -> Path:
    """A model with random weights and its tokenizer, saved as `odd` says."""
    tokenizer = make_tokenizer(odd)
    config = AutoConfig.for_model(
        odd.family,
        **FAMILIES[odd.family],
        vocab_size=len(tokenizer) + 3,  # padded, as many are
        initializer_range=0.2,
        tie_word_embeddings=odd.tied,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(odd.number)
        model = AutoModelForCausalLM.from_config(config).to(odd.dtype)
    model.generation_config.update(**GENERATION[odd.generation])
    model.save_pretrained(folder, max_shard_size="50KB" if odd.sharded else "1GB")
    tokenizer.save_pretrained(folder)
    return folder
