import math

import pytest
from waits import NoHostSync, Reads

from segtrain.metrics.evaluation import Evaluation
from segtrain.trainer import Best, Every, Interrupted, Trainer


class Recorder:
    """An observer that remembers."""

    def __init__(self):
        self.steps, self.evaluations = [], []

    def on_step(self, step, scalars):
        self.steps.append((step, dict(scalars)))

    def on_samples(self, step, samples):
        assert not samples, "pixels are too many to be told one by one"

    def on_evaluation(self, step, report):
        self.evaluations.append((step, report))

    def close(self):
        pass


@pytest.fixture
def trained(tiny):
    """A trainer over the tiny run, with everything it tells and saves written down."""

    def make(*overrides, evaluate=None, **changes):
        built = tiny(*overrides)
        saved, recorder = [], Recorder()
        trainer = Trainer(
            built.learner,
            built.loader,
            **{
                "steps": built.steps,
                "every": built.every,
                "accumulate": built.config.train.accumulate,
                "transfer": built.transfer,
                "evaluate": evaluate or built.evaluator,
                "judge_ema": True,
                "save": lambda name, state: saved.append((name, state["step"])),
                "observers": [recorder],
                **changes,
            },
        )
        return trainer, recorder, saved

    return make


def test_the_loop_logs_evaluates_and_saves_when_it_is_due_and_at_the_end(trained):
    trainer, recorder, saved = trained("train.steps=7", every=Every(log=2, validate=3, save=4))
    trainer.run()
    assert [step for step, _ in recorder.steps] == [2, 4, 6, 7]
    assert [step for step, _ in recorder.evaluations] == [3, 6, 7]
    assert [step for name, step in saved if name == "last"] == [4, 7]
    assert next(step for name, step in saved if name == "best") == 3


def test_a_logged_step_has_loss_rates_mining_and_speed(trained):
    trainer, recorder, _ = trained()
    trainer.run()
    _, scalars = recorder.steps[-1]
    assert {"train/loss", "optim/lr/head", "mining/top_p_effective", "mining/pixels_for_99pct_loss"} <= scalars.keys()
    assert {"perf/img_per_s", "perf/data_share", "perf/step_s"} <= scalars.keys()
    assert all(math.isfinite(value) for value in scalars.values())


def test_a_run_waits_for_the_device_once_per_log_and_never_between(trained):
    trainer, recorder, _ = trained(every=Every(log=3, validate=100, save=100, mining=3))
    trainer._validate = trainer._save = lambda *_: None  # these wait, and may
    first, *rest = trainer.batches.again(0, 8)
    trainer.learner.update([first])  # the first step of an optimizer sets up its state
    trainer.batches = type("Read", (), {"batches_per_epoch": 5, "start": lambda self, at: iter(rest)})()
    with NoHostSync(), Reads() as reads:
        trainer.run()
    assert [step for step, _ in recorder.steps] == [3, 6, 8]
    assert reads.counts == {"tolist": 3}


def test_a_close_look_at_the_mining_is_taken_with_the_first_log_of_its_interval(trained):
    trainer, recorder, _ = trained("train.steps=9", every=Every(log=2, validate=9, save=9, mining=5))
    trainer.run()
    looks = [step for step, scalars in recorder.steps if "mining/pixels_for_99pct_loss" in scalars]
    assert looks == [6, 9]
    assert all("mining/loss_share" in scalars for _, scalars in recorder.steps)
    trainer, recorder, _ = trained(every=Every(log=2, validate=9, save=9, mining=1))
    trainer.run()
    assert all("mining/class_lift/road" in scalars for _, scalars in recorder.steps)


def test_a_class_that_is_not_there_has_no_numbers(trained):
    trainer, recorder, _ = trained("train.steps=1")
    batches = trainer.batches

    def without_road(at):
        for batch in batches.start(at):
            yield batch._replace(target=batch.target.masked_fill(batch.target == 3, 255))

    trainer.batches = type("Batches", (), {"batches_per_epoch": 5, "start": staticmethod(without_road)})()
    trainer.run()
    _, scalars = recorder.steps[-1]
    assert "mining/class_lift/sky" in scalars
    assert not any("road" in tag for tag in scalars)


def test_accumulation_takes_that_many_batches_a_step(trained):
    trainer, _recorder, _ = trained("train.accumulate=2", "train.steps=3")
    taken = []
    start = trainer.batches.start
    trainer.batches = type("Counted", (), {"start": lambda self, at: (taken.append(b.ids) or b for b in start(at))})()
    trainer.run()
    assert len(taken) == 6


def test_a_stop_signal_finishes_the_step_saves_and_leaves(trained):
    trainer, _, saved = trained("train.steps=100", "validate.every=100", "checkpoint.every=100")
    trainer.observers = [
        type("Stop", (Recorder,), {"on_step": lambda self, step, s: setattr(trainer, "stop_signal", 15)})()
    ]
    with pytest.raises(Interrupted) as stop:
        trainer.run()
    assert stop.value.signal == 15
    assert saved == [("last", 2)]


