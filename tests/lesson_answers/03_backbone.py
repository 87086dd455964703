"""Answers to the exercises of lesson 03 that must be refused, and others that must be accepted, each in the place of
its exercise's cell. The stubs and the solutions are tried without standing here."""


# %% exercise-1 right: the formula with jump and start
def centre(layers, j):
    jump, start = 1, 0.5
    for kernel, stride, padding in layers:
        start += ((kernel - 1) / 2 - padding) * jump
        jump *= stride
    return start + j * jump


# %% exercise-1 right: all cells
def centre(layers, j):
    cells = {j}
    for kernel, stride, padding in reversed(layers):
        cells = {cell * stride - padding + k for cell in cells for k in range(kernel)}
    return np.mean([min(cells), max(cells)]) + 0.5


# %% exercise-1 wrong: zero
def centre(layers, j):
    return 0.0


# %% exercise-1 wrong: without the half pixel
def centre(layers, j):
    first = last = j
    for kernel, stride, padding in reversed(layers):
        first, last = first * stride - padding, last * stride - padding + kernel - 1
    return (first + last) / 2


# %% exercise-1 wrong: from the first layer to the last
def centre(layers, j):
    first = last = j
    for kernel, stride, padding in layers:
        first, last = first * stride - padding, last * stride - padding + kernel - 1
    return (first + last + 1) / 2


# %% exercise-1 wrong: without the padding
def centre(layers, j):
    first = last = j
    for kernel, stride, _ in reversed(layers):
        first, last = first * stride, last * stride + kernel - 1
    return (first + last + 1) / 2


# %% exercise-1 wrong: off by one, kernel for kernel - 1
def centre(layers, j):
    first = last = j
    for kernel, stride, padding in reversed(layers):
        first, last = first * stride - padding, last * stride - padding + kernel
    return (first + last + 1) / 2


# %% exercise-1 wrong: the middle of the cell
def centre(layers, j):
    return (j + 0.5) * np.prod([stride for _, stride, _ in layers])


# %% exercise-1 wrong: the first pixel
def centre(layers, j):
    first = j
    for _, stride, padding in reversed(layers):
        first = first * stride - padding
    return first


# %% exercise-1 wrong: the sign of the padding
def centre(layers, j):
    first = last = j
    for kernel, stride, padding in reversed(layers):
        first, last = first * stride + padding, last * stride + padding + kernel - 1
    return (first + last + 1) / 2


# %% exercise-1 wrong: j times the stride
def centre(layers, j):
    return j * np.prod([stride for _, stride, _ in layers]) + 0.5


# %% exercise-2 right: by the kernel less one
def padding(n, kernel, stride):
    return (kernel - 1) // 2, (kernel - 1) // 2


