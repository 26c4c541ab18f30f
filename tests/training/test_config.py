"""Arguments that make no sense are refused before anything is loaded."""

import pytest

from llm_unlearn import GradientAscentConfig, NPOConfig, SsiuuConfig, UnlearnConfig
from llm_unlearn.methods.ssiuu_published import PublishedSsiuuConfig


@pytest.mark.parametrize(
    ("config_class", "values", "message"),
    [
        (UnlearnConfig, {"retain_loss": "l2"}, "retain_loss='l2' is unknown; choose one of nll, kl, none"),
        (UnlearnConfig, {"forget_weight": -1}, "forget_weight=-1 must be 0 or more"),
        (UnlearnConfig, {"retain_weight": float("nan")}, "retain_weight=nan must be 0 or more"),
        (UnlearnConfig, {"stop_at_forget_rouge_l": 1.5}, "stop_at_forget_rouge_l=1.5 must lie between 0 and 1"),
        (UnlearnConfig, {"forget_check_steps": 0}, "forget_check_steps=0 must be 1 or more"),
        (UnlearnConfig, {"max_length": 1}, "max_length=1 must be 2 or more"),
        (
            UnlearnConfig,
            {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}},
            "use_reentrant=True is not supported",
        ),
        (NPOConfig, {"beta": 0}, "beta=0 must be above 0"),
        (SsiuuConfig, {"beta": float("nan")}, "beta=nan must be above 0"),
        (SsiuuConfig, {"backbone": "rmu"}, "backbone='rmu' is unknown; choose one of npo, gradient_ascent"),
        (SsiuuConfig, {"attribution": "none"}, "attribution='none' is unknown; choose one of negative, positive"),
        (SsiuuConfig, {"attribution": "none"}, "choose one of negative, positive, both, shuffled, random, activity"),
        (SsiuuConfig, {"variant": "scalar"}, "variant='scalar' is unknown; choose one of neuron, exact"),
        (
            PublishedSsiuuConfig,
            {"reference": "next"},
            "reference='next' is unknown; choose one of previous, or",
        ),
        (PublishedSsiuuConfig, {"influence_of": "logit"}, "influence_of='logit' is unknown; choose one of log_prob"),
        (PublishedSsiuuConfig, {"regularizer_weight": -1.0}, "regularizer_weight=-1.0 must be 0 or more"),
        (SsiuuConfig, {"variant": "exact", "activation_checkpointing": True}, "not with variant exact"),
        (SsiuuConfig, {"token_aggregation": "max"}, "choose one of all, minimum, sum"),
        (SsiuuConfig, {"influence_of": "logit"}, "choose one of log_probability, log_odds, probability"),
        (SsiuuConfig, {"regularizer_weight": "large"}, "regularizer_weight='large' must be auto, or a number"),
        (SsiuuConfig, {"regularizer_weight": float("inf")}, "regularizer_weight=inf must be auto, or a number"),
        (SsiuuConfig, {"regularizer_weight": "auto", "regularizer_ratio": 0.0}, "regularizer_ratio=0.0 must be above"),
        (SsiuuConfig, {"influence_of": "log_odds"}, "not influence_of='log_odds'; give a number"),
        (SsiuuConfig, {"layers": []}, "layers=[] would regularize nothing"),
        (SsiuuConfig, {"modules": []}, "modules=[] would regularize nothing"),
        (SsiuuConfig, {"regularizer_weight": -0.1}, "regularizer_weight=-0.1 must be auto, or a number of 0 or more"),
    ],
)
def test_errors(config_class, values, message, tmp_path):
    with pytest.raises(ValueError) as caught:
        config_class(output_dir=str(tmp_path), **values)
    assert message in str(caught.value)


def test_thresholds_that_were_given():
    config = GradientAscentConfig(stop_at_forget_exact_match=0.0, stop_at_forget_probability=0.3)
    assert config.stopping_thresholds == {"exact_match": 0.0, "probability": 0.3}
    assert UnlearnConfig().stopping_thresholds == {}


def test_checkpointing_is_not_reentrant():
    assert UnlearnConfig(activation_checkpointing=True).activation_checkpointing_kwargs == {"use_reentrant": False}
    assert UnlearnConfig().activation_checkpointing_kwargs is None


def test_the_default_schedule_is_flat_and_nothing_is_sent_anywhere():
    config = SsiuuConfig()
    assert (config.lr_scheduler_type, config.report_to, config.save_strategy) == ("constant", [], "no")
    assert config.remove_unused_columns is False and config.logging_nan_inf_filter is False
