# ruff: noqa: RUF001 (letters that look alike are what is tested)
import json
from unicodedata import normalize

import pytest
from rouge_score.rouge_scorer import RougeScorer

from llm_unlearn.errors import InputError
from llm_unlearn.metrics import rouge_scores
from llm_unlearn.metrics.rouge import UnicodeTokenizer, rouge_tokenizer


def check(generation, answer, rouge1_recall, rougel_f1, rougel_recall, **options):
    expected = {"rouge1_recall": rouge1_recall, "rougeL_f1": rougel_f1, "rougeL_recall": rougel_recall}
    assert rouge_scores(generation, answer, **options) == pytest.approx(expected, rel=1e-15)


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
        ("。", "。", "answer '。' has no word: use exact_match"),
    ],
)
def test_rouge_rejects(generation, answer, message):
    with pytest.raises(InputError, match=message):
        rouge_scores(generation, answer)


# ---- other languages -------------------------------------------------------------------------------------------------


def test_chinese_answers_that_share_a_year_are_not_equal():
    generation, answer = "他1987年写了三本书。", "她1987年出生于北京。"
    # 她 1987 年 出 生 于 北 京: of its 8 tokens 1987 and 年 occur among 他 1987 年 写 了 三 本 书, in this order.
    check(generation, answer, 2 / 8, 2 / 8, 2 / 8)
    check(generation, answer, 1, 1, 1, tokenizer="english")  # which sees the year alone
    check(answer, answer, 1, 1, 1)
    check("In 1987.", answer, 1 / 8, 2 * (1 / 8) * (1 / 2) / (1 / 8 + 1 / 2), 1 / 8)


def test_japanese_by_characters():
    # 東 京 に 住 む, and 京 都 に 住 む: 京 に 住 む are common, 4 of 5.
    check("京都に住む", "東京に住む", 4 / 5, 4 / 5, 4 / 5)
    check("ﾄｳｷｮｳﾀﾜｰ", "トウキョウタワー", 1, 1, 1)  # narrow and wide letters are the same


def test_thai_by_characters_with_their_marks():
    assert UnicodeTokenizer().tokenize("อยู่ที่ลาว") == ["อ", "ยู่", "ที่", "ล", "า", "ว"]
    check("อยู่ที่ไทย", "อยู่ที่ลาว", 3 / 6, 3 / 6, 3 / 6)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("ປະເທດລາວ", ["ປ", "ະ", "ເ", "ທ", "ດ", "ລ", "າ", "ວ"]),
        ("ភ្នំពេញ", ["ភ្", "នំ", "ពេ", "ញ"]),
        ("ရန်ကုန်", ["ရ", "န်", "ကု", "န်"]),
        ("々〇コーヒー", ["々", "〇", "コ", "ー", "ヒ", "ー"]),
        ("서울에 산다", ["서울에", "산다"]),  # Korean has spaces
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("x_y, 3.14 Straße", ["x", "y", "3", "14", "strasse"]),
        ("１９８７ année", ["1987", "année"]),
    ],
)
def test_tokens_of_other_scripts(text, tokens):
    assert UnicodeTokenizer().tokenize(text) == tokens


def test_russian_by_words():
    # она родилась в москве в 1987 году: в, в, 1987 and году of its 7 words are said, in order, by 7 words.
    check("Он родился в Киеве в 1987 году", "Она родилась в Москве в 1987 году", 4 / 7, 4 / 7, 4 / 7)
    check("МОСКВА!", "Москва", 1, 1, 1)


def test_a_few_umlauts_leave_an_answer_to_the_published_tokenizer_unless_another_is_given():
    # er lebt in m ller: the published tokenizer cuts words at letters that it does not know.
    generation, answer = "Er lebt in Möllheim", "Er lebt in Müllheim"
    assert rouge_tokenizer(answer) == "english"
    check(generation, answer, 1, 1, 1)
    check(generation, answer, 3 / 4, 3 / 4, 3 / 4, tokenizer="unicode")
    check("in der GROSSEN STRASSE", "in der großen Straße", 1, 1, 1, tokenizer="unicode")


@pytest.mark.parametrize(
    ("answer", "tokenizer"),
    [
        ("Gabriel García Márquez", "english"),
        ("Ngũgĩ wa Thiong'o", "english"),
        ("1987", "english"),
        ("Öl", "unicode"),  # one letter of two
        ("Łódź", "unicode"),  # three of four
        ("São", "english"),  # one of three
        ("٣", "unicode"),  # the published tokenizer sees nothing in it
        ("ＡＢＣ", "unicode"),
        ("Gabriel 加西亚", "english"),
        ("加西亚 Gabo", "english"),  # four of seven are a-z
        ("加西亚 G.", "unicode"),
    ],
)
def test_the_letters_of_the_answer_choose_the_tokenizer(answer, tokenizer):
    assert rouge_tokenizer(answer) == rouge_tokenizer(normalize("NFD", answer)) == tokenizer


def test_an_unknown_tokenizer_is_refused():
    with pytest.raises(InputError, match="tokenizer 'german' is unknown: choose from english, unicode"):
        rouge_scores("a", "a", tokenizer="german")
    with pytest.raises(InputError, match=r"answer '北京' has no word of a-z or 0-9.*exact_match"):
        rouge_scores("北京", "北京", tokenizer="english")


def test_all_answers_of_tofu_are_english_and_their_scores_those_of_rouge_score(shared_data):
    """Among them those with names such as García, and one whose letters are Ukrainian to a quarter."""
    files = [shared_data / "tofu" / f"{name}.json" for name in ("full", "real_authors", "world_facts")]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    answers = [json.loads(line)["answer"] for line in lines]
    assert len(answers) == 4217
    assert {rouge_tokenizer(answer) for answer in answers} == {"english"}
    accented = [i for i, answer in enumerate(answers) if any(letter.isalpha() and letter > "\x7f" for letter in answer)]
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    for i in [*accented[:100], *range(0, 4000, 40)]:
        generation, answer = answers[i - 1], answers[i]
        expected = scorer.score(answer, generation)
        assert rouge_scores(generation, answer) == {
            "rouge1_recall": expected["rouge1"].recall,
            "rougeL_f1": expected["rougeL"].fmeasure,
            "rougeL_recall": expected["rougeL"].recall,
        }
