"""Answers to the exercises of lesson 01 that must be refused, and others that must be accepted, each in the place of
its exercise's cell. The stubs and the solutions are tried without standing here."""

# %% exercise-1 right: whole numbers, as a list
answer = [10, 3]

# %% exercise-1 right: an array
answer = np.array([2 * 3 + 4, 3.0])

# %% exercise-1 wrong: exchanged
answer = (3.0, 10.0)

# %% exercise-1 wrong: x used once, by the product
answer = (7.0, 3.0)

# %% exercise-1 wrong: x used once, by the sum
answer = (3.0, 3.0)

# %% exercise-1 wrong: the sign
answer = (-10.0, -3.0)

# %% exercise-1 wrong: dL/dy is y
answer = (10.0, 4.0)

# %% exercise-1 wrong: one number
answer = 10.0

# %% exercise-1 wrong: the value of L too
answer = (21.0, 10.0, 3.0)

# %% exercise-1 wrong: words
answer = ("2x + y", "x")


# %% exercise-2 right: with the quotient
def divide(a, b):
    q, y = a.data / b.data, b.data
    return Value(q, (a, b), lambda g: (g / y, -g * q / y))


# %% exercise-2 right: a product with the reciprocal
def reciprocal(b):
    r = 1 / b.data
    return Value(r, (b,), lambda g: (-g * r * r,))


def divide(a, b):
    return a * reciprocal(b)


# %% exercise-2 wrong: the sign
def divide(a, b):
    x, y = a.data, b.data
    return Value(x / y, (a, b), lambda g: (g / y, g * x / (y * y)))


# %% exercise-2 wrong: no closure
def divide(a, b):
    return Value(a.data / b.data)


# %% exercise-2 wrong: no parents
def divide(a, b):
    x, y = a.data, b.data
    return Value(x / y, (), lambda g: (g / y, -g * x / (y * y)))


# %% exercise-2 wrong: b not squared
def divide(a, b):
    x, y = a.data, b.data
    return Value(x / y, (a, b), lambda g: (g / y, -g * x / y))


# %% exercise-2 wrong: without the upstream gradient
def divide(a, b):
    x, y = a.data, b.data
    return Value(x / y, (a, b), lambda g: (1 / y, -x / (y * y)))


# %% exercise-2 wrong: the parents exchanged
def divide(a, b):
    x, y = a.data, b.data
    return Value(x / y, (b, a), lambda g: (g / y, -g * x / (y * y)))


# %% exercise-2 wrong: b a constant
def divide(a, b):
    y = b.data
    return Value(a.data / y, (a,), lambda g: (g / y,))


# %% exercise-2 wrong: the absolute value of b
def divide(a, b):
    x, y = a.data, np.abs(b.data)
    return Value(a.data / b.data, (a, b), lambda g: (g / y, -g * x / (y * y)))


# %% exercise-2 wrong: an array
def divide(a, b):
    return a.data / b.data


# %% exercise-2 wrong: the package's
def divide(a, b):
    x, y = a.data, b.data
    return Value((Tensor(x) / Tensor(y)).data, (a, b), lambda g: (g / y, -g * x / (y * y)))


# %% exercise-3 right: only the three shapes
def unbroadcast(grad, shape):
    if shape == grad.shape:
        return grad
    if len(shape) == 1:
        return grad.sum(0)
    return grad.sum(1).reshape(-1, 1)


# %% exercise-3 right: by loops
def unbroadcast(grad, shape):
    out = np.zeros(shape)
    for (i, j), g in np.ndenumerate(grad):
        if len(shape) == 1:
            out[j] += g
        else:
            out[i, 0 if shape[1] == 1 else j] += g
    return out


# %% exercise-3 right: any shapes
def unbroadcast(grad, shape):
    padded = (1,) * (grad.ndim - len(shape)) + tuple(shape)
    axes = tuple(axis for axis, (have, want) in enumerate(zip(grad.shape, padded, strict=True)) if have != want)
    return grad.sum(axes, keepdims=True).reshape(shape)


# %% exercise-3 wrong: zeros
def unbroadcast(grad, shape):
    return np.zeros(shape)


# %% exercise-3 wrong: the mean
def unbroadcast(grad, shape):
    if len(shape) == 1:
        return grad.mean(0)
    return grad.mean(1, keepdims=True) if shape[1] == 1 else grad


# %% exercise-3 wrong: the axes exchanged
def unbroadcast(grad, shape):
    if len(shape) == 1:
        return grad.sum(1)
    return grad.sum(0, keepdims=True) if shape[1] == 1 else grad


# %% exercise-3 wrong: one copy
def unbroadcast(grad, shape):
    if len(shape) == 1:
        return grad[0]
    return grad[:, :1] if shape[1] == 1 else grad


# %% exercise-3 wrong: nothing summed
def unbroadcast(grad, shape):
    return grad


# %% exercise-3 wrong: the column flat
def unbroadcast(grad, shape):
    if len(shape) == 1:
        return grad.sum(0)
    return grad.sum(1) if shape[1] == 1 else grad


# %% exercise-3 wrong: off by one, the last copy left out
def unbroadcast(grad, shape):
    if len(shape) == 1:
        return grad[:-1].sum(0)
    return grad[:, :-1].sum(1, keepdims=True) if shape[1] == 1 else grad


# %% exercise-3 wrong: the sign
def unbroadcast(grad, shape):
    if len(shape) == 1:
        return -grad.sum(0)
    return -grad.sum(1, keepdims=True) if shape[1] == 1 else -grad


