"""Slow, obvious versions of fast paths, for the tests to compare with."""

import itertools

import numpy as np


def confusion_counts(scores, bad, weights):
    """For every distinct threshold, falling: (threshold, weight of defective passed, of defect-free passed)."""
    for threshold in sorted(set(scores), reverse=True):
        passed = [s >= threshold for s in scores]
        yield (
            threshold,
            sum(w for p, b, w in zip(passed, bad, weights, strict=True) if p and b),
            sum(w for p, b, w in zip(passed, bad, weights, strict=True) if p and not b),
        )


def auroc(scores, bad, weights):
    """Share of (defective, defect-free) pairs in the right order, a tie counting half."""
    won = total = 0.0
    for s, b, w in zip(scores, bad, weights, strict=True):
        for t, c, v in zip(scores, bad, weights, strict=True):
            if b and not c:
                total += w * v
                won += w * v * (1.0 if s > t else 0.5 if s == t else 0.0)
    return won / total


def average_precision(scores, bad, weights):
    """Sum of precision x gain in recall over falling thresholds."""
    total = sum(w for b, w in zip(bad, weights, strict=True) if b)
    result = before = 0.0
    for _, true, false in confusion_counts(scores, bad, weights):
        if true > before:
            result += true / (true + false) * (true - before) / total
        before = true
    return result


def f1_max(scores, bad, weights):
    """The largest F1 over all thresholds."""
    total = sum(w for b, w in zip(bad, weights, strict=True) if b)
    return max(2 * t / (t + f + total) for _, t, f in confusion_counts(scores, bad, weights))


def aupro(scores, regions, weights, limit):
    """Trapezoids under mean region overlap against pooled false positive rate, one point a distinct score.

    `scores`, `regions` (ids, 0 = defect-free) and `weights` are lists of flat lists, one per image.
    """
    flat = [
        (s, (i, r) if r else None, w)
        for i, (ss, rs, ws) in enumerate(zip(scores, regions, weights, strict=True))
        for s, r, w in zip(ss, rs, ws, strict=True)
    ]
    names = sorted({r for _, r, _ in flat if r})
    good = sum(w for _, r, w in flat if not r)
    points = [(0.0, 0.0)]
    for threshold in sorted({s for s, _, _ in flat}, reverse=True):
        rate = sum(w for s, r, w in flat if not r and s >= threshold) / good
        overlaps = [
            sum(w for s, r, w in flat if r == name and s >= threshold) / sum(w for _, r, w in flat if r == name)
            for name in names
        ]
        points.append((rate, sum(overlaps) / len(overlaps)))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x1 <= x0:
            continue
        end = min(x1, limit)
        if end > x0:
            y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
            area += (end - x0) * (y0 + y_end) / 2
    return area / limit


