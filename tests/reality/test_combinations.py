"""Odd but legal models and rows in random combinations: what is read, scored and said is what plain Python and plain
transformers say.
"""

import pytest
import torch
from reality.odd_models import GENERATION, draw, make_folder
from reality.odd_rows import facts, units, write
from reality.plain import Plain

from llm_unlearn.data import load_unlearning_data
from llm_unlearn.data.encoding import encode_dataset, encode_prompt
from llm_unlearn.data.identity import facts_of, first_rows, people_of, units_of
from llm_unlearn.models.loading import load_model, load_tokenizer
from llm_unlearn.models.scoring import generate_answers, score_answers

MOST = 4  # generated tokens
ASKED = 4  # rows that are generated for
NUMBERS = [*range(50), *(pytest.param(number, marks=pytest.mark.long) for number in range(50, 1000))]


@pytest.mark.parametrize("number", NUMBERS)
def test_it_is_what_plain_transformers_says(number, tmp_path):
    odd = draw(number)
    written = odd.rows()
    file = write(written, tmp_path / f"forget{odd.suffix}", odd.encoding, odd.newline)
    read = load_unlearning_data(forget_file=file).forget
    texts = [(row.question, row.answer) for row in written]
    assert [*zip(read["question"], read["answer"], strict=True)] == texts, odd
    assert first_rows(facts_of(read)) == facts(written), odd
    assert first_rows(units_of(read)) == units(written), odd
    assert people_of(read) == [row.label("person") for row in written], odd

    folder = make_folder(odd, tmp_path / "model")
    plain, tokenizer, model = Plain(folder), load_tokenizer(str(folder)), load_model(str(folder)).eval()
    assert model.dtype == odd.dtype and plain.model.dtype == odd.dtype, odd
    rows = encode_dataset(read, tokenizer, None, "forget set")
    starts = [next(i for i, label in enumerate(row["labels"]) if label != -100) for row in rows]
    has_template = tokenizer.chat_template is not None
    first = plain.tokenizer("Ann")["input_ids"][:1]
    bos = [] if has_template or first != [tokenizer.bos_token_id] else first
    for (question, answer), row, start in zip(texts, rows, starts, strict=True):
        before, after = plain.rendered(question, answer)
        assert row["labels"][start:] == row["input_ids"][start:], odd
        # The same text in the same tokens, wherever prompt and answer meet.
        assert row["input_ids"][: len(bos)] == bos, odd
        ids = row["input_ids"][len(bos) :]
        assert tokenizer.decode(ids) == tokenizer.decode(plain.ids(before + answer + after)), odd
        said = tokenizer.decode(row["input_ids"][start:])
        assert said.strip() == tokenizer.decode(plain.ids(answer + after)).strip(), odd
        assert encode_prompt(tokenizer, [{"role": "user", "content": question}]) == row["input_ids"][:start], odd

    tolerance = 1e-4 if odd.dtype == torch.float32 else 0.05
    for row, start, score in zip(rows, starts, score_answers(model, rows, batch_size=3), strict=True):
        expected = plain.score(row["input_ids"], start)
        assert -score.nll == pytest.approx(expected, rel=tolerance, abs=10 * tolerance), odd

    assert GENERATION[odd.generation].items() <= model.generation_config.to_dict().items(), odd
    if odd.dtype == torch.float32:  # in half precision, padding may turn the likeliest of two
        prompts = [row["input_ids"][:start] for row, start in zip(rows, starts, strict=True)][:ASKED]
        answers = generate_answers(model, tokenizer, prompts, max_new_tokens=MOST)
        for prompt, text, answer in zip(prompts, texts, answers, strict=False):
            expected = plain.greedy(prompt, plain.rendered(*text)[1], MOST)
            assert answer == tokenizer.decode(expected, skip_special_tokens=True).strip(), odd
