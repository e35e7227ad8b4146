"""The images of each batch, compared with the batches of a single uninterrupted process."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner.data.sampling import Draws, Key, TrainingBatches, ValidationBatches, hold_out
from captioner.errors import ConfigError


def train(count: int, batch_size: int, epoch: int = 0, **options: int) -> list[list[Key]]:
    resumed = options.pop("resumed_epoch", 0), options.pop("resumed_batch", 0)
    batches = TrainingBatches(
        [Draws(count, count)], batch_size, lambda: epoch, resumed=resumed, **options
    )
    listed = list(batches)
    assert len(listed) == len(batches) or resumed[1]
    return listed


def validate(count: int, batch_size: int, **options: int) -> list[list[Key]]:
    batches = ValidationBatches(count, batch_size, lambda: 3, **options)
    assert len(list(batches)) == len(batches)
    return list(batches)


def indices(batches: list[list[Key]]) -> list[int]:
    return [index for batch in batches for _, index, *_ in batch]


@settings(deadline=None)
@given(count=st.integers(1, 60), batch_size=st.integers(1, 9), epoch=st.integers(0, 3))
def test_an_epoch_has_every_image_once_but_for_those_that_make_no_whole_batch(
    count: int, batch_size: int, epoch: int
) -> None:
    batches = train(count, batch_size, epoch)
    size = min(batch_size, count)
    assert [len(batch) for batch in batches] == [size] * (count // size)
    assert len(set(indices(batches))) == len(indices(batches))
    assert set(indices(batches)) <= set(range(count))
    assert {key[0] for batch in batches for key in batch} == {epoch}


@settings(deadline=None)
@given(
    count=st.integers(1, 20),
    an_epoch=st.integers(1, 60),
    batch_size=st.integers(1, 9),
    done=st.integers(0, 9),
)
def test_an_image_that_is_drawn_again_in_an_epoch_has_another_key(
    count: int, an_epoch: int, batch_size: int, done: int
) -> None:
    draws = [Draws(count, an_epoch)]
    batches = list(TrainingBatches(draws, batch_size, lambda: 1))
    seen: Counter[int] = Counter()
    for key in (key for batch in batches for key in batch):
        epoch, index, before = (*key, 0)[:3]
        assert (epoch, before) == (1, seen[index])
        seen[index] += 1
    assert list(TrainingBatches(draws, batch_size, lambda: 1, resumed=(1, done))) == batches[done:]


def test_what_one_epoch_leaves_out_another_has() -> None:
    seen = Counter(index for epoch in range(40) for index in indices(train(10, 4, epoch)))
    assert set(seen) == set(range(10))
    assert min(seen.values()) > 20  # of 40; 32 are expected


def test_the_order_depends_on_the_epoch_and_the_seed_alone() -> None:
    orders = [train(50, 5, epoch, seed=seed) for epoch in range(3) for seed in range(3)]
    assert all(sorted(indices(order)) == list(range(50)) for order in orders)
    assert len({str([index for index in indices(order)]) for order in orders}) == 9
    assert train(50, 5, 2, seed=1) == train(50, 5, 2, seed=1)


def test_a_loader_that_lives_on_has_another_order_in_the_next_epoch() -> None:
    epoch = 0
    batches = TrainingBatches([Draws(20, 20)], 4, lambda: epoch)
    first = list(batches)
    epoch = 1
    assert list(batches) == train(20, 4, 1) != first


@settings(deadline=None)
@given(
    count=st.integers(6, 60),
    batch_size=st.integers(1, 9),
    ranks=st.integers(1, 6),
    epoch=st.integers(0, 3),
)
def test_processes_share_out_the_batches_that_one_would_have(
    count: int, batch_size: int, ranks: int, epoch: int
) -> None:
    one = train(count, batch_size * ranks, epoch)
    several = [train(count, batch_size, epoch, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert {len(batches) for batches in several} == {len(one)}
    for step, whole in enumerate(one):
        parts = [batches[step] for batches in several]
        assert Counter(key for part in parts for key in part) == Counter(whole)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1, (
            "a step takes as long as its longest part"
        )
        assert all(parts), "a process without an image would wait for gradients that it lacks"


@settings(deadline=None)
@given(
    count=st.integers(6, 60),
    batch_size=st.integers(1, 9),
    ranks=st.integers(1, 3),
    epoch=st.integers(0, 3),
    data=st.data(),
)
def test_a_resumed_epoch_goes_on_with_the_batch_that_was_next(
    count: int, batch_size: int, ranks: int, epoch: int, data: st.DataObject
) -> None:
    whole = train(count, batch_size, epoch, ranks=ranks)
    done = data.draw(st.integers(0, len(whole)))
    resumed = {"resumed_epoch": epoch, "resumed_batch": done}
    assert train(count, batch_size, epoch, ranks=ranks, **resumed) == whole[done:]
    following = train(count, batch_size, epoch + 1, ranks=ranks, **resumed)
    assert following == train(count, batch_size, epoch + 1, ranks=ranks), (
        "only the epoch that was interrupted"
    )


@settings(deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 45)), min_size=1, max_size=3),
    batch_size=st.integers(1, 5),
    epoch=st.integers(0, 5),
)
def test_an_epoch_draws_so_many_images_of_each_source_as_evenly_as_can_be(
    sizes: list[tuple[int, int]], batch_size: int, epoch: int
) -> None:
    sizes[0] = (sizes[0][0], max(1, sizes[0][1]))
    batches = TrainingBatches([Draws(*size) for size in sizes], batch_size, lambda: epoch)
    order = batches.order(epoch).tolist()
    first = 0
    for count, an_epoch in sizes:
        drawn = Counter(index for index in order if first <= index < first + count)
        assert drawn.total() == an_epoch
        times = [drawn[index] for index in range(first, first + count)]
        assert max(times) - min(times) <= 1
        first += count
    images = sum(an_epoch for _, an_epoch in sizes)
    size = min(batch_size, images)
    assert indices(list(batches)) == order[: images // size * size]


@pytest.mark.parametrize(
    ("count", "an_epoch", "epochs"), [(20, 5, 4), (20, 10, 2), (6, 4, 3), (4, 10, 2), (7, 7, 1)]
)
def test_over_the_epochs_all_images_of_a_source_come_equally_often(
    count: int, an_epoch: int, epochs: int
) -> None:
    seen: Counter[int] = Counter()
    for epoch in range(epochs):
        batches = TrainingBatches(
            [Draws(3, 3), Draws(count, an_epoch)], 1, lambda epoch=epoch: epoch
        )
        seen.update(index - 3 for index in indices(list(batches)) if index >= 3)
    assert seen == {index: an_epoch * epochs // count for index in range(count)}


def test_fewer_images_than_a_batch_make_one_batch() -> None:
    (batch,) = train(3, 8)
    assert sorted(batch) == [(0, 0), (0, 1), (0, 2)]
    parts = [train(3, 8, rank=rank, ranks=2) for rank in range(2)]
    assert sorted(map(len, (parts[0][0], parts[1][0]))) == [1, 2]


def test_more_processes_than_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="4 processes cannot share 3 training images"):
        TrainingBatches([Draws(3, 3)], 8, lambda: 0, ranks=4)


@settings(deadline=None)
@given(count=st.integers(0, 40), batch_size=st.integers(1, 9), ranks=st.integers(1, 5))
def test_validation_sees_every_image_once_in_order(count: int, batch_size: int, ranks: int) -> None:
    parts = [validate(count, batch_size, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert sorted(index for part in parts for index in indices(part)) == list(range(count))
    for part in parts:
        assert indices(part) == sorted(indices(part))
        assert all(len(batch) == batch_size for batch in part[:-1])
    assert indices(validate(count, batch_size)) == list(range(count))


@settings(deadline=None)
@given(
    names=st.lists(st.integers(0, 10**6), unique=True, min_size=3, max_size=60),
    share=st.floats(0.01, 0.9),
    data=st.data(),
)
def test_the_same_images_are_held_out_in_whatever_order(
    names: list[int], share: float, data: st.DataObject
) -> None:
    held_out = {names[index] for index in hold_out(names, share)}
    assert len(held_out) == max(2, round(share * len(names)))
    shuffled = data.draw(st.permutations(names))
    assert {shuffled[index] for index in hold_out(shuffled, share)} == held_out

    fewer = names[: data.draw(st.integers(2, len(names)))]
    before, after = {fewer[index] for index in hold_out(fewer, share)}, held_out & set(fewer)
    assert before <= after or after <= before, "when images are added, no two change places"


def test_images_of_the_same_name_are_held_out_together() -> None:
    names = [f"clip {index % 40}" for index in range(200)]
    held_out = hold_out(names, 0.11)  # 22 images, of 5 each
    inside, outside = (
        {name for index, name in enumerate(names) if (index in held_out) is side}
        for side in (True, False)
    )
    assert not inside & outside
    assert len(inside) == 5


def test_of_hardly_any_images_all_are_held_out() -> None:
    assert [len(hold_out("abc"[:count], 0.1)) for count in range(4)] == [0, 1, 2, 2]
