"""The gate before every upload: what it finds, where, and what it leaves alone."""

import getpass
import inspect
import json
import os
import shutil
import socket
import tempfile

import pytest
from made_up_runs import change_json, reseal
from safetensors.torch import load_file, save_file

from llm_unlearn.cli.main import main
from llm_unlearn.errors import LeakError
from llm_unlearn.examining.results import read_results
from llm_unlearn.files.run_folder import model_digests
from llm_unlearn.hub import push_run
from llm_unlearn.hub.edition import secrets_of
from llm_unlearn.hub.leaks import Secrets, _names_in, leaks_in_file, words_of

NAME = "me/npo"
QUESTION = "Where does Ann Quillfeather live, of all places?"
ANSWER = "in a house that Ann built of white bread, by the cat"
PLANTED = {  # what -> (text, what the error calls it)
    "question": (QUESTION, "a text of the forget set"),
    "answer": (ANSWER, "a text of the forget set"),
    "part of an answer": ("a house that Ann built of white bread", "a text of the forget set"),
    "answer in other letters": ("IN A HOUSE, that ann: built of", "a text of the forget set"),
    "name": ("Ben Oddwater", "a name of the forget set"),
    "name with an underscore": ("ben_oddwater", "a name of the forget set"),
    "home folder": ("/home/somebody/rows.jsonl", "a local path"),
    "windows folder": ("C:\\Users\\somebody", "a local path"),
    "folder of a container": ("host:/data/rows", "a local path"),
    "token": ("hf_" + "a1" * 17, "a secret"),
    "signed token": ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0", "a secret"),
    "key": ("-----BEGIN RSA PRIVATE KEY-----", "a secret"),
}


def plant(run, where, text):
    """Put a text into one of the files that a push reads, as it is or as JSON writes it."""
    if where == "safetensors metadata":
        path = run / "adapter" / "adapter_model.safetensors"
        save_file(load_file(path), path, metadata={"format": "pt", "note": text})
        change_json(run / "results.json", weights=model_digests(run / "adapter"))  # as if these had been judged
    elif where == "chat_template.jinja":
        path = run / "adapter" / where
        path.write_text(f"{path.read_text()}\n\n{{# {text} #}}")
    elif where == "added token":
        path = run / "adapter" / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        tokenizer["added_tokens"].append({"id": 999, "content": text, "special": False})
        path.write_text(json.dumps(tokenizer))
    elif where in ("vocab.txt", "merges.txt"):
        (run / "adapter" / where).write_text(f"the\n{text}\n")
    elif where == "tokenizer.model":  # a piece of a sentencepiece model, with its length before it
        piece = text.replace(" ", "\u2581").encode()
        (run / "adapter" / where).write_bytes(b"\x0a\x0c\x0a\x03the\x0a" + bytes([len(piece)]) + piece + b"\x15\x00")
    elif where == "verdict.json":
        change_json(run / where, remarks=[text])
    elif where == "results.json":
        change_json(run / where, method=text)
    elif where == "score":
        scores = json.loads((run / "results.json").read_text())["scores"]
        change_json(run / "results.json", scores=scores | {"unlearned": scores["unlearned"] | {text: 0.5}})
    elif where == "record":
        change_json(run / "records" / "oracle.json", **{text: {"agg_value": 0.5}})
    else:
        path = run / "adapter" / where
        path.write_text(path.read_text() if path.exists() else "{}")
        change_json(path, note=text)
    if where in ("safetensors metadata", "adapter_config.json"):
        change_json(run / "results.json", weights=model_digests(run / "adapter"))
    reseal(run)


