"""The random numbers: Philox against published vectors, torch against the reference, and the tail of the noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from mdmcorrect import reference, rng
from mdmcorrect.rng import Purpose

# Known answers of philox4x32-10 from Random123's kat_vectors: counter, key, output.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, output):
    assert tuple(int(word) for word in reference.philox4x32(counter, key)) == output
    # The tensor version sees the same words through its own arguments: index, position, step, purpose << 16 | call.
    index, position, step, stream = counter
    seed = torch.tensor((key[1] << 32 | key[0]) - (2**64 if key[1] >> 31 else 0))
    bits = rng.random_bits(seed, index, position, step, stream >> 16, stream & 0xFFFF)
    assert int(bits) % 2**64 == output[0] << 32 | output[1]


def test_tensors_agree_with_reference_bit_for_bit():
    generator = torch.Generator().manual_seed(0)
    seed = torch.randint(-(2**63), 2**63 - 1, (5, 1), generator=generator)
    position = torch.randint(0, 2**32, (5, 4000), generator=generator)
    step = torch.arange(5)[:, None]
    bits = rng.random_bits(seed, 7, position, step, Purpose.ORDER, 65535)
    expected = reference.random_bits(seed.numpy(), 7, position.numpy(), step.numpy(), Purpose.ORDER, 65535)
    np.testing.assert_array_equal(bits.numpy().astype(np.uint64), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("batch", "length"), [(5, 4000), (1, 1), (3, 255), (2, 257), (0, 7), (4, 0)])
def test_uniform_agrees_with_reference_bit_for_bit(batch, length, dtype):
    generator = torch.Generator().manual_seed(length)
    seed = torch.randint(-(2**63), 2**63 - 1, (batch,), generator=generator)
    position = torch.randint(-5, 2**33, (batch, length), generator=generator)
    step = torch.randint(-5, 2**33, (batch,), generator=generator)
    u = rng.uniform(seed, position, step, Purpose.ORDER, 65537, dtype=torch.from_numpy(np.empty(0, dtype)).dtype)
    arrays = seed.numpy()[:, None], 0, position.numpy(), step.numpy()[:, None]
    np.testing.assert_array_equal(u.numpy(), reference.uniform(reference.random_bits(*arrays, Purpose.ORDER, 1), dtype))


def test_uniform_takes_any_strides():
    positions = torch.arange(60).reshape(6, 10)
    for grid, seed in ((positions.T, torch.arange(20)[::2]), (positions[:, ::3], torch.tensor(3).expand(6))):
        u = rng.uniform(seed, grid, 7, Purpose.COMMIT)
        assert torch.equal(u, rng.uniform(seed.contiguous(), grid.contiguous(), 7, Purpose.COMMIT))


# Where the conversion of 64 bits to float32 goes wrong first: ends, the sign bit of int64, and halfway cases.
AWKWARD_BITS = [0, 1, 2, 2**24 + 1, 2**40 + 2**16, 2**63 - 1, 2**63, 2**63 + 2**39, 2**63 + 2**39 + 1, 2**64 - 1]


def test_the_reference_stays_within_the_open_interval():
    bits = np.array(AWKWARD_BITS, np.uint64)
    for dtype, below_one in ((np.float32, 1 - 2.0**-24), (np.float64, 1 - 2.0**-53)):
        u = reference.uniform(bits, dtype)
        assert u.dtype == dtype
        assert u.min() == 2.0**-65
        assert u.max() == below_one


def test_noise_is_not_truncated_at_float32_resolution():
    """Float32 uniforms near 1 end the Gumbel noise at 16.6; here it goes on to log(2^65) = 45.05."""
    largest = reference.gumbel(np.array([0], np.uint64))[0]
    assert largest == pytest.approx(65 * np.log(2), rel=1e-7)
    # Every power of two of the small end is its own exponential: E = (r + 1/2) 2^-64 to float32 precision.
    r = np.array([2**k + 2**k // 3 for k in range(2, 40)], np.uint64)
    small = r.astype(np.float64) + 0.5
    np.testing.assert_allclose(reference.exponential(r), small * 2.0**-64, rtol=1.3e-7)
    u = torch.from_numpy(reference.uniform(r))
    np.testing.assert_allclose((-torch.log(-torch.log1p(-u))).numpy(), -np.log(small * 2.0**-64), rtol=2e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_laws(dtype):
    seeds = rng.sequence_seeds(3, 50)
    u = rng.uniform(seeds, 4000, 0, Purpose.COMMIT, dtype=dtype).double().flatten()
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-4
    noise = rng.gumbel(seeds, 4000, 1, Purpose.ORDER, dtype=dtype).double().flatten()
    assert stats.kstest(noise.numpy(), "gumbel_r").pvalue > 1e-4
    # Neighbours in every counter word are unrelated.
    for other in (
        rng.uniform(seeds, 4000, 1, Purpose.COMMIT, dtype=dtype),
        rng.uniform(seeds, 4000, 0, Purpose.REMASK, dtype=dtype),
        rng.uniform(seeds, 4000, 0, Purpose.COMMIT, 1, dtype=dtype),
        rng.uniform(seeds + 1, 4000, 0, Purpose.COMMIT, dtype=dtype),
        rng.uniform(seeds, torch.arange(1, 4001), 0, Purpose.COMMIT, dtype=dtype),
    ):
        assert abs(np.corrcoef(u.numpy(), other.double().flatten().numpy())[0, 1]) < 4.5 / np.sqrt(len(u))


def test_sequence_seeds():
    for seed in (0, 1, -5, 2**63 - 1, 2**64 - 1):
        np.testing.assert_array_equal(rng.sequence_seeds(seed, 7).numpy(), reference.sequence_seeds(seed, 7))
    assert torch.equal(rng.sequence_seeds(torch.tensor(4), 3), rng.sequence_seeds(4, 3))
    assert torch.equal(rng.sequence_seeds(4, 9)[:3], rng.sequence_seeds(4, 3))
    given = torch.tensor([5, -1])
    assert rng.sequence_seeds(given, 2) is given
    first, second = (rng.sequence_seeds(torch.Generator().manual_seed(8), 2) for _ in range(2))
    assert torch.equal(first, second)
    generator = torch.Generator().manual_seed(8)
    rng.sequence_seeds(generator, 2)
    assert not torch.equal(rng.sequence_seeds(generator, 2), first)


def test_rows_have_their_own_steps_and_positions():
    seeds = torch.tensor([11, 12])
    both = rng.uniform(seeds, torch.tensor([[0, 1], [5, 6]]), torch.tensor([3, 9]), Purpose.COMMIT)
    for row, (start, step) in enumerate([(0, 3), (5, 9)]):
        alone = rng.uniform(seeds[row : row + 1], torch.tensor([start, start + 1]), step, Purpose.COMMIT)
        assert torch.equal(both[row], alone[0])


def test_opcheck():
    seed, call = torch.arange(3), torch.tensor(1)
    op = torch.ops.mdmcorrect.uniform.default
    torch.library.opcheck(op, (seed, torch.arange(12), torch.tensor(2), Purpose.COMMIT, call, torch.float32))
    torch.library.opcheck(op, (seed, torch.zeros(3, 4).long(), seed, Purpose.ORDER, call, torch.float64))


@pytest.mark.slow
def test_compiles_without_a_graph_break():
    seeds, step = rng.sequence_seeds(1, 2), torch.tensor(4)
    compiled = torch.compile(lambda s, t: rng.uniform(s, 9, t, Purpose.COMMIT), fullgraph=True, backend="eager")
    assert torch.equal(compiled(seeds, step), rng.uniform(seeds, 9, 4, Purpose.COMMIT))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: rng.sequence_seeds("7", 2), TypeError, "seed: expected an int, an int64 tensor or a torch.Generator"),
        (lambda: rng.sequence_seeds(torch.zeros(2), 2), TypeError, "seed: expected an int64 tensor, got torch.float32"),
        (lambda: rng.sequence_seeds(torch.tensor([1, 2]), 3), ValueError, r"seed: expected shape \[3\].*got \[2\]"),
        (lambda: rng.uniform(torch.tensor(1), 4, 0, 1), ValueError, r"seed: expected int64 \[B\]"),
        (lambda: rng.uniform(torch.tensor([1]), torch.zeros(4), 0, 1), ValueError, "positions: expected a length"),
        (
            lambda: rng.uniform(torch.tensor([1]), torch.zeros(2, 4).long(), 0, 1),
            ValueError,
            r"positions: expected \[1",
        ),
        (
            lambda: rng.uniform(torch.tensor([1]), 4, torch.tensor([0, 1]), 1),
            ValueError,
            r"step: expected \[\] or \[1\]",
        ),
        (lambda: rng.uniform(torch.tensor([1]), 4, torch.zeros(1), 1), ValueError, "step: expected an int or an int64"),
        (
            lambda: rng.uniform(torch.tensor([1]), 4, 0, 1, torch.tensor([0])),
            ValueError,
            r"call: expected an int or int64 \[\]",
        ),
        (
            lambda: rng.uniform(torch.tensor([1]), 4, 0, 1, dtype=torch.float16),
            TypeError,
            "dtype: expected torch.float32 or torch.float64, got torch.float16",
        ),
    ],
)
def test_errors_name_the_argument(make, error, text):
    with pytest.raises(error, match=text):
        make()
