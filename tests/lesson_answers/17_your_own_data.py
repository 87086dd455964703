"""Answers to the exercises of lesson 17 that must be refused, and others that must be accepted, each in the place of
its exercise's cell."""


# %% exercise-1 wrong: zero
def polygon_area(points):
    return 0.0


# %% exercise-1 wrong: the sign
def polygon_area(points):
    x, y = points.T
    return np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2


# %% exercise-1 wrong: twice the area
def polygon_area(points):
    x, y = points.T
    return abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


# %% exercise-1 wrong: off by one, the ring is open
def polygon_area(points):
    x, y = points.T
    return abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2


# %% exercise-1 wrong: a sum in place of the difference
def polygon_area(points):
    x, y = points.T
    return abs(np.sum(x * np.roll(y, -1) + np.roll(x, -1) * y)) / 2


# %% exercise-1 wrong: the box around it
def polygon_area(points):
    return np.ptp(points, axis=0).prod()


# %% exercise-1 wrong: every triangle counts as positive
def polygon_area(points):
    x, y = points.T
    return np.sum(abs(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


# %% exercise-1 wrong: rows for columns
def polygon_area(points):
    x, y = points.reshape(2, -1)
    return abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


# %% exercise-1 wrong: the pixels of the mask, by the package
def polygon_area(points):
    from tinymrcnn.data.coco import decode_mask

    return decode_mask([points.ravel().tolist()], 20, 20).sum()


# %% exercise-1 right: with a loop
def polygon_area(points):
    total = 0
    for n in range(len(points)):
        (x1, y1), (x2, y2) = points[n - 1], points[n]
        total += x1 * y2 - x2 * y1
    return abs(total) / 2


# %% exercise-1 right: by trapezia
def polygon_area(points):
    x, y = points.T
    return abs(np.sum((np.roll(x, 1) - x) * (np.roll(y, 1) + y))) / 2


# %% exercise-2 wrong: it is perfect
answer = 1.0

# %% exercise-2 wrong: the IoU
answer = (10 / 11) ** 2

# %% exercise-2 wrong: the ratio of the radii
answer = 0.9

# %% exercise-2 wrong: off by one, one threshold too many
answer = 0.8

# %% exercise-2 wrong: off by one, one too few
answer = 0.6

# %% exercise-2 wrong: the thresholds that are missed
answer = 0.3

# %% exercise-2 wrong: how many
answer = 7

# %% exercise-2 right: by Python
answer = sum(threshold <= 100 * (10 / 11) ** 2 for threshold in range(50, 100, 5)) / 10


# %% exercise-3 wrong: never ends
def stopped(aps, patience):
    return int(np.argmax(aps)), len(aps)


# %% exercise-3 wrong: one validation too many
def stopped(aps, patience):
    best = 0
    for place, ap in enumerate(aps):
        best = place if ap > aps[best] else best
        if patience and place - best > patience:
            break
    return best, place + 1


# %% exercise-3 wrong: <= for <, an equal one is better
def stopped(aps, patience):
    best = 0
    for place, ap in enumerate(aps):
        best = place if aps[best] <= ap else best
        if patience and place - best >= patience:
            break
    return best, place + 1


# %% exercise-3 wrong: off by one, the place for the number
def stopped(aps, patience):
    best = 0
    for place, ap in enumerate(aps):
        best = place if ap > aps[best] else best
        if patience and place - best >= patience:
            break
    return best, place


# %% exercise-3 wrong: exchanged
def stopped(aps, patience):
    best = 0
    for place, ap in enumerate(aps):
        best = place if ap > aps[best] else best
        if patience and place - best >= patience:
            break
    return place + 1, best


# %% exercise-3 wrong: worse than the one before, in a row
def stopped(aps, patience):
    worse = 0
    for place in range(1, len(aps)):
        worse = 0 if aps[place] > aps[place - 1] else worse + 1
        if patience and worse >= patience:
            return int(np.argmax(aps[: place + 1])), place + 1
    return int(np.argmax(aps)), len(aps)


# %% exercise-3 wrong: a patience of 0 ends at once
def stopped(aps, patience):
    best = 0
    for place, ap in enumerate(aps):
        best = place if ap > aps[best] else best
        if place - best >= patience:
            break
    return best, place + 1


# %% exercise-3 wrong: the best of all that would have been
def stopped(aps, patience):
    best = 0
    for place, ap in enumerate(aps):
        best = place if ap > aps[best] else best
        if patience and place - best >= patience:
            break
    return int(np.argmax(aps)), place + 1


# %% exercise-3 wrong: by the package
def stopped(aps, patience):
    lines = []
    for place, ap in enumerate(aps):
        lines.append({"bbox/AP": ap, "place": place})
        if is_over(lines, patience):
            break
    return best_of(lines)["place"], len(lines)


# %% exercise-3 right: by slices
def stopped(aps, patience):
    for made in range(1, len(aps) + 1):
        best = int(np.argmax(aps[:made]))
        if patience and made - 1 - best == patience:
            return best, made
    return int(np.argmax(aps)), len(aps)


# %% exercise-3 right: with a counter
def stopped(aps, patience):
    best, place, since = aps[0], 0, 0
    for n in range(1, len(aps)):
        if aps[n] > best:
            best, place, since = aps[n], n, 0
        else:
            since += 1
        if since == patience and patience > 0:
            return place, n + 1
    return place, len(aps)


# %% exercise-4 wrong: the colleague's own
def split_slides(tiles, share, key):
    return split(tiles, share, key)


# %% exercise-4 wrong: nothing held out
def split_slides(tiles, share, key):
    return list(tiles), []


# %% exercise-4 wrong: the slides of her held-out tiles
def split_slides(tiles, share, key):
    held = {tile.split("_")[0] for tile in split(tiles, share, key)[1]}
    return [t for t in tiles if t.split("_")[0] not in held], [t for t in tiles if t.split("_")[0] in held]


# %% exercise-4 wrong: > for >=, one slide too many
def split_slides(tiles, share, key):
    held = []
    for slide in sorted({t.split("_")[0] for t in tiles}, key=key):
        if sum(t.split("_")[0] in held for t in tiles) > share * len(tiles):
            break
        held.append(slide)
    return [t for t in tiles if t.split("_")[0] not in held], [t for t in tiles if t.split("_")[0] in held]


# %% exercise-4 wrong: at most the share
def split_slides(tiles, share, key):
    held = []
    for slide in sorted({t.split("_")[0] for t in tiles}, key=key):
        if sum(t.split("_")[0] in [*held, slide] for t in tiles) > share * len(tiles):
            break
        held.append(slide)
    return [t for t in tiles if t.split("_")[0] not in held], [t for t in tiles if t.split("_")[0] in held]


# %% exercise-4 wrong: a share of the slides
def split_slides(tiles, share, key):
    slides = sorted({t.split("_")[0] for t in tiles}, key=key)
    held = slides[: max(1, round(share * len(slides)))]
    return [t for t in tiles if t.split("_")[0] not in held], [t for t in tiles if t.split("_")[0] in held]


# %% exercise-4 wrong: in the order of the names
def split_slides(tiles, share, key):
    held = []
    for slide in sorted({t.split("_")[0] for t in tiles}):
        if sum(t.split("_")[0] in held for t in tiles) >= share * len(tiles):
            break
        held.append(slide)
    return [t for t in tiles if t.split("_")[0] not in held], [t for t in tiles if t.split("_")[0] in held]


# %% exercise-4 wrong: exchanged
def split_slides(tiles, share, key):
    held = []
    for slide in sorted({t.split("_")[0] for t in tiles}, key=key):
        if sum(t.split("_")[0] in held for t in tiles) >= share * len(tiles):
            break
        held.append(slide)
    return [t for t in tiles if t.split("_")[0] in held], [t for t in tiles if t.split("_")[0] not in held]


# %% exercise-4 wrong: in another order
def split_slides(tiles, share, key):
    held = []
    for slide in sorted({t.split("_")[0] for t in tiles}, key=key):
        if sum(t.split("_")[0] in held for t in tiles) >= share * len(tiles):
            break
        held.append(slide)
    parts = [t for t in tiles if t.split("_")[0] not in held], [t for t in tiles if t.split("_")[0] in held]
    return sorted(parts[0], reverse=True), sorted(parts[1], reverse=True)


# %% exercise-4 wrong: the package's own, tile by tile
def split_slides(tiles, share, key):
    class Tiles:
        categories = []

        def __len__(self):
            return len(tiles)

        def image_of(self, n):
            return {"name": tiles[n]}

    to_train, held = hold_out(Tiles(), share)
    return [tiles[n] for n in to_train.indices], [tiles[n] for n in held.indices]


# %% exercise-4 right: with a dictionary
def split_slides(tiles, share, key):
    by_slide = {}
    for tile in tiles:
        by_slide.setdefault(tile[: tile.index("_")], []).append(tile)
    held = []
    for slide in sorted(by_slide, key=key):
        if len(held) / len(tiles) >= share:
            break
        held += by_slide[slide]
    return [t for t in tiles if t not in held], [t for t in tiles if t in held]
