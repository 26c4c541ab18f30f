"""Transfer probes: does the hidden state still carry what the model no longer says?

A readout (multinomial logistic regression, one for each kind of fact) learns from *retained* people which value a
hidden state stands for, and is asked about people whom it never saw. A stranger's value cannot be guessed from others':
what the readout gets right is what the model itself has put there, in the way in which it puts down what it knows. On
retained people, each left out in turn, it shows how well that can be read; on forgotten people, what is left.

Where a state is taken: after the question and the beginning of the answer that all answers of the kind share ("The home
is in"), at the last token before the value. At the question's own last token there is little to read: in the small
fictional world the original's readouts had 0.29 there, and 0.95 here (chance 0.1).

A probe *per fact*, trained on one forgotten person's questions, is not offered. The name is in the question, so any
model, an untrained one, too, lets it learn by heart which name goes with which label.

Beside it: the same with shuffled labels (nothing may be found), a *membership* readout between retained people and
people that no model was trained on, and the *alignment of the output head*: the cosine between the states of a value
and its row of the head. Unlearning that turns away the head alone leaves all readouts as they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from transformers import PreTrainedModel

from llm_unlearn.attacks.counterfactual import PERTURBED
from llm_unlearn.audits.audit import Audit, Inspection, Measure
from llm_unlearn.audits.probe_questions import HELD_OUT, Question, probe_questions
from llm_unlearn.errors import InputError
from llm_unlearn.metrics.intervals import percentile_interval, resampled_difference
from llm_unlearn.metrics.readouts import FOLDS, Labeled, chosen_strength, cross_predicted, fitted, shuffled
from llm_unlearn.models.hidden_states import states_and_head_inputs

SMALLEST_DIFFERENCE = 0.15  # of original and oracles: below it the probe cannot tell who knows
SHUFFLES = 3
BATCH_SIZE = 64  # contexts in a forward
_HEAD_CHUNK = 256

Questions = Mapping[str, Sequence[Question]]
States = Mapping[str, np.ndarray]


def probe_block(states: States, questions: Questions) -> tuple[dict[str, float], np.ndarray]:
    """Value readouts of one block.

    Args:
        states: of each set (rows, width). questions: the rows of each set.

    Returns:
        {"strength": chosen on retained people, each left out in turn, in the trained wordings; "retained": the accuracy
        on these, "retained_held_out": on the same people in a wording that nobody trained, "forgotten",
        "forgotten_held_out": by readouts of all retained people, "shuffled": on forgotten people with labels
        shuffled}; and whether each forget row was right, (rows,).
    """
    rows = {name: _labeled(states[name], questions[name]) for name in questions}
    kinds = {name: np.array([question.kind for question in found]) for name, found in questions.items()}
    of_kind = {
        kind: {name: part.where(kinds[name] == kind) for name, part in rows.items()}
        for kind in dict.fromkeys(kinds["retained"].tolist())
    }

    def right_on_retained(strength: float) -> dict[str, float]:
        hits: dict[str, list[np.ndarray]] = {"retained": [], "retained_held_out": []}
        for parts in of_kind.values():
            said = cross_predicted(parts["retained"], strength, *(parts[name] for name in hits))
            for (name, values), labels in zip(hits.items(), said, strict=True):
                values.append(labels == parts[name].labels)
        return {name: float(np.concatenate(values).mean()) for name, values in hits.items()}

    tried: dict[float, dict[str, float]] = {}
    strength = chosen_strength(lambda one: tried.setdefault(one, right_on_retained(one))["retained"])
    right = {name: np.zeros(len(questions[name])) for name in ("forgotten", "forgotten_held_out")}
    by_chance = []
    for kind, parts in of_kind.items():
        readout = fitted(parts["retained"], strength)
        for name, hits in right.items():
            hits[kinds[name] == kind] = readout.predict(parts[name].features) == parts[name].labels
        for seed in range(SHUFFLES):
            said = fitted(shuffled(parts["retained"], seed), strength).predict(parts["forgotten"].features)
            by_chance.append(said == parts["forgotten"].labels)
    accuracies = {name: float(hits.mean()) for name, hits in right.items()}
    control = {"shuffled": float(np.concatenate(by_chance).mean())}
    return {"strength": strength} | tried[strength] | accuracies | control, right["forgotten"]


def member_block(states: States, questions: Questions, strength: float) -> tuple[dict[str, float], np.ndarray]:
    """Membership readout of one block; a person's log-odds are the mean over their questions.

    Args:
        states, questions: as in `probe_block`, with the set "never_trained".
        strength: the one that suits the values in this block.

    Returns:
        {"auc": of retained against never trained people, each left out in turn; "retained", "never_trained",
        "forgotten": shares that are called members}; and whether each forgotten person is, (people,).
    """
    members, strangers, asked = (
        _labeled(states[name], questions[name]) for name in ("retained", "never_trained", "forgotten")
    )
    both = Labeled(
        np.concatenate([members.features, strangers.features]),
        np.repeat([True, False], [len(members.people), len(strangers.people)]),
        np.concatenate([members.people, strangers.people]),
    )
    (log_odds,) = cross_predicted(both, strength, both, method="decision_function")
    odds_of_members = _by_person(log_odds[both.labels], members.people)
    odds_of_strangers = _by_person(log_odds[~both.labels], strangers.people)
    called = _by_person(fitted(both, strength).decision_function(asked.features), asked.people) > 0
    truth = np.repeat([True, False], [len(odds_of_members), len(odds_of_strangers)])
    return {
        "auc": float(roc_auc_score(truth, np.concatenate([odds_of_members, odds_of_strangers]))),
        "retained": float((odds_of_members > 0).mean()),
        "never_trained": float((odds_of_strangers > 0).mean()),
        "forgotten": float(called.mean()),
    }, called


def head_alignment(model: PreTrainedModel, ends: States, questions: Questions) -> dict[str, Any]:
    """Cosine between the mean state that the output head is given for a value and the head's row of its first token.

    Args:
        ends: of "retained" and "forgotten" (rows, width), what the head is given.

    Returns:
        "by_value": "kind: value" -> {"retained": [with its own row, mean with those of the kind's other values],
        "forgotten": the same, None where nobody forgotten has the value}; "retained", "forgotten": means of these two
        over values, None where there are none. "left_out": how many values begin with a token of another one's, too.
    """
    tokens, left_out = _first_tokens(questions["retained"])
    rows = _unit(_head_rows(model, list(tokens.values()))) if tokens else np.empty((0, 0))
    of_kind = np.array([kind for kind, _ in tokens])
    asked = {name: [(q.kind, q.value) for q in questions[name]] for name in ("retained", "forgotten")}
    by_value: dict[str, dict[str, list[float] | None]] = {}
    for number, (kind, value) in enumerate(tokens):
        others = (of_kind == kind) & (np.arange(len(of_kind)) != number)
        found = by_value.setdefault(f"{kind}: {value}", {})
        for name, wanted in asked.items():
            here = [one == (kind, value) for one in wanted]
            cosines = rows @ _unit(ends[name][here].mean(0)) if any(here) else None
            found[name] = None if cosines is None else [float(cosines[number]), float(cosines[others].mean())]
    pairs = {name: [pair for found in by_value.values() if (pair := found[name])] for name in asked}
    means = {name: np.mean(found, axis=0).tolist() if found else None for name, found in pairs.items()}
    return {**means, "by_value": by_value, "left_out": left_out}


def _first_tokens(questions: Sequence[Question]) -> tuple[dict[tuple[str, str], int], int]:
    """(kind, value) -> its first token, where that tells it from the others of its kind; and how many are left out."""
    found: dict[str, dict[str, set[int]]] = {}
    for question in questions:
        found.setdefault(question.kind, {}).setdefault(question.value, set()).add(question.token)
    own = {}
    for kind, values in found.items():
        values_of = Counter(token for tokens in values.values() for token in tokens)
        single = {value: min(tokens) for value, tokens in values.items() if len(tokens) == 1}
        distinct = {(kind, value): token for value, token in single.items() if values_of[token] == 1}
        own |= distinct if len(distinct) > 1 else {}
    return own, sum(map(len, found.values())) - len(own)


@torch.no_grad()
def _head_rows(model: PreTrainedModel, tokens: Sequence[int]) -> np.ndarray:
    """Rows of the output head, (tokens, width), as it acts, with adapters and whatever its weights are stored in."""
    head = model.get_output_embeddings()
    units = torch.eye(head.in_features, device=head.weight.device, dtype=model.dtype)
    bias = head(torch.zeros_like(units[:1]))
    columns = [(head(part) - bias)[:, tokens].float().cpu() for part in units.split(_HEAD_CHUNK)]
    return torch.cat(columns).T.numpy()


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _labeled(features: np.ndarray, questions: Sequence[Question]) -> Labeled:
    values, people = ([getattr(question, name) for question in questions] for name in ("value", "person"))
    return Labeled(features, np.array(values), np.array(people))


def _by_person(values: np.ndarray, people: np.ndarray) -> np.ndarray:
    """The mean over each person's rows, in the order in which people come."""
    return np.array([values[people == person].mean() for person in dict.fromkeys(people.tolist())])


def _interval(first: np.ndarray, second: np.ndarray | None, units: Sequence[int]) -> list[float]:
    """95 % over people, of the mean of `first` (models, rows) or of the difference to `second`."""
    second = None if second is None else second[:, None]
    resampled = resampled_difference(first[:, None], second, units)[1]
    return list(percentile_interval(resampled, units=len(set(units))))


def _start(inspection: Inspection) -> Measure:
    questions, notes = probe_questions(
        inspection.data, inspection.processing_class, _kinds(inspection.group_by), inspection.max_length
    )
    forgotten = questions["forgotten"]
    kinds = list(dict.fromkeys(question.kind for question in forgotten))
    people = list(dict.fromkeys(question.person for question in forgotten))
    units = [people.index(question.person) for question in forgotten]
    strangers = len({question.person for question in questions.get("never_trained", ())})
    if strangers < FOLDS:
        notes.append(f"membership is not measured: {strangers} people were never trained, {FOLDS} are needed")
    common = {
        "notes": notes,
        "people": {name: len({q.person for q in found}) for name, found in questions.items() if HELD_OUT not in name},
        "kinds": {kind: _chance(questions, kind) for kind in kinds},
    }
    common |= {  # over forgotten questions
        name: fmean(common["kinds"][question.kind][name] for question in forgotten) for name in ("chance", "majority")
    }
    known: dict[str, np.ndarray] = {}  # original and oracles -> whether each forget row was right, (blocks, rows)
    chosen: list[int] = []  # the block that the original's retained people speak for

    def measure(name: str, model: PreTrainedModel) -> dict[str, Any]:
        states, ends = _states(model, questions)
        layers, hits, called = [], [], []
        for block in range(states["forgotten"].shape[1]):
            at_block = {part: values[:, block] for part, values in states.items()}
            layer, right = probe_block(at_block, questions)
            layer["interval"] = _interval(right[None], None, units)
            if strangers >= FOLDS:
                layer["membership"], members = member_block(at_block, questions, layer["strength"])
                called.append(members)
            layers.append(layer)
            hits.append(right)
        if not chosen:
            chosen.append(max(range(len(layers)), key=lambda block: layers[block]["retained"]))
        elif len(hits) != len(known["original"]):
            raise InputError(
                f"probes: {name} has {len(hits)} blocks, the original {len(known['original'])}: nothing to compare"
            )
        best = chosen[0]
        finding = {"block": best, "layers": layers, "alignment": head_alignment(model, ends, questions)}
        if called:
            told = max(range(len(layers)), key=lambda block: layers[block]["membership"]["auc"])
            interval = _interval(called[told][None].astype(float), None, range(len(people)))
            finding["membership"] = {"block": told, **layers[told]["membership"], "interval": interval}
        finding["value_by_index"] = {str(q.row): right for q, right in zip(forgotten, hits[best].tolist(), strict=True)}
        if name.startswith("unlearned"):
            finding["reading"] = probe_reading(np.array(hits), known, best, units)
        else:
            known[name] = np.array(hits)
        return {"probes": common | finding}

    return measure


def _kinds(group_by: str | None) -> str | None:
    """The column of kinds that was asked for; wrong answers that data brings for the lens are none."""
    return None if group_by == PERTURBED else group_by


def _states(model: PreTrainedModel, questions: Questions) -> tuple[States, States]:
    """Before the value: of each set (rows, blocks, width), and what the head is given, (rows, width)."""
    contexts = [question.context for asked in questions.values() for question in asked]
    states, ends = states_and_head_inputs(model, contexts, [[len(one) - 1] for one in contexts], BATCH_SIZE)
    firsts = np.cumsum([len(asked) for asked in questions.values()])[:-1]
    of_sets = (np.split(part, firsts) for part in (states.transpose(0, 1).numpy(), ends.numpy()))
    blocks, heads = (dict(zip(questions, part, strict=True)) for part in of_sets)
    return blocks, heads


def _chance(questions: Questions, kind: str) -> dict[str, float]:
    """What a guess at one of the values is worth, and naming the one that most retained people have."""
    holders = Counter(value for _, value in {(q.person, q.value) for q in questions["retained"] if q.kind == kind})
    return {
        "values": len(holders),
        "chance": 1 / len(holders),
        "majority": max(holders.values()) / sum(holders.values()),
    }


def probe_reading(hits: np.ndarray, known: Mapping[str, np.ndarray], best: int, units: Sequence[int]) -> dict[str, Any]:
    """What the readouts say of an unlearned model: which share of the original's advantage over oracles is left.

    Args:
        hits: (blocks, rows). known: the same of the original and of oracles. best: the block that counts.

    Returns:
        "original", "oracle" (mean), "unlearned": accuracies on forgotten people; "excess" over oracles with its
        "interval", "share" of the original's excess; "most": {"block", "excess", "interval"} of the block with the
        highest excess, which is the highest of several. Or "refused": why the probe says nothing here.
    """
    oracles = np.array([right for name, right in known.items() if name.startswith("oracle")])
    if not len(oracles):
        return {"refused": "there is no oracle to say what can be read off where nothing was known"}
    original, oracle = float(known["original"][best].mean()), float(oracles[:, best].mean())
    accuracies = {"original": original, "oracle": oracle, "unlearned": float(hits[best].mean())}
    if original - oracle < SMALLEST_DIFFERENCE:
        reason = f"original {original:.2f} and oracles {oracle:.2f} differ by less than {SMALLEST_DIFFERENCE}"
        return accuracies | {"refused": f"{reason}: the readouts cannot tell who knows"}
    excesses = (hits.mean(1) - oracles.mean((0, 2))).tolist()
    most = max(range(len(excesses)), key=excesses.__getitem__)
    at_best, at_most = (_interval(hits[block][None], oracles[:, block], units) for block in (best, most))
    return accuracies | {
        "excess": excesses[best],
        "interval": at_best,
        "share": excesses[best] / (original - oracle),
        "most": {"block": most, "excess": excesses[most], "interval": at_most},
    }


AUDIT = Audit(
    "probes",
    summary="whether hidden states still carry the forgotten values, by readouts learned from retained people",
    sections=("probes",),
    start=_start,
)
