"""The checks behind the exercises, a file a lesson; `judging` has what they share."""

from helpers.exercises.lesson_01 import (
    check_count_versions,
    check_cut_out,
    check_mended_steps,
    check_normalise,
    check_statistics,
    check_worker_start,
)
from helpers.exercises.lesson_02 import (
    check_conv_parameters,
    check_mended_counter,
    check_receptive_field,
    check_residual_stage,
)
from helpers.exercises.lesson_03 import (
    check_centred,
    check_divided_rules,
    check_my_steep,
    check_smallest_every,
    check_sweep_lr,
)
from helpers.exercises.lesson_04 import (
    check_annealing,
    check_cut_budget,
    check_lambda_factor,
    check_peak_is_met,
    check_triangular,
    check_triangular_step,
)
from helpers.exercises.lesson_05 import (
    check_average_loss,
    check_average_weights,
    check_decide,
    check_find_frozen,
    check_initial_loss,
    check_run_length,
    check_sgd_step,
    check_smoothed_loss,
)
from helpers.exercises.lesson_06 import (
    check_class_accuracy,
    check_confusion,
    check_ece,
    check_grad_cam,
    check_images_needed,
)
from helpers.exercises.lesson_07 import (
    check_accumulate,
    check_amdahl,
    check_global_lr,
    check_layer_flops,
    check_ring_bytes,
    check_shard,
    check_timing_faults,
    check_training_time,
)
