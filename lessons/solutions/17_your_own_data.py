"""Solutions of lesson 17, your own data."""


# %% exercise-1
def polygon_area(points):
    """points: (n, 2) x and y. Returns a number, not negative."""
    x, y = points.T
    return abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


# %% exercise-2
answer = 0.7  # the IoU is (10 / 11)^2 = 0.826 everywhere: all right at 0.5 to 0.8, seven thresholds, and none above


# %% exercise-3
def stopped(aps, patience):
    """aps: a list of numbers. Returns (the place of the best, how many validations were made)."""
    best = 0
    for place, ap in enumerate(aps):
        if ap > aps[best]:
            best = place
        if patience and place - best >= patience:
            break
    return best, place + 1


# %% exercise-4
# Tiles of one slide look alike: who has seen one of them knows the others. What must be held out is the slide
def split_slides(tiles, share, key):
    """(tiles to train on, tiles held out), two lists in the tiles' order."""
    slide_of_tile = {tile: tile.split("_")[0] for tile in tiles}
    held, count = set(), 0
    for slide in sorted(set(slide_of_tile.values()), key=key):
        if count >= share * len(tiles):
            break
        held.add(slide)
        count += sum(of_tile == slide for of_tile in slide_of_tile.values())
    return [t for t in tiles if slide_of_tile[t] not in held], [t for t in tiles if slide_of_tile[t] in held]
