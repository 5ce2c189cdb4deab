"""Plausible wrong answers of lesson 04; each is rejected, each with its own message."""

WRONG = {
    "check_triangular_step": ["answer = 0.25", "answer = 0.4", "answer = 0.1 + 0.4 * 21 / 8"],
    "check_triangular": [
        # starts at the peak
        """
def my_triangular(t, base, peak, half_cycle):
    return base + (peak - base) * abs(t % (2 * half_cycle) / half_cycle - 1)
""",
        # the half cycle taken for the whole
        """
def my_triangular(t, base, peak, half_cycle):
    return base + (peak - base) * (1 - abs(2 * (t % half_cycle) / half_cycle - 1))
""",
        # a saw tooth: falls back at once
        """
def my_triangular(t, base, peak, half_cycle):
    return base + (peak - base) * (t % (half_cycle + 1)) / half_cycle
""",
        # one cycle only
        """
def my_triangular(t, base, peak, half_cycle):
    return base + (peak - base) * max(0, 1 - abs(t / half_cycle - 1))
""",
        # whole half cycles only
        """
def my_triangular(t, base, peak, half_cycle):
    half_cycle = int(half_cycle)
    return base + (peak - base) * (1 - abs(t % (2 * half_cycle) / half_cycle - 1))
""",
    ],
    "check_peak_is_met": ["answer = 0.3", "answer = 842", "answer = 0.5", "answer = 842.5 / 2808"],
    "check_lambda_factor": [
        """
from helpers.schedules import source_one_cycle

factor = source_one_cycle
""",
        """
from helpers.schedules import source_one_cycle

def factor(epoch):
    return source_one_cycle(epoch) / 0.472
""",
        """
from helpers.schedules import triangular

def factor(epoch):
    return triangular(epoch, 0.0944, 0.472, 5) / 0.0944
""",
    ],
    "check_cut_budget": ["answer = 0", "answer = 0.2", "answer = 0.4 * 7 / 19"],
    "check_annealing": [
        # rises
        """
def anneal(t, first, last, peak, end):
    return peak + (end - peak) * (1 + np.cos(np.pi * (t - first) / (last - first))) / 2
""",
        # one step too slow
        """
def anneal(t, first, last, peak, end):
    share = (t - first) / (last - first + 1)
    return end + (peak - end) * (1 + np.cos(np.pi * share)) / 2
""",
        # a straight line
        """
def anneal(t, first, last, peak, end):
    return peak + (end - peak) * (t - first) / (last - first)
""",
        # a quarter of a wave
        """
def anneal(t, first, last, peak, end):
    return end + (peak - end) * np.cos(np.pi / 2 * (t - first) / (last - first))
""",
    ],
}