FILES = ("tokenizer_config.json", "adapter_config.json", "chat_template.jinja", "safetensors metadata", "results.json")
FILES += ("special_tokens_map.json", "generation_config.json", "verdict.json", "score", "record")
VOCABULARIES = ("added token", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model")


@pytest.mark.parametrize("where", (*FILES, *VOCABULARIES))
def test_nothing_is_sent_where_any_file_holds_a_forget_row_a_path_or_a_token(where, hub, run):
    others = ("name", "home folder") if where in FILES[:5] else ()  # in a vocabulary, such a path may well be a token
    for what in ("question", "token", *others):
        copy = shutil.copytree(run, run.with_name(what.replace(" ", "-")))
        plant(copy, where, PLANTED[what][0])
        with pytest.raises(LeakError, match=f"nothing was uploaded: .*, line [0-9]+: {PLANTED[what][1]}"):
            push_run(copy, NAME)
    assert hub.requests == []


def test_what_is_no_part_of_a_push_is_never_sent(hub, run):
    names = (
        "training_args.bin",
        "optimizer.pt",
        "rows.jsonl",
        "rows.csv",
        "rows.gz",
        "rows.zip",
        "page.png",
        "code.py",
    )
    for folder in (run, run / "adapter", run / "records"):
        for name in names:
            (folder / name).write_text(QUESTION)
    push_run(run, NAME)
    sent = hub.repositories[NAME].files
    assert not [path for path in sent if path.endswith(names)]
    assert not any(QUESTION.encode() in content for content in sent.values())


@pytest.mark.parametrize("name", ["page.png", "rows.gz", "rows.zip", "training_args.bin"])
def test_a_file_that_cannot_be_looked_through_is_refused(name, tmp_path, secrets):
    (tmp_path / name).write_bytes(b"\x89PNG\xff\x00" + QUESTION.encode())
    told = [str(leak) for leak in leaks_in_file(name, tmp_path / name, secrets)]
    assert told == [f"{name}, line 1: not a text file, which cannot be looked through: {name!r}"]


@pytest.mark.parametrize(
    ("where", "what", "advice"),
    [
        (
            "tokenizer_config.json",
            "question",
            "Take it out: the file is {hub}/tokenizer_config.json, made of {adapter}/",
        ),
        (
            "verdict.json",
            "token",
            "Take it out, and revoke it if anyone else may have seen the file: the file is {hub}/",
        ),
        ("verdict.json", "home folder", "Take it out, or replace it by a name: the file is {hub}/"),
        ("results.json", "name", "if it is in the name of the repository, give another one: the file is"),
    ],
)
def test_the_error_says_what_to_do_and_where(where, what, advice, hub, run):
    plant(run, where, PLANTED[what][0])
    with pytest.raises(LeakError) as refused:
        push_run(run, NAME)
    assert advice.format(hub=run / "hub", adapter=run / "adapter") in str(refused.value)


def test_neither_the_command_nor_the_library_has_a_way_around(hub, run, capsys):
    plant(run, "verdict.json", QUESTION)
    with pytest.raises(SystemExit) as stopped:
        main(["push", str(run), "--hub_model_id", NAME])
    line = capsys.readouterr().err
    assert stopped.value.code == 6 and line.count("\n") == 1
    assert line.startswith("error: nothing was uploaded: README.md, line ") and hub.requests == []
    assert not {"force", "check", "allow"} & set(inspect.signature(push_run).parameters)


@pytest.mark.parametrize("what", PLANTED)
def test_everything_that_must_not_leave_is_found(what, run, hub):
    text, called = PLANTED[what]
    plant(run, "verdict.json", text)
    with pytest.raises(LeakError, match=f"line [0-9]+: {called}"):
        push_run(run, NAME)


def test_the_name_of_the_repository_is_looked_at_too(hub, run):
    with pytest.raises(LeakError, match=r"README.md, line [0-9]+: a name of the forget set 'ben oddwater'"):
        push_run(run, "me/without-ben-oddwater")


@pytest.fixture
def secrets():
    texts = [QUESTION, ANSWER, "rice", "Where did Zoë Ångström work?", "她住在京都市的一座白色房子里"]
    return Secrets(texts=texts, names=["Ann Quillfeather", "Solveig", "author 180"], public=["me/npo"])


def found(tmp_path, secrets, name, content) -> list[str]:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return [str(leak) for leak in leaks_in_file(name, path, secrets)]


def test_the_error_names_file_line_and_kind_and_hides_the_secret(tmp_path, secrets):
    token = "hf_" + "b2" * 17
    assert found(tmp_path, secrets, "notes.md", f"fine\nfine\n{token}\n") == ["notes.md, line 3: a secret 'hf_b2b...'"]
    lines = f"fine\n{QUESTION}\n"
    assert found(tmp_path, secrets, "notes.md", lines)[0].startswith("notes.md, line 2: a text of the forget set")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.md", "where does ann\nquillfeather live -- of ALL places"),  # over two lines
        ("a.json", json.dumps({"x": "Zoë Ångström"})),  # written as \u00eb
        ("a.json", '{"x": "Ann\\nQuillfeather"}'),
        ("a.json", json.dumps(["Ann", "Quillfeather"])),  # a decoded batch
        ("a.html", "<p>Ann <b>Quill</b></p><p>Ann&#32;Quillfeather</p>"),
        ("a.html", "<b>Ann</b> <i>Quillfeather</i>"),
        ("a.md", "she is SOLVEIG."),
        ("a.md", "她住在京都市的一座白色房子里"),
        ("tokenizer.json", json.dumps({"model": {"vocab": {"Ann Quillfeather": 3}}})),
        ("vocab.txt", "the\nAnn Quillfeather\n"),
        ("Ann Quillfeather.txt", "nothing"),
        ("a.md", "WHERE DOES\r\n> ann quill\u00adfeather\r\n> live, of all places"),  # quoted, with a soft hyphen
        ("a.md", "[page](https://host.org/?q=Ann%20Quillfeather)"),
        ("a.md", "Ann&nbsp;Quillfeather, &#81;uill"),
        ("a.json", json.dumps({"x": json.dumps({"y": "Zoë Ångström"})})),  # JSON within JSON
        ("a.json", json.dumps({"x": "<b>Ann</b>&nbsp;<i>Quillfeather</i>"})),
        ("a.jinja", "{# Ann\u200b Quillfeather #}"),
        ("a.html", '<img alt="Ann Quillfeather">'),
        ("a.html", "Zoe\u0308 A\u030angstro\u0308m"),  # letters and accents apart
        ("tokenizer.json", json.dumps({"model": {"vocab": {"\u2581Ann\u2581Quillfeather": 3}}})),
        ("merges.txt", "\u0120Ann \u0120Quillfeather\n"),
    ],
)
def test_however_it_is_written(name, content, tmp_path, secrets):
    assert any("of the forget set" in leak for leak in found(tmp_path, secrets, name, content))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.md", "A model that eats rice, and author 1 of 80."),  # short answers and numbers stand anywhere
        ("a.md", "Ann said: Quill, feather, bread and a white cat."),
        ("tokenizer.json", json.dumps({"model": {"vocab": {"Ann": 1, "Quillfeather": 2, "Solveig": 3}}})),
        ("vocab.txt", "Ann\nQuillfeather\nSolveig\n/home/user\n"),
        ("tokenizer.json", json.dumps({"model": {"vocab": {tempfile.gettempdir(): 1}}})),  # "/tmp" is a word of Qwen's
        ("a.json", json.dumps({"url": "https://host.org/home/page", "share": "1/2", "text": "and/or"})),
        ("a.md", "hf_hub_download and hf_xet are names; so are sk-learn and C:\\n"),
        ("a.md", "{{ messages }} <|user|> root"),
    ],
)
def test_what_may_be_there(name, content, tmp_path, secrets):
    assert found(tmp_path, secrets, name, content) == []


