"""Methods of another library's, of one object, wrapped and left as they were."""

import pytest

from lossselect.compat.lightning import unwrap, wrap


class Loop:
    def run(self, steps: int) -> int:
        return steps


class TestWrap:
    def test_is_given_the_method(self) -> None:
        loop = Loop()
        wrap(loop, "run", lambda run, steps: run(steps) + 1)
        assert loop.run(2) == 3
        assert Loop().run(2) == 2

    def test_wrapping_anew_takes_the_place_of_the_one_before(self) -> None:
        loop = Loop()
        for _ in range(2):
            wrap(loop, "run", lambda run, steps: run(steps) + 1)
        assert loop.run(2) == 3

    def test_is_undone_once_and_again(self) -> None:
        loop = Loop()
        wrap(loop, "run", lambda run, steps: 0)
        for _ in range(2):
            unwrap(loop, "run")
            assert loop.run(2) == 2

    def test_a_lightning_without_the_method_is_named(self) -> None:
        with pytest.raises(RuntimeError, match=r"lightning \d\S+ has no Loop\.walk, which lossselect needs"):
            wrap(Loop(), "walk", lambda walk: None)
