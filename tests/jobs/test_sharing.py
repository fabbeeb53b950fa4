"""Stamps that one actor holds are the same memory in every process that borrows them; on a CPU, where torch shares by files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ray_train import ray_environment

ray_environment.prepare()
import ray  # noqa: E402
import torch  # noqa: E402

from lensdata.shards.manifests import read_manifest  # noqa: E402
from ray_train.core.images import ImageRecipe  # noqa: E402
from ray_train.core.memory import StepNeed  # noqa: E402
from ray_train.sharing import ActorLender, Holder, end_holders, holder_name, start_holders  # noqa: E402
from ray_train.stamps import group_reader, stamp_table  # noqa: E402
from ray_train.training import deal_out  # noqa: E402
from tests.faults.training_runs import write_manifest  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.slow]
RECIPE = ImageRecipe(normalisation="identity", crop=None, dtype="float32")
SMALL, ALL_MEMORY = StepNeed(0, 1.0, 1), StepNeed(2**60, 1.0, 1)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return read_manifest(write_manifest(tmp_path_factory.mktemp("manifest")))


@pytest.fixture(scope="module")
def session():
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    yield ray.get_runtime_context().get_node_id()
    ray.shutdown()


@pytest.fixture
def lender(session, request):
    """Lends to a user; the holder ends with the test."""
    holders = start_holders(request.node.name, borrowers=2, device="cpu")
    yield lambda user: ActorLender(holder_name(request.node.name, session), user)
    end_and_clean(holders)


def end_and_clean(holders):
    """End holders, and remove the files of shared memory that processes of Ray which were ended never closed."""
    pids = [ray.get(holder.__ray_call__.remote(lambda _: os.getpid())) for holder in holders]
    end_holders(holders)
    for pid in pids:
        for left in Path("/dev/shm").glob(f"torch_{pid}_*"):
            left.unlink()


def read(manifest, split):
    table, places = stamp_table(manifest.split(split))
    group = group_reader(places, manifest.layout())
    stamps = {number: group(number) for number in set(table.group.tolist())}
    return torch.stack([torch.from_numpy(stamps[g][w].copy()) for g, w in zip(table.group, table.within, strict=True)])


def test_what_is_lent_are_the_prepared_stamps_in_the_order_of_the_table(lender, manifest):
    lent = lender("one").borrow(manifest, manifest.layout(), RECIPE, SMALL)
    assert set(lent) == {"train", "val", "test"}
    for split, tensor in lent.items():
        assert torch.equal(tensor, read(manifest, split))


def test_two_processes_see_the_same_memory(lender, manifest):
    lent = lender("one").borrow(manifest, manifest.layout(), RECIPE, SMALL)["val"]

    @ray.remote
    def change(of: ActorLender, rows: object) -> bool:
        tensor = of.borrow(rows, rows.layout(), RECIPE, SMALL)["val"]
        tensor[0, 0, 0, 0] = 12345.0
        return tensor.is_shared()

    assert ray.get(change.remote(lender("two"), manifest))
    assert lent[0, 0, 0, 0] == 12345.0
    assert any("torch_" in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_rows_that_are_dealt_out_anew_are_other_stamps(lender, manifest):
    dealt = deal_out(manifest, seed=4)
    plain, other = (lender("one").borrow(rows, rows.layout(), RECIPE, SMALL) for rows in (manifest, dealt))
    for lent, rows in ((plain, manifest), (other, dealt)):
        for split, tensor in lent.items():
            assert torch.equal(tensor, read(rows, split))


def test_stamps_that_leave_no_room_to_train_are_not_lent(lender, manifest):
    assert lender("one").borrow(manifest, manifest.layout(), RECIPE, ALL_MEMORY) is None


def test_a_holder_that_is_gone_lends_nothing(session, manifest):
    assert ActorLender("nobody", "one").borrow(manifest, manifest.layout(), RECIPE, SMALL) is None


class OneAtATime(Holder):
    """Has room for one set of stamps."""

    def _fits(self, wanted: int, training: int) -> bool:
        return not self._held


def test_what_nobody_uses_is_given_up_when_room_is_needed(session, manifest):
    holder = ray.remote(OneAtATime).options(name="small").remote("cpu", 1)
    one, two = ActorLender("small", "one"), ActorLender("small", "two")
    other = ImageRecipe(normalisation="identity", crop=31, dtype="float32")
    assert one.borrow(manifest, manifest.layout(), RECIPE, SMALL)
    before = ray.get(holder.held_bytes.remote())
    assert two.borrow(manifest, manifest.layout(), other, SMALL) is None  # the first is in use
    ray.get(holder.give_back.remote("one"))
    assert two.borrow(manifest, manifest.layout(), other, SMALL)
    assert 0 < ray.get(holder.held_bytes.remote()) < before
    end_and_clean([holder])
