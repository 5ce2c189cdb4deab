"""Plausible wrong answers of lesson 05; each is rejected, each with its own message."""

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
        """
def average_loss(batch_means, batch_sizes):
    return sum(batch_means) / len(batch_means)
""",
        # never divided
        """
def average_loss(batch_means, batch_sizes):
    return sum(m * n for m, n in zip(batch_means, batch_sizes))
""",
        # as if every batch were as large as the first
        """
def average_loss(batch_means, batch_sizes):
    return sum(batch_means) * batch_sizes[0] / sum(batch_sizes)
""",
    ],
    "check_smoothed_loss": [
        # shared among the other classes only
        """
def smoothed_loss(logits, labels, smoothing):
    true, classes = F.one_hot(labels, logits.shape[1]), logits.shape[1]
    targets = (1 - smoothing) * true + smoothing / (classes - 1) * (1 - true)
    return -(targets * logits.log_softmax(1)).sum(1).mean()
""",
        # taken away, given to nobody
        """
def smoothed_loss(logits, labels, smoothing):
    return (1 - smoothing) * F.cross_entropy(logits, labels)
""",
        # summed over the batch
        """
def smoothed_loss(logits, labels, smoothing):
    targets = (1 - smoothing) * F.one_hot(labels, logits.shape[1]) + smoothing / logits.shape[1]
    return -(targets * logits.log_softmax(1)).sum()
""",
        # forgotten
        """
def smoothed_loss(logits, labels, smoothing):
    return F.cross_entropy(logits, labels)
""",
    ],
    "check_average_weights": [
        # old and new swapped
        """
def average_weights(weights, decay):
    average = weights[0].clone()
    for new in weights[1:]:
        average = (1 - decay) * average + decay * new
    return average
""",
        # the plain mean
        """
def average_weights(weights, decay):
    return weights.mean(0)
""",
        # begins at 0
        """
def average_weights(weights, decay):
    average = torch.zeros(weights.shape[1])
    for new in weights:
        average = decay * average + (1 - decay) * new
    return average
""",
        # changes what was handed in
        """
def average_weights(weights, decay):
    average = weights[0]
    for new in weights[1:]:
        average.mul_(decay).add_((1 - decay) * new)
    return average
""",
    ],
    "check_find_frozen": [
        # requires_grad only
        """
def find_frozen(net, optimizer):
    return [name for name, p in net.named_parameters() if not p.requires_grad]
""",
        # the optimiser only
        """
def find_frozen(net, optimizer):
    moved = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [name for name, p in net.named_parameters() if id(p) not in moved]
""",
        # no gradient yet is not frozen
        """
def find_frozen(net, optimizer):
    return [name for name, p in net.named_parameters() if p.grad is None]
""",
    ],
    "check_sgd_step": [
        # uphill
        """
def sgd_step(w, velocity, x, y, lr, momentum, weight_decay):
    w = w.clone().requires_grad_()
    F.cross_entropy(x @ w.T, y).backward()
    velocity = momentum * velocity + w.grad + weight_decay * w.detach()
    return w.detach() + lr * velocity, velocity
""",
        # the sum over the batch
        """
def sgd_step(w, velocity, x, y, lr, momentum, weight_decay):
    w = w.clone().requires_grad_()
    F.cross_entropy(x @ w.T, y, reduction="sum").backward()
    velocity = momentum * velocity + w.grad + weight_decay * w.detach()
    return w.detach() - lr * velocity, velocity
""",
        # no weight decay
        """
def sgd_step(w, velocity, x, y, lr, momentum, weight_decay):
    w = w.clone().requires_grad_()
    F.cross_entropy(x @ w.T, y).backward()
    velocity = momentum * velocity + w.grad
    return w.detach() - lr * velocity, velocity
""",
        # the old velocity is lost
        """
def sgd_step(w, velocity, x, y, lr, momentum, weight_decay):
    w = w.clone().requires_grad_()
    F.cross_entropy(x @ w.T, y).backward()
    gradient = w.grad + weight_decay * w.detach()
    return w.detach() - lr * gradient, gradient
""",
    ],
}
