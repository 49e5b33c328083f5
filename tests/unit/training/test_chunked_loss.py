"""The chunked cross-entropy has the value and gradients of the plain one."""

import pytest

from rstar_math.training.chunked_loss import chunk_rows, cross_entropy_sum

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
@pytest.mark.parametrize("trained", [True, False])
def test_value_and_gradients_are_the_plain_ones(rows: int, trained: bool) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(7, 16, requires_grad=True)
    weight = torch.randn(33, 16, requires_grad=trained)
    targets = torch.randint(0, 33, (7,))
    plain = torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    (0.5 * plain).backward()
    wanted = hidden.grad, weight.grad
    hidden.grad = weight.grad = None
    found = cross_entropy_sum(hidden, weight, targets, rows=rows)
    assert found.item() == pytest.approx(plain.item(), rel=1e-6)
    (0.5 * found).backward()
    assert torch.allclose(hidden.grad, wanted[0], atol=1e-6)
    if trained:
        assert torch.allclose(weight.grad, wanted[1], atol=1e-5)
    else:
        assert weight.grad is None


def test_in_bfloat16_the_sum_is_still_float32() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(64, 16, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(50, 16)
    targets = torch.randint(0, 50, (64,))
    found = cross_entropy_sum(hidden, weight, targets, rows=10)
    exact = torch.nn.functional.cross_entropy(
        hidden.detach().float() @ weight.T, targets, reduction="sum"
    )
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), rel=0.01)
    found.backward()
    assert hidden.grad.isfinite().all()


def test_no_tokens_have_no_loss() -> None:
    hidden = torch.zeros(0, 4, requires_grad=True)
    found = cross_entropy_sum(hidden, torch.zeros(9, 4), torch.zeros(0, dtype=torch.long))
    found.backward()
    assert found.item() == 0


def test_a_chunk_of_a_large_vocabulary_is_bounded() -> None:
    assert 4 * 151_936 * chunk_rows(151_936) < 200 * 2**20
    assert chunk_rows(320) > 10_000
