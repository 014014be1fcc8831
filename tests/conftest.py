import pytest
import torch


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)


def pytest_runtest_setup(item):
    if "gpu" in item.keywords and not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")


@pytest.fixture(autouse=True, scope="session")
def _few_threads():
    # the tests' tensors are tiny: a second thread costs more than it brings
    torch.set_num_threads(1)
