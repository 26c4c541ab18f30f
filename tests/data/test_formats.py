"""Row formats, and the files that rows come in."""

import codecs
import json

import pyarrow
import pyarrow.parquet
import pytest

from llm_unlearn.data import load_unlearning_data, question_text, row_format, split_row
from llm_unlearn.data.formats import read_rows
from llm_unlearn.errors import InputError

USER = {"role": "user", "content": "Who?"}
ASSISTANT = {"role": "assistant", "content": "Ann."}
SYSTEM = {"role": "system", "content": ""}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["question", "answer"], "question/answer"),
        (["fact_id", "answer", "question", "perturbed_answer"], "question/answer"),
        (["prompt", "completion"], "prompt/completion"),
        (["id", "messages", "prompt"], "messages"),
        (["text"], "text"),
        (["text", "question", "answer"], "question/answer"),
    ],
)
def test_row_format(columns, expected):
    assert row_format(columns) == expected


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["qestion", "answer"], "columns ['qestion', 'answer'] fit no row format; accepted are question + answer; "),
        (["qestion", "answer"], "prompt + completion; messages; text: rename 'qestion' to 'question'"),
        (["Question", "Answer"], "rename 'Question' to 'question', rename 'Answer' to 'answer'"),
        (["prompts", "completion"], "rename 'prompts' to 'prompt'"),
        (["instruction", "output"], "rename the columns that hold the texts"),
        ([], "columns [] fit no row format"),
    ],
)
def test_row_format_errors_list_the_columns_and_the_nearest_name(columns, message):
    with pytest.raises(InputError) as caught:
        row_format(columns)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("row", "format_name", "prompt", "answer"),
    [
        ({"question": "Who?", "answer": " Ann. ", "x": 1}, "question/answer", [USER], " Ann. "),
        ({"prompt": "Who?", "completion": "Ann."}, "prompt/completion", [USER], "Ann."),
        ({"prompt": [SYSTEM, USER], "completion": [ASSISTANT]}, "prompt/completion", [SYSTEM, USER], "Ann."),
        ({"messages": [USER, ASSISTANT, USER, ASSISTANT]}, "messages", [USER, ASSISTANT, USER], "Ann."),
        ({"messages": [USER | {"name": None}, ASSISTANT | {"name": "x"}]}, "messages", [USER], "Ann."),
        ({"text": "Ann lives here.\n"}, "text", "", "Ann lives here.\n"),
    ],
)
def test_split_row(row, format_name, prompt, answer):
    assert split_row(row, format_name) == (prompt, answer)