def regions_of(mask):
    """8-connected components by flood fill: (H, W) ids from 1."""
    ids = np.zeros(mask.shape, int)
    for start in zip(*np.nonzero(mask), strict=True):
        if ids[start]:
            continue
        name, todo = ids.max() + 1, [start]
        while todo:
            r, c = todo.pop()
            if 0 <= r < mask.shape[0] and 0 <= c < mask.shape[1] and mask[r, c] and not ids[r, c]:
                ids[r, c] = name
                todo += [(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return ids


def aupro_rad(maps, masks):
    """The published code's loop: 200 thresholds, rates below 0.3, divided by the largest of them."""
    low, high = maps.min(), maps.max()
    rates, overlaps = [], []
    for threshold in np.arange(low, high, (high - low) / 200):
        passed = maps > threshold
        shares = []
        for one, mask in zip(passed, masks, strict=True):
            ids = regions_of(mask)
            shares += [one[ids == name].mean() for name in range(1, ids.max() + 1)]
        rates.append((passed & ~masks).sum() / (~masks).sum())
        overlaps.append(np.mean(shares))
    kept = [(x, y) for x, y in zip(rates, overlaps, strict=True) if x < 0.3]
    largest = max(x for x, _ in kept)
    kept = [(x / largest, y) for x, y in kept]
    return sum((a[0] - b[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(kept))


def rad_patch_scores(query, keys, pos_radius):
    """RAD's patch scores, one patch at a time: query (l, h, w, c), keys (k, l, h, w, c) -> (l, h, w)."""
    layers, height, width, _ = query.shape
    scores = np.zeros((layers, height, width))
    for layer in range(layers):
        for row in range(height):
            for column in range(width):
                if pos_radius is None:
                    near = keys[:, layer]
                else:
                    rows = slice(max(0, row - pos_radius), row + pos_radius + 1)
                    columns = slice(max(0, column - pos_radius), column + pos_radius + 1)
                    near = keys[:, layer, rows, columns]
                similarity = near.reshape(-1, near.shape[-1]) @ query[layer, row, column]
                scores[layer, row, column] = 1 - similarity.max()
    return scores


def rad_score_map(scores, size=256):
    """RAD's map of one image: bilinear enlargement (align_corners false) and a zero-padded 5 x 5 Gaussian."""
    height, width = scores.shape

    def weights(source):
        position = np.clip((np.arange(size) + 0.5) * source / size - 0.5, 0, None)
        matrix = np.zeros((size, source))
        for target, x in enumerate(position):
            low = int(x)
            high = min(low + 1, source - 1)
            matrix[target, low] += 1 - (x - low)
            matrix[target, high] += x - low
        return matrix

    enlarged = weights(height) @ scores @ weights(width).T
    tap = np.exp(-0.5 * np.arange(-2, 3) ** 2)
    tap /= tap.sum()
    padded = np.pad(enlarged, 2)
    result = np.zeros_like(enlarged)
    for dy in range(5):
        for dx in range(5):
            result += tap[dy] * tap[dx] * padded[dy : dy + size, dx : dx + size]
    return result


def surface_scores(query, remembered, settings, allowed):
    """One pair of patches at a time: raw score and nearest patch."""
    rows = [row for row in range(len(remembered.points_mm)) if allowed[row]]
    least = min(settings.min_neighbours, len(rows))
    results = []
    for q in range(len(query.points_mm)):
        apart = {row: np.linalg.norm(query.points_mm[q] - remembered.points_mm[row]) for row in rows}
        radius = max(settings.radius_mm, sorted(apart.values())[least - 1] * (1 + 1e-6))
        near = [row for row in rows if apart[row] <= radius]
        alike = [
            row
            for row in near
            if query.normals[q] @ remembered.normals[row] >= np.cos(settings.max_normal_angle)
            and query.directions[q] @ remembered.directions[row] >= np.cos(settings.max_view_angle)
        ]
        answers = alike if len(alike) >= least else near
        similarity = np.array([(query.features[q] * remembered.features[row]).sum(-1).tolist() for row in answers])
        best = answers[int(similarity.mean(axis=1).argmax())]
        results.append((np.mean(1 - similarity.max(axis=0)), best))
    return tuple(np.array(column) for column in zip(*results, strict=True))


def normals_of(points, intrinsics, window):
    """Normals of an organised cloud: planes 1/Z = a x + b y + c through the neighbours reached without a jump."""
    height, width, _ = points.shape
    focal = (intrinsics[0, 0] + intrinsics[1, 1]) / 2
    result = np.full(points.shape, np.nan)
    for row, column in np.ndindex(height, width):
        z = points[row, column, 2]
        used = []
        for dy, dx in itertools.product(range(-window, window + 1), repeat=2):
            y, x = row + dy, column + dx
            if 0 <= y < height and 0 <= x < width:
                limit = np.tan(np.deg2rad(75)) * z / focal * max(np.hypot(dx, dy), 1)
                path = [(row + np.sign(dy) * i, column) for i in range(abs(dy) + 1)]
                path += [(y, column + np.sign(dx) * i) for i in range(1, abs(dx) + 1)]
                depths = [points[place][2] for place in path]
                steps = zip(path, path[1:], depths, depths[1:], strict=False)
                jumps = [abs(b - a) > np.tan(np.deg2rad(75)) / focal * (a if q >= p else b) for p, q, a, b in steps]
                if abs(points[y, x, 2] - z) <= limit and not any(jumps):
                    used.append((x + 0.5, y + 0.5, 1 / points[y, x, 2]))
        if len(used) < (2 * window + 1) ** 2 // 4:
            continue
        x, y, inverse = np.array(used, float).T
        if np.linalg.det(np.cov(x, y, bias=True)) <= 0.1:
            continue
        design = np.stack([x, y, np.ones_like(x)], axis=1)
        plane = np.linalg.lstsq(design, inverse, rcond=None)[0]
        pixels = np.array([[column, row, 1], [column + 1, row, 1], [column, row + 1, 1]], float)
        corners = (np.linalg.inv(intrinsics) @ pixels.T).T / (pixels @ plane)[:, None]
        normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
        normal /= np.linalg.norm(normal)
        result[row, column] = normal if normal @ points[row, column] < 0 else -normal
    return result


def mrad_pooled(patches):
    """(h, w, c) -> the mean of 1 x 1, 3 x 3 and 5 x 5 window means, zeros beyond the grid counted."""
    h, w, c = patches.shape
    result = np.zeros((h, w, c))
    for r in range(h):
        for q in range(w):
            for reach in (0, 1, 2):
                total = np.zeros(c)
                for i in range(r - reach, r + reach + 1):
                    for j in range(q - reach, q + reach + 1):
                        if 0 <= i < h and 0 <= j < w:
                            total += patches[i, j]
                result[r, q] += total / (2 * reach + 1) ** 2 / 3
    return result


def mrad_regions(patches, mask):
    """[(unit key, label)]: the mean pooled patch where the bilinearly resized mask is 0, and where it is 1."""
    h, w, _ = patches.shape
    height, width = mask.shape
    tokens = mrad_pooled(patches)
    members = {0: [], 1: []}
    for r in range(h):
        for q in range(w):
            y, x = (r + 0.5) * height / h - 0.5, (q + 0.5) * width / w - 0.5
            share = 0.0
            for i in (int(np.floor(y)), int(np.floor(y)) + 1):
                for j in (int(np.floor(x)), int(np.floor(x)) + 1):
                    inside = mask[min(max(i, 0), height - 1), min(max(j, 0), width - 1)]
                    share += float(inside) * (1 - abs(y - i)) * (1 - abs(x - j))
            if abs(share - round(share)) < 1e-9:
                members[round(share)].append(tokens[r, q])
    means = {label: np.mean(found, axis=0) for label, found in members.items() if found}
    return [(mean / np.linalg.norm(mean), label) for label, mean in means.items()]


def mrad_probability(query, keys):
    """Softmax over the products with [(key, label)], without a temperature: the anomalous share."""
    weights = [np.exp(np.dot(query, key)) for key, _ in keys]
    return sum(w for w, (_, label) in zip(weights, keys, strict=True) if label == 1) / sum(weights)


def mrad_train_free(remembered, masks, queries):
    """MRAD-TF: `remembered` and `queries` are lists of (image feature, (h, w, c) patches); [(map, probability)]."""
    image_keys = [(image, int(mask.any())) for (image, _), mask in zip(remembered, masks, strict=True)]
    region_keys = [
        key for (_, patches), mask in zip(remembered, masks, strict=True) for key in mrad_regions(patches, mask)
    ]
    results = []
    for image, patches in queries:
        tokens = mrad_pooled(patches)
        rows = [[mrad_probability(t / np.linalg.norm(t), region_keys) for t in row] for row in tokens]
        results.append((np.array(rows), mrad_probability(image, image_keys)))
    return results
