"""Prompting: every way of asking is scored, and counts by the forget row that it asks about."""

import pytest
from builders import qa_rows, tiny_model, tiny_tokenizer
from datasets import Dataset

from llm_unlearn.attacks._variants import variant
from llm_unlearn.attacks.prompting import prompting
from llm_unlearn.data import UnlearningData, encode_dataset, forget_queries
from llm_unlearn.errors import InputError
from llm_unlearn.files.outcomes import weights_digest
from llm_unlearn.models.scoring import AnswerScore, score_answers


def rows(count, **columns):
    """Forget rows of which 0 and 1 ask for one fact; answers of one word have no prefix style."""
    found = qa_rows(count).to_list()
    found[1]["fact_id"] = found[0]["fact_id"]
    for number, row in enumerate(found):
        row["paraphrased_question"] = f"{row['question']} a"
        row |= {name: values[number] for name, values in columns.items()}
    return Dataset.from_list(found)


def data(**queries):
    return UnlearningData(rows(6), qa_rows(12, 20), None, {}, "made up", queries)


def reversed_queries():
    """Three for row 0's fact, one for row 2's."""
    forget = rows(6)
    facts = [forget[i]["fact_id"] for i in (0, 0, 0, 2)]
    asked = ["Who lives in Paris", "Who lives in Rome", "Who lives in Oslo", "Who eats soup"]
    answers = ["Ann", "Ben", "Cal", "Dora"]
    return Dataset.from_dict({"question": asked, "answer": answers, "fact_id": facts})


def test_every_style_is_scored_by_forget_row():
    given, model, tokenizer = data(reversed=reversed_queries()), tiny_model(), tiny_tokenizer()
    digest = weights_digest(model)
    variants = prompting(model, tokenizer, given)["variants"]
    assert weights_digest(model) == digest
    queries = forget_queries(given)
    assert list(variants) == list(queries) == ["verbatim", "paraphrased", "prefix", "few_shot", "reversed"]
    plain = score_answers(model, encode_dataset(given.forget, tokenizer, None, "forget set"))
    values = variants["verbatim"]["value_by_index"]
    assert list(values) == [str(row) for row in range(6)]
    assert [value["probability"] for value in values.values()] == pytest.approx([s.probability for s in plain])
    assert [value["exact_match"] for value in values.values()] == [float(s.exact_match) for s in plain]
    assert list(variants["paraphrased"]["value_by_index"]) == ["0", "2", "3", "4", "5"]  # rows 0 and 1 are one fact
    for style, found in variants.items():
        assert set(found) == {"forget_exact_match", "forget_probability", "value_by_index"}
        probabilities = [value["probability"] for value in found["value_by_index"].values()]
        assert found["forget_probability"] == pytest.approx(sum(probabilities) / len(probabilities))
        assert {int(row) for row in found["value_by_index"]} == set(queries[style]["row"])


def test_several_queries_about_a_row_are_averaged():
    given, model, tokenizer = data(reversed=reversed_queries()), tiny_model(), tiny_tokenizer()
    encoded = encode_dataset(reversed_queries(), tokenizer, None, "reversed")
    one, two, three, other = (score.probability for score in score_answers(model, encoded))
    found = prompting(model, tokenizer, given)["variants"]["reversed"]
    values = {row: value["probability"] for row, value in found["value_by_index"].items()}
    assert values == pytest.approx({"0": (one + two + three) / 3, "2": other}, rel=1e-5)
    assert found["forget_probability"] == pytest.approx(((one + two + three) / 3 + other) / 2, rel=1e-5)


def test_a_variant_by_hand():
    half, tenth = AnswerScore((-0.6931471805599453,), (True,)), AnswerScore((-2.302585092994046,), (False,))
    found = variant([half, tenth, tenth], [half], rows=[4, 4, 7])
    values = {"4": {"probability": 0.3, "exact_match": 0.5}, "7": {"probability": 0.1, "exact_match": 0.0}}
    assert {row: pytest.approx(value) for row, value in values.items()} == found.pop("value_by_index")
    assert found == pytest.approx(
        {
            "forget_exact_match": 0.25,
            "forget_probability": 0.2,
            "retain_exact_match": 1.0,
            "retain_probability": 0.5,
        }
    )


def test_plain_text_is_only_scored_as_it_is():
    texts = Dataset.from_dict({"text": ["Ann lives in Paris", "Ben lives in Rome"]})
    given = UnlearningData(texts, None, None, {}, "made up")
    variants = prompting(tiny_model(), tiny_tokenizer(), given)["variants"]
    assert list(variants) == ["verbatim"] and list(variants["verbatim"]["value_by_index"]) == ["0", "1"]


def test_a_query_that_does_not_fit_is_named_before_a_model_runs():
    longest = max(len(row["input_ids"]) for row in encode_dataset(rows(6), tiny_tokenizer(), None, "rows"))
    with pytest.raises(InputError, match=r"forget_few_shot answers row 0: max_length=\d+ cuts off the whole answer"):
        prompting(None, tiny_tokenizer(), data(), max_length=longest)
