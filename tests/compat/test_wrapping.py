"""Wrapping and unwrapping the method of an object of another library."""

import pytest

from lossselect.compat.lightning import unwrap, wrap


class Loop:
    def run(self, steps: int) -> int:
        return steps


class TestWrap:
    def test_the_wrapper_receives_the_method(self) -> None:
        loop = Loop()
        wrap(loop, "run", lambda run, steps: run(steps) + 1)
        assert loop.run(2) == 3
        assert Loop().run(2) == 2

    def test_wrapping_again_replaces_the_wrapper(self) -> None:
        loop = Loop()
        for _ in range(2):
            wrap(loop, "run", lambda run, steps: run(steps) + 1)
        assert loop.run(2) == 3

    def test_unwrapping_twice_is_allowed(self) -> None:
        loop = Loop()
        wrap(loop, "run", lambda run, steps: 0)
        for _ in range(2):
            unwrap(loop, "run")
            assert loop.run(2) == 2

    def test_a_version_without_the_method_raises_an_error(self) -> None:
        with pytest.raises(
            RuntimeError, match=r"lightning \d\S+ has no Loop\.walk, which lossselect requires"
        ):
            wrap(Loop(), "walk", lambda walk: None)