# %% exercise-3 wrong: the package's
def unbroadcast(grad, shape):
    return operators.unbroadcast(grad, shape)


# %% exercise-4 right: with the hyperbolic cosine
def tanh(a):
    x = a.data
    return record(np.tanh(x), (a,), lambda grad, needs: (grad / np.cosh(x) ** 2,), "tanh")


# %% exercise-4 right: a list comes back
def tanh(a: Tensor) -> Tensor:
    y = np.tanh(a.data)
    return record(y, (a,), lambda grad, needs: [grad - grad * y * y], "tanh")


# %% exercise-4 wrong: no closure, no record
def tanh(a: Tensor) -> Tensor:
    return Tensor(np.tanh(a.data))


# %% exercise-4 wrong: an array
def tanh(a: Tensor) -> Tensor:
    return np.tanh(a.data)


# %% exercise-4 wrong: without the upstream gradient
def tanh(a: Tensor) -> Tensor:
    y = np.tanh(a.data)
    return record(y, (a,), lambda grad, needs: (1 - y * y,), "tanh")


# %% exercise-4 wrong: the array for the tuple
def tanh(a: Tensor) -> Tensor:
    y = np.tanh(a.data)
    return record(y, (a,), lambda grad, needs: grad * (1 - y * y), "tanh")


# %% exercise-4 wrong: the sign
def tanh(a: Tensor) -> Tensor:
    y = np.tanh(a.data)
    return record(y, (a,), lambda grad, needs: (-grad * (1 - y * y),), "tanh")


# %% exercise-4 wrong: the input squared
def tanh(a: Tensor) -> Tensor:
    x = a.data
    return record(np.tanh(x), (a,), lambda grad, needs: (grad * (1 - x * x),), "tanh")


# %% exercise-4 wrong: the sigmoid's derivative
def tanh(a: Tensor) -> Tensor:
    y = np.tanh(a.data)
    return record(y, (a,), lambda grad, needs: (grad * y * (1 - y),), "tanh")


# %% exercise-4 wrong: another function
def tanh(a: Tensor) -> Tensor:
    y = 1 / (1 + np.exp(-2 * a.data))
    return record(y, (a,), lambda grad, needs: (2 * grad * y * (1 - y),), "tanh")


# %% exercise-5 right: row by row, with the matrix of all derivatives
def softmax(a):
    p = np.exp(a.data - a.data.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return Value(p, (a,), lambda g: (np.stack([(np.diag(q) - np.outer(q, q)) @ r for q, r in zip(p, g, strict=True)]),))


# %% exercise-5 right: from the logarithms
def softmax(a):
    log_p = a.data - np.logaddexp.reduce(a.data, axis=1)[:, None]

    def closure(g):
        weighted = g * np.exp(log_p)
        return (weighted - np.exp(log_p) * weighted.sum(1)[:, None],)

    return Value(np.exp(log_p), (a,), closure)


# %% exercise-5 wrong: the planted bug is still there
def softmax(a):
    e = np.exp(a.data - a.data.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    return Value(p, (a,), lambda g: (g * p * (1 - p),))


# %% exercise-5 wrong: the sum over the rows
def softmax(a):
    e = np.exp(a.data - a.data.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    return Value(p, (a,), lambda g: (p * (g - (g * p).sum(axis=0, keepdims=True)),))


# %% exercise-5 wrong: the sum over everything
def softmax(a):
    e = np.exp(a.data - a.data.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    return Value(p, (a,), lambda g: (p * (g - (g * p).sum()),))


# %% exercise-5 wrong: the sign
def softmax(a):
    e = np.exp(a.data - a.data.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    return Value(p, (a,), lambda g: (-p * (g - (g * p).sum(axis=1, keepdims=True)),))


# %% exercise-5 wrong: without the gradient from above
def softmax(a):
    e = np.exp(a.data - a.data.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    return Value(p, (a,), lambda g: (p * (1 - p.sum(axis=1, keepdims=True)),))


# %% exercise-5 wrong: only the others
def softmax(a):
    e = np.exp(a.data - a.data.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    return Value(p, (a,), lambda g: (-p * (g * p).sum(axis=1, keepdims=True),))


# %% exercise-5 wrong: down the columns
def softmax(a):
    e = np.exp(a.data - a.data.max(axis=0, keepdims=True))
    p = e / e.sum(axis=0, keepdims=True)
    return Value(p, (a,), lambda g: (p * (g - (g * p).sum(axis=0, keepdims=True)),))


# %% exercise-5 wrong: it overflows
def softmax(a):
    with np.errstate(all="ignore"):
        e = np.exp(a.data)
        p = e / e.sum(axis=1, keepdims=True)
    return Value(p, (a,), lambda g: (p * (g - (g * p).sum(axis=1, keepdims=True)),))


# %% exercise-5 wrong: no closure
def softmax(a):
    e = np.exp(a.data - a.data.max(axis=1, keepdims=True))
    return Value(e / e.sum(axis=1, keepdims=True))


# %% exercise-5 wrong: the array
def softmax(a):
    e = np.exp(a.data - a.data.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


# %% exercise-5 wrong: the package's own function
def softmax(a):
    p = tinymrcnn.ops.softmax(Tensor(a.data), 1).data
    return Value(p, (a,), lambda g: (p * (g - (g * p).sum(axis=1, keepdims=True)),))
