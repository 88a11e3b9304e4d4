"""What only a CUDA device can show; skipped without one."""

from itertools import islice

import pytest
import torch

from segtrain.build import register_components
from segtrain.losses.criterion import as_criterion
from segtrain.registry import CRITERIA
from segtrain.task import Batch, Task
from segtrain.transfer import Transfer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

register_components(["tiny_components"])

TASK = Task("segmentation", ("a", "b", "c", "d"), ((0, 0, 0),) * 4)
NEEDS = {"ohem": {"min_kept": 50}}
SELF_CONTAINED = [name for name in CRITERIA if name not in ("mined", "weighted_sum", "kl_div", "image_presence")]


@pytest.mark.parametrize("name", SELF_CONTAINED)
def test_a_criterion_is_on_the_gpu_what_it_is_on_the_cpu(name):
    keys = {"top_p": 0.3} if name.startswith("bootstrapped") else NEEDS.get(name, {})
    generator = torch.Generator().manual_seed(0)
    results = []
    for device in ("cpu", "cuda"):
        criterion = as_criterion(CRITERIA[name](TASK, **keys), TASK).to(device)
        generator.manual_seed(0)
        logits = torch.randn(2, TASK.channels(criterion.link), 33, 17, generator=generator).to(device).requires_grad_()
        target = torch.randint(0, 4, (2, 33, 17), generator=generator, dtype=torch.uint8).to(device)
        target[:, :5] = 255
        loss = criterion(logits, target, 0).value
        loss.backward()
        results.append((loss.detach().cpu(), logits.grad.cpu()))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-7)


def test_batches_that_were_copied_beside_the_last_step_arrive_whole(tiny):
    transfer = Transfer(torch.device("cuda"), torch.channels_last)
    busy = torch.randn(4096, 4096, device="cuda")
    for number in range(20):
        image = torch.full((8, 3, 256, 256), number, dtype=torch.uint8).pin_memory()
        batch = Batch(image, image[:, 0].contiguous().pin_memory(), ("",) * 8)
        busy = busy @ busy * 1e-4  # the computing stream has work, which the copy does not wait for
        moved = transfer(batch)
        assert moved.image.is_contiguous(memory_format=torch.channels_last)
        assert moved.image.eq(number).all()
        assert moved.target.eq(number).all()
        del moved  # its memory must not be given to the next copy while it is read


@pytest.mark.parametrize("how", ["true", "regional", "graphs"])
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_trains_as_the_plain_one(tiny, how):
    losses = {}
    for compile in ("false", how):
        built = tiny(f"train.compile={compile}", "model.dropout=0", device="cuda")
        batch = built.transfer(next(built.loader.start(0)))
        for _ in range(6):
            built.learner.update([batch])
        losses[compile] = built.learner.read_logs()["train/loss"]
    assert losses[how] == pytest.approx(losses["false"], rel=1e-2)


@pytest.mark.parametrize("amp", ["bf16", "off"])
def test_a_step_that_does_not_log_never_waits_for_the_device(tiny, amp):
    built = tiny(f"train.amp={amp}", "train.accumulate=2", device="cuda")
    device = torch.device("cuda")
    batches = [batch.to(device) for batch in islice(built.loader.start(0), 6)]
    built.learner.update(batches[:2])  # the first step sets up the optimizer's state
    torch.cuda.set_sync_debug_mode("error")
    try:
        built.learner.update(batches[2:4])
        logits = built.learner.update(batches[4:])
        built.learner.criterion.inspect(logits, batches[-1].target, 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_every_precision_learns(tiny, amp):
    built = tiny(f"train.amp={amp}", "criterion={name: cross_entropy}", "schedule=null", device="cuda")
    losses = []
    for batch in islice(built.loader.start(0), 40):
        built.learner.update([batch.to(torch.device("cuda"))])
        losses.append(built.learner.read_logs()["train/loss"])
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
