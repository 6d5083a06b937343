"""Which worker is to have which shard: plain values."""

from __future__ import annotations

from collections import Counter

from fastpos.redis.shards import SHARDS, shard_of, shards_for

WORKERS = [f"host-{number}:77" for number in range(7)]


def spread(workers: list[str]) -> dict[int, str]:
    """Whose each shard is to be."""
    found: dict[int, str] = {}
    for worker in workers:
        for shard in shards_for(worker, workers):
            assert shard not in found, "two are to have it"
            found[shard] = worker
    return found


def test_an_accounts_shard_never_changes() -> None:
    assert [shard_of(name) for name in ("alice", "bob", "名")] == [137, 146, 229]
    assert shard_of("alice", shards=10) == shard_of("alice", shards=10)


def test_accounts_are_spread_over_all_shards() -> None:
    counts = Counter(shard_of(f"account-{number}") for number in range(100 * SHARDS))
    assert sorted(counts) == list(range(SHARDS))
    assert 50 < min(counts.values()) <= max(counts.values()) < 150


def test_each_shard_is_for_one_worker_and_each_worker_has_its_part() -> None:
    for count in range(1, len(WORKERS) + 1):
        found = spread(WORKERS[:count])
        assert len(found) == SHARDS
        parts = Counter(found.values()).values()
        assert len(parts) == count
        assert max(parts) < 1.6 * SHARDS / count


def test_who_joins_takes_about_its_part_and_nothing_moves_between_the_others() -> None:
    before, after = spread(WORKERS[:6]), spread(WORKERS)
    moved = [shard for shard in after if before[shard] != after[shard]]
    assert {after[shard] for shard in moved} == {WORKERS[6]}
    assert 0.5 * SHARDS / 7 < len(moved) < 1.6 * SHARDS / 7
    assert {before[shard] for shard in moved} == set(WORKERS[:6])


def test_what_is_left_is_spread_over_the_others_and_nothing_else_moves() -> None:
    before, after = spread(WORKERS), spread(WORKERS[1:])
    moved = [shard for shard in after if before[shard] != after[shard]]
    assert {before[shard] for shard in moved} == {WORKERS[0]}
    assert {after[shard] for shard in moved} == set(WORKERS[1:])


def test_a_worker_need_not_be_among_those_that_are_known_to_be_alive() -> None:
    assert shards_for("new", []) == frozenset(range(SHARDS))
    assert shards_for("new", WORKERS) == shards_for("new", [*WORKERS, "new"])
