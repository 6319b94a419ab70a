"""Power-pull validator: says whether a disk, card or file system lies about fsync."""
