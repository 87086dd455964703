"""The learning rate: values worked out by hand."""

import math

import pytest

from tinymrcnn.models import TrainConfig
from tinymrcnn.training import learning_rate


def test_warm_up_is_linear_and_ends_at_the_full_rate():
    config = TrainConfig(steps=1000, lr=0.02, warmup_steps=4)
    assert [learning_rate(step, config) for step in range(5)] == pytest.approx([0.005, 0.01, 0.015, 0.02, 0.02])


def test_cosine_falls_to_nothing():
    config = TrainConfig(steps=110, lr=0.8, warmup_steps=10)
    assert learning_rate(10, config) == 0.8
    assert learning_rate(60, config) == pytest.approx(0.4)
    assert learning_rate(35, config) == pytest.approx(0.4 * (1 + math.sqrt(0.5)))
    rates = [learning_rate(step, config) for step in range(10, 110)]
    assert all(later < earlier for earlier, later in zip(rates, rates[1:], strict=False))
    assert 0 < rates[-1] < 0.8 * 3e-4


def test_step_drops_to_a_tenth_at_each_point():
    config = TrainConfig(steps=90, lr=0.02, warmup_steps=0, schedule="step", drops=(2 / 3, 8 / 9))
    rates = {step: learning_rate(step, config) for step in (0, 59, 60, 79, 80, 89)}
    assert rates == pytest.approx({0: 0.02, 59: 0.02, 60: 0.002, 79: 0.002, 80: 0.0002, 89: 0.0002})


@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_rates_are_python_floats_even_without_a_main_part(schedule):
    config = TrainConfig(steps=3, lr=1, warmup_steps=7, schedule=schedule)
    for step in range(10):
        assert type(learning_rate(step, config)) is float
    assert learning_rate(2, config) == pytest.approx(3 / 7)
