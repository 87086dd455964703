"""Solutions of lesson 16, On a GPU: every part replaces the cell of its exercise."""


# %% exercise-1
def sectors_touched(addresses):
    """addresses: (32,) integers, in bytes. Returns a number of sectors."""
    return len(np.unique(addresses // 32))


# %% exercise-2
def elements_of(block, thread, blocks, threads, size):
    return np.arange(block * threads + thread, size, blocks * threads)


# %% exercise-3
def unravel_channels_first(element, channels, height, width):
    """Returns (r, c, ph, pw)."""
    line, pw = divmod(element, width)
    plane, ph = divmod(line, height)
    r, c = divmod(plane, channels)
    return r, c, ph, pw


# %% exercise-4
def at_least_seconds(operations, moved, peak, bandwidth):
    return max(operations / peak, moved / bandwidth)
