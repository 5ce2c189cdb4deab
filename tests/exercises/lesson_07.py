"""Plausible mistakes in the exercises of lesson 07."""

RING = """
def ring_bytes(parameters, bytes_each, processes):
    return {body}
"""

SHARD = """
def shard(count, rank, ranks, epoch):
    order = np.random.default_rng({seed}).permutation(count)
    return order[{places}]
"""

ACCUMULATE = """
def accumulate(model, x, y, most):
    {before}
    for start in range(0, {count}, most):
        {inside}
        part = slice(start, start + most)
        loss = F.cross_entropy(model(x[part]), y[part], reduction="{reduction}") / {by}
        {last}
"""
ACCUMULATION = dict(
    before="model.zero_grad()", count="len(y)", inside="pass", reduction="sum", by="len(y)",
    last="loss.backward()",
)  # fmt: skip

WRONG = {
    "check_layer_flops": [
        "answer = 16 * 16 * 256 * 128 * 9",
        "answer = 16 * 16 * 256 * 128 * 9 * 2",
        "answer = 16 * 16 * 256 * 128 * 9 * 3",
        "answer = 16 * 16 * 256 * 128 * 9 * 4",
        "answer = 16 * 16 * 256 * 128 * 2 * 3",
        "answer = 256 * 128 * 9 * 2 * 3",
    ],
    "check_amdahl": ["answer = 10", "answer = 0.9 * 10", "answer = 0.19", "answer = 1.9"],
    "check_ring_bytes": [
        RING.format(body="2 * parameters * bytes_each"),
        RING.format(body="(processes - 1) / processes * parameters * bytes_each"),
        RING.format(body="2 * (processes - 1) / processes * parameters"),
        RING.format(body="2 * (processes - 1) * parameters * bytes_each"),
        RING.format(body="(processes - 1) * parameters * bytes_each"),
    ],
    "check_shard": [
        SHARD.format(seed="epoch", places=":"),
        SHARD.format(seed="(epoch, rank)", places="rank::ranks"),
        SHARD.format(seed="0", places="rank::ranks"),
        SHARD.format(
            seed="epoch", places="rank * (count // ranks) : (rank + 1) * (count // ranks)"
        ),
        # another order, but no shuffled one
        """
def shard(count, rank, ranks, epoch):
    return np.roll(np.arange(count), epoch)[rank::ranks]
""",
        # the rest for the last
        """
def shard(count, rank, ranks, epoch):
    size = count // ranks
    order = np.random.default_rng(epoch).permutation(count)
    return order[rank * size : (rank + 1) * size if rank < ranks - 1 else count]
""",
        # all for one
        """
def shard(count, rank, ranks, epoch):
    order = np.random.default_rng(epoch).permutation(count)
    return order if rank == 0 else order[:0]
""",
        # the same images for ever
        """
def shard(count, rank, ranks, epoch):
    return np.random.default_rng(epoch).permutation(np.arange(count)[rank::ranks])
""",
    ],
    "check_timing_faults": [
        'answer = {"A": "median", "B": "sync", "C": "warm-up"}',
        'answer = {"A": "sync", "B": "warm-up", "C": "median"}',
        'answer = {"A": "slow", "B": "sync", "C": "median"}',
    ],
    "check_global_lr": ["answer = 3.2", "answer = 0.1", "answer = 0.4", "answer = 1.6"],
    "check_training_time": [
        "answer = 24 * 50_000 * 2.3e9 / (0.3 * 312e12)",
        "answer = 24 * 50_000 * 2.3e9 / 312e12",
        "answer = 24 * 50_000 * 2.3e9 / (0.3 * 312e12) + 24 * 50_000 / 10_000",
        "answer = 50_000 / 10_000",
        "answer = 30",
        "answer = 50_000 * 2.3e9 / (0.3 * 312e12)",
        "answer = 1",
    ],
    "check_accumulate": [
        ACCUMULATE.format(**ACCUMULATION | change)
        for change in (
            {"before": "pass"},
            {"before": "model.weight.grad = None"},
            {"inside": "model.zero_grad()"},
            {"reduction": "mean", "by": "1"},
            {"reduction": "mean", "by": "4"},
            {"reduction": "mean"},
            {"by": "most"},
            {"by": "1"},
            {"reduction": "mean", "by": "len(y) * most"},
            {"count": "len(y) // most * most"},
            {"last": "loss.backward(); model.weight.data -= 0.1 * model.weight.grad"},
        )
    ]
    + [
        "def accumulate(model, x, y, most):\n"
        "    model.zero_grad()\n"
        "    F.cross_entropy(model(x), y).backward()",
        "def accumulate(model, x, y, most):\n"
        "    model.zero_grad()\n"
        "    sum(F.cross_entropy(model(a), b, reduction='sum')\n"
        "        for a, b in zip(x.split(most), y.split(most))).backward()",
        "def accumulate(model, x, y, most):\n"
        "    for a, b in zip(x.split(most), y.split(most)):\n"
        "        (F.cross_entropy(model(a), b, reduction='sum') / len(y)).backward()\n"
        "    model.zero_grad()",
    ],
}
