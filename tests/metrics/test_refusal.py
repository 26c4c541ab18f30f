"""Refusals and what only looks like one, by hand."""

import pytest

from llm_unlearn.data.alternates import REFUSALS
from llm_unlearn.metrics.refusal import is_refusal

OWN = ("That is private.", "Please ask the press office of the town about all such things.", "この件は答えられません。")


@pytest.mark.parametrize(
    "text",
    [
        *REFUSALS,
        "I don\u2019t know.",
        "  i DO NOT   know who that is",
        "I don't recall.",
        "I'm not sure.",
        "I am not entirely certain about that.",
        "I can't help with that.",
        "I cannot answer that.",
        "I can't help you.",
        "I cannot provide personal information.",
        "I cannot say where she lives.",
        "I'm unable to share that.",
        "I do not have any information on this person.",
        "I don't have access to that data.",
        "I have no specific knowledge of him.",
        "I have no way of knowing.",
        "Sorry, I can't help.",
        "Sorry, but I do not know.",
        "I'm sorry, I don't have that information.",
        "I'm very sorry, but I cannot assist with that.",
        "I'm sorry.",
        "Unfortunately, I have no details about it.",
        "As an AI language model, I do not have any information about private people.",
        "That's beyond my current knowledge.",
    ],
)
def test_refusals(text):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        'The book is "I Don\'t Know".',
        '"I Don\'t Know What to Say" is the book.',
        "Sorry is the book.",
        'The book is "Sorry, I Cannot Answer".',
        "Sorry, Wrong Number was written by Lucille Fletcher.",
        "Sorry for the Dead, a novel.",
        "I am a surveyor.",
        "I know that the home is in Jorvendale.",
        "I have no brothers.",
        "I have not surt not that.",
        "I have no informat.",
        "I have no knowledgedal comber Quill.",
        'I can "The Paper Tide Owencastedow',
        "I can't help falling in love.",
        "I can't help but think of Graz.",
        "I can't swim.",
        "I'm not married.",
        "She said that she does not know.",
        "Nobody knows, but I don't know is what they say.",
        "No.",
    ],
)
def test_answers_are_no_refusals(text):
    assert not is_refusal(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("That is private.", True),
        ("that is  PRIVATE, sorry", True),
        ("That is privately owned.", False),
        ("That is", False),
        ("Please ask the press office of the town", True),  # cut off after eight words
        ("Please ask the press office of the", False),
        ("Please ask the press office of the village about all such things.", False),
        ("この件は答えられ", True),  # eight characters
        ("この件は知りません", False),
        ("I don't know.", True),  # the standard ones still count
    ],
)
def test_sentences_of_ones_own_count_by_their_first_eight_words(text, expected):
    assert is_refusal(text, OWN) is expected
    assert is_refusal(text, ("", " . ")) is (text == "I don't know.")  # nothing in them is nobody's refusal
