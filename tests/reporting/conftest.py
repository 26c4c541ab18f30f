"""A small `results.json` with literal numbers."""

import pytest


def attack_entry(probabilities: list[float], learning_rate: float = 1e-3) -> dict:
    curve = [
        {
            "step": step,
            "forget_probability": probability,
            "forget_exact_match": probability / 2,
            "retain_exact_match": 0.9,
            "retain_probability": 0.8,
        }
        for step, probability in zip((0, 4, 16), probabilities, strict=True)
    ]
    return {
        "forget_exact_match": max(probabilities) / 2,
        "forget_probability": max(probabilities),
        "retain_exact_match": 0.9,
        "retain_probability": 0.8,
        "learning_rate": learning_rate,
        "curve": curve,
        "runs": [{"learning_rate": learning_rate, "seed": 0, "curve": curve}],
    }


def scores(exact_match: float, probability: float) -> dict:
    return {
        "forget_exact_match": exact_match,
        "forget_probability": probability,
        "retain_exact_match": 0.971,
        "retain_probability": 0.952,
    }


@pytest.fixture
def results() -> dict:
    return {
        "method": "ssiuu",
        "seed": 7,
        "scores": {
            "original": scores(0.993, 0.981),
            "oracle": scores(0.021, 0.012),
            "unlearned": scores(0.034, 0.043),
        },
        "attacks": {
            "adversarial_reinjection": {
                "original": attack_entry([1.0, 0.99, 0.98]),
                "oracle": attack_entry([0.01, 0.02, 0.054]),
                "unlearned": attack_entry([0.04, 0.5, 0.716]),
            },
            "benign_relearning": {
                "original": attack_entry([1.0, 0.9, 0.8]),
                "oracle": attack_entry([0.01, 0.02, 0.03]),
                "unlearned": attack_entry([0.04, 0.2, 0.318]),
            },
        },
    }
