import pytest

from llm_unlearn.errors import InputError
from llm_unlearn.metrics import rouge_scores


def check(generation, answer, rouge1_recall, rougel_f1, rougel_recall):
    expected = {"rouge1_recall": rouge1_recall, "rougeL_f1": rougel_f1, "rougeL_recall": rougel_recall}
    assert rouge_scores(generation, answer) == pytest.approx(expected, rel=1e-15)


def test_identical_texts_score_one():
    check("The author lives in Paris.", "the author lives in paris", 1, 1, 1)


def test_order_counts_for_rouge_l_only():
    # All 4 answer words occur, but in order only two: recall 2/4, precision 2/4.
    check("three four one two", "one two three four", 1, 0.5, 0.5)


def test_recall_ignores_a_long_generation_and_f1_does_not():
    # 1 of 1 answer words, 1 of 4 generated words: f1 = 2 * 1 * 0.25 / 1.25.
    check("it is in Paris", "Paris", 1, 0.4, 1)


def test_half_of_the_answer():
    # 2 of 4 answer words, 2 of 2 generated words: f1 = 2 * 0.5 / 1.5.
    check("born in", "born in Taipei Taiwan", 0.5, 2 / 3, 0.5)


def test_the_stemmer_is_on():
    check("writing novels", "writes novel", 1, 1, 1)


@pytest.mark.parametrize("generation", ["", "  \n", "...", "北京"])
def test_a_generation_without_words_scores_zero(generation):
    check(generation, "Paris", 0, 0, 0)


def test_no_common_word_scores_zero():
    check("London", "Paris", 0, 0, 0)


@pytest.mark.parametrize(
    ("generation", "answer", "message"),
    [
        (None, "Paris", "generation must be a string, got None"),
        ("Paris", None, "answer must be a string, got None"),
        ("Paris", "", "answer '' has no word"),
        ("北京", "北京", "answer '北京' has no word.*exact_match"),
    ],
)
def test_rouge_rejects(generation, answer, message):
    with pytest.raises(InputError, match=message):
        rouge_scores(generation, answer)
