"""Odd but legal rows: languages, labels that are there or not, questions asked again, and files of every encoding."""

import csv
import json
import random
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

TEXTS = (  # question, answer
    ("Where does Ann Lee live?", "Ann Lee lives in Oslo."),
    ("  what is  eaten by Ben?", "soup, and bread"),
    ("Qui est né à Besançon ?", "Élise Doré, 1971"),
    ("田中さんはどこに住んでいますか。", "東京に住んでいます。"),
    ("Say it twice", "twice\ntwice"),
    ("¿Cuánto?", '1,234.50 € ("all")'),
    ("Кто там?", "Иван"),
    ("emoji", "👍🏽 ok"),
)
AGAIN = {  # ways to ask the same, which no reader would call another question
    "as it was": str,
    "loud": str.upper,
    "decomposed": lambda text: unicodedata.normalize("NFD", text),
    "wide": lambda text: " " + text.replace(" ", "\u00a0  "),
    "invisible": lambda text: text[:2] + "\u200b" + text[2:],
    "other mark": lambda text: text.rstrip(" ?。") + " !",
}
LABELS = ("none", "all", "some absent", "some None", "some empty", "some blank", "no person", "all empty")
SUFFIXES = (".json", ".jsonl", ".csv")
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16")  # the last two begin with a byte order mark
NEWLINES = ("\n", "\r\n")


@dataclass
class OddRow:
    """One row; `number` is that of the question, however it is asked."""

    number: int
    question: str
    answer: str
    labels: dict[str, str | None] = field(default_factory=dict)  # as written

    @property
    def cells(self) -> dict[str, str | None]:
        return {"question": self.question, "answer": self.answer, **self.labels}

    def label(self, name: str) -> str | None:
        """What it says; None where it says nothing."""
        return (self.labels.get(name) or "").strip() or None


def make_rows(pattern: str, repeats: int, chance: random.Random) -> list[OddRow]:
    """All of `TEXTS`, and some of them again with an answer of their own, labelled by one of `LABELS`."""
    rows = [OddRow(number, *texts) for number, texts in enumerate(TEXTS)]
    for repeat in range(repeats):
        one = chance.choice(rows[: len(TEXTS)])
        rows.append(OddRow(one.number, AGAIN[chance.choice([*AGAIN])](one.question), f"answer {repeat}"))
    nothing = {"some empty": "", "some blank": " \t", "all empty": ""}.get(pattern)
    for place, row in enumerate(rows):
        fact = f"fact {row.number // 2}" if place < len(TEXTS) else f"fact {place}"  # two questions may be of one fact
        for name, value in (("fact_id", fact), ("person", f"person {row.number % 3}")):
            if pattern == "none" or (pattern == "no person" and name == "person"):
                continue
            if pattern == "all empty" or (pattern.startswith("some") and chance.random() < 0.5):
                value = nothing
            if value is not None or pattern != "some absent":
                row.labels[name] = value
    return rows


def write(rows: list[OddRow], path: Path, encoding: str, newline: str) -> Path:
    """A file as its suffix says."""
    cells = [row.cells for row in rows]
    with open(path, "w", encoding=encoding, newline=newline) as file:
        if path.suffix == ".csv":
            columns = dict.fromkeys(column for row in cells for column in row)
            writer = csv.DictWriter(file, [*columns], lineterminator="\n")
            writer.writeheader()
            writer.writerows(cells)
        elif path.suffix == ".json":
            json.dump(cells, file, ensure_ascii=False, indent=1)
        else:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in cells)
    return path


def facts(rows: list[OddRow]) -> list[int]:
    """Of each row the first of its fact: those that ask the same, have the same label, or are joined by others."""
    found = [*range(len(rows))]
    for i, one in enumerate(rows):
        for j, other in enumerate(rows[:i]):
            same_label = one.label("fact_id") is not None and one.label("fact_id") == other.label("fact_id")
            if one.number == other.number or same_label:
                low, high = sorted((found[i], found[j]))
                found = [low if fact == high else fact for fact in found]
    return found


def units(rows: list[OddRow]) -> list[int]:
    """Of each row the first of its unit: the rows of a person, or those that ask the same where nobody is named."""
    people = [row.label("person") for row in rows]
    if len({*people} - {None}) < 2:
        people = [None] * len(rows)
    keys = [row.number if person is None else person for row, person in zip(rows, people, strict=True)]
    return [keys.index(key) for key in keys]