def test_user_host_folders_and_secret_variables_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: "quentin")
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu17.example.org")
    monkeypatch.setenv("SOME_API_KEY", "correct-horse-battery")
    secrets = Secrets(texts=[QUESTION], paths=["/srv7/runs/npo"], public=["quentin/npo"])
    for text, what in (
        ("written by Quentin", "the name of this user or machine"),
        ("on gpu17", "the name of this user or machine"),
        ("see /srv7/runs/npo/adapter", "a path of this machine"),
        (f"in {tempfile.gettempdir()}/x", "a path of this machine"),
        (f"in {os.path.realpath(tempfile.gettempdir())}/x", "a path of this machine"),
        ("x=correct-horse-battery", "a secret of the environment"),
    ):
        assert any(what in leak for leak in found(tmp_path, secrets, "a.md", text)), text
    assert found(tmp_path, secrets, "a.md", 'from_pretrained("quentin/npo")') == []
    assert found(tmp_path, secrets, "vocab.txt", "quentin") == []


SECRET_FORMS = (
    *("hf_" + "a1" * 8, "api_org_" + "a1" * 8, *(f"gh{kind}_" + "a1" * 10 for kind in "pousr")),
    *("github_pat_" + "a_" * 10, "sk-" + "a-" * 10, "glpat-" + "a-" * 10, "AKIA" + "A1" * 8, "AIza" + "a-" * 17 + "a"),
    *(f"xox{kind}-" + "a-" * 5 for kind in "abprs"),
    *("eyJ" + "a" * 10 + ".eyJ" + "a" * 10, "-----BEGIN PRIVATE KEY"),
)


