"""Odd but legal models in random combinations: rows, scores and greedy answers are those of plain transformers."""

import pytest
import torch
from reality.odd_models import ROWS, draw, make_folder
from reality.plain import Plain

from llm_unlearn.data.encoding import encode_prompt, encode_row, end_token_ids
from llm_unlearn.models.loading import load_model, load_tokenizer
from llm_unlearn.models.scoring import generate_answers, score_answers

MOST = 6  # generated tokens
NUMBERS = [*range(100), *(pytest.param(number, marks=pytest.mark.long) for number in range(100, 1000))]


@pytest.mark.parametrize("number", NUMBERS)
def test_it_is_what_plain_transformers_says(number, tmp_path):
    odd = draw(number)
    folder = make_folder(odd, tmp_path)
    plain, tokenizer, model = Plain(folder), load_tokenizer(str(folder)), load_model(str(folder)).eval()
    assert model.dtype == odd.dtype and plain.model.dtype == odd.dtype, odd
    rows = [encode_row(tokenizer, [{"role": "user", "content": q}], a) for q, a in ROWS]
    for (question, answer), row in zip(ROWS, rows, strict=True):
        before, after = plain.rendered(question, answer)
        has_template = tokenizer.chat_template is not None
        first = plain.tokenizer("Ann")["input_ids"][:1]
        bos = [] if has_template or first != [tokenizer.bos_token_id] else first
        start = next(i for i, label in enumerate(row["labels"]) if label != -100)
        assert row["labels"][start:] == row["input_ids"][start:], odd
        # The same text in the same tokens, wherever prompt and answer meet.
        ids, text = row["input_ids"][len(bos) :], before + answer + after
        assert row["input_ids"][: len(bos)] == bos, odd
        assert tokenizer.decode(ids) == tokenizer.decode(
            plain.tokenizer(text, add_special_tokens=False)["input_ids"]
        ), odd
        assert tokenizer.decode(row["input_ids"][start:]).strip() == _known(plain, answer + after), odd
        prompt = encode_prompt(tokenizer, [{"role": "user", "content": question}])
        assert prompt == row["input_ids"][:start], odd
    tolerance = 1e-4 if odd.dtype == torch.float32 else 0.05
    for row, score in zip(rows, score_answers(model, rows, batch_size=3), strict=True):
        start = next(i for i, label in enumerate(row["labels"]) if label != -100)
        expected = plain.score(row["input_ids"], start)
        assert -score.nll == pytest.approx(expected, rel=tolerance, abs=10 * tolerance), odd
    if odd.dtype == torch.float32:  # in half precision, padding may turn the likeliest of two
        prompts = [encode_prompt(tokenizer, [{"role": "user", "content": question}]) for question, _ in ROWS]
        said = generate_answers(model, tokenizer, prompts, max_new_tokens=MOST)
        ends = end_token_ids(tokenizer)
        for prompt, text in zip(prompts, said, strict=True):
            expected = tokenizer.decode(plain.greedy(prompt, ends, MOST), skip_special_tokens=True)
            assert text.strip() == expected.strip(), odd


def _known(plain: Plain, text: str) -> str:
    """A text as far as the tokenizer has tokens for it."""
    return plain.tokenizer.decode(plain.tokenizer(text, add_special_tokens=False)["input_ids"]).strip()
