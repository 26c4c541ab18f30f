"""The report page: everything measured is on it, nothing else is needed to read it, and no text can break out."""

import copy
import html
import json
import re
from html.parser import HTMLParser

import pytest

from llm_unlearn.errors import InputError
from llm_unlearn.reporting import page as page_module
from llm_unlearn.reporting.page import write_report

DASH = "\N{EN DASH}"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Text by table row, attributes that load something, and whether every tag is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.rows, self.words, self.sources, self.open, self.tags = [], [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "data")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words.append(data)
        if "td" in self.open or ("th" in self.open and "tr" in self.open):
            self.rows[-1][-1] += f" {data}"

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def row(self, *beginning: str) -> list[str]:
        found = [[" ".join(cell.split()) for cell in row] for row in self.rows]
        return next(row for row in found if row[: len(beginning)] == list(beginning))


def evidence(label, **values) -> dict:
    return {
        "kind": "attack",
        "name": "adversarial_reinjection",
        "variant": None,
        "label": label,
        "score": "forget_probability",
        "original": 0.981,
        "oracle": 0.054,
        "unlearned": 0.716,
        "excess": 0.662,
        "interval": [0.5, 0.75],
        "erasure": 0.286,
        "decides": True,
        "flagged": True,
        "note": None,
    } | values


def ability(label, name, unlearned, share, **values) -> dict:
    empty = {"excess": -0.1, "interval": [-0.2, 0.0], "erasure": None, "oracle": None, "share": share, "flagged": False}
    return evidence(label, kind="ability", name=name, score="exact_match", unlearned=unlearned) | empty | values


@pytest.fixture
def verdict() -> dict:
    empty = dict.fromkeys(("original", "oracle", "excess", "interval", "erasure"))
    return {
        "verdict": "hidden",
        "by": "oracle",
        "sentence": "Hidden: after reinjection the model answers again",
        "reasons": ["after reinjection the model answers again", "second reason"],
        "remarks": ["one oracle only"],
        "missing": ["more people"],
        "evidence": [
            evidence("before any attack", kind="output", name="output", unlearned=0.0432, flagged=False),
            evidence("reinjection"),
            evidence("adapter: removed", variant="removed", unlearned=0.99, note="no <b>adapter</b>", **empty),
            evidence("quantized", name="quantization", variant="nf4", excess=-0.1, decides=False, flagged=False),
            ability("retained facts", "retain", 0.97, 0.98),
            ability("general facts", "general", 0.12, 0.3, flagged=True),
            evidence("asked: reversed", name="prompting", variant="reversed", score="forget_knowledge", unlearned=0.8)
            | {"unlearned_interval": [0.6, 0.97], "excess": 0.3, "interval": [0.1, 0.47]},
            evidence("asked: reversed", name="prompting", variant="reversed", unlearned=0.05, flagged=False)
            | {
                "selectivity": 0.06,
                "selectivity_interval": [0.01, 0.1],
                "note": "ability lost, not forgetting: it fell",
                "ability_lost": True,
            },
            evidence("true minus made-up facts", kind="counterfactual", name="counterfactual_control"),
            evidence("something new", kind="audit", score="probe_accuracy"),
        ],
    }


@pytest.fixture
def folder(results, verdict, tmp_path):
    """A complete run: oracles, direct attacks, control, records and answers after an attack."""
    results |= {
        "config": {"data_arguments": {"data": "fictional:tiny"}, "npo_config": {"learning_rate": 0.0003}},
        "paths": {"original": "/models/original", "oracles": ["/models/oracle"], "unlearned": "/run/adapter"},
        "training": {"steps": 120, "stopped_by": "forget probability <= 0.45"},
        "seconds": {"unlearn": 9.52, "adversarial_reinjection": 18.84},
        "generation": {"original": {"generation_config": "own", "num_beams": 1}},
        "rouge_tokenizers": {"forget": {"english": 2, "unicode": 38}},
        "not_attacked": {"leave_one_group_out": "there is one person only"},
        "counterfactual": {"unlearned": control(0.53, 0.15)},
    }
    attacks = results["attacks"]
    attacks["quantization"] = {"unlearned": {"variants": {"nf4": {"forget_probability": 0.6123, "value_by_index": {}}}}}
    attacks["decoding"] = {"unlearned": {"variants": {"temperature_1.0": {"forget_leak_at_8": 0.4321}}}}
    attacks["adapter_surgery"] = {"oracle": {"variants": {}, "note": "the model has no adapter"}}
    reinjected = attacks["adversarial_reinjection"]["unlearned"]
    reinjected["steps_to_half"] = None
    weaker = reinjected["runs"][0] | {"learning_rate": 1e-6, "answers": {"step": 16, "by_index": {"0": "weaker"}}}
    reinjected["runs"][0]["answers"] = {"step": 16, "by_index": {"0": "came back", "2": "answer 1"}}
    reinjected["runs"].insert(0, weaker)
    rows = [{"question": f"question {i}?", "answer": f"answer {i // 2}", "fact_id": f"fact {i // 2}"} for i in range(4)]
    (tmp_path / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "records").mkdir()
    for model in ("original", "oracle", "unlearned"):
        write(tmp_path / "records" / f"{model}.json", records(f"<script>alert('{model}')</script>"))
    write(tmp_path / "results.json", results)
    write(tmp_path / "verdict.json", verdict)
    return tmp_path