def test_a_skipped_step_is_neither_logged_nor_evaluated_nor_saved_again(trained):
    trainer, recorder, saved = trained("train.on_nonfinite=skip", every=Every(log=2, validate=4, save=4))
    bias, calls = trainer.learner.model.head[1].bias, iter(range(100))
    bias.register_hook(lambda gradient: gradient * float("nan") if next(calls) in (0, 2, 4, 5) else gradient)
    trainer.run()
    assert trainer.learner.skipped == 4
    assert [step for step, _ in recorder.steps] == [2, 4, 6, 8]
    assert [step for step, _ in recorder.evaluations] == [4, 8]
    assert [step for name, step in saved if name == "last"] == [4, 8]
    assert all(math.isfinite(value) for _, scalars in recorder.steps for value in scalars.values())


def test_a_finished_run_has_nothing_left_to_do(trained):
    trainer, recorder, _saved = trained("train.steps=2")
    trainer.run()
    told = len(recorder.steps)
    trainer.run()
    assert len(recorder.steps) == told


def test_nan_is_never_the_best():
    best = Best("val/miou")
    verdicts = [best.improves(value, step) for step, value in enumerate([math.nan, 0.3, math.nan, 0.2, 0.3, 0.4])]
    assert verdicts == [False, True, False, False, False, True]
    assert (best.value, best.step) == (0.4, 5)


def test_the_best_is_saved_when_the_monitored_scalar_rises_and_only_then(trained, tiny):
    built = tiny()
    values = iter([0.2, 0.1, math.nan, 0.5])

    def evaluate(model, step):
        report = built.evaluator(model, step)
        return Evaluation({"val/miou": next(values)}, report.classes, report.confusion, report.task)

    every = Every(log=9, validate=1, save=9)
    trainer, _, saved = trained(
        "train.steps=4", "train.ema=null", "validate.weights=raw", evaluate=evaluate, every=every
    )
    trainer.run()
    assert [step for name, step in saved if name == "best"] == [1, 4]


@pytest.mark.parametrize("averaged", [True, False])
def test_weights_and_their_average_are_judged_and_one_of_them_decides(trained, averaged):
    trainer, recorder, _ = trained("train.steps=4", every=Every(log=9, validate=4, save=9), judge_ema=averaged)
    trainer.run()
    ((_, report),) = recorder.evaluations
    learner = trainer.learner
    for tag, model in (("val", learner.model), ("val_ema", learner.ema.module)):
        expected = trainer.evaluate(model, 4)
        own = [name for name in report.scalars if name.startswith(f"{tag}/")]
        told = {f"val/{name.removeprefix(f'{tag}/')}": report.scalars[name] for name in own}
        assert told == pytest.approx(expected.scalars)
        if (tag == "val_ema") == averaged:
            assert report.scores() == told
            assert (report.confusion == expected.confusion).all()
            assert trainer.best.value == pytest.approx(expected.scalars["val/miou"])
    assert report.scalars["val/loss"] != report.scalars["val_ema/loss"]


def test_what_is_mined_is_compared_from_the_second_evaluation_on_also_after_a_resume(trained):
    every = Every(log=8, validate=2, save=8)
    whole, told, _ = trained(every=every)
    whole.run()
    churn = [report.scalars.get("mining/churn") for _, report in told.evaluations]
    assert churn[0] is None
    assert all(0 < value <= 1 for value in churn[1:])
    first, _, _ = trained(every=every, steps=4)
    first.run()
    state = first.state_dict()
    second, told_again, _ = trained(every=every)
    second.load_state_dict(state)
    second.run()
    assert [report.scalars.get("mining/churn") for _, report in told_again.evaluations] == churn[2:]


def test_the_best_value_survives_a_resume(trained):
    trainer, _, _ = trained("train.steps=4")
    trainer.run()
    other, _, _ = trained("train.steps=4")
    other.load_state_dict(trainer.state_dict())
    assert other.best == trainer.best


def test_what_was_summed_since_the_last_log_survives_a_resume(trained):
    every = Every(log=4, validate=8, save=8)
    whole, told, _ = trained(every=every)
    whole.run()
    first, _, _ = trained(every=every, steps=2)
    first.observers = []
    first.every = Every(log=100, validate=100, save=100)
    first._log = lambda *_: None  # the end of this part is no end of the run
    first.run()
    state = first.state_dict()
    second, told_again, _ = trained(every=every)
    second.load_state_dict(state)
    second.run()

    def without_speed(scalars):
        return {tag: value for tag, value in scalars.items() if not tag.startswith("perf/")}

    assert [step for step, _ in told_again.steps] == [4, 8]
    assert without_speed(told_again.steps[0][1]) == without_speed(told.steps[0][1])
