"""Where everything lies in a snapshot: a folder with a manifest that names, sizes and hashes every other file.

model/              weights, sizes and tokenizer: a snapshot answers prompts by itself
corpus/tokens.npy   [T] uint16, the whole corpus, also what lies outside the indexed split
substrings/first_positions.npy   [N] int64
keys/block-K.npy    [N, D] float16, one file a block
counts/offsets.npy, tokens.npy, counts.npy   next-token counts in compressed rows
counts/counts.lmdb  records by the tokens of a substring
tiles/block-K/      what the `tiles` backend knows of the keys; a part, which a snapshot may lack
self-sums/          what every substring finds, at some thresholds; a part, too
faiss-flat/block-K.faiss   faiss' index of the keys, in its own format; a part, too
faiss-ivf/block-K.faiss, block-K.json   faiss' lists of the keys, and how many neighbors they find; a part, too
manifest.json       written last, before the folder gets its final name
"""

from collections.abc import Callable, Collection

from ffnsearch_indexer.index.tiles import Tiles
from ffnsearch_indexer.models.transformer import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE

MANIFEST_FILE = "manifest.json"
MODEL_FOLDER, KEYS_FOLDER, TILES_FOLDER, SELF_SUMS_FOLDER = "model", "keys", "tiles", "self-sums"
FAISS_FLAT_FOLDER, FAISS_IVF_FOLDER = "faiss-flat", "faiss-ivf"
CORPUS_FILE = "corpus/tokens.npy"
FIRST_POSITIONS_FILE = "substrings/first_positions.npy"
OFFSETS_FILE, TOKENS_FILE, COUNTS_FILE = "counts/offsets.npy", "counts/tokens.npy", "counts/counts.npy"
RECORDS_FILE = "counts/counts.lmdb"
SELF_SUMS_THRESHOLDS_FILE = f"{SELF_SUMS_FOLDER}/thresholds.json"


def keys_file(block: int) -> str:
    """Where the keys of a block are, relative to the snapshot."""
    return f"{KEYS_FOLDER}/block-{block}.npy"


def tiles_files(block: int) -> dict[str, str]:
    """Where the arrays of a block's tiles are, by name, relative to the snapshot."""
    return {name: f"{TILES_FOLDER}/block-{block}/{name}.npy" for name in Tiles._fields}


def self_sums_files(block: int) -> dict[str, str]:
    """Where the arrays of a block's self-sums are, by name, relative to the snapshot."""
    names = ("offsets", "tokens", "sums", "neighbors")
    return {name: f"{SELF_SUMS_FOLDER}/block-{block}/{name}.npy" for name in names}


def faiss_file(part: str, block: int) -> str:
    """Where faiss' index of a block is, relative to the snapshot."""
    return f"{part}/block-{block}.faiss"


def recall_file(block: int) -> str:
    """Where the measured recall of a block's lists is, relative to the snapshot."""
    return f"{FAISS_IVF_FOLDER}/block-{block}.json"


PARTS: dict[str, Callable[[int], list[str]]] = {
    TILES_FOLDER: lambda blocks: [name for block in range(blocks) for name in tiles_files(block).values()],
    SELF_SUMS_FOLDER: lambda blocks: [
        SELF_SUMS_THRESHOLDS_FILE,
        *(name for block in range(blocks) for name in self_sums_files(block).values()),
    ],
    FAISS_FLAT_FOLDER: lambda blocks: [faiss_file(FAISS_FLAT_FOLDER, block) for block in range(blocks)],
    FAISS_IVF_FOLDER: lambda blocks: [
        name for block in range(blocks) for name in (faiss_file(FAISS_IVF_FOLDER, block), recall_file(block))
    ],
}
"""What a snapshot has or lacks as a whole: the name of a folder, and the files in it for a number of blocks."""


def file_names(blocks: int, parts: Collection[str]) -> list[str]:
    """All files of a snapshot with some of PARTS but the manifest, relative to it."""
    model = [f"{MODEL_FOLDER}/{name}" for name in (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE)]
    arrays = [CORPUS_FILE, FIRST_POSITIONS_FILE, OFFSETS_FILE, TOKENS_FILE, COUNTS_FILE, RECORDS_FILE]
    keys = [keys_file(block) for block in range(blocks)]
    return sorted([*model, *arrays, *keys, *(name for part in parts for name in PARTS[part](blocks))])
