"""Every figure of the course, a file a lesson; `style` has what they share.

Each function returns a `Picture`: a figure with its alt text. A figure never measures or trains:
numbers come in, a picture goes out.
"""

from helpers.plots.basic import bars, curves, image_grid
from helpers.plots.lesson_01 import accuracy_intervals, two_pipelines
from helpers.plots.lesson_02 import effective_fields, receptive_fields
from helpers.plots.lesson_03 import accuracy_against_lr, range_test, same_training, smoothing_lag
from helpers.plots.lesson_04 import rate_and_accuracy, schedules, source_policy, triangular_policy
from helpers.plots.lesson_05 import accuracy_curves, equal_budget, layer_ratios, seed_dots
from helpers.plots.lesson_06 import (
    class_evidence,
    confusion_matrix,
    layer_maps,
    misclassified_grid,
    reliability_diagram,
)
from helpers.plots.lesson_07 import amdahl, roofline, step_times
