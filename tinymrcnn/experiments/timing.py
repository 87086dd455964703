"""How long a plan takes, from a few steps and pictures that are measured now."""

import statistics
import time

from tinymrcnn.data.loader import load_batch
from tinymrcnn.experiments import heads
from tinymrcnn.experiments.plan import PILOT_SEED, Plan, Run, run_of, trunk_of
from tinymrcnn.experiments.training import BATCH, config_of, new_model, one_thread, training_pictures
from tinymrcnn.training import make_optimizer, training_step

STEPS = 4  # measured; the first, which may compile, does not count


@one_thread()
def core_seconds(plan: Plan, device: str) -> float:
    """The seconds of one core that all runs of a plan take, pilots and trunks included."""
    total = 0.0
    for variant in plan.variants:
        run = run_of(plan, variant, PILOT_SEED, plan.rates[0])
        a_step, a_picture = speed(run, device)
        steps = plan.seeds * plan.steps + len(plan.rates) * plan.pilot_steps
        total += steps * a_step
        total += (plan.seeds * plan.test_images + len(plan.rates) * plan.validation_images) * a_picture
    for run in {variant.preset: run_of(plan, variant, PILOT_SEED, plan.rates[0]) for variant in plan.variants}.values():
        if plan.trunk_steps:
            a_step, a_picture = speed(Run(trunk_of(run.training), (), run.pictures, run.images), device)
            total += (plan.seeds + 1) * (
                plan.trunk_steps * a_step + (plan.steps * BATCH + plan.test_images) * a_picture
            )
    return total


def speed(run: Run, device: str) -> tuple[float, float]:
    """Seconds of a training step, and of detecting in one picture, of a model that is not trained yet (of a trunk: of
    proposing). Evaluation, about 10 ms a picture, is added."""
    training, evaluation = run.training, 0.01
    model = new_model(training, device)
    _, images, targets = load_batch(training_pictures(training), BATCH, 0, training.seed)
    learner: object = model
    if training.trunk_steps < 0:
        learner, evaluation = heads.RPNOnly(model), 0
    elif training.trunk_steps:
        learner = heads.Heads(model, [heads.propose(model.eval(), images)] * STEPS)
    config, seconds = config_of(training), []
    optimizer = make_optimizer(model.train(), config)
    for step in range(STEPS):
        began = time.process_time()
        training_step(learner, optimizer, step, images, targets, config)
        seconds.append(time.process_time() - began)
    model.eval()
    began = time.process_time()
    proposals = heads.propose(model, images)
    if training.trunk_steps == 0:
        began = time.process_time()
        model.detect(images)
    elif training.trunk_steps > 0:
        began = time.process_time()
        heads.detect(model, images, proposals)
    a_picture = (time.process_time() - began) / BATCH
    return statistics.median(seconds[1:]), a_picture + evaluation
