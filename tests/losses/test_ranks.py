"""Several processes give what one gives on the whole batch, value and gradient."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import segtrain.losses as L
from segtrain.losses import as_criterion, components
from segtrain.losses.criterion import WeightedTerm, bootstrapped_bce_with_logits, bootstrapped_ce, ohem, weighted_sum
from segtrain.task import Task

TASK = Task("segmentation", ("a", "b", "c"), ((0, 0, 0),) * 3)
WORLD = 2


def criteria():
    yield "plain", as_criterion(components.cross_entropy(TASK, class_weights=[1.0, 3.0, 0.5]), TASK)
    for scope in ("batch", "image"):
        yield scope, bootstrapped_ce(TASK, top_p=0.3, scope=scope, class_weights=[1.0, 3.0, 0.5], label_smoothing=0.1)
    yield "options", bootstrapped_ce(TASK, top_p=0.2, skip_hardest=0.1, min_per_class=4)
    yield "bce", bootstrapped_bce_with_logits(TASK, top_p=0.3)
    yield "ohem", ohem(TASK, threshold=0.3, min_kept=30)
    yield "dice", as_criterion(components.dice(TASK), TASK)
    yield "lovasz", as_criterion(components.lovasz(TASK), TASK)
    terms = {
        "mined": WeightedTerm(bootstrapped_ce(TASK, top_p=0.3)),
        "jaccard": WeightedTerm(components.jaccard(TASK), 0.3),
    }
    yield "sum", weighted_sum(TASK, terms=terms)


def scenes():
    """(name, logits, target) of the whole batch of 4 images; each rank has 2."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 8, 6, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 3, (4, 8, 6), generator=generator)
    target[0, :5] = 255
    yield "uneven", logits, target
    yield "ties", logits.round(), target
    alone = target.clone()
    alone[2:] = 255
    yield "one rank has nothing valid", logits, alone
    yield "nothing valid", logits, torch.full_like(target, 255)


def run(criterion, logits, target):
    logits = logits.clone().requires_grad_()
    loss = criterion(logits, target, 0)
    (gradient,) = torch.autograd.grad(loss.value, logits)
    return loss, gradient


def on_a_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    mine = slice(2 * rank, 2 * rank + 2)
    results = {}
    for scene, logits, target in scenes():
        for name, criterion in criteria():
            loss, gradient = run(criterion, logits[mine], target[mine])
            results[name, scene] = (loss.value.detach(), gradient / WORLD, dict(loss.logs))  # as DDP averages
        module = L.BootstrappedCrossEntropy(0.3, ignore_index=255)
        with torch.no_grad():  # a validation of one rank waits for nobody
            if rank == 0:
                results["validation", scene] = module(logits[mine], target[mine])
        if rank == 0:
            module.eval()(logits[mine], target[mine])
            module.train()
        loss = module(logits[mine].requires_grad_(), target[mine])
        results["module", scene] = (loss.detach(), module.last.fraction)
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(on_a_rank, (str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.distributed
@pytest.mark.parametrize("scene", list(scenes()), ids=lambda scene: scene[0])
@pytest.mark.parametrize("name", [name for name, _ in criteria()])
def test_two_processes_give_the_value_and_gradient_of_one(ranks, scene, name):
    criterion = dict(criteria())[name]
    loss, gradient = run(criterion, *scene[1:])
    parts = [results[name, scene[0]] for results in ranks]
    torch.testing.assert_close(sum(part[0] for part in parts) / WORLD, loss.value.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), gradient, rtol=1e-12, atol=1e-14)
    together = criterion.scalars({key: sum(float(part[2][key]) for part in parts) for key in loss.logs})
    alone = criterion.scalars({key: float(log) for key, log in loss.logs.items()})
    for tag in alone.keys() - {"mining/kept_pixels"}:  # it asks for the number of ranks; see distributed/test_training
        assert together[tag] == pytest.approx(alone[tag], rel=1e-9), tag


@pytest.mark.distributed
def test_a_module_mines_over_all_ranks_while_training_and_alone_in_validation(ranks):
    for name, logits, target in scenes():
        module = L.BootstrappedCrossEntropy(0.3, ignore_index=255)
        whole = module(logits, target)
        values = [results["module", name][0] for results in ranks]
        torch.testing.assert_close(sum(values) / WORLD, whole)
        torch.testing.assert_close(ranks[0]["validation", name], module(logits[:2], target[:2]))
