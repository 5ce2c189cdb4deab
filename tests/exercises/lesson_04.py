"""Plausible wrong answers of lesson 04; each is rejected, each with its own message."""

TRIANGULAR = """
def my_triangular(t, base, peak, half_cycle):
    return base + (peak - base) * ({height})
"""

FACTOR = """
from helpers.schedules import source_one_cycle, triangular

factor = lambda epoch: {}
"""

ANNEAL = """
def anneal(t, first, last, peak, end):
    share = (t - first) / (last - first{})
    return {}
"""

WRONG = {
    "check_triangular_step": [
        "answer = 0.35",
        "answer = 0.15",
        "answer = 0.4",
        "answer = 0.5",
        "answer = 0,45",
        "answer = '0.45'",
        "answer = 0.1 + 0.4 * 23 / 8",
    ],
    "check_triangular": [
        # starts at the peak
        TRIANGULAR.format(height="abs(t % (2 * half_cycle) / half_cycle - 1)"),
        # the half cycle taken for the whole
        TRIANGULAR.format(height="1 - abs(2 * (t % half_cycle) / half_cycle - 1)"),
        # a saw tooth: falls back at once
        TRIANGULAR.format(height="t % (half_cycle + 1) / half_cycle"),
        # one cycle only
        TRIANGULAR.format(height="max(0, 1 - abs(t / half_cycle - 1))"),
        # whole half cycles only
        TRIANGULAR.format(height="1 - abs(t % (2 * int(half_cycle)) / int(half_cycle) - 1)"),
        TRIANGULAR.format(
            height="1 - abs((t if t <= 2 * half_cycle else t - 2 * half_cycle) / half_cycle - 1)"
        ),
        TRIANGULAR.format(height="1 - abs(t % int(2 * half_cycle) / half_cycle - 1)"),
        "my_triangular = lambda t, base, peak, half: 0.1 + 0.4 * (1 - abs(t / half % 2 - 1))",
        "my_triangular = lambda t, base, peak, half: round("
        "base + (peak - base) * (1 - abs(t % (2 * half) / half - 1)), 4)",
    ],
    "check_peak_is_met": [
        "answer = 0.3",
        "answer = 842",
        "answer = 0.5",
        "answer = 842.5 / 2808",
        "answer = 0.299857549",
    ],
    "check_lambda_factor": [
        FACTOR.format("source_one_cycle(epoch)"),
        FACTOR.format("source_one_cycle(epoch) / 0.472"),
        FACTOR.format("source_one_cycle(max(epoch - 1, 0)) / 0.0944"),
        FACTOR.format("round(source_one_cycle(epoch) / 0.0944, 1)"),
        FACTOR.format("triangular(epoch, 0.0944, 0.472, 5) / 0.0944"),
    ],
    "check_cut_budget": ["answer = 0", "answer = 0.2", "answer = 0.4 * 7 / 19", "answer = 0.25"],
    "check_annealing": [
        # rises
        ANNEAL.format("", "peak + (end - peak) * (1 + np.cos(np.pi * share)) / 2"),
        ANNEAL.format("", "end + peak * (1 + np.cos(np.pi * share)) / 2"),
        # one step too slow
        ANNEAL.format(" + 1", "end + (peak - end) * (1 + np.cos(np.pi * share)) / 2"),
        # a whole wave
        ANNEAL.format("", "end + (peak - end) * (1 + np.cos(2 * np.pi * share)) / 2"),
        # degrees
        ANNEAL.format("", "end + (peak - end) * (1 + np.cos(180 * share)) / 2"),
        # the lesson's peak
        ANNEAL.format("", "end + (0.4 - end) * (1 + np.cos(np.pi * share)) / 2"),
        # a straight line
        ANNEAL.format("", "peak + (end - peak) * share"),
        # the end left out
        ANNEAL.format("", "peak * (1 + np.cos(np.pi * share)) / 2"),
        # a quarter of a wave
        ANNEAL.format("", "end + (peak - end) * np.cos(np.pi / 2 * share)"),
    ],
}
