"""What must hold for any text that a row may have."""

import io
import re
import unicodedata
from functools import cache
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reality.odd_models import KINDS, SPECIAL, TEMPLATES, Odd, draw, make_tokenizer
from reality.odd_rows import ENCODINGS, NEWLINES, SUFFIXES, OddRow, write
from rich.console import Console
from rich.markup import escape

from llm_unlearn.data.encoding import encode_row, end_token_ids
from llm_unlearn.data.formats import read_rows
from llm_unlearn.data.identity import normalized, question_key
from llm_unlearn.errors import InputError, excerpt
from llm_unlearn.reporting.page import render_page

settings.register_profile("house", max_examples=60, deadline=None, derandomize=True, database=None)
settings.load_profile("house")

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
WORDS = TEXT.filter(lambda text: re.search(r"\w", normalized(text)))
INVISIBLE = st.sampled_from(["\u200b", "\u00ad", "\ufeff", "\u2060", "\u200d", "\ufe0f"])


@given(TEXT)
def test_what_is_normalized_stays(text):
    assert normalized(normalized(text)) == normalized(text)


@given(WORDS, st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]), INVISIBLE, st.data())
def test_a_question_is_the_same_however_it_is_written(text, form, invisible, data):
    place = data.draw(st.integers(0, len(text)))
    for same in (
        unicodedata.normalize(form, text),
        text[:place] + invisible + text[place:],
        f" \t{text}\u00a0\n",
        text.replace(" ", " \u3000 "),
        text.casefold(),
        text + data.draw(st.sampled_from(["?", " !", "。", "…", "\u061f"])),
    ):
        assert normalized(same) == normalized(text), same
    key = question_key([{"role": "user", "content": text}], "one answer")
    assert key == question_key([{"role": "user", "content": text.casefold()}], "another")


def odd(kind: str, template: str) -> Odd:
    return Odd(**vars(draw(0)) | {"kind": kind, "template": template, "has_bos": True, "adds_bos": True, "pad": "own"})


TOKENIZERS = {
    (kind, template): cache(lambda kind=kind, template=template: make_tokenizer(odd(kind, template)))
    for kind in KINDS
    for template in TEMPLATES
}
PIECES = st.lists(st.one_of(st.sampled_from([*SPECIAL, "<eos>", "<bos>"]), st.sampled_from(["live", " ", "Oslo", "."])))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(PIECES, PIECES, st.sampled_from([*TEMPLATES]))
def test_the_name_of_a_control_token_is_text(kind, question, answer, template):
    """It comes back as it was, and no control is in a row but what the template writes; or the row is refused."""
    question, answer = "Who " + "".join(question), "".join(answer) + " bread"
    tokenizer = TOKENIZERS[kind, template]()
    prompt = [{"role": "user", "content": question}]
    control = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder} - {tokenizer.unk_token_id}
    plain = encode_row(tokenizer, [{"role": "user", "content": "Who"}], "bread")
    try:
        row = encode_row(tokenizer, prompt, answer)
    except InputError as error:
        assert "\n" not in str(error) and any(token in str(error) for token in [*SPECIAL, "<eos>", "<bos>"])
        return
    assert [i for i in row["input_ids"] if i in control] == [i for i in plain["input_ids"] if i in control]
    said = [label for label in row["labels"] if label != -100]
    ends = [i for i in said if i in end_token_ids(tokenizer)]
    assert len(ends) == 1 and ends[0] == said[-1]
    if kind == "bytes":  # the others have no tokens for some of the characters
        assert tokenizer.decode(said[:-1]).strip() == answer.strip()


ROW = st.builds(OddRow, st.just(0), TEXT, TEXT, st.fixed_dictionaries({"person": TEXT}))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(ROW, min_size=1, max_size=3),
    st.sampled_from(SUFFIXES),
    st.sampled_from(ENCODINGS),
    st.sampled_from(NEWLINES),
)
def test_rows_are_read_as_they_were_written(tmp_path, rows, suffix, encoding, newline):
    file = write(rows, tmp_path / f"rows{suffix}", encoding, newline)
    written = [row.cells for row in rows]
    if suffix == ".csv":  # in a table, a carriage return is a way to end a line
        lines = str.maketrans({"\r": "\n"})
        written = [{name: text.replace("\r\n", "\n").translate(lines) for name, text in row.items()} for row in written]
    assert read_rows(file) == written


@given(TEXT, st.integers(1, 40))
def test_an_excerpt_is_one_short_line(text, length):
    for value in (text, [text], {"question": text}):
        shown = excerpt(value, length)
        assert len(shown) <= length + 3 and len(shown.splitlines()) <= 1
        assert repr(value).startswith(shown.removesuffix("..."))


@given(TEXT)
def test_a_path_is_no_markup(text):
    path = "out/" + re.sub(r"[\s\x00-\x1f\x7f-\x9f]", "", text)
    shown = Console(file=io.StringIO(), width=10_000, highlight=False, emoji=False)
    shown.print(f"[bold]run[/] in {escape(path)}", soft_wrap=True)
    assert shown.file.getvalue() == f"run in {path}\n"


class Tags(HTMLParser):
    """The tags of a page, and all of its texts in one."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, attributes))

    def handle_data(self, data):
        self.text += data


def page_of(question: str, answer: str, said: str) -> Tags:
    rows = {"value_by_index": {"0": {"generation": said, "ground_truth": answer, "rougeL_recall": 0.0}}}
    verdict = {"verdict": "undecided", "sentence": f"Undecided: {question}", "remarks": [said], "missing": [answer]}
    results = {"method": answer, "scores": {}, "config": {"x": {"y": said}}, "not_measured": {}}
    records, forget = {"unlearned": {"forget_Q_A_ROUGE": rows}}, [{"question": question, "answer": answer}]
    return Tags(render_page(results, verdict, records, forget, []))


@settings(max_examples=8)  # a page takes some 0.2 s
@given(*[st.one_of(TEXT, st.sampled_from(["</td><script>", "&lt;b&gt;", "{{ 7 * 7 }}", "-->", "'\"><img src=x>"]))] * 3)
def test_a_text_is_no_markup_of_the_page(question, answer, said):
    page, plain = page_of(f"{question} a", f"{answer} b", f"{said} c"), page_of("x a", "x b", "x c")
    assert page.tags == plain.tags
    for text in (question, answer, said):
        assert "".join(text.split()) in "".join(page.text.split())
