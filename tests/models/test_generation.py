"""What a folder's generation configuration says changes no judged answer, unless it was asked for."""

import copy

import pytest
import torch
from builders import FAMILIES, qa_rows, tiny_model, tiny_tokenizer, with_trained_adapter
from transformers import GenerationConfig

from llm_unlearn.data import encode_prompt, split_row
from llm_unlearn.errors import InputError
from llm_unlearn.files.batches import BatchRunner
from llm_unlearn.models.generation import answer_configuration, generating_by, generation_settings
from llm_unlearn.models.judging import judge
from llm_unlearn.models.scoring import generate_answers

NEW_TOKENS = 12
ODD = {
    "repetition_penalty": 5.0,
    "no_repeat_ngram_size": 2,
    "min_new_tokens": 9,
    "suppress_tokens": list(range(5, 25)),
    "begin_suppress_tokens": [30],
    "forced_eos_token_id": 26,
    "num_beams": 3,
    "bad_words_ids": [[40], [41, 42]],
    "exponential_decay_length_penalty": (2, 1.5),
    "max_length": 9,
}
SAMPLED = {"do_sample": True, "temperature": 0.3, "top_k": 3, "top_p": 0.5, "repetition_penalty": 5.0}


def odd(model, **settings):
    model.generation_config = GenerationConfig(**settings)
    return model


@torch.no_grad()
def plain_greedy(model, prompts):
    """The most probable token, one after the other: a whole forward pass for each."""
    tokenizer, texts = tiny_tokenizer(), []
    for prompt in prompts:
        ids = list(prompt)
        while len(ids) < len(prompt) + NEW_TOKENS:
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if ids[-1] == tokenizer.eos_token_id:
                break
        texts.append(tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True).strip())
    return texts


@pytest.fixture(scope="module")
def prompts():
    return [encode_prompt(tiny_tokenizer(), split_row(row, "question/answer")[0]) for row in qa_rows(16)]


def answers(model, prompts, **options):
    return generate_answers(model, tiny_tokenizer(), prompts, NEW_TOKENS, batch_size=5, **options)


@pytest.mark.parametrize("settings", [ODD, SAMPLED], ids=["odd", "sampled"])
@pytest.mark.parametrize("family", FAMILIES)
def test_judged_answers_are_the_most_probable_tokens_whatever_the_folder_says(family, settings, prompts, tmp_path):
    odd(tiny_model(family), **settings).save_pretrained(tmp_path)
    model = type(tiny_model(family)).from_pretrained(tmp_path)
    assert model.generation_config.repetition_penalty == 5
    expected = plain_greedy(model, prompts)
    assert len(set(expected)) > 3 and any(len(text.split()) > 3 for text in expected)
    assert answers(model, prompts) == expected
    # with the folder's own configuration, it says something else
    assert answers(model, prompts, generation_config="model") != expected


def test_the_end_token_ends_an_answer_though_the_folder_forbids_it(prompts):
    """A tokenizer's end of turn, which this model says at once."""
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[1] = model.model.norm.weight  # <end> is likelier than the rest wherever it is above 0
    model = odd(model, min_new_tokens=6, suppress_tokens=[1])
    assert answers(model, prompts) == plain_greedy(model, prompts)


def test_an_adapted_model_answers_by_our_configuration_and_keeps_its_own(prompts):
    base = odd(tiny_model(), **ODD)
    adapted = with_trained_adapter(base)
    assert answers(adapted, prompts) == plain_greedy(adapted, prompts) != plain_greedy(base, prompts)
    assert adapted.generation_config is adapted.get_base_model().generation_config
    assert adapted.generation_config.num_beams == 3
    adapted.generation_config = GenerationConfig(repetition_penalty=9.0)  # now there are two
    assert answers(adapted, prompts) == plain_greedy(adapted, prompts)
    assert adapted.generation_config.repetition_penalty == 9


def test_the_model_has_its_configuration_back_even_after_an_error():
    model = odd(tiny_model(), **ODD)
    own = model.generation_config
    with pytest.raises(KeyError), generating_by(model, GenerationConfig()):
        assert model.generation_config is not own
        raise KeyError
    assert model.generation_config is own and own.to_diff_dict()["num_beams"] == 3


def test_the_product_as_shipped_is_what_transformers_makes_of_its_configuration(prompts):
    """But for sampling, which is off."""
    shipped = {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2, "eos_token_id": [1, 12]}
    model, tokenizer = odd(tiny_model(), **shipped, do_sample=True, temperature=0.7), tiny_tokenizer()
    expected = []
    for prompt in prompts:
        output = model.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=1, **shipped
        )
        expected.append(tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True).strip())
    assert answers(model, prompts, generation_config="model") == expected != plain_greedy(model, prompts)
    assert model.generation_config.do_sample and model.generation_config.temperature == 0.7


def test_beams_of_the_product_give_one_answer_each(prompts):
    model = odd(tiny_model(), num_beams=3, num_return_sequences=3, return_dict_in_generate=True)
    texts = answers(model, prompts, generation_config="model")
    assert len(texts) == len(prompts) and texts != plain_greedy(model, prompts)


def test_settings_say_what_was_used():
    model, tokenizer = odd(tiny_model(), repetition_penalty=5.0), tiny_tokenizer()
    ours = {"do_sample": False, "eos_token_id": [1], "max_new_tokens": 7, "num_beams": 1, "pad_token_id": 1}
    ours["use_cache"] = True
    assert generation_settings(model, tokenizer, 7) == {"generation_config": "own"} | ours
    assert generation_settings(None, tokenizer, 7) == generation_settings(model, tokenizer, 7)
    theirs = generation_settings(model, tokenizer, 7, "model")
    assert theirs["generation_config"] == "model" and theirs["repetition_penalty"] == 5
    assert answer_configuration(model, tokenizer, 7).repetition_penalty is None
    with pytest.raises(InputError, match="generation_config='greedy' is unknown; choose from own, model"):
        answer_configuration(model, tokenizer, 7, "greedy")


def test_judged_rows_carry_their_settings_and_the_journal_keeps_them_apart(tmp_path):
    model, rows = odd(tiny_model(), repetition_penalty=5.0), qa_rows(6)

    def judged(choice, tested=model):
        options = {"generate": ["forget"], "max_new_tokens": 8, "generation_config": choice}
        records = judge(tested, tiny_tokenizer(), {"forget": rows}, runner=BatchRunner(journal=tmp_path), **options)
        return records["forget_Q_A_ROUGE"]

    own, theirs = judged("own"), judged("model")
    assert own["tokenizers"] == {"english": 6}
    assert own["generated_by"] == generation_settings(model, tiny_tokenizer(), 8)
    assert theirs["generated_by"] == generation_settings(model, tiny_tokenizer(), 8, "model")
    assert own["value_by_index"] != theirs["value_by_index"]
    assert judged("own") == own and judged("model") == theirs
    other = copy.deepcopy(model)
    other.generation_config.repetition_penalty = 1.0
    assert judged("model", other)["value_by_index"] == own["value_by_index"]
