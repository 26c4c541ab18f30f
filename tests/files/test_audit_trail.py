"""The chain of requests: what stands in it, and that every change to it shows."""

import hashlib
import json

import pytest

from llm_unlearn.errors import InputError
from llm_unlearn.files.audit_trail import FILE, FIRST, append_line, broken_links, read_trail, row_digest


def write(folder, count=3):
    for number in range(count):
        append_line(
            folder,
            rows=[row_digest([{"role": "user", "content": f"q{number}"}], "a")],
            before={"model": f"m{number}"},
            after={"model": f"m{number + 1}"},
            settings={"method": "npo", "learning_rate": 1e-4},
            verdict={"stopped": True, "knowledge": None},
        )
    return folder / FILE


def test_a_row_is_hashed_by_what_it_says():
    text = '{"answer":"Zoë","prompt":[{"content":"Who?","role":"user"}]}'
    assert row_digest([{"role": "user", "content": "Who?"}], "Zoë") == hashlib.sha256(text.encode()).hexdigest()


def test_each_line_has_the_hash_of_the_line_before_it(tmp_path):
    path = write(tmp_path)
    texts = path.read_text().splitlines()
    lines = [json.loads(text) for text in texts]
    assert [line["request"] for line in lines] == [1, 2, 3] and lines == read_trail(tmp_path)
    assert [line["previous"] for line in lines] == [FIRST, lines[0]["sha256"], lines[1]["sha256"]]
    own = json.dumps({k: v for k, v in lines[1].items() if k != "sha256"}, sort_keys=True, separators=(",", ":"))
    assert lines[1]["sha256"] == hashlib.sha256(own.encode()).hexdigest()
    assert broken_links(lines) == [] and broken_links([]) == []
    assert not [*tmp_path.glob("*.unfinished")] and "q0" not in path.read_text()


def test_every_change_shows(tmp_path):
    lines = read_trail(write(tmp_path).parent)
    for number in range(3):
        changed = [dict(line) for line in lines]
        changed[number]["verdict"] = {"stopped": False}
        assert broken_links(changed) == [f"line {number + 1} was changed after it was written"]
    follows = "line 2 does not follow the line before it: one was changed, left out or put in"
    assert follows in broken_links([lines[0], lines[2]])
    assert "line 2 is of request 3" in broken_links([lines[0], lines[2]])
    assert "line 2 begins with another model than line 1 left" in broken_links([lines[0], lines[2]])
    assert "line 1 does not follow" in broken_links(lines[1:])[0]
    assert follows in broken_links([lines[0], lines[0], *lines[1:]])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "line 4 lacks 'request'"),
        ("{", "line 4 lacks 'request'"),
        ("[1]", "line 4 lacks 'request'"),
        ('{"request": 4, "finished": "", "rows": []}', "line 4 lacks 'before': put back the file"),
    ],
)
def test_what_is_no_trail(line, message, tmp_path):
    path = write(tmp_path)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=message):
        read_trail(tmp_path)
