"""Rows and files of rows. More of them, function by function: tests/data."""

import json

import pytest
from bad_commands import MODEL, QUICK, RECIPE, ROWS
from builders import qa_rows

GOOD = '{"question": "Where?", "answer": "in Rome"}\n'
# what the forget file is called and holds, and the words of the error
FILES = {
    "empty file": ("f.jsonl", "", ["forget set is empty", "check the file"]),
    "broken line": ("f.jsonl", GOOD + '{"question": "Who?", "answ\n', ["f.jsonl' line 2 is not JSON"]),
    "trailing comma": ("f.json", '[{"question": "a", "answer": "b"},]', ["line 1 is not JSON", "one array of objects"]),
    "two arrays": ("f.json", "[]\n[]", ["line 2 is not JSON (Extra data)"]),
    "objects over several lines": ("f.jsonl", '{\n"question": "a"\n}', ["line 1 is not JSON", "one object per line"]),
    "lists in lists": ("f.json", "[" * 100_000, ["line 1 cannot be read as JSON", "recursion"]),
    "a number of 5000 digits": (
        "f.jsonl",
        f'{{"question": "a", "n": {"9" * 5000}}}',
        ["line 1 cannot be read as JSON"],
    ),
    "a number beyond 64 bits": (
        "f.jsonl",
        f'{{"question": "Who", "answer": "Ann", "n": {"9" * 30}}}',
        ["forget set: a number is too large"],
    ),
    "half a character": ("f.jsonl", '{"question": "\\ud800", "answer": "b"}', ["a text is not valid Unicode"]),
    "Latin-1": ("f.jsonl", (GOOD + '{"question": "é"}').encode("latin1"), ["line 2 is not UTF-8", "save the file as"]),
    "UTF-16 that is cut": (
        "f.jsonl",
        (GOOD + GOOD).encode("utf-16")[:-1],
        ["line 2 is not UTF-16 text; save the file as UTF-8"],
    ),
    "UTF-16 without its mark": ("f.jsonl", GOOD.encode("utf-16-le"), ["line 1 is not JSON"]),
    "NUL bytes": ("f.jsonl", b"\0" * 50, ["line 1 is not JSON"]),
    "rows under a key": ("f.json", '{"data": []}', ["is one object of columns", "one array of objects"]),
    "columns instead of rows": (
        "f.json",
        '{"question": ["a"], "answer": ["b"]}',
        ["is one object of columns", "to_json(orient='records')"],
    ),
    "rows are lists": ("f.json", '[["Who?", "Ann"]]', ["row 0 is ['Who?', 'Ann']", "object with named columns"]),
    "misspelt column": ("f.jsonl", '{"question": "a", "anser": "b"}', ["rename 'anser' to 'answer'"]),
    "column missing in a later row": ("f.jsonl", GOOD + '{"question": "a"}', ["row 1: column 'answer' holds None"]),
    "number as answer": ("f.jsonl", '{"question": "1 + 1?", "answer": 2}', ["column 'answer' holds 2 (int)"]),
    "NaN as answer": ("f.jsonl", '{"question": "a", "answer": NaN}', ["column 'answer' holds nan (float)"]),
    "blank answer": ("f.jsonl", GOOD + '{"question": "a", "answer": " "}', ["row 1: column 'answer' is blank"]),
    "list as fact_id": (
        "f.jsonl",
        '{"question": "a", "answer": "b", "fact_id": ["x"]}',
        ["row 0: column 'fact_id' holds ['x']", "a string or a number"],
    ),
    "object as person": (
        "f.jsonl",
        '{"question": "a", "answer": "b", "person": {"name": "Ann"}}',
        ["row 0: column 'person' holds"],
    ),
    "messages without an answer": (
        "f.jsonl",
        '{"messages": [{"role": "user", "content": "Who?"}]}',
        ["row 0: column 'messages'"],
    ),
    "CSV with semicolons": ("f.csv", "question;answer\nWho?;Ann\n", ["semicolons between its columns", "with commas"]),
    "CSV with tabs": ("f.csv", "question\tanswer\nWho?\tAnn\n", ["tabs between its columns"]),
    "CSV without a header": ("f.csv", "Who?,Ann\nWhere?,Rome\n", ["columns ['Who?', 'Ann'] fit no row format"]),
    "CSV with a short row": ("f.csv", "question,answer\nWho?\n", ["row 0: column 'answer' holds None"]),
    "CSV with a column twice": ("f.csv", "question,answer,answer\na,b,c\n", ["two columns called 'answer'"]),
    "CSV with unquoted commas": ("f.csv", "question,answer\nWho?,Ann, of course\n", ["quote texts with commas"]),
    "CSV of a header alone": ("f.csv", "question,answer\n", ["forget set is empty"]),
    "Parquet that is text": ("f.parquet", "question,answer\n", ["cannot be read as parquet"]),
    "Parquet that was cut off": ("f.parquet", b"PAR1\0\0\0\0\xff\xff\xff\0PAR1", ["cannot be read as parquet"]),
    "compressed file": ("f.jsonl.gz", b"\x1f\x8b\x08", ["is of an unknown kind", ".parquet"]),
    "one fact alone, reinjected": ("f.jsonl", GOOD, ["reinjection needs at least two forget facts", "got 1"]),
}


