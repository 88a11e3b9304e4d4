import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

sys.path.insert(0, str(Path(__file__).parent / "distributed"))
from ranks import on_ranks

from segtrain import distributed, parallel
from segtrain.build import build, register_components
from segtrain.config import load
from segtrain.errors import ConfigError, DataError

TINY = Path(__file__).parent / "tiny.yaml"
ranks = pytest.mark.distributed
CPU = torch.device("cpu")


def weights_after(*overrides):
    register_components(["tiny_components"])
    config, source = load(TINY, ["model.dropout=0", *overrides])
    built = build(config, source, CPU)
    batches = built.loader.start(0)
    for _ in range(6):
        built.learner.update([next(batches)])
    return torch.cat([p.detach().flatten() for p in built.learner.model.parameters()]).tolist()


@ranks
def test_a_static_graph_trains_the_same_model():
    static, _ = on_ranks(2, weights_after, "train.static_graph=true")
    dynamic, _ = on_ranks(2, weights_after)
    assert static == pytest.approx(dynamic, abs=1e-6)


@ranks
def test_compressed_gradients_train_nearly_the_same_model_and_one_model_on_all_ranks():
    first, second = on_ranks(2, weights_after, "train.gradient_compression=bf16", "optimizer={name: sgd, lr: 0.1}")
    exact, _ = on_ranks(2, weights_after, "optimizer={name: sgd, lr: 0.1}")
    assert first == second
    assert first != exact
    assert first == pytest.approx(exact, abs=5e-3)


def asks_for_batch_norms_over_ranks():
    register_components(["tiny_components"])
    with pytest.raises(ConfigError) as error:
        build(*load(TINY, ["train.sync_batchnorm=true"]), CPU)
    return str(error.value)


@ranks
def test_batch_norms_over_ranks_are_refused_where_there_is_no_gpu():
    told = on_ranks(2, asks_for_batch_norms_over_ranks)
    assert "override 'train.sync_batchnorm=true'" in told[0]
    assert "expected GPUs; use a model with group norm" in told[0]


def test_alone_everything_is_the_model_itself():
    model = nn.BatchNorm2d(3)
    assert parallel.replicated(model, CPU) is model
    assert parallel.with_batch_norms_over_ranks(model, CPU) is model
    assert parallel.batch_norm_warnings(model, 1) == []


def warnings_of(images):
    return [parallel.batch_norm_warnings(model, images) for model in (nn.BatchNorm2d(3), nn.GroupNorm(1, 3))]


@ranks
def test_batch_norms_that_see_few_images_are_warned_of():
    (batch, group), _ = on_ranks(2, warnings_of, 1)
    assert "1 batch norms see 1 image each, on every rank its own" in batch[0]
    assert group == []
    assert on_ranks(2, warnings_of, 4)[0] == [[], []]