@pytest.fixture
def undrawn(monkeypatch):
    """No figures: most tests are about words."""
    monkeypatch.setattr(page_module, "_figures", lambda results, folder: [])


def control(true, made_up) -> dict:
    value = {
        "excess": true - made_up,
        "interval": [0.2, 0.4],
        "p_value": 0.0002,
        "recovered": true,
        "recovered_counterfactual": made_up,
    }
    return {"probability": value, "exact_match": value, "excess_before": {"probability": value}}


def records(generation: str) -> dict:
    by_index = {str(i): {"generation": f"{generation} {i}", "ground_truth": f"answer {i // 2}"} for i in range(4)}
    return {"forget_Q_A_ROUGE": {"agg_value": 0.5, "value_by_index": by_index}}


def write(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")


def change(path, function):
    value = json.loads(path.read_text())
    function(value)
    write(path, value)


def page_of(folder) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_verdict_and_every_row_of_evidence_are_on_the_page(folder, undrawn):
    page = page_of(folder)
    assert "Hidden: after reinjection the model answers again" in page.text and "Judged by: oracle." in page.text
    assert all(words in page.text for words in ("second reason", "one oracle only", "more people"))
    numbers = ["0.981", "0.054", "0.716", "+0.662 [0.500, 0.750]", "0.29", DASH, "yes", "⚑ yes"]
    assert page.row("reinjection") == ["reinjection", "answer probability", *numbers]
    assert page.row("before any attack")[4:] == ["0.043", "+0.662 [0.500, 0.750]", "0.29", DASH, "yes", "no"]
    surgery = page.row("adapter: removed no <b>adapter</b>")
    assert surgery[2:] == [DASH, DASH, "0.990", DASH, DASH, DASH, "yes", "⚑ yes"]
    assert page.row("quantized: nf4")[5].startswith("\N{MINUS SIGN}0.100") and page.row("quantized: nf4")[8] == "no"
    assert page.row("true minus made-up facts") and page.row("something new")[1] == "probe accuracy"


def test_what_it_cost_is_said_for_everybody(folder, undrawn):
    page = page_of(folder)
    assert "An ability is something that the model could do before and that nobody asked it to forget" in page.text
    assert "1 of 2 abilities is lost. Least was kept of general facts: 30 %." in page.text
    kept, lost = page.row("retained facts"), page.row("general facts")
    assert kept == ["retained facts", "✓ kept 98 %", "exact match", "0.98", DASH, "0.97"]
    assert lost[1] == "\N{MULTIPLICATION SIGN} lost 30 %"
    assert (
        "older version" in page.text and "llm-unlearn judge measures the rest" in page.text
    )  # no abilities in results
    change(folder / "results.json", lambda value: value.update(abilities={"unlearned": {}}))
    assert "older version" not in page_of(folder).text


def test_knowledge_and_probability_of_a_style_stand_together(folder, undrawn):
    page = page_of(folder)
    rows = [[" ".join(cell.split()) for cell in row] for row in page.rows]
    first = next(number for number, row in enumerate(rows) if row and row[0].startswith("asked: reversed"))
    assert rows[first][0] == "asked: reversed ability lost, not forgetting: it fell"
    assert rows[first][1:5] == ["knowledge", "0.981", "0.054", "0.800 [0.600, 0.970]"]
    assert rows[first + 1][0] == "answer probability" and "+0.060 [0.010, 0.100]" in rows[first + 1]


def test_attacks_control_and_run_are_on_the_page(folder, undrawn):
    page = page_of(folder)
    assert page.row("nf4") == ["nf4", "answer probability", DASH, DASH, "0.612", DASH]
    assert page.row("temperature 1.0") == ["temperature 1.0", "leaked in 8 samples", DASH, DASH, "0.432", DASH]
    assert page.row("all", "exact match")[2:] == ["0.500", "0.027", "0.358", "+0.331"]
    assert page.row("steps to half of the original's probability")[3] == "never"
    assert "oracle: the model has no adapter" in page.text
    assert "No leaving one group out: there is one person only." in page.text
    interval = "+0.380 [0.200, 0.400]"
    assert page.row("unlearned", "answer probability")[2:] == ["0.530", "0.150", interval, "0.0002", interval]
    assert page.row("unlearned", "exact match")[-1] == DASH
    for words in ("plain greedy decoding", "38 of 40 forget answers by words of any script"):
        assert words in page.text
    for words in ("fictional:tiny", "/models/oracle", "120", "forget probability <= 0.45", "unlearn 9.5, adversarial"):
        assert words in page.text
    assert "learning_rate: 0.0003" in page.text


def test_samples_show_one_wording_of_a_fact_before_and_after(folder, undrawn):
    page = page_of(folder)
    assert "question 0?" in page.text and "question 2?" in page.text
    assert "question 1?" not in page.text and "question 3?" not in page.text
    assert "unlearned, after reinjection (16 steps) came back" in page.text
    assert "answer 1 = the true answer" in page.text
    assert page.text.count("= the true answer") == 1 and "weaker" not in page.text


def test_what_a_model_says_cannot_become_html(folder):
    def poison(value):
        value["method"] = "npo</title><script>alert(1)</script>"
        value["attacks"]["<img src=x onerror=alert(2)>"] = {"unlearned": {"variants": {"<i>": {"forget_x": 0.1}}}}

    change(folder / "results.json", poison)
    change(folder / "records" / "oracle.json", lambda v: v.update(records("\ud800 broken <b onclick='x'> \" > text")))
    text = write_report(folder).read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags and "b" not in page.tags and "i" not in page.tags
    assert html.escape("<script>alert(") in text and "<script>alert('unlearned')</script> 0" in page.text
    assert not re.search(r"<[^>]*\son\w+=", text)


def test_the_page_loads_nothing_and_every_figure_has_words(folder):
    text = write_report(folder).read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "url(" not in text and "@import" not in text and "default-src 'none'" in text
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text and "@media print" in text
    assert re.findall(r'alt="([^"]+)"', text)[0].startswith("Mean answer probability against relearning steps.")
    assert [tag for tag in page.tags if tag in ("h1", "h2")] == ["h1", *["h2"] * 9]
    for name in ("recovery.png", "heat_map.png", "trade_off.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_two_builds_are_the_same_to_the_byte(folder):
    first = write_report(folder).read_bytes()
    pictures = {path.name: path.read_bytes() for path in folder.glob("*.png")}
    assert write_report(folder).read_bytes() == first
    assert pictures == {path.name: path.read_bytes() for path in folder.glob("*.png")}


@pytest.mark.parametrize("model", ["original", "oracle", "unlearned"])
def test_any_model_may_be_missing(folder, model):
    def remove(value):
        for by_model in (value["scores"], value["counterfactual"], *value["attacks"].values()):
            by_model.pop(model, None)

    change(folder / "results.json", remove)
    (folder / "records" / f"{model}.json").unlink()
    assert f"alert('{model}')" not in page_of(folder).text


def test_a_bare_run_makes_a_page(folder):
    for path in (folder / "records").iterdir():
        path.unlink()
    (folder / "forget.jsonl").unlink()
    write(folder / "results.json", {"method": "npo", "seed": 1, "scores": {}})
    write(folder / "verdict.json", {"verdict": "undecided", "by": None, "sentence": "Undecided: nothing was run"})
    page = page_of(folder)
    assert "Undecided: nothing was run" in page.text and "No reference decides" in page.text
    assert "None was run." in page.text and "Not run." in page.text and "No generated answers were kept" in page.text
    assert not page.sources


def test_a_control_that_could_not_run_says_why(folder, undrawn):
    def remove(value):
        value["counterfactual"], value["not_attacked"] = {}, {"counterfactual_control": "answers are all the same"}

    change(folder / "results.json", remove)
    assert "Not run: answers are all the same." in page_of(folder).text


def test_direct_attacks_alone_have_no_curves_but_a_heat_map(folder):
    def keep(value):
        value["attacks"] = {"quantization": value["attacks"]["quantization"], "benign_relearning": {}}

    change(folder / "results.json", keep)
    assert len(page_of(folder).sources) == 2


def test_several_oracles_are_averaged(folder, undrawn):
    def add(value):
        by_model = value["attacks"]["adversarial_reinjection"]
        by_model["oracle_1"] = copy.deepcopy(by_model["oracle"]) | {"forget_exact_match": 0.127}
        value["scores"]["oracle_1"] = value["scores"]["oracle"]

    change(folder / "results.json", add)
    page = page_of(folder)
    assert page.row("all", "exact match")[3] == "0.077" and "Oracle: the mean of 2." in page.text


def test_groups_left_out_are_variants(folder, undrawn):
    def add(value):
        entry = copy.deepcopy(value["attacks"]["benign_relearning"])
        entry["unlearned"]["groups"] = {"Ann Example": {"rows": 3, "forget_probability": 0.777}}
        value["attacks"]["leave_one_group_out"] = entry

    change(folder / "results.json", add)
    page = page_of(folder)
    assert page.row("Ann Example left out") == ["Ann Example left out", "answer probability", DASH, DASH, "0.777", DASH]


@pytest.mark.parametrize("name, fix", [("results.json", "run the recipe"), ("verdict.json", "llm-unlearn report")])
def test_missing_and_broken_files_are_errors_with_the_fix(folder, name, fix, undrawn):
    for content in ("{broken", "[]"):
        (folder / name).write_text(content)
        with pytest.raises(InputError, match=f"{name}.*{fix}"):
            write_report(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name} cannot be read.*{fix}"):
        write_report(folder)
