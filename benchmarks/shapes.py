"""Shapes of problems: the variables of four kinds of model, and of what handing them over costs."""


def resnet50():
    """161 variables, 25.6 million parameters: many small vectors, some large kernels."""
    shapes = [(7, 7, 3, 64), (64,), (64,)]
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            layers = [(1, 1, channels, width), (3, 3, width, width), (1, 1, width, 4 * width)]
            if block == 0:
                layers.append((1, 1, channels, 4 * width))
            for layer in layers:
                shapes += [layer, layer[-1:], layer[-1:]]
            channels = 4 * width
    return [*shapes, (2048, 1000), (1000,)]


def vit():
    """150 variables, 30 million parameters: a transformer of 12 blocks."""
    width = 448
    block = [(width,)] * 2 + [(width, 3 * width), (3 * width,), (width, width), (width,)]
    block += [(width,)] * 2 + [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return [
        (16 * 16 * 3, width),
        (width,),
        (197, width),
        *block * 12,
        (width,),
        (width,),
        (width, 1000),
    ]


SHAPES = {
    "resnet50": resnet50(),
    "vit": vit(),
    "big4": [(2048, 4096)] * 4,
    "mlp": [(64, 256), (256,), (256, 128), (128,), (128, 10), (10,)],
    "small161": [(64,)] * 161,
}
