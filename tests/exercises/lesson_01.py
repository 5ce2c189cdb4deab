"""Plausible mistakes in the exercises of lesson 01."""

STATISTICS = """
def statistics(images):
    {}
"""

NORMALISE = """
def normalise_by_hand(images, mean, std):
    x = (images.float() / 255 - torch.tensor(mean)) / torch.tensor(std)
    return {}
"""

CUT_OUT = """
def cut_out(images, tops, lefts, size):
    result = {}
    for image, top, left in zip(result, tops, lefts):
        image[{}] = 0
    return result
"""

STEPS = """
def mended_steps():
    return [{}]
"""

START = """
def when_a_worker_starts(dataset, seed):
    {}
"""

WRONG = {
    "check_count_versions": [
        "answer = 9 * 9 * 25 * 25",
        "answer = 8 * 8 * 2 * 24 * 24",
        "answer = 9 * 2 * 25",
        "answer = 9 * 9 * 2 * 32 * 32",
        "answer = 9 * 9 + 2 + 25 * 25",
        "answer = 9 * 2 * 25 * 25",
        "answer = 9 * 9 * 2 * 25",
    ],
    "check_statistics": [
        STATISTICS.format("return images.mean(axis=(0, 1, 2)), images.std(axis=(0, 1, 2))"),
        STATISTICS.format("v = images / 255; return v.mean((0, 1, 2)), v.std((1, 2)).mean(0)"),
        STATISTICS.format("v = images / 255; return v.mean((0, 1, 2)), v.var((0, 1, 2))"),
        STATISTICS.format("v = images / 255; return v.mean(), v.std()"),
        STATISTICS.format("return (images / 255).mean((0, 1, 2))"),
        STATISTICS.format("return (images / 255).mean((0, 1, 2)), images.std((0, 1, 2))"),
        STATISTICS.format("v = images / 255; return v.mean((0, 1, 2)), v.std((0, 1, 2), ddof=1)"),
        STATISTICS.format("v = images / 255; return v.mean((0, 1, 2)).round(3), v.std((0, 1, 2))"),
    ],
    "check_normalise": [
        NORMALISE.format("x"),
        NORMALISE.format("x.reshape(len(x), 3, 32, 32)"),
        NORMALISE.format("x.permute(0, 3, 1, 2)").replace(" / 255", ""),
        NORMALISE.format("x.permute(0, 3, 2, 1)"),
        NORMALISE.format("x.permute(0, 3, 1, 2).double()"),
        NORMALISE.format("x.permute(0, 3, 1, 2)").replace("/ 255", "/ images.max()"),
        NORMALISE.format("[image.permute(2, 0, 1) for image in x]"),
    ],
    "check_cut_out": [
        CUT_OUT.format("images", "top : top + size, left : left + size"),
        CUT_OUT.format("images.copy()", "left : left + size, top : top + size"),
        CUT_OUT.format("images.copy()", "top:size, left:size"),
        CUT_OUT.format("images.copy()", "tops[0] : tops[0] + size, lefts[0] : lefts[0] + size"),
        CUT_OUT.format("images.copy()", "top : top + 8, left : left + 8"),
        CUT_OUT.format("images.copy()", "top : top + size, left : left + size, 0"),
        CUT_OUT.format("images.astype(np.uint8)", "top : top + size, left : left + size"),
        CUT_OUT.format("images.copy()", "24 - top : 32 - top, 24 - left : 32 - left"),
        CUT_OUT.format("images.copy()", "max(top - 4, 0) : top + 4, max(left - 4, 0) : left + 4"),
    ],
    "check_mended_steps": [
        STEPS.format("A.PadIfNeeded(32, 32), A.RandomCrop(32, 32)"),
        STEPS.format("A.PadIfNeeded(36, 36), A.RandomCrop(32, 32)"),
        STEPS.format("A.PadIfNeeded(40, 40)"),
        STEPS.format("A.PadIfNeeded(40, 40), A.CenterCrop(32, 32)"),
        STEPS.format("A.PadIfNeeded(40, 32), A.RandomCrop(32, 32)"),
        STEPS.format("A.PadIfNeeded(48, 48), A.RandomCrop(32, 32)"),
        STEPS.format("A.PadIfNeeded(40, 40), A.RandomCrop(32, 32), A.HorizontalFlip()"),
        STEPS.format("A.PadIfNeeded(40, 40, p=0.5), A.RandomCrop(32, 32)"),
        STEPS.format("A.PadIfNeeded(40, 40), A.RandomCrop(32, 32), A.Normalize()"),
        STEPS.format("A.PadIfNeeded(40, 40), A.RandomCrop(32, 32), A.Transpose()"),
        STEPS.format("A.PadIfNeeded(36, 36, position='top_left'), A.RandomCrop(32, 32)"),
    ],
    "check_worker_start": [
        START.format("np.random.seed(seed)"),
        START.format("dataset.rng = np.random.default_rng(0)"),
        START.format("dataset.rng = np.random.default_rng()"),
        START.format("dataset.rng = np.random.default_rng(seed % 10)"),
        START.format("dataset.rng.bit_generator.advance(seed)"),
    ],
}