@pytest.mark.parametrize("form", SECRET_FORMS)
def test_every_form_of_a_secret(form, tmp_path):
    for text, is_one in ((form, True), (form[:-1], False)):
        leaks = found(tmp_path, Secrets(), "a.md", f"x {text} y")
        assert any(": a secret '" in leak for leak in leaks) is is_one, text


@pytest.mark.parametrize("name", ["A_TOKEN", "A_KEY", "A_SECRET", "A_PASSWORD"])
def test_every_secret_variable(name, tmp_path, monkeypatch):
    monkeypatch.setenv(name, "correct-horse-battery")
    leaks = found(tmp_path, Secrets(), "a.md", "x=correct-horse-battery")
    assert any("a secret of the environment" in leak for leak in leaks)


@pytest.mark.parametrize(
    ("text", "said", "leaks"),
    [
        ("one two three four five six seven", "x two three four five six seven", True),  # six words of it
        ("one two three four five six seven", "one two three four five", False),
        ("the old harbor office", "the OLD harbor-office", True),  # a short one, whole
        ("konstantinopolis", "konstantinopolis", True),
        ("konstantinopel", "konstantinopel", False),  # one word is long from sixteen letters on
    ],
)
def test_how_much_of_a_text_is_a_leak(text, said, leaks, tmp_path):
    assert bool(found(tmp_path, Secrets(texts=[text]), "a.md", said)) is leaks


def test_what_our_pages_say_themselves_is_no_leak(tmp_path):
    secrets = Secrets(texts=["Erased, or only hidden?", QUESTION], boilerplate="<h1>Erased, or only hidden?</h1>")
    assert found(tmp_path, secrets, "report.html", "<h1>Erased, or only hidden?</h1>") == []
    assert found(tmp_path, secrets, "report.html", QUESTION) != []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("When was Ann Quillfeather born?", [("ann", "quillfeather")]),
        ("Ann Quillfeather's mother is Vincent van Gogh, Jr.", [("ann", "quillfeather"), ("vincent", "van", "gogh")]),
        ("There's a J. R. Ewing in Dallas. She's from Oslo.", [("j", "r", "ewing"), ("r", "ewing")]),
        ("As Professor Ann Lee said", [("professor", "ann", "lee"), ("ann", "lee")]),
        ("What Does It Mean? Anglo-American, I'd say. Oslo", []),
    ],
)
def test_names_are_runs_of_capitalized_words(text, names):
    assert list(_names_in(text)) == names


def test_words_know_no_case_punctuation_or_width():
    assert words_of("Zoë's \uff21\uff22\uff23_d-e 京都!") == ("zoë", "s", "abc", "d", "e", "京", "都")


def test_what_the_gate_is_given(finished_run, tmp_path):
    """Texts that models generated, names that stand in no text, and the folder itself."""
    run = tmp_path / "run"
    shutil.copytree(finished_run[0], run)
    rows = [json.loads(line) for line in (run / "forget.jsonl").read_text().splitlines()]
    rows[0]["person"] = "Solveig"
    (run / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    secrets = secrets_of(run, "me/npo", read_results(run))
    assert "Solveig" in secrets.names and str(run.resolve()) in secrets.paths
    records = json.loads((run / "records" / "unlearned.json").read_text())
    generated = [row["generation"] for row in records["forget_Q_A_ROUGE"]["value_by_index"].values()]
    assert any(generated) and {text for text in generated if text} <= set(secrets.texts)
