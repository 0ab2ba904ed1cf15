"""One file for each family: `spec(file)` reads its metadata into what the decoder is told. See docs/families.md."""
