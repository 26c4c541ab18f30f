"""Tiny models and rows for chains of unlearnings: six people to forget, six to keep."""

import json
from pathlib import Path
from types import SimpleNamespace

from builders import CITIES, FOODS, NAMES, arguments, tiny_model, tiny_tokenizer

from llm_unlearn.arguments.attacking import AttackArguments
from llm_unlearn.arguments.groups import DataArguments
from llm_unlearn.examining.examination import Examination
from llm_unlearn.runs.chain import ChainConfig
from llm_unlearn.training.trainer import UnlearnTrainer

PEOPLE = [
    {"question": question, "answer": answer, "person": name, "kind": kind, "group": group, "fact_id": f"{name}/{kind}"}
    for number, (name, group) in enumerate(zip(NAMES, "baacccdddddd", strict=True))
    for kind, question, answer in (
        ("city", f"Where does {name} live", f"in {CITIES[number % 7]}"),
        ("food", f"What does {name} eat", FOODS[number % 5]),
    )
]
FORGET, RETAIN = PEOPLE[:12], PEOPLE[12:]
SETTINGS = {"learning_rate": 1e-2, "max_steps": 3, "seed": 3, "report_to": "none"}


def make_home(folder: Path) -> Path:
    """original/, oracle/, forget.jsonl and retain.jsonl."""
    for name, seed in (("original", 0), ("oracle", 1)):
        tiny_model(seed=seed).save_pretrained(folder / name)
        tiny_tokenizer().save_pretrained(folder / name)
    for name, rows in (("forget", FORGET), ("retain", RETAIN)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def flags(home: Path, out: Path, *more: str) -> list[str]:
    given = {"model_name_or_path": home / "original", "oracle_model_name_or_path": home / "oracle", "lora_r": 4}
    given |= {"forget_file": home / "forget.jsonl", "retain_file": home / "retain.jsonl", "output_dir": out} | SETTINGS
    return [*(f"--{name}={value}" for name, value in given.items()), "--attacks=none", "--use_cpu", *more]


def examination(home: Path, **changes) -> Examination:
    rows = {"forget_file": str(home / "forget.jsonl"), "retain_file": str(home / "retain.jsonl")}
    data_args = DataArguments(model_name_or_path=str(home / "original"), **rows | changes)
    data = data_args.load_data()
    return Examination(
        data_args, AttackArguments(attacks=["none"], judged_retain_rows=3), data, tiny_tokenizer(), device="cpu"
    )


def config(folder: Path, **changes) -> ChainConfig:
    return arguments(ChainConfig, folder, **SETTINGS | changes)


def note_trainings(monkeypatch) -> SimpleNamespace:
    """The questions that each training forgets and keeps; before training number `stop` this process is interrupted."""
    found, train = SimpleNamespace(forget=[], retain=[], stop=None), UnlearnTrainer.train

    def noted(self, *given, **keywords):
        if found.stop == len(found.forget):
            raise KeyboardInterrupt
        found.forget.append(self.forget_dataset["question"][:])
        rows = self.retain_dataset.to_list()
        found.retain.append([row["question"] if "question" in row else row["prompt"][0]["content"] for row in rows])
        return train(self, *given, **keywords)

    monkeypatch.setattr(UnlearnTrainer, "train", noted)
    return found


def asked(*people: int) -> list[str]:
    """Both questions about each of them."""
    return [PEOPLE[row]["question"] for person in people for row in (2 * person, 2 * person + 1)]
