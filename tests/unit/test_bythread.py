"""What is remembered of threads is bounded."""

from radosmount.vfs.bythread import THREAD_COUNT_MAX, ByThread


def test_the_one_that_was_set_longest_ago_is_forgotten() -> None:
    table = ByThread[str]()
    for thread in range(THREAD_COUNT_MAX):
        table[thread] = "first"
    table[0] = "again"
    table[THREAD_COUNT_MAX] = "one too many"
    assert len(table) == THREAD_COUNT_MAX
    assert table[0] == "again"
    assert 1 not in table
    assert 2 in table