@pytest.mark.parametrize(
    ("row", "format_name", "message"),
    [
        (
            {"question": "Who?", "answer": None},
            "question/answer",
            "column 'answer' holds None (NoneType); it must be a",
        ),
        ({"question": 7, "answer": "Ann."}, "question/answer", "column 'question' holds 7 (int); it must be a string"),
        (
            {"question": "Who?", "answer": " \n"},
            "question/answer",
            "column 'answer' is blank (' \\n'); fill it or drop",
        ),
        ({"prompt": "Who?"}, "prompt/completion", "column 'completion' holds None"),
        (
            {"prompt": [], "completion": "Ann."},
            "prompt/completion",
            "column 'prompt' holds []; it must be a list of {'role",
        ),
        ({"prompt": [SYSTEM], "completion": "Ann."}, "prompt/completion", "column 'prompt' has no user message before"),
        (
            {"prompt": [USER], "completion": [USER, ASSISTANT]},
            "prompt/completion",
            "column 'completion' has 2 messages; keep one, move earlier turns to 'prompt'",
        ),
        (
            {"prompt": [USER], "completion": [USER]},
            "prompt/completion",
            "column 'completion' ends with role 'user'; its",
        ),
        ({"messages": "Who?"}, "messages", "column 'messages' holds 'Who?'; it must be a list"),
        ({"messages": [USER]}, "messages", "column 'messages' has no user message before the answer"),
        ({"messages": [USER, USER]}, "messages", "ends with role 'user'; its last message must be 'assistant'"),
        (
            {"messages": [USER, {"role": "assistant", "content": None}]},
            "messages",
            "'role' and 'content' must be strings",
        ),
        ({"messages": [USER, ASSISTANT | {"content": " "}]}, "messages", "ends with a blank assistant message"),
        ({"messages": [USER | {"content": ""}, ASSISTANT]}, "messages", "column 'messages' has a blank user message"),
        ({"text": ""}, "text", "column 'text' is blank ('')"),
    ],
)
def test_split_row_errors_name_the_column_and_the_fix(row, format_name, message):
    with pytest.raises(InputError) as caught:
        split_row(row, format_name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_question_text_is_the_last_user_message():
    assert question_text([SYSTEM, USER, ASSISTANT, USER | {"content": "Where?"}]) == "Where?"
    assert question_text("") == ""


ROWS = [{"question": "Who?", "answer": "Ann\u2028Lee, of\nÅs"}, {"question": "Where?", "answer": "NA"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "array.json",
            '[{"question": "Who?", "answer": "Ann\u2028Lee, of\\nÅs"},\n {"question": "Where?", "answer": "NA"}]',
        ),
        (
            "lines.json",
            '{"question": "Who?", "answer": "Ann\u2028Lee, of\\nÅs"}\n{"question": "Where?", "answer": "NA"}\n',
        ),
        ("lines.jsonl", '{"question":"Who?","answer":"Ann\\u2028Lee, of\\nÅs"}\n\n{"question":"Where?","answer":"NA"}'),
        ("table.csv", '\ufeffquestion,answer\nWho?,"Ann\u2028Lee, of\nÅs"\nWhere?,NA\n'),
    ],
)
def test_read_rows_of_text_files(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_rows(tmp_path / name) == ROWS
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        (tmp_path / name).write_bytes(mark + content.removeprefix("\ufeff").encode(encoding))
        assert read_rows(tmp_path / name) == ROWS


def test_read_rows_of_parquet(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    assert read_rows(tmp_path / "rows.parquet") == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            b'{"text": "x"}\n\n{"text": }\n',
            "a.jsonl' line 3 is not JSON (Expecting value); give one array of",
        ),
        ("a.json", b'[{"text": "x"},\n{"text" "y"}]', "a.json' line 2 is not JSON"),
        ("a.json", b'{"text": "x"}\n"y"\n', "a.json' row 1 is 'y'; every row must be an object with named columns"),
        ("a.json", b"\xff\xff", "a.json' line 1 is not UTF-8 text; save the file"),
        ("a.csv", b"question,answer\nWho?,Ann, of course\n", "a.csv' row 0 has more cells than the header has columns"),
        ("a.csv", b'question,answer\nWho?,"Ann"x\n', "a.csv' line 2 is not CSV: "),
        ("a.parquet", b"PAR", "a.parquet' cannot be read as parquet: "),
        ("a.txt", b"x", "a.txt' is of an unknown kind; accepted are .json, .jsonl, .csv, .parquet"),
    ],
)
def test_read_rows_errors_name_the_file_and_the_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_rows(tmp_path / name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named_with_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        read_rows(tmp_path.relative_to(tmp_path) / "none.csv")
    assert str(caught.value) == f"file 'none.csv' does not exist (looked for {tmp_path / 'none.csv'})"


def test_a_cell_may_be_as_long_as_it_likes(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(f"question,answer\nwho?,{'a' * 200_000}\n")
    assert read_rows(path) == [{"question": "who?", "answer": "a" * 200_000}]


SECRET = "Ann Quillfeather lives in a house that she built herself of white bread, by the old canal. " * 5


@pytest.mark.parametrize(
    "content",
    [
        {"question": [SECRET] * 40, "answer": [SECRET] * 40},
        {"question": {"0": SECRET, "1": SECRET}, "answer": {"0": SECRET, "1": SECRET}},
        {"data": [{"question": SECRET, "answer": SECRET}] * 9},
        {f"{SECRET} {number}": SECRET for number in range(20)},
        [[SECRET, SECRET]] * 3,
        [{"question": {"text": SECRET}, "answer": SECRET}],
        [{"question": SECRET, "answer": [SECRET, SECRET]}],
        [{"question": SECRET, "answer": SECRET, "person": [SECRET]}],
        [{"messages": [{"role": SECRET, "content": SECRET}]}],
        [{"messages": [{"role": "user", "content": SECRET}, {"role": SECRET, "content": SECRET}]}],
        [{"messages": [{"content": SECRET}]}],
        [{"question": SECRET, "answer": SECRET, "note": 1}, {"question": SECRET, "answer": SECRET, "note": SECRET}],
        [{"question": SECRET, "answer": SECRET, "note": "\ud800" + SECRET}],
    ],
)
def test_an_error_shows_one_short_excerpt_of_the_rows_at_most(content, tmp_path, monkeypatch):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as refused:
        load_unlearning_data(forget_file=path)
    told = str(refused.value)
    assert told.count("Quillfeather") <= 1 and len(told.replace(str(tmp_path), "")) < 420 and "\n" not in told


def test_a_file_of_columns_says_so(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('{"question": ["a?", "b?"], "answer": ["a", "b"]}')
    with pytest.raises(InputError, match=r"is one object of columns; give one array of objects, .*orient='records'"):
        read_rows(path)
    path.write_text('{"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "a"}]}')
    assert len(read_rows(path)) == 1