GENERAL = {
    "embedded": (["--general_data", "embedded"], ["general_data='embedded' is of the fictional world", "or none"]),
    "no such file": (["--general_data", "missing.jsonl"], ["--general_data 'missing.jsonl' is none of"]),
    "too few rows": (["--general_data", "few.jsonl"], ["general data has fewer than 5 different rows (1): give more"]),
    "rows to forget": (["--general_data", "forget.jsonl"], ["of the forget set that are in the general data set too"]),
    "judged and retained": (
        ["--general_file", "retain.jsonl"],
        ["of the retain set that are in the general file set too"],
    ),
    "no file that judges": (["--general_file", "missing.jsonl"], ["file 'missing.jsonl' does not exist"]),
}


@pytest.mark.parametrize("name", GENERAL)
def test_general_rows(name, place, refused):
    flags, words = GENERAL[name]
    (place / "few.jsonl").write_text(GOOD)
    refused(RECIPE, [*MODEL, "--forget_file", "forget.jsonl", "--retain_file", "retain.jsonl", *QUICK, *flags], *words)


@pytest.mark.parametrize("name", FILES)
def test_forget_files(name, place, refused):
    file, content, words = FILES[name]
    (place / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    attacks = ["--attacks", "adversarial_reinjection"] if "reinjected" in name else []
    rows = ["--forget_file", file, "--retain_file", "retain.jsonl"]
    refused(RECIPE, [*MODEL, *rows, *QUICK, *attacks], *words)


# flags and the words of the error
SOURCES = {
    "missing file": (["--forget_file", "none.jsonl"], ["'none.jsonl' does not exist"]),
    "folder as file": (["--forget_file", "original"], ["file 'original' is a folder; give one of its files"]),
    "the same rows to forget and to keep": (
        ["--forget_file", "forget.jsonl", "--retain_file", "forget.jsonl"],
        ["rows of the forget set that are in the retain set too: 8", "remove them"],
    ),
    "a question to forget that is one to keep": (
        ["--forget_file", "forget.jsonl", "--retain_file", "near.jsonl"],
        ["forget set row 2 (", ") asks the same as retain set row 1 (", "; such rows: 1", "--near_duplicates allow"],
    ),
    "a near-duplicate that is to be ignored": (
        [*ROWS, "--near_duplicates", "ignore"],
        ["near_duplicates", "'ignore'", "refuse", "allow"],
    ),
    "nothing to keep": (
        ["--forget_file", "forget.jsonl"],
        ["retain_loss='nll'", "--retain_file", "--retain_loss none"],
    ),
    "rows to keep alone": (["--retain_file", "retain.jsonl"], ["forget_file is not; give the rows to forget"]),
    "two sources": (["--data", "fictional:tiny", *ROWS], ["give either --data or --forget_file", "not both"]),
    "a split of one's own rows": ([*ROWS, "--forget_split", "forget05"], ["forget_split='forget05'", "leave them out"]),
    "a folder that is not TOFU": (["--data", "original"], ["has no forget10.json; it holds", "config.json"]),
    "a data set that is nowhere": (["--data", "nobody/nothing"], ["'nobody/nothing'", "cannot be loaded from the hub"]),
    "unknown split": (["--data", "fictional:tiny", "--forget_split", "forget1"], ["did you mean 'forget10'?"]),
    "answers cut away": ([*ROWS, "--max_length", "7"], ["forget set row 0: max_length=7 cuts off the whole answer"]),
    "retain answers cut away": (
        ["--max_length", "10", "--forget_file", "forget.jsonl", "--retain_file", "long.jsonl"],
        ["retain set row 0: max_length=10 cuts off the whole answer"],
    ),
    "no such instructions": (
        [*ROWS, "--attacks", "benign_relearning", "--benign_data", "none.json"],
        ["--benign_data 'none.json' is none of"],
    ),
    "instructions of other columns": (
        [*ROWS, "--attacks", "benign_relearning", "--benign_data", "texts.jsonl"],
        ["--benign_data 'texts.jsonl' has the columns text", "needed are instruction and output"],
    ),
    "no such column of groups": (
        [*ROWS, "--attacks", "leave_one_group_out", "--leave_out_column", "city"],
        ["leave_out_column='city' is no column", "choose from question, answer, fact_id"],
    ),
    "no such column of the control": (
        [*ROWS, "--attacks", "retain_relearning", "--counterfactual_group_by", "city"],
        ["counterfactual_group_by='city' is no column of the forget rows", "choose one of question, answer, fact_id"],
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_where_rows_come_from(name, place, refused):
    long = {"question": " ".join(["Where"] * 20), "answer": "in Rome"}
    (place / "long.jsonl").write_text(json.dumps(long))
    (place / "texts.jsonl").write_text('{"text": "a"}')
    asked = [row["question"].upper() + "?" for row in qa_rows(3)]
    near = [json.dumps({"question": question, "answer": "b"}) for question in ("Who?", asked[2])]
    (place / "near.jsonl").write_text("\n".join(near))
    flags, words = SOURCES[name]
    refused(RECIPE, [*MODEL, *QUICK, *flags], *words)
