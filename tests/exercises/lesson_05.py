"""Plausible wrong answers of lesson 05; each is rejected, each with its own message."""

AVERAGE = """
def average_loss(batch_means, batch_sizes):
    return {}
"""

SMOOTHED = """
def smoothed_loss(logits, labels, smoothing):
    true, classes = F.one_hot(labels, logits.shape[1]), logits.shape[1]
    targets = (1 - smoothing) * true + {}
    return -(targets * logits.log_softmax(1)).sum(1).{}()
"""

WEIGHTS = """
def average_weights(weights, decay):
    average = {}
    for new in weights:
        average{} = {} * average + {} * new
    return average
"""

FROZEN = """
def find_frozen(net, optimizer):
    moved = {{id(p) for group in optimizer.param_groups for p in group["params"]}}
    return [name for name, p in net.named_parameters() if {}]
"""

STEP = """
def sgd_step(w, velocity, x, y, lr, momentum, weight_decay):
    w = w.clone().requires_grad_()
    F.cross_entropy(x @ w.T, y).backward()
    velocity = momentum * velocity + w.grad + weight_decay * w.detach()
    return w.detach() - lr * velocity, velocity
"""

DECIDE = """
def decide(a, b, t):
    gaps = {gaps}
    half = {half}
    if abs(gaps.mean()) <= half:
        return "undecided"
    return {better}
"""
DECISION = dict(
    gaps="np.subtract(a, b)", half="t * gaps.std(ddof=1) / np.sqrt(len(gaps))",
    better='"a" if gaps.mean() > 0 else "b"',
)  # fmt: skip

WRONG = {
    "check_initial_loss": [
        "answer = 2.303",
        "answer = 2.0",
        "answer = 0.01",
        "answer = float(np.log(1 / 100))",
        "answer = 100",
    ],
    "check_run_length": [
        "answer = 24 * 88",
        "answer = 24 * 98",
        "answer = 87",
        "answer = 45000 * 24",
    ],
    "check_average_loss": [
        # the mean of the means: right only for equal batches
        AVERAGE.format("sum(batch_means) / len(batch_means)"),
        # never divided
        AVERAGE.format("sum(m * n for m, n in zip(batch_means, batch_sizes))"),
        "def average_loss(batch_means, batch_sizes):\n"
        "    return sum(m * n for m, n in zip(batch_means, batch_sizes)) / 1100",
        # as if every batch were as large as the first
        AVERAGE.format("sum(batch_means) * batch_sizes[0] / sum(batch_sizes)"),
    ],
    "check_smoothed_loss": [
        # shared among the other classes only
        SMOOTHED.format("smoothing / (classes - 1) * (1 - true)", "mean"),
        # taken away, given to nobody
        SMOOTHED.format("0", "mean"),
        # the true class without its share
        SMOOTHED.format("smoothing / classes * (1 - true)", "mean"),
        # summed over the batch
        SMOOTHED.format("smoothing / classes", "sum"),
        # forgotten
        "def smoothed_loss(logits, labels, smoothing):\n"
        "    logs = logits.log_softmax(1)\n"
        "    return -logs.gather(1, labels[:, None]).mean()",
        # bought ready-made, under another name
        "def smoothed_loss(logits, labels, smoothing):\n"
        "    return torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(logits, labels)",
    ],
    "check_average_weights": [
        # old and new swapped
        WEIGHTS.format("weights[0]", "", "(1 - decay)", "decay"),
        # the plain mean
        "def average_weights(weights, decay): return weights.mean(0)",
        # begins at 0
        WEIGHTS.format("torch.zeros(weights.shape[1])", "", "decay", "(1 - decay)"),
        # changes what was handed in
        WEIGHTS.format("weights[0]", "[:]", "decay", "(1 - decay)"),
    ],
    "check_find_frozen": [
        # requires_grad only
        FROZEN.format("not p.requires_grad"),
        # the optimiser only
        FROZEN.format("id(p) not in moved"),
        # no gradient yet is not frozen
        FROZEN.format("p.grad is None"),
        # the first group only
        FROZEN.format("id(p) not in moved").replace(
            "for group in optimizer.param_groups for p in group",
            "for p in optimizer.param_groups[0]",
        ),
        FROZEN.format("id(p) not in moved").replace("[name for", "[p for"),
        # equal values, not the same tensor
        """
def find_frozen(net, optimizer):
    moved = [p for group in optimizer.param_groups for p in group["params"]]
    return [
        name
        for name, p in net.named_parameters()
        if not p.requires_grad
        or not any(p.shape == q.shape and torch.equal(p, q) for q in moved)
    ]
""",
    ],
    "check_sgd_step": [
        # uphill
        STEP.replace("- lr", "+ lr"),
        # the sum over the batch
        STEP.replace("(x @ w.T, y)", '(x @ w.T, y, reduction="sum")'),
        # no weight decay
        STEP.replace(" + weight_decay * w.detach()", ""),
        # the velocity is not returned
        STEP.replace("lr * velocity, velocity", "lr * velocity"),
        # the decay beside the momentum, not in it
        STEP.replace(" + weight_decay * w.detach()", "").replace(
            "lr * velocity, velocity", "lr * (velocity + weight_decay * w.detach()), velocity"
        ),
        # the LR inside the velocity
        STEP.replace(
            "+ w.grad + weight_decay * w.detach()", "+ lr * (w.grad + weight_decay * w.detach())"
        ).replace("- lr * velocity", "- velocity"),
        # the old velocity is subtracted, and the other way round
        STEP.replace("    velocity = ", "    new = ").replace(
            "lr * velocity, velocity", "lr * velocity, new"
        ),
        STEP.replace(
            "w.detach() - lr * velocity, velocity", "velocity, w.detach() - lr * velocity"
        ),
    ],
    "check_decide": [
        DECIDE.format(**DECISION | change)
        for change in (
            {"half": "t * gaps.std(ddof=1)"},
            {"gaps": "np.subtract(b, a)"},
            {"better": '"a"'},
            {"half": "1.96 * gaps.std(ddof=1) / np.sqrt(len(gaps))"},
            {"half": "t * gaps.std() / np.sqrt(len(gaps))"},
            {"half": "t * gaps.std(ddof=1) / np.sqrt(4)"},
            {"half": "t * np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / len(a))"},
            {"better": "gaps.mean() > 0"},
        )
    ]
    + [
        # the mean alone
        'def decide(a, b, t):\n    return "a" if a.mean() > b.mean() else "b"',
    ],
}
