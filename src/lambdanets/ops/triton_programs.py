"""The GPU programs of `triton_kernel.py`, in Triton.

A *tile* is QUERIES neighboring queries in a row of the map. The rows of its products are pairs (n, k) of a query and an
entry of the keys, ROWS = QUERIES · KEYS; the columns are pairs (b, v) of an image and an entry of the values, COLUMNS =
IMAGES · DEPTH. KEYS and DEPTH are k and v, or a block of v, rounded up to powers of two. A *window* has the embeddings
of the offsets from each query of a tile to one position of the context: one row (n, k). Maps are contiguous.
"""

import triton
import triton.language as tl


@triton.jit
def expand_table(
    table_ptr,
    windows_ptr,
    size,
    K: tl.constexpr,
    U: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Table (k, u, R, C) → windows (R, u, C + QUERIES − 1, QUERIES, KEYS), zero where an offset is out of scope."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    key = index % KEYS
    query = index // KEYS % QUERIES
    window = index // (KEYS * QUERIES)
    column = window % (C + QUERIES - 1) - query
    intra = window // (C + QUERIES - 1) % U
    row = window // ((C + QUERIES - 1) * U)
    inside = (index < size) & (column >= 0) & (column < C) & (key < K)
    embedding = tl.load(table_ptr + ((key * U + intra) * R + row) * C + column, mask=inside, other=0.0)
    tl.store(windows_ptr + index, embedding, mask=index < size)


@triton.jit
def find_columns(block, batch, V: tl.constexpr, IMAGES: tl.constexpr, DEPTH: tl.constexpr):
    """Return image, entry of v, and whether both exist, of the columns (b, v) of a block."""
    column = tl.arange(0, IMAGES * DEPTH)
    depth_blocks: tl.constexpr = (V + DEPTH - 1) // DEPTH
    image = block // depth_blocks * IMAGES + column // DEPTH
    depth = block % depth_blocks * DEPTH + column % DEPTH
    return image.to(tl.int64), depth, (image < batch) & (depth < V)


@triton.jit
def sum_lambdas(
    values_ptr,
    windows_ptr,
    content_ptr,
    y,
    x,
    block,
    batch,
    context_height,
    context_width,
    K: tl.constexpr,
    U: tl.constexpr,
    V: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    IMAGES: tl.constexpr,
    DEPTH: tl.constexpr,
    STEP_ROWS: tl.constexpr,
    STEP_COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
    TURNED: tl.constexpr,
):
    """Return the lambdas λ_n of the tile at (y, x): (QUERIES, KEYS, COLUMNS).

    A step of the sum covers STEP_ROWS × STEP_COLUMNS positions of the context, whose u values count as rows. TURNED
    sums up the transposed product: a thread then holds more of a query's keys and fewer of its values, so that a sum
    over the keys needs fewer exchanges between threads.
    """
    image, depth, column_inside = find_columns(block, batch, V, IMAGES, DEPTH)
    row = tl.arange(0, QUERIES * KEYS)
    index = tl.arange(0, STEP_ROWS * STEP_COLUMNS)
    first_row = tl.maximum(y - R // 2, 0)
    first_column = tl.maximum(x - C // 2, 0)
    rows = tl.maximum(tl.minimum(y + R // 2 + 1, context_height) - first_row, 0) * U
    columns = tl.maximum(tl.minimum(x + QUERIES + C // 2, context_width) - first_column, 0)
    steps_per_row = tl.cdiv(columns, STEP_COLUMNS)
    if TURNED:
        lambdas = tl.zeros((IMAGES * DEPTH, QUERIES * KEYS), dtype=tl.float32)
    else:
        lambdas = tl.zeros((QUERIES * KEYS, IMAGES * DEPTH), dtype=tl.float32)
    image_ptr = values_ptr + image * context_height * context_width * (U * V) + depth
    for step in range(tl.cdiv(rows, STEP_ROWS) * steps_per_row):
        step_row = step // steps_per_row
        intra_row = step_row * STEP_ROWS + index // STEP_COLUMNS
        column = (step - step_row * steps_per_row) * STEP_COLUMNS + index % STEP_COLUMNS
        inside = (intra_row < rows) & (column < columns)
        context_row = first_row + intra_row // U
        context_column = first_column + column
        window = context_row - y + R // 2
        window = (window * U + intra_row % U) * (C + QUERIES - 1) + context_column - x + C // 2
        embeddings = tl.load(
            windows_ptr + window[:, None] * (QUERIES * KEYS) + row[None, :], mask=inside[:, None], other=0.0
        )
        position = ((context_row * context_width + context_column) * U + intra_row % U) * V
        values = tl.load(
            image_ptr[None, :] + position[:, None], mask=inside[:, None] & column_inside[None, :], other=0.0
        )
        if TURNED:
            lambdas = tl.dot(tl.trans(values), embeddings, lambdas, input_precision=PRECISION)
        else:
            lambdas = tl.dot(tl.trans(embeddings), values, lambdas, input_precision=PRECISION)
    if TURNED:
        lambdas = tl.trans(lambdas)
    key = tl.arange(0, KEYS)
    content = tl.load(
        content_ptr + (image[None, :] * K + key[:, None]) * V + depth[None, :],
        mask=(key < K)[:, None] & column_inside[None, :],
        other=0.0,
    )
    return tl.reshape(lambdas, (QUERIES, KEYS, IMAGES * DEPTH)) + content.to(tl.float32)[None, :, :]


@triton.jit
def load_queries(
    query_ptr,
    head,
    y,
    x,
    block,
    batch,
    height,
    width,
    HEADS: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    IMAGES: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Return the queries of a head, repeated over v: (QUERIES, KEYS, COLUMNS)."""
    row = tl.arange(0, QUERIES * KEYS)
    column = x + row // KEYS
    key = row % KEYS
    image = (block // ((V + DEPTH - 1) // DEPTH) * IMAGES + tl.arange(0, IMAGES)).to(tl.int64)
    query = tl.load(
        query_ptr
        + (image * height * width * (HEADS * K))[None, :]
        + (((y * width + column) * HEADS + head) * K + key)[:, None],
        mask=(image < batch)[None, :] & ((column < width) & (key < K))[:, None],
        other=0.0,
    )
    query = tl.broadcast_to(query.to(tl.float32)[:, :, None], (QUERIES * KEYS, IMAGES, DEPTH))
    return tl.reshape(query, (QUERIES, KEYS, IMAGES * DEPTH))


@triton.jit
def locate_outputs(
    head,
    y,
    x,
    block,
    batch,
    height,
    width,
    HEADS: tl.constexpr,
    V: tl.constexpr,
    QUERIES: tl.constexpr,
    IMAGES: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Return the offsets of a tile's (QUERIES, COLUMNS) outputs in (B, H, W, h, v), and whether they exist."""
    image, depth, column_inside = find_columns(block, batch, V, IMAGES, DEPTH)
    column = x + tl.arange(0, QUERIES)
    offset = (image * height * width * (HEADS * V) + depth)[None, :] + (((y * width + column) * HEADS + head) * V)[
        :, None
    ]
    return offset, (column < width)[:, None] & column_inside[None, :]


@triton.jit
def apply_lambdas(
    query_ptr,
    values_ptr,
    windows_ptr,
    content_ptr,
    out_ptr,
    batch,
    height,
    width,
    context_height,
    context_width,
    HEADS: tl.constexpr,
    K: tl.constexpr,
    U: tl.constexpr,
    V: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    IMAGES: tl.constexpr,
    DEPTH: tl.constexpr,
    STEP_ROWS: tl.constexpr,
    STEP_COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write y_n^h = λ_nᵀ q_n^h of a tile: (B, H, W, h, v)."""
    tiles = tl.cdiv(width, QUERIES)
    y = tl.program_id(0) // tiles
    x = tl.program_id(0) % tiles * QUERIES
    block = tl.program_id(1)
    lambdas = sum_lambdas(
        values_ptr, windows_ptr, content_ptr, y, x, block, batch, context_height, context_width,
        K, U, V, R, C, QUERIES, KEYS, IMAGES, DEPTH, STEP_ROWS, STEP_COLUMNS, PRECISION, True,
    )  # fmt: skip
    for head in range(HEADS):
        query = load_queries(
            query_ptr, head, y, x, block, batch, height, width, HEADS, K, V, QUERIES, KEYS, IMAGES, DEPTH
        )
        out = tl.sum(lambdas * query, 1)
        offset, inside = locate_outputs(head, y, x, block, batch, height, width, HEADS, V, QUERIES, IMAGES, DEPTH)
        tl.store(out_ptr + offset, out.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def differentiate_queries(
    grad_ptr,
    values_ptr,
    windows_ptr,
    content_ptr,
    d_query_ptr,
    batch,
    height,
    width,
    context_height,
    context_width,
    HEADS: tl.constexpr,
    K: tl.constexpr,
    U: tl.constexpr,
    V: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    IMAGES: tl.constexpr,
    DEPTH: tl.constexpr,
    STEP_ROWS: tl.constexpr,
    STEP_COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write λ_n dy_n^h of a tile, for each block of v: (blocks of v, B, H, W, h, k)."""
    tiles = tl.cdiv(width, QUERIES)
    y = tl.program_id(0) // tiles
    x = tl.program_id(0) % tiles * QUERIES
    block = tl.program_id(1)
    depth_blocks: tl.constexpr = (V + DEPTH - 1) // DEPTH
    lambdas = sum_lambdas(
        values_ptr, windows_ptr, content_ptr, y, x, block, batch, context_height, context_width,
        K, U, V, R, C, QUERIES, KEYS, IMAGES, DEPTH, STEP_ROWS, STEP_COLUMNS, PRECISION, False,
    )  # fmt: skip
    image = (block // depth_blocks * IMAGES + tl.arange(0, IMAGES)).to(tl.int64)
    row = tl.arange(0, QUERIES * KEYS)
    column = x + row // KEYS
    key = row % KEYS
    inside_query = (image < batch)[None, :] & ((column < width) & (key < K))[:, None]
    image += block % depth_blocks * batch
    for head in range(HEADS):
        offset, inside = locate_outputs(head, y, x, block, batch, height, width, HEADS, V, QUERIES, IMAGES, DEPTH)
        grad = tl.load(grad_ptr + offset, mask=inside, other=0.0).to(tl.float32)
        product = tl.reshape(lambdas * grad[:, None, :], (QUERIES * KEYS, IMAGES, DEPTH))
        d_query = tl.sum(product, 2)
        offset = (image * height * width * (HEADS * K))[None, :] + (((y * width + column) * HEADS + head) * K + key)[
            :, None
        ]
        tl.store(d_query_ptr + offset, d_query.to(d_query_ptr.dtype.element_ty), mask=inside_query)


@triton.jit
def differentiate_lambdas(
    query_ptr,
    grad_ptr,
    d_lambdas_ptr,
    batch,
    height,
    width,
    HEADS: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    IMAGES: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Write dλ_n = Σ_h q_n^h dy_n^hᵀ of a tile: (tiles, ROWS, blocks of columns · COLUMNS)."""
    tiles = tl.cdiv(width, QUERIES)
    y = tl.program_id(0) // tiles
    x = tl.program_id(0) % tiles * QUERIES
    block = tl.program_id(1)
    total = tl.zeros((QUERIES, KEYS, IMAGES * DEPTH), dtype=tl.float32)
    for head in range(HEADS):
        query = load_queries(
            query_ptr, head, y, x, block, batch, height, width, HEADS, K, V, QUERIES, KEYS, IMAGES, DEPTH
        )
        offset, inside = locate_outputs(head, y, x, block, batch, height, width, HEADS, V, QUERIES, IMAGES, DEPTH)
        grad = tl.load(grad_ptr + offset, mask=inside, other=0.0).to(tl.float32)
        total += query * grad[:, None, :]
    total = tl.reshape(total, (QUERIES * KEYS, IMAGES * DEPTH))
    row = tl.program_id(0).to(tl.int64) * (QUERIES * KEYS) + tl.arange(0, QUERIES * KEYS)
    column = block * (IMAGES * DEPTH) + tl.arange(0, IMAGES * DEPTH)
    offset = row[:, None] * (tl.num_programs(1) * (IMAGES * DEPTH)) + column[None, :]
    tl.store(d_lambdas_ptr + offset, total.to(d_lambdas_ptr.dtype.element_ty))


@triton.jit
def differentiate_values(
    d_lambdas_ptr,
    windows_ptr,
    d_values_ptr,
    batch,
    height,
    width,
    context_height,
    context_width,
    blocks,
    U: tl.constexpr,
    V: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    IMAGES: tl.constexpr,
    DEPTH: tl.constexpr,
    PATCH_ROWS: tl.constexpr,
    PATCH_COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write dv_m = Σ_n E_nmᵀ dλ_n of a patch of positions: (B, H', W', u, v).

    A step of the sum covers STEP rows (n, k) of a tile.
    """
    patches = tl.cdiv(context_width, PATCH_COLUMNS)
    patch = tl.program_id(0) // U
    intra = tl.program_id(0) % U
    block = tl.program_id(1)
    image, depth, column_inside = find_columns(block, batch, V, IMAGES, DEPTH)
    index = tl.arange(0, PATCH_ROWS * PATCH_COLUMNS)
    first_row = patch // patches * PATCH_ROWS
    first_column = patch % patches * PATCH_COLUMNS
    context_row = first_row + index // PATCH_COLUMNS
    context_column = first_column + index % PATCH_COLUMNS
    inside = (context_row < context_height) & (context_column < context_width)
    first_y = tl.maximum(first_row - R // 2, 0)
    end_y = tl.minimum(first_row + PATCH_ROWS + R // 2, height)
    first_tile = tl.maximum(first_column - C // 2, 0) // QUERIES
    end_tile = tl.cdiv(tl.minimum(first_column + PATCH_COLUMNS + C // 2, width), QUERIES)
    steps_per_tile: tl.constexpr = QUERIES * KEYS // STEP
    steps_per_row = tl.maximum(end_tile - first_tile, 0) * steps_per_tile
    tiles = tl.cdiv(width, QUERIES)
    column = block * (IMAGES * DEPTH) + tl.arange(0, IMAGES * DEPTH)
    total = tl.zeros((PATCH_ROWS * PATCH_COLUMNS, IMAGES * DEPTH), dtype=tl.float32)
    for step in range(tl.maximum(end_y - first_y, 0) * steps_per_row):
        y = first_y + step // steps_per_row
        tile = first_tile + step % steps_per_row // steps_per_tile
        row = step % steps_per_tile * STEP + tl.arange(0, STEP)
        window_row = context_row - y + R // 2
        window_column = context_column - tile * QUERIES + C // 2
        visible = inside & (window_row >= 0) & (window_row < R)
        visible = visible & (window_column >= 0) & (window_column < C + QUERIES - 1)
        window = (window_row * U + intra) * (C + QUERIES - 1) + window_column
        embeddings = tl.load(
            windows_ptr + window[:, None] * (QUERIES * KEYS) + row[None, :], mask=visible[:, None], other=0.0
        )
        tile_row = (y * tiles + tile).to(tl.int64) * (QUERIES * KEYS) + row
        d_lambdas = tl.load(d_lambdas_ptr + tile_row[:, None] * (blocks * (IMAGES * DEPTH)) + column[None, :])
        total = tl.dot(embeddings, d_lambdas, total, input_precision=PRECISION)
    offset = ((context_row * context_width + context_column) * U + intra) * V
    offset = (image * context_height * context_width * (U * V) + depth)[None, :] + offset[:, None]
    tl.store(
        d_values_ptr + offset, total.to(d_values_ptr.dtype.element_ty), mask=inside[:, None] & column_inside[None, :]
    )


@triton.jit
def differentiate_windows(
    d_lambdas_ptr,
    values_ptr,
    d_windows_ptr,
    batch,
    height,
    width,
    context_height,
    context_width,
    blocks,
    U: tl.constexpr,
    V: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    IMAGES: tl.constexpr,
    DEPTH: tl.constexpr,
    PATCH_ROWS: tl.constexpr,
    PATCH_COLUMNS: tl.constexpr,
    STEP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write the gradient of a patch of windows, summed over a part of the tiles: (parts, R, u, C + QUERIES − 1, ROWS).

    A step of the sum covers STEP columns (b, v) of a tile.
    """
    patches = tl.cdiv(C + QUERIES - 1, PATCH_COLUMNS)
    index = tl.arange(0, PATCH_ROWS * PATCH_COLUMNS)
    first_row = tl.program_id(0) // patches * PATCH_ROWS
    first_column = tl.program_id(0) % patches * PATCH_COLUMNS
    intra_row = first_row + index // PATCH_COLUMNS
    window_column = first_column + index % PATCH_COLUMNS
    window_row = intra_row // U
    intra = intra_row % U
    inside = (intra_row < R * U) & (window_column < C + QUERIES - 1)
    # The tiles that see some position of the context through one of these windows.
    first_y = tl.maximum(R // 2 - (first_row + PATCH_ROWS - 1) // U, 0)
    end_y = tl.minimum(context_height + R // 2 - first_row // U, height)
    first_tile = tl.cdiv(tl.maximum(C // 2 - (first_column + PATCH_COLUMNS - 1), 0), QUERIES)
    end_tile = tl.cdiv(tl.minimum(tl.maximum(context_width + C // 2 - first_column, 0), width), QUERIES)
    steps_per_tile = blocks * (IMAGES * DEPTH // STEP)
    steps_per_row = tl.maximum(end_tile - first_tile, 0) * steps_per_tile
    steps = tl.maximum(end_y - first_y, 0) * steps_per_row
    part = tl.program_id(1)
    steps_per_part = tl.cdiv(steps, tl.num_programs(1))
    first_step = part * steps_per_part
    tiles = tl.cdiv(width, QUERIES)
    row = tl.arange(0, QUERIES * KEYS)
    depth_blocks: tl.constexpr = (V + DEPTH - 1) // DEPTH
    total = tl.zeros((PATCH_ROWS * PATCH_COLUMNS, QUERIES * KEYS), dtype=tl.float32)
    for step in range(first_step, tl.minimum(first_step + steps_per_part, steps)):
        y = first_y + step // steps_per_row
        tile_step = step % steps_per_row
        tile = first_tile + tile_step // steps_per_tile
        column = tile_step % steps_per_tile * STEP + tl.arange(0, STEP)
        block = column // (IMAGES * DEPTH)
        image = block // depth_blocks * IMAGES + column % (IMAGES * DEPTH) // DEPTH
        depth = block % depth_blocks * DEPTH + column % DEPTH
        context_row = y + window_row - R // 2
        context_column = tile * QUERIES + window_column - C // 2
        visible = inside & (context_row >= 0) & (context_row < context_height)
        visible = visible & (context_column >= 0) & (context_column < context_width)
        position = ((context_row * context_width + context_column) * U + intra) * V
        values = tl.load(
            values_ptr
            + position[:, None]
            + (image.to(tl.int64) * context_height * context_width * (U * V) + depth)[None, :],
            mask=visible[:, None] & ((image < batch) & (depth < V))[None, :],
            other=0.0,
        )
        tile_row = (y * tiles + tile).to(tl.int64) * (QUERIES * KEYS) + row
        d_lambdas = tl.load(d_lambdas_ptr + tile_row[:, None] * (blocks * (IMAGES * DEPTH)) + column[None, :])
        total = tl.dot(values, tl.trans(d_lambdas), total, input_precision=PRECISION)
    offset = ((part * (R * U) + intra_row) * (C + QUERIES - 1) + window_column)[:, None] * (QUERIES * KEYS) + row[
        None, :
    ]
    tl.store(d_windows_ptr + offset, total, mask=inside[:, None])
