"""The verdict in the terminal: short, complete, and in 100 columns."""

import io

from rich.console import Console

from llm_unlearn.reporting.verdict_table import print_verdict


def one(kind, name, score, unlearned, variant=None, label=None, **values) -> dict:
    found = {"kind": kind, "name": name, "label": label or name, "score": score, "variant": variant}
    return found | {"original": 1.0, "oracle": 0.5, "unlearned": unlearned} | values


LONGEST = "retained facts, with half of the answer given"
ABILITIES = [
    one("ability", "forget_fluency", "well_formed", 0.25, label="fluency of what is said instead", share=0.5),
    one("ability", "retain", "exact_match", 0.97, label=LONGEST, share=0.97, decides=True),
    one("ability", "retain", "probability", 0.96, label=LONGEST, share=0.96, decides=True),
    one("ability", "general", "exact_match", 0.3, label="general facts", share=0.6, decides=True, flagged=True),
    one("ability", "general", "probability", 0.4, label="general facts", share=0.8, decides=True),
    one("ability", "two_hop", "exact_match", 0.4, label="two hops", share=0.8, decides=True)
    | {"excess": -0.1, "interval": [-0.3, 0.1]},
]
KNOWN = [
    one("output", "output", "forget_probability", 0.42, label="before any attack", selectivity=0.55)
    | {"selectivity_interval": [0.5, 0.6], "excess": -0.08, "interval": [-0.1, 0.0], "erasure": 1.16},
    one("output", "output", "forget_knowledge", 0.68, label="before any attack", flagged=True)
    | {"unlearned_interval": [0.59, 0.76]},
    one("attack", "prompting", "forget_probability", 0.12, "multiple_choice", "asked: multiple choice")
    | {"selectivity": 0.05, "selectivity_interval": [0.0, 0.1], "note": "...", "ability_lost": True},
    one("attack", "prompting", "forget_knowledge", 0.57, "multiple_choice", "asked: multiple choice")
    | {"unlearned_interval": [0.46, 0.69]},
    one("attack", "decoding", "forget_leak_at_64", 0.1, "temperature_1.0", "64 samples: temperature 1.0"),
    one("counterfactual", "counterfactual_control", "forget_probability", 0.08, "after", "true minus made-up, after"),
]


def printed(evidence, remarks=()) -> list[str]:
    console = Console(width=100, record=True, file=io.StringIO())
    verdict = {"evidence": evidence, "sentence": "Hidden: [so it is]", "missing": [], "remarks": list(remarks)}
    print_verdict(verdict, console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 100 and not any("…" in line for line in lines)
    return [" ".join(line.split()) for line in lines]


def test_a_style_has_one_row_of_knowledge_and_an_ability_one_of_its_price():
    lines = printed([*KNOWN, *ABILITIES])
    assert "before any attack 1.00 0.50 0.68 [0.59, 0.76] 0.50 0.42 0.55 !" in lines
    assert "asked: multiple choice 1.00 0.50 0.57 [0.46, 0.69] 0.50 0.12 0.05 ability lost" in lines
    assert "before any attack 1.000 0.500 0.420 -0.080 [-0.100, 0.000] 1.16" in lines  # beside the oracle
    assert sum(line.startswith("asked: multiple choice") for line in lines) == 1
    assert any(line.startswith("64 samples: temperature 1.0 1.000 0.500 0.100") for line in lines)
    assert any(line.startswith("true minus made-up, after 1.000") for line in lines)
    assert f"{LONGEST} 1.00 1.00 0.50 0.50 0.97 0.96 96 % kept" in lines
    assert "general facts 1.00 1.00 0.50 0.50 0.30 0.40 60 % lost" in lines
    assert lines.index("fluency of what is said instead 1.00 0.50 0.25 50 % kept") > lines.index(
        "two hops 1.00 0.50 0.40 80 % ?"
    )
    assert "Hidden: [so it is]" in lines


def test_older_results_show_what_they_have_and_say_what_they_lack():
    older = [evidence for evidence in KNOWN if evidence["score"] != "forget_knowledge"]
    lines = printed(older, ["these results are of an older version"])
    assert "beside models that never knew" in lines and "note: these results are of an older version" in lines
    assert "what is still known" not in lines and "what it cost" not in lines
    assert any(line.startswith("asked: multiple choice 1.000 0.500 0.120") for line in lines)
