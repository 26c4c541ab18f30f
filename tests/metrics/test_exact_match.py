import pytest

from llm_unlearn.errors import InputError
from llm_unlearn.metrics import exact_match


@pytest.mark.parametrize(
    ("generation", "answer", "expected"),
    [
        ("Paris", "Paris", 1),
        ("  Paris\n", "Paris ", 1),
        ("paris", "Paris", 0),
        ("Paris.", "Paris", 0),
        ("The city is Paris", "Paris", 0),
        ("", "Paris", 0),
        ("北京", "北京", 1),
        ("Jos\u00e9", "Jose\u0301", 1),  # one character, or two, for the same letter
        ("\u1112\u1161\u11ab", "\ud55c", 1),  # 한
        ("Jos\u00e9", "Jose", 0),
        ("\uff11", "1", 0),  # wide and narrow are other characters
    ],
)
def test_exact_match(generation, answer, expected):
    assert exact_match(generation, answer) == expected


@pytest.mark.parametrize(
    ("generation", "answer", "message"),
    [
        (None, "Paris", "generation must be a string, got None"),
        ("Paris", 7, "answer must be a string, got 7"),
        ("", " ", "answer is blank"),
    ],
)
def test_exact_match_rejects(generation, answer, message):
    with pytest.raises(InputError, match=message):
        exact_match(generation, answer)
