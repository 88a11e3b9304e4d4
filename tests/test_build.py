import pytest
import torch
from torch import nn

from segtrain.build import register_components
from segtrain.checkpoint import save
from segtrain.errors import ConfigError, DataError
from segtrain.fine_tuning import load_weights
from segtrain.registry import CRITERIA, DATASETS, MODELS, OPTIMIZERS, SCHEDULES, TRANSFORMS, parameters

REGISTRIES = [MODELS, DATASETS, TRANSFORMS, OPTIMIZERS, SCHEDULES, CRITERIA]

register_components(["tiny_components"])


@pytest.mark.parametrize(
    ("registry", "name"), [(r, name) for r in REGISTRIES for name in r], ids=lambda x: getattr(x, "kind", x)
)
def test_every_component_has_a_docstring_and_typed_keys(registry, name):
    factory = registry[name]
    assert name == "tiny" or factory.__doc__, f"{registry.kind} {name} has no docstring"
    for key, parameter in parameters(factory).items():
        assert parameter.annotation is not parameter.empty, f"{registry.kind} {name}: {key} has no type"


def test_durations_are_shares_of_the_run(tiny):
    built = tiny("train.steps=200", "validate.every=10%", "criterion.warmup={name: linear, start: 25%, end: 75%}")
    assert built.every.validate == 20
    fraction = built.learner.criterion.parts[0].reduction.fraction
    assert [fraction(step) for step in (50, 100, 150)] == [1.0, 0.625, 0.25]


def test_epochs_are_made_steps(tiny):
    assert tiny("train.steps=null", "train.epochs=3").steps == 15
    assert tiny("train.steps=null", "train.epochs=3", "train.accumulate=2").steps == 8


def test_the_learning_rate_rises_in_a_line_and_decays(tiny):
    lr = tiny("train.steps=100", "schedule.warmup=10").learner.lr
    assert lr(0) == pytest.approx(0.1)
    assert lr(9) == pytest.approx((1 - 9 / 100) ** 0.9)
    assert lr(99) < lr(50) < lr(10)
    assert lr(100) == 0


def test_a_bad_value_is_reported_at_its_place(tiny):
    with pytest.raises(
        ConfigError, match=r"override .criterion=.*: criterion: 3 class weights; expected one for each of the 7 classes"
    ):
        tiny("criterion={name: cross_entropy, class_weights: [1, 2, 3]}", "data.workers=0")


WITH_IMAGE_HEAD = [
    "model={name: smp, arch: fpn, encoder: tu-test_resnet, encoder_weights: null, aux_params: {dropout: 0}}",
    "criterion={name: weighted_sum, terms: {ce: {criterion: {name: cross_entropy}}, "
    "classes: {weight: 0.2, criterion: {name: image_presence}}}}",
]


def test_an_image_head_is_trained_beside_the_label_map(tiny):
    built = tiny(*WITH_IMAGE_HEAD, "schedule=null")
    head = built.learner.model.net.classification_head[-2]
    before = head.weight.detach().clone()
    built.learner.update([next(built.loader.start(0))])
    assert (head.weight != before).any()
    assert built.learner.read_logs()["train/loss/classes"] > 0
    assert built.evaluator(built.learner.model, 1).scalars["val/loss"] > 0


def test_an_image_head_and_the_criterion_about_it_need_each_other(tiny):
    model, criterion = WITH_IMAGE_HEAD
    with pytest.raises(ConfigError, match=r"model\.aux_params: no term .* nothing would train it"):
        tiny(model)
    with pytest.raises(ConfigError, match="image_presence needs a model with an image head"):
        tiny(criterion)
    with pytest.raises(ConfigError, match="image_presence alone trains no label map"):
        tiny(model, "criterion={name: image_presence}")


def test_missing_data_is_reported_at_its_place(tiny):
    with pytest.raises(DataError, match=r"data\.train: nowhere .*not exist"):
        tiny("data.train={name: camvid, root: nowhere, split: train}")


def test_training_and_validation_need_the_same_classes(tiny, tmp_path):
    from PIL import Image

    for kind, mode in (("images", "RGB"), ("masks", "L")):
        (tmp_path / kind / "val").mkdir(parents=True)
        Image.new(mode, (24, 24)).save(tmp_path / kind / "val" / "a.png")
    with pytest.raises(ConfigError, match=r"data\.val has the classes a, b, data\.train has ground"):
        tiny(f"data.val={{name: folder_pairs, root: {tmp_path}, split: val, names: [a, b]}}")