# %% exercise-2 right: an array
def padding(n, kernel, stride):
    return np.full(2, kernel // 2)


# %% exercise-2 right: as many cells, and the odd zero stands before
def padding(n, kernel, stride):
    zeros = max((-(-n // stride) - 1) * stride + kernel - n, 0)
    return zeros - zeros // 2, zeros // 2


# %% exercise-2 wrong: none
def padding(n, kernel, stride):
    return 0, 0


# %% exercise-2 wrong: the colleague's
def padding(n, kernel, stride):
    zeros = max((-(-n // stride) - 1) * stride + kernel - n, 0)
    return zeros // 2, zeros - zeros // 2


# %% exercise-2 wrong: the colleague's function
def padding(n, kernel, stride):
    return colleague_padding(n, kernel, stride)


# %% exercise-2 wrong: all before
def padding(n, kernel, stride):
    return kernel - 1, 0


# %% exercise-2 wrong: all behind
def padding(n, kernel, stride):
    return 0, kernel - 1


# %% exercise-2 wrong: off by one, half of the kernel rounded up
def padding(n, kernel, stride):
    return (kernel + 1) // 2, (kernel + 1) // 2


# %% exercise-2 wrong: one less before
def padding(n, kernel, stride):
    return max(kernel // 2 - 1, 0), kernel // 2


# %% exercise-2 wrong: half of the stride
def padding(n, kernel, stride):
    return stride // 2, stride // 2


# %% exercise-2 wrong: always 1
def padding(n, kernel, stride):
    return 1, 1


# %% exercise-2 wrong: the whole kernel
def padding(n, kernel, stride):
    return kernel, kernel


# %% exercise-2 wrong: as many on both sides, rounded down from the colleague's sum
def padding(n, kernel, stride):
    zeros = max((-(-n // stride) - 1) * stride + kernel - n, 0)
    return zeros // 2, zeros // 2


# %% exercise-2 wrong: negative
def padding(n, kernel, stride):
    return -(kernel // 2), -(kernel // 2)


# %% exercise-2 wrong: one number
def padding(n, kernel, stride):
    return kernel // 2 - kernel % 2


# %% exercise-3 right: in one expression
def bottleneck(block, x):
    shortcut = block.downsample(x) if block.downsample else x
    inner = ops.relu(block.bn2(block.conv2(ops.relu(block.bn1(block.conv1(x))))))
    return ops.relu(block.bn3(block.conv3(inner)) + shortcut)


# %% exercise-3 right: with conv_norm
def bottleneck(block, x):
    out = resnet.conv_norm(x, block.conv1, block.bn1, relu=True)
    out = resnet.conv_norm(out, block.conv2, block.bn2, relu=True)
    shortcut = x if block.downsample is None else block.downsample(x)
    return resnet.conv_norm(out, block.conv3, block.bn3, shortcut, relu=True)


# %% exercise-3 wrong: the input
def bottleneck(block, x):
    return x


# %% exercise-3 wrong: the block itself
def bottleneck(block, x):
    return block(x)


# %% exercise-3 wrong: no shortcut
def bottleneck(block, x):
    out = ops.relu(block.bn1(block.conv1(x)))
    out = ops.relu(block.bn2(block.conv2(out)))
    return ops.relu(block.bn3(block.conv3(out)))


# %% exercise-3 wrong: a ReLU before the sum
def bottleneck(block, x):
    out = ops.relu(block.bn1(block.conv1(x)))
    out = ops.relu(block.bn2(block.conv2(out)))
    out = ops.relu(block.bn3(block.conv3(out)))
    return ops.relu(out + (x if block.downsample is None else block.downsample(x)))


# %% exercise-3 wrong: no ReLU after the sum
def bottleneck(block, x):
    out = ops.relu(block.bn1(block.conv1(x)))
    out = ops.relu(block.bn2(block.conv2(out)))
    return block.bn3(block.conv3(out)) + (x if block.downsample is None else block.downsample(x))


# %% exercise-3 wrong: the downsampling forgotten
def bottleneck(block, x):
    out = ops.relu(block.bn1(block.conv1(x)))
    out = ops.relu(block.bn2(block.conv2(out)))
    return ops.relu(block.bn3(block.conv3(out)) + x)


# %% exercise-3 wrong: no normalisation
def bottleneck(block, x):
    out = ops.relu(block.conv1(x))
    out = ops.relu(block.conv2(out))
    return ops.relu(block.conv3(out) + (x if block.downsample is None else block.downsample(x)))


# %% exercise-3 wrong: the last normalisation left out
def bottleneck(block, x):
    out = ops.relu(block.bn1(block.conv1(x)))
    out = ops.relu(block.bn2(block.conv2(out)))
    return ops.relu(block.conv3(out) + (x if block.downsample is None else block.downsample(x)))


# %% exercise-3 wrong: no ReLU inside
def bottleneck(block, x):
    out = block.bn3(block.conv3(block.bn2(block.conv2(block.bn1(block.conv1(x))))))
    return ops.relu(out + (x if block.downsample is None else block.downsample(x)))


# %% exercise-3 wrong: the sign
def bottleneck(block, x):
    out = ops.relu(block.bn1(block.conv1(x)))
    out = ops.relu(block.bn2(block.conv2(out)))
    return ops.relu((x if block.downsample is None else block.downsample(x)) - block.bn3(block.conv3(out)))


# %% exercise-4 right: a list of numbers
answer = [70400, 1180672]

# %% exercise-4 right: an array, by a loop
answer = np.zeros(2)
for i, convolutions in enumerate((((256, 64, 1), (64, 64, 3), (64, 256, 1)), ((256, 256, 3), (256, 256, 3)))):
    for inputs, outputs, kernel in convolutions:
        answer[i] += inputs * outputs * kernel**2 + 2 * outputs

# %% exercise-4 wrong: exchanged
answer = (1180672, 70400)

# %% exercise-4 wrong: without the normalisations
answer = (256 * 64 + 9 * 64 * 64 + 64 * 256, 2 * 9 * 256 * 256)

# %% exercise-4 wrong: one number for each channel of a normalisation
answer = (256 * 64 + 9 * 64 * 64 + 64 * 256 + 64 + 64 + 256, 2 * 9 * 256 * 256 + 2 * 256)

# %% exercise-4 wrong: with a bias in every convolution
answer = (69632 + 3 * 384, 1179648 + 3 * 512)

# %% exercise-4 wrong: one convolution of the basic block
answer = (70400, 9 * 256 * 256 + 2 * 256)

# %% exercise-4 wrong: the kernel's side for its area
answer = (256 * 64 + 3 * 64 * 64 + 64 * 256 + 768, 2 * 3 * 256 * 256 + 1024)

# %% exercise-4 wrong: off by one
answer = (70401, 1180672)

# %% exercise-4 wrong: the ratio
answer = 1180672 / 70400