def test_restarts_on_several_machines_are_warned_of(monkeypatch):
    for name, value in {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": "3"}.items():
        monkeypatch.setenv(name, value)
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in parallel.restart_warnings()[0]
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    assert parallel.restart_warnings() == []


def fails_on_main():
    def fail():
        raise DataError(f"told by rank {distributed.rank()}")

    with pytest.raises(DataError) as error:
        distributed.from_main(fail)
    return str(error.value), distributed.from_main(distributed.rank), distributed.of_all_ranks(distributed.rank())


@ranks
def test_what_rank_0_finds_and_its_mistakes_are_those_of_all():
    assert on_ranks(2, fails_on_main) == [("told by rank 0", 0, [0, 1])] * 2


def votes():
    vote = distributed.Vote()
    heard = [vote(15 if distributed.rank() == 1 and step == 2 else 0) for step in range(5)]
    return heard, vote.finish()


@ranks
def test_a_vote_is_heard_by_all_at_the_next_step():
    assert on_ranks(2, votes) == [([0, 0, 0, 15, 0], 0)] * 2


def test_a_vote_of_one_is_heard_at_once():
    vote = distributed.Vote()
    assert (vote(0), vote(15), vote.finish()) == (0, 15, 0)


def built_of_other_files():
    register_components(["tiny_components"])
    with pytest.raises(ConfigError) as error:
        build(*load(TINY, [f"data.train.length={10 - distributed.rank()}"]), CPU)
    return str(error.value)


@ranks
def test_ranks_that_find_different_numbers_of_samples_do_not_begin():
    told = "rank 1 has samples in data.train and data.val: (9, 5), rank 0 has (10, 5); every machine needs the same"
    assert [text.startswith(told) for text in on_ranks(2, built_of_other_files)] == [True, True]


def shared_buffers():
    norm = nn.BatchNorm2d(2)
    norm.running_mean += distributed.rank()
    distributed.share_buffers(norm)
    return norm.running_mean.tolist()


@ranks
def test_buffers_are_those_of_rank_0():
    assert on_ranks(2, shared_buffers) == [[0, 0]] * 2


@pytest.mark.parametrize(
    ("gpus", "ranks_here", "device", "message"),
    [
        (2, 4, "auto", r"4 ranks here want a GPU each, but this machine has 2 usable GPUs .*--nproc_per_node=2"),
        (0, 4, "cuda", r"4 ranks here want a GPU each, but this machine has 0 usable GPUs .*use --device cpu"),
        (2, 2, "cuda:1", r"--device cuda:1 would put all 2 ranks here on one GPU; use --device cuda"),
        (1, 1, "cuda:3", r"--device cuda:3 means cuda:3, but this machine has 1 usable GPUs"),
    ],
)
def test_ranks_without_a_gpu_of_their_own_are_refused(gpus, ranks_here, device, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    for name, value in {
        "LOCAL_RANK": "0",
        "RANK": "0",
        "WORLD_SIZE": ranks_here,
        "LOCAL_WORLD_SIZE": ranks_here,
    }.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(ConfigError, match=message):
        distributed.start(device)
    assert not dist.is_initialized()


class Blocks(nn.Module):
    """A head over blocks in lists, one inside of another, as encoders have them."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)) for _ in range(2))
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        return self.head(self.norm(x))


def of_shards(smallest):
    torch.manual_seed(0)
    model = parallel.sharded(Blocks(), CPU, smallest=smallest)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(distributed.rank()))
    model(x).mean().backward()
    gradient = [parallel.whole(p.grad) for p in model.parameters()]
    distributed.share_buffers(model)
    state = parallel.gathered(model.state_dict())
    full = distributed.from_main(lambda: state)
    copies = Blocks()
    parallel.load_full(copies, full)
    parallel.load_full(model, full)
    with parallel.whole_on_every_rank(model.eval()):
        if distributed.rank() == 0:  # as an evaluation with fewer images than ranks
            torch.testing.assert_close(model(x), copies.eval()(x))
    model.train()(x).mean().backward()
    units = sum(isinstance(module, parallel.FSDPModule) for module in model.modules())
    return units, [g.flatten().tolist() for g in gradient]


@ranks
@pytest.mark.parametrize(("smallest", "units"), [(1, 7), (30, 3), (10**6, 1)])
def test_shards_of_any_size_compute_what_the_whole_does(smallest, units):
    (found, gradient), (_, other) = on_ranks(2, of_shards, smallest)
    assert found == units
    assert gradient == other
    torch.manual_seed(0)
    model = Blocks()
    for rank in range(2):
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(rank))
        (model(x).mean() / 2).backward()
    for theirs, p in zip(gradient, model.parameters(), strict=True):
        assert theirs == pytest.approx(p.grad.flatten().tolist(), abs=1e-6)


def test_a_static_graph_goes_without_accumulation():
    """PyTorch ends there in an internal assertion: its first backward pass of a static graph has to exchange."""
    with pytest.raises(ConfigError, match="static_graph: True, but accumulate is 3; it goes with steps of one batch"):
        load(TINY, ["train.static_graph=true", "train.accumulate=3"])


def patient(timeout_s):
    """One rank after the other takes longer for its part than ranks wait for each other."""
    distributed.start("cpu", timeout_s=timeout_s)
    checked = distributed.from_main(lambda: time.sleep(2 * timeout_s) or "checked")
    time.sleep(2 * timeout_s * distributed.rank())
    return checked, distributed.of_all_ranks("counted", patient=True), distributed.of_all_ranks("trained")


@ranks
@pytest.mark.slow
def test_ranks_wait_beyond_the_time_out_while_data_is_checked_and_labels_are_counted():
    expected = ("checked", ["counted", "counted"], ["trained", "trained"])
    assert on_ranks(2, patient, 8.0, joined=False) == [expected] * 2


def test_shards_go_without_what_they_cannot_do():
    for key in ("amp=fp16", "compile=true", "gradient_compression=bf16"):
        with pytest.raises(ConfigError, match="strategy is fsdp"):
            load(TINY, ["train.strategy=fsdp", f"train.{key}"])