def test_a_set_of_another_kind_is_refused(tiny):
    with pytest.raises(ConfigError, match=r"data\.train is a segmentation set, but task is classification"):
        tiny("task=classification", "validate.monitor=val/top1")


def test_two_classes_under_a_sigmoid_make_one_channel(tiny):
    built = tiny("criterion={name: bce_with_logits}")
    assert built.learner.model.head[1].out_channels == 7


def test_limits_take_the_first_samples(tiny):
    built = tiny(train=4, val=2)
    assert (len(built.train), len(built.val)) == (4, 2)
    learned = tiny(overfit=2)
    assert [learned.val[i].id for i in range(2)] == [learned.train[i].id for i in range(2)]


def test_the_same_seed_gives_the_same_weights(tiny):
    a, b, c = tiny(), tiny(), tiny("seed=1")
    first = [next(built.learner.model.parameters()) for built in (a, b, c)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_initial_weights_are_all_that_is_taken_from_a_checkpoint(tiny, tmp_path):
    trained, fresh = tiny("seed=1"), tiny()
    trained.learner.update([next(trained.loader.start(0))])
    save(tmp_path / "a.pt", trained.learner.state_dict())
    load_weights(fresh.learner, tmp_path / "a.pt")
    assert fresh.learner.step == 0
    for a, b in zip(trained.learner.model.parameters(), fresh.learner.model.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(fresh.learner.ema.module.parameters(), fresh.learner.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_another_head_is_an_error_with_both_shapes_unless_it_starts_anew(tiny, tmp_path):
    trained, fresh = tiny("seed=1"), tiny()
    trained.learner.model.head[1] = nn.Conv2d(4, 19, 3, padding=1)
    save(tmp_path / "a.pt", {"model": trained.learner.model.state_dict()})
    with pytest.raises(ConfigError, match=r"head\.1\.weight is \(19, 4, 3, 3\) in the file and \(7, 4, 3, 3\)"):
        load_weights(fresh.learner, tmp_path / "a.pt")
    load_weights(fresh.learner, tmp_path / "a.pt", ["head.*"])
    assert torch.equal(fresh.learner.model.encoder[0].weight, trained.learner.model.encoder[0].weight)
    with pytest.raises(ConfigError, match="matches no parameter"):
        load_weights(fresh.learner, tmp_path / "a.pt", ["hat.*"])


@pytest.mark.parametrize("method", ["auto", "inverse_frequency", "median_frequency", "effective_number"])
def test_class_weights_are_made_of_the_training_labels(tiny, method):
    built = tiny(f"criterion={{name: cross_entropy, class_weights: {method}}}")
    weights = next(iter(dict(built.learner.criterion.named_buffers()).values()))
    task = built.task
    assert weights[task.classes.index("pole")] > weights[task.classes.index("sky")]


def test_class_weights_reach_a_nested_criterion(tiny):
    built = tiny("criterion={name: mined, top_p: 0.3, loss: {name: focal, class_weights: inverse_frequency}}")
    assert dict(built.learner.criterion.named_buffers())


def test_an_unknown_method_of_class_weights_is_refused(tiny):
    with pytest.raises(ConfigError, match="median_frequency"):
        tiny("criterion={name: cross_entropy, class_weights: meridian_frequency}")


def test_a_warm_up_longer_than_the_run_is_warned_of(tiny):
    (warning,) = tiny("criterion.warmup={name: linear, start: 4, end: 100}").warnings
    assert warning.startswith("criterion.warmup is longer than the run: at its last step 98% of the valid pixels")
    assert tiny("criterion.warmup=100").warnings
    assert not tiny().warnings
    assert not tiny("criterion={name: cross_entropy}").warnings


def test_a_learning_rate_of_0_throughout_is_refused(tiny):
    with pytest.raises(ConfigError, match="the learning rate would be 0 from the first step on; write schedule: null"):
        tiny("schedule={name: constant}")
    lr = tiny("schedule={name: constant, warmup: 4, final: 1}").learner.lr
    assert [lr(step) for step in (0, 3, 7)] == [0.25, 1, 1]
    with pytest.raises(ConfigError, match=r"schedule: power -1.*expected a number > 0"):
        tiny("schedule.power=-1")


def test_a_learning_rate_that_rises_as_long_as_the_run_is_warned_of(tiny):
    (warning,) = tiny("schedule.warmup=100").warnings
    assert warning == "schedule.warmup of 100 steps is as long as the run (8 steps)"
